"""A program that drives a robot, to be ended in every way. Arguments: how, trace, diary, driver."""

from __future__ import annotations

import sys
import time
from functools import partial
from pathlib import Path

import streamvla as sv

from . import process_parts as parts


def main(how: str, trace: Path, diary: Path, driver: str) -> None:
    robot = partial(parts.DiaryRobot, diary)
    arguments = (parts.wandering_policy, robot, "action-flow:3")
    options = {"driver": driver, "trace": trace, "governor": "basic"}
    if how == "run":
        sv.run(*arguments, **options)
        return
    running = sv.start(*arguments, **options)
    while running.metrics().actions < 5:
        time.sleep(0.01)
    if how == "raise":
        raise ValueError("the caller's own")
    if how == "sleep":
        time.sleep(60)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4])
