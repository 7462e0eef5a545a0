"""The files of a remote store come whole or not at all, and its shards are read where they lie."""

import multiprocessing
import pickle
import time
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter
from fake_gcs import FakeGcs
from test_store import make, same, write

from skyrm_jax.data import remote
from skyrm_jax.data.store import READ, Store
from skyrm_jax.data.writing import WRITE
from skyrm_jax.errors import UserError

CONTENT = np.random.default_rng(0).bytes(300_000)
FACTS = len(CONTENT), zlib.crc32(CONTENT)
STORE = "gs://bucket/some stores/one"
INDEX, SHARD = f"{STORE}/index", f"{STORE}/trees.array_record"
RECORDS = [np.random.default_rng(i).bytes(2000) for i in range(200)]


@pytest.fixture
def gcs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeGcs]:
    """A server with `STORE`: `index` and a shard. The cache is empty, blocks are small and retries quick."""
    folder = tmp_path / "gcs" / "bucket" / "some stores" / "one"
    folder.mkdir(parents=True)
    (folder / "index").write_bytes(CONTENT)
    writer = ArrayRecordWriter(str(folder / "trees.array_record"), WRITE)
    for record in RECORDS:
        writer.write(record)
    writer.close()
    monkeypatch.setattr(remote, "BLOCK", 70_001)
    monkeypatch.setattr(remote, "AT_ONCE", 2)
    monkeypatch.setattr(remote, "RETRIES", {"max_retries": 3, "initial_delay": "1ms", "max_delay": "10ms"})
    with FakeGcs(tmp_path / "gcs") as server:
        for name, value in {**server.environment, "SKYRM_CACHE": str(tmp_path / "cache")}.items():
            monkeypatch.setenv(name, value)
        yield server


def local(gcs: FakeGcs, place: str) -> Path:
    return gcs.root / place.removeprefix("gs://")


def cached(tmp_path: Path) -> list[str]:
    """What the cache holds but for locks."""
    return [path.name for path in (tmp_path / "cache").glob("*") if path.suffix != ".lock"]


def test_places() -> None:
    assert remote.is_remote("gs://bucket/store") and not remote.is_remote("/a/gs:/store")
    assert remote.join("gs://bucket/store/", "index") == remote.join("gs://bucket/store", "index")
    assert remote.join("gs://bucket/store", "index") == "gs://bucket/store/index"
    assert remote.join("a/b", "index") == "a/b/index"
    with pytest.raises(UserError, match="s3://bucket/store: only local folders and gs://"):
        remote.is_remote("s3://bucket/store")
    with pytest.raises(UserError, match=r"gs://Bad!/x: is no address .*write gs://bucket/folder"):
        remote.read_bytes("gs://Bad!/x")


def test_a_local_place_is_used_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "index").write_bytes(CONTENT)
    assert remote.read_bytes(str(tmp_path / "index")) == CONTENT
    assert remote.local_copy(str(tmp_path / "index"), *FACTS) == tmp_path / "index"
    remote.check_sizes(str(tmp_path), {"index": len(CONTENT)})
    with pytest.raises(UserError, match=r"index: is damaged \(it does not have 1 bytes"):
        remote.check_sizes(str(tmp_path), {"index": 1})
    with pytest.raises(UserError, match=r"none: is damaged \(it is missing"):
        remote.check_sizes(str(tmp_path), {"none": 0})
    with pytest.raises(UserError, match=r"none: cannot be read \(No such file"):
        remote.read_bytes(str(tmp_path / "none"))


@pytest.mark.parametrize("fault", ["none", "fail", "cut"])
def test_a_file_is_read_whole_whatever_breaks_off(gcs: FakeGcs, fault: str) -> None:
    setattr(gcs, fault, 2)
    assert remote.read_bytes(INDEX) == CONTENT
    assert len(gcs.requests) == (1 if fault == "none" else 3)


def test_a_server_that_stays_away_is_given_up_on(gcs: FakeGcs, monkeypatch: pytest.MonkeyPatch) -> None:
    gcs.fail = -1
    with pytest.raises(UserError, match=rf"{INDEX}: cannot be read .*503.*check the address, the network and your"):
        remote.read_bytes(INDEX)
    assert len(gcs.requests) == 4
    monkeypatch.setenv("TENSORSTORE_GCS_HTTP_URL", "http://127.0.0.1:9")
    with pytest.raises(UserError, match=rf"{INDEX}: cannot be read .*Could not connect"):
        remote.read_bytes(INDEX)


@pytest.mark.parametrize("size", [0, 1, 70_001, 300_000])
def test_sizes_are_told_apart_by_a_byte(gcs: FakeGcs, size: int) -> None:
    local(gcs, INDEX).write_bytes(CONTENT[:size])
    shard = {"trees.array_record": local(gcs, SHARD).stat().st_size}
    remote.check_sizes(STORE, {"index": size} | shard)
    assert sum(request.sent for request in gcs.requests if request.status < 300) <= 2
    for other in {size - 1, size + 1} - {-1}:
        with pytest.raises(UserError, match=rf"{INDEX}: is damaged \(it does not have {other} bytes"):
            remote.check_sizes(STORE, shard | {"index": other})
    with pytest.raises(UserError, match=f"{STORE}/none: is missing; check the address"):
        remote.check_sizes(STORE, shard | {"none": size})


@pytest.mark.parametrize("size", [0, 1, 70_001, 140_002, 300_000])
def test_a_copy_is_made_once(gcs: FakeGcs, tmp_path: Path, size: int) -> None:
    local(gcs, INDEX).write_bytes(CONTENT[:size])
    gcs.fail, gcs.cut = 1, 1
    copy = remote.local_copy(INDEX, size, zlib.crc32(CONTENT[:size]))
    assert copy.read_bytes() == CONTENT[:size] and cached(tmp_path) == [copy.name]
    gcs.requests.clear()
    assert remote.local_copy(INDEX, size, zlib.crc32(CONTENT[:size])) == copy and not gcs.requests


def test_another_version_of_a_file_is_another_copy(gcs: FakeGcs) -> None:
    old = remote.local_copy(INDEX, *FACTS)
    local(gcs, INDEX).write_bytes(CONTENT[::-1])
    new = remote.local_copy(INDEX, len(CONTENT), zlib.crc32(CONTENT[::-1]))
    assert (old.read_bytes(), new.read_bytes()) == (CONTENT, CONTENT[::-1])


def test_a_wrong_file_leaves_no_copy(gcs: FakeGcs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=rf"{INDEX}: is damaged \(its checksum is wrong"):
        remote.local_copy(INDEX, len(CONTENT), 7)
    with pytest.raises(UserError, match=rf"{INDEX}: is damaged \(it does not have 299999 bytes"):
        remote.local_copy(INDEX, len(CONTENT) - 1, zlib.crc32(CONTENT[:-1]))
    with pytest.raises(UserError, match=f"{STORE}/none: is missing"):
        remote.local_copy(f"{STORE}/none", *FACTS)
    assert not cached(tmp_path)
    assert remote.local_copy(INDEX, *FACTS).read_bytes() == CONTENT
    (tmp_path / "file").touch()
    monkeypatch.setenv("SKYRM_CACHE", str(tmp_path / "file"))
    with pytest.raises(UserError, match=rf"file: cannot hold {INDEX} .*set SKYRM_CACHE"):
        remote.local_copy(INDEX, *FACTS)


def copy_length(_: int) -> int:
    return len(remote.local_copy(INDEX, *FACTS).read_bytes())


def test_processes_and_threads_share_one_download(gcs: FakeGcs, tmp_path: Path) -> None:
    with multiprocessing.get_context("spawn").Pool(2) as processes, ThreadPoolExecutor(4) as threads:
        lengths = processes.map_async(copy_length, range(2), chunksize=1)
        assert set(threads.map(copy_length, range(4))) == set(lengths.get(60)) == {len(CONTENT)}
    assert sum(request.sent for request in gcs.requests if request.status == 206) == len(CONTENT) + 1
    assert len(cached(tmp_path)) == 1


def read_records(ids: list[int]) -> bool:
    reader = ArrayRecordReader(SHARD, READ)
    return bool(reader.ok() and reader.read(ids) == [RECORDS[i] for i in ids])


def test_a_shard_is_read_from_threads_and_from_a_spawned_process(gcs: FakeGcs) -> None:
    reader, lists = ArrayRecordReader(SHARD, READ), [[i, 199 - i, 7] for i in range(8)]
    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(reader.read, lists)) == [[RECORDS[i] for i in ids] for ids in lists]
    gcs.requests.clear()
    with multiprocessing.get_context("spawn").Pool(1) as process:
        assert process.apply(read_records, ([3, 199, 0],))
    assert len(gcs.requests) == 4


@pytest.mark.parametrize("fault", ["fail", "cut"])
def test_reading_a_shard_goes_on_after_a_fault(gcs: FakeGcs, fault: str) -> None:
    reader = ArrayRecordReader(SHARD, READ)
    setattr(gcs, fault, 1)
    assert reader.read([0, 198, 199]) == [RECORDS[i] for i in (0, 198, 199)]
    assert getattr(gcs, fault) == 0


def test_what_array_record_says_of_a_missing_shard(gcs: FakeGcs) -> None:
    """Opening it raises nothing: `Store` relies on the error of the read, which names the place."""
    reader = ArrayRecordReader(f"{STORE}/none", READ)
    assert not reader.ok() and reader.num_records() == 0
    with pytest.raises(RuntimeError, match=f"404.*reading {STORE}/none"):
        reader.read([0])
    reader = ArrayRecordReader(SHARD, READ)
    content = local(gcs, SHARD).read_bytes()
    local(gcs, SHARD).unlink()
    with pytest.raises(RuntimeError, match=f"404.*reading {SHARD}"):
        reader.read([0])
    local(gcs, SHARD).write_bytes(content)
    assert reader.read([0]) == RECORDS[:1]


def test_the_fake_counts_its_requests(gcs: FakeGcs) -> None:
    remote.read_bytes(INDEX)
    (request,) = gcs.requests
    for _ in range(500):  # the client may have it all before the server has counted it
        if request.sent == len(CONTENT):
            break
        time.sleep(0.01)
    assert request.path.startswith("/storage/v1/b/bucket/o/some%20stores%2Fone%2Findex?alt=media")
    assert (request.range, request.status, request.sent) == ("", 200, len(CONTENT))


def test_a_store_is_read_where_it_lies(gcs: FakeGcs, tmp_path: Path) -> None:
    made = make(60)
    write(gcs.root / "bucket" / "store", made, repeats=(3,))
    kept = made[:3] + made[4:]
    store = Store.open("gs://bucket/store")
    assert store.directory == "gs://bucket/store" and len(store) == 59
    assert all(same(a, b) for a, b in zip(kept, store.read(range(59)), strict=True))
    assert sorted(name.split("-")[-1] for name in cached(tmp_path)) == ["duplicates.npy", "held_out.npy", "index.npy"]
    requests = len(gcs.requests)
    again = pickle.loads(pickle.dumps(store))
    # A worker asks for store.json only; the index is on this machine already.
    assert ["store.json" in request.path for request in gcs.requests[requests:]] == [True]
    gcs.fail = 2
    assert same(again[58], kept[58])
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert same(pool.apply(again.read, ([5],))[0], kept[5])
    with pytest.raises(UserError, match="only a local store can be verified"):
        list(store.faults())


def test_what_a_remote_store_lacks_is_named(gcs: FakeGcs) -> None:
    write(gcs.root / "bucket" / "store", make(60))
    folder = gcs.root / "bucket" / "store"
    shard = folder / "trees-00001-of-00005.array_record"
    store = Store.open("gs://bucket/store")
    content = shard.read_bytes()
    shard.unlink()
    with pytest.raises(UserError, match=r"trees-00001-of-00005\.array_record: is missing"):
        Store.open("gs://bucket/store")
    with pytest.raises(UserError, match=r"trees-00001-of-00005.* cannot be read .*check the network and your"):
        store.read(range(60))
    shard.write_bytes(content)
    assert len(store.read(range(60))) == 60
    with pytest.raises(UserError, match=r"gs://bucket/none/store.json: is missing"):
        Store.open("gs://bucket/none")
