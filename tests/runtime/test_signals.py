"""However a program ends, its robot gets the stop last: signals, exceptions, the end itself."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from streamvla.core.clock import NS_PER_S, VirtualClock
from streamvla.runtime.drivers.signals import (
    Ending,
    Terminated,
    ending_between_steps,
    stopped_by_signals,
)
from streamvla.trace import Ended, Sent, read_trace

from . import process_parts as parts

ENDING = (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGINT)


class Program:
    """`run_owner` in a process of its own."""

    def __init__(self, folder: Path, how: str, driver: str) -> None:
        self.trace, self.diary = folder / "trace.jsonl", folder / "diary.txt"
        arguments = [how, str(self.trace), str(self.diary), driver]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.runtime.run_owner", *arguments],
            cwd=Path(__file__).parents[2],
            stderr=subprocess.PIPE,
            text=True,
        )

    def wait_for_commands(self, count: int) -> None:
        deadline = time.monotonic() + 60
        while not self.diary.exists() or len(parts.read_diary(self.diary)) < count:
            assert time.monotonic() < deadline
            assert self.process.poll() is None
            time.sleep(0.02)

    def end(self) -> int:
        try:
            return self.process.wait(30)
        finally:
            self.process.kill()
            assert self.process.stderr is not None
            self.process.stderr.close()

    def check_stopped(self) -> None:
        trace = read_trace(self.trace)
        sent = [event for event in trace.events if isinstance(event, Sent)]
        assert sent[-1].source == "hold"
        assert sent[-1].values[0] == 0
        assert parts.read_diary(self.diary)[-1] == sent[-1].values
        assert trace.complete
        assert isinstance(trace.events[-1], Ended)


@pytest.mark.parametrize("driver", ["thread", "process"])
@pytest.mark.parametrize("number", ENDING)
def test_a_signal_stops_the_robot_before_the_program(tmp_path, number, driver):
    """systemd, Docker, a lost ssh session, Ctrl-C: the last command is the hold."""
    program = Program(tmp_path, "run", driver)
    program.wait_for_commands(10)
    program.process.send_signal(number)
    assert program.end() != 0
    program.check_stopped()


@pytest.mark.parametrize("driver", ["thread", "process"])
def test_a_signal_stops_a_run_in_the_background(tmp_path, driver):
    """The main thread sleeps, another drives; the program ends by the signal, as asked."""
    program = Program(tmp_path, "sleep", driver)
    program.wait_for_commands(10)
    time.sleep(0.2)
    program.process.send_signal(signal.SIGTERM)
    assert program.end() == -signal.SIGTERM
    program.check_stopped()


@pytest.mark.parametrize("how", ["raise", "leave"])
def test_the_end_of_the_program_stops_a_run_in_the_background(tmp_path, how):
    """An exception in the caller's code, or simply its last line, without a `with`."""
    program = Program(tmp_path, how, "thread")
    assert program.end() == (1 if how == "raise" else 0)
    program.check_stopped()


def test_a_signal_waits_and_one_long_after_it_does_not():
    """The first waits for a safe point, and so do those of a key held down; one that comes much
    later says that the point never came. While the robot is being stopped they wait longer."""
    clock = VirtualClock()
    ending = Ending(clock)
    ending.check()
    ending.on_signal(signal.SIGTERM, None)
    with pytest.raises(Terminated, match="SIGTERM"):
        ending.check()
    clock.advance_to(NS_PER_S // 2)
    ending.on_signal(signal.SIGINT, None)
    ending.begin_stop()
    clock.advance_to(5 * NS_PER_S)
    ending.on_signal(signal.SIGINT, None)
    clock.advance_to(11 * NS_PER_S)
    with pytest.raises(KeyboardInterrupt):
        ending.on_signal(signal.SIGINT, None)


def test_a_signal_that_comes_while_the_robot_is_stopped_is_not_forgotten():
    """It is raised when the stop is over."""

    def run() -> None:
        with ending_between_steps() as ending:
            ending.begin_stop()
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        run()


def test_every_run_in_the_background_is_stopped(monkeypatch):
    """One signal, two runs, two stops; then the program ends."""
    stopped: list[str] = []
    monkeypatch.setattr(signal, "raise_signal", lambda number: stopped.append("ended"))
    with (
        stopped_by_signals(lambda: stopped.append("one")),
        stopped_by_signals(lambda: stopped.append("two")),
    ):
        os.kill(os.getpid(), signal.SIGTERM)
    assert stopped == ["one", "two", "ended"]


def test_a_stop_asked_for_before_the_robot_moves_keeps_it_still(tmp_path):
    """SIGTERM while processes start: nothing is driven, and the program ends."""
    program = Program(tmp_path, "sleep", "process")
    time.sleep(1.0)
    program.process.send_signal(signal.SIGTERM)
    assert program.end() == -signal.SIGTERM
    sent = parts.read_diary(program.diary) if program.diary.exists() else []
    assert not sent or sent[-1][0] == 0
