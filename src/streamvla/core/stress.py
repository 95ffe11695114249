"""What real robots bring that a simulation leaves out: factors of stress, by name and severity.

    camera-pose:2+latency-jitter:1        NAME:SEVERITY, joined by "+" in any order

Each factor is a wrapper around a robot (`robots.stress`) or a latency model
(`runtime.timing.stress`), outside the policy. It draws from a stream of its own, made from the
episode's seed and its name, so a factor does the same whatever else is put on. Those of one stress
are put on in the order of `FACTORS`, the first innermost.

Source of the list: the disturbances that ManipArena (arXiv 2603.28545) names; the sizes are ours.
A package adds one by an entry point that names a `StressFactor`:

    [project.entry-points."streamvla.stresses"]
    cable-drag = "my_package.stress:CABLE_DRAG"
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from streamvla.core.errors import ConfigError, did_you_mean
from streamvla.core.registry import Registry, import_attribute

SEVERITIES = (1, 2, 3)
"""Seen on every robot, on a bad day, on a bad robot."""

Wrapped = Literal["robot", "latency"]


@dataclass(frozen=True)
class StressFactor:
    """One factor.

    Attributes:
        name: as typed.
        wraps: what is wrapped.
        unit: of the sizes; "×" for a factor.
        sizes: of the severities 1, 2, 3.
        text: what happens, in words.
        wrapper: "package.module:function", of (robot, size, name) → robot or of (latency model,
            size, the episode's stream) → latency model.
    """

    name: str
    wraps: Wrapped
    unit: str
    sizes: tuple[float, float, float]
    text: str
    wrapper: str

    def size(self, severity: int) -> float:
        """The physical size, in `unit`, of a severity from 1 to 3."""
        return self.sizes[severity - 1]

    def wrap(self, *arguments: Any) -> Any:
        """Call the wrapper.

        Raises:
            ConfigError: it cannot be imported, or what it should wrap has no use for it.
        """
        return import_attribute(self.wrapper, f"stress {self.name!r}")(*arguments)


def _of_robot(
    name: str, unit: str, sizes: tuple[float, float, float], wrapper: str, text: str
) -> StressFactor:
    return StressFactor(name, "robot", unit, sizes, text, f"streamvla.robots.stress.{wrapper}")


def _of_latency(
    name: str, unit: str, sizes: tuple[float, float, float], wrapper: str, text: str
) -> StressFactor:
    where = f"streamvla.runtime.timing.stress:{wrapper}"
    return StressFactor(name, "latency", unit, sizes, text, where)


FACTORS: dict[str, StressFactor] = {
    factor.name: factor
    for factor in (
        # Contact dynamics: the model of the world, from one reset to the next.
        _of_robot(
            "friction",
            "×",
            (1.25, 1.5, 2.0),
            "physics:rescaled",
            "every friction coefficient is multiplied or divided by it, the episode's coin says",
        ),
        _of_robot(
            "mass",
            "×",
            (1.25, 1.5, 2.0),
            "physics:rescaled",
            "every mass and inertia is multiplied or divided by it",
        ),
        _of_robot(
            "damping",
            "×",
            (1.5, 2.0, 4.0),
            "physics:rescaled",
            "the damping of every joint is multiplied or divided by it",
        ),
        _of_robot(
            "actuator-gain",
            "×",
            (1.1, 1.25, 1.5),
            "physics:rescaled",
            "the gain of every actuator is multiplied or divided by it",
        ),
        # Actuation: when, and how fast, the robot does what it was told.
        _of_robot(
            "control-rate",
            "%",
            (2.0, 5.0, 10.0),
            "actuation:mismatched_rate",
            "a command takes so much more or less time than nominal",
        ),
        _of_robot(
            "clock-drift",
            "%",
            (0.1, 0.5, 2.0),
            "actuation:drifting_clock",
            "the robot's clock runs so much too fast or too slow",
        ),
        _of_robot(
            "actuation-delay",
            "ms",
            (25.0, 50.0, 100.0),
            "actuation:delayed_commands",
            "a command takes effect so much later",
        ),
        _of_robot(
            "command-noise",
            "%",
            (20.0, 50.0, 100.0),
            "actuation:noisy_commands",
            "standard deviation of Gaussian noise on every change that a command makes, in shares "
            "of that change",
        ),
        # Sensors, from the lens to the picture that arrives.
        _of_robot(
            "camera-pose",
            "°",
            (2.0, 5.0, 10.0),
            "images:camera_pose",
            "azimuth and elevation of every camera are off by so much together, and its distance "
            "by up to 1 cm a degree",
        ),
        _of_robot(
            "camera-blur",
            "% of the height",
            (0.8, 1.6, 3.2),
            "images:camera_blur",
            "standard deviation of a Gaussian blur",
        ),
        _of_robot(
            "camera-exposure",
            "EV",
            (0.25, 0.5, 1.0),
            "images:camera_exposure",
            "pictures are so much too bright or too dark; what is too bright saturates",
        ),
        _of_robot(
            "camera-noise",
            "grey levels",
            (5.0, 12.0, 25.0),
            "images:camera_noise",
            "standard deviation of Gaussian noise, of 255, every pixel and colour alone",
        ),
        _of_robot(
            "proprioception-noise",
            "mm",
            (2.0, 5.0, 15.0),
            "images:proprioception_noise",
            "standard deviation of Gaussian noise on every measured number; thousandths of its "
            "unit where that is not the metre",
        ),
        _of_robot(
            "camera-freeze",
            "ms",
            (200.0, 500.0, 1000.0),
            "pictures:camera_freeze",
            "now and then, 1 to 3 s after the time before, the pictures stand still so long",
        ),
        _of_robot(
            "camera-drop",
            "%",
            (10.0, 25.0, 50.0),
            "pictures:camera_drop",
            "of the camera's frames, one each control period, are lost: the one before is seen",
        ),
        _of_robot(
            "camera-delay",
            "ms",
            (50.0, 100.0, 200.0),
            "pictures:camera_delay",
            "the pictures are so old, while the measured state is new",
        ),
        _of_robot(
            "camera-state-skew",
            "ms",
            (25.0, 50.0, 100.0),
            "pictures:camera_state_skew",
            "the measured state is so old, while the pictures are new",
        ),
        # Timing of the stages.
        _of_latency(
            "latency-jitter",
            "%",
            (10.0, 30.0, 60.0),
            "jittered",
            "coefficient of variation of log-normal stage times with the same mean",
        ),
        _of_latency(
            "latency-tail",
            "×",
            (2.0, 4.0, 8.0),
            "heavy_tailed",
            "99th percentile of a Pareto-distributed factor ≥ 1 on every stage time",
        ),
        _of_latency(
            "latency-burst",
            "%",
            (10.0, 25.0, 50.0),
            "in_bursts",
            "of the stage runs fall into bursts, of 10 runs on average, and take 3 times as long",
        ),
        _of_latency(
            "network-delay",
            "ms",
            (20.0, 60.0, 150.0),
            "over_a_network",
            "round trip to the model, before the context is there: an observation there, its first "
            "action back",
        ),
        _of_latency(
            "network-loss",
            "%",
            (1.0, 5.0, 15.0),
            "over_a_lossy_network",
            "of the messages (an observation there, its first action back) are lost and sent again "
            "after 200 ms, then 400 ms, and so on",
        ),
    )
}
"""The whole table: what each severity is, physically."""

_OTHERS = Registry("stress", "streamvla.stresses", {})
"""Those of other packages; each entry is a `StressFactor`. They are put on last, by name."""


def factor_names() -> tuple[str, ...]:
    """Ours in the order in which they are put on, then those of other packages."""
    return (*FACTORS, *sorted(_OTHERS.names()))


def factor_named(name: str) -> StressFactor:
    """The factor of that name.

    Raises:
        ConfigError: there is none, or a package has another of one of our names.
    """
    if name in FACTORS and name in _OTHERS:
        raise ConfigError(
            f"an installed package has a stress {name!r}, which is one of ours: expected another "
            "name; rename or uninstall it"
        )
    if name in FACTORS:
        return FACTORS[name]
    if name in _OTHERS:
        return _OTHERS.load(name)
    raise did_you_mean("stress", name, factor_names())


@dataclass(frozen=True)
class Stress:
    """Some factors, each with its severity.

    Attributes:
        parts: (name, severity), sorted by name; none for no stress.

    Raises:
        ConfigError: an unknown factor, one named twice, or a severity that is not 1, 2 or 3.
    """

    parts: tuple[tuple[str, int], ...] = ()

    def __post_init__(self) -> None:
        names = [name for name, _ in self.parts]
        for name, severity in self.parts:
            factor_named(name)
            if severity not in SEVERITIES:
                raise ConfigError(f"stress {name}:{severity}: expected a severity of 1, 2 or 3")
            if names.count(name) > 1:
                raise ConfigError(f"stress {name!r} is named twice; name it once")
        object.__setattr__(self, "parts", tuple(sorted(self.parts)))

    def __str__(self) -> str:
        """Canonical: the same for the same factors, whatever their order; `parse_stress` reads
        it."""
        return "+".join(f"{name}:{severity}" for name, severity in self.parts)

    def slug(self) -> str:
        """As `str`, for names of folders.

        >>> parse_stress("mass:1+friction:2").slug()
        'friction-2+mass-1'
        """
        return str(self).replace(":", "-")

    def sizes(self) -> dict[str, float]:
        """Factor → its physical size, in its unit."""
        return {name: factor_named(name).size(severity) for name, severity in self.parts}

    def of(self, wraps: Wrapped) -> tuple[tuple[StressFactor, float], ...]:
        """The factors that wrap this, with their sizes, in the order in which they are put on."""
        severities, order = dict(self.parts), factor_names()
        factors = [factor_named(name) for name in sorted(severities, key=order.index)]
        return tuple(
            (factor, factor.size(severities[factor.name]))
            for factor in factors
            if factor.wraps == wraps
        )

    def only(self, wraps: Wrapped) -> Stress:
        """Without the factors that wrap something else."""
        return Stress(tuple(part for part in self.parts if factor_named(part[0]).wraps == wraps))


NO_STRESS = Stress()
NOMINAL = "none"
"""How a sweep and its result file write `NO_STRESS`."""


def parse_stress(text: str) -> Stress:
    """From `NAME:SEVERITY+NAME:SEVERITY`.

    >>> str(parse_stress("latency-jitter:1+camera-pose:2"))
    'camera-pose:2+latency-jitter:1'

    Raises:
        ConfigError: it is not written so, or `Stress` refuses it.
    """
    parts: list[tuple[str, int]] = []
    for part in text.split("+"):
        name, _, severity = part.strip().partition(":")
        factor_named(name)
        if not severity.isdecimal():
            raise ConfigError(
                f"stress {part.strip()!r}: expected NAME:SEVERITY with a severity of 1, 2 or 3, "
                f"such as {name}:2"
            )
        parts.append((name, int(severity)))
    return Stress(tuple(parts))


def stream_of(name: str, seed: int) -> np.random.Generator:
    """The random stream of one factor in the episode `seed`.

    Raises:
        ConfigError: a negative seed.
    """
    if seed < 0:
        raise ConfigError(f"episode seed {seed}: expected an integer ≥ 0")
    return np.random.default_rng([seed, zlib.crc32(name.encode())])


def coin(stream: np.random.Generator) -> int:
    """1 or -1."""
    return 1 if stream.random() < 0.5 else -1
