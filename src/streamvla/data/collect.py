"""Scripted experts → demonstrations: parallel, deterministic, resumable.

Every shard depends only on (settings, task, shard index): killed anywhere, a second run makes
just the shards that are missing or damaged, byte for byte what they would have been.

    reset ─ [displaced start] ─ expert + bursts of noise ─ success ─ 18 more steps ─ stop

With a policy, it drives until a random step, and the expert recovers (`data.pilot`).
"""

from __future__ import annotations

import logging
import math
import os
import zlib
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from streamvla.core.clock import NS_PER_S, Clock, SystemClock
from streamvla.core.engine import Engine, LocalEngine
from streamvla.core.errors import ConfigError, DatasetError, InterruptedRunError, WorkerError
from streamvla.core.files import FileError, replacing, require_writable
from streamvla.core.interfaces import Capture, RobotSpec, places_of, standing_at
from streamvla.core.numbers import exact
from streamvla.core.provenance import commit
from streamvla.core.seeds import FIRST_EVALUATION_SEED
from streamvla.data.demonstrations import DatasetMeta, Episode
from streamvla.data.noise import ExecutionNoise, NoiseConfig
from streamvla.data.pilot import LATEST_HANDOVER, Pilot
from streamvla.data.store import (
    META_NAME,
    is_whole,
    read_meta,
    read_shard,
    seeds_in,
    shard_path,
    write_meta,
    write_shard,
)
from streamvla.robots.gl import select_gl_backend
from streamvla.robots.registry import one_robot_of, suite_of, training_instructions
from streamvla.robots.suite import Expert, TaskRobot

EPISODES_PER_SHARD = 25
MAX_ATTEMPTS_PER_SHARD = 100
MAX_STEPS = 120
STEPS_PAST_SUCCESS = 18

DEFAULT_TASKS = (
    "reach",
    "push",
    "button-press-topdown",
    "drawer-open",
    "drawer-close",
    "window-open",
)


@dataclass(frozen=True)
class CollectConfig:
    """What to collect.

    Attributes:
        out: directory of the dataset; made when missing, resumed when not.
        tasks: of any suites of one robot (`robots.registry.suite_tasks`).
        episodes_per_task: rounded up to whole shards of 25.
        workers: processes; 0 for one per CPU, 1 for none besides this one.
        seed: base seed; with task and index it fixes every episode.
        noise: how executed actions differ from the expert's.
        policy: the source (`policy.sources`) of one that drives the first part of every episode;
            None for experts only.
        most_lead: it looks early with 0 to so many actions pending, drawn for every episode.
    """

    out: Path
    tasks: tuple[str, ...] = DEFAULT_TASKS
    episodes_per_task: int = 250
    workers: int = 0
    seed: int = 0
    noise: NoiseConfig = field(default_factory=NoiseConfig)
    policy: str | None = None
    most_lead: int = 0

    def __post_init__(self) -> None:
        if not self.tasks or len(set(self.tasks)) != len(self.tasks):
            raise ConfigError(f"tasks {list(self.tasks)}: expected at least one, each once")
        one_robot_of(self.tasks)
        if self.episodes_per_task < 1:
            raise ConfigError(f"episodes_per_task is {self.episodes_per_task}, expected ≥ 1")
        if self.shards_per_task * MAX_ATTEMPTS_PER_SHARD > FIRST_EVALUATION_SEED:
            raise ConfigError(
                f"episodes_per_task is {self.episodes_per_task}: its seeds would repeat; expected "
                f"≤ {FIRST_EVALUATION_SEED // MAX_ATTEMPTS_PER_SHARD * EPISODES_PER_SHARD}"
            )
        if self.most_lead and self.policy is None:
            raise ConfigError(f"most lead {self.most_lead}: only a policy (--policy) looks early")
        if self.workers < 0 or self.seed < 0:
            raise ConfigError(f"workers {self.workers} and seed {self.seed}: expected ≥ 0")

    @property
    def shards_per_task(self) -> int:
        """Whole shards that hold `episodes_per_task`."""
        return -(-self.episodes_per_task // EPISODES_PER_SHARD)


@dataclass(frozen=True)
class CollectProgress:
    """Told after every shard.

    Attributes:
        shards_done, shards_total: of this dataset, those found on disk included.
        episodes, attempts, frames: made by this run so far.
        elapsed_s: since this run started.
    """

    shards_done: int
    shards_total: int
    episodes: int = 0
    attempts: int = 0
    frames: int = 0
    elapsed_s: float = 0.0

    @property
    def episodes_per_hour(self) -> float:
        """Throughput of this run; 0 before the first shard."""
        return self.episodes / self.elapsed_s * 3600 if self.elapsed_s else 0.0


@dataclass(frozen=True)
class _Shard:
    """One unit of work."""

    config: CollectConfig
    task: str
    index: int

    @property
    def path(self) -> Path:
        return shard_path(self.config.out, self.task, self.index)


def collect(
    config: CollectConfig,
    progress: Callable[[CollectProgress], None] = lambda _: None,
    clock: Clock | None = None,
    engine: Engine | None = None,
) -> CollectProgress:
    """Make every shard that is missing or damaged.

    With more than one worker, call it under `if __name__ == "__main__"`: processes are spawned.

    Args:
        engine: where shards are made; None for `config.workers` processes of this machine. Only
            this process writes into `config.out`.

    Raises:
        DatasetError: `out` holds a dataset of other settings, or an expert fails too often.
        FileError: a file cannot be written.
        InterruptedRunError: Ctrl-C; the message says how to resume.
    """
    clock = clock or SystemClock()
    started_ns = clock.now_ns()
    _claim_directory(config)
    missing = [shard for shard in _shards(config) if not _is_done(shard)]
    for shard in missing[:1]:
        require_writable(shard.path)
    total = config.shards_per_task * len(config.tasks)
    state = CollectProgress(shards_done=total - len(missing), shards_total=total)
    try:
        for episodes, attempts, frames in _run(missing, config.workers, engine):
            state = replace(
                state,
                shards_done=state.shards_done + 1,
                episodes=state.episodes + episodes,
                attempts=state.attempts + attempts,
                frames=state.frames + frames,
                elapsed_s=(clock.now_ns() - started_ns) / NS_PER_S,
            )
            progress(state)
    except KeyboardInterrupt as interrupt:
        raise InterruptedRunError(
            f"interrupted with {state.shards_done} of {total} shards complete in {config.out}. "
            "Run the same command again to resume."
        ) from interrupt
    except WorkerError as deaths:
        raise DatasetError(
            f"{state.shards_done} of {total} shards are complete in {config.out}: {deaths}"
        ) from deaths
    return state


def episode_seed(base: int, task: str, index: int) -> int:
    """The seed of attempt `index` at `task`: distinct within a task, below the evaluation's."""
    offset = zlib.crc32(f"{base}/{task}".encode())
    return (offset + index) % FIRST_EVALUATION_SEED


def collect_episode(
    robot: TaskRobot,
    expert: Expert,
    seed: int,
    noise: NoiseConfig,
    pilot: Pilot | None = None,
    most_steps: int | None = None,
) -> Episode | None:
    """One demonstration, or None when the expert failed within `most_steps` of its own (None:
    `MAX_STEPS`).

    A pilot drives until a random step; labels are the expert's throughout. Steps on nominal time
    from 0. Nothing is rendered for the dataset before the episode has succeeded.
    """
    spec = robot.spec
    space, period_ns = spec.action_space, spec.control_period_ns
    disturbance = ExecutionNoise(noise, space.is_delta(), np.random.default_rng([seed, 2]))
    most_steps = MAX_STEPS if most_steps is None else most_steps
    handover = 0
    if pilot is not None:
        handover = int(np.random.default_rng([seed, 4]).integers(LATEST_HANDOVER + 1))
    captures: list[Capture] = []
    places: list[np.ndarray] = []
    labels: list[np.ndarray] = []
    actions: list[np.ndarray] = []
    success_step: int | None = None
    robot.reset(seed, 0, period_ns)
    start = standing_at(robot)
    if pilot is not None:
        pilot.reset(seed, start)
    while success_step is None or len(actions) < success_step + STEPS_PAST_SUCCESS:
        if success_step is None and len(actions) == handover + most_steps:
            return None
        captures.append(robot.capture())
        places.append(places_of(robot))
        labels.append(expert.act())
        now_ns = len(actions) * period_ns
        if pilot is not None and len(actions) < handover:
            actions.append(pilot.act(robot, captures[-1], now_ns))
        else:
            actions.append(space.clip(disturbance.perturb(labels[-1])))
        robot.command(actions[-1], now_ns)
        robot.advance_to(len(actions) * period_ns)
        if robot.success and success_step is None:
            success_step = len(actions)
    frames = [robot.observe(capture) for capture in captures]
    return Episode(
        task=robot.task,
        images={view: np.stack([f.images[view] for f in frames]) for view in spec.views},
        state=np.stack([f.state for f in frames]),
        action=np.stack(actions).astype(np.float32),
        label=np.stack(labels).astype(np.float32),
        seed=seed,
        success_step=success_step,
        instructions=robot.phrasings.train,
        places=np.stack(places) if spec.place_names else None,
        start=start,
    )


def _shards(config: CollectConfig) -> Iterator[_Shard]:
    """Every task's first shard, then every task's second, …: usable when stopped early."""
    for index in range(config.shards_per_task):
        for task in config.tasks:
            yield _Shard(config, task, index)


def _is_done(shard: _Shard) -> bool:
    """Whether a shard is there and whole; a damaged one is said, and made anew."""
    if is_whole(shard.path):
        return True
    if shard.path.exists():
        logging.getLogger("streamvla").warning("shard %s is damaged; it is made anew", shard.path)
    return False


def _require_own_shards(config: CollectConfig) -> None:
    """Where there are shards but no `meta.json`: raise `DatasetError` for one of another seed, or
    one that does not say whose it is."""
    for shard in _shards(config):
        if not shard.path.exists():
            continue
        seeds = set(seeds_in(shard.path)) if is_whole(shard.path) else set()
        first = shard.index * MAX_ATTEMPTS_PER_SHARD
        own = {
            episode_seed(config.seed, shard.task, first + attempt)
            for attempt in range(MAX_ATTEMPTS_PER_SHARD)
        }
        if not seeds or not seeds <= own:
            raise DatasetError(
                f"{shard.path}: there is no {META_NAME} to say whose it is, and it is not of seed "
                f"{config.seed}. Move it, or collect into another directory."
            )


def _claim_directory(config: CollectConfig) -> None:
    """Write `meta.json`, or check that the one there was made under the same settings."""
    spec = one_robot_of(config.tasks).spec
    meta = DatasetMeta(
        robot=spec.name,
        action_space=spec.action_space,
        state_names=spec.state_names,
        control_period_ns=spec.control_period_ns,
        views=spec.views,
        image_size=spec.image_size,
        tasks={task: training_instructions(task) for task in config.tasks},
        noise=asdict(config.noise),
        seed=config.seed,
        commit=commit(),
        place_names=spec.place_names,
        pilot={} if config.policy is None else _identify(config.policy, config.most_lead),
    )
    if (config.out / META_NAME).exists():
        found = read_meta(config.out)
        if replace(found, tasks={}, commit="") != replace(meta, tasks={}, commit=""):
            raise DatasetError(
                f"{config.out / META_NAME}: made with other settings (seed {found.seed}, noise "
                f"{dict(found.noise)}, policy {found.pilot or None}). Use the same settings to "
                "resume, or another directory."
            )
        meta = replace(found, tasks={**found.tasks, **meta.tasks})
        if meta == found:
            return
    else:
        _require_own_shards(config)
    write_meta(config.out, meta)


def _identify(source: str, most_lead: int) -> dict[str, str]:
    from streamvla.policy import find_policy

    found = find_policy(source)
    settings = {name: exact(value) for name, value in found.load({}).spec.settings.items()}
    driven = {"most_lead": str(most_lead)} if most_lead else {}
    return {**found.identity, **settings, **driven}


@dataclass(frozen=True)
class _Made:
    """A shard as it comes back from a worker; `content` is the file."""

    episodes: int
    attempts: int
    frames: int
    content: bytes = field(repr=False)


_pilots: dict[tuple[str, int], Pilot] = {}


def _run(
    shards: list[_Shard], workers: int, engine: Engine | None
) -> Generator[tuple[int, int, int]]:
    """Make and write shards; yields (episodes, attempts, frames) as each is done."""
    count = workers or os.cpu_count() or 1
    if engine is None and (count == 1 or len(shards) <= 1):
        for shard in shards:
            yield _keep(shard, _make_shard(shard))
        return
    select_gl_backend()  # once, for all workers of this machine
    engine = engine or LocalEngine(count)
    with closing(engine.map_unordered(_make_shard, shards, select_gl_backend)) as made:
        for index, each in made:
            yield _keep(shards[index], each)


def _make_shard(shard: _Shard) -> _Made:
    """Collect one shard, in a worker."""
    suite = suite_of(shard.task)
    robot = suite.make(shard.task, "train", "own")
    try:
        pilot = _pilot(shard.config, suite.spec_of(shard.task))
        episodes, attempts = _fill(shard, robot, suite.teacher(robot), pilot)
    finally:
        robot.close()
    with TemporaryDirectory() as folder:
        path = Path(folder) / shard.path.name
        try:
            write_shard(path, episodes, attempts)
        except FileError as error:
            raise FileError(f"shard {shard.path}: {error}") from error
        content = path.read_bytes()
    return _Made(len(episodes), attempts, sum(len(episode) for episode in episodes), content)


def _keep(shard: _Shard, made: _Made) -> tuple[int, int, int]:
    """Write a shard, and check it; (episodes, attempts, frames)."""
    with replacing(shard.path) as partial:
        partial.write_bytes(made.content)
    read_shard(shard.path, shard.task, read_meta(shard.config.out))
    return made.episodes, made.attempts, made.frames


def _most_steps(task: str) -> int:
    """Of the expert's own: `MAX_STEPS`, or as many as the suite says that a task takes."""
    suite = suite_of(task)
    period_s = suite.spec_of(task).control_period_ns / NS_PER_S
    return max(MAX_STEPS, math.ceil(suite.longest_s(task, 0.0) / period_s))


def _pilot(config: CollectConfig, robot: RobotSpec) -> Pilot | None:
    """The policy that drives, kept for the next shard of this process."""
    source, most_lead = config.policy, config.most_lead
    if source is None:
        return None
    if (source, most_lead) not in _pilots:
        import torch

        from streamvla.policy import find_policy

        torch.set_num_threads(1)
        _pilots[source, most_lead] = Pilot(find_policy(source).load({}), robot, most_lead)
    return _pilots[source, most_lead]


def _fill(
    shard: _Shard, robot: TaskRobot, expert: Expert, pilot: Pilot | None
) -> tuple[list[Episode], int]:
    """Attempts until the shard is full; each shard has its own range of attempt indices.

    After a pilot it may hold fewer: what the expert could still save.
    """
    config = shard.config
    most_steps = _most_steps(shard.task)
    episodes: list[Episode] = []
    first = shard.index * MAX_ATTEMPTS_PER_SHARD
    for attempt in range(MAX_ATTEMPTS_PER_SHARD):
        seed = episode_seed(config.seed, shard.task, first + attempt)
        episode = collect_episode(robot, expert, seed, config.noise, pilot, most_steps)
        if episode is not None:
            episodes.append(episode)
        if len(episodes) == EPISODES_PER_SHARD:
            return episodes, attempt + 1
    if pilot is not None and episodes:  # the policy left the expert little to save
        return episodes, MAX_ATTEMPTS_PER_SHARD
    raise DatasetError(
        f"task {shard.task!r}: the expert solved {len(episodes)} of {MAX_ATTEMPTS_PER_SHARD} "
        "attempts, too few. Lower noise.sigma_high, or leave the task out."
    )
