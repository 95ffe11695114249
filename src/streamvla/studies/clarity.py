"""How clear an instruction must be: the threshold of the shipped policies, and its figures.

    python -m streamvla.studies.clarity            figures, and the entry "clarity" of defaults.json

Clear are the held-out and independent phrasings of every task, as they stand and with typing
errors; phrasings that differ in a colour or side only are one group. Unclear are sentences that ask
for nothing a robot could do (`unclear_instructions.json`, in two halves: the first was at hand when
the measure was chosen). The threshold is that of `training.anticipation.conformal`, a share of each
group's scores at or below it being missed.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from streamvla.model.clarity import Clarity
from streamvla.robots.metaworld.tasks import TASKS
from streamvla.robots.registry import suite_tasks, training_instructions
from streamvla.robots.tabletop.robot import FAMILIES
from streamvla.robots.typing_errors import misspelt
from streamvla.training.anticipation.conformal import risk_controlled_threshold

MISS_RATE = 0.02
MISSPELT = 4
"""Times that each phrasing is misspelt, beside once as it stands."""
SPLITS = 100

Group = tuple[str, ...]


@dataclass(frozen=True)
class Sentences:
    """Instructions that are clear or unclear for sure.

    Attributes:
        heldout, independent: clear ones, in groups that differ in a colour or side.
        unclear: sets of sentences by name.
    """

    heldout: tuple[Group, ...]
    independent: tuple[Group, ...]
    unclear: dict[str, list[str]]


def sentences() -> Sentences:
    """Those of the suites, and of `unclear_instructions.json`."""
    heldout = [(text,) for task in TASKS.values() for text in task.phrasings.heldout]
    independent: list[Group] = []
    for family in FAMILIES.values():
        said = family.phrasings.values()
        heldout += zip(*(each.heldout for each in said), strict=True)
        independent += zip(*(each.independent for each in said), strict=True)
    path = Path(__file__).with_name("unclear_instructions.json")
    unclear = json.loads(path.read_text(encoding="utf-8"))
    return Sentences(tuple(heldout), tuple(independent), unclear)


def calibrated(clarity: Clarity, groups: Sequence[Group], stream: np.random.Generator) -> Clarity:
    """With the threshold at which at most its miss rate of clear instructions count as unclear."""
    scores = [_scores(clarity, group, stream, MISSPELT) for group in groups]
    return replace(clarity, threshold=risk_controlled_threshold(scores, clarity.miss_rate))


def _scores(
    clarity: Clarity, group: Group, stream: np.random.Generator, times: int, whole: bool = True
) -> np.ndarray:
    said = [text for text in group for _ in range(times)]
    said = [misspelt(text, stream) for text in said]
    return np.array([clarity.of(text) for text in (*(group if whole else ()), *said)])


def share_unclear(clarity: Clarity, groups: Sequence[Group], misspelt_by: int | None) -> float:
    """The mean share of a group that counts as unclear; misspelt with this seed, if any."""
    if misspelt_by is None:
        scores = [np.array([clarity.of(text) for text in group]) for group in groups]
    else:
        stream = np.random.default_rng(misspelt_by)
        scores = [_scores(clarity, group, stream, 2, whole=False) for group in groups]
    return float(np.mean([(each <= clarity.threshold).mean() for each in scores]))


def main() -> None:
    tasks = suite_tasks("all")
    trained = sorted({text for task in tasks for text in training_instructions(task)})
    found = sentences()
    groups = [*found.heldout, *found.independent]
    blank = Clarity(tuple(trained), 0.0, MISS_RATE)
    clarity = calibrated(blank, groups, np.random.default_rng(0))
    print(f"{len(groups)} groups, threshold {clarity.threshold:.4f}")
    clear = {
        "training": [(text,) for text in trained],
        "held-out": found.heldout,
        "independent": found.independent,
    }
    for name, each in clear.items():
        plain, wrong = share_unclear(clarity, each, None), share_unclear(clarity, each, 1)
        print(f"{name}: unclear {plain:.2%}, with typing errors {wrong:.2%}")
    for name, texts in found.unclear.items():
        share = share_unclear(clarity, [(text,) for text in texts], None)
        print(f"{name} ({len(texts)}): unclear {share:.1%}")
    missed: list[float] = []
    for seed in range(SPLITS):
        order = random.Random(seed).sample(groups, len(groups))
        half = len(order) // 2
        one = calibrated(blank, order[:half], np.random.default_rng(seed))
        missed.append(share_unclear(one, order[half:], seed + 1000))
    print(f"on the half not calibrated on, misspelt: {np.mean(missed):.2%} ({SPLITS} splits)")
    print(json.dumps({"clarity": clarity.to_json()}))


if __name__ == "__main__":
    main()
