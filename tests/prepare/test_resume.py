"""Preparing in many processes, killed, resumed: always the same bytes, and no finished shard is made twice."""

import fcntl
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from skyrm_jax.data.store import Store
from skyrm_jax.data.writing import ShardWriter
from skyrm_jax.errors import UserError
from skyrm_jax.folders import locked, made_whole
from skyrm_jax.prepare import PrepareOptions, prepare, run
from skyrm_jax.prepare.shard import Job, Maker


def write(path: Path, numbers: range, **fields: Any) -> None:
    lines = [
        json.dumps({"prompt": f"question {i}", "chosen": f"good {i}", "rejected": "bad"} | fields) for i in numbers
    ]
    path.write_text("\n".join(lines) + "\n")


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "SMALLEST_CHUNK", 2000)


@pytest.fixture
def options(tmp_path: Path, byte_tokenizer: Path) -> PrepareOptions:
    write(tmp_path / "a.jsonl", range(150))
    write(tmp_path / "b.jsonl", range(100, 260))  # fifty of them repeat a.jsonl's
    with (tmp_path / "b.jsonl").open("a") as file:
        file.write("{broken\n")
    return PrepareOptions(
        ["a.jsonl", "b.jsonl"], str(tmp_path / "store"), str(byte_tokenizer), str(tmp_path), held_out=20, workers=0
    )


def made(options: PrepareOptions, **changes: Any) -> Store:
    return prepare(PrepareOptions(**(vars(options) | changes)), Console(file=io.StringIO()))


def contents(store: Store) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in Path(store.directory).iterdir()}


def stop_after(monkeypatch: pytest.MonkeyPatch, shards: int) -> list[Job]:
    """Lets that many shards be made; the list that is returned holds their jobs."""
    jobs: list[Job] = []
    make = Maker.make

    def stopping(self: Maker, job: Job) -> None:
        if len(jobs) == shards:
            raise KeyboardInterrupt
        make(self, job)
        jobs.append(job)

    monkeypatch.setattr(Maker, "make", stopping)
    return jobs


def interrupted(monkeypatch: pytest.MonkeyPatch, shards: int, options: PrepareOptions, **changes: Any) -> list[Job]:
    """A run that ends after so many shards."""
    with monkeypatch.context() as patch:
        jobs = stop_after(patch, shards)
        with pytest.raises(KeyboardInterrupt):
            made(options, **changes)
    return jobs


def whole_run(
    monkeypatch: pytest.MonkeyPatch, options: PrepareOptions, **changes: Any
) -> tuple[Store, list[tuple[str, int]]]:
    """A store, and the source and first record of the shards that were made for it, in order."""
    with monkeypatch.context() as patch:
        jobs = stop_after(patch, 10**6)
        store = made(options, **changes)
    return store, [(job.short, job.chunk.first) for job in jobs]


def test_repeated_records_are_passed_over_once_seen(options: PrepareOptions) -> None:
    store = made(options)
    assert store.meta["counts"] == {
        "a.jsonl": {"kept": 150, "read": 150},
        "b.jsonl": {"bad: record: is not valid JSON": 1, "kept": 110, "read": 161, "repeats an earlier record": 50},
    }
    assert [source["comparisons"] for source in store.meta["sources"]] == [150, 110]
    assert [stored.id for stored in store.read(range(149, 152))] == ["a.jsonl:150", "b.jsonl:51", "b.jsonl:52"]
    assert len(store.meta["shards"]) > 5
    assert len(made(options, dedup=False, overwrite=True)) == 310


def test_other_preferences_or_metadata_decide_what_repeats(options: PrepareOptions, tmp_path: Path) -> None:
    one = {"prompt": "q", "responses": ["a", "b"], "preferences": [[0, 1]]}
    records = [
        one,
        one | {"id": "other name", "source": "elsewhere"},
        one | {"responses": ["b", "a"], "preferences": [[1, 0]]},  # the same in another order
        one | {"preferences": [[1, 0]]},
        one | {"preferences": [{"winner": 0, "loser": 1, "p": 0.9}]},
        one | {"responses": ["a", "b", "c"]},
        one | {"prompt": [{"role": "system", "content": ""}, {"role": "user", "content": "q"}]},
    ]
    (tmp_path / "c.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    store = made(options, sources=["c.jsonl"], held_out=0)
    assert [stored.id for stored in store.read(range(len(store)))] == [f"c.jsonl:{n}" for n in (1, 4, 5, 6, 7)]


def test_many_processes_give_the_same_bytes(options: PrepareOptions, tmp_path: Path) -> None:
    assert contents(made(options, workers=2, out=str(tmp_path / "two"))) == contents(made(options))


def test_an_interrupted_run_goes_on_where_it_stopped(
    options: PrepareOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected, places = whole_run(monkeypatch, options, out=str(tmp_path / "other"))
    interrupted(monkeypatch, 4, options)
    store, again = whole_run(monkeypatch, options)
    assert again == places[4:] and contents(store) == contents(expected)
    assert not (tmp_path / ".store.partial").exists()


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def shorten(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.parametrize(
    ("file", "damage"),
    [(file, damage) for file in ("trees", "npz", "quarantine.jsonl", "json") for damage in (Path.unlink, shorten)]
    + [("trees", flip), ("npz", flip)],
)
def test_a_shard_that_is_not_whole_is_made_again(
    options: PrepareOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str, damage: Callable[[Path], Any]
) -> None:
    (tmp_path / "a.jsonl").write_text("{broken\n" + (tmp_path / "a.jsonl").read_text())
    expected, places = whole_run(monkeypatch, options, out=str(tmp_path / "other"))
    first, *_ = interrupted(monkeypatch, 3, options)
    damage(tmp_path / ".store.partial" / f"{first.number}.{file}")
    store, again = whole_run(monkeypatch, options)
    assert again == [places[0], *places[3:]] and contents(store) == contents(expected)


def test_what_is_unfinished_has_no_name_of_a_finished_shard(
    options: PrepareOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = contents(made(options, out=str(tmp_path / "other")))
    with monkeypatch.context() as patch:

        def killed(*_: Any) -> None:
            raise KeyboardInterrupt

        patch.setattr(ShardWriter, "add", killed)
        with pytest.raises(KeyboardInterrupt):
            made(options)
    left = {path.name for path in (tmp_path / ".store.partial").iterdir()} - {"made_of.json"}
    assert left and all(name.endswith(f".{os.getpid()}.tmp") for name in left)
    interrupted(monkeypatch, 1, options)
    assert not list((tmp_path / ".store.partial").glob("*.tmp"))
    assert contents(made(options)) == expected


def test_a_finished_shard_is_on_disk_before_it_is_called_finished(
    options: PrepareOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append(os.fstat(descriptor).st_ino))
    (tmp_path / "a.jsonl").write_text("{broken\n" + (tmp_path / "a.jsonl").read_text())
    (job,) = interrupted(monkeypatch, 1, options)
    partial = tmp_path / ".store.partial"
    of = {kind: (partial / f"{job.number}.{kind}").stat().st_ino for kind in ("trees", "npz", "quarantine.jsonl")}
    finished = synced.index((partial / f"{job.number}.json").stat().st_ino)
    # The files, then their names, then the facts, then the facts' name.
    assert set(of.values()) <= set(synced[: finished - 1])
    assert synced[finished - 1] == synced[finished + 1] == partial.stat().st_ino
    synced.clear()
    store = Path(made(options).directory)
    files = ("index.npy", "held_out.npy", "duplicates.npy", "report.json", "quarantine.jsonl")
    assert {(store / name).stat().st_ino for name in files} <= set(
        synced[: synced.index((store / "store.json").stat().st_ino)]
    )
    assert synced[-1] == tmp_path.stat().st_ino


def test_only_what_changed_is_made_again(
    options: PrepareOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, places = whole_run(monkeypatch, options, out=str(tmp_path / "other"))

    def interrupted_then(change: Any, **changes: Any) -> list[tuple[str, int]]:
        shutil.rmtree(tmp_path / "store", ignore_errors=True)
        interrupted(monkeypatch, 4, options)
        change()
        return whole_run(monkeypatch, options, **changes)[1]

    assert interrupted_then(lambda: None, max_tokens=500) == places
    # What decides nothing about a shard may change.
    assert interrupted_then(lambda: None, held_out=5, dedup=False, max_bad_share=0.5) == places[4:]
    # As long as before, so that only the chunk that holds it is another one.
    text = (tmp_path / "a.jsonl").read_text().replace('"good 60"', '"GOOD 60"')
    assert interrupted_then(lambda: (tmp_path / "a.jsonl").write_text(text)) == [places[2], *places[4:]]


def test_shards_stay_good_when_other_sources_come_or_go_or_all_move(
    options: PrepareOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, places = whole_run(monkeypatch, options, out=str(tmp_path / "other"))
    of_b = [place for place in places if place[0] == "b.jsonl"]
    (tmp_path / "blank.jsonl").write_text("\n\n")
    with pytest.raises(UserError, match=r"blank\.jsonl: there is no record in it"):
        made(options, sources=["blank.jsonl", "a.jsonl", "b.jsonl"])
    # It is said before all is tokenised, and what is tokenised stays.
    done = len(list((tmp_path / ".store.partial").glob("*.trees"))) - 1
    assert 0 < done < 4
    (tmp_path / "elsewhere").mkdir()
    for name in ("a.jsonl", "b.jsonl"):
        (tmp_path / name).rename(tmp_path / "elsewhere" / name)
    store, again = whole_run(monkeypatch, options, root=str(tmp_path / "elsewhere"))
    assert again == places[done:] and store.meta["counts"]["a.jsonl"] == {"kept": 150, "read": 150}

    moved = {"root": str(tmp_path / "elsewhere"), "overwrite": True}
    interrupted(monkeypatch, len(places) - 1, options, **moved)
    assert whole_run(monkeypatch, options, sources=["b.jsonl"], **moved)[1] == of_b[-1:]


def test_shards_made_otherwise_are_not_taken_for_this_runs(
    options: PrepareOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process of a killed run may finish one after its folder was cleared for a run with other options."""
    expected, places = whole_run(monkeypatch, options, max_tokens=33, over_long="truncate_right", max_bad_share=1)
    shutil.rmtree(tmp_path / "store")
    interrupted(monkeypatch, 4, options)
    shutil.copytree(tmp_path / ".store.partial", tmp_path / "left")
    other = {"max_tokens": 33, "over_long": "truncate_right", "max_bad_share": 1}
    interrupted(monkeypatch, 0, options, **other)
    for path in (tmp_path / "left").iterdir():
        if path.name != "made_of.json":
            shutil.copy(path, tmp_path / ".store.partial")
    store, again = whole_run(monkeypatch, options, **other)
    assert again == places and contents(store) == contents(expected)


def test_what_is_counted_of_repeated_records_is_not_counted_twice(options: PrepareOptions, tmp_path: Path) -> None:
    long = json.dumps({"prompt": "x" * 500, "chosen": "a", "rejected": "b"}) + "\n"
    (tmp_path / "c.jsonl").write_text(long * 3)
    store = made(options, sources=["c.jsonl"], max_tokens=200, over_long="truncate_left", held_out=0)
    assert store.meta["counts"]["c.jsonl"] == {"kept": 1, "read": 3, "repeats an earlier record": 2, "truncated": 1}
    assert store.meta["turns"] == {"2": 1}


def test_a_store_that_was_moved_away_is_put_back(options: PrepareOptions, tmp_path: Path) -> None:
    expected = contents(made(options))
    (tmp_path / "store").rename(tmp_path / ".store.old")
    with pytest.raises(UserError, match="there is a store already"):
        made(options)
    assert contents(Store.open(tmp_path / "store")) == expected
    (tmp_path / "store.old").mkdir()
    made(options, overwrite=True)
    assert (tmp_path / "store.old").is_dir()


def test_two_runs_do_not_write_one_store(options: PrepareOptions, tmp_path: Path) -> None:
    made(options)
    with locked(Path(options.out)), pytest.raises(UserError, match="is being written by another process"):
        made(options, overwrite=True)
    # The other is about to put its store in the place of the old one, which nobody else must put back.
    (tmp_path / "store").rename(tmp_path / ".store.old")
    with locked(Path(options.out)), pytest.raises(UserError, match="is being written by another process"):
        made(options, overwrite=True)
    assert (tmp_path / ".store.old").exists() and not (tmp_path / "store").exists()


def test_a_lock_that_was_let_go_of_between_opening_and_locking_is_no_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file that was opened is removed then, and a third process locks a new one of that name."""
    flock, third = fcntl.flock, ExitStack()

    def late(file: Any, how: int) -> None:
        monkeypatch.setattr(fcntl, "flock", flock)
        (tmp_path / ".out.lock").unlink()
        if not third_is_there:
            return flock(file, how)
        third.enter_context(locked(tmp_path / "out"))
        flock(file, how)

    for third_is_there in (True, False):
        monkeypatch.setattr(fcntl, "flock", late)
        if third_is_there:
            with third, pytest.raises(UserError, match="is being written by another process"), locked(tmp_path / "out"):
                pass
        else:
            with locked(tmp_path / "out"):
                assert (tmp_path / ".out.lock").exists()
                with pytest.raises(UserError, match="is being written"), locked(tmp_path / "out"):
                    pass
    assert list(tmp_path.iterdir()) == []


def test_what_appears_while_a_folder_is_waited_for_is_not_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flock = fcntl.flock

    def late(file: Any, how: int) -> None:
        flock(file, how)
        (tmp_path / "out").mkdir(exist_ok=True)
        (tmp_path / "out" / "file").touch()

    monkeypatch.setattr(fcntl, "flock", late)
    with pytest.raises(UserError, match="exists and is not empty"), made_whole(tmp_path / "out"):
        pytest.fail("began")


def die(job: Any) -> None:
    os._exit(9)


def test_a_killed_worker_is_reported(options: PrepareOptions, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "work", die)
    with pytest.raises(UserError, match=r"tokenises .*a\.jsonl from record 1 ended without a word"):
        made(options, workers=1)


DRIVER = """
import sys
from skyrm_jax.prepare import PrepareOptions, prepare, run
run.SMALLEST_CHUNK = 2000
if __name__ == "__main__":
    folder, tokenizer = sys.argv[1:]
    prepare(PrepareOptions(["a.jsonl", "b.jsonl"], folder + "/store", tokenizer, folder, held_out=20, workers=2))
"""


def children(pid: int) -> list[int]:
    return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="looks for processes as Linux shows them")
def test_killed_alone_it_takes_its_workers_along(options: PrepareOptions, tmp_path: Path, byte_tokenizer: Path) -> None:
    write(tmp_path / "a.jsonl", range(20_000), source="s" * 200)
    driver = tmp_path / "driver.py"
    driver.write_text(DRIVER)
    command = [sys.executable, str(driver), str(tmp_path), str(byte_tokenizer)]
    process = subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL)
    try:
        partial = tmp_path / ".store.partial"
        for _ in range(3000):
            if len(list(partial.glob("*.trees"))) > 1:
                break
            time.sleep(0.1)
        workers = children(process.pid)
        assert process.poll() is None and len(workers) >= 2
        process.kill()
        process.wait()
        for _ in range(600):
            if not any(map(runs, workers)):
                break
            time.sleep(0.1)
        assert not any(map(runs, workers))
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


@pytest.mark.full
def test_killed_at_any_time_it_ends_with_the_same_bytes(
    options: PrepareOptions, tmp_path: Path, byte_tokenizer: Path
) -> None:
    write(tmp_path / "a.jsonl", range(20_000), source="s" * 200)
    expected = contents(made(options, out=str(tmp_path / "other")))
    driver = tmp_path / "driver.py"
    driver.write_text(DRIVER)
    command = [sys.executable, str(driver), str(tmp_path), str(byte_tokenizer)]
    killed, wait = 0, 3.0
    while True:
        process = subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL)
        try:
            process.wait(wait)
            break
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            if (tmp_path / "store").exists():  # whatever it was doing after that, the store is complete
                break
            killed, wait = killed + 1, wait * 1.4
            time.sleep(0.2)
    assert killed >= 2
    assert contents(Store.open(tmp_path / "store")) == expected
