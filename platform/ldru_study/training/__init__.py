"""Training and evaluation of one trial; runs without ray."""
