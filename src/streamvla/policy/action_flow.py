"""The action-flow policy: one action per flow step."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from streamvla.core.errors import ConfigError
from streamvla.core.interfaces import PolicySpec
from streamvla.model.methods.action_flow import ActionExpert, ActionFlowConfig, step_of
from streamvla.model.models import Model
from streamvla.model.normalisation import Normalisation
from streamvla.policy.base import ModelPolicy, PolicyContext


class ActionFlowPolicy(ModelPolicy):
    """`Policy` by action flow matching (`model/methods/action_flow.py`); one expert pass an action.

    From action state x, `generate` repeats: v = field(x, i/H); emit a; x ← what a leads to. The
    emitted action is clipped to the action space's limits and the flow goes on from what was
    *emitted*, so for delta dimensions Σ emitted = x_H − x_0 always, and clipping cannot open a gap
    between the flow and the robot.

    The flow times it is told are on the grid (age + i)/H, so what they do to the expert's norms is
    made once, here: the model's weights must not change afterwards.
    """

    def __init__(
        self,
        model: Model,
        spec: PolicySpec,
        method: ActionFlowConfig,
        normalisation: Normalisation,
        device: torch.device | str = "cpu",
    ) -> None:
        super().__init__(model, spec, method, normalisation, device)
        if not isinstance(self.model.expert, ActionExpert):
            raise ConfigError(
                f"an action-flow policy needs an ActionExpert, not {type(model.expert)}"
            )
        self._expert = self.model.expert
        self._is_delta = torch.from_numpy(spec.action_space.is_delta().copy()).to(self.device)
        with torch.inference_mode():
            steps = torch.arange(method.horizon + method.max_age, device=self.device)
            taus = steps / method.horizon
            self._modulations = [self._expert.modulations(tau.view(1, 1)) for tau in taus]

    def _actions(
        self, context: PolicyContext, start: np.ndarray, index: int, age: int
    ) -> Iterator[np.ndarray]:
        space, x = self.spec.action_space, start
        is_delta = space.is_delta()
        for i in range(index, self.spec.horizon):
            step = self._step(context, x, age + i)  # (b, d): v/H
            action = space.clip(np.where(is_delta, step, x + step))
            x = space.advance(x, action)
            yield action

    def _step(self, context: PolicyContext, x: np.ndarray, elapsed: int) -> np.ndarray:
        """v/H so many actions after the observation: (b, d) → (b, d), robot units."""
        with torch.inference_mode():
            suffix = self._relative(context, x)  # (b, 1, d)
            output = self._expert.step(suffix, self._modulations[elapsed], context.prefix)
            step = step_of(output, suffix, self._is_delta).squeeze(1)  # (b, d)
        return self.normalisation.restore_action(step.cpu().numpy())
