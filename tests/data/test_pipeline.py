"""A step's comparisons are the same whoever loads them: hosts, meshes, workers, restarts."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from fake_gcs import FakeGcs
from grain.experimental import assert_equal_output_after_checkpoint
from test_store import make, write

from skyrm_jax.chat import build_tree
from skyrm_jax.comparison import Preference
from skyrm_jax.data.pipeline import Packer, StepBatch, row_shapes, step_dataset, train_batches
from skyrm_jax.data.record import StoredTree
from skyrm_jax.data.store import Store
from skyrm_jax.schedule import Schedule, mixture


def marked(count: int) -> list[StoredTree]:
    """Pairs whose tokens say which comparison and which response they are."""
    rng = np.random.default_rng(0)
    made = []
    for i in range(count):
        prompt = [3, 1000 + i] * int(rng.integers(1, 9))
        sides = [[*prompt, 10 + side, *rng.integers(100, 900, rng.integers(1, 40))] for side in (0, 1)]
        made.append(StoredTree(build_tree(sides, 0), (Preference(0, 1, weight=float(i % 5 + 1)),), f"c{i}"))
    return made


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return write(tmp_path_factory.mktemp("data") / "store", marked(203), repeats=(7, 8))


def packer(store: Store, shards: int = 8, host: int = 0, hosts: int = 1, rows: int = 8) -> Packer:
    """That of one of several hosts, each with an equal part of the rows."""
    shapes = row_shapes(store.meta["sources"], [256, 128], [rows, rows])
    mine = {s: range(host * s.rows // hosts, (host + 1) * s.rows // hosts) for s in shapes}
    return Packer(store, shapes, mine, shards, 0, 25_000)


def pairs(batches: list[StepBatch]) -> list[tuple[int, int, float, float]]:
    """(winner's comparison and side, loser's, ..) of every pair in the rows that these hosts loaded of one step."""
    found = []
    for number in range(len(batches[0].micro_batches)):
        parts = [batch.micro_batches[number] for batch in batches]
        whole = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        leaves = whole["reward_index"].shape[1]
        for row, slot in zip(*np.nonzero(whole["pair_weight"]), strict=True):
            sides = []
            for name in ("winner", "loser"):
                r, leaf = divmod(int(whole[name][row, slot]), leaves)
                at = int(whole["reward_index"][r, leaf])
                index = np.arange(whole["end"].shape[1])
                path = whole["tokens"][r, (index <= at) & (at < whole["end"][r])]
                sides.append((int(path[1]), int(path[path < 100][-1])))
            found.append((*sides[0], *sides[1], float(whole["pair_weight"][row, slot])))
    return sorted(found)


def schedule(store: Store, batch: int = 32, epochs: int = 2) -> Schedule:
    return Schedule.of(store.index.training(), batch, epochs, 5)


def test_hosts_meshes_and_workers_change_nothing(store: Store) -> None:
    plan = schedule(store)
    for step in (0, 3, plan.steps - 1):
        ids = plan.ids_of(step)
        expected = pairs([packer(store).batch(ids)])
        trees = store.read(ids)
        assert len(expected) == len(ids) == len(set(expected))
        assert expected == sorted(
            (int(s.tree.tokens[1]), 10, int(s.tree.tokens[1]), 11, s.preferences[0].weight) for s in trees
        )
        for hosts in (2, 4, 8):
            parts = [packer(store, host=host, hosts=hosts).batch(ids) for host in range(hosts)]
            assert pairs(parts) == expected
            assert len({(p.divisor, p.tokens, p.comparisons, p.fill) for p in parts}) == 1
        for shards, rows in ((1, 1), (2, 6), (4, 4)):
            assert pairs([packer(store, shards, rows=rows).batch(ids)]) == expected


@pytest.mark.parametrize("workers", [0, 4])
def test_loading_ahead_keeps_steps_and_their_order(store: Store, workers: int) -> None:
    plan = schedule(store, 64, 1)
    loaded = list(train_batches(packer(store), plan, 1, plan.steps, prefetch=2, workers=workers))
    assert len(loaded) == plan.steps - 1
    for step, batch in enumerate(loaded, 1):
        assert pairs([batch]) == pairs([packer(store).batch(plan.ids_of(step))])


@pytest.mark.parametrize("workers", [0, 2])
def test_a_remote_store_gives_the_same_batches(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    shutil.copytree(store.directory, tmp_path / "gcs" / "bucket" / "store")
    plan = schedule(store, 64, 1)
    with FakeGcs(tmp_path / "gcs") as server:
        for name, value in {**server.environment, "SKYRM_CACHE": str(tmp_path / "cache")}.items():
            monkeypatch.setenv(name, value)
        remote = packer(Store.open("gs://bucket/store"))
        found = list(train_batches(remote, plan, 0, plan.steps, workers=workers))
        assert any(".array_record" in request.path for request in server.requests)
    for one, other in zip(found, train_batches(packer(store), plan, 0, plan.steps), strict=True):
        assert (one.divisor, one.tokens, one.comparisons, one.fill) == (
            other.divisor, other.tokens, other.comparisons, other.fill,
        )  # fmt: skip
        for ours, theirs in zip(one.micro_batches, other.micro_batches, strict=True):
            assert ours.keys() == theirs.keys()
            assert all(np.array_equal(ours[name], theirs[name]) for name in ours)


def test_stopped_at_any_step_other_hosts_go_on_exactly(store: Store) -> None:
    plan = schedule(store)
    whole = [pairs([batch]) for batch in train_batches(packer(store), plan, 0, plan.steps)]
    for stop in (1, 5, plan.steps - 1):
        before = [pairs([batch]) for batch in train_batches(packer(store), plan, 0, stop)]
        after = zip(
            *(train_batches(packer(store, host=h, hosts=4), plan, stop, plan.steps) for h in range(4)), strict=True
        )
        assert before + [pairs(list(parts)) for parts in after] == whole
    counted = np.bincount([pair[0] - 1000 for step in whole for pair in step], minlength=203)
    held_out = {int(s.tree.tokens[1]) - 1000 for s in store.read(store.index.held_out)}
    assert {i for i in range(203) if counted[i] != 2} == held_out | {7, 8}
    assert all(counted[i] == 0 for i in held_out)


def test_grain_finds_the_same_after_a_checkpoint(store: Store) -> None:
    dataset = step_dataset(packer(store), schedule(store, 100, 1), 0, 2).map(vars).to_iter_dataset()
    assert_equal_output_after_checkpoint(dataset)


def test_a_mixture_draws_from_sources_by_weight(store: Store) -> None:
    sources = [store.index.training(number) for number in (0, 2)]
    plan = Schedule(mixture(sources, [3, 1]), 64, 4, 0)
    drawn = store.index.source(np.concatenate([plan.ids_of(step) for step in range(plan.steps)]))
    assert set(drawn.tolist()) == {0, 2} and abs((drawn == 0).mean() - 0.75) < 0.05
    batch = packer(store).batch(plan.ids_of(0))
    assert batch.comparisons == 64 and len(pairs([batch])) == 64


def test_trees_longer_than_a_row_are_read_and_cut(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    made = make(10)
    prompt = rng.integers(1, 1000, 40).tolist()
    long = build_tree([[*prompt, 5, *rng.integers(1, 1000, 90)], [*prompt, 6, *rng.integers(1, 1000, 80)]], 0)
    made[4] = StoredTree(long, (Preference(1, 0),))
    store = write(tmp_path / "store", made, shards=2)
    shapes = row_shapes(store.meta["sources"], [150], [2])
    one = Packer(store, shapes, {s: range(2) for s in shapes}, 1, 0, 25_000)
    pieces, plans = one.plan(np.arange(10))
    assert len(pieces.parts) == 2 and len(pieces) == 11
    batch = one.batch(np.arange(10))
    assert sum(int((m["pair_weight"] > 0).sum()) for m in batch.micro_batches) == sum(len(m.preferences) for m in made)
    assert len(plans) >= 2
