"""What the streamer is told, and what it asks for.

events in   Started  Tick | Free   Observed   Generated
            StageFailed   Interrupted   SafeStop   Rearm
commands    StartObserve   StartGenerate   CancelGenerate   Send   Stop
out
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from streamvla.core.errors import StageFailedError
from streamvla.core.interfaces import FlowStart
from streamvla.runtime.executors.base import Foresee, Saliency

# --- events in -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Started:
    """The episode begins: the robot stands ready at `now_ns`.

    `action_state` (d,) is where (`core.interfaces.standing_at`); None for all zeros.
    """

    now_ns: int
    action_state: np.ndarray | None = None


@dataclass(frozen=True, slots=True)
class Tick:
    """Grid pacing: control tick number `tick`, due at `due_ns`, is being served at `now_ns`.

    `why_late`: what ticks before it were skipped for, in words; "" if none was.
    """

    now_ns: int
    due_ns: int
    tick: int
    why_late: str = ""


@dataclass(frozen=True, slots=True)
class Free:
    """Event pacing: the robot finished its command at `due_ns`; it is noticed at `now_ns`."""

    now_ns: int
    due_ns: int


@dataclass(frozen=True, slots=True)
class Observed:
    """The context of an observation is ready, or the observation was refused.

    `goal` (d,) is the action state at which it says the motion should end; None if it does not.
    `frozen` names the views whose camera is frozen (`runtime.drivers.cameras`).
    `saliency`, `unclear` and `rephrased` are those of `drivers.observing.Sighting`.
    `frames_old_ns`: how much older than the capture the frames are that the context was made of.
    """

    now_ns: int
    observation: int
    goal: np.ndarray | None = None
    frozen: tuple[str, ...] = ()
    saliency: tuple[Saliency, ...] = ()
    refused: bool = False
    frames_old_ns: int = 0
    unclear: tuple[str, float] | None = None
    rephrased: tuple[str, str, float] | None = None


@dataclass(frozen=True, slots=True)
class Generated:
    """One flow step is done; the accelerator worked on it since `started_ns`."""

    now_ns: int
    started_ns: int
    generation: int
    index: int
    values: np.ndarray  # (d,)


@dataclass(frozen=True, slots=True)
class StageFailed:
    """A stage raised: "observe" or "generate"."""

    now_ns: int
    stage: str
    message: str


@dataclass(frozen=True, slots=True)
class Interrupted:
    """The owner wants to stop now (Ctrl-C): the robot shall hold, or come to rest first."""

    now_ns: int


@dataclass(frozen=True, slots=True)
class SafeStop:
    """An operator wants the robot to stop: latched until `Rearm`."""

    now_ns: int
    cause: str


@dataclass(frozen=True, slots=True)
class Rearm:
    """Somebody looked at the robot and ends a latched safe stop; without one it does nothing."""

    now_ns: int


Event = Started | Tick | Free | Observed | Generated | StageFailed | Interrupted | SafeStop | Rearm


# --- commands out ----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class StartObserve:
    """Capture the world now and encode it; `action_state` (d,) belongs into the observation.

    `foresee`: what an early observation shall tell of the motion still pending.
    """

    observation: int
    action_state: np.ndarray
    foresee: Foresee | None = None


@dataclass(frozen=True, slots=True)
class StartGenerate:
    """Generate from a ready context, one action after another.

    `start` carries all that the policy may know of the plan: the action state, the flow step, the
    age, the prefix that will have been executed, and the expected delay.
    """

    generation: int
    observation: int
    start: FlowStart


@dataclass(frozen=True, slots=True)
class CancelGenerate:
    """Stop a generation; what still arrives from it is ignored."""

    generation: int


@dataclass(frozen=True, slots=True)
class Send:
    """Put this command (d,) in force on the robot; after `valid_until_ns`, if set, not any more."""

    values: np.ndarray
    valid_until_ns: int | None = None


@dataclass(frozen=True, slots=True)
class Stop:
    """The robot was brought to its safe stop; end the run and raise `error` to the owner."""

    error: StageFailedError


Command = StartObserve | StartGenerate | CancelGenerate | Send | Stop
