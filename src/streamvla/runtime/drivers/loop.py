"""The control loop on the system clock: it owns robot and streamer, and never waits for a stage.

    results ──► streamer ◄── tick          tick i is due at start + i · period, an absolute instant
                   │
                   ▼
        robot.command   stages.observe / generate / cancel

The same loop runs in the model's process (`realtime`) and in a process of its own (`process`);
they differ in where the stages are.
"""

from __future__ import annotations

from streamvla.core.clock import SystemClock
from streamvla.core.interfaces import standing_at
from streamvla.runtime.drivers.episode import (
    Controlled,
    EndReason,
    EpisodeResult,
    StimulusLog,
    close_trace,
    describe,
    end_reason,
)
from streamvla.runtime.drivers.loop_statistics import TickLog
from streamvla.runtime.drivers.stages import (
    ActionMade,
    ContextReady,
    ObserveBegun,
    StageError,
    StageResult,
    Stages,
)
from streamvla.runtime.streamer.messages import (
    CancelGenerate,
    Command,
    Event,
    Free,
    Generated,
    Interrupted,
    Observed,
    Send,
    StageFailed,
    Started,
    StartGenerate,
    StartObserve,
    Stop,
    Tick,
)
from streamvla.trace import Failed, ObserveStarted


class ControlLoop:
    """One episode on the system clock.

    Args:
        start_ns: the instant of tick 0; the robot was reset for it.

    Attributes:
        ticks: when every control tick was due, served and done (grid pacing).
    """

    def __init__(
        self, episode: Controlled, clock: SystemClock, stages: Stages, start_ns: int
    ) -> None:
        self.ticks = TickLog()
        self._episode = episode
        self._stimuli = StimulusLog(episode.robot, episode.trace)
        self._clock = clock
        self._stages = stages
        self._start_ns = start_ns
        self._period_ns = episode.profile.execute_ns
        self._deadline_ns: int | None = None  # of the next control instant
        self._tick = 0
        self._sent_ns = start_ns  # of the latest command
        self._over: EndReason | None = None
        self._error: Exception | None = None

    def run(self) -> EpisodeResult:
        """Run the episode to its end.

        Raises:
            StageFailedError: a stage died; the robot was brought to its safe stop first.
            KeyboardInterrupt: passed on after the robot was brought to its safe stop.
        """
        try:
            self._clock.sleep_until_ns(self._start_ns)
        except KeyboardInterrupt:  # nothing was sent, the robot stands: there is nothing to stop
            close_trace(self._episode, self._clock.now_ns(), self._start_ns, "interrupted")
            raise
        try:
            if self._episode.pacing == "grid":
                self._deadline_ns = self._start_ns
            standing = standing_at(self._episode.robot)
            self._handle(Started(self._clock.now_ns(), standing))
            while self._over is None:
                self._step()
        except KeyboardInterrupt:
            self._come_to_rest()
            close_trace(self._episode, self._clock.now_ns(), self._start_ns, "interrupted")
            raise
        except Exception as error:  # the robot itself, or a fault in the runtime: no way to stop
            self._episode.trace.record(Failed(self._clock.now_ns(), "control", describe(error)))
            close_trace(self._episode, self._clock.now_ns(), self._start_ns, "failed")
            raise
        result = close_trace(self._episode, self._clock.now_ns(), self._start_ns, self._over)
        if self._error is not None:
            raise self._error
        return result

    def _step(self) -> None:
        """Take every result that is there; serve the control instant when it is due; else wait."""
        result = self._stages.take()
        if result is not None:
            self._on_result(result)
            return
        now_ns = self._clock.now_ns()
        if self._deadline_ns is not None and now_ns >= self._deadline_ns:
            self._control(self._deadline_ns)
            return
        if self._deadline_ns is None and self._look_for_end(now_ns):
            return
        self._flush_trace(now_ns)
        idle_until_ns = now_ns + self._period_ns
        self._stages.wait(idle_until_ns if self._deadline_ns is None else self._deadline_ns)

    def _flush_trace(self, now_ns: int) -> None:
        """Write the trace when there is time for it: more than half a period to the deadline."""
        slack_ns = self._period_ns if self._deadline_ns is None else self._deadline_ns - now_ns
        if slack_ns > self._period_ns // 2:
            self._episode.trace.flush()

    # --- results -------------------------------------------------------------------------------

    def _on_result(self, result: StageResult) -> None:
        now_ns = self._clock.now_ns()
        match result:
            case ObserveBegun():
                self._episode.trace.record(ObserveStarted(now_ns, result.observation))
            case ContextReady():
                self._handle(
                    Observed(
                        now_ns,
                        result.observation,
                        result.goal,
                        result.frozen,
                        result.saliency,
                        result.refused,
                    )
                )
            case ActionMade():
                self._handle(
                    Generated(
                        now_ns, result.started_ns, result.generation, result.index, result.values
                    )
                )
            case StageError():
                self._handle(StageFailed(now_ns, result.stage, result.message))

    # --- control instants ----------------------------------------------------------------------

    def _control(self, due_ns: int) -> None:
        served_ns = self._clock.now_ns()
        if self._look_for_end(served_ns):
            return
        if self._episode.pacing == "event":
            self._deadline_ns = None
            self._handle(Free(self._clock.now_ns(), due_ns))
            return
        self._serve_tick(self._clock.now_ns())
        self.ticks.append(due_ns, served_ns, self._sent_ns, self._clock.now_ns())

    def _serve_tick(self, now_ns: int) -> None:
        """Serve the tick that `now_ns` belongs to, and plan the next.

        Ticks that went by while this loop was held up are skipped, never served in a burst: two
        commands at once would cut the first one's motion short. So is a next tick that is less
        than half a period away. Gaps in tick numbers stay in the trace, and count as halted.
        """
        elapsed_ns = now_ns - self._start_ns
        tick = max(self._tick, elapsed_ns // self._period_ns)
        self._handle(Tick(now_ns, self._start_ns + tick * self._period_ns, tick))
        self._tick = max(tick + 1, -((-elapsed_ns - self._period_ns // 2) // self._period_ns))
        self._deadline_ns = self._start_ns + self._tick * self._period_ns

    def _look_for_end(self, now_ns: int) -> bool:
        self._episode.robot.advance_to(now_ns)
        self._stimuli.look()
        if self._episode.watch is not None:
            self._episode.watch(now_ns)
        self._over = self._over or end_reason(self._episode, now_ns - self._start_ns)
        return self._over is not None

    def _come_to_rest(self) -> None:
        """One hold at once; a robot that a ladder must slow down first gets the ticks for that."""
        at_rest = self._episode.streamer.at_rest
        self._handle(Interrupted(self._clock.now_ns()))
        while not at_rest and self._deadline_ns is not None:
            self._clock.sleep_until_ns(self._deadline_ns)
            self._serve_tick(self._clock.now_ns())
            at_rest = self._episode.streamer.at_rest

    # --- carrying commands out -----------------------------------------------------------------

    def _handle(self, event: Event) -> None:
        for command in self._episode.streamer.handle(event):
            self._carry_out(command)

    def _carry_out(self, command: Command) -> None:
        match command:
            case Send():
                self._send(command)
            case StartObserve():
                self._observe(command)
            case StartGenerate():
                self._stages.generate(command)
            case CancelGenerate():
                self._stages.cancel(command.generation)
            case Stop():
                self._over, self._error = "failed", command.error

    def _observe(self, command: StartObserve) -> None:
        captured_ns = self._clock.now_ns()
        try:
            self._episode.robot.advance_to(captured_ns)
            capture = self._episode.robot.capture()
        except Exception as error:
            self._handle(StageFailed(captured_ns, "observe", describe(error)))
            return
        self._stages.observe(command, capture, captured_ns)

    def _send(self, command: Send) -> None:
        self._sent_ns = self._clock.now_ns()
        self._episode.robot.command(command.values, self._sent_ns)
        if self._episode.pacing == "event":
            self._deadline_ns = self._sent_ns + self._period_ns
