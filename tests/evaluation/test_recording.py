"""Recorded observations: what they keep, and what a gate of skipping is asked of them."""

from __future__ import annotations

import numpy as np

from streamvla.core.interfaces import FlowStart, begin_episode
from streamvla.studies.recording import Recorder
from tests.policy.test_action_flow import make_policy
from tests.policy.test_skip_gate import gated
from tests.policy.test_skipping import later


def drive(policy) -> None:
    """Two observations; of the first one's six actions three are made before the second."""
    begin_episode(policy)
    start = FlowStart(np.array([0.4, -0.2, 0.5]))
    generation = policy.generate(policy.encode(later(0)), start)
    made = [next(generation) for _ in range(3)]
    executed = policy.spec.action_space.advance(start.action_state, made[0])
    policy.encode(later(1, action_state=executed))


def test_a_gate_is_asked_of_recorded_observations_what_it_is_asked_when_it_drives():
    """The same age and pending actions, which are not none."""
    driving, asked = gated(True)
    drive(driving)
    recorder = Recorder(make_policy(max_age=12))
    drive(recorder)
    measured, asked_again = gated(True)
    begin_episode(measured)
    for seen in recorder.seen:
        seen.encode(measured)
    ((age, pending),), ((age_again, pending_again),) = asked.asked, asked_again.asked
    assert age == age_again == 1
    assert pending.any()
    assert np.array_equal(pending, pending_again)


def test_a_recorder_keeps_pictures_of_its_own_and_one_episode():
    """A robot may draw into the same array again; another episode begins with nothing."""
    recorder = Recorder(make_policy())
    observation = later(0)
    recorder.encode(observation)
    before = observation.images["front"].copy()
    observation.images["front"][...] = 0
    assert np.array_equal(recorder.seen[0].observation.images["front"], before)
    begin_episode(recorder)
    assert not recorder.seen
