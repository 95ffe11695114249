"""The action-flow policy: one action per flow step."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from streamvla.policy.base import ModelPolicy, PolicyContext


class ActionFlowPolicy(ModelPolicy):
    """`Policy` by action flow matching (method: `model/flow.py`); one expert pass an action.

    From action state x, `generate` repeats: v = field(x, i/H); emit a; x ← what a leads to. The
    emitted action is clipped to the action space's limits and the flow goes on from what was
    *emitted*, so for delta dimensions Σ emitted = x_H − x_0 always, and clipping cannot open a gap
    between the flow and the robot.
    """

    def _actions(
        self, context: PolicyContext, start: np.ndarray, index: int
    ) -> Iterator[np.ndarray]:
        space, x = self.spec.action_space, start
        is_delta = space.is_delta()
        for i in range(index, self.spec.horizon):
            step = self._step(context, x, i)  # (b, d): v/H
            action = space.clip(np.where(is_delta, step, x + step))
            x = space.advance(x, action)
            yield action

    def _step(self, context: PolicyContext, x: np.ndarray, index: int) -> np.ndarray:
        """v/H at flow step `index`: (b, d) → (b, d), robot units."""
        with torch.inference_mode():
            suffix = self._relative(context, x)  # (b, 1, d)
            tau = torch.full(suffix.shape[:2], index / self.spec.horizon, device=self.device)
            step = self.model(suffix, tau, context.prefix).squeeze(1)  # (b, d)
        return self.normalisation.restore_action(step.cpu().numpy())
