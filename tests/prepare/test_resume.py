"""Preparing in many processes, killed, resumed: always the same bytes, and no finished shard is made twice."""

import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from skyrm_jax.data.store import Store
from skyrm_jax.errors import UserError
from skyrm_jax.folders import locked
from skyrm_jax.prepare import PrepareOptions, prepare, run
from skyrm_jax.prepare.shard import Maker


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


def stop_after(monkeypatch: pytest.MonkeyPatch, shards: int) -> list[int]:
    """Lets that many shards be made; the list that is returned holds their numbers."""
    numbers: list[int] = []
    make = Maker.make

    def stopping(self: Maker, job: Any) -> None:
        if len(numbers) == shards:
            raise KeyboardInterrupt
        make(self, job)
        numbers.append(job.number)

    monkeypatch.setattr(Maker, "make", stopping)
    return numbers


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
    expected = contents(made(options, out=str(tmp_path / "other")))
    with monkeypatch.context() as patch:
        assert len(stop_after(patch, 4)) == 0
        with pytest.raises(KeyboardInterrupt):
            made(options)
    # One is lost, another half written.
    (tmp_path / ".store.partial" / "2.json").unlink()
    (tmp_path / ".store.partial" / "1.npz").write_bytes(b"PK")
    with monkeypatch.context() as patch:
        numbers = stop_after(patch, 10**6)
        assert contents(made(options)) == expected
    assert numbers[:2] == [1, 2] and numbers[2] == 4
    assert not (tmp_path / ".store.partial").exists()


def test_only_what_changed_is_made_again(
    options: PrepareOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted_then(change: Any, **changes: Any) -> list[int]:
        with monkeypatch.context() as patch:
            stop_after(patch, 4)
            with pytest.raises(KeyboardInterrupt):
                made(options)
        change()
        with monkeypatch.context() as patch:
            numbers = stop_after(patch, 10**6)
            made(options, overwrite=True, **changes)
        return numbers

    assert interrupted_then(lambda: None)[0] == 4
    (tmp_path / "store" / "store.json").unlink()
    for path in (tmp_path / "store").iterdir():
        path.unlink()
    text = (tmp_path / "a.jsonl").read_text()
    # As long as before, so that only the chunk that holds it is another one.
    change = text.replace('"good 60"', '"GOOD 60"')
    assert interrupted_then(lambda: (tmp_path / "a.jsonl").write_text(change))[:2] == [2, 4]
    for path in (tmp_path / "store").iterdir():
        path.unlink()
    assert interrupted_then(lambda: None, max_tokens=500)[:3] == [0, 1, 2]
    for path in (tmp_path / "store").iterdir():
        path.unlink()
    # What decides nothing about a shard may change.
    assert interrupted_then(lambda: None, held_out=5, dedup=False)[:1] == [4]


def test_shards_of_moved_files_are_made_again(
    options: PrepareOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        stop_after(patch, 4)
        with pytest.raises(KeyboardInterrupt):
            made(options)
    (tmp_path / "elsewhere").mkdir()
    for name in ("a.jsonl", "b.jsonl"):
        (tmp_path / name).rename(tmp_path / "elsewhere" / name)
    with monkeypatch.context() as patch:
        numbers = stop_after(patch, 10**6)
        store = made(options, root=str(tmp_path / "elsewhere"))
    assert numbers[:2] == [0, 1]
    assert store.meta["counts"]["a.jsonl"] == {"kept": 150, "read": 150}


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


def test_two_runs_do_not_write_one_store(options: PrepareOptions) -> None:
    with locked(Path(options.out)), pytest.raises(UserError, match="is being written by another process"):
        made(options)


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
