"""What a policy with a memory (`model.memory`) remembers while it drives.

An observation enters when a context is made of it, and once: one that was only looked at, or was
refused, never does. Where a context is made of foreseen tokens, those that were seen enter.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import torch

from streamvla.core.clock import NS_PER_S
from streamvla.core.errors import ConfigError
from streamvla.model.backbone import PrefixCache
from streamvla.model.interface import Model
from streamvla.model.memory import Memory
from streamvla.model.past import Kept, Moment


class Stream:
    """The memory of the b streams that a policy drives.

    An observation whose context is made a second time has entered already, and finds itself in the
    memory: that context is another one than the first.

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
        """All as it was at `snapshot`, which may be of another process and another device.

        Raises:
            ConfigError: it is not whole, or of a memory of other sizes; nothing has changed.
        """
        if not snapshot:
            self.kept = self._told = self._latest_ns = None
            return
        size = self._memory.size
        _require_tensors(snapshot, ("told", "latest_ns", "vision"))
        told, latest = snapshot["told"], int(snapshot["latest_ns"])
        if told.shape[1:] != (size.told_width,):
            raise ConfigError(
                f"memory snapshot: an instruction of width {tuple(told.shape[1:])}, this policy's "
                f"has {size.told_width}. Restore it with the policy that it was made by"
            )
        with torch.inference_mode():
            told = told.to(self._memory.kind.device, copy=True)
            kept = Kept(self._memory.config, size, self._vision_of(snapshot), told)
            kept.restore(snapshot)
        self.kept, self._told = kept, told
        self._latest_ns = None if latest < 0 else latest

    def _vision_of(self, snapshot: Mapping[str, torch.Tensor]) -> int:
        """Tokens of an observation; what is kept of them says so, if anything is."""
        return snapshot["vision"].shape[-2] // max(1, self._memory.config.vision_window)

    def _up_to_date(self, prefix: PrefixCache, moment: Moment) -> Kept:
        """What is kept, with the sink of this instruction."""
        kept, told = self.kept, self._told
        if kept is None or told is None:
            kept = self._memory.begin(prefix, moment)
        elif told.shape != moment.told.shape:
            raise other_streams(len(moment.told), len(told), continues=self.continues)
        elif not torch.equal(told, moment.told):
            self._memory.instruct(kept, moment.told)
        self.kept, self._told = kept, moment.told
        return kept


def _require_tensors(snapshot: Mapping[str, torch.Tensor], names: Sequence[str]) -> None:
    for name in names:
        if name not in snapshot:
            raise ConfigError(
                f"memory snapshot: {name} is missing; it has {', '.join(sorted(snapshot))}. "
                "Restore what `snapshot` gave, whole"
            )


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

        Raises:
            ConfigError: of another number of streams than before.
        """
        if self._older and len(self._older[0]) != len(tokens):
            raise other_streams(len(tokens), len(self._older[0]), continues=self.continues)
        behind = self._older[: self._frames - 1]
        behind += [behind[-1] if behind else tokens] * (self._frames - 1 - len(behind))
        if self._latest_ns is None or captured_ns > self._latest_ns:
            self._older = [tokens if seen is None else seen, *self._older][: self._frames - 1]
            self._latest_ns = captured_ns
        return torch.cat([tokens, *behind], 1)

    def snapshot(self) -> dict[str, torch.Tensor]:
        """All that is kept, for `restore`; empty before the first observation."""
        if not self._older:
            return {}
        latest = -1 if self._latest_ns is None else self._latest_ns
        return {"older": torch.stack(self._older), "latest_ns": torch.tensor(latest)}

    def restore(self, snapshot: Mapping[str, torch.Tensor]) -> None:
        """All as it was at `snapshot`.

        Raises:
            ConfigError: it is not whole, or of more frames; nothing has changed.
        """
        if not snapshot:
            self._older, self._latest_ns = [], None
            return
        _require_tensors(snapshot, ("older", "latest_ns"))
        older, latest = snapshot["older"], int(snapshot["latest_ns"])
        if len(older) > self._frames - 1:
            raise ConfigError(
                f"snapshot of {len(older)} frames before the present one; this policy keeps "
                f"{self._frames - 1}. Restore it with the policy that it was made by"
            )
        self._older = [each.clone() for each in older]
        self._latest_ns = None if latest < 0 else latest


def other_streams(found: int, expected: int, *, continues: bool) -> ConfigError:
    """That a policy was given another number of observations at once than before."""
    remedy = "let the stream not continue, and call begin()" if continues else "call begin()"
    return ConfigError(
        f"{found} observations for a memory of {expected} streams; {remedy} before another number "
        "of streams"
    )
