"""Failure curves, verdicts and reports: pure functions over counts, usable from a notebook."""
