"""The learned gate of skipping, and its file beside the policy's.

policy.safetensors             the policy
policy.skipping.safetensors    its gate: weights, sizes, calibration, provenance, and the digest of
                               the policy whose action errors it foresees

Unlike a saliency predictor it belongs to one policy: the errors are those of its actions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from streamvla.core.errors import CheckpointError, StreamVLAError
from streamvla.core.interfaces import Observation, PolicySpec
from streamvla.model.checkpoint import SCHEMA_VERSION, load_tensors, save_tensors
from streamvla.model.methods.base import Context
from streamvla.model.normalisation import Normalisation
from streamvla.model.skip_gate import SkipCalibration, SkipGate, SkipGateConfig, summary_of
from streamvla.policy.base import ModelPolicy


@dataclass(frozen=True)
class SkipGateCheckpoint:
    """Everything a gate is.

    Attributes:
        policy: `identify` of the policy it was trained on.
        digest: `ModelPolicy.digest` of that policy.
        provenance: commit, command, date, settings, and the figures it reached.
    """

    config: SkipGateConfig
    weights: Mapping[str, Tensor]
    policy: Mapping[str, str]
    digest: str
    calibration: SkipCalibration
    provenance: Mapping[str, Any]

    def build(self) -> SkipGate:
        """The gate with these weights, in evaluation mode, on the CPU."""
        gate = SkipGate(self.config)
        gate.load_state_dict(dict(self.weights))
        return gate.eval()


def skip_gate_path(policy: Path) -> Path:
    """Where the gate of the policy in this file lies."""
    return policy.with_suffix(".skipping.safetensors")


def save_skip_gate(path: Path, checkpoint: SkipGateCheckpoint) -> None:
    """Write atomically."""
    header = {
        "schema_version": SCHEMA_VERSION,
        "skip_gate": asdict(checkpoint.config),
        "policy": dict(checkpoint.policy),
        "digest": checkpoint.digest,
        "calibration": asdict(checkpoint.calibration),
        "provenance": dict(checkpoint.provenance),
    }
    save_tensors(path, checkpoint.weights, header)


def load_skip_gate(path: Path, policy: ModelPolicy) -> SkipGateCheckpoint:
    """The gate in `path`, which must be of `policy`.

    Raises:
        CheckpointError: missing, damaged, not a gate, or of another policy.
    """
    if not path.is_file():
        raise CheckpointError(
            f"no skip gate at {path}. Train one with `streamvla train-skipping --policy …`, or "
            "leave --skip-gate out."
        )
    header, weights = load_tensors(path)
    try:
        checkpoint = SkipGateCheckpoint(
            SkipGateConfig(**header["skip_gate"]),
            weights,
            header["policy"],
            header["digest"],
            SkipCalibration.from_json(header["calibration"]),
            header["provenance"],
        )
        checkpoint.build()
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError, StreamVLAError) as error:
        raise CheckpointError(
            f"{path}: not a skip gate, or a garbled one ({type(error).__name__}: {error}). Train "
            "it again with `streamvla train-skipping`."
        ) from error
    if checkpoint.digest != policy.digest():
        raise CheckpointError(
            f"{path} was trained on another policy (or on other weights of it). Delete it, and "
            "train one with `streamvla train-skipping`."
        )
    return checkpoint


def features_of(
    spec: PolicySpec,
    normalisation: Normalisation,
    age: np.ndarray,
    states: tuple[np.ndarray, np.ndarray],
    commands: tuple[np.ndarray, np.ndarray],
    pending: np.ndarray,
) -> np.ndarray:
    """(b, f) float32 of what is known before encoding.

    Args:
        age: (b,) control periods from the capture of the kept frames to now.
        states: (b, s) measured then and now.
        commands: (b, d) action states then and now.
        pending: (b, d) what pending actions will do: their sum in delta dimensions, the last
            command less the present one in absolute ones.
    """
    delta, scale = spec.action_space.is_delta(), np.array(normalisation.action_scale)
    moved = (states[1] - states[0]) / np.array(normalisation.state_std)
    told = (commands[1] - commands[0]) / scale
    pending = pending / scale
    norms = [np.linalg.norm(each[:, mask], axis=1) for each, mask in (
        (moved, slice(None)), (told, delta), (told, ~delta), (pending, delta), (pending, ~delta)
    )]  # fmt: skip
    parts = (
        np.stack([age, *norms], axis=1),
        moved,
        told,
        pending,
        normalisation.normalise_state(states[1]),
        (commands[1] / scale)[:, ~delta],
    )
    return np.concatenate(parts, axis=1).astype(np.float32)


class LearnedGate:
    """Whether the context before may be used again, as a `SkipGate` expects.

    Args:
        checkpoint: of this policy.
        policy: whose contexts and units they are.
        miss_rate: one that it was calibrated at.

    Attributes:
        miss_rate: the one that was asked for.
        threshold: η, the expected log error up to which it allows.

    Raises:
        ConfigError: it was calibrated at other miss rates.
    """

    def __init__(
        self, checkpoint: SkipGateCheckpoint, policy: ModelPolicy, miss_rate: float
    ) -> None:
        self.miss_rate: Final = miss_rate
        self.threshold: Final = checkpoint.calibration.threshold(miss_rate)
        self._spec, self._normalisation = policy.spec, policy.normalisation
        self._gate = checkpoint.build().to(policy.device)
        self._device = policy.device
        space, lead = policy.spec.action_space, checkpoint.calibration.longest_lead
        self._oldest = checkpoint.calibration.longest_age
        self._most = lead * np.maximum(np.abs(space.low), np.abs(space.high))
        self._summary: tuple[Context, Tensor] | None = None

    def allows(
        self,
        context: Context,
        encoded: Observation,
        now: Observation,
        age: int,
        pending: np.ndarray,
    ) -> bool:
        """Whether no observation is due: the expected error is at most the threshold."""
        return self.expected(context, encoded, now, age, pending) <= self.threshold

    def expected(
        self,
        context: Context,
        encoded: Observation,
        now: Observation,
        age: int,
        pending: np.ndarray,
    ) -> float:
        """The expected log error of the actions; +inf where an input is not finite, and for ages
        beyond those it was calibrated at.

        Args:
            context: of `encoded`, `age` control periods before `now`.
            pending: (d,) as of `features_of`; cut to what was seen in training.
        """
        features = features_of(
            self._spec,
            self._normalisation,
            np.array([float(age)]),
            (encoded.state[None], now.state[None]),
            (encoded.action_state[None], now.action_state[None]),
            np.clip(pending, -self._most, self._most)[None],
        )
        if age > self._oldest or not np.isfinite(features).all():
            return np.inf
        with torch.inference_mode():
            told = torch.from_numpy(features).to(self._device)
            found = float(self._gate(told, self._summarised(context)))
        return found if np.isfinite(found) else np.inf

    def _summarised(self, context: Context) -> Tensor:
        """Once a context: it may be asked about several times."""
        if self._summary is None or self._summary[0] is not context:
            self._summary = context, summary_of(context.prefix)
        return self._summary[1]
