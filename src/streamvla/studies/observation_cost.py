"""`streamvla bench observation`: what an observation costs with everything that makes it cheaper.

The first policy drives real episodes, and its observations are kept; robots that only stand there
give more. Then every variant makes contexts of the same observations, one variant after another on
each of them, so that a disturbance hits all alike. Ratios are to the first policy on whole frames,
of the same run.

    observation    0               1               2               …
    in turn        A  B  C         B  C  A         C  A  B
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from streamvla.core.clock import NS_PER_MS, NS_PER_S, SystemClock
from streamvla.core.compute import ObservationCost
from streamvla.core.errors import ConfigError
from streamvla.core.interfaces import (
    Observation,
    Policy,
    Robot,
    begin_episode,
    check_fit,
    cost_of,
    standing_at,
)
from streamvla.core.provenance import machine, without_folders
from streamvla.core.seeds import FIRST_EVALUATION_SEED
from streamvla.core.stress import NO_STRESS, NOMINAL, Stress, parse_stress
from streamvla.evaluation.stats import bootstrap_ratio
from streamvla.robots.registry import make_robot
from streamvla.robots.stress import stressed_robot
from streamvla.studies.budget_table import parse_row
from streamvla.studies.checks import require_fresh_seed, require_seconds
from streamvla.studies.episodes import check_tasks, policy_of
from streamvla.studies.recording import Recorder, Seen
from streamvla.studies.tables import figure, print_json, print_table

if TYPE_CHECKING:  # it needs torch
    from streamvla.policy import ModelPolicy

MOVING, STILL = "moving", "still"
_TASKS = (
    "reach",
    "push",
    "button-press-topdown",
    "drawer-open",
    "press-named-button",
    "window-open",
)
_SETTLE_NS = 10 * NS_PER_S
"""A simulated arm sinks after a reset; up to eight seconds later some pixels still change."""
_PARTS = ("look", "context", "whole")


@dataclass(frozen=True)
class BenchObservation:
    """Measure what an observation costs, frames to context: whole frames, views that did not change
    kept, encodings skipped, and other policies, on the same frames and in turns.

    Attributes:
        policies: their sources, and settings of `eval` that save computation behind a +, as in
            shipped+reuse=0+most_skips=1. The first one has no settings and drives; all are measured
            on what it saw.
        tasks: whose observations are kept.
        episodes: a task, at seeds `seed`, `seed` + 1, …, which are evaluation seeds as of `eval`.
        seconds: an episode's limit, on the robot's clock.
        still: observations, a horizon apart, of a robot that stands where each episode of a task
            begins, from ten seconds after that on; 0: none.
        stress: what real robots bring, as `eval` takes it, such as camera-noise:1; what it does to
            latency plays no part.
        rounds: how often every observation is measured, after one round that does not count.
        threads: of PyTorch.
        json: print the figures as one JSON object on the last line.
    """

    policies: tuple[str, ...] = ("shipped", "shipped+reuse=0", "shipped+most_skips=1")
    tasks: tuple[str, ...] = _TASKS
    episodes: int = 2
    seconds: float = 15.0
    seed: int = FIRST_EVALUATION_SEED
    still: int = 50
    stress: str = NOMINAL
    rounds: int = 3
    threads: int = 1
    json: bool = False

    def __post_init__(self) -> None:
        least = min(self.episodes, self.rounds, self.threads, len(self.policies), len(self.tasks))
        if least < 1 or self.still < 0:
            raise ConfigError(
                f"{len(self.policies)} policies, {len(self.tasks)} tasks, {self.episodes} episodes,"
                f" {self.rounds} rounds, {self.threads} threads must be at least 1; still "
                f"{self.still} at least 0"
            )
        if len(set(self.policies)) < len(self.policies):
            raise ConfigError(f"--policies {' '.join(self.policies)}: one is named twice")
        first, *_ = map(parse_variant, self.policies)
        if first[1]:
            raise ConfigError(
                f"--policies {self.policies[0]} …: the first one drives, and the others are "
                "compared to it; name it without settings"
            )
        require_seconds(self.seconds)
        require_fresh_seed(self.seed)
        self.stresses()

    def stresses(self) -> Stress:
        """What `stress` says; raises `ConfigError` if it says nothing known."""
        return NO_STRESS if self.stress == NOMINAL else parse_stress(self.stress)


@dataclass(frozen=True, slots=True)
class Recorded:
    """Observations of one episode, or of a robot that stands: `scene` is `MOVING` or `STILL`."""

    scene: str
    task: str
    observations: tuple[Seen, ...]


@dataclass(frozen=True, slots=True)
class Measured:
    """What one variant took for the observations of one `Recorded`, in all rounds.

    Attributes:
        times: (rounds · k, 3) ns to look, from there to the context, and both; the former two are
            not a number where a policy does not do them apart.
        costs: of the k observations, as the policy counts them.
    """

    times: np.ndarray
    costs: tuple[ObservationCost, ...]

    def total(self, part: str) -> float:
        """ns of all observations; not a number if it is unknown of one."""
        return float(self.times[:, _PARTS.index(part)].sum())


def bench_observation(command: BenchObservation) -> None:
    """Run the command and print its figures."""
    check_tasks(command.tasks)
    import torch

    torch.set_num_threads(command.threads)
    variants = variants_of(command)
    recorded = list(_recorded(command, variants))
    rows = figures_of(recorded, measure(variants, recorded, command.rounds))
    for scene in dict.fromkeys(each.scene for each in recorded):
        _print(scene, [row for row in rows if row["scene"] == scene])
    if command.json:
        seeds = range(command.seed, command.seed + command.episodes)
        print_json(
            {
                "command": "bench observation",
                "machine": machine(),
                "threads": command.threads,
                "rounds": command.rounds,
                "stress": str(command.stresses()) or NOMINAL,
                "seeds": list(seeds),
                "rows": rows,
            }
        )


def parse_variant(text: str) -> tuple[str, dict[str, float]]:
    """The source of a policy, and its settings.

    Raises:
        ConfigError: settings that `eval` does not have.

    >>> parse_variant("shipped+reuse=0+most_skips=2")
    ('shipped', {'reuse': 0.0, 'most_skips': 2.0})
    """
    source, plus, settings = text.partition("+")
    return source, parse_row(settings) if plus else {}


def variants_of(command: BenchObservation) -> dict[str, Policy]:
    """Name → policy; the first one encodes whole frames, and is what the others are compared to.

    Raises:
        ConfigError: a policy that does not count its costs; one that cannot keep or skip.
    """
    variants: dict[str, Policy] = {}
    for text in command.policies:
        source, settings = parse_variant(text)
        policy, name = policy_of(source, None, settings), without_folders(text)
        if policy.spec.sees_truth or not policy.spec.counts:
            raise ConfigError(
                f"policy {name} does not count what its observations cost (PolicySpec.counts), or "
                "sees no frames; name a policy of this package, or leave it out"
            )
        variants[name] = policy
    return variants


# --- the observations ------------------------------------------------------------------------


def _recorded(command: BenchObservation, variants: dict[str, Policy]) -> Iterator[Recorded]:
    """Every episode that the first policy drives, and every robot that stands."""
    driver = next(iter(variants.values()))
    for task in command.tasks:
        plain = make_robot(task)
        with closing(stressed_robot(plain, command.stresses())) as robot:
            for policy in variants.values():
                check_fit(policy.spec, robot.spec)
            for seed in range(command.seed, command.seed + command.episodes):
                yield Recorded(MOVING, task, _driven(driver, robot, seed, command.seconds))
                if command.still:
                    yield Recorded(STILL, task, _standing(driver, robot, seed, command.still))


def _driven(policy: Policy, robot: Robot, seed: int, seconds: float) -> tuple[Seen, ...]:
    """The observations of an episode at emulated stage times."""
    from streamvla.drive import simulate

    recorder = Recorder(policy)
    executor = "synchronous" if policy.spec.chunk_passes else "action-flow:auto"
    simulate(recorder, robot, executor, seconds=seconds, seed=seed)
    return tuple(recorder.seen)


def _standing(policy: Policy, robot: Robot, seed: int, count: int) -> tuple[Seen, ...]:
    """So many observations, a horizon apart, of a robot that is told to stay where it is."""
    spec = robot.spec
    robot.reset(seed, 0, spec.control_period_ns)
    state = standing_at(robot)
    now_ns = _hold(robot, state, 0, _SETTLE_NS)
    seen: list[Seen] = []
    for _ in range(count):
        frames = robot.observe(robot.capture())
        told = (state, robot.instruction, now_ns)
        seen.append(Seen(Observation(frames.images, frames.state, *told)))
        now_ns = _hold(robot, state, now_ns, policy.spec.horizon * spec.control_period_ns)
    return tuple(seen)


def _hold(robot: Robot, state: np.ndarray, now_ns: int, duration_ns: int) -> int:
    """Hold for so long in whole control periods; the instant after."""
    period_ns = robot.spec.control_period_ns
    for _ in range(duration_ns // period_ns):
        robot.command(robot.spec.action_space.hold(state), now_ns)
        now_ns += period_ns
        robot.advance_to(now_ns)
    return now_ns


# --- the times -------------------------------------------------------------------------------


def measure(
    variants: dict[str, Policy], recorded: list[Recorded], rounds: int
) -> dict[str, list[Measured]]:
    """Name → what it took for each of `recorded`; a round before the first does not count."""
    times: dict[str, list[list[np.ndarray]]] = {name: [[] for _ in recorded] for name in variants}
    costs: dict[str, list[tuple[ObservationCost, ...]]] = {name: [] for name in variants}
    for number in range(1 + rounds):
        for at, each in enumerate(recorded):
            for name, (taken, counted) in _play(variants, each.observations, number).items():
                if number:
                    times[name][at].append(taken)
                else:
                    costs[name].append(counted)
    return {
        name: [
            Measured(np.concatenate(taken), counted)
            for taken, counted in zip(times[name], costs[name], strict=True)
        ]
        for name in variants
    }


def _play(
    variants: dict[str, Policy], observations: tuple[Seen, ...], number: int
) -> dict[str, tuple[np.ndarray, tuple[ObservationCost, ...]]]:
    """Name → ((k, 3) ns, costs) of an episode's k observations; who begins changes."""
    names = list(variants)
    times: dict[str, list[tuple[float, ...]]] = {name: [] for name in names}
    costs: dict[str, list[ObservationCost]] = {name: [] for name in names}
    for policy in variants.values():
        begin_episode(policy)
    for at, seen in enumerate(observations):
        first = (at + number) % len(names)
        for name in names[first:] + names[:first]:
            taken, cost = _timed(variants[name], seen)
            times[name].append(taken)
            costs[name].append(cost)
    return {name: (np.array(times[name]), tuple(costs[name])) for name in names}


def _timed(policy: Policy, seen: Seen) -> tuple[tuple[float, ...], ObservationCost]:
    """ns to look, from there to the context, and both; and the cost."""
    clock, model = SystemClock(), _in_two_parts(policy)
    begin_ns = clock.now_ns()
    if model is None:
        context = seen.encode(policy)
        parts = (np.nan, np.nan)
    else:
        sight = model.look(seen.observation)
        looked_ns = clock.now_ns()
        context = model.contextualise(sight)
        parts = (looked_ns - begin_ns, clock.now_ns() - looked_ns)
    whole_ns = clock.now_ns() - begin_ns if model is None else sum(parts)
    return (*parts, whole_ns), cost_of(policy, context) or ObservationCost()


def _in_two_parts(policy: Policy) -> ModelPolicy | None:
    """The policy, if its `encode` is a look and a context and nothing else."""
    from streamvla.policy import ModelPolicy

    return policy if isinstance(policy, ModelPolicy) else None


# --- the figures -----------------------------------------------------------------------------


def figures_of(recorded: list[Recorded], found: dict[str, list[Measured]]) -> list[dict[str, Any]]:
    """A row a scene and variant. Times are ms; `ratio` is that of all time spent, over the same
    observations, with a bootstrap interval over the episodes (none over one), and so are those of
    the two parts; `encoder_saved` is the share of the looks' operations that was not needed."""
    rows: list[dict[str, Any]] = []
    for scene in dict.fromkeys(each.scene for each in recorded):
        at = [number for number, each in enumerate(recorded) if each.scene == scene]
        first, *_ = ([every[number] for number in at] for every in found.values())
        for name, every in found.items():
            rows.append({"scene": scene, "run": name, **_row([every[i] for i in at], first)})
    return rows


def _row(episodes: list[Measured], first: list[Measured]) -> dict[str, Any]:
    times = np.concatenate([each.times for each in episodes]) / NS_PER_MS
    costs = [cost for each in episodes for cost in each.costs]
    whole = [cost for each in first for cost in each.costs]
    count, look_flops = len(costs), sum(cost.look_flops for cost in costs)
    row: dict[str, Any] = {
        "episodes": len(episodes),
        "observations": count,
        "encodes_per_observation": sum(cost.encodes for cost in costs) / count,
        "gflop": (look_flops + sum(cost.context_flops for cost in costs)) / count / 1e9,
        "encoder_saved": 1 - look_flops / max(sum(cost.look_flops for cost in whole), 1),
        "ms_p50": float(np.median(times[:, 2])),
        "ms_p90": float(np.percentile(times[:, 2], 90)),
        "ms_mean": float(times[:, 2].mean()),
    }
    for part in _PARTS:
        name = "ratio" if part == "whole" else f"{part}_ratio"
        of = [[each.total(part) for each in some] for some in (first, episodes)]
        known = bool(np.isfinite(of).all())
        ratio, low, high = bootstrap_ratio(*of) if known else (None, None, None)
        row |= {name: ratio, f"{name}_ci": [low, high] if known and len(episodes) > 1 else None}
    return row


def _print(scene: str, rows: list[dict[str, Any]]) -> None:
    count, episodes = rows[0]["observations"], rows[0]["episodes"]
    columns = ("variant", "p50 (ms)", "p90", "mean", "to whole frames", "look", "context")
    print_table(
        f"{count} observations of {episodes} episodes, {scene} robot, on {machine()['cpu']}",
        (*columns, "encoded", "GFLOP", "encoder saved"),
        [
            (
                row["run"],
                *(figure(row[f"ms_{name}"], 2) for name in ("p50", "p90", "mean")),
                *(_between(row, name) for name in ("ratio", "look_ratio", "context_ratio")),
                figure(row["encodes_per_observation"], 2),
                figure(row["gflop"], 3),
                f"{100 * row['encoder_saved']:.0f} %",
            )
            for row in rows
        ],
    )


def _between(row: dict[str, Any], name: str) -> str:
    """`0.55 (0.53–0.57)`."""
    if row[f"{name}_ci"] is None:
        return figure(row[name], 2)
    low, high = row[f"{name}_ci"]
    return f"{row[name]:.2f} ({low:.2f}–{high:.2f})"
