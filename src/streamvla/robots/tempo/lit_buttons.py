"""Four buttons, of which one lights up now and then: press it before its light goes out.

lights    ──────█████──────────███──────       when and which: drawn beforehand, known to nobody
pressed             ▲            ▲             puts the light out
score     for the share of lights answered in time; each press of a dark button takes from what
          is still to be won
"""

from __future__ import annotations

import numpy as np

from streamvla.robots.gl import import_mujoco
from streamvla.robots.instructions import Phrasings
from streamvla.robots.tabletop.arm import Arm
from streamvla.robots.tabletop.buttons import PRESSED_M, TOP_M, TRAVEL_M
from streamvla.robots.tabletop.scene import GREY, MjSpec, scatter
from streamvla.robots.tempo.motion import CLOSED, come_down, tips_of, towards
from streamvla.robots.tempo.robot import TempoTask

BUTTONS, ROUNDS = 4, 4
WINDOW_S = 1.15
"""How long a light is on, at difficulty 1."""
FIRST_S, DARK_S = (0.6, 1.4), (0.3, 1.0)
"""Until the first light; between the end of a window and the next light."""
NEAR_CREDIT = 0.3
"""Of a round, for having come near in time."""
WRONG_COST = 1.25
"""Of 10, for each dark button that is pressed: one of them, and it is no success."""

_SUBSTEPS_PER_S = 80
_LOW_M, _HIGH_M = (-0.2, 0.55), (0.2, 0.8)
_GAP_M = 0.16
_FAR_M = 0.25
_WAIT_M = 0.13
_SAFE_M = TOP_M + 0.03
_CAP_RADIUS_M, _CAP_HALF_M = 0.04, 0.025
_DARK = (0.10, 0.11, 0.16, 1.0)
_BRIGHT = (0.3, 1.0, 0.2, 1.0)
_OFF_M = (0.0, -2.0, -0.8)
_NONE = -1


class LitButtons:
    """Implements `TempoScene`."""

    def __init__(self, arm: Arm, difficulty: float) -> None:
        self._arm = arm
        self._window = max(1, round(WINDOW_S / difficulty * _SUBSTEPS_PER_S))
        self._lamp = int(arm.model.body("lamp").mocapid[0])
        self._caps = [int(arm.model.joint(f"cap{i}").qposadr[0]) for i in range(BUTTONS)]
        self._places_m = np.zeros((BUTTONS, 2))
        self._lights: dict[int, int] = {}
        self._lit, self._until = _NONE, 0
        self._down = np.zeros(BUTTONS, bool)
        self._credit, self._near, self._wrong = 0.0, 0.0, 0
        self._score, self._missed = 0.0, 0
        self._surprised = False

    @staticmethod
    def furnish(spec: MjSpec) -> None:
        for index in range(BUTTONS):
            _add_button(spec, index)
        glow = spec.add_material(name="glow", emission=1.0)
        lamp = spec.worldbody.add_body(name="lamp", mocap=True, pos=_OFF_M)
        lamp.add_geom(
            type=import_mujoco().mjtGeom.mjGEOM_CYLINDER,
            size=(_CAP_RADIUS_M + 0.003, _CAP_HALF_M + 0.003, 0.0),
            rgba=_BRIGHT,
            material=glow.name,
            contype=0,
            conaffinity=0,
        )

    def place(self, stream: np.random.Generator) -> None:
        self._places_m = scatter(stream, BUTTONS, _LOW_M, _HIGH_M, _GAP_M)
        for index, place in enumerate(self._places_m):
            self._arm.model.body(f"button{index}").pos[:2] = place
        self._lights, last = {}, _NONE
        step = _substeps(stream.uniform(*FIRST_S))
        for _ in range(ROUNDS):
            last = int(stream.choice([i for i in range(BUTTONS) if i != last]))
            self._lights[step] = last
            step += self._window + _substeps(stream.uniform(*DARK_S))
        self._lit, self._until = _NONE, 0
        self._down = np.zeros(BUTTONS, bool)
        self._credit, self._near, self._wrong = 0.0, 0.0, 0
        self._score, self._missed = 0.0, 0
        self._surprised = False
        self._show()

    def before(self, step: int) -> None:
        lights = self._lights.get(step)
        self._surprised = lights is not None
        if lights is not None:
            self._lit, self._until = lights, step + self._window
        self._show()

    def after(self, step: int, contact_force_n: float) -> None:
        down = self._arm.data.qpos[self._caps] <= -PRESSED_M
        pressed, self._down = down & ~self._down, down
        lit = self._lit
        self._wrong += sum(bool(pressed[i]) for i in range(BUTTONS) if i != lit)
        if lit != _NONE:
            away = float(np.linalg.norm(tips_of(self._arm) - self.top_m(lit)))
            self._near = max(self._near, NEAR_CREDIT * max(0.0, 1.0 - away / _FAR_M))
            if pressed[lit]:
                self._end_round(1.0)
            elif step + 1 >= self._until:
                self._missed += 1
                self._end_round(self._near)
        won = 10.0 * (self._credit + self._near) / ROUNDS - WRONG_COST * self._wrong
        self._score = max(self._score, won)

    def _end_round(self, credit: float) -> None:
        self._credit += credit
        self._lit, self._near = _NONE, 0.0

    @property
    def surprised(self) -> bool:
        return self._surprised

    @property
    def score(self) -> float:
        return self._score

    @property
    def missed(self) -> int:
        return self._missed

    def truth(self) -> np.ndarray:
        return np.array(
            [
                self._lit,
                self._until,
                self._credit,
                self._near,
                self._wrong,
                self._score,
                self._missed,
                *self._down,
            ],
            dtype=np.float64,
        )

    def assume(self, truth: np.ndarray) -> None:
        self._lit, self._until = int(truth[0]), int(truth[1])
        self._credit, self._near = float(truth[2]), float(truth[3])
        self._wrong, self._score, self._missed = int(truth[4]), float(truth[5]), int(truth[6])
        self._down = truth[7:] > 0.5
        self._lights = {}

    def act(self) -> np.ndarray:
        """To the button that is lit, and down on it; while none is, over the middle of them."""
        if self._lit == _NONE:
            middle = np.array([*self._places_m.mean(axis=0), _WAIT_M])
            if tips_of(self._arm)[2] < _SAFE_M - 0.02:  # off the button first
                middle[:2] = tips_of(self._arm)[:2]
            return towards(self._arm, middle, CLOSED)
        nearly_down = self.top_m(self._lit) - (0.0, 0.0, TRAVEL_M - 0.004)
        return come_down(self._arm, nearly_down, _SAFE_M, CLOSED)

    def places_m(self) -> tuple[np.ndarray, np.ndarray]:
        if self._lit == _NONE:
            tips = tips_of(self._arm)
            return tips, tips
        top = self.top_m(self._lit)
        return top, top - (0.0, 0.0, TRAVEL_M)

    def top_m(self, index: int) -> np.ndarray:
        """(3,) the middle of a button's top when it is not pressed: for experts."""
        return np.array([*self._places_m[index], TOP_M])

    def _show(self) -> None:
        """The lamp is a bright shell around the cap that is lit; dark ones have none."""
        where = np.array(_OFF_M)
        if self._lit != _NONE:
            pressed_m = self._arm.data.qpos[self._caps[self._lit]]
            where = self.top_m(self._lit) - (0.0, 0.0, _CAP_HALF_M - pressed_m)
        self._arm.data.mocap_pos[self._lamp] = where


def _substeps(seconds: float) -> int:
    return round(seconds * _SUBSTEPS_PER_S)


def _add_button(spec: MjSpec, index: int) -> None:
    """A cap on a spring over a plate."""
    mujoco = import_mujoco()
    plate = spec.worldbody.add_body(name=f"button{index}")
    plate.add_geom(
        type=mujoco.mjtGeom.mjGEOM_BOX,
        pos=(0.0, 0.0, 0.02),
        size=(0.05, 0.05, 0.02),
        rgba=GREY,
        contype=0,
        conaffinity=0,
    )
    cap = plate.add_body(
        name=f"cap{index}",
        pos=(0.0, 0.0, TOP_M - _CAP_HALF_M),
        mass=0.1,
        inertia=(1e-4, 1e-4, 1e-4),
        explicitinertial=True,
        gravcomp=1.0,
    )
    cap.add_geom(
        type=mujoco.mjtGeom.mjGEOM_CYLINDER, size=(_CAP_RADIUS_M, _CAP_HALF_M, 0.0), rgba=_DARK
    )
    cap.add_joint(
        name=f"cap{index}",
        type=mujoco.mjtJoint.mjJNT_SLIDE,
        axis=(0.0, 0.0, 1.0),
        limited=True,
        range=(-TRAVEL_M, 0.0),
        stiffness=50.0,
        damping=5.0,
    )


TASK = TempoTask(
    LitButtons,
    LitButtons.furnish,
    Phrasings(
        (
            "press the button that lights up",
            "push each button when its light comes on",
            "when a button glows, press it before it goes dark",
            "press the lit button",
        ),
        ("hit whichever button lights up", "watch the buttons and push the one that is lit"),
    ),
    stimulus="a button lit up",
)
