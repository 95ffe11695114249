"""The saliency predictor of a policy, in a file beside the policy's.

policy.safetensors             the policy
policy.saliency.safetensors    its predictor: weights, sizes, calibration, provenance, and the
                               digest of the sight whose tokens it predicts

Policies that see alike, such as experts trained on one frozen backbone, may share a predictor: copy
the file to beside each.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from streamvla.core.errors import CheckpointError, StreamVLAError
from streamvla.model.checkpoint import SCHEMA_VERSION, load_tensors, save_tensors
from streamvla.model.saliency import Calibration, SaliencyConfig, SaliencyPredictor
from streamvla.policy.base import ModelPolicy


@dataclass(frozen=True)
class SaliencyCheckpoint:
    """Everything a predictor is.

    Attributes:
        policy: `identify` of the policy it was trained on.
        sight: `ModelPolicy.sight_digest` of that policy.
        calibration: None until it was calibrated.
        provenance: commit, command, date, settings, steps, and the figures it reached.
    """

    config: SaliencyConfig
    weights: Mapping[str, Tensor]
    policy: Mapping[str, str]
    sight: str
    calibration: Calibration | None
    provenance: Mapping[str, Any]

    def build(self) -> SaliencyPredictor:
        """The predictor with these weights, in evaluation mode, on the CPU."""
        predictor = SaliencyPredictor(self.config)
        predictor.load_state_dict(dict(self.weights))
        return predictor.eval()


def saliency_path(policy: Path) -> Path:
    """Where the predictor of the policy in this file lies."""
    return policy.with_suffix(".saliency.safetensors")


def save_saliency(path: Path, checkpoint: SaliencyCheckpoint) -> None:
    """Write atomically."""
    header = {
        "schema_version": SCHEMA_VERSION,
        "saliency": asdict(checkpoint.config),
        "policy": dict(checkpoint.policy),
        "sight": checkpoint.sight,
        "calibration": None if checkpoint.calibration is None else asdict(checkpoint.calibration),
        "provenance": dict(checkpoint.provenance),
    }
    save_tensors(path, checkpoint.weights, header)


def load_saliency(path: Path, policy: ModelPolicy) -> SaliencyCheckpoint:
    """The predictor in `path`, which must be of what `policy` sees.

    Raises:
        CheckpointError: missing, damaged, not a predictor, or of another sight.
    """
    header, weights = load_tensors(path)
    try:
        found = header["calibration"]
        checkpoint = SaliencyCheckpoint(
            SaliencyConfig(**header["saliency"]),
            weights,
            header["policy"],
            header["sight"],
            None if found is None else Calibration.from_json(found),
            header["provenance"],
        )
        checkpoint.build()
    except (KeyError, TypeError, RuntimeError, StreamVLAError) as error:
        raise CheckpointError(
            f"{path}: not a saliency predictor, or a garbled one ({type(error).__name__}: "
            f"{error}). Train it again with `streamvla train-saliency`."
        ) from error
    if checkpoint.sight != policy.sight_digest():
        raise CheckpointError(
            f"{path} was trained on a policy that sees otherwise (or on other weights of it). "
            "Delete it, and train it again with `streamvla train-saliency`."
        )
    return checkpoint
