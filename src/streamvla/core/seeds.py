"""Which episode seeds are for what.

0 … 999 999           demonstrations
1 000 000 and above   evaluation; of these, `tuning_seeds()` have been looked at while something
                      was chosen, and a table that claims a result must use others
"""

FIRST_EVALUATION_SEED = 1_000_000
"""Evaluation uses seeds from here on; demonstrations stay below."""

FIRST_REPORT_SEED = 5_000_000
"""The tables of the documents use 50 (reaction times 200) seeds from here on. Nothing was chosen by
what happened on them; once something is, they belong into `_LOOKED_AT`, and this moves on."""

FIRST_TUNING_SEED = 6_000_000
"""Settings are chosen on seeds from here on."""

FIRST_LEADERBOARD_SEED = 8_000_000
"""Entries of the leaderboard are driven on 50 seeds from here on; nothing may be chosen on them."""

_LOOKED_AT = (
    range(FIRST_EVALUATION_SEED, FIRST_EVALUATION_SEED + 200),  # every evaluation up to 2026-11-22
    range(2_000_000, 2_000_024),  # `run`, the demo's among them
    range(FIRST_TUNING_SEED, FIRST_TUNING_SEED + 20),  # noise scale, Euler steps, loops
    range(7_300_000, 7_300_012),  # the review that found the sampling noise
    range(7_400_000, 7_400_010),
)


def tuning_seeds() -> tuple[int, ...]:
    """Every evaluation seed that was looked at while policies or settings were chosen."""
    return tuple(seed for looked_at in _LOOKED_AT for seed in looked_at)
