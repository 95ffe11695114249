"""What the pages about a sweep are drawn from: cells, each some episodes under one condition.

    cell = task × policy × executor × accelerators      (what drives: the first line of a legend)
         × profile × scale × stress                     (under which condition)

A sweep compares ways of driving (policy, executor, accelerators) on the same seeds under the same
conditions, so that any two of them can be compared episode by episode.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from streamvla.core.numbers import exact
from streamvla.evaluation.stats import bootstrap_paired, compare_paired, wilson_interval

_RESAMPLES = 2000
NO_DELAY = "delay-0ms"
"""The profile without latency (`runtime.timing.latency.named_profile`)."""


@dataclass(frozen=True)
class Estimate:
    """A figure with its 95 % interval, as far as there is one."""

    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Outcome:
    """One episode. Attributes: whether it was solved, its score 0 to 10; None where not judged."""

    solved: bool | None = None
    score: float | None = None


@dataclass(frozen=True)
class Cell:
    """The episodes of one way of driving one task under one condition.

    Attributes:
        scale: factor of the profile's stage times.
        stress: of the world or the sensors, "light"; empty where there is none.
        figures: key of a `Figure` → what was measured; missing where nothing was.
        outcomes: seed → how that episode ended.
    """

    task: str
    policy: str
    executor: str
    profile: str
    scale: float = 1.0
    accelerators: int = 1
    stress: str = ""
    episodes: int = 0
    figures: Mapping[str, Estimate] = field(default_factory=dict[str, Estimate])
    outcomes: Mapping[int, Outcome] = field(default_factory=dict[int, Outcome])


@dataclass(frozen=True)
class Figure:
    """How a figure is shown.

    Attributes:
        key: of `Cell.figures`.
        title: a few words; `unit` behind numbers, `meaning` one sentence.
        digits: decimals.
        factor: a number is shown times this.
        top: where its axis ends; None: as far as it is needed.
        more_is_better: whether a higher one is.
    """

    key: str
    title: str
    unit: str
    meaning: str
    digits: int = 1
    factor: float = 1.0
    top: float | None = None
    more_is_better: bool = False

    def of(self, outcome: Outcome) -> float | None:
        """What one episode reached; None for a figure that episodes do not have."""
        solved = None if outcome.solved is None else float(outcome.solved)
        return {SUCCESS.key: solved, SCORE.key: outcome.score}.get(self.key)

    def number(self, value: float | None) -> str:
        """Without its unit."""
        return "–" if value is None else f"{self.factor * value:z.{self.digits}f}"

    def signed(self, value: float) -> str:
        """ "+1.2", without its unit."""
        return f"{self.factor * value:+z.{self.digits}f}"

    def shown(self, estimate: Estimate | None) -> str:
        """With its unit."""
        return "–" if estimate is None else f"{self.number(estimate.value)} {self.unit}".strip()

    def interval(self, estimate: Estimate | None) -> str:
        """ "3.1–4.2", or nothing."""
        if estimate is None or estimate.low is None or estimate.high is None:
            return ""
        return f"{self.number(estimate.low)}–{self.number(estimate.high)}"


SCORE = Figure(
    "score",
    "Score",
    "of 10",
    "Points of the task, 0 to 10, mean over episodes; with a bootstrap interval.",
    top=10.0,
    more_is_better=True,
)
SUCCESS = Figure(
    "success",
    "Success",
    "%",
    "Episodes that reached the task, with the 95 % Wilson interval.",
    digits=0,
    factor=100.0,
    top=1.0,
    more_is_better=True,
)
OTHERS = (
    Figure(
        "halt_ms_per_observation",
        "Halting",
        "ms",
        "Time that the robot waited, per observation cycle.",
        digits=0,
    ),
    Figure(
        "deadline_misses",
        "Deadline misses",
        "",
        "Control instants whose action was not ready, per episode.",
    ),
    Figure(
        "reaction_ms",
        "Reaction",
        "ms",
        "From an event of the world to the first action made from an observation after it, median.",
        digits=0,
    ),
    Figure(
        "contact_force_peak_n",
        "Peak contact force",
        "N",
        "The largest of an episode, mean over episodes.",
    ),
    Figure(
        "contact_failures",
        "Contact failures",
        "",
        "How often the contact force rose above what is allowed, per episode.",
        digits=2,
    ),
    Figure(
        "missed",
        "Missed",
        "",
        "Blocks, balls, lights or rounds that were lost for good, per episode; what counts as one "
        "depends on the task (docs/tempo.md).",
        digits=2,
    ),
    Figure("completion_time_s", "Completion time", "s", "Of solved episodes alone, mean."),
    Figure("mean_hand_jerk", "Jerk", "m/s³", "Norm of the hand's jerk, mean."),
    Figure(
        "gflop_per_observation",
        "Compute per observation",
        "GFLOP",
        "Floating-point operations of looking and of the context, mean over episodes.",
        digits=2,
    ),
)
"""Each has charts of its own where some cell has it."""


@dataclass(frozen=True)
class Sweep:
    """One result file.

    Attributes:
        title: what was compared, a few words.
        cells: in the order of the file; the first one's way of driving is what others refer to.
        command, commit, date, machine, seeds: how to repeat it.
        settings: whatever else was set.
    """

    title: str
    cells: Sequence[Cell]
    command: str = ""
    commit: str = ""
    date: str = ""
    machine: Mapping[str, Any] = field(default_factory=dict[str, Any])
    seeds: Sequence[int] = ()
    settings: Mapping[str, str] = field(default_factory=dict[str, str])

    @cached_property
    def tasks(self) -> list[str]:
        return _distinct(cell.task for cell in self.cells)

    @cached_property
    def policies(self) -> list[str]:
        return _distinct(cell.policy for cell in self.cells)

    @cached_property
    def stresses(self) -> list[str]:
        """Without the empty one."""
        return [name for name in _distinct(cell.stress for cell in self.cells) if name]

    @cached_property
    def ways(self) -> list[str]:
        return _distinct(self.way(cell) for cell in self.cells)

    @cached_property
    def conditions(self) -> dict[tuple[str, float], str]:
        """(profile, scale) → its name as a latency, from fast to slow within a profile."""
        profiles = _distinct(cell.profile for cell in self.cells)
        found = {(cell.profile, cell.scale): self.latency(cell) for cell in self.cells}
        order = sorted(found, key=lambda pair: (profiles.index(pair[0]), pair[1]))
        return {pair: found[pair] for pair in order}

    @cached_property
    def latencies(self) -> list[str]:
        return list(self.conditions.values())

    @cached_property
    def latencies_of(self) -> dict[str, list[str]]:
        """Profile → its latencies."""
        of: dict[str, list[str]] = {}
        for (profile, _), name in self.conditions.items():
            of.setdefault(profile, []).append(name)
        return of

    @cached_property
    def reference(self) -> str:
        """The latency that stresses and ways are compared at: with the most stresses; of several
        one that is not zero, of scale 1, else the first."""
        stresses = {name: set[str]() for name in self.latencies}
        known: dict[str, tuple[bool, bool]] = {}
        for cell in self.cells:
            stresses[self.latency(cell)].add(cell.stress)
            zero = cell.scale == 0.0 or cell.profile == NO_DELAY
            known[self.latency(cell)] = (not zero, cell.scale == 1.0)
        return max(self.latencies, key=lambda name: (len(stresses[name]), *known[name]))

    @cached_property
    def base(self) -> str:
        """The stress that latencies and ways are compared under: empty for none; the first one
        where everything was driven under stress."""
        stresses = _distinct(cell.stress for cell in self.cells)
        return "" if "" in stresses else stresses[0]

    @cached_property
    def figures(self) -> list[Figure]:
        """Those that some cell has; the score before success."""
        every = (SCORE, SUCCESS, *OTHERS)
        return [figure for figure in every if any(figure.key in c.figures for c in self.cells)]

    @property
    def goal(self) -> Figure:
        """What ways of driving are compared by: the score, or success where there is none."""
        return SCORE if SCORE in self.figures else SUCCESS

    def way(self, cell: Cell) -> str:
        """What drives, by what differs within the sweep: "shipped/synchronous, 2 accelerators"."""
        name = f"{cell.policy}/{cell.executor}" if len(self.policies) > 1 else cell.executor
        if self._accelerators == 1:
            return name
        return f"{name}, {cell.accelerators} accelerator{'s' * (cell.accelerators > 1)}"

    def latency(self, cell: Cell) -> str:
        """ "×2", with the profile's name where there are several."""
        scale = f"×{exact(cell.scale)}"
        return f"{cell.profile} {scale}" if self._profiles > 1 else scale

    def cell(self, task: str, way: str, latency: str, stress: str = "") -> Cell | None:
        """The one of these names; None where it was not driven."""
        return self._by_name.get((task, way, latency, stress))

    def condition(self, way: str, latency: str, stress: str = "") -> list[Cell]:
        """The cells of all tasks."""
        found = (self.cell(task, way, latency, stress) for task in self.tasks)
        return [cell for cell in found if cell is not None]

    @cached_property
    def _accelerators(self) -> int:
        return len({cell.accelerators for cell in self.cells})

    @cached_property
    def _profiles(self) -> int:
        return len({cell.profile for cell in self.cells})

    @cached_property
    def _by_name(self) -> dict[tuple[str, str, str, str], Cell]:
        return {
            (cell.task, self.way(cell), self.latency(cell), cell.stress): cell
            for cell in self.cells
        }


def _distinct(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(names))


# --- many cells as one ---------------------------------------------------------------------------


def overall(cells: Sequence[Cell], figure: Figure) -> Estimate | None:
    """A figure over the episodes of several cells: success with Wilson's interval, the score with a
    bootstrap; of other figures the mean over cells."""
    reached = [
        value
        for cell in cells
        for outcome in cell.outcomes.values()
        if (value := figure.of(outcome)) is not None
    ]
    if reached and figure.key == SUCCESS.key:
        interval = wilson_interval(round(sum(reached)), len(reached)) or (None, None)
        return Estimate(sum(reached) / len(reached), *interval)
    if reached:
        return _mean(reached)
    values = [cell.figures[figure.key].value for cell in cells if figure.key in cell.figures]
    return Estimate(sum(values) / len(values)) if values else None


def common(first: Sequence[Cell], second: Sequence[Cell]) -> tuple[list[Cell], list[Cell]]:
    """The cells of both, with the outcomes of the episodes (task and seed) that both have."""

    def kept(cells: Sequence[Cell], others: Sequence[Cell]) -> list[Cell]:
        theirs = {(cell.task, seed) for cell in others for seed in cell.outcomes}
        return [
            replace(
                cell,
                outcomes={s: o for s, o in cell.outcomes.items() if (cell.task, s) in theirs},
            )
            for cell in cells
        ]

    return kept(first, second), kept(second, first)


def difference(
    first: Sequence[Cell], second: Sequence[Cell], figure: Figure
) -> tuple[Estimate | None, int]:
    """Of the second to the first, over the episodes that both have, and how many these are.

    Success by Newcombe's interval of pairs, the score by a bootstrap of pairs, from two pairs on.
    Cells are paired by task, episodes by seed.
    """
    theirs = {
        (cell.task, seed): figure.of(outcome)
        for cell in second
        for seed, outcome in cell.outcomes.items()
    }
    pairs = [
        (one, two)
        for cell in first
        for seed, outcome in cell.outcomes.items()
        if (one := figure.of(outcome)) is not None
        and (two := theirs.get((cell.task, seed))) is not None
    ]
    if not pairs:
        return None, 0
    one, two = zip(*pairs, strict=True)
    if figure.key == SUCCESS.key:
        paired = compare_paired([bool(x) for x in one], [bool(x) for x in two])
        return Estimate(paired.difference, paired.low, paired.high), len(pairs)
    return _mean([b - a for a, b in pairs]), len(pairs)


def _mean(values: Sequence[float]) -> Estimate:
    """With its bootstrap interval; of one value there is none."""
    if len(values) < 2:
        return Estimate(values[0])
    return Estimate(*bootstrap_paired([0.0] * len(values), values, resamples=_RESAMPLES))
