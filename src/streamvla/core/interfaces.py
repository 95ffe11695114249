"""The words everyone shares: observation, robot, policy. NumPy only.

One cycle, from the world to the world:

    robot.capture ─► robot.observe ─► policy.encode ─► policy.generate ─► robot.command
       (instant)         (frames)         (context)       (one action at a time)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Protocol, cast

import numpy as np

from streamvla.core.action_space import ActionSpace
from streamvla.core.cameras import Gaze
from streamvla.core.compute import ObservationCost
from streamvla.core.errors import ConfigError, RobotError, SpecMismatchError
from streamvla.core.limits import MotionLimits


@dataclass(frozen=True, slots=True)
class Observation:
    """What the policy sees, and when.

    Attributes:
        images: view name → (height, width, 3) uint8 RGB.
        state: (s,) float32 measured proprioception.
        action_state: (d,) action state at the instant of capture (`ActionSpace.advance`).
        instruction: what the robot is told to do.
        captured_ns: the instant the frames show.
    """

    images: Mapping[str, np.ndarray]
    state: np.ndarray
    action_state: np.ndarray
    instruction: str
    captured_ns: int


@dataclass(frozen=True, slots=True)
class FlowStart:
    """Where a generation starts.

    Attributes:
        action_state: (d,) action state from which the first new action departs: the state at
            capture plus everything pending (methods: compensation 1).
        index: flow step to start from; 0, or the lead `n` under the flow-clock shift
            (`tau = n/H`, compensation 4). The generation then yields `H − index` actions.
        age: how many actions the observation is old where the first new one departs, for
            policies that were trained to be told (compensation 3, docs/decisions/0017).
        prefix: (k, d) the pending actions that will have been executed before the first new one is
            due, in order, clipped to the action space, k ≤ H: what a policy that continues a plan
            may take as given. None: the executor does not know it.
        delay: how many control ticks will take a pending action, or none, before the first new
            action is expected; 0 where the executor does not know.
        executed: (k, d) the commands that went out between the capture and now, the governor's own
            included, in order; of a very long time the latest `streamer.execution.KEPT`. With
            `prefix` behind it, all that lies between what the policy saw and its first action.
            The streamer fills it in. None: not known.
        in_force: how many of `executed` had reached the robot at the capture already, at the same
            instant: a picture does not show them yet, the truth of a simulated world has them.
        elapsed: how many of its first actions will be over when they come, and are dropped: those
            of the policy since the capture, the prefix included. 0: the first action is for when
            the prefix and the delay are over.

    With three actions pending and the first new one expected after two and a half ticks:

        tick       7    8    9    10               prefix (3, d) = a7 a8 a9, delay 3
        plan       a7   a8   a9   │ b0 b1 …        b0 departs from the action state after a9
        generate   ├──────────┤ b0
    """

    action_state: np.ndarray
    index: int = 0
    age: int = 0
    prefix: np.ndarray | None = None
    delay: int = 0
    executed: np.ndarray | None = None
    in_force: int = 0
    elapsed: int = 0


@dataclass(frozen=True, slots=True)
class ArraySpec:
    """One named array of a capture: its shape and dtype are the same at every instant.

    Raises:
        ConfigError: a dtype that NumPy does not know, or one that holds objects.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str = "float64"

    def __post_init__(self) -> None:
        try:
            holds_objects = np.dtype(self.dtype).hasobject
        except TypeError:
            holds_objects = True
        if holds_objects:
            raise ConfigError(
                f"capture array {self.name!r} has dtype {self.dtype!r}; expected a plain one, "
                "such as float64 or uint8"
            )

    @classmethod
    def of(cls, name: str, array: np.ndarray) -> ArraySpec:
        """Of an array like this one."""
        return cls(name, array.shape, str(array.dtype))


Capture = Mapping[str, np.ndarray]
"""One frozen instant of a robot's world, as the arrays that `RobotSpec.capture` declares."""


@dataclass(frozen=True)
class RobotSpec:
    """What a robot offers.

    Attributes:
        views: camera names, in the order the policy gets them.
        image_size: (height, width) of every view, pixels.
        state_names: one name per proprioceptive dimension `s`.
        control_period_ns: how long one command acts.
        limits: how the robot may be commanded to move; None for what its action space implies.
        capture: the arrays of `Robot.capture`; none for real cameras, which `observe` asks.
        place_names: one per dimension of `PlacedRobot.places`; none where the robot does not know
            where things are.
        measures_standing: whether it is a `StandingRobot`.
        start: (d,) where absolute dimensions begin, of a robot that does not measure them, such as
            a gripper command; what it says of deltas is ignored. None: not known.
        draws_captures: whether it is a `DrawnRobot`.
        knows_stimulus: whether it is a `StimulatedRobot`.
        stop: "package.module:function", which takes this specification and gives a function that
            stops the robot from another process than the one that commands it; None: there is no
            such way. For the watchdog (`runtime.processes.watchdog`).
        has_task: whether `success` can become true; without a task no episode counts as failed.
        measures: names of what a `MeasuredRobot` measures on every control instant; none if it is
            not one.
        stimulus: what a `StimulatedRobot` should react to, in words, for the trace.
        gaze: where its cameras show the gripper; None: not known, and no policy may cut crops.

    Raises:
        ConfigError: a gaze for another number of views, or of a state it does not have.
    """

    name: str
    action_space: ActionSpace
    views: tuple[str, ...]
    image_size: tuple[int, int]
    state_names: tuple[str, ...]
    control_period_ns: int
    limits: MotionLimits | None = None
    capture: tuple[ArraySpec, ...] = ()
    place_names: tuple[str, ...] = ()
    measures_standing: bool = False
    start: tuple[float, ...] | None = None
    draws_captures: bool = False
    knows_stimulus: bool = False
    stop: str | None = None
    has_task: bool = True
    measures: tuple[str, ...] = ()
    stimulus: str = "the goal was moved"
    gaze: Gaze | None = None

    def __post_init__(self) -> None:
        if self.gaze is None:
            return
        found = (len(self.gaze.views), max(self.gaze.state_indices) < len(self.state_names))
        if found != (len(self.views), True):
            raise ConfigError(
                f"robot {self.name}: its gaze has {found[0]} cameras and reads the state at "
                f"{self.gaze.state_indices}; expected one for each of {self.views}, and indices "
                f"of {self.state_names}"
            )

    @property
    def motion_limits(self) -> MotionLimits:
        """The declared limits, or else `MotionLimits.of_space`."""
        return self.limits or MotionLimits.of_space(self.action_space)


@dataclass(frozen=True, slots=True)
class Frames:
    """What the cameras and encoders showed: images as in `Observation`, state (s,) float32."""

    images: Mapping[str, np.ndarray]
    state: np.ndarray


class Robot(Protocol):
    """A robot, simulated or real. The world moves with the clock, never with the model.

    `command`, `advance_to` and `capture` are called from the control thread and must be quick;
    `observe` is called from the observer (another thread in real time) on a capture made earlier,
    or on another robot of the same kind (in the model's process). What else a robot can do its
    specification declares: `StandingRobot`, `PlacedRobot`, `DrawnRobot`, `StimulatedRobot`,
    `MeasuredRobot`.
    """

    @property
    def spec(self) -> RobotSpec: ...

    @property
    def instruction(self) -> str:
        """The present task in words."""
        ...

    @property
    def success(self) -> bool:
        """Whether the task was reached at any time since `reset`."""
        ...

    def reset(self, seed: int, now_ns: int, command_duration_ns: int) -> None:
        """Start an episode at `now_ns`; each command takes `command_duration_ns` of clock time."""
        ...

    def command(self, values: np.ndarray, now_ns: int) -> None:
        """Put one command (d,) in force from `now_ns` on. A real robot sends it here."""
        ...

    def advance_to(self, now_ns: int) -> None:
        """Let the world run up to `now_ns`; a real robot does nothing here."""
        ...

    def capture(self) -> Capture:
        """Freeze what the sensors see at this instant; cheap (no rendering)."""
        ...

    def observe(self, capture: Capture) -> Frames:
        """Turn a capture into frames (renders, in a simulator). Thread-safe to `command`."""
        ...

    def close(self) -> None: ...


class StandingRobot(Robot, Protocol):
    """A robot that measures its absolute dimensions, such as joints."""

    def standing(self) -> np.ndarray:
        """(d,) where they are at this instant, action units; delta dimensions are ignored."""
        ...


class PlacedRobot(Robot, Protocol):
    """A robot, mostly simulated, that knows where the things are that matter."""

    def places(self) -> np.ndarray:
        """(p,) metres at this instant, `RobotSpec.place_names`: for experts and as a target of
        training, never for a policy."""
        ...


class DrawnRobot(Robot, Protocol):
    """A robot that draws its captures at any size, for videos."""

    def render_capture(self, capture: Capture, *, size: tuple[int, int]) -> np.ndarray:
        """(height, width, 3) uint8 picture of a capture; size: (height, width), pixels."""
        ...


class StimulatedRobot(Robot, Protocol):
    """A robot that knows when its world changed so that it should react."""

    @property
    def stimulus_ns(self) -> int | None:
        """The latest such instant; None: nothing happened yet."""
        ...


class MeasuredRobot(Robot, Protocol):
    """A robot that measures how it is doing, for the evaluation and never for a policy.

    Names that `streamvla.evaluation.metrics` knows: `hand_x_m`, `hand_y_m`, `hand_z_m` (where the
    hand is), `contact_force_n` (the largest since the measurement before), `energy_j` (spent since
    the reset), `score` (0 to 10 so far), `missed` (objects so far). Two arms say `left_hand_x_m`
    and so on.
    """

    def measure(self) -> np.ndarray:
        """(m,) one number for each of `RobotSpec.measures`, at this instant; quick."""
        ...


@dataclass(frozen=True)
class PolicySpec:
    """What a policy expects and gives: must fit the robot (`RobotSpec`) it drives.

    Attributes:
        horizon: H, actions per generation.
        chunk_passes: 0 for a policy that streams, one action per pass of its expert; n > 0 for one
            that gives the whole chunk after n passes. Drivers then run a generation as one job of
            n passes instead of H jobs of one.
        anticipates: whether it is an `AnticipatingPolicy`.
        tells_goal: whether it is a `GoalPolicy`.
        thresholds: η of every view, up to which a saliency counts as none, as its predictor was
            calibrated; empty if it was not.
        longest_lead: the longest lead it was calibrated at; None: it was not.
        settings: those of its method that need no training to change, with their values.
        vocabulary: the words it knows; None where there is no list of them.
        max_age: the largest age of an observation that it knows (`FlowStart.age`), in actions;
            older ones count as this. 0: it cannot use one that is older than the executor states.
        counts: whether it is a `CountingPolicy`.
        remembers: whether it is a `RememberingPolicy`.
        unclear_up_to: the clarity up to which an instruction counts as unclear; None: it is no
            `UnderstandingPolicy`.
        rephrases: whether it is a `RephrasingPolicy`.
        sees_truth: whether its state is the whole state of a simulated world instead of what a
            robot measures (`robots.truth`), as an expert's that drives is.
        gaze: where it cuts crops, of a policy that does; the robot's cameras must stand there.
    """

    action_space: ActionSpace
    horizon: int
    views: tuple[str, ...]
    image_size: tuple[int, int]
    state_dim: int
    control_period_ns: int
    chunk_passes: int = 0
    anticipates: bool = False
    tells_goal: bool = False
    thresholds: tuple[float, ...] = ()
    longest_lead: int | None = None
    settings: Mapping[str, float] = field(default_factory=dict[str, float])
    vocabulary: frozenset[str] | None = None
    max_age: int = 0
    counts: bool = False
    remembers: bool = False
    unclear_up_to: float | None = None
    rephrases: bool = False
    sees_truth: bool = False
    gaze: Gaze | None = None


class Policy(Protocol):
    """Observation → context → actions, one at a time."""

    @property
    def spec(self) -> PolicySpec: ...

    def encode(self, observation: Observation) -> Any:
        """The context (prefix KV cache) of one observation: any object, None too."""
        ...

    def generate(self, context: Any, start: FlowStart) -> Iterator[np.ndarray]:
        """Yield `H − start.index` actions, each (d,) float64 in robot units, as they are made.

        The work is done in `next`: one pass of the expert a call, or the whole chunk in the first
        call (`PolicySpec.chunk_passes`).
        """
        ...


@dataclass(frozen=True, slots=True)
class Anticipation:
    """What a policy expects its cameras to show once some motions are executed.

    Attributes:
        saliency: (m, v) for each of m motions and v views the size ‖Δ‖₂ of the expected change.
        changes: one per motion, for `AnticipatingPolicy.contextualise`.
    """

    saliency: np.ndarray
    changes: Sequence[Any]


class AnticipatingPolicy(Policy, Protocol):
    """A policy that can tell how much what it sees will have changed, and correct for it.

    `encode(observation)` is `contextualise(look(observation))`. A *motion* is what pending actions
    will have done: their sum in delta dimensions, the last of them in absolute ones.
    """

    def look(self, observation: Observation) -> Any:
        """What the cameras show, before it becomes a context (vision tokens)."""
        ...

    def anticipate(self, sight: Any, motions: np.ndarray) -> Anticipation:
        """What each of (m, d) motions would change in a sight."""
        ...

    def contextualise(self, sight: Any, change: Any = None) -> Any:
        """The context of a sight, or of what it will be after a change."""
        ...


def require_anticipation(policy: Policy) -> AnticipatingPolicy:
    """The policy, if it anticipates.

    Raises:
        ConfigError: it does not.
    """
    if not policy.spec.anticipates:
        raise ConfigError(NO_ANTICIPATION)
    return cast(AnticipatingPolicy, policy)


NO_ANTICIPATION = (
    "the policy has no saliency predictor, which the adaptive rule and the compensation 'context' "
    "need: train one with `streamvla train-saliency --policy …`, or choose another rule"
)


class CountingPolicy(Policy, Protocol):
    """A policy that counts what its observations cost."""

    def cost(self, made: Any) -> ObservationCost:
        """Of the observation behind a context; of one that was only looked at, its sight's."""
        ...


def cost_of(policy: Policy, made: Any) -> ObservationCost | None:
    """What a `CountingPolicy` counted for a context or a sight; None of other policies."""
    return cast(CountingPolicy, policy).cost(made) if policy.spec.counts else None


class RememberingPolicy(Policy, Protocol):
    """A policy whose contexts depend on the observations before."""

    def begin(self) -> None:
        """An episode begins: nothing that was seen before counts."""
        ...


def begin_episode(policy: Policy) -> None:
    """Let a `RememberingPolicy` forget."""
    if policy.spec.remembers:
        cast(RememberingPolicy, policy).begin()


def remembering_nothing(policy: Policy) -> AbstractContextManager[None]:
    """What is done meanwhile, such as measuring, leaves what a policy remembers as it was; one that
    keeps nothing beyond `begin` need not have `apart`."""
    apart: Callable[[], AbstractContextManager[None]] = getattr(policy, "apart", nullcontext)
    return apart()


class GoalPolicy(Policy, Protocol):
    """A policy that tells where the motion should end."""

    def goal(self, context: Any) -> np.ndarray | None:
        """(d,) the action state where, by this context, the motion should end; None: it does not
        know. A fallback controller may drive there when the policy falls silent."""
        ...


def goal_of(policy: Policy, context: Any) -> np.ndarray | None:
    """(d,) what a `GoalPolicy` tells of a context; None of other policies.

    Raises:
        SpecMismatchError: what it tells is not `d` finite numbers.
    """
    if not policy.spec.tells_goal:
        return None
    told = cast(GoalPolicy, policy).goal(context)
    if told is None:
        return None
    goal, dim = np.asarray(told, dtype=float), policy.spec.action_space.dim
    if goal.shape != (dim,) or not np.isfinite(goal).all():
        raise SpecMismatchError(
            f"the policy tells the goal {told}: expected {dim} finite numbers, an action state"
        )
    return goal


class UnderstandingPolicy(Policy, Protocol):
    """A policy that tells how clear an instruction is to it."""

    def clarity(self, instruction: str) -> float:
        """From 0, nothing in it says what to do, to 1. Asked at every observation, so quick."""
        ...


def unclear_to(policy: Policy, instruction: str) -> float | None:
    """The clarity of an instruction that is unclear to a policy; None: it is clear, or the policy
    is no `UnderstandingPolicy`.

    Raises:
        SpecMismatchError: the clarity it tells is no number from 0 to 1.
    """
    if policy.spec.unclear_up_to is None:
        return None
    clarity = float(cast(UnderstandingPolicy, policy).clarity(instruction))
    if not 0 <= clarity <= 1:
        raise SpecMismatchError(
            f"the policy tells clarity {clarity} for {instruction!r}: expected a number from 0 to 1"
        )
    return clarity if clarity <= policy.spec.unclear_up_to else None


class RephrasingPolicy(Policy, Protocol):
    """A policy whose model may read another text than the instruction."""

    def told(self, instruction: str) -> tuple[str, float]:
        """What its model reads for an instruction, the instruction itself included, and how similar
        the two are, 1 for the same. Asked at every observation, so quick."""
        ...


def rephrased_by(policy: Policy, instruction: str) -> tuple[str, float] | None:
    """What the model of a `RephrasingPolicy` reads instead of an instruction, and how similar that
    is; None: the instruction itself, or the policy is none.

    Raises:
        SpecMismatchError: the similarity is no finite number.
    """
    if not policy.spec.rephrases:
        return None
    phrase, similarity = cast(RephrasingPolicy, policy).told(instruction)
    if not np.isfinite(similarity):
        raise SpecMismatchError(
            f"the policy reads {instruction!r} as {phrase!r} with similarity {similarity}: "
            "expected a finite number"
        )
    return None if phrase == instruction else (phrase, float(similarity))


def standing_at(robot: Robot) -> np.ndarray:
    """(d,) the action state in which a robot stands after `reset`, before any command.

    Delta dimensions count from here: 0. Absolute dimensions are where a `StandingRobot` measures
    them, or where the specification says that they start; else they start at 0 too, so that a first
    hold would drive joints there.

    Raises:
        RobotError: what the robot measured is not `d` finite numbers.
    """
    space = robot.spec.action_space
    if not robot.spec.measures_standing:
        start = robot.spec.start
        return space.initial_state() if start is None else space.hold(np.array(start))
    measured = np.asarray(cast(StandingRobot, robot).standing(), dtype=float)
    if measured.shape != (space.dim,) or not np.isfinite(measured).all():
        raise RobotError(
            f"robot {robot.spec.name} stands at {measured}: expected {space.dim} finite numbers, "
            f"one for each of {', '.join(space.names)}"
        )
    return np.where(space.is_delta(), space.initial_state(), measured)


def places_of(robot: Robot) -> np.ndarray:
    """(p,) float32 metres, where things are at this instant; p = 0 where the robot does not know.

    Raises:
        RobotError: not as many finite numbers as the specification names.
    """
    names = robot.spec.place_names
    if not names:
        return np.zeros(0, np.float32)
    places = np.asarray(cast(PlacedRobot, robot).places(), dtype=np.float32)
    if places.shape != (len(names),) or not np.isfinite(places).all():
        raise RobotError(
            f"robot {robot.spec.name} tells places {places}: expected {len(names)} finite numbers, "
            f"one for each of {', '.join(names)}"
        )
    return places


def measured_by(robot: Robot) -> dict[str, float]:
    """What a robot measures at this instant, by `RobotSpec.measures`; nothing if it does not.

    Raises:
        RobotError: not as many finite numbers as the specification names.
    """
    names = robot.spec.measures
    if not names:
        return {}
    values = np.asarray(cast(MeasuredRobot, robot).measure(), dtype=float)
    if values.shape != (len(names),) or not np.isfinite(values).all():
        raise RobotError(
            f"robot {robot.spec.name} measures {values}: expected {len(names)} finite numbers, one "
            f"for each of {', '.join(names)}"
        )
    return dict(zip(names, values.tolist(), strict=True))


def stimulus_of(robot: Robot) -> int | None:
    """The latest instant, ns, at which the world changed so that the robot should react; None:
    nothing happened yet, or the robot does not know (`StimulatedRobot`)."""
    return cast(StimulatedRobot, robot).stimulus_ns if robot.spec.knows_stimulus else None


def picture_of(robot: Robot, capture: Capture, size: tuple[int, int]) -> np.ndarray:
    """(height, width, 3) uint8: what a capture shows, for people; of `size` from a `DrawnRobot`,
    else the first view as the policy sees it."""
    if robot.spec.draws_captures:
        return cast(DrawnRobot, robot).render_capture(capture, size=size)
    return robot.observe(capture).images[robot.spec.views[0]]


def check_fit(policy: PolicySpec, robot: RobotSpec) -> None:
    """Raise `SpecMismatchError` unless the policy was made for a robot like this one.

    A policy that reads every dimension as a delta (an ablation) fits too: commands are the same.
    """
    if policy.action_space != robot.action_space.as_deltas():
        robot.action_space.require(policy.action_space, "the policy")
    pairs = (
        ("views", policy.views, robot.views),
        ("image size", policy.image_size, robot.image_size),
        ("state dimensions", policy.state_dim, len(robot.state_names)),
        ("control period (ns)", policy.control_period_ns, robot.control_period_ns),
    )
    for what, expected, found in pairs:
        if expected != found:
            raise SpecMismatchError(
                f"the policy was trained with {what} {expected}, robot {robot.name!r} has {found}; "
                "use a checkpoint made for this robot, or set the robot up as it was in training"
            )
    if policy.gaze is not None and (robot.gaze is None or not policy.gaze.near(robot.gaze)):
        raise SpecMismatchError(
            f"the policy cuts crops around the gripper; robot {robot.name!r} has "
            f"{'no camera model' if robot.gaze is None else 'another camera model'} "
            "(RobotSpec.gaze): use a checkpoint made for this robot, or state its cameras as they "
            "were in training"
        )


def check_frames(frames: Frames, robot: RobotSpec) -> None:
    """Raise `RobotError` unless frames have the specified views, sizes, types and state."""
    if tuple(frames.images) != robot.views:
        raise RobotError(
            f"robot {robot.name} shows views {tuple(frames.images)}; its specification says "
            f"{robot.views}, in this order"
        )
    for view, image in frames.images.items():
        if image.shape != (*robot.image_size, 3) or image.dtype != np.uint8:
            raise RobotError(
                f"robot {robot.name}, view {view!r}: {image.dtype} of shape {image.shape}; its "
                f"specification says uint8 of shape {(*robot.image_size, 3)}"
            )
    if frames.state.shape != (len(robot.state_names),) or not np.isfinite(frames.state).all():
        raise RobotError(
            f"robot {robot.name} measures state {frames.state}; expected {len(robot.state_names)} "
            f"finite numbers: {', '.join(robot.state_names) or 'none'}"
        )


def check_start(robot: RobotSpec) -> None:
    """Raise `RobotError` if a first hold would drive absolute dimensions to 0 from nobody knows
    where."""
    space = robot.action_space
    unknown = [name for name, delta in zip(space.names, space.is_delta(), strict=True) if not delta]
    if unknown and not robot.measures_standing and robot.start is None:
        raise RobotError(
            f"robot {robot.name}: nobody knows where {', '.join(unknown)} stand before the first "
            "command, and a hold would drive them to 0. Let the robot measure it (a method "
            "`standing`, RobotSpec(measures_standing=True)), or state RobotSpec(start=…)"
        )
    if robot.start is not None and len(robot.start) != space.dim:
        raise RobotError(
            f"robot {robot.name}: start has {len(robot.start)} numbers, expected {space.dim}, one "
            f"for each of {', '.join(space.names)}"
        )
