"""Blocks ride by on a conveyor belt: pick each up before it is gone, and put it into the bin.

gate ▐══■═══════■══════▌ gate      the belt drags them by friction, at constant speed
                 ▔▔▔▔ bin
score     for each of three blocks: near 0.1, touched 0.2, lifted 0.6, in the bin 1
"""

from __future__ import annotations

import numpy as np

from streamvla.robots.gl import import_mujoco
from streamvla.robots.instructions import Phrasings
from streamvla.robots.tabletop.arm import Arm
from streamvla.robots.tabletop.blocks import HALF_HEIGHT_M, HALF_WIDTH_M
from streamvla.robots.tabletop.experts import GRASPED_OPENING
from streamvla.robots.tabletop.scene import COLOURS, GREY, LIGHT, MjSpec
from streamvla.robots.tempo.loose import Loose
from streamvla.robots.tempo.motion import CENTRED_M, CLOSED, OPEN, come_down, tips_of, towards
from streamvla.robots.tempo.robot import TempoTask

BLOCKS = 3
SPEED_M_S = 0.15
"""Of the belt, at difficulty 1."""
FIRST_S, BETWEEN_S = (0.5, 1.0), (2.4, 3.0)
"""Until the first block; from one to the next."""
NEAR_CREDIT, TOUCHED_CREDIT, LIFTED_CREDIT = 0.1, 0.2, 0.6
BELT_TOP_M = 0.03
BELT_HALF_M = (0.50, 0.055)
GATE_M = 0.36
"""From the middle to where blocks appear and, on the other side, disappear."""

_SUBSTEPS_PER_S = 80
_STRIPE_M = 0.10
_BIN_HALF_M = (0.13, 0.06)
_WALL_M = 0.025
_THIN_M = 0.004
_SLOTS_M = np.array(((-0.075, 0.0), (0.0, 0.0), (0.075, 0.0)))
"""Of the bin, one for each block."""
_LOW_M = 0.06
_LIFTED_M = BELT_TOP_M + HALF_HEIGHT_M + 0.04
_RELEASED_OPENING = 0.7
_SAFE_M = BELT_TOP_M + 2 * HALF_HEIGHT_M + 0.03
"""Height of the fingertips over the blocks; with one in hand, higher by its height."""
_BELOW_MIDDLE_M = 0.01
"""Where the fingertips grasp a block."""
_AROUND_M, _HELD_M = 0.025, 0.045
"""How near the fingertips are to a block when they close, and when it is in them."""
_EMPTY_OPENING = 0.40
"""Fingers that are closed on nothing are nearer to each other."""
_REACH_Y_M = (0.38, 0.95)
_WAITING, _OUT, _GONE, _PLACED = range(4)


class Conveyor:
    """Implements `TempoScene`. The belt runs along +x or along -x, by episode."""

    def __init__(self, arm: Arm, difficulty: float) -> None:
        self._arm = arm
        self._nominal_m_s = SPEED_M_S * difficulty
        self._blocks = [Loose(arm, f"block{i}", i, HALF_HEIGHT_M) for i in range(BLOCKS)]
        belt = arm.model.joint("belt")
        self._belt_at, self._belt_moving = int(belt.qposadr[0]), int(belt.dofadr[0])
        self._speed_m_s = self._nominal_m_s  # with its sign
        self._belt_m, self._bin_m = 0.70, np.zeros(2)
        self._releases: dict[int, tuple[int, float]] = {}
        self._phases = np.full(BLOCKS, _WAITING)
        self._credits = np.zeros(BLOCKS)
        self._surprised = False

    @staticmethod
    def furnish(spec: MjSpec) -> None:
        _add_belt(spec)
        for end in (-1.0, 1.0):
            spec.worldbody.add_body(name=f"gate{end:+.0f}").add_geom(
                type=import_mujoco().mjtGeom.mjGEOM_BOX,
                pos=(end * 0.46, 0.0, 0.065),
                size=(0.09, BELT_HALF_M[1] + 0.015, 0.065),
                rgba=GREY,
                contype=0,
                conaffinity=0,
            )
        _add_bin(spec)
        for index, colour in enumerate(("red", "green", "blue")):
            _add_block(spec, f"block{index}", COLOURS[colour])

    def place(self, stream: np.random.Generator) -> None:
        way = float(stream.choice((-1.0, 1.0)))
        self._speed_m_s = way * self._nominal_m_s * float(stream.uniform(0.95, 1.1))
        self._belt_m = float(stream.uniform(0.70, 0.76))
        self._bin_m = stream.uniform((-0.1, 0.50), (0.1, 0.54))
        model = self._arm.model
        for name in ("belt", "gate-1", "gate+1"):
            model.body(name).pos[1] = self._belt_m
        model.body("bin").pos[:2] = self._bin_m
        self._releases, step = {}, _substeps(stream.uniform(*FIRST_S))
        for index in stream.permutation(BLOCKS):
            self._releases[step] = (int(index), float(stream.uniform(-0.02, 0.02)))
            step += _substeps(stream.uniform(*BETWEEN_S))
        self._phases = np.full(BLOCKS, _WAITING)
        self._credits = np.zeros(BLOCKS)
        self._surprised = False
        for block in self._blocks:
            block.park()

    def before(self, step: int) -> None:
        release = self._releases.get(step)
        self._surprised = release is not None
        if release is not None:
            index, aside_m = release
            start = -np.sign(self._speed_m_s) * GATE_M
            top = BELT_TOP_M + HALF_HEIGHT_M
            position = np.array([start, self._belt_m + aside_m, top])
            self._blocks[index].put(position, np.array([self._speed_m_s, 0, 0, 0, 0, 0]))
            self._phases[index] = _OUT
        data = self._arm.data  # an endless belt: its pattern repeats itself
        data.qpos[self._belt_at] = (
            data.qpos[self._belt_at] + _STRIPE_M / 2
        ) % _STRIPE_M - _STRIPE_M / 2
        data.qvel[self._belt_moving] = self._speed_m_s

    def after(self, step: int, contact_force_n: float) -> None:
        for index in np.flatnonzero(self._phases == _OUT):
            self._judge(int(index))

    def _judge(self, index: int) -> None:
        block = self._blocks[index]
        position, credit = block.position_m, 0.0
        if self._lies_in_bin(index) and self._arm.opening >= _RELEASED_OPENING:
            self._phases[index], credit = _PLACED, 1.0
        elif position[0] * np.sign(self._speed_m_s) > GATE_M or not (
            _REACH_Y_M[0] <= position[1] <= _REACH_Y_M[1]
        ):
            self._phases[index] = _GONE
            block.park()
        elif block.touched:
            credit = LIFTED_CREDIT if position[2] >= _LIFTED_M else TOUCHED_CREDIT
        elif np.linalg.norm(position - tips_of(self._arm)) <= 0.05:
            credit = NEAR_CREDIT
        self._credits[index] = max(self._credits[index], credit)

    def _lies_in_bin(self, index: int) -> bool:
        position = self._blocks[index].position_m
        inside = np.abs(position[:2] - self._bin_m) <= _BIN_HALF_M
        return bool(inside.all() and position[2] <= _LOW_M)

    @property
    def surprised(self) -> bool:
        return self._surprised

    @property
    def score(self) -> float:
        return float(10.0 * self._credits.mean())

    @property
    def missed(self) -> int:
        return int((self._phases == _GONE).sum())

    def truth(self) -> np.ndarray:
        return np.array([*self._phases, *self._credits], dtype=np.float64)

    def assume(self, truth: np.ndarray) -> None:
        self._phases = truth[:BLOCKS].astype(int)
        self._credits = truth[BLOCKS:].copy()
        self._releases = {}

    def act(self) -> np.ndarray:
        """Meet the block that is gone soonest, go along with it, grasp, lift, put into the bin."""
        arm, tips = self._arm, tips_of(self._arm)
        index = self._next()
        if arm.opening < _RELEASED_OPENING and self._lets_go():
            return np.array([0.0, 0.0, 0.0, OPEN])
        if index is None:
            upstream = -np.sign(self._speed_m_s) * 0.15
            wait = np.array([upstream, self._belt_m, _SAFE_M])
            return come_down(arm, wait, _SAFE_M, OPEN)
        block, velocity = self._blocks[index].position_m, self._blocks[index].velocity_m_s
        if self._holds(block):
            return self._carry(index, block)
        grasp, moving = block - (0.0, 0.0, _BELOW_MIDDLE_M), np.array([*velocity[:2], 0.0])
        off = np.abs(tips - grasp)
        if np.hypot(*off[:2]) <= _AROUND_M and off[2] <= _AROUND_M:
            return towards(arm, grasp, CLOSED, moving)
        return come_down(arm, grasp, _SAFE_M, OPEN, moving)

    def _holds(self, block_m: np.ndarray) -> bool:
        """Whether the fingers are closed on a block at (3,)."""
        off = np.abs(tips_of(self._arm) - block_m)
        near = np.hypot(*off[:2]) <= _HELD_M and off[2] <= _HELD_M
        return bool(near and _EMPTY_OPENING <= self._arm.opening <= GRASPED_OPENING)

    def _carry(self, index: int, block_m: np.ndarray) -> np.ndarray:
        """Up, over the block's place in the bin, and down: by where the block is in the hand."""
        tips = tips_of(self._arm)
        place = self._bin_m + _SLOTS_M[index]
        hung = np.array([*(tips - block_m)[:2], 0.0])
        if np.abs(block_m[:2] - place).max() <= CENTRED_M:
            return towards(self._arm, np.array([*place, HALF_HEIGHT_M]) + hung, CLOSED)
        high = _SAFE_M + HALF_HEIGHT_M
        if tips[2] < high - 0.03:
            return towards(self._arm, np.array([*tips[:2], high + 0.02]), CLOSED)
        return towards(self._arm, np.array([*place, high]) + hung, CLOSED)

    def _next(self) -> int | None:
        """The block to see to: the one in hand, or the one that is gone soonest."""
        out = [i for i in range(BLOCKS) if self._phases[i] == _OUT and not self._lies_in_bin(i)]
        if not out:
            return None
        way = np.sign(self._speed_m_s)

        def urgency(index: int) -> tuple[bool, float]:
            position = self._blocks[index].position_m
            return self._holds(position), way * position[0]

        return max(out, key=urgency)

    def _lets_go(self) -> bool:
        """Whether the fingers are still around a block that lies in the bin."""
        tips = tips_of(self._arm)
        return any(
            self._lies_in_bin(i)
            and np.linalg.norm(self._blocks[i].position_m - tips) <= 2 * _AROUND_M
            for i in range(BLOCKS)
        )

    def places_m(self) -> tuple[np.ndarray, np.ndarray]:
        bin_m = np.array([*self._bin_m, 0.0])
        index = self._next()
        if index is None:
            return tips_of(self._arm), bin_m
        return self._blocks[index].position_m, bin_m + np.array([*_SLOTS_M[index], 0.0])


def _substeps(seconds: float) -> int:
    return round(seconds * _SUBSTEPS_PER_S)


def _add_belt(spec: MjSpec) -> None:
    """So heavy that what lies on it does not slow it down."""
    mujoco = import_mujoco()
    belt = spec.worldbody.add_body(
        name="belt", mass=1000.0, inertia=(100.0, 100.0, 100.0), explicitinertial=True
    )
    belt.add_joint(
        name="belt", type=mujoco.mjtJoint.mjJNT_SLIDE, axis=(1.0, 0.0, 0.0), limited=False
    )
    belt.add_geom(
        type=mujoco.mjtGeom.mjGEOM_BOX,
        pos=(0.0, 0.0, BELT_TOP_M / 2),
        size=(*BELT_HALF_M, BELT_TOP_M / 2),
        rgba=(0.12, 0.12, 0.13, 1.0),
        contype=0,
        conaffinity=1,
    )
    for index in range(-4, 5):
        belt.add_geom(
            type=mujoco.mjtGeom.mjGEOM_BOX,
            pos=(index * _STRIPE_M, 0.0, BELT_TOP_M / 2),
            size=(0.008, BELT_HALF_M[1], BELT_TOP_M / 2 + 0.0005),
            rgba=(0.75, 0.75, 0.7, 1.0),
            contype=0,
            conaffinity=0,
        )


def _add_bin(spec: MjSpec) -> None:
    """A floor with four low walls."""
    box = import_mujoco().mjtGeom.mjGEOM_BOX
    body = spec.worldbody.add_body(name="bin")
    (x, y), wall = _BIN_HALF_M, _WALL_M / 2
    body.add_geom(type=box, pos=(0.0, 0.0, _THIN_M / 2), size=(x, y, _THIN_M / 2), rgba=LIGHT)
    for sign in (-1.0, 1.0):
        body.add_geom(type=box, pos=(sign * x, 0.0, wall), size=(_THIN_M, y, wall), rgba=LIGHT)
        body.add_geom(type=box, pos=(0.0, sign * y, wall), size=(x, _THIN_M, wall), rgba=LIGHT)


def _add_block(spec: MjSpec, name: str, rgba: tuple[float, float, float, float]) -> None:
    block = spec.worldbody.add_body(
        name=name, mass=0.1, inertia=(6e-5, 6e-5, 4e-5), explicitinertial=True
    )
    block.add_freejoint(name=name)
    block.add_geom(
        name=name,
        type=import_mujoco().mjtGeom.mjGEOM_BOX,
        size=(HALF_WIDTH_M, HALF_WIDTH_M, HALF_HEIGHT_M),
        rgba=rgba,
        friction=(1.0, 0.1, 0.002),
        condim=4,
        solref=(0.01, 1.0),
        solimp=(0.99, 0.99, 0.01, 0.5, 2.0),
    )


TASK = TempoTask(
    Conveyor,
    Conveyor.furnish,
    Phrasings(
        (
            "pick the blocks from the conveyor belt and put them into the bin",
            "take every block off the moving belt and drop it in the bin",
            "grab the blocks as they ride by and place them in the tray",
            "empty the conveyor into the bin",
        ),
        ("catch each block on the belt and put it in the tray",),
    ),
    stimulus="a block came onto the belt",
)
