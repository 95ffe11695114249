"""Which episode seeds are for what: demonstrations and evaluation never share one."""

FIRST_EVALUATION_SEED = 1_000_000
"""Evaluation uses seeds from here on; demonstrations stay below."""
