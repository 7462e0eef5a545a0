"""The store gives back what was put in, is the same bytes each time, and damage is named."""

import json
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from array_record.python.array_record_module import ArrayRecordReader

from skyrm_jax.chat import build_tree
from skyrm_jax.comparison import Preference
from skyrm_jax.data import store as store_module
from skyrm_jax.data.index import visible_pairs
from skyrm_jax.data.record import StoredTree, encode
from skyrm_jax.data.store import Store, facts_of
from skyrm_jax.data.writing import WRITE, ShardWriter, finish, require_free
from skyrm_jax.errors import UserError


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


def write(
    directory: Path, stored: list[StoredTree], shards: int = 5, repeats: tuple[int, ...] = (), overwrite: bool = False
) -> Store:
    """A store of three sources; `repeats` are records that are no comparisons."""
    require_free(directory, overwrite)
    partial = directory.with_name("partial")
    partial.mkdir()
    rows = []
    for number, part in enumerate(np.array_split(np.arange(len(stored)), shards)):
        with ShardWriter(partial / str(number)) as writer:
            for i in part:
                writer.add(stored[i])
        rows.append(writer.rows[~np.isin(part, repeats)])
    count = len(stored) - len(repeats)
    sources = list(zip("abc", [count // 2, 0, count - count // 2], strict=True))
    parts = [len(part) for part in np.array_split(np.arange(len(stored)), shards)]
    facts = [facts_of(partial / str(number)) | {"records": count} for number, count in enumerate(parts)]
    held_out = np.arange(0, count, 4)
    return finish(partial, directory, facts, rows, sources, held_out, np.array(repeats, int), {"note": "x"})


def same(a: StoredTree, b: StoredTree) -> bool:
    return encode(a) == encode(b)


def test_read_gives_any_comparisons_in_any_order(tmp_path: Path) -> None:
    made = make(100)
    store = write(tmp_path / "store", made)
    assert len(store) == 100
    assert len(store.meta["shards"]) == 5
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
    store = write(tmp_path / "store", made)
    index, ids = store.index, np.array([7, 0, 49])
    assert len(index) == 50
    columns = {
        "tokens": [len(m.tree.tokens) for m in made],
        "leaves": [len(m.tree.reward_index) for m in made],
        "pairs": [len(m.preferences) for m in made],
        "longest": [m.tree.longest for m in made],
        "unshared": [m.tree.conversation_tokens for m in made],
        "weight": np.float32([np.mean([p.weight for p in m.preferences] or [0]) for m in made]).tolist(),
    }
    for name, values in columns.items():
        assert index.column(name).tolist() == values
        assert index[ids][name].tolist() == [values[i] for i in ids]
    totals = store.meta["totals"]
    assert totals["tokens"] == sum(columns["tokens"]) and totals["most_longest"] == max(columns["longest"])
    assert totals["most_leaves"] == max(columns["leaves"]) and totals["most_pairs"] == max(columns["pairs"])
    assert index.held_out.tolist() == list(range(0, 50, 4))
    assert index.source(np.array([0, 24, 25, 49])).tolist() == [0, 0, 2, 2]
    training = index.training()
    assert training[np.arange(len(training))].tolist() == [i for i in range(50) if i % 4]
    assert len(index.training(1)) == 0
    assert index.training(2)[np.arange(3)].tolist() == [25, 26, 27]
    assert not index.rows.flags.writeable


def test_visible_pairs_are_those_of_the_mask() -> None:
    for stored in make(60, seed=2):
        tree = stored.tree
        if len(tree.reward_index) > 2 or len(tree.leaf) != len(tree.reward_index):
            continue
        index = np.zeros(1, [(n, "<u4") for n in ("tokens", "unshared", "longest", "leaves")])
        index[0] = len(tree.tokens), tree.conversation_tokens, tree.longest, len(tree.reward_index)
        assert visible_pairs(index).tolist() == [int((tree.positions + 1).sum())]


def test_repeated_records_are_no_comparisons(tmp_path: Path) -> None:
    made = make(60)
    repeats = (0, 13, 14, 31, 59)
    store = write(tmp_path / "store", made, repeats=repeats)
    kept = [m for i, m in enumerate(made) if i not in repeats]
    assert len(store) == len(kept) == 55
    assert all(same(a, b) for a, b in zip(kept, store.read(range(55)), strict=True))
    assert store.index.column("tokens").tolist() == [len(m.tree.tokens) for m in kept]


def test_more_shards_than_may_be_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "OPEN_SHARDS", 3)
    made = make(40)
    store = write(tmp_path / "store", made, shards=40)
    for _ in range(2):
        assert all(same(a, b) for a, b in zip(made, store.read(range(40)), strict=True))


def test_the_same_input_gives_the_same_bytes(tmp_path: Path) -> None:
    first, second = (write(tmp_path / name, make(60)) for name in ("one", "two"))
    names = sorted(p.name for p in Path(first.directory).iterdir())
    assert names == sorted(p.name for p in Path(second.directory).iterdir())
    assert len(names) == 9
    for name in names:
        assert (Path(first.directory) / name).read_bytes() == (Path(second.directory) / name).read_bytes(), name
    assert first.fingerprint == second.fingerprint != write(tmp_path / "three", make(60, seed=1)).fingerprint


def test_a_store_travels_to_other_processes_and_serves_threads(tmp_path: Path) -> None:
    made = make(80)
    store = pickle.loads(pickle.dumps(write(tmp_path / "store", made)))
    with ThreadPoolExecutor(8) as pool:
        for start, found in enumerate(pool.map(lambda s: store.read(range(s, 80, 7)), range(7))):
            assert all(same(made[i], one) for i, one in zip(range(start, 80, 7), found, strict=True))


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


def test_a_byte_flipped_anywhere_is_found_or_does_no_harm(tmp_path: Path) -> None:
    made = make(30)
    store = write(tmp_path / "store", made, shards=1)
    shard = tmp_path / "store" / store.meta["shards"][0]["file"]
    whole = shard.read_bytes()
    # Most of a small file is padding.
    told = np.flatnonzero(np.frombuffer(whole, np.uint8))
    rng = np.random.default_rng(0)
    found = 0
    for at in rng.choice(told, 250, replace=False).tolist() + rng.integers(0, len(whole), 50).tolist():
        damaged = bytearray(whole)
        damaged[at] ^= 1 << int(rng.integers(8))
        shard.write_bytes(damaged)
        try:
            read = Store.open(store.directory).read(range(30))
        except UserError as error:
            assert f"{shard.name}: is damaged" in str(error)
            found += 1
        else:
            assert all(same(a, b) for a, b in zip(made, read, strict=True)), at
        assert any(Store.open(store.directory).faults())
    assert found > 200


def test_every_record_of_a_shard_can_be_read_alone(tmp_path: Path) -> None:
    store = write(tmp_path / "store", make(3), shards=1)
    reader = ArrayRecordReader(str(tmp_path / "store" / store.meta["shards"][0]["file"]))
    assert "group_size:1" in reader.writer_options_string().split(",")
    assert "group_size:1" in WRITE.split(",")  # array_record 0.8 does so unasked, others need not


def test_damage_is_named(tmp_path: Path) -> None:
    made = make(100)
    directory = tmp_path / "store"
    shards = [s["file"] for s in write(directory, made, repeats=(3,)).meta["shards"]]
    assert list(Store.open(directory).faults()) == []

    flip(directory / shards[1], 70)
    store = Store.open(directory)
    flip(directory / shards[3], 70)
    first, second = store.faults()
    assert f"{shards[1]}: is damaged" in first and f"{shards[3]}: is damaged" in second
    with pytest.raises(UserError, match=f"{shards[1]}: is damaged"):
        store.read(range(99))
    assert same(store[0], made[0])

    (directory / shards[2]).write_bytes((directory / shards[2]).read_bytes()[:-1])
    with pytest.raises(UserError, match=f"{shards[2]}: is damaged .it does not have"):
        Store.open(directory)
    (directory / shards[2]).unlink()
    with pytest.raises(UserError, match=f"{shards[2]}: is damaged .it is missing"):
        Store.open(directory)

    write(directory, made, repeats=(3,), overwrite=True)
    for name in ("index.npy", "held_out.npy", "duplicates.npy"):
        flip(directory / name, -1)
        with pytest.raises(UserError, match=rf"{name}: is damaged .its checksum"):
            Store.open(directory)
        flip(directory / name, -1)
    Store.open(directory)
