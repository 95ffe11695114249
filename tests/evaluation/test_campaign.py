"""The fault campaign: it passes, and it would not if a promise were broken."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from streamvla.cli.main import execute
from streamvla.evaluation.campaign import (
    SIMULATED_KINDS,
    WALL_CLOCK,
    Case,
    draw_cases,
    exceeded,
    judge,
    summarise,
)
from streamvla.robots.point import SPEC
from streamvla.runtime.executors.action_flow import ActionFlow
from streamvla.runtime.faults.plan import KINDS, Fault
from streamvla.runtime.governor.governor import Hold
from streamvla.runtime.processes.driver import ProcessDriver
from streamvla.runtime.processes.privileges import RealtimeSettings
from streamvla.studies import fault_campaign as bench
from streamvla.trace import CameraFrozen, Sent, Trace

PERIOD_NS = SPEC.control_period_ns
STALL = Case(Fault("model-stall", 3_000_000_000, 800_000_000), ActionFlow(3), 7)


@pytest.fixture
def recorded(tmp_path, monkeypatch):
    """The judge's arguments for one stall, as the bench recorded them."""
    kept = []

    def keep(*arguments):
        kept.append(arguments)
        return judge(*arguments)

    monkeypatch.setattr(bench, "judge", keep)
    assert bench.run_case(STALL, tmp_path / "trace.jsonl").broken == ()
    return kept[0]


def promises(verdict) -> set[str]:
    return {text.split(":")[0] for text in verdict.broken}


def changed(trace: Trace, change) -> Trace:
    """The trace with `change` applied to its 70th command."""
    number = [i for i, e in enumerate(trace.events) if isinstance(e, Sent)][69]
    events = list(trace.events)
    events[number] = change(events[number])
    return replace(trace, events=events)


def test_every_simulated_kind_is_drawn_equally_often():
    """Of twice as many cases as kinds, each kind has two."""
    cases = draw_cases(2 * len(SIMULATED_KINDS), 3, PERIOD_NS)
    assert sorted(case.fault.kind for case in cases) == sorted(2 * SIMULATED_KINDS)


@pytest.mark.parametrize("kind", SIMULATED_KINDS)
def test_a_fault_of_this_kind_breaks_no_promise(kind, tmp_path):
    """One drawn fault: every tick has one legal command, and the stream recovers or stops."""
    cases = draw_cases(4 * len(SIMULATED_KINDS), 5, PERIOD_NS)
    case = next(case for case in cases if case.fault.kind == kind)
    assert bench.run_case(case, tmp_path / "trace.jsonl").broken == ()


def test_in_wall_clock_every_kind_is_drawn():
    """Those that need a process too, and none lasts longer than the campaign allows."""
    cases = draw_cases(len(KINDS), 3, PERIOD_NS, WALL_CLOCK)
    assert {case.fault.kind for case in cases} == set(KINDS)
    assert all(c.fault.end_ns - c.fault.start_ns <= WALL_CLOCK.longest_ns for c in cases)


@pytest.fixture(scope="module")
def processes(tmp_path_factory):
    """A folder, and processes that write into it."""
    folder = tmp_path_factory.mktemp("campaign")
    with ProcessDriver(
        partial(bench.WitnessRobot, folder),
        partial(bench.wandering_policy, bench._WALL_PROFILE),
        settings=RealtimeSettings(fifo_priority=None),
    ) as driver:
        yield driver, folder


@pytest.mark.parametrize(
    "fault",
    [
        Fault("sigstop", 600_000_000, 300_000_000),
        Fault("nan", 600_000_000),
        Fault("sigkill", 10**9),
    ],
    ids=lambda fault: fault.kind,
)
def test_a_fault_in_wall_clock_time_breaks_no_promise_but_those_about_time(processes, fault):
    """With processes of their own, the same judge finds nothing: commands, limits, windows, order,
    trace and stop. (How fast it recovers is a matter of the machine.)"""
    driver, folder = processes
    case = Case(fault, ActionFlow(3), 11, replace(WALL_CLOCK, after_ns=400_000_000))
    verdict = bench.run_wall_clock_case(case, driver, folder)
    assert promises(verdict) <= {"recovery"}
    assert verdict.ticks > 20


def test_a_camera_called_frozen_that_is_not_is_reported(recorded):
    """A false alarm breaks the promise about cameras."""
    case, trace, *others = recorded
    events = [*trace.events[:-1], CameraFrozen(trace.events[-2].t_ns, 0, "top"), trace.events[-1]]
    assert "cameras" in promises(judge(case, replace(trace, events=events), *others))


def test_a_frozen_camera_is_found(tmp_path):
    """The judge says so of a camera frozen for two seconds; of other faults it says nothing."""
    case = Case(Fault("frozen-camera", 3_000_000_000, 2_000_000_000), ActionFlow(3), 7)
    assert bench.run_case(case, tmp_path / "trace.jsonl").found
    assert bench.run_case(STALL, tmp_path / "trace.jsonl").found is None


def test_a_tick_without_a_command_is_forgiven_in_wall_clock_time_only(recorded):
    """A skipped tick breaks the promise in simulated time; in wall-clock time it is counted."""
    case, trace, commands, *others = recorded
    number = [i for i, e in enumerate(trace.events) if isinstance(e, Sent)][69]
    gap = replace(trace, events=[e for i, e in enumerate(trace.events) if i != number])
    fewer = [*commands[:69], *commands[70:]]
    assert "one command" in promises(judge(case, gap, fewer, *others))
    forgiven = judge(replace(case, campaign=WALL_CLOCK), gap, fewer, *others)
    assert "one command" not in promises(forgiven)
    assert forgiven.skipped == 1


def test_one_seed_draws_one_campaign():
    """The cases are a function of the seed."""
    assert draw_cases(50, 1, PERIOD_NS) == draw_cases(50, 1, PERIOD_NS)
    assert draw_cases(50, 1, PERIOD_NS) != draw_cases(50, 2, PERIOD_NS)


def test_a_governor_that_only_holds_would_be_found_out(tmp_path, monkeypatch):
    """With `Hold` for the ladder the same stall exceeds the acceleration limit, and is reported."""
    monkeypatch.setattr(bench, "Ladder", lambda limits: Hold())
    verdict = bench.run_case(STALL, tmp_path / "trace.jsonl")
    assert "limits" in promises(verdict)


@pytest.mark.parametrize(
    ("change", "promise"),
    [
        (lambda sent: sent._replace(tick=sent.tick + 1), "one command"),
        (lambda sent: sent._replace(values=(9.0, 9.0, 9.0)), "one command"),
        (lambda sent: sent._replace(source="policy", valid_until_ns=0), "window"),
        (lambda sent: sent._replace(t_ns=0), "order"),
    ],
)
def test_a_broken_promise_is_reported(recorded, change, promise):
    """A trace in which one command is wrong breaks exactly the promise about it."""
    case, trace, *others = recorded
    assert promise in promises(judge(case, changed(trace, change), *others))


def test_a_stream_that_never_comes_back_is_reported(recorded):
    """Without a fresh action after the fault, or with a dead stage, recovery is broken."""
    case, trace, commands, _, *others = recorded
    earlier = [e for e in trace.events if e.t_ns < 3_900_000_000]
    silent = replace(trace, events=[*earlier, trace.events[-1]])
    assert "recovery" in promises(judge(case, silent, commands, False, *others))
    assert "recovery" in promises(judge(case, trace, commands, True, *others))


def test_a_cut_off_trace_is_reported(recorded):
    """A trace without its last line is not readable to the last tick."""
    case, trace, *others = recorded
    assert "readable" in promises(judge(case, replace(trace, complete=False), *others))


def test_a_crash_that_goes_unnoticed_or_leaves_the_robot_moving_is_reported(recorded):
    """After a crash the run must end in a failure; every run on a stop, at rest."""
    case, trace, commands, *others = recorded
    crash = replace(case, fault=Fault("model-crash", 3_000_000_000))
    assert promises(judge(crash, trace, commands, *others)) == {"failure"}
    moving = [e for e in trace.events if getattr(e, "source", "policy") == "policy"]
    short = [np.array(e.values) for e in moving if isinstance(e, Sent)]
    assert "stop" in promises(judge(case, replace(trace, events=moving), short, *others))


def test_limits_are_checked_on_positions_and_their_differences():
    """A single step of 2 exceeds velocity, acceleration and jerk of dx, on tick 0 first."""
    space, limits = SPEC.action_space, SPEC.motion_limits
    found = exceeded(space, limits, [np.array([2.0, 0.0, 0.0]), np.array([0.0, 0.0, 1.5])])
    for text in ("velocity", "acceleration", "jerk"):
        assert f"{text} of dx on tick 0" in found
    assert "position of gripper on tick 1" in found


def test_the_command_prints_a_row_a_kind_and_json(capsys):
    """`bench faults` ends with one JSON object whose counts add up."""
    assert execute(["bench", "faults", "--faults", "10", "--json"]) == 0
    fields = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert fields["faults"] == 10
    assert fields["broken"] == 0
    assert sum(row["faults"] for row in fields["kinds"]) == 10


def test_a_broken_campaign_exits_with_an_error(capsys, monkeypatch):
    """When a promise is broken the command says which, and its exit code is not 0."""
    monkeypatch.setattr(bench, "Ladder", lambda limits: Hold())
    assert execute(["bench", "faults", "--faults", "3"]) == 3
    assert "limits" in capsys.readouterr().out


def test_a_summary_of_nothing_has_no_rows():
    """No verdicts, no table rows."""
    assert summarise([]) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "--faults", "model-stal:1s@2s"], "did you mean 'model-stall'"),
        (["run", "--faults", "nan@2s", "--pacing", "event"], "use --pacing grid"),
        (["bench", "faults", "--faults", "0"], "faults 0 must be"),
    ],
)
def test_a_wrong_fault_ends_in_one_line_and_exit_2(arguments, message, capsys):
    """A malformed fault is refused before anything moves: one line, no traceback."""
    assert execute(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error
