"""Two balls glide about, one before each arm, and light up together now and then: both hands must
touch them, one within 150 ms of the other.

light     ──────┌────────┐─────     five rounds; a round ends with both touches, when the second is
left hand ────────────╳───────      too late, or after 1.6 s
right hand ─────────────╳─────
score     2 for a round whose two touches were in time
"""

from __future__ import annotations

from dataclasses import astuple, dataclass, field

import numpy as np

from streamvla.robots.gl import import_mujoco
from streamvla.robots.instructions import Phrasings
from streamvla.robots.tabletop.scene import COLOURS, MjSpec
from streamvla.robots.tempo.aloha.arms import SIDES, Arms, Side
from streamvla.robots.tempo.aloha.kinematics import HandPose
from streamvla.robots.tempo.aloha.reaching import LEAD_S, step_towards
from streamvla.robots.tempo.aloha.robot import AlohaTask

SPEED_M_S = 0.05
"""Of each ball at difficulty 1."""
ROUNDS = 5
ROUND_SUBSTEPS = 160
WINDOW_SUBSTEPS = 15
TOUCH_M = 0.03
PAUSE_SUBSTEPS = (40, 80)
"""Between two rounds, drawn beforehand."""
FIRST_SUBSTEP = 200
"""The first round comes no earlier: hands that move slowly shall be above the balls by then."""
TURN_SUBSTEPS = (80, 160)
SECONDS = 12

_LOW_M = {"left": np.array((-0.20, 0.42)), "right": np.array((0.07, 0.42))}
_SPAN_M = np.array((0.13, 0.16))
_HEIGHT_M = 0.12
_HIDDEN_M = (0.0, 0.5, -1.0)
_STEP_S = 0.01

# The expert's.
_HOVER_M = 0.08
_AHEAD_M = 0.04  # a hand comes so much closer than its partner is, and no more
_STEEP_RAD = 1.1
_OPENING = 0.2


@dataclass
class _Ball:
    """One ball and the hand that shall touch it: what `truth` tells of it, but for the turns."""

    position_m: np.ndarray = field(default_factory=lambda: np.zeros(2))
    velocity_m_s: np.ndarray = field(default_factory=lambda: np.zeros(2))
    inside: bool = False  # the hand is where it touches
    touched: int = -1  # sub-step of this round's touch


class Meet:
    """Implements `AlohaScene`."""

    def __init__(self, arms: Arms, difficulty: float) -> None:
        self._arms = arms
        self._speed_m_s = SPEED_M_S * difficulty
        self._balls: dict[Side, _Ball] = {side: _Ball() for side in SIDES}
        self._turns: dict[tuple[Side, int], float] = {}
        self._starts: tuple[int, ...] = ()  # of rounds to come: sub-steps after the one before
        self._lit_at, self._begins_at = -1, -1  # sub-steps; -1: not lit, none to come
        self._in_time = self._missed = 0
        self._surprised = False

    @staticmethod
    def furnish(spec: MjSpec) -> None:
        sphere = import_mujoco().mjtGeom.mjGEOM_SPHERE
        colours = {"lit": COLOURS["yellow"], "dark": (0.25, 0.3, 0.6, 1.0)}
        for side in SIDES:
            for name, rgba in colours.items():
                ball = spec.worldbody.add_body(name=f"{side}_{name}", mocap=True)
                ball.add_geom(
                    type=sphere, size=(0.028, 0.0, 0.0), rgba=rgba, contype=0, conaffinity=0
                )

    def place(self, stream: np.random.Generator) -> None:
        self._turns = {}
        for side in SIDES:
            angle, step = stream.uniform(-np.pi, np.pi), 0
            velocity = self._speed_m_s * np.array((np.cos(angle), np.sin(angle)))
            position = _LOW_M[side] + _SPAN_M * stream.uniform(0, 1, 2)
            self._balls[side] = _Ball(position, velocity)
            while (step := step + int(stream.integers(*TURN_SUBSTEPS))) < SECONDS * 100:
                turn = float(stream.uniform(np.pi / 3, np.pi) * stream.choice((-1, 1)))
                self._turns[side, step] = turn
        self._starts = tuple(int(stream.integers(*PAUSE_SUBSTEPS)) for _ in range(ROUNDS - 1))
        self._lit_at, self._begins_at = -1, FIRST_SUBSTEP + int(stream.integers(0, 40))
        self._in_time = self._missed = 0
        self._surprised = False
        self._show()

    def before(self, step: int) -> None:
        self._surprised = step == self._begins_at
        if self._surprised:
            self._lit_at, self._begins_at = step, -1
        for side, ball in self._balls.items():
            turn = self._turns.get((side, step))
            if turn is not None:
                cos, sin = np.cos(turn), np.sin(turn)
                ball.velocity_m_s = np.array(((cos, -sin), (sin, cos))) @ ball.velocity_m_s
            low, high = _LOW_M[side], _LOW_M[side] + _SPAN_M
            place = ball.position_m + _STEP_S * ball.velocity_m_s
            outside = (place < low) | (place > high)  # it turns back, which anybody can foresee
            ball.velocity_m_s = np.where(outside, -ball.velocity_m_s, ball.velocity_m_s)
            ball.position_m = np.clip(place, low, high)
        self._show()

    def after(self, step: int) -> None:
        lit = self._lit_at >= 0
        for side, ball in self._balls.items():
            inside = self._far_m(side) <= TOUCH_M
            if lit and inside and not ball.inside and ball.touched < 0:
                ball.touched = step
            ball.inside = inside
        if lit:
            self._judge(step)

    def _judge(self, step: int) -> None:
        """End the round if it is won or lost."""
        touches = [ball.touched for ball in self._balls.values() if ball.touched >= 0]
        in_time = len(touches) == 2
        late = bool(touches) and step - min(touches) >= WINDOW_SUBSTEPS
        over = step - self._lit_at + 1 >= ROUND_SUBSTEPS
        if not (in_time or late or over):
            return
        self._in_time += in_time
        self._missed += not in_time
        self._lit_at = -1
        if self._starts:
            self._begins_at, self._starts = step + self._starts[0], self._starts[1:]
        for ball in self._balls.values():
            ball.touched = -1

    @property
    def surprised(self) -> bool:
        return self._surprised

    @property
    def score(self) -> float:
        return 10.0 * self._in_time / ROUNDS

    @property
    def missed(self) -> int:
        """Rounds that are lost."""
        return self._missed

    def truth(self) -> np.ndarray:
        balls = [np.hstack(astuple(ball)) for ball in self._balls.values()]
        return np.concatenate([*balls, [self._lit_at, self._in_time, self._missed]])

    def assume(self, truth: np.ndarray) -> None:
        for side, (x, y, dx, dy, inside, touched) in zip(
            SIDES, truth[:12].reshape(2, 6), strict=True
        ):
            place, velocity = np.array((x, y)), np.array((dx, dy))
            self._balls[side] = _Ball(place, velocity, bool(inside), int(touched))
        self._lit_at, self._in_time, self._missed = (int(value) for value in truth[12:])
        self._turns, self._starts, self._begins_at = {}, (), -1
        self._surprised = False

    def act(self) -> np.ndarray:
        """Hover above both balls; when they are lit, come down no faster than the partner."""
        far = {side: self._far_m(side) for side in SIDES}
        return np.concatenate(
            [
                self._above("left", self._height_m(far["right"])),
                self._above("right", self._height_m(far["left"])),
            ]
        )

    def _height_m(self, partner_far_m: float) -> float:
        """Above its ball, for a hand whose partner is so far from its own."""
        if self._lit_at < 0:
            return _HOVER_M
        return float(np.clip(partner_far_m - _AHEAD_M, 0.0, _HOVER_M))

    def _above(self, side: Side, height_m: float) -> np.ndarray:
        ahead = LEAD_S * self._balls[side].velocity_m_s
        goal = self._ball_m(side) + np.array((*ahead, height_m))
        return step_towards(self._arms, side, HandPose(goal, _STEEP_RAD, 0.0), _OPENING)

    def _far_m(self, side: Side) -> float:
        return float(np.linalg.norm(self._ball_m(side) - self._arms.tip_m(side)))

    def _ball_m(self, side: Side) -> np.ndarray:
        """(3,) its centre."""
        return np.array((*self._balls[side].position_m, _HEIGHT_M))

    def _show(self) -> None:
        shown, hidden = ("lit", "dark") if self._lit_at >= 0 else ("dark", "lit")
        model, data = self._arms.model, self._arms.data
        for side in SIDES:
            data.mocap_pos[model.body(f"{side}_{shown}").mocapid[0]] = self._ball_m(side)
            data.mocap_pos[model.body(f"{side}_{hidden}").mocapid[0]] = _HIDDEN_M


TASK = AlohaTask(
    Meet,
    Meet.furnish,
    Phrasings(
        (
            "touch both balls at the same time when they light up",
            "when the balls turn yellow, tap them with both hands at once",
            "wait for the light, then touch each ball with its hand, together",
            "tap the two lit balls together, one with each arm",
        ),
        ("as soon as the balls shine, hit them both in the same moment",),
    ),
    stimulus="the balls lit up",
)
