"""What a run gives back: its outcome, its figures, its trace, and a report."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from streamvla.core.interfaces import RobotSpec
from streamvla.core.provenance import commit, machine
from streamvla.evaluation.metrics import RunMetrics, aggregate
from streamvla.runtime.timing.latency import LatencyProfile
from streamvla.trace import Trace
from streamvla.trace.spans import Pacing


@dataclass(frozen=True)
class Result:
    """One episode, and everything that was measured in it.

    Attributes:
        success: whether the robot's task was reached; false of a robot without one.
        reason: why it ended: "success", "time-limit", "interrupted".
        seconds: how long it took, on the episode's clock.
        metrics: see `evaluation.metrics`.
        trace: every event, with what the run carried in its header.
        executor: what drove, in words.
        profile: the stage times, emulated or as measured.
        robot: its specification.
    """

    success: bool
    reason: str
    seconds: float
    metrics: RunMetrics
    trace: Trace
    executor: str
    profile: LatencyProfile
    pacing: Pacing
    robot: RobotSpec

    def report(self, path: Path | str, beside: Sequence[Result] = ()) -> Path:
        """Write one self-contained HTML page about this run, compared with the first beside it.

        Raises:
            ConfigError: two runs by the same executor.
        """
        from streamvla.evaluation.report.report import ReportContext, ReportRun, write_report

        runs = [
            ReportRun(
                each.executor,
                [each.trace],
                aggregate([each.metrics]),
                each.pacing,
                each.profile.execute_ns,
                space=each.robot.action_space,
            )
            for each in (*beside, self)
        ]
        context = ReportContext(
            title=f"{self.robot.name}: {self.executor}",
            profile=self.profile.label,
            emulated=self.profile.emulated,
            command=shlex.join(sys.argv),
            commit=commit(),
            seeds=sorted({each.trace.header["seed"] for each in (self, *beside)}),
            machine=machine(),
        )
        write_report(Path(path), runs, context)
        return Path(path)
