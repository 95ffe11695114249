"""What a policy with a memory (`model.memory`) remembers while it drives.

An observation enters when a context is made of it, and once: one that was only looked at, or was
refused, never does. Where a context is made of foreseen tokens, those that were seen enter.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import torch

from streamvla.core.clock import NS_PER_S
from streamvla.core.errors import ConfigError
from streamvla.model.backbone import PrefixCache
from streamvla.model.interface import Model
from streamvla.model.memory import Kept, Memory, Moment


class Stream:
    """The memory of the b streams that a policy drives.

    Args:
        model: one with a memory.

    Attributes:
        continues: whether it goes on through `begin`: several episodes are one stream.
        kept: None before the first observation.
    """

    def __init__(self, model: Model) -> None:
        if model.memory is None:
            raise ValueError("a stream needs a model with a memory")
        self._model: Final = model
        self._memory: Final[Memory] = model.memory
        self.continues = False
        self.kept: Kept | None = None
        self._latest_ns: int | None = None
        self._told: torch.Tensor | None = None

    def begin(self) -> None:
        """An episode begins: its clock does, and unless the stream continues nothing is kept."""
        self._latest_ns = None
        if not self.continues:
            self.kept = self._told = None

    def remembering(
        self,
        prefix: PrefixCache,
        words: torch.Tensor,
        state: torch.Tensor,
        command: torch.Tensor,
        captured_ns: int,
        seen: PrefixCache | None = None,
    ) -> tuple[PrefixCache, int]:
        """The prefix with what is remembered behind it, and the operations that took for one of
        the streams; the observations enter, unless they were captured no later than the last.

        Args:
            words, state, command: as for `Model.contextualise`.
            seen: the prefix of what was seen, where `prefix` is of something else.

        Raises:
            ConfigError: of another number of streams than before.
        """
        elapsed = 0.0 if self._latest_ns is None else (captured_ns - self._latest_ns) / NS_PER_S
        times = state.new_full((len(state),), max(elapsed, 0.0))
        moment = self._model.moment(words, state, command, times)
        kept = self._up_to_date(prefix, moment)
        compact = self._memory.read(kept, prefix, moment)
        flops = self._memory.flops(kept, prefix)
        if self._latest_ns is None or captured_ns > self._latest_ns:
            entering = compact
            if seen is not None:
                entering, flops = self._memory.read(kept, seen, moment), 2 * flops
            kept.enter(entering, prefix if seen is None else seen, moment)
            self._latest_ns = captured_ns
        return self._memory.appended(prefix, compact), flops

    def snapshot(self) -> dict[str, torch.Tensor]:
        """All that is kept, for `restore`; empty before the first observation."""
        if self.kept is None or self._told is None:
            return {}
        latest = -1 if self._latest_ns is None else self._latest_ns
        return {**self.kept.snapshot(), "told": self._told, "latest_ns": torch.tensor(latest)}

    def restore(self, snapshot: Mapping[str, torch.Tensor]) -> None:
        """All as it was at `snapshot`; a process that was started anew remembers so.

        Raises:
            ConfigError: it is of a memory of other sizes.
        """
        if not snapshot:
            self.kept = self._told = self._latest_ns = None
            return
        with torch.inference_mode():
            told = snapshot["told"].clone()
            vision = snapshot["vision"].shape[-2]
            kept = Kept(self._memory.config, self._memory.size, vision, told)
            kept.restore(snapshot)
        latest = int(snapshot["latest_ns"])
        self.kept, self._told = kept, told
        self._latest_ns = None if latest < 0 else latest

    def _up_to_date(self, prefix: PrefixCache, moment: Moment) -> Kept:
        """What is kept, with the sink of this instruction."""
        kept, told = self.kept, self._told
        if kept is None or told is None:
            kept = self._memory.begin(prefix, moment)
        elif told.shape != moment.told.shape:
            raise ConfigError(
                f"{len(moment.told)} observations for a memory of {len(told)} streams; call "
                "begin() before another number of streams"
            )
        elif not torch.equal(told, moment.told):
            self._memory.instruct(kept, moment.told)
        self.kept, self._told = kept, moment.told
        return kept


class FrameStack:
    """The vision tokens of the last observations, for a model of several `frames`.

    Attributes:
        continues: as of `Stream`.
    """

    def __init__(self, frames: int) -> None:
        self.continues = False
        self._frames: Final = frames
        self._latest_ns: int | None = None
        self._older: list[torch.Tensor] = []

    def begin(self) -> None:
        """An episode begins: unless the stream continues, nothing is kept."""
        self._latest_ns = None
        if not self.continues:
            self._older = []

    def stacked(
        self, tokens: torch.Tensor, captured_ns: int, seen: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Vision tokens (b, v, l, w) with those before → (b, frames·v, l, w), the latest first;
        they enter, unless they were captured no later than the last.

        Args:
            seen: those that were seen, where `tokens` are others.
        """
        behind = self._older[: self._frames - 1]
        behind += [behind[-1] if behind else tokens] * (self._frames - 1 - len(behind))
        if self._latest_ns is None or captured_ns > self._latest_ns:
            self._older = [tokens if seen is None else seen, *self._older][: self._frames - 1]
            self._latest_ns = captured_ns
        return torch.cat([tokens, *behind], 1)
