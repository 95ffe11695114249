"""The action-flow policy: encode once per observation, then one action per flow step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from streamvla.core.action_space import ActionSpace
from streamvla.core.errors import ConfigError, SpecMismatchError
from streamvla.core.interfaces import FlowStart, Observation, PolicySpec
from streamvla.model.backbone import PrefixCache
from streamvla.model.checkpoint import load_checkpoint
from streamvla.model.flow import FlowConfig, step_of
from streamvla.model.normalisation import Normalisation
from streamvla.model.vla import StreamingVLA
from streamvla.policy.transforms import (
    check_observation,
    flow_origin,
    pixels_to_float,
    stack_pixels,
    words_tensor,
)


@dataclass(frozen=True, slots=True)
class PolicyContext:
    """b encoded observations.

    Attributes:
        prefix: the model's cache.
        origin: (b, d) what is subtracted from action states (`flow_origin`), robot units.
    """

    prefix: PrefixCache
    origin: np.ndarray


class ActionFlowPolicy:
    """`Policy` by action flow matching (methods: `model/flow.py`).

    From action state x, `generate` repeats: v = field(x, i/H); emit a; x ← what a leads to. The
    emitted action is clipped to the action space's limits and the flow goes on from what was
    *emitted*, so for delta dimensions Σ emitted = x_H − x_0 always, and clipping cannot open a gap
    between the flow and the robot.
    """

    def __init__(
        self,
        model: StreamingVLA,
        spec: PolicySpec,
        flow: FlowConfig,
        normalisation: Normalisation,
        device: torch.device | str = "cpu",
    ) -> None:
        if spec.horizon != flow.horizon:
            raise ConfigError(f"policy horizon {spec.horizon} is not the flow's {flow.horizon}")
        self.spec = spec
        self.flow = flow
        self.normalisation = normalisation
        self.device = torch.device(device)
        self._is_delta = torch.from_numpy(spec.action_space.is_delta().copy()).to(self.device)
        self.model = model.to(self.device).eval()

    def encode(self, observation: Observation) -> PolicyContext:
        """The context of one observation.

        Raises:
            SpecMismatchError: a view, size, type or dimension the policy was not trained for, or
                proprioception that is not finite.
        """
        return self.encode_batch([observation])

    def generate(self, context: PolicyContext, start: FlowStart) -> Iterator[np.ndarray]:
        """Yield `H − start.index` actions (d,) float64, robot units; one expert call each.

        Not-finite values from the model are passed on: the runtime's governor stops them.
        """
        for actions in self.generate_batch(context, start.action_state[None], start.index):
            yield actions[0]

    def encode_batch(self, observations: Sequence[Observation]) -> PolicyContext:
        """The context of b observations in one pass (several simulated episodes at once)."""
        for observation in observations:
            check_observation(observation, self.spec)
        captured = np.stack([each.action_state for each in observations])  # (b, d)
        origin = flow_origin(self.spec.action_space, captured, self.flow.state_origin)
        state = np.stack([each.state for each in observations])  # (b, s)
        with torch.inference_mode():
            prefix = self.model.encode(
                pixels_to_float(stack_pixels(observations, self.spec).to(self.device)),
                words_tensor([each.instruction for each in observations]).to(self.device),
                self._tensor(self.normalisation.normalise_state(state)),
                self._tensor(self.normalisation.normalise_action(captured - origin)),
            )
        return PolicyContext(prefix, origin)

    def generate_batch(
        self, context: PolicyContext, action_states: np.ndarray, index: int = 0
    ) -> Iterator[np.ndarray]:
        """Yield `H − index` times the next actions (b, d) of b flows, float64, robot units.

        Args:
            action_states: (b, d) from which each flow departs.
            index: flow step to start from, the same for all.
        """
        space, horizon = self.spec.action_space, self.spec.horizon
        if not 0 <= index < horizon:
            raise ConfigError(f"flow index {index} is outside 0..{horizon - 1}")
        if action_states.shape != context.origin.shape:
            raise SpecMismatchError(
                f"action states {action_states.shape} do not match the context's "
                f"{context.origin.shape}; give one per encoded observation"
            )
        return self._integrate(context, action_states.astype(np.float64), index, space)

    def _integrate(
        self, context: PolicyContext, x: np.ndarray, index: int, space: ActionSpace
    ) -> Iterator[np.ndarray]:
        is_delta = space.is_delta()
        for i in range(index, self.spec.horizon):
            step = self._step(context, x, i)  # (b, d): v/H
            action = space.clip(np.where(is_delta, step, x + step))
            x = space.advance(x, action)
            yield action

    def _step(self, context: PolicyContext, x: np.ndarray, index: int) -> np.ndarray:
        """v/H at flow step `index`: (b, d) → (b, d), robot units."""
        relative = self.normalisation.normalise_action(x - context.origin)
        with torch.inference_mode():
            suffix = self._tensor(relative).unsqueeze(1)  # (b, 1, d)
            tau = torch.full(suffix.shape[:2], index / self.spec.horizon, device=self.device)
            output = self.model(suffix, tau, context.prefix)
            step = step_of(output, suffix, self._is_delta).squeeze(1)  # (b, d)
        return self.normalisation.restore_action(step.cpu().numpy())

    def _tensor(self, values: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(values).to(self.device)


def load_policy(
    path: Path | str,
    action_space: ActionSpace | None = None,
    device: torch.device | str = "cpu",
) -> ActionFlowPolicy:
    """The policy in a checkpoint file.

    Args:
        action_space: of the robot it shall drive; None to accept any.

    Raises:
        CheckpointError: the file is missing, damaged, or not a streamvla checkpoint.
        SpecMismatchError: it was trained for another action space.
    """
    checkpoint = load_checkpoint(path, action_space)
    return ActionFlowPolicy(
        checkpoint.build_model(), checkpoint.spec, checkpoint.flow, checkpoint.normalisation, device
    )
