"""An owner to be killed: drives an episode without an end. Arguments: trace, diary."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

from streamvla.runtime.drivers.settings import EpisodeSettings
from streamvla.runtime.executors.action_flow import ActionFlow
from streamvla.runtime.processes.driver import ProcessDriver
from streamvla.runtime.processes.plan import EpisodePlan
from streamvla.runtime.timing.latency import profile_ms

from . import process_parts as parts


def main(trace: Path, diary: Path) -> None:
    robot = partial(parts.DiaryRobot, diary)
    with ProcessDriver(robot, parts.wandering_policy, settings=parts.NORMAL) as driver:
        sys.stdout.write(f"{driver.executor_pid} {driver.model_pid}\n")
        sys.stdout.flush()
        profile = profile_ms("brisk", 8, 4, 20)
        settings = EpisodeSettings(parts.SPACE, parts.HORIZON, ActionFlow(3), profile)
        driver.run(EpisodePlan(settings, trace))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
