"""Tasks: regular languages as automata, sampled exactly; numpy only."""
