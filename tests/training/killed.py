"""A training to be killed; run as a module: DATASET OUT STEPS."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

from streamvla.training import train
from streamvla.training.trainer import Trainer
from tests.training.small import small_config


def main() -> None:
    """Resume where something was begun; say "ready" before the first step."""
    dataset, out, steps = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    config = replace(
        small_config(dataset, out),
        threads=1,
        steps=steps,
        save_every=3,
        log_every=5,
        holdout_every=30,
        resume=(out / "log.jsonl").exists(),
    )
    prepare = Trainer.prepare

    def announced(self: Trainer) -> None:
        prepare(self)
        sys.stdout.write("ready\n")
        sys.stdout.flush()

    Trainer.prepare = announced
    train(config)


if __name__ == "__main__":
    main()
