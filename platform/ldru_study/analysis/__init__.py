"""Failure curves, verdicts and reports: pure functions over counts, usable from a notebook.

curves    one shape and its likelihood: `fits` for each seed, `joint` for all seeds of a cell
judge     the verdict on a seed; `consensus` on all seeds at once; `cell` brings them together
claims    near-perfect at 2x and 3x; `bracket` what the counts say without any curve
series    failure length against a field of the spec; `scaling` and `power_law` fit it
compare   two models, paired by task and seed
cases     counts from anywhere
"""
