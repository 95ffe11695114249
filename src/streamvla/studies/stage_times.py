"""The stage times of a command: a profile by name, times stated one by one, or measured here."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from streamvla.core.clock import NS_PER_MS, ms_to_ns
from streamvla.core.errors import ConfigError
from streamvla.core.files import write_text
from streamvla.core.interfaces import Policy, PolicySpec, Robot
from streamvla.core.provenance import commit, machine
from streamvla.runtime.drivers.stages import StageTimes
from streamvla.runtime.drivers.threads import RealtimeDriver
from streamvla.runtime.timing.latency import LatencyProfile, named_profile, profile_ms

DEFAULT_PROFILE = "paper-20hz"
MEASURED = "measured"
MEASURED_FILE = "measured.json"
REPEATS, COLD = 12, 2
"""How often the stages are measured, and how many of those first ones do not count."""


@dataclass(frozen=True)
class StatedTimes:
    """Stage times in milliseconds, instead of a profile; the control period is the robot's.

    Attributes:
        observe_ms: stage time T_o, per observation, instead of a profile's.
        generate_ms: stage time g of a policy that streams, per action.
        chunk_ms: stage time of a whole chunk, of a policy that gives chunks.
    """

    observe_ms: float | None = None
    generate_ms: float | None = None
    chunk_ms: float | None = None

    @property
    def stated(self) -> bool:
        """Whether any is."""
        return self != StatedTimes()

    def name(self, kind: str) -> str:
        """For labels and folders, different for different times: `stated-163+29ms`."""
        per = f"{self.generate_ms:.10g}" if self.chunk_ms is None else f"chunk{self.chunk_ms:.10g}"
        return f"{kind}-{self.observe_ms:.10g}+{per}ms"


def require_stage_times(profile: str | None, times: StatedTimes) -> None:
    """Raise `ConfigError` unless a profile that exists is named, or the stage times are stated, or
    neither; what can be said before a policy is loaded."""
    if not times.stated:
        if profile not in (None, MEASURED):
            named_profile(profile)
        return
    flags = {
        "--observe-ms": times.observe_ms,
        "--generate-ms": times.generate_ms,
        "--chunk-ms": times.chunk_ms,
    }
    flags = {flag: value for flag, value in flags.items() if value is not None}
    said = " and ".join(f"{flag} {value:g}" for flag, value in flags.items())
    if profile is not None:
        raise ConfigError(f"--profile {profile} and {said}: expected one of the two")
    if "--observe-ms" not in flags or len(flags) != 2:
        raise ConfigError(
            f"{said}: expected --observe-ms with --generate-ms, for a policy that streams its "
            "actions, or with --chunk-ms, for one that gives whole chunks"
        )
    for flag, value in flags.items():
        if not value >= 0:
            raise ConfigError(f"{flag} {value:g}: expected at least 0 ms")
    observe_ms, made_ms = flags.values()
    profile_ms("stated", observe_ms, made_ms, 1.0)  # refuses what is not finite


def stage_times(profile: str | None, times: StatedTimes, policy: PolicySpec) -> LatencyProfile:
    """What a command's settings come to for this policy.

    Args:
        profile: of a measured one, `times` are what was found.

    Raises:
        ConfigError: they are not the times that a policy of this kind has.
    """
    if not times.stated:
        return named_profile(profile or DEFAULT_PROFILE)
    kind = MEASURED if profile == MEASURED else "stated"
    passes = policy.chunk_passes
    if passes and times.chunk_ms is None:
        raise ConfigError(
            f"--generate-ms {times.generate_ms:g}: this policy gives whole chunks; "
            "state --chunk-ms, the time of one"
        )
    if not passes and times.generate_ms is None:
        raise ConfigError(
            f"--chunk-ms {times.chunk_ms:g}: this policy streams its actions; state --generate-ms, "
            "the time of one"
        )
    generate_ms = times.generate_ms if times.chunk_ms is None else times.chunk_ms / passes
    assert times.observe_ms is not None  # require_stage_times
    assert generate_ms is not None
    return LatencyProfile(
        times.name(kind),
        ms_to_ns(times.observe_ms),
        ms_to_ns(generate_ms),
        policy.control_period_ns,
        emulated=kind != MEASURED,
    )


def profile_name(profile: str | None, times: StatedTimes) -> str:
    """The name of `stage_times` without the policy."""
    if not times.stated:
        return profile or DEFAULT_PROFILE
    return times.name(MEASURED if profile == MEASURED else "stated")


# --- measured here ---------------------------------------------------------------------------


def median_profile(found: list[StageTimes], period_ns: int) -> LatencyProfile:
    """Medians of what was measured, the cold ones left out."""
    warm = found[COLD:]
    return LatencyProfile(
        MEASURED,
        round(median(time.observe_ns for time in warm)),
        round(median(step for time in warm for step in time.generate_ns)),
        period_ns,
        emulated=False,
    )


def measured_times(
    policy: Policy, robot: Robot, seed: int, path: Path, of: Mapping[str, Any]
) -> StatedTimes:
    """What the stages take on this machine, in one thread as in a worker; kept in `path`, so that
    whoever goes on with these results goes on with the same times.

    Args:
        of: what was measured, such as the policy; the times of something else are not taken.

    Raises:
        ConfigError: the file there is another.
    """
    profile = read_measured(path, of)
    if profile is None:
        profile = _measure(policy, robot, seed)
        write_measured(path, profile, of)
    passes = policy.spec.chunk_passes
    observe_ms, generate_ms = (
        round(ns / NS_PER_MS, 3) for ns in (profile.observe_ns, profile.generate_ns)
    )
    if passes:
        return StatedTimes(observe_ms, chunk_ms=round(passes * profile.generate_ns / NS_PER_MS, 3))
    return StatedTimes(observe_ms, generate_ms)


def _measure(policy: Policy, robot: Robot, seed: int) -> LatencyProfile:
    import torch

    threads, driver = torch.get_num_threads(), RealtimeDriver()
    torch.set_num_threads(1)
    try:
        period_ns = robot.spec.control_period_ns
        robot.reset(seed, driver.clock.now_ns(), period_ns)
        return median_profile(driver.measure(robot, policy, REPEATS), period_ns)
    finally:
        driver.close()
        torch.set_num_threads(threads)


def write_measured(path: Path, profile: LatencyProfile, of: Mapping[str, Any]) -> None:
    """Keep measured stage times for whoever resumes."""
    where = {"commit": commit(), "machine": machine()}
    fields = {"streamvla": MEASURED, "of": dict(of), **asdict(profile), **where}
    write_text(path, json.dumps(fields, indent=1))


def read_measured(path: Path, of: Mapping[str, Any]) -> LatencyProfile | None:
    """What `write_measured` kept; None: there is no such file, or it is of something else.

    Raises:
        ConfigError: the file there is another.
    """
    if not path.exists():
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        times = (int(found[f"{stage}_ns"]) for stage in ("observe", "generate", "execute"))
        if found["streamvla"] == MEASURED:
            if found["of"] != json.loads(json.dumps(dict(of))):
                return None
            return LatencyProfile(MEASURED, *times, emulated=False)
    except (ValueError, KeyError, TypeError):
        pass
    raise ConfigError(f"{path} holds no measured stage times; move it, or choose another --out")
