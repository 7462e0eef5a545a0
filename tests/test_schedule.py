"""The schedule: exactly once an epoch, a function of (index, seed, step, N) alone."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skyrm_jax.errors import UserError
from skyrm_jax.schedule import Schedule, shuffled


@given(size=st.integers(1, 3000), seed=st.integers(0, 2**31), epoch=st.integers(0, 50))
@settings(max_examples=60, deadline=None)
def test_shuffled_is_a_permutation(size: int, seed: int, epoch: int) -> None:
    images = shuffled(np.arange(size), size, seed, epoch)
    assert sorted(images.tolist()) == list(range(size))


def test_shuffle_differs_by_seed_and_epoch_and_mixes() -> None:
    base = shuffled(np.arange(5000), 5000, 1, 0)
    for other in (shuffled(np.arange(5000), 5000, 2, 0), shuffled(np.arange(5000), 5000, 1, 1)):
        assert (base == other).mean() < 0.01
    # Neighbours in the stream must not be neighbours in the store.
    assert abs(np.corrcoef(np.arange(5000), base)[0, 1]) < 0.05


def test_shuffle_needs_no_memory_of_the_whole() -> None:
    some = np.array([0, 39_999_999, 12_345_678])
    images = shuffled(some, 40_000_000, 7, 3)
    assert len(set(images.tolist())) == 3 and (images >= 0).all() and (images < 40_000_000).all()


def _schedule(count: int = 103, batch: int = 10, epochs: int = 3, seed: int = 0) -> Schedule:
    ids = np.arange(count) * 2 + 1
    return Schedule(ids, np.linspace(0.5, 2.0, count), batch, epochs, seed)


def test_every_comparison_exactly_once_per_epoch_and_only_the_last_batch_short() -> None:
    schedule = _schedule()
    batches = [schedule.ids_of(step) for step in range(schedule.steps)]
    assert [len(b) for b in batches[:-1]] == [10] * 30 and len(batches[-1]) == 9
    stream = np.concatenate(batches)
    for epoch in range(3):
        assert sorted(stream[epoch * 103 : (epoch + 1) * 103].tolist()) == schedule.ids.tolist()


def test_a_batch_is_a_function_of_its_step() -> None:
    schedule = _schedule()
    late_first = [schedule.ids_of(step).tolist() for step in reversed(range(schedule.steps))][::-1]
    assert late_first == [_schedule().ids_of(step).tolist() for step in range(schedule.steps)]


def test_divisor_is_the_sum_of_weights_of_the_batch() -> None:
    schedule = _schedule()
    weight = dict(zip(schedule.ids.tolist(), schedule.weights.tolist(), strict=True))
    for step in (0, 10, schedule.steps - 1):
        assert schedule.divisor(step) == pytest.approx(sum(weight[i] for i in schedule.ids_of(step).tolist()))


def test_bad_schedules_are_refused() -> None:
    with pytest.raises(UserError, match="nothing to train on"):
        Schedule(np.array([], int), np.array([]), 1, 1, 0)
    with pytest.raises(IndexError):
        _schedule().ids_of(31)
