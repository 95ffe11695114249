"""Balls roll over the table from one side: stop each with the paddle before it crosses the line.

gate ▐ ● ───────►      paddle ▌    line ┊       where it will cross can be foreseen from its speed
score     for the share of balls that were stopped; of one that went by, for how near the hand came
"""

from __future__ import annotations

import numpy as np

from streamvla.robots.gl import import_mujoco
from streamvla.robots.instructions import Phrasings
from streamvla.robots.tabletop.arm import Arm
from streamvla.robots.tabletop.scene import GREY, MjSpec
from streamvla.robots.tempo.loose import Loose
from streamvla.robots.tempo.motion import CLOSED, tips_of, towards
from streamvla.robots.tempo.robot import TempoTask

BALLS = 3
SPEED_M_S = 0.5
"""Towards the line, at difficulty 1."""
FIRST_S, BETWEEN_S = (0.6, 1.4), (2.4, 3.4)
"""Until the first ball; from one to the next."""
GATE_M, CATCH_M, LINE_M = -0.36, 0.14, 0.30
"""Along the way of the balls: where they appear, where the expert waits, and where it is late."""
NEAR_CREDIT = 0.5
"""Of a ball, for having come near."""

_SUBSTEPS_PER_S = 80
_RADIUS_M, _MASS_KG = 0.03, 0.05
_PADDLE_HALF_M = (0.035, 0.045, 0.006)
"""Height, width along y, thickness."""
_MIDDLE_M = 0.68
_ASIDE_M = (0.10, 0.19)
"""The balls cross the line so far from the middle."""
_GATE_SPREAD_M = 0.17
_LOW_M = 0.055
"""Height of the fingertips with the paddle down."""
_FAR_M = 0.25
_SLOW_M_S = 0.02
_NEAR_M, _FAR_EDGE_M = 0.30, 0.96
_ROLLING_ONLY = 8
"""Collision bit that only ball and paddle have, so that the fingers may hold the paddle."""
_WAITING, _ROLLING, _STOPPED = range(3)


class Ball:
    """Implements `TempoScene`. The ways of the balls go along +x or along -x, by episode."""

    def __init__(self, arm: Arm, difficulty: float) -> None:
        self._arm = arm
        self._speed_m_s = SPEED_M_S * difficulty
        self._ball = Loose(arm, "ball", 0, _RADIUS_M)
        self._way = 1.0
        self._launches: dict[int, tuple[float, float, float]] = {}
        self._phase, self._felt = _WAITING, False
        self._credit, self._near, self._missed = 0.0, 0.0, 0
        self._surprised = False

    @staticmethod
    def furnish(spec: MjSpec) -> None:
        mujoco = import_mujoco()
        inertia = 0.4 * _MASS_KG * _RADIUS_M**2
        ball = spec.worldbody.add_body(
            name="ball", mass=_MASS_KG, inertia=(inertia,) * 3, explicitinertial=True
        )
        ball.add_freejoint(name="ball")
        ball.add_geom(
            name="ball",
            type=mujoco.mjtGeom.mjGEOM_SPHERE,
            size=(_RADIUS_M, 0.0, 0.0),
            rgba=(1.0, 0.45, 0.0, 1.0),
            contype=1 | _ROLLING_ONLY,
            condim=6,
            priority=1,
            friction=(0.5, 0.002, 0.0001),
            solref=(0.01, 1.0),
        )
        spec.body("hand").add_geom(
            type=mujoco.mjtGeom.mjGEOM_BOX,
            pos=(0.045, 0.0, 0.0),
            size=_PADDLE_HALF_M,
            rgba=(0.1, 0.25, 1.0, 1.0),
            contype=0,
            conaffinity=_ROLLING_ONLY,
        )
        _add_mark(spec, "gate", (0.012, 0.24, 0.05), GREY)
        _add_mark(spec, "line", (0.006, 0.30, 0.001), (0.9, 0.05, 0.05, 1.0))

    def place(self, stream: np.random.Generator) -> None:
        self._way = float(stream.choice((-1.0, 1.0)))
        model = self._arm.model
        model.body("gate").pos[:2] = (self._way * GATE_M, _MIDDLE_M)
        model.body("line").pos[:2] = (self._way * LINE_M, _MIDDLE_M)
        self._launches = {}
        step = _substeps(stream.uniform(*FIRST_S))
        for _ in range(BALLS):
            crossing = stream.choice((-1.0, 1.0)) * stream.uniform(*_ASIDE_M)
            start = stream.uniform(-_GATE_SPREAD_M, _GATE_SPREAD_M)
            speed = self._speed_m_s * stream.uniform(0.9, 1.1)
            self._launches[step] = (float(start), float(crossing), float(speed))
            step += _substeps(stream.uniform(*BETWEEN_S))
        self._phase, self._felt = _WAITING, False
        self._credit, self._near, self._missed = 0.0, 0.0, 0
        self._surprised = False
        self._ball.park()

    def before(self, step: int) -> None:
        launch = self._launches.get(step)
        self._surprised = launch is not None
        if launch is not None:
            self._launch(*launch)

    def _launch(self, start_m: float, crossing_m: float, speed_m_s: float) -> None:
        """Let it roll from the gate so that it is at `crossing_m` where the expert waits."""
        if self._phase == _ROLLING:  # it lies somewhere between hand and line
            self._end_ball(self._near, missed=True)
        slope = (crossing_m - start_m) / (CATCH_M - GATE_M)
        x, y = self._way * speed_m_s, slope * speed_m_s
        spin = (-y / _RADIUS_M, x / _RADIUS_M, 0.0)
        position = np.array([self._way * GATE_M, _MIDDLE_M + start_m, _RADIUS_M])
        self._ball.put(position, np.array([x, y, 0.0, *spin]))
        self._phase, self._felt, self._near = _ROLLING, False, 0.0

    def after(self, step: int, contact_force_n: float) -> None:
        if self._phase != _ROLLING:
            return
        position = self._ball.position_m
        away = float(np.linalg.norm(position[:2] - tips_of(self._arm)[:2]))
        self._near = max(self._near, NEAR_CREDIT * max(0.0, 1.0 - away / _FAR_M))
        self._felt |= self._ball.touched
        along = self._way * position[0]
        if self._felt and self._way * self._ball.velocity_m_s[0] <= _SLOW_M_S:
            self._end_ball(1.0, missed=False)
        elif along >= LINE_M or not _NEAR_M <= position[1] <= _FAR_EDGE_M:
            self._end_ball(self._near, missed=True)
            self._ball.park()

    def _end_ball(self, credit: float, *, missed: bool) -> None:
        self._credit += credit
        self._missed += missed
        self._phase, self._near = _STOPPED, 0.0

    @property
    def surprised(self) -> bool:
        return self._surprised

    @property
    def score(self) -> float:
        return 10.0 * (self._credit + self._near) / BALLS

    @property
    def missed(self) -> int:
        return self._missed

    def truth(self) -> np.ndarray:
        return np.array(
            [self._phase, self._felt, self._credit, self._near, self._missed], dtype=np.float64
        )

    def assume(self, truth: np.ndarray) -> None:
        self._phase, self._felt = int(truth[0]), bool(truth[1])
        self._credit, self._near, self._missed = float(truth[2]), float(truth[3]), int(truth[4])
        self._launches = {}

    def act(self) -> np.ndarray:
        """To where the ball will come by; while none rolls, to the middle of all ways."""
        _, target = self.places_m()
        return towards(self._arm, target, CLOSED)

    def places_m(self) -> tuple[np.ndarray, np.ndarray]:
        catch = np.array([self._way * CATCH_M, _MIDDLE_M, _LOW_M])
        if self._phase != _ROLLING:
            return tips_of(self._arm), catch
        position, velocity = self._ball.position_m, self._ball.velocity_m_s
        left_m = CATCH_M - _RADIUS_M - self._way * position[0]
        speed_m_s = self._way * velocity[0]
        seconds = max(0.0, left_m) / max(speed_m_s, _SLOW_M_S)
        catch[1] = np.clip(position[1] + velocity[1] * seconds, _NEAR_M + 0.15, _FAR_EDGE_M - 0.05)
        return position, catch


def _substeps(seconds: float) -> int:
    return round(seconds * _SUBSTEPS_PER_S)


def _add_mark(
    spec: MjSpec,
    name: str,
    half_m: tuple[float, float, float],
    rgba: tuple[float, float, float, float],
) -> None:
    """A box that nothing collides with, on the table."""
    spec.worldbody.add_body(name=name).add_geom(
        type=import_mujoco().mjtGeom.mjGEOM_BOX,
        pos=(0.0, 0.0, half_m[2]),
        size=half_m,
        rgba=rgba,
        contype=0,
        conaffinity=0,
    )


TASK = TempoTask(
    Ball,
    Ball.furnish,
    Phrasings(
        (
            "stop the rolling ball before it crosses the red line",
            "block the orange ball with the paddle",
            "keep the orange balls from crossing the line",
            "intercept the ball that rolls over the table",
        ),
        ("do not let any ball get past the red line",),
    ),
    stimulus="a ball was launched",
)
