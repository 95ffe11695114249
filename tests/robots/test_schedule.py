"""Which command acts in which sub-step."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamvla.core.action_space import ActionSpace
from streamvla.core.errors import ConfigError
from streamvla.robots.schedule import CommandSchedule

SPACE = ActionSpace(("dx", "grip"), ("delta", "absolute"), (-1.0, -1.0), (1.0, 1.0))


def due(schedule, now_ns):
    return [command.tolist() for command in schedule.due(now_ns)]


def test_a_command_acts_for_four_substeps_then_holds():
    """After its four sub-steps the delta is zero and the absolute value stays."""
    schedule = CommandSchedule(SPACE, 4, start_ns=100, command_duration_ns=40)
    schedule.put(np.array([0.5, -1.0]))
    assert due(schedule, 160) == [[0.5, -1.0]] * 4 + [[0.0, -1.0]] * 2


def test_nothing_runs_before_a_substep_has_ended():
    """A sub-step runs when its end has come, not earlier."""
    schedule = CommandSchedule(SPACE, 4, start_ns=0, command_duration_ns=40)
    assert due(schedule, 9) == []
    assert due(schedule, 10) == [[0.0, 0.0]]


def test_commands_are_clipped():
    """A command beyond the limits acts at the limits."""
    schedule = CommandSchedule(SPACE, 4, start_ns=0, command_duration_ns=4)
    schedule.put(np.array([7.0, -7.0]))
    assert due(schedule, 1) == [[1.0, -1.0]]


def test_too_short_a_duration_is_refused():
    """A command shorter than one nanosecond a sub-step cannot be scheduled."""
    with pytest.raises(ConfigError, match="3 ns: expected at least 4 ns"):
        CommandSchedule(SPACE, 4, start_ns=0, command_duration_ns=3)


@given(
    duration=st.integers(4, 10**9),
    start=st.integers(0, 10**12),
    first=st.integers(0, 10**10),
    count=st.integers(1, 20),
)
def test_back_to_back_commands_each_act_exactly_four_substeps(duration, start, first, count):
    """Commands one duration apart get four sub-steps each, whatever the phase and rounding."""
    schedule = CommandSchedule(SPACE, 4, start, duration)
    first = start + first % (3 * duration)
    assert all(command == [0.0, 0.0] for command in due(schedule, first))
    for index in range(count):
        schedule.put(np.array([1.0, 1.0]))
        assert due(schedule, first + (index + 1) * duration) == [[1.0, 1.0]] * 4


@given(duration=st.integers(4, 10**9), splits=st.lists(st.integers(1, 10**9), max_size=20))
def test_how_often_it_is_asked_does_not_matter(duration, splits):
    """Asking in many small steps yields as many sub-steps as asking once."""
    often = CommandSchedule(SPACE, 4, 0, duration)
    instants = np.cumsum(splits) % (50 * duration) if splits else []
    ended = max((int(instant) for instant in instants), default=0)
    steps = sum(len(due(often, int(instant))) for instant in sorted(instants))
    assert steps == len(due(CommandSchedule(SPACE, 4, 0, duration), ended))
