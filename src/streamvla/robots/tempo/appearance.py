"""Colours of a scene by episode: in domain, shifted, out of domain."""

from __future__ import annotations

from typing import Any, Literal, Protocol

import numpy as np

Domain = Literal["in domain", "shifted", "out of domain"]

TRIALS = 10
_DEFAULT = np.array((0.5, 0.5, 0.5, 1.0), np.float32)
"""A geom of this colour shows its material's instead."""


def domain_of(seed: int) -> Domain:
    """The appearance of the episode `seed`: trials 1-4, 5-8 and 9-10 of every ten, as ManipArena
    (arXiv 2603.28545) scores them."""
    trial = seed % TRIALS
    return "in domain" if trial < 4 else "shifted" if trial < 8 else "out of domain"


class Modelled(Protocol):
    """Whatever has a compiled MuJoCo model, such as an arm."""

    model: Any


class Appearance:
    """The colours of one compiled scene.

    Args:
        arm: has the model.
        furniture: bodies that get other colours out of domain, with all that hangs on them.
    """

    def __init__(self, arm: Modelled, furniture: tuple[str, ...] = ("hand",)) -> None:
        self._model = arm.model
        self._built = arm.model.geom_rgba.copy()
        materials = arm.model.geom_matid
        by_material = (materials >= 0) & (self._built == _DEFAULT).all(axis=1)
        self._shown = self._built.copy()
        self._shown[by_material] = arm.model.mat_rgba[materials[by_material]]
        roots = [arm.model.body_rootid[arm.model.body(name).id] for name in furniture]
        of_arm = np.isin(arm.model.body_rootid[arm.model.geom_bodyid], roots)
        self._furniture = of_arm | by_material

    def restore(self) -> None:
        """As it was built."""
        self._model.geom_rgba[:] = self._built

    def dress(self, seed: int) -> None:
        """As in the episode `seed`; after the scene has coloured its own things."""
        domain, stream = domain_of(seed), np.random.default_rng([seed, 5])
        if domain == "in domain":
            return
        rgba = self._model.geom_rgba
        untouched = (rgba == self._built).all(axis=1)
        rgba[untouched] = self._shown[untouched]
        if domain == "out of domain":
            colour = stream.uniform(0.15, 0.85, 3)
            rgba[self._furniture, :3] = 0.4 * rgba[self._furniture, :3] + 0.6 * colour
        gain, tint = stream.uniform(0.65, 1.2), stream.uniform(0.9, 1.1, 3)
        rgba[:, :3] = np.clip(rgba[:, :3] * gain * tint, 0.0, 1.0)
