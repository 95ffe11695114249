"""What each task is called in words: Meta-World ships no instruction strings, so we wrote these.

Each task has several training phrasings and two held out, to tell a policy that understands from
one that memorised strings.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from streamvla.core.errors import ConfigError, did_you_mean

Split = Literal["train", "heldout"]


@dataclass(frozen=True)
class Phrasings:
    """The ways to say one task."""

    train: tuple[str, ...]
    heldout: tuple[str, ...]


INSTRUCTIONS: dict[str, Phrasings] = {
    "reach": Phrasings(
        (
            "reach the green ball",
            "move the gripper to the green marker",
            "bring the hand to the green target",
            "go to the green sphere",
        ),
        ("touch the green ball", "put the gripper at the green goal"),
    ),
    "push": Phrasings(
        (
            "push the blue puck to the green marker",
            "slide the blue puck onto the green target",
            "move the puck to the green goal",
            "bring the blue object to the green ball",
        ),
        ("shove the blue puck to the green spot", "get the puck to the green target"),
    ),
    "button-press-topdown": Phrasings(
        (
            "press the red button from above",
            "push the button down",
            "press down the red button on the box",
            "go above the button and press it",
        ),
        ("hit the red button from the top", "lower the hand onto the button"),
    ),
    "drawer-open": Phrasings(
        (
            "open the drawer",
            "pull the drawer open",
            "pull the handle to open the green drawer",
            "slide the drawer out",
        ),
        ("get the drawer open", "draw the drawer out by its handle"),
    ),
    "drawer-close": Phrasings(
        (
            "close the drawer",
            "push the drawer shut",
            "shut the green drawer",
            "slide the drawer in",
        ),
        ("get the drawer closed", "push the drawer back in"),
    ),
    "window-open": Phrasings(
        (
            "open the window",
            "slide the window open",
            "push the window handle to the right to open it",
            "move the window pane open",
        ),
        ("get the window open", "slide open the window by its handle"),
    ),
    "window-close": Phrasings(
        (
            "close the window",
            "slide the window shut",
            "push the window handle to the left to close it",
            "move the window pane closed",
        ),
        ("get the window closed", "shut the window by its handle"),
    ),
    "button-press": Phrasings(
        (
            "press the red button on the front of the box",
            "push the button in",
            "press the button from the front",
            "move forward and press the red button",
        ),
        ("hit the button facing you", "push in the red button"),
    ),
    "door-open": Phrasings(
        (
            "open the door",
            "pull the door open",
            "pull the door by its handle",
            "swing the door open",
        ),
        ("get the door open", "draw the door open by the handle"),
    ),
    "door-close": Phrasings(
        (
            "close the door",
            "push the door shut",
            "shut the door",
            "swing the door closed",
        ),
        ("get the door closed", "push the door until it shuts"),
    ),
    "faucet-open": Phrasings(
        (
            "open the faucet",
            "turn the faucet on",
            "turn the tap handle to open it",
            "rotate the faucet to the open side",
        ),
        ("get the water running", "twist the tap open"),
    ),
    "faucet-close": Phrasings(
        (
            "close the faucet",
            "turn the faucet off",
            "turn the tap handle to close it",
            "rotate the faucet to the closed side",
        ),
        ("stop the water", "twist the tap shut"),
    ),
    "plate-slide": Phrasings(
        (
            "slide the plate into the net",
            "push the black plate into the goal",
            "slide the disc forward into the net",
            "move the plate inside the goal",
        ),
        ("get the plate into the net", "shove the disc in"),
    ),
    "handle-press": Phrasings(
        (
            "press the handle down",
            "push down the handle",
            "press the red lever down",
            "lower the handle",
        ),
        ("get the handle down", "push the lever to the bottom"),
    ),
    "coffee-button": Phrasings(
        (
            "press the button of the coffee machine",
            "start the coffee machine",
            "push the coffee button",
            "press the coffee maker button",
        ),
        ("make some coffee", "turn the coffee machine on"),
    ),
}


def phrasings(task: str, split: Split = "train") -> tuple[str, ...]:
    """All instructions of a task in one split.

    Raises:
        ConfigError: unknown task or split.
    """
    if task not in INSTRUCTIONS:
        raise did_you_mean("task", task, INSTRUCTIONS)
    if split not in ("train", "heldout"):
        raise ConfigError(f"instruction split {split!r}: expected 'train' or 'heldout'")
    return getattr(INSTRUCTIONS[task], split)


def choose_instruction(task: str, seed: int, split: Split = "train") -> str:
    """The instruction of the episode `seed`: a pure function of its arguments.

    Drawn from its own stream, so that the words say nothing about where the objects lie.
    """
    options = phrasings(task, split)
    stream = np.random.default_rng([seed, 1])
    return options[int(stream.integers(len(options)))]
