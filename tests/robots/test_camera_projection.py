"""`RobotSpec.gaze` of the Sawyer robots against what their cameras draw."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from streamvla.core.cameras import CameraView, Gaze
from streamvla.core.errors import ConfigError
from streamvla.robots.gl import import_mujoco
from streamvla.robots.registry import make_robot
from streamvla.robots.sawyer import GAZE, SPEC

PERIOD_NS = SPEC.control_period_ns
LOW_M, HIGH_M = (-0.3, 0.45, 0.02), (0.3, 0.9, 0.3)
MARKER_PX = 5
"""More than the marker's radius in any view."""


@pytest.fixture(scope="module", params=["reach", "reach-named-ball"])
def robot(request):
    robot = make_robot(request.param)
    robot.reset(0, 0, PERIOD_NS)
    yield robot
    robot.close()


def with_marker(robot, point_m) -> dict[str, np.ndarray]:
    """A capture of nothing but the goal of Meta-World, or a ball of our own scene, at a point."""
    capture = {name: array.copy() for name, array in robot.capture().items()}
    model = robot.physics
    if robot.task == "reach":
        capture["geom_rgba"][:, 3] = 0.0
        capture["site_pos"][model.site("goal").id] = point_m
        return capture
    body = model.body("ball0").id
    capture["geom_rgba"][model.geom_bodyid != body, 3] = 0.0
    capture["body_pos"][body] = point_m
    return capture


def centres(robot, point_m) -> list[np.ndarray]:
    """(2,) pixels u, v of the middle of what is drawn there, view by view."""
    nothing = robot.observe(with_marker(robot, (0.0, 0.0, 100.0))).images
    drawn = robot.observe(with_marker(robot, point_m)).images
    found = []
    for view in SPEC.views:
        change = np.abs(drawn[view].astype(int) - nothing[view].astype(int)).max(axis=2)
        rows, columns = np.nonzero(change > 20)
        assert len(rows) > 5
        found.append(np.array([columns.mean() + 0.5, rows.mean() + 0.5]))
    return found


@pytest.mark.render
def test_a_point_is_drawn_within_a_pixel_of_its_projection(robot):
    """Over random points both views of both kinds of scene show it where the gaze says."""
    rng = np.random.default_rng(0)
    errors = []
    while len(errors) < 60:
        point = rng.uniform(LOW_M, HIGH_M)
        told = np.stack([view.project(point) for view in GAZE.views])
        if (told < MARKER_PX).any() or (told > 96 - MARKER_PX).any():
            continue
        errors += [
            float(np.abs(drawn - expected).max())
            for drawn, expected in zip(centres(robot, point), told, strict=True)
        ]
    assert max(errors) <= 1.0, errors
    assert np.mean(errors) <= 0.4


@pytest.mark.render
def test_the_aim_is_between_the_fingertips(robot):
    """At random hands the gaze of the measured state is within a pixel of the fingertips."""
    import_mujoco()
    rng = np.random.default_rng(1)
    for index in range(20):
        robot.command(np.array([*rng.uniform(-1, 1, 3), -1.0]), index * PERIOD_NS)
        robot.advance_to((index + 1) * PERIOD_NS)
        sites = [robot._data.site(f"{side}EndEffector").xpos for side in ("left", "right")]
        tips = np.mean(sites, axis=0)
        aim = GAZE.aim(robot.capture()["state"])
        expected = np.stack([view.project(tips) for view in GAZE.views])
        assert np.abs(aim - expected).max() <= 1.0


def test_a_point_behind_a_camera_has_a_finite_place():
    """No state makes the aim infinite."""
    aim = GAZE.aim(np.random.default_rng(0).uniform(-20, 20, (1000, 4)))
    assert aim.shape == (1000, 2, 2)
    assert np.isfinite(aim).all()


def test_a_gaze_must_fit_its_robot():
    """A specification refuses a gaze for other views, or of a state it does not have."""
    one = replace(GAZE, views=GAZE.views[:1])
    with pytest.raises(ConfigError, match="its gaze has 1 cameras"):
        replace(SPEC, gaze=one)
    with pytest.raises(ConfigError, match="expected one for each"):
        replace(SPEC, gaze=replace(GAZE, state_indices=(0, 1, 4)))
    with pytest.raises(ConfigError, match="3 rows of 4"):
        CameraView(((1.0, 0.0), (0.0, 1.0)))
    with pytest.raises(ConfigError, match="offset"):
        Gaze((0, 1, 2), (0.0, 0.0, float("nan")), GAZE.views)
