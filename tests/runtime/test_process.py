"""The driver with processes: order, safety and recovery (never speed)."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path

import pytest

from streamvla.core.clock import ms_to_ns
from streamvla.core.errors import (
    ConfigError,
    RobotError,
    SpecMismatchError,
    StageFailedError,
    TraceError,
)
from streamvla.runtime.drivers.episode import EpisodeLimits
from streamvla.runtime.drivers.settings import EpisodeSettings
from streamvla.runtime.drivers.simulated import run_simulated
from streamvla.runtime.executors.action_flow import ActionFlow
from streamvla.runtime.executors.early import Adaptive
from streamvla.runtime.executors.synchronous import Synchronous
from streamvla.runtime.faults.plan import parse_faults
from streamvla.runtime.processes.driver import ProcessDriver
from streamvla.runtime.processes.plan import EpisodePlan
from streamvla.runtime.processes.privileges import RealtimeSettings
from streamvla.runtime.timing.latency import ConstantLatency, profile_ms
from streamvla.trace import (
    CameraFrozen,
    EarlyDecided,
    Ended,
    Failed,
    FaultInjected,
    MemoryTrace,
    Sent,
    Trace,
    read_trace,
)

from . import process_parts as parts
from .scenario import Scenario, wandering

PROFILE = profile_ms("brisk", 8, 4, 20)

process_driver = partial(ProcessDriver, settings=parts.NORMAL)


def plan_for(
    path: Path,
    *,
    executor: ActionFlow | Synchronous = ActionFlow(3),  # noqa: B008
    observations: int | None = None,
    seconds: float | None = None,
) -> EpisodePlan:
    settings = EpisodeSettings(
        parts.SPACE,
        parts.HORIZON,
        executor,
        PROFILE,
        limits=EpisodeLimits(None if seconds is None else ms_to_ns(1000 * seconds)),
        max_observations=observations,
    )
    return EpisodePlan(settings, path, {"seed": 0}, reset_ns=ms_to_ns(50))


def sent(trace: Trace) -> list[Sent]:
    return [event for event in trace.events if isinstance(event, Sent)]


def once(path: Path, condition: Callable[[Trace], bool], action: Callable[[], None]) -> None:
    """On a thread: when the trace that is being written fulfils the condition, act."""

    def watch() -> None:
        for _ in range(2000):
            with suppress(TraceError):  # not begun yet
                if condition(read_trace(path)):
                    action()
                    return
            threading.Event().wait(0.01)

    threading.Thread(target=watch, daemon=True).start()


def after(ticks: int) -> Callable[[Trace], bool]:
    return lambda trace: len(sent(trace)) >= ticks


@pytest.fixture
def diary(tmp_path: Path) -> Path:
    return tmp_path / "diary.txt"


@pytest.fixture
def driver(diary: Path):
    with process_driver(partial(parts.DiaryRobot, diary), parts.wandering_policy) as driver:
        yield driver


def test_one_command_a_tick_reaches_the_robot_and_the_trace_says_which(driver, diary, tmp_path):
    """Every tick sends one command; the robot's own diary and the trace agree on all of them."""
    result = driver.run(plan_for(tmp_path / "trace.jsonl", seconds=0.6))
    trace = read_trace(tmp_path / "trace.jsonl")
    ticks = [event.tick for event in sent(trace)]
    assert result.reason == "time-limit"
    assert ticks == sorted(set(ticks))
    assert parts.read_diary(diary) == [event.values for event in sent(trace)]
    *served_ticks, stop = sent(trace)
    assert stop.source == "hold"
    assert len(result.ticks) == result.statistics.ticks == len(served_ticks)
    served = zip(served_ticks, result.ticks.due_ns.tolist(), strict=True)
    assert all(event.due_ns >= due_ns for event, due_ns in served)  # later if ticks were skipped
    assert {"policy"} <= {event.source for event in sent(trace)}


def test_early_observations_are_judged_across_processes(diary, tmp_path):
    """Accepted and refused looks come back with their saliency, and motion goes on either way."""
    with process_driver(partial(parts.DiaryRobot, diary), parts.anticipating_policy) as driver:
        rule = Adaptive((0.9,), ("camera",))
        driver.run(plan_for(tmp_path / "trace.jsonl", executor=ActionFlow(3, rule), seconds=2))
    trace = read_trace(tmp_path / "trace.jsonl")
    decisions = [event for event in trace.events if isinstance(event, EarlyDecided)]
    assert {event.accepted for event in decisions} == {True, False}
    assert all((event.saliency[0] <= 0.9) == event.accepted for event in decisions)
    generations = {event.generation for event in sent(trace)}
    assert max(generations) > 4


def test_the_prefix_of_a_generation_reaches_the_model_process(diary, tmp_path):
    """A policy that begins with the last action of its prefix begins with the last one pending."""
    with process_driver(
        partial(parts.DiaryRobot, diary), parts.policy_that_repeats_the_prefix
    ) as driver:
        driver.run(plan_for(tmp_path / "trace.jsonl", observations=6))
    policy = [event for event in sent(read_trace(tmp_path / "trace.jsonl")) if event.index >= 0]
    seams = [(a.values, b.values) for a, b in pairwise(policy) if a.generation != b.generation]
    assert len(seams) == 5
    assert all(after in (before, (0.0, 0.0)) for before, after in seams)
    assert any(after == before for before, after in seams)


def test_a_policy_that_cannot_look_ahead_ends_in_a_stop(driver, tmp_path):
    """The adaptive rule on a policy without a predictor is a stage failure with the remedy."""
    executor = ActionFlow(3, Adaptive((1.0,)))
    with pytest.raises(StageFailedError, match="train-saliency"):
        driver.run(plan_for(tmp_path / "trace.jsonl", executor=executor, seconds=2))


@pytest.mark.parametrize("executor", [Synchronous(4), ActionFlow(0)])
def test_processes_send_the_same_actions_as_virtual_time(driver, tmp_path, executor):
    """The policy actions and their order are those of the simulated driver, across two episodes."""
    virtual = MemoryTrace()
    scenario = Scenario(executor, "grid", PROFILE, observations=3, script=wandering)
    run_simulated(scenario.episode(virtual), ConstantLatency(PROFILE))
    expected = [e.values for e in virtual.events if isinstance(e, Sent) and e.source == "policy"]
    for name in ("one", "two"):
        path = tmp_path / f"{name}.jsonl"
        assert driver.run(plan_for(path, executor=executor, observations=3)).reason
        found = [e.values for e in sent(read_trace(path)) if e.source == "policy"]
        assert found == expected


def test_a_killed_model_ends_in_a_governed_stop_and_a_whole_trace(driver, diary, tmp_path):
    """SIGKILL of the model process: the robot gets governed commands, the trace reads to the last
    of them, the owner gets StageFailedError, and the next episode runs on fresh processes."""
    path = tmp_path / "killed.jsonl"
    once(path, after(10), lambda: os.kill(driver.model_pid, signal.SIGKILL))
    with pytest.raises(StageFailedError, match="killed by SIGKILL"):
        driver.run(plan_for(path, seconds=20))
    trace = read_trace(path)
    assert trace.complete
    assert any(isinstance(event, Failed) for event in trace.events)
    assert isinstance(trace.events[-1], Ended)
    assert trace.events[-1].reason == "failed"
    assert sent(trace)[-1].source == "hold"
    assert parts.read_diary(diary)[-1] == sent(trace)[-1].values
    assert driver.run(plan_for(tmp_path / "next.jsonl", observations=2)).reason == "observations"


def test_a_suspended_model_is_bridged_and_streaming_resumes(driver, tmp_path):
    """While the model process is stopped (SIGSTOP) every tick is governed; after SIGCONT the
    policy's actions go on."""
    path = tmp_path / "suspended.jsonl"
    bridged = 15

    def suspend() -> None:
        os.kill(driver.model_pid, signal.SIGSTOP)
        once(path, lambda trace: trailing_holds(trace) >= bridged, resume)

    def resume() -> None:
        os.kill(driver.model_pid, signal.SIGCONT)

    once(path, after(10), suspend)
    result = driver.run(plan_for(path, seconds=4))
    sources = [event.source for event in sent(read_trace(path))]
    held = "".join("p" if source == "policy" else "h" for source in sources)
    assert result.reason == "time-limit"
    assert "h" * bridged + "p" in held


def trailing_holds(trace: Trace) -> int:
    sources = [event.source for event in sent(trace)]
    return next((i for i, s in enumerate(reversed(sources)) if s == "policy"), 0)


def test_a_killed_executor_leaves_a_trace_readable_to_the_last_ticks(driver, diary, tmp_path):
    """SIGKILL of the executor process itself: what it wrote can be read, at most two commands are
    missing from it, and the owner gets StageFailedError."""
    path = tmp_path / "executor.jsonl"
    once(path, after(10), lambda: os.kill(driver.executor_pid, signal.SIGKILL))
    with pytest.raises(StageFailedError, match="executor process died"):
        driver.run(plan_for(path, seconds=20))
    assert 0 <= len(parts.read_diary(diary)) - len(sent(read_trace(path))) <= 2


@pytest.fixture
def heeding_interrupts():
    """A suite run in the background is started with interrupts ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("heeding_interrupts")
def test_ctrl_c_holds_the_robot_and_closes_the_trace(driver, diary, tmp_path):
    """Ctrl-C in the owner: the robot's last command is a hold, the trace ends as interrupted, and
    the same processes run the next episode."""
    path = tmp_path / "interrupted.jsonl"
    pids = driver.executor_pid, driver.model_pid
    main_thread = threading.main_thread().ident
    assert main_thread is not None
    once(path, after(10), lambda: signal.pthread_kill(main_thread, signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        driver.run(plan_for(path, seconds=20))
    trace = read_trace(path)
    assert isinstance(trace.events[-1], Ended)
    assert trace.events[-1].reason == "interrupted"
    assert parts.read_diary(diary)[-1][0] == 0.0
    assert driver.run(plan_for(tmp_path / "next.jsonl", observations=2)).reason == "observations"
    assert (driver.executor_pid, driver.model_pid) == pids


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        (parts.policy_that_raises, "RuntimeError: device lost"),
        (parts.policy_that_raises_at_once, "RuntimeError: no memory left"),
    ],
)
def test_a_raising_policy_stops_the_robot_and_its_error_reaches_the_owner(
    tmp_path, policy, message
):
    """The policy's exception arrives in words at the owner; the robot was told to hold before."""
    path = tmp_path / "raised.jsonl"
    with (
        process_driver(parts.still_robot, policy) as driver,
        pytest.raises(StageFailedError, match=message),
    ):
        driver.run(plan_for(path, seconds=20))
    assert sent(read_trace(path))[-1].source == "hold"


def test_a_robot_that_fails_is_named_and_the_trace_ends_with_it(tmp_path):
    """A robot's own error reaches the owner as what it is; the trace ends as failed."""
    path = tmp_path / "robot.jsonl"
    with (
        process_driver(parts.broken_robot, parts.wandering_policy) as driver,
        pytest.raises(RobotError, match="joint 3 does not answer"),
    ):
        driver.run(plan_for(path, seconds=20))
    events = read_trace(path).events
    failed = [event.stage for event in events if isinstance(event, Failed)]
    assert failed == ["control"]
    assert sent(read_trace(path))[-1].source == "hold"
    assert isinstance(events[-1], Ended)


def test_actions_of_the_wrong_shape_are_refused_not_misread(tmp_path):
    """An action that fits no record still reaches the governor, which names its shape."""
    with (
        process_driver(parts.still_robot, parts.policy_of_the_wrong_shape) as driver,
        pytest.raises(StageFailedError, match=r"shape \(7,\), expected \(2,\)"),
    ):
        driver.run(plan_for(tmp_path / "shape.jsonl", seconds=20))


def test_large_captures_hold_up_no_tick_while_the_model_is_suspended(tmp_path):
    """A 4 MiB capture that the suspended model does not take costs no tick its command."""
    path = tmp_path / "large.jsonl"
    plan = replace(plan_for(path, seconds=1), faults=parse_faults(["sigstop:600ms@100ms"]))
    with process_driver(parts.large_capture_robot, parts.wandering_policy) as driver:
        result = driver.run(plan)
    held = [event for event in sent(read_trace(path)) if event.source == "hold"]
    assert result.reason == "time-limit"
    assert len(held) > 2  # of 30; a loaded machine may skip many, a held-up loop serves one


def test_a_film_keeps_a_capture_of_every_control_instant(driver, tmp_path):
    """With `film`, there is one capture for every command and one for the end."""
    result = driver.run(replace(plan_for(tmp_path / "film.jsonl", seconds=0.3), film=True))
    assert len(driver.captures) == len(result.ticks) + 1


def test_the_first_hold_keeps_joints_where_the_executor_process_measures_them(tmp_path):
    """The robot in the executor process says where its joints stand; that is what is held."""
    path = tmp_path / "standing.jsonl"
    with process_driver(parts.standing_robot, parts.wandering_policy) as driver:
        driver.run(plan_for(path, observations=1))
    assert sent(read_trace(path))[0].values == (0.0, 0.7)


def test_a_frozen_camera_is_found_in_the_model_process(tmp_path):
    """The word of the model process that a camera is frozen reaches the trace."""
    path = tmp_path / "frozen.jsonl"
    plan = replace(plan_for(path, seconds=1.5), faults=parse_faults(["frozen-camera:1s@200ms"]))
    with process_driver(parts.moving_robot, parts.moving_policy) as driver:
        driver.run(plan)
    frozen = [event for event in read_trace(path).events if isinstance(event, CameraFrozen)]
    assert [event.view for event in frozen] == ["camera"]


def test_measure_reports_every_flow_step(driver):
    """`measure` gives one observe time and H step times per repeat, from the model process."""
    times = driver.measure(repeats=2)
    assert [len(time.generate_ns) for time in times] == [parts.HORIZON] * 2


def test_the_executor_process_has_no_torch(driver):
    """None of torch's libraries is mapped into the executor process while it runs, even though
    this process may have imported it."""
    maps = Path(f"/proc/{driver.executor_pid}/maps").read_text(encoding="utf-8")
    assert "libtorch" not in maps


@pytest.mark.parametrize(
    ("robot", "policy", "error", "message"),
    [
        (parts.robot_that_brings_torch, parts.wandering_policy, ConfigError, "imported torch"),
        (parts.wide_robot, parts.wandering_policy, SpecMismatchError, "another action space"),
        (lambda: None, parts.wandering_policy, ConfigError, "importable module"),
    ],
)
def test_what_cannot_be_driven_is_refused_at_the_start(robot, policy, error, message):
    """A robot that brings torch, does not fit, or cannot be sent raises with the remedy."""
    with pytest.raises(error, match=message):
        process_driver(robot, policy)


def test_a_robot_defined_in_the_main_script_is_refused_by_name(tmp_path):
    """A script that passes its own function gets ConfigError and the remedy, not a broken child."""
    script = tmp_path / "script.py"
    script.write_text(
        "from streamvla.runtime.processes.driver import ProcessDriver\n"
        "def robot(): ...\n"
        "ProcessDriver(robot, robot)\n"
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True)
    assert "defined in the main script" in done.stderr


def test_wishes_are_answered_and_recorded(tmp_path):
    """Each wish comes back as obtained or refused, and stands in the trace's header."""
    settings = RealtimeSettings(None, cpus=(4096,))
    with ProcessDriver(parts.still_robot, parts.wandering_policy, settings=settings) as driver:
        driver.run(plan_for(tmp_path / "trace.jsonl", observations=1))
        grants = driver.grants
    cores = next(grant for grant in grants if grant.wish.startswith("cores"))
    assert not cores.obtained
    assert read_trace(tmp_path / "trace.jsonl").header["executor"] == [str(g) for g in grants]


@pytest.mark.parametrize(
    "faults", ["sigstop:200ms@200ms", "gil-hog:200ms@200ms", "model-stall:200ms@200ms", "nan@200ms"]
)
def test_a_fault_in_the_model_process_is_survived_and_recorded(driver, tmp_path, faults):
    """Each fault stands in the trace, every tick has its command, and the policy is back after."""
    path = tmp_path / "fault.jsonl"
    plan = replace(plan_for(path, seconds=1.2), faults=parse_faults([faults]))
    assert driver.run(plan).reason == "time-limit"
    trace = read_trace(path)
    injected = [event.kind for event in trace.events if isinstance(event, FaultInjected)]
    assert injected == [fault.kind for fault in plan.faults.faults]
    ticks = [event.tick for event in sent(trace)]
    assert ticks == sorted(set(ticks))
    assert "policy" in {event.source for event in sent(trace)[-10:]}


def test_a_planned_kill_ends_as_a_real_one(driver, tmp_path):
    """The fault sigkill leaves the same StageFailedError and a stopped robot."""
    path = tmp_path / "kill.jsonl"
    plan = replace(plan_for(path, seconds=20), faults=parse_faults(["sigkill@300ms"]))
    with pytest.raises(StageFailedError, match="killed by SIGKILL"):
        driver.run(plan)
    assert sent(read_trace(path))[-1].source == "hold"


def test_no_process_outlives_a_killed_owner(diary, tmp_path):
    """SIGKILL of the owner in mid-episode: the executor process holds the robot, ends the trace
    and leaves, and the model process, though suspended, is gone too."""
    path = tmp_path / "orphaned.jsonl"
    owner = subprocess.Popen(
        [sys.executable, "-m", "tests.runtime.process_owner", path, diary],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert owner.stdout is not None
    executor, model = map(int, owner.stdout.readline().split())
    reached(lambda: len(sent(read_trace(path))) >= 10)
    os.kill(model, signal.SIGSTOP)
    owner.kill()
    owner.wait()
    owner.stdout.close()
    for pid in (executor, model):
        reached(lambda pid=pid: not Path(f"/proc/{pid}").exists())
    ended = read_trace(path).events[-1]
    assert isinstance(ended, Ended)
    assert ended.reason == "interrupted"
    assert parts.read_diary(diary)[-1][0] == 0.0


def reached(condition: Callable[[], bool]) -> None:
    """Wait until the condition holds; fail if it does not within 20 s."""
    for _ in range(2000):
        with suppress(TraceError):  # not begun yet
            if condition():
                return
        threading.Event().wait(0.01)
    pytest.fail("it never came true")
