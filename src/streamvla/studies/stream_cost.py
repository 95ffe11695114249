"""`streamvla bench stream`: whether a memory's cost grows with the stream.

What a policy saw in a rendered episode is played to it again and again, as one stream. The same
policy without a memory takes its turn on every observation, so that what slows the machine down
slows both. Of alternatives (`--compare`) single observations are timed, after streams of more and
more observations:

    memory            what is kept is what the memory keeps
    full history      the same with nothing evicted
    window, anew      the memory's window, computed anew from its frames at every observation
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from streamvla.core.clock import NS_PER_MS, NS_PER_S, SystemClock
from streamvla.core.errors import ConfigError
from streamvla.core.interfaces import Observation, begin_episode
from streamvla.core.provenance import machine, without_folders
from streamvla.core.seeds import FIRST_EVALUATION_SEED
from streamvla.evaluation.stats import slope_interval
from streamvla.robots.registry import make_robot
from streamvla.studies.recording import Recorder
from streamvla.studies.tables import figure, print_json, print_table

if TYPE_CHECKING:  # it needs torch
    from streamvla.model.past import MemoryConfig
    from streamvla.policy.base import ModelPolicy, StreamPolicy

BLOCKS = 20
"""Equal parts of the stream; the slopes are those of their medians."""
WARM_UP = 20


@dataclass(frozen=True)
class BenchStream:
    """Measure whether the time and the memory of an observation grow with the stream.

    Attributes:
        policy: its source. One without a memory is given one with random weights and the sizes
            below, which takes the same time.
        observations: of the stream, measured after its window is full.
        window, vision_window, summaries: of the memory that a policy without one is given.
        task: whose rendered observations are played.
        seed: of the episode.
        compare: time a full history, and a window computed anew, too.
        slowest_s: a comparison ends at an observation that takes so long.
        threads: of PyTorch.
        json: print the figures as one JSON object on the last line.
    """

    policy: str = "shipped"
    observations: int = 10_000
    window: int = 64
    vision_window: int = 0
    summaries: int = 4
    task: str = "press-named-button"
    seed: int = FIRST_EVALUATION_SEED
    compare: bool = False
    slowest_s: float = 1.0
    threads: int = 1
    json: bool = False

    def __post_init__(self) -> None:
        if self.observations < 10 * BLOCKS or self.threads < 1 or not self.slowest_s > 0:
            raise ConfigError(
                f"observations {self.observations}, threads {self.threads}, slowest_s "
                f"{self.slowest_s:g}; expected at least {10 * BLOCKS}, at least 1, above 0"
            )


def bench_stream(command: BenchStream) -> None:
    """Run the command and print its figures."""
    import torch

    torch.set_num_threads(command.threads)
    policy, plain = _policies(command)
    seen = _seen(command, plain)
    figures = measure_stream(policy, plain, seen, command.observations)
    rows = [(name, figure(at, 2)) for name, at in figures.items() if not isinstance(at, list)]
    print_table(f"a stream on {machine()['cpu']}", ("figure", "value"), rows)
    compared: list[dict[str, Any]] = []
    if command.compare:
        compared = compare_streams(policy, seen, command.observations, command.slowest_s)
        _print_compared(compared)
    if command.json:
        print_json(
            {
                "command": "bench stream",
                "machine": machine(),
                "policy": without_folders(command.policy),
                "threads": command.threads,
                "observations": command.observations,
                "window": policy.model.config.memory.window,
                **figures,
                "compared": compared,
            }
        )


# --- the policies ------------------------------------------------------------------------------


def _policies(command: BenchStream) -> tuple[StreamPolicy, ModelPolicy]:
    """One with a memory, and the same without."""
    from streamvla.policy.base import ModelPolicy
    from streamvla.studies.episodes import policy_of

    policy = policy_of(command.policy, None, {})
    if not isinstance(policy, ModelPolicy):
        raise ConfigError(
            f"policy {command.policy} is not one of this package's models, which alone have a "
            "memory; name a file of `streamvla train`"
        )
    config = policy.model.config
    if config.memory is not None:
        return _with_memory(policy, config.memory), _with_memory(policy, None)
    from streamvla.model.past import MemoryConfig

    memory = MemoryConfig(command.summaries, command.window, command.vision_window)
    return _with_memory(policy, memory), policy


def _with_memory(policy: ModelPolicy, memory: MemoryConfig | None) -> Any:
    """The same weights, with another memory or none; what it has more is random."""
    import torch

    from streamvla.policy.base import policy_for

    torch.manual_seed(0)
    model = replace(policy.model.config, memory=memory).build(policy.method)
    model.load_state_dict(policy.model.state_dict(), strict=False)
    if policy.model.vocabulary is not None:
        model.list_words(sorted(policy.model.vocabulary))
    parts = (policy.spec, policy.method, policy.normalisation, policy.device)
    made = policy_for(model, *parts, policy.understanding)
    if policy.phrases is not None:
        made.retrieve(policy.phrases)
    return made


def _seen(command: BenchStream, policy: ModelPolicy) -> list[Observation]:
    """What a policy sees in one rendered episode."""
    from streamvla.drive import simulate

    recorder = Recorder(policy)
    with closing(make_robot(command.task)) as robot:
        simulate(recorder, robot, "action-flow:auto", seconds=15.0, seed=command.seed)
    return [seen.observation for seen in recorder.seen]


# --- the stream --------------------------------------------------------------------------------


def measure_stream(
    policy: StreamPolicy, plain: ModelPolicy, seen: Sequence[Observation], count: int
) -> dict[str, Any]:
    """Times are those of `encode`, frames to context.

    `slope_us_per_1000`: how much longer an observation takes after a thousand more, with its 95 %
    interval, and the same of the policy without a memory, of the difference of the two, in which
    what slows the machine down has no part, and of resident memory.
    """
    window = policy.model.config.memory.window
    begin_episode(policy)
    for number in range(window + WARM_UP):
        _encode_ns(policy, seen, number)
        _encode_ns(plain, seen, number)
    times, plain_times, resident = (np.full(count, np.nan) for _ in range(3))  # pages are there
    for at in range(count):
        number = window + WARM_UP + at
        turns = [(policy, times), (plain, plain_times)]
        for each, taken in turns if at % 2 else turns[::-1]:
            taken[at] = _encode_ns(each, seen, number)
        resident[at] = resident_bytes()
    kept = policy.stream.kept if policy.stream is not None else None
    slope, slope_ci = _per_1000(times / 1e3)
    plain_slope, plain_ci = _per_1000(plain_times / 1e3)
    beside, beside_ci = _per_1000((times - plain_times) / 1e3)
    growth, growth_ci = _per_1000(resident)
    return {
        "observe_p50_ms": float(np.median(times)) / NS_PER_MS,
        "observe_p99_ms": float(np.percentile(times, 99)) / NS_PER_MS,
        "without_memory_p50_ms": float(np.median(plain_times)) / NS_PER_MS,
        "ratio": float(np.median(times / plain_times)),
        "slope_us_per_1000": slope,
        "slope_ci": slope_ci,
        "without_memory_slope_us_per_1000": plain_slope,
        "without_memory_slope_ci": plain_ci,
        "beside_slope_us_per_1000": beside,
        "beside_slope_ci": beside_ci,
        "memory_bytes": 0 if kept is None else kept.nbytes,
        "resident_bytes": float(resident[-1]),
        "resident_slope_bytes_per_1000": growth,
        "resident_slope_ci": growth_ci,
    }


def _encode_ns(policy: ModelPolicy, seen: Sequence[Observation], number: int) -> int:
    """Of the observation with that number in an endless stream."""
    observation = replace(seen[number % len(seen)], captured_ns=(number + 1) * NS_PER_S // 2)
    clock = SystemClock()
    begin_ns = clock.now_ns()
    policy.encode(observation)
    return clock.now_ns() - begin_ns


def _per_1000(values: np.ndarray) -> tuple[float, list[float]]:
    """The slope of the medians of equal parts, for 1000 observations, and its interval."""
    parts = np.array_split(values, BLOCKS)
    middles = np.arange(BLOCKS) * len(values) / BLOCKS / 1000
    slope, low, high = slope_interval(middles, np.array([np.median(part) for part in parts]))
    return slope, [low, high]


def resident_bytes() -> float:
    """Of this process; not a number where the system does not tell."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except (OSError, IndexError, ValueError):
        return float("nan")
    return float(pages * os.sysconf("SC_PAGE_SIZE"))


# --- what else one could do --------------------------------------------------------------------


def compare_streams(
    policy: StreamPolicy, seen: Sequence[Observation], longest: int, slowest_s: float
) -> list[dict[str, Any]]:
    """Rows of kind, observations before, ms of the next one (the shortest of three) and bytes that
    are kept. Times do not depend on values, so what a long stream would keep is not made first."""
    memory = policy.model.config.memory
    vision_window = min(memory.vision_window, longest)
    full = _with_memory(policy, replace(memory, window=longest, vision_window=vision_window))
    rows: list[dict[str, Any]] = []
    ended: set[str] = set()
    for before in _lengths(longest):
        for kind in ("memory", "full history", "window, anew"):
            if kind in ended:
                continue
            if kind == "window, anew":
                ms, kept_bytes = _window_anew(policy, seen, min(before, memory.window))
            else:
                ms, kept_bytes = _after(full if kind == "full history" else policy, seen, before)
            rows.append({"kind": kind, "before": before, "ms": ms, "bytes": kept_bytes})
            if ms > 1e3 * slowest_s:
                ended.add(kind)
    return rows


def _lengths(longest: int) -> list[int]:
    """1, 10, 30, 100, … up to and with the longest."""
    steps = [factor * 10**power for power in range(1, 8) for factor in (1, 3)]
    return [1, *(step for step in steps if step < longest), longest]


def _after(policy: StreamPolicy, seen: Sequence[Observation], before: int) -> tuple[float, int]:
    """ms of the next observation, and bytes, of a stream of so many."""
    begin_episode(policy)
    _encode_ns(policy, seen, 0)
    kept = policy.stream.kept if policy.stream is not None else None
    assert kept is not None
    taken = []
    for number in range(1, 4):
        kept.entered = before
        taken.append(_encode_ns(policy, seen, number))
    return min(taken) / NS_PER_MS, kept.bytes_after(before)


def _window_anew(
    policy: StreamPolicy, seen: Sequence[Observation], before: int
) -> tuple[float, int]:
    """As `_after`, of a policy that keeps the frames of its window and nothing else."""
    import torch

    some = [replace(seen[number % len(seen)], captured_ns=0) for number in range(before + 1)]
    clock, model = SystemClock(), policy.model
    memory = model.memory
    assert memory is not None
    taken = []
    for _ in range(3):
        begin_ns = clock.now_ns()
        sight = policy.look_batch(some)
        with torch.inference_mode():
            inputs = (sight.words, sight.state, sight.command)
            prefix = model.contextualise(sight.seen, *inputs)
            moments = model.moment(*inputs, sight.state.new_full((len(some),), 0.5))
            memory.clip(prefix, moments, len(some))
        taken.append(clock.now_ns() - begin_ns)
    frames = sum(image.nbytes for each in some for image in each.images.values())
    return min(taken) / NS_PER_MS, frames


def _print_compared(rows: list[dict[str, Any]]) -> None:
    kinds = list(dict.fromkeys(row["kind"] for row in rows))
    lengths = list(dict.fromkeys(row["before"] for row in rows))
    found = {(row["kind"], row["before"]): row for row in rows}
    print_table(
        "the next observation, ms",
        ("observations before", *kinds),
        [
            (
                str(before),
                *(
                    figure(found[kind, before]["ms"], 1) if (kind, before) in found else "–"
                    for kind in kinds
                ),
            )
            for before in lengths
        ],
    )
