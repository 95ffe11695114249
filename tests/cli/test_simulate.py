"""`simulate`: what its last line says is what the simulated schedule does."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamvla.cli.main import execute
from streamvla.cli.simulate import Simulate, drive, verdict
from streamvla.trace import MemoryTrace, Sent


def halts_after_start_up(command: Simulate) -> bool:
    """Whether the robot waits in the second half of the actions."""
    profile, trace = command.stage_times(), MemoryTrace()
    drive(command, profile, trace)
    sent = [
        each.t_ns for each in trace.events if isinstance(each, Sent) and each.source == "policy"
    ]
    late = sent[len(sent) // 2 :]
    return any(after - before > profile.execute_ns for before, after in pairwise(late))


@st.composite
def schedules(draw: st.DrawFn) -> Simulate:
    """Stage times, a policy that streams or gives chunks, and how its actions are driven."""
    chunks = draw(st.integers(0, 3))
    return Simulate(
        observe_ms=draw(st.integers(1, 200)),
        generate_ms=draw(st.integers(1, 60)),
        execute_ms=draw(st.integers(10, 60)),
        chunk_passes=chunks or None,
        horizon=draw(st.integers(2, 12)),
        executor=draw(st.sampled_from(["action-flow", "async-chunks"])),
        pacing=draw(st.sampled_from(["event", "grid"])),
        concurrent=draw(st.booleans()),
        observations=60,
    )


@settings(max_examples=120)
@given(command=schedules())
def test_the_number_it_names_is_the_smallest_without_halts(command):
    """No halt after the start with that number pending, one with fewer; and where it says that no
    number helps, the largest halts."""
    needed = verdict(replace(command, lead=0), command.stage_times()).needed_lead
    if needed is None:
        assert halts_after_start_up(replace(command, lead=command.horizon - 1))
        return
    assert not halts_after_start_up(replace(command, lead=needed))
    assert halts_after_start_up(replace(command, lead=needed - 1))


@settings(max_examples=60)
@given(command=schedules(), data=st.data())
def test_feasible_is_what_does_not_halt(command, data):
    """At any number, stated or the executor's own, the verdict is what the simulation shows."""
    lead = data.draw(st.none() | st.integers(0, command.horizon - 1))
    command = replace(command, lead=lead)
    found = verdict(command, command.stage_times())
    assert found.feasible != halts_after_start_up(command)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ("--lead 2", "Zero halt needs lead 3 at these stage times"),
        ("--lead 4", "No halt with lead 4; zero halt needs lead 3"),
        ("--generate-ms 30", "No lead below H = 10 reaches zero halt: the accelerator's work"),
        ("--generate-ms 30 --concurrent", "work of 300 ms does not fit into 270 ms"),
        ("--observe-ms 230 --concurrent", "take 248 ms, lead 9 covers 243 ms"),
        ("--chunk-ms 80", "Zero halt needs lead 6"),
        ("--executors async-chunks:3 --chunk-ms 40", "needs actions left 4"),
        ("--executors async-chunks --chunk-ms 40", "No halt with actions left 5"),
        ("--executors async-chunks --chunk-ms 90", "6 of a chunk's 10 actions are over"),
        ("--executor synchronous --chunk-ms 80", "synchronous halts 138 ms an observation"),
        ("--executor synchronous", "halts 238 ms an observation, whatever its execute horizon"),
    ],
)
def test_the_last_line_says_what_is_needed(capsys, flags, said):
    """For every kind of executor and policy, which number reaches zero halt, or why none does."""
    assert execute(["simulate", *flags.split()]) == 0
    assert said in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("flags", "passes"), [("--chunk-ms 80", 1), ("--chunk-passes 4 --generate-ms 20", 4)]
)
def test_a_chunk_arrives_at_once(capsys, flags, passes):
    """All of a chunk's time is halt under synchronous: 58 + 80 ms; one pass or four."""
    arguments = ["simulate", "--executors", "synchronous", *flags.split(), "--json"]
    assert execute(arguments) == 0
    figures = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert figures["halt_ms_per_observation"] == pytest.approx(138)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--generate-ms 8 --chunk-ms 80", "expected one of the two"),
        ("--profile paper-20hz --observe-ms 8", "expected one of the two"),
        ("--chunk-passes 0", "expected at least 1"),
        ("--executors synchronous --lead 3", "its number is the execute horizon"),
        ("--executors action-flow:2 --lead 3", "expected one of the two"),
        ("--profile measured", "nothing to measure"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(capsys, flags, message):
    """One line that names both."""
    assert execute(["simulate", *flags.split()]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert len(err.splitlines()) == 1
