"""The policy files of a training: the newest, the best, and a few of the past.

    OUT/policy.safetensors                          the newest save
    OUT/best/policy.safetensors                     lowest held-out action error (lead 0) so far
    OUT/checkpoints/step-00001500/policy.safetensors    of the last `keep` regular saves

They are written after the training state, so a kill in between leaves a state that is newer than
the policies; `write_policies` then makes up for it, because each follows from the state.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

from streamvla.core.errors import CheckpointError
from streamvla.core.files import replacing
from streamvla.model.checkpoint import Checkpoint, provenance_of, save_checkpoint
from streamvla.training.config import KEPT_NAME, TrainConfig

Best = Mapping[str, tuple[int, float]]
"""Method → step and held-out action error of its best policy."""


def write_policies(
    config: TrainConfig, step: int, best: Best, make: Callable[[str], Checkpoint]
) -> None:
    """Write what is not yet there of a step, and remove what is no longer kept.

    Args:
        make: method → its policy as it stands.
    """
    regular = config.keep > 0 and step > 0 and step % config.save_every == 0
    for name, path in config.policy_paths().items():
        if _step_of(path) != step:
            save_checkpoint(path, make(name))
        if name in best and best[name][0] == step:
            _same(path, config.best_paths()[name], step)
        if regular:
            _same(path, config.kept_paths(step)[name], step)
    _remove_old(config, step)


def _step_of(path: Path) -> int | None:
    """None where no whole policy lies."""
    try:
        return provenance_of(path).get("step")
    except CheckpointError:
        return None


def _same(path: Path, other: Path, step: int) -> None:
    """The same file under another name: a link, which takes no space, where there are links."""
    if _step_of(other) == step:
        return
    with replacing(other) as partial:
        partial.unlink()
        try:
            os.link(path, partial)
        except OSError:
            shutil.copyfile(path, partial)


def _remove_old(config: TrainConfig, step: int) -> None:
    """Of the folders of steps, all but the last `keep`; in them only files that we write."""
    folders = {
        int(found[1]): folder
        for folder in (config.out / KEPT_NAME).glob("step-*")
        if (found := re.fullmatch(r"step-(\d+)", folder.name))
    }
    past = sorted(number for number in folders if number <= step)
    for number in past[: max(0, len(past) - config.keep)]:
        for path in config.kept_paths(number).values():
            path.unlink(missing_ok=True)
            path.with_name(f".{path.name}.partial").unlink(missing_ok=True)
        with suppress(OSError):  # somebody else's files are in it
            folders[number].rmdir()
    with suppress(OSError):
        (config.out / KEPT_NAME).rmdir()
