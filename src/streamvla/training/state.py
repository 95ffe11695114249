"""The header of a training state: what a resumed training must share with the one it continues."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from streamvla.core.errors import CheckpointError, ConfigError, StreamVLAError
from streamvla.model.checkpoint import SCHEMA_VERSION
from streamvla.model.focus import FocusConfig
from streamvla.model.methods.registry import method_from_json
from streamvla.model.normalisation import Normalisation
from streamvla.training.schedule import Schedules


@dataclass(frozen=True)
class StateHeader:
    """All of a training state but its tensors.

    Attributes:
        step: optimiser steps taken.
        recipe: `TrainConfig.recipe` of the training.
        dataset: `data.fingerprint` of its demonstrations.
        normalisation: that the weights were trained under.
        provenance: command, date and commit that began the training; "resumed": the same of every
            resumption.
        holdout: the last held-out action errors.
        schedules: that the learning rate followed so far.
        best: method → (step, held-out action error) of its best policy so far.
        vocabulary: the words that training said so far, those of its `init` among them; None where
            the model keeps its own, or in a state from before it was stored.
    """

    step: int
    recipe: Mapping[str, Any]
    dataset: Mapping[str, Any]
    normalisation: Normalisation
    provenance: Mapping[str, Any]
    holdout: Mapping[str, float]
    schedules: Schedules
    best: Mapping[str, tuple[int, float]]
    vocabulary: Sequence[str] | None = None

    def to_json(self) -> dict[str, Any]:
        fields = {
            **vars(self),
            "normalisation": self.normalisation.to_json(),
            "schedules": self.schedules.to_json(),
        }
        return {"schema_version": SCHEMA_VERSION, **fields}

    @classmethod
    def from_json(cls, path: Path, fields: Mapping[str, Any]) -> StateHeader:
        """Inverse of `to_json`; `path` is where the fields were read, for messages.

        Raises:
            CheckpointError: a missing or malformed field. A state from before there were schedules
                has that of its recipe.
        """
        try:
            return cls(
                step=int(fields["step"]),
                recipe=_up_to_date(fields["recipe"]),
                dataset=dict(fields["dataset"]),
                normalisation=Normalisation.from_json(fields["normalisation"]),
                provenance=dict(fields["provenance"]),
                holdout=dict(fields["holdout"]),
                schedules=Schedules.from_json(
                    fields.get("schedules") or [(0, fields["recipe"]["steps"])]
                ),
                best={
                    str(method): (int(step), float(error))
                    for method, (step, error) in fields.get("best", {}).items()
                },
                vocabulary=fields.get("vocabulary"),
            )
        except (KeyError, TypeError, ValueError, StreamVLAError) as error:
            raise CheckpointError(
                f"{path}: not a training state, or a garbled one ({type(error).__name__}: "
                f"{error}). Start anew in another out."
            ) from error

    def require_recipe(self, path: Path, recipe: Mapping[str, Any]) -> None:
        """Check the settings to resume with; `steps` has rules of its own (`Schedules`).

        Raises:
            ConfigError: the training was made with others; the message names them.
        """
        before, now = ({**_flat(each), "steps": None} for each in (self.recipe, recipe))
        differing = _differing(before, now)
        if differing:
            told = ", ".join(_change(name, before, now) for name in differing)
            raise ConfigError(
                f"{path} was made with other settings: {told}. Resume with the same ones, or "
                "start anew in another out."
            )

    def require_dataset(self, path: Path, directory: Path, dataset: Mapping[str, Any]) -> None:
        """Check the fingerprint of the data in `directory` to resume with.

        Raises:
            ConfigError: the training began with other data; the message names what differs.
        """
        differing = _differing(self.dataset, dataset)
        if differing:
            told = ", ".join(_change(name, self.dataset, dataset) for name in differing)
            raise ConfigError(
                f"{path} was trained on other data than {directory} holds: {told}. Resume with "
                "the dataset it began with, or start anew in another out."
            )


def _up_to_date(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe whose methods and model have the settings, and the names of settings, of today."""
    if "model" in recipe:
        model = recipe["model"]
        added: dict[str, Any] = {"focus": asdict(FocusConfig()), "memory": None}
        if "source" not in model:  # of the small model alone
            added |= {"pruned_to": 1.0, "frames": 1}
        recipe = {**recipe, "model": {**added, **model}}
    if "sampling" in recipe:
        of_clips = {"clip": 1, "clip_stride": [8, 12]}
        recipe = {**recipe, "sampling": {**of_clips, **recipe["sampling"]}}
    methods = [method_from_json(each).to_json() for each in recipe.get("methods", ())]
    return {**recipe, "methods": methods} if methods else dict(recipe)


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """
    >>> _flat({"seed": 0, "optimiser": {"lr": 0.1}, "methods": [{"name": "a", "horizon": 5}]})
    {'seed': 0, 'optimiser.lr': 0.1, 'methods.0.name': 'a', 'methods.0.horizon': 5}
    """
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, list) and all(isinstance(each, dict) for each in value) and value:
            value = {str(number): each for number, each in enumerate(value)}
        if isinstance(value, dict) and value:
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


def _differing(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Names whose values differ, in the order of `now`."""
    names = [*now, *(name for name in before if name not in now)]
    return [name for name in names if before.get(name) != now.get(name)]


def _change(name: str, before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """As in "episodes 24 (was 20)"; only the name where values say nothing to a reader."""
    values = (now.get(name), before.get(name))
    if name == "content" or not all(isinstance(value, int | float | str) for value in values):
        return name
    return f"{name} {values[0]} (was {values[1]})"
