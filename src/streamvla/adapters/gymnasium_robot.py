"""Any `gymnasium.Env` as a robot: its world moves with the clock, not with calls of `step`.

    control thread   command ─ step ─ step ─ …        the environment
                        └─ capture: its state as arrays
    render thread          └─► a twin of the environment takes the state and draws it

An environment draws what is now; a policy must see what was, at the instant of the capture, while
the world goes on. So a second environment draws, in a thread of its own, from the captured state.
That works where the state can be read and set (`Freezer`): MuJoCo environments of Gymnasium, and
those on dm_control, such as gym-aloha. Others are drawn at the capture, by the control thread,
which is late by as long as that takes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

import numpy as np

from streamvla.core.action_space import ActionSpace, DimensionKind
from streamvla.core.errors import ConfigError, RobotError
from streamvla.core.interfaces import ArraySpec, Capture, Frames, RobotSpec
from streamvla.core.limits import MotionLimits
from streamvla.robots.gl import import_mujoco, select_gl_backend
from streamvla.robots.schedule import CommandSchedule

VIEW = "camera"


class Freezer(Protocol):
    """Reads and sets the state of a kind of environment."""

    def freeze(self, environment: Any) -> Capture:
        """Everything that drawing needs, as arrays of its own."""
        ...

    def thaw(self, environment: Any, capture: Capture) -> None:
        """Put another environment of this kind into that state."""
        ...

    def quieten(self, environment: Any) -> None:
        """Keep `step` from drawing, where it would."""
        ...

    def close(self, environment: Any) -> None:
        """Close it, and free what it drew with, in the thread that did."""
        ...


class MujocoFreezer:
    """Of Gymnasium's own MuJoCo environments."""

    def freeze(self, environment: Any) -> Capture:
        data = environment.unwrapped.data
        arrays = ("qpos", "qvel", "mocap_pos", "mocap_quat")
        return {name: getattr(data, name).copy() for name in arrays}

    def thaw(self, environment: Any, capture: Capture) -> None:
        mujoco = import_mujoco()
        model, data = environment.unwrapped.model, environment.unwrapped.data
        for name, array in capture.items():
            getattr(data, name)[:] = array
        mujoco.mj_forward(model, data)

    def quieten(self, environment: Any) -> None:
        pass

    def close(self, environment: Any) -> None:
        environment.close()


class DmControlFreezer:
    """Of environments around a dm_control `Environment`, as gym-aloha's."""

    def freeze(self, environment: Any) -> Capture:
        return {"physics": _physics(environment).get_state()}

    def thaw(self, environment: Any, capture: Capture) -> None:
        physics = _physics(environment)
        with physics.reset_context():
            physics.set_state(capture["physics"])

    def quieten(self, environment: Any) -> None:
        """gym-aloha's `step` draws three pictures of 640 × 480 that nobody looks at."""

        def blank(height: int = 240, width: int = 320, **_: Any) -> np.ndarray:
            return np.zeros((height, width, 3), np.uint8)

        _physics(environment).render = blank

    def close(self, environment: Any) -> None:
        environment.close()
        _physics(environment).free()


def _physics(environment: Any) -> Any:
    return environment.unwrapped._env.physics


def freezer_for(environment: Any) -> Freezer | None:
    """What fits an environment; None: nothing that is known here."""
    inner = environment.unwrapped
    if hasattr(inner, "_env") and hasattr(inner._env, "physics"):
        return DmControlFreezer()
    if hasattr(inner, "model") and hasattr(inner, "data") and hasattr(inner.data, "qpos"):
        return MujocoFreezer()
    return None


def box_space(
    environment: Any, kind: DimensionKind, names: Sequence[str] | None = None
) -> ActionSpace:
    """The action space of an environment with a bounded `Box`, all dimensions of one kind.

    Raises:
        ConfigError: it is no box of one dimension, or without bounds.
    """
    box = environment.action_space
    low, high = getattr(box, "low", None), getattr(box, "high", None)
    if low is None or high is None or low.ndim != 1 or not np.isfinite([*low, *high]).all():
        raise ConfigError(
            f"action space {box}: expected a Box of shape (d,) with finite bounds; state an "
            "ActionSpace of your own, and `act`, which makes the environment's action of a command"
        )
    names = tuple(names or (f"action_{index}" for index in range(len(low))))
    return ActionSpace(names, (kind,) * len(low), tuple(map(float, low)), tuple(map(float, high)))


class GymnasiumRobot:
    """A `gymnasium.Env` behind the `Robot` interface. One command acts for one `step`.

        robot = GymnasiumRobot(lambda: gym.make("Reacher-v5", render_mode="rgb_array"),
                               control_hz=50, kinds="absolute", standing=lambda env: …)

    Args:
        make: makes the environment, with `render_mode="rgb_array"`; called twice where it can be
            frozen, the second time in the render thread. It must not end episodes by itself.
        control_hz: steps a second at nominal speed.
        space: of the commands; None for the environment's own box, every dimension of `kinds`.
        kinds: what a command means: "absolute" targets, or "delta" steps.
        act: (environment, command (d,)) → the environment's action; None for the command itself.
        standing: environment → (d,) where absolute dimensions stand after a reset. Needed for
            absolute dimensions, or the first hold would drive them to 0.
        state: (environment, its observation) → (s,) what the policy is told of the robot; None
            for nothing.
        state_names: one per dimension s.
        picture: environment → (height, width, 3) uint8; None for its `render()`.
        image_size: (height, width) that pictures have; None to draw one and look.
        success: (environment, info) → whether the task is reached; None for `info["is_success"]`
            or `info["success"]`, where there is one; a simulation that says neither in its first
            step has no task (`RobotSpec.has_task`).
        instruction: what the robot is told to do.
        limits: how it may be commanded to move; None for what its action space implies.
        freezer: None for what fits.
        name: of the robot.

    Raises:
        ConfigError: an action space without bounds, or kinds that are unknown.
        RobotError: the environment cannot be made or drawn.
    """

    def __init__(
        self,
        make: Callable[[], Any],
        *,
        control_hz: float,
        space: ActionSpace | None = None,
        kinds: DimensionKind = "absolute",
        act: Callable[[Any, np.ndarray], Any] | None = None,
        standing: Callable[[Any], Any] | None = None,
        state: Callable[[Any, Any], Any] | None = None,
        state_names: Sequence[str] = (),
        picture: Callable[[Any], np.ndarray] | None = None,
        image_size: tuple[int, int] | None = None,
        success: Callable[[Any, dict[str, Any]], bool] | None = None,
        instruction: str = "",
        limits: MotionLimits | None = None,
        freezer: Freezer | None = None,
        name: str = "gymnasium",
    ) -> None:
        select_gl_backend()
        self._environment: Any = _made(make)
        self._freezer = freezer or freezer_for(self._environment)
        self._act = act or (lambda environment, command: command.astype(np.float32))
        self._standing = standing
        self._state = state or (lambda environment, observation: np.zeros(0))
        self._picture = picture or (lambda environment: environment.render())
        self._reached = success or _told_success
        self._instruction = instruction
        self._schedule: CommandSchedule | None = None
        self._success = False
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="render")
        self._twin: Any = None
        if self._freezer is not None:
            self._freezer.quieten(self._environment)
            self._twin = self._thread.submit(_made, make).result()
            self._thread.submit(self._twin.reset, seed=0).result()
        self._observation, _ = self._environment.reset(seed=0)
        self._spec = RobotSpec(
            name=name,
            action_space=space or box_space(self._environment, kinds),
            views=(VIEW,),
            image_size=image_size or self._size_of_a_picture(),
            state_names=tuple(state_names),
            control_period_ns=round(1e9 / control_hz),
            limits=limits,
            capture=tuple(ArraySpec.of(key, array) for key, array in self._freeze().items()),
            measures_standing=standing is not None,
            has_task=success is not None or self._says_success(),
        )

    @property
    def spec(self) -> RobotSpec:
        return self._spec

    @property
    def instruction(self) -> str:
        return self._instruction

    @property
    def success(self) -> bool:
        return self._success

    def reset(self, seed: int, now_ns: int, command_duration_ns: int) -> None:
        """Start the episode `seed`.

        Raises:
            ConfigError: a negative seed, or a vanishing duration.
        """
        if seed < 0:
            raise ConfigError(f"episode seed {seed}: expected an integer ≥ 0")
        self._observation, _ = self._environment.reset(seed=seed)
        self._success = False
        standing = None if self._standing is None else self.standing()
        space = self._spec.action_space
        self._schedule = CommandSchedule(space, 1, now_ns, command_duration_ns, standing)

    def standing(self) -> np.ndarray:
        """(d,) where absolute dimensions stand at this instant."""
        if self._standing is None:
            raise RobotError(f"robot {self._spec.name} does not measure where it stands")
        return np.asarray(self._standing(self._environment), dtype=np.float64)

    def command(self, values: np.ndarray, now_ns: int) -> None:
        self.advance_to(now_ns)
        self._running().put(values)

    def advance_to(self, now_ns: int) -> None:
        """Make the steps that end at or before `now_ns`: a held step where no command came."""
        for command in self._running().due(now_ns):
            action = self._act(self._environment, command)
            self._observation, _, _, _, info = self._environment.step(action)
            self._success = self._success or bool(self._reached(self._environment, info))

    def capture(self) -> Capture:
        self._running()
        return self._freeze()

    def observe(self, capture: Capture) -> Frames:
        """Draw a capture in the render thread; thread-safe to everything else."""
        if self._freezer is None:
            return Frames({VIEW: capture[VIEW]}, capture["state"])
        image = self._thread.submit(self._draw, capture).result()
        return Frames({VIEW: image}, capture["state"])

    def close(self) -> None:
        """Close both environments; safe to call twice."""
        if self._environment is None:
            return
        if self._freezer is None:
            self._environment.close()
        else:
            self._freezer.close(self._environment)
            self._thread.submit(self._freezer.close, self._twin).result()
        self._thread.shutdown()
        self._environment = self._twin = self._schedule = None

    def _freeze(self) -> dict[str, np.ndarray]:
        state = np.asarray(self._state(self._environment, self._observation), dtype=np.float32)
        if self._freezer is None:
            return {VIEW: np.asarray(self._picture(self._environment)), "state": state}
        return {**self._freezer.freeze(self._environment), "state": state}

    def _draw(self, capture: Capture) -> np.ndarray:
        assert self._freezer is not None
        frozen = {name: array for name, array in capture.items() if name != "state"}
        self._freezer.thaw(self._twin, frozen)
        return np.ascontiguousarray(self._picture(self._twin))

    def _says_success(self) -> bool:
        """Whether the environment says after a step if its task is reached; tried on the second one
        of a simulation, and taken for granted where there is none."""
        if self._twin is None:
            return True
        action = self._twin.action_space.sample()
        _, _, _, _, info = self._thread.submit(self._twin.step, action).result()
        return bool({"is_success", "success"} & set(info))

    def _size_of_a_picture(self) -> tuple[int, int]:
        capture = self._freeze()
        image = self.observe(capture).images[VIEW]
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
            raise RobotError(
                f"the environment draws {image.dtype} {image.shape}: expected uint8 (height, "
                'width, 3); make it with render_mode="rgb_array", or give `picture`'
            )
        return image.shape[0], image.shape[1]

    def _running(self) -> CommandSchedule:
        if self._schedule is None:
            raise RobotError("the robot has no episode yet: call reset(seed, …) first")
        return self._schedule


def _made(make: Callable[[], Any]) -> Any:
    environment = make()
    if not hasattr(environment, "unwrapped") or not hasattr(environment, "action_space"):
        raise RobotError(
            f"`make` gave {type(environment).__name__}: expected a gymnasium.Env; pass a function, "
            'such as lambda: gymnasium.make("Reacher-v5", render_mode="rgb_array")'
        )
    return environment


def _told_success(environment: Any, info: dict[str, Any]) -> bool:
    return bool(info.get("is_success", info.get("success", False)))
