"""The store gives back what was put in, is the same bytes each time, and damage is named."""

import json
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skyrm_jax.chat import build_tree
from skyrm_jax.comparison import Preference
from skyrm_jax.data.store import QUARANTINE, Store, StoredTree, StoreWriter, decode, encode
from skyrm_jax.errors import UserError

number = st.floats(allow_nan=False, allow_infinity=False)
sequences = st.lists(
    st.lists(st.integers(0, 2**31 - 1) | st.integers(0, 1), min_size=1, max_size=9), min_size=1, max_size=5
)
text = st.text(st.characters(exclude_categories=["Cs"]), max_size=9)
stored_trees = sequences.flatmap(
    lambda s: st.builds(
        StoredTree,
        st.builds(build_tree, st.just(s), st.sampled_from([None, 0]), st.integers(0, 99)),
        st.lists(
            st.builds(Preference, st.integers(0, len(s) - 1), st.integers(0, len(s) - 1), number, number, number),
            max_size=4,
        ).map(tuple),
        text,
        text,
    )
)


def same(a: StoredTree, b: StoredTree) -> bool:
    arrays = ["tokens", "end", "positions", "reward_index", "leaf"]
    left, right = a.tree, b.tree
    return (
        all(np.array_equal(getattr(left, n), getattr(right, n)) for n in arrays)
        and all(getattr(right, n).dtype == np.int32 for n in arrays)
        and (left.conversation_tokens, left.truncated) == (right.conversation_tokens, right.truncated)
        and (a.preferences, a.id, a.category) == (b.preferences, b.id, b.category)
    )


@given(stored_trees)
def test_a_record_gives_back_what_was_encoded(stored: StoredTree) -> None:
    assert same(stored, decode(encode(stored)))


@given(stored_trees, st.data())
def test_cut_or_foreign_records_are_refused(stored: StoredTree, data: st.DataObject) -> None:
    record = encode(stored)
    for bad in (record[: data.draw(st.integers(0, len(record) - 1))], record + b"x", b"JUNK" + record[4:]):
        with pytest.raises(ValueError):
            decode(bad)


def make(count: int, seed: int = 0) -> list[StoredTree]:
    rng = np.random.default_rng(seed)
    made = []
    for i in range(count):
        prompt = rng.integers(1, 1000, rng.integers(1, 30)).tolist()
        k = int(rng.integers(1, 5))
        tree = build_tree([prompt + rng.integers(1, 1000, rng.integers(0, 20)).tolist() for _ in range(k)], 0)
        weights = rng.random(k - 1)
        made.append(StoredTree(tree, tuple(Preference(0, j + 1, weight=w) for j, w in enumerate(weights)), f"é{i}"))
    return made


def write(directory: Path, stored: list[StoredTree], shard_bytes: int = 4000, overwrite: bool = False) -> Store:
    with StoreWriter(directory, overwrite, shard_bytes) as writer:
        for i, one in enumerate(stored):
            writer.add(one, i % 3)
        heldout = np.arange(len(stored)) % 4 == 0
        return writer.finish(heldout, {"sources": ["a", "b", "c"], "note": "x"})


def test_read_gives_any_comparisons_in_any_order(tmp_path: Path) -> None:
    made = make(100)
    store = write(tmp_path / "store", made)
    assert len(store) == 100
    assert len(store.meta["shards"]) > 3
    assert store.sources == ["a", "b", "c"]
    ids = np.random.default_rng(1).integers(0, 100, 300)
    assert all(same(made[i], found) for i, found in zip(ids, store.read(ids), strict=True))
    assert same(made[99], store[99])
    assert store.read([]) == []
    for bad in (100, -1):
        with pytest.raises(IndexError):
            store.read([3, bad])


def test_the_index_says_what_the_trees_hold(tmp_path: Path) -> None:
    made = make(50)
    index = write(tmp_path / "store", made).index
    assert len(index) == 50
    assert index.tokens.tolist() == [len(m.tree.tokens) for m in made]
    assert index.leaves.tolist() == [len(m.tree.reward_index) for m in made]
    assert index.pairs.tolist() == [len(m.preferences) for m in made]
    assert index.longest.tolist() == [m.tree.longest for m in made]
    assert index.conversation_tokens.tolist() == [m.tree.conversation_tokens for m in made]
    assert index.weight.tolist() == [float(np.mean([p.weight for p in m.preferences] or [0])) for m in made]
    assert index.heldout.tolist() == [i % 4 == 0 for i in range(50)]
    assert index.source.tolist() == [i % 3 for i in range(50)]
    kinds = [a.dtype for a in vars(index).values()]
    assert kinds == [np.int32, np.int32, np.int32, np.float64, np.bool_, np.uint16, np.int32, np.int32]


def test_the_same_input_gives_the_same_bytes(tmp_path: Path) -> None:
    first, second = (write(tmp_path / name, make(60)) for name in ("one", "two"))
    names = sorted(p.name for p in first.directory.iterdir())
    assert names == sorted(p.name for p in second.directory.iterdir())
    assert len(names) > 4
    for name in names:
        assert (first.directory / name).read_bytes() == (second.directory / name).read_bytes(), name
    assert first.fingerprint == second.fingerprint != write(tmp_path / "three", make(60, seed=1)).fingerprint


def test_a_store_travels_to_other_processes_and_serves_threads(tmp_path: Path) -> None:
    made = make(80)
    store = pickle.loads(pickle.dumps(write(tmp_path / "store", made)))
    with ThreadPoolExecutor(8) as pool:
        for start, found in enumerate(pool.map(lambda s: store.read(range(s, 80, 7)), range(7))):
            assert all(same(made[i], one) for i, one in zip(range(start, 80, 7), found, strict=True))


def test_a_store_appears_when_it_is_complete(tmp_path: Path) -> None:
    directory = tmp_path / "store"
    with StoreWriter(directory) as writer:
        for one in make(5):
            writer.add(one, 0)
        assert not directory.exists()
        writer.finish(np.zeros(5, bool), {"sources": ["a"]})
    assert [p.name for p in tmp_path.iterdir()] == ["store"]


@pytest.mark.parametrize("put_aside", [True, False])
def test_after_an_error_only_the_quarantine_stays(tmp_path: Path, put_aside: bool) -> None:
    with pytest.raises(UserError, match="stop"), StoreWriter(tmp_path / "store") as writer:
        writer.add(make(1)[0], 0)
        if put_aside:
            (writer.partial / QUARANTINE).write_text("{}\n")
        raise UserError("stop")
    left = [p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*") if p.is_file()]
    assert left == (["store.partial/quarantine.jsonl"] if put_aside else [])
    assert len(write(tmp_path / "store", make(3))) == 3
    assert not (tmp_path / "store.partial").exists()


def test_what_is_there_is_not_overwritten_by_accident(tmp_path: Path) -> None:
    write(tmp_path / "store", make(3))
    with pytest.raises(UserError, match="there is a store already"):
        write(tmp_path / "store", make(4))
    assert len(write(tmp_path / "store", make(4), overwrite=True)) == 4
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.tex").touch()
    with pytest.raises(UserError, match="is not a store"):
        write(tmp_path / "home", make(4), overwrite=True)
    (tmp_path / "empty").mkdir()
    assert len(write(tmp_path / "empty", make(4))) == 4
    assert sorted(p.name for p in tmp_path.iterdir()) == ["empty", "home", "store"]


def test_no_store_and_other_versions_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no store"):
        Store.open(tmp_path)
    write(tmp_path / "store", make(3))
    file = tmp_path / "store" / "store.json"
    whole = file.read_text()
    file.write_text(json.dumps(json.loads(whole) | {"format": 99}))
    with pytest.raises(UserError, match="format 99"):
        Store.open(tmp_path / "store")
    for bad in (whole[:-20], "[]", "{}"):
        file.write_text(bad)
        with pytest.raises(UserError, match=r"store\.json: is damaged"):
            Store.open(tmp_path / "store")


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def test_damage_is_named(tmp_path: Path) -> None:
    made = make(100)
    directory = tmp_path / "store"
    shards = [s["file"] for s in write(directory, made).meta["shards"]]
    Store.open(directory).verify()

    flip(directory / shards[1], 70)
    store = Store.open(directory)
    with pytest.raises(UserError, match=f"{shards[1]}: is damaged"):
        store.verify()
    with pytest.raises(UserError, match=f"{shards[1]}: is damaged"):
        store.read(range(100))
    assert same(store[0], made[0])

    (directory / shards[2]).write_bytes((directory / shards[2]).read_bytes()[:-1])
    with pytest.raises(UserError, match=f"{shards[2]}: is damaged .it has"):
        Store.open(directory)
    (directory / shards[2]).unlink()
    with pytest.raises(UserError, match=f"{shards[2]}: is damaged .it is missing"):
        Store.open(directory)

    write(directory, made, overwrite=True)
    flip(directory / "index.npz", 300)
    with pytest.raises(UserError, match=r"index\.npz: is damaged .its checksum"):
        Store.open(directory)
