"""The control loop, the only one: it owns robot and streamer, and never waits for a stage.

    results ──► streamer ◄── tick          tick i is due at start + i · period, an absolute instant
                   │
                   ▼
        robot.command   stages.observe / generate / cancel

It holds what happens at a control instant, when a stage's result arrives, and how a run ends. Every
driver runs it; they differ in the time it goes by (`Timing`) and in where the stages are:

    simulated                    virtual time      an event heap
    threads                      system clock      threads of this process
    processes.executor_process   system clock      another process

At one instant results come before the control tick: an action that is ready exactly when due is in
time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from streamvla.core.clock import Clock
from streamvla.core.interfaces import standing_at
from streamvla.runtime.drivers.episode import (
    Controlled,
    EndReason,
    EpisodeResult,
    WorldLog,
    close_trace,
    describe,
    end_reason,
)
from streamvla.runtime.drivers.loop_statistics import TickLog
from streamvla.runtime.drivers.robot_side import RobotSide
from streamvla.runtime.drivers.signals import Ending
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
from streamvla.runtime.timing.latency import LatencyProfile
from streamvla.trace import Failed, ObserveCost, ObserveStarted, Stopping


@dataclass(frozen=True)
class Timing:
    """The time that a control loop goes by.

    Attributes:
        clock: the world and the deadlines go by it.
        told: what streamer and trace are told it is; another one under a simulated clock fault.
        execute_ns: how long the command that leaves now keeps the robot busy (event pacing).
        held_up_ns: how long after this due instant the robot takes its command, as far as is known
            beforehand (grid pacing). Where waiting is real, that is found out by waiting.
        margin_ns: a tick that is due sooner than this after the loop comes back is left out.
        idle_ns: how often to look at a robot that idles (event pacing); None: on results alone.
    """

    clock: Clock
    told: Clock
    execute_ns: Callable[[], int]
    held_up_ns: Callable[[int], int] = lambda due_ns: 0
    margin_ns: int = 0
    idle_ns: int | None = None

    @classmethod
    def real(cls, clock: Clock, profile: LatencyProfile) -> Timing:
        """The robot is as fast as the profile says, and looked at once a period; half a period
        between two commands is the least."""
        period_ns = profile.execute_ns
        return cls(clock, clock, lambda: period_ns, margin_ns=period_ns // 2, idle_ns=period_ns)


_MOST_RESULTS = 1000
"""Results in a row, after which a control instant is looked for: no flood of them holds one up."""


class ControlLoop:
    """One episode.

    Args:
        start_ns: the instant of tick 0; the robot was reset for it.
        ending: looked at between steps.
        ticks: gets when every control tick was due, served and done (grid pacing).
    """

    def __init__(
        self,
        episode: Controlled,
        timing: Timing,
        stages: Stages,
        start_ns: int,
        ticks: TickLog | None = None,
        ending: Ending | None = None,
    ) -> None:
        self._ending = ending or Ending()
        self._episode = episode
        self._robot = episode.robot
        self._side = RobotSide(timing.clock)
        self._streamer = episode.streamer
        self._trace = episode.trace
        self._world = WorldLog(episode.robot, episode.trace)
        self._timing = timing
        self._clock = timing.clock
        self._told = timing.told
        self._stages = stages
        self._ticks = ticks
        self._start_ns = start_ns
        self._on_grid = episode.streamer.pacing == "grid"
        self._period_ns = episode.profile.execute_ns
        self._limit_ns = self._own_limit_ns()
        self._due_ns: int | None = None  # when the next control instant is due
        self._wake_ns: int | None = None  # and when it can be served
        self._held_up_ns = 0
        self._tick = 0
        self._sent_ns = start_ns  # of the latest command
        self._over: EndReason | None = None
        self._error: Exception | None = None
        self._result: EpisodeResult | None = None
        self._taken = 0  # results, since a control instant was looked for
        self._sent = False  # a command: until then the robot stands, and needs no stop

    def _own_limit_ns(self) -> int | None:
        """Event pacing has no ticks to notice the time limit on while the robot waits."""
        duration_ns = self._episode.limits.duration_ns
        return None if self._on_grid or duration_ns is None else self._start_ns + duration_ns

    def run(self) -> EpisodeResult:
        """Run the episode to its end. However it is left, the robot gets its stop first.

        Raises:
            StageFailedError: a stage died.
            KeyboardInterrupt, or whatever else came up: passed on.
        """
        try:
            self._clock.sleep_until_ns(self._start_ns)
            self._ending.check()
        except BaseException:  # nothing was sent, the robot stands: there is nothing to stop
            self._come_to_rest("interrupted")
            raise
        try:
            over = self._until_over()
            self._come_to_rest(over)
        except (KeyboardInterrupt, SystemExit):
            self._come_to_rest("interrupted")
            raise
        except BaseException as error:  # the robot itself, or a fault in the runtime
            self._come_to_rest("failed", error)
            raise
        if self._error is not None:
            raise self._error
        assert self._result is not None
        return self._result

    def _until_over(self) -> EndReason:
        if self._on_grid:
            self._plan_tick(0)
        self._handle(Started(self._told.now_ns(), standing_at(self._robot)))
        while self._over is None:
            self._ending.check()
            self._step()
        return self._over

    def _step(self) -> None:
        """Take every result that is there; serve the control instant when it is due; else wait."""
        result = self._stages.take() if self._taken < _MOST_RESULTS else None
        self._taken += 1
        if result is not None:
            self._on_result(result)
            return
        self._taken = 0
        now_ns = self._clock.now_ns()
        if self._due_ns is not None and self._wake_ns is not None and now_ns >= self._wake_ns:
            self._control(self._due_ns)
        elif not self._over_between(now_ns):
            self._flush_trace(now_ns)
            self._stages.wait(self._next_ns(now_ns))

    def _over_between(self, now_ns: int) -> bool:
        """Event pacing: the end comes between control instants whenever an idle robot is looked
        at, when nothing is left to do, and at the time limit. On a grid the next tick finds it."""
        if self._on_grid:
            return False
        if self._due_ns is None and self._timing.idle_ns is not None:
            return self._look_for_end(now_ns)
        if self._streamer.finished:
            self._over = "observations"
            return True
        return (
            self._limit_ns is not None and now_ns >= self._limit_ns and self._look_for_end(now_ns)
        )

    def _next_ns(self, now_ns: int) -> int | None:
        """When to wake at the latest; None: with the next result."""
        if self._on_grid:
            return self._wake_ns
        wake_ns, limit_ns = self._wake_ns, self._limit_ns
        if wake_ns is None and self._timing.idle_ns is not None:
            wake_ns = now_ns + self._timing.idle_ns
        if wake_ns is None or limit_ns is None:
            return limit_ns if wake_ns is None else wake_ns
        return min(wake_ns, limit_ns)

    def _flush_trace(self, now_ns: int) -> None:
        """Write the trace when there is time for it: more than half a period to the deadline."""
        slack_ns = self._period_ns if self._wake_ns is None else self._wake_ns - now_ns
        if slack_ns > self._period_ns // 2:
            self._trace.flush()

    # --- results -------------------------------------------------------------------------------

    def _on_result(self, result: StageResult) -> None:
        now_ns = self._told.now_ns()
        if isinstance(result, ObserveBegun):
            self._trace.record(ObserveStarted(now_ns, result.observation))
            return
        if isinstance(result, ContextReady) and result.cost is not None:
            self._trace.record(ObserveCost.of(now_ns, result.observation, result.cost))
        try:
            commands = self._streamer.handle(_event_of(result, now_ns))
        except Exception as error:  # a fault of the executor, or what no model of ours says
            failed = StageFailed(now_ns, "planning", f"{result}: {describe(error)}")
            commands = self._streamer.handle(failed)
        for command in commands:
            self._carry_out(command)

    # --- control instants ----------------------------------------------------------------------

    def _control(self, due_ns: int) -> None:
        served_ns = self._clock.now_ns()
        if self._look_for_end(served_ns):
            return
        if not self._on_grid:
            self._due_ns = self._wake_ns = None
            now_ns = self._told.now_ns()
            self._handle(Free(now_ns, min(due_ns, now_ns)))
            return
        self._serve_tick(self._clock.now_ns())  # looking for the end takes time
        if self._ticks is not None:
            self._ticks.append(due_ns, served_ns, self._sent_ns, self._clock.now_ns())

    def _serve_tick(self, now_ns: int) -> None:
        """Serve the tick that `now_ns` belongs to, and plan the next.

        Ticks that went by while this loop was held up are skipped, never served in a burst: two
        commands at once would cut the first one's motion short. So is a next tick that comes too
        soon (`Timing.margin_ns`). Gaps are events, with their cause, and count as halted.
        """
        elapsed_ns = now_ns - self._start_ns
        tick = max(self._tick, (elapsed_ns - self._held_up_ns) // self._period_ns)
        due_ns = self._start_ns + tick * self._period_ns
        late_ns = (tick - self._tick) * self._period_ns
        why = self._side.why_late(late_ns) if late_ns else ""
        self._side.restart()
        self._plan_tick((elapsed_ns + self._timing.margin_ns) // self._period_ns + 1)
        self._handle(Tick(self._told.now_ns(), due_ns, tick, why))

    def _plan_tick(self, tick: int) -> None:
        self._tick = tick
        self._due_ns = self._start_ns + tick * self._period_ns
        self._held_up_ns = self._timing.held_up_ns(self._due_ns)
        self._wake_ns = self._due_ns + self._held_up_ns

    def _look_for_end(self, now_ns: int) -> bool:
        begun_ns = self._side.begin()
        self._robot.advance_to(now_ns)
        self._side.end("advance_to", begun_ns)
        self._world.look(self._told.now_ns())
        if self._episode.watch is not None:
            self._episode.watch(self._told.now_ns())
        self._over = self._over or end_reason(self._episode, now_ns - self._start_ns)
        return self._over is not None

    # --- the end -------------------------------------------------------------------------------

    def _come_to_rest(self, reason: EndReason, cause: BaseException | None = None) -> None:
        """Stop the robot, whatever happens meanwhile, and close the trace.

        What raises here does not keep the robot from its stop; signals wait. Asking the robot
        whether it succeeded comes after the stop where there is no time to lose.
        """
        if self._result is not None:
            return
        self._ending.begin_stop()
        over_ns, success = self._told.now_ns(), [False]
        calm = reason not in ("failed", "interrupted")
        if calm:
            _guarded(lambda: success.append(bool(self._robot.success)))
        if cause is not None:
            _guarded(lambda: self._note_failure("control", cause))
        _guarded(lambda: self._streamer.close(over_ns))
        _guarded(lambda: self._trace.record(Stopping(over_ns, reason)))
        ways = (self._slow_down, self._slow_down, self._hold_blindly) if self._sent else ()
        for stop in ways:
            failure = _guarded(stop)
            if failure is None:
                break
            _guarded(partial(self._note_failure, "stop", failure))
        if not calm:
            _guarded(lambda: success.append(bool(self._robot.success)))
        now_ns = self._told.now_ns()
        _guarded(lambda: close_trace(self._episode, now_ns, reason, success[-1]))
        self._result = EpisodeResult(success[-1], reason, over_ns - self._start_ns)

    def _note_failure(self, stage: str, error: BaseException) -> None:
        self._trace.record(Failed(self._told.now_ns(), stage, describe(error)))

    def _slow_down(self) -> None:
        """One hold at once; a robot that a ladder must slow down first gets the ticks for that."""
        if self._error is not None:  # a dead stage: the streamer has seen to it
            return
        at_rest = self._streamer.at_rest
        self._handle(Interrupted(self._told.now_ns()))
        while self._on_grid and not at_rest:
            assert self._wake_ns is not None
            self._clock.sleep_until_ns(self._wake_ns)
            self._robot.advance_to(self._clock.now_ns())
            self._serve_tick(self._clock.now_ns())
            at_rest = self._streamer.at_rest

    def _hold_blindly(self) -> None:
        """Straight to the robot: whatever makes commands otherwise has failed."""
        hold = self._streamer.space.hold(self._streamer.action_state)
        self._robot.command(hold, self._clock.now_ns())

    # --- carrying commands out -----------------------------------------------------------------

    def _handle(self, event: Event) -> None:
        for command in self._streamer.handle(event):
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
        begin_ns, captured_ns = self._clock.now_ns(), self._told.now_ns()
        try:
            begun_ns = self._side.begin()  # a second look starts between two ticks
            self._robot.advance_to(self._clock.now_ns())
            self._side.end("advance_to", begun_ns)
            begun_ns = self._side.begin()
            capture = self._robot.capture()
            self._side.end("capture", begun_ns)
        except Exception as error:
            self._handle(StageFailed(captured_ns, "observe", describe(error)))
            return
        self._stages.observe(command, capture, captured_ns)
        if self._ticks is not None:
            self._ticks.capture_ns.append(self._clock.now_ns() - begin_ns)

    def _send(self, command: Send) -> None:
        self._sent = True
        self._sent_ns = self._clock.now_ns()
        self._robot.command(command.values, self._sent_ns)
        self._side.end("command", self._sent_ns)
        if not self._on_grid:
            self._due_ns = self._wake_ns = self._sent_ns + self._timing.execute_ns()


def _guarded(call: Callable[[], object]) -> BaseException | None:
    """Call it; what it raised, if it did."""
    try:
        call()
    except BaseException as error:
        return error
    return None


def _event_of(result: ContextReady | ActionMade | StageError, now_ns: int) -> Event:
    """A stage's result, seen now."""
    match result:
        case ContextReady(observation, goal, frozen, saliency, refused, cost, unclear, instead):
            old_ns = 0 if cost is None else cost.frames_old_ns
            seen = (goal, frozen, saliency, refused, old_ns, unclear, instead)
            return Observed(now_ns, observation, *seen)
        case ActionMade(started_ns, generation, index, values):
            return Generated(now_ns, started_ns, generation, index, values)
        case StageError(stage, message):
            return StageFailed(now_ns, stage, message)
