"""`streamvla train`: demonstrations → policy; resumable, same command on a CPU or a GPU."""

from __future__ import annotations

import os

from streamvla.core.errors import InterruptedRunError
from streamvla.studies.tables import print_json
from streamvla.studies.trainings import Train, train_config


def train_command(command: Train) -> None:
    """Run the command and print where the policy lies.

    Raises:
        InterruptedRunError: a signal came before the last step; the figures are printed all the
            same.
    """
    from streamvla.training import train

    result = train(train_config(command))
    if os.environ.get("RANK", "0") != "0":
        return  # the first of several processes speaks for all
    if result.finished:
        for path in result.policies.values():
            print(f"{path}: step {result.step}, finished")
        for path, step, error in result.best.values():
            print(f"{path}: step {step}, the lowest held-out action error, {error:.4f}")
        print(result.curves or "No curves drawn: matplotlib is missing (extra `report`)")
    if command.json:
        print_json(
            {
                "command": "train",
                "ablation": command.ablation,
                "policies": {name: str(path) for name, path in result.policies.items()},
                "policy": str(result.policy),
                "step": result.step,
                "finished": result.finished,
                "holdout": dict(result.holdout),
                "best": {
                    name: {"policy": str(path), "step": step, "holdout_lead_0": error}
                    for name, (path, step, error) in result.best.items()
                },
            }
        )
    if not result.finished:
        raise InterruptedRunError(_how_to_go_on(command, result.step), result.stopped_by)


def _how_to_go_on(command: Train, step: int) -> str:
    if step == 0:
        return "interrupted before the first step; nothing is saved. Run the same command again."
    return (
        f"interrupted at step {step} of {command.steps}; policy and training state are saved in "
        f"{command.out}. Run the same command with --resume to go on."
    )
