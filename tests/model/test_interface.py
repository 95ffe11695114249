"""What a model that overrides only what it must still promises."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from streamvla.core.errors import ConfigError
from streamvla.model.interface import Model


class Plain(Model):
    """A model of another package, with the abstract methods alone."""

    def __init__(self) -> None:
        super().__init__()
        self.context = nn.Linear(2, 2)

    @property
    def vocabulary(self) -> None:
        return None

    def tokenise(self, instructions: Sequence[str]) -> Tensor:
        return torch.zeros(len(instructions), 1, dtype=torch.int64)

    def look(self, images: Tensor, words: Tensor) -> Tensor:
        return images

    def contextualise(self, seen: Tensor, words: Tensor, state: Tensor, command: Tensor) -> Any:
        return seen

    def seeing_modules(self) -> list[nn.Module]:
        return [self.context]


@pytest.mark.parametrize("trained", ["expert", "vision"])
def test_a_model_that_cannot_train_a_part_alone_refuses_to(trained):
    """It raises, rather than leave gradients to parts that were to stay as they are."""
    with pytest.raises(ConfigError, match=f"train is '{trained}', but Plain"):
        Plain().train_only(trained)


def test_every_model_trains_whole():
    """Training all of it leaves gradients to every parameter."""
    model = Plain()
    model.train_only("all")
    assert all(parameter.requires_grad for parameter in model.parameters())
