"""The schedule: exactly once an epoch, a function of (index, seed, step, N) alone."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skyrm_jax.errors import UserError
from skyrm_jax.schedule import CYCLE, Ids, Schedule, mixture, shuffled


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
    return Schedule.of(Ids(5, 5 + count + 3, np.array([2, 7, 8, 50, 300])), batch, epochs, seed)


@given(st.integers(0, 50), st.integers(0, 60), st.sets(st.integers(0, 120)))
def test_ids_are_the_range_without_the_excluded(start: int, length: int, excluded: set[int]) -> None:
    ids = Ids(start, start + length, np.array(sorted(excluded), np.uint32))
    expected = [i for i in range(start, start + length) if i not in excluded]
    assert len(ids) == len(expected)
    assert ids[np.arange(len(ids))].tolist() == expected


def test_every_comparison_exactly_once_per_epoch_and_only_the_last_batch_short() -> None:
    schedule = _schedule()
    batches = [schedule.ids_of(step) for step in range(schedule.steps)]
    assert [len(b) for b in batches[:-1]] == [10] * 30 and len(batches[-1]) == 9
    stream = np.concatenate(batches)
    expected = [i for i in range(5, 111) if i not in (7, 8, 50)]
    for epoch in range(3):
        assert sorted(stream[epoch * 103 : (epoch + 1) * 103].tolist()) == expected


def test_a_batch_is_a_function_of_its_step() -> None:
    schedule = _schedule()
    late_first = [schedule.ids_of(step).tolist() for step in reversed(range(schedule.steps))][::-1]
    assert late_first == [_schedule().ids_of(step).tolist() for step in range(schedule.steps)]


def test_no_pair_of_100000_is_seen_twice_or_missed_in_an_epoch_whatever_the_batch() -> None:
    held_out = np.arange(0, 102_000, 51)
    for batch in (10_240, 999):
        schedule = Schedule.of(Ids(0, 102_000, held_out), batch, 2, 3)
        stream = np.concatenate([schedule.ids_of(step) for step in range(schedule.steps)])
        for half in stream.reshape(2, 100_000):
            counts = np.bincount(half, minlength=102_000)
            assert counts[held_out].sum() == 0 and np.delete(counts, held_out).tolist() == [1] * 100_000


def test_a_mixture_keeps_its_shares_and_every_source_its_epochs() -> None:
    sources = [Ids(0, 1000, np.array([3])), Ids(1000, 31_000, np.array([3])), Ids(31_000, 31_500, np.array([]))]
    schedule = Schedule(mixture(sources, [1, 5, 2]), 512, 9, 0)
    stream = np.concatenate([schedule.ids_of(step) for step in range(schedule.steps)])
    assert len(stream) == 9 * (999 + 30_000 + 500)
    cycles = stream[: len(stream) // CYCLE * CYCLE].reshape(-1, CYCLE)
    for low, high, share in [(0, 1000, 1024), (1000, 31_000, 5120), (31_000, 31_500, 2048)]:
        assert (((cycles >= low) & (cycles < high)).sum(axis=1) == share).all()
        mine = stream[(stream >= low) & (stream < high)]
        size = len(np.unique(mine))
        epochs = mine[: len(mine) // size * size].reshape(-1, size)
        assert size == {0: 999, 1000: 30_000, 31_000: 500}[low] and len(epochs) > 1
        assert all(len(set(epoch)) == size for epoch in epochs.tolist())
        assert not (epochs[0] == epochs[1]).all()
    # No stretch of the stream is all of one source.
    assert all(200 < (batch >= 1000).sum() - (batch >= 31_000).sum() < 400 for batch in stream[:51200].reshape(-1, 512))


@given(st.lists(st.floats(0.001, 100), min_size=1, max_size=5), st.integers(0, 9))
@settings(max_examples=40, deadline=None)
def test_in_a_mixture_every_draw_of_a_source_comes_once(weights: list[float], seed: int) -> None:
    sources = [Ids(100 * i, 100 * i + 7 + 40 * i, np.array([], int)) for i in range(len(weights))]
    pools = mixture(sources, weights)
    assert sum(pool.share for pool in pools) == CYCLE
    schedule = Schedule(pools, 1, 1, seed)
    if len(pools) > 1:
        pool, number = schedule._dealt(np.arange(CYCLE))
        for one, facts in enumerate(pools):
            assert sorted(number[pool == one].tolist()) == list(range(facts.share))
        later, after = schedule._dealt(np.arange(CYCLE, 2 * CYCLE))
        assert all(after[later == one].min() == facts.share for one, facts in enumerate(pools))


def test_bad_schedules_are_refused() -> None:
    with pytest.raises(UserError, match="nothing to train on"):
        Schedule.of(Ids(0, 2, np.array([0, 1])), 1, 1, 0)
    with pytest.raises(IndexError):
        _schedule().ids_of(31)
    some, none = Ids(0, 9, np.array([], int)), Ids(9, 9, np.array([], int))
    with pytest.raises(UserError, match="must be positive or 0"):
        mixture([some, some], [1, -1])
    with pytest.raises(UserError, match="must be positive or 0"):
        mixture([some], [0])
    with pytest.raises(UserError, match="holds no training comparison"):
        mixture([some, none], [1, 1])
    assert len(mixture([some, none], [1, 0])) == 1
