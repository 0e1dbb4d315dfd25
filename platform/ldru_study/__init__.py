"""Studies of length generalisation: one YAML file in, failure curves and verdicts out."""

__version__ = "0.1.0"
