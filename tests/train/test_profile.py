"""The profile of some steps: really traced by jax, only those steps, and ended when the run ends."""

from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from skyrm_jax.train.profile import Profile


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """What jax's profiler is told, in place of it."""
    made: list[str] = []
    monkeypatch.setattr(jax.profiler, "start_trace", lambda folder: made.append(f"start {Path(folder).name}"))
    monkeypatch.setattr(jax.profiler, "stop_trace", lambda: made.append("stop"))
    yield made


def go(profile: Profile, calls: list[str], first: int, last: int) -> None:
    for step in range(first, last + 1):
        profile.before(step)
        calls.append(f"step {step}")
        profile.after(step)


def test_a_trace_is_written(tmp_path: Path) -> None:
    double = jax.jit(lambda x: x * 2.0)
    with Profile([2, 3], tmp_path / "profile") as profile:
        for step in range(1, 5):
            profile.before(step)
            double(jnp.ones(step)).block_until_ready()
            profile.after(step)
            written = list(tmp_path.rglob("*.xplane.pb"))
            assert len(written) == (0 if step < 3 else 1), step
    (trace,) = tmp_path.rglob("*.xplane.pb")
    assert (tmp_path / "profile") in trace.parents
    assert b"double" in trace.read_bytes() or b"lambda" in trace.read_bytes()


def test_only_the_steps_asked_for_are_traced(calls: list[str], tmp_path: Path) -> None:
    with Profile([2, 3], tmp_path / "profile") as profile:
        go(profile, calls, 1, 5)
    assert calls == ["step 1", "start profile", "step 2", "step 3", "stop", "step 4", "step 5"]


@pytest.mark.parametrize("steps", [None, [8, 9]])
def test_nothing_is_traced_outside_them(calls: list[str], tmp_path: Path, steps: list[int] | None) -> None:
    with Profile(steps, tmp_path) as profile:
        go(profile, calls, 0, 3)
    assert calls == [f"step {step}" for step in range(4)]


def test_a_run_that_ends_or_fails_within_them_still_ends_the_trace(calls: list[str], tmp_path: Path) -> None:
    with Profile([1, 9], tmp_path / "profile") as profile:
        go(profile, calls, 1, 1)
    with pytest.raises(ZeroDivisionError), Profile([1, 9], tmp_path / "profile") as profile:
        profile.before(1)
        _ = 1 / 0
    assert calls == ["start profile", "step 1", "stop", "start profile", "stop"]
