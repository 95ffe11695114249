"""However a program ends, its robot gets the stop last: signals, exceptions, the end itself."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from streamvla.runtime.drivers.signals import Ending, Terminated
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


def test_a_second_signal_is_not_put_off():
    """The first waits for a safe point; a second says that it never came."""
    ending = Ending()
    ending.check()
    ending.on_signal(signal.SIGTERM, None)
    with pytest.raises(Terminated, match="SIGTERM"):
        ending.check()
    with pytest.raises(KeyboardInterrupt):
        ending.on_signal(signal.SIGINT, None)
