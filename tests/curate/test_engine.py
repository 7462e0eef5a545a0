"""Where dataframes run: results come back whatever happens, files are whole or absent, and one process has one engine."""

import math
import signal
import sys
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from skyrm_jax.curate import engine
from skyrm_jax.curate.engine import Engine, each, load_daft, read, sorted_table, write_table
from skyrm_jax.errors import RecordError, UserError


@pytest.fixture(autouse=True)
def native() -> None:
    Engine().start()


def double(task: tuple[str, int]) -> tuple[str, int]:
    return task[0], 2 * task[1]


def refuse(task: int) -> int:
    if task == 3:
        raise RecordError("prompt", "is missing", "give one")
    if task == 4:
        raise FileNotFoundError(2, "No such file", "here.jsonl")
    if task == 5:
        raise ZeroDivisionError("a bug")
    return task


def test_every_task_gives_one_result() -> None:
    tasks = [(f"{n}", n) for n in range(40)]
    assert sorted(each(double, tasks, processes=False)) == sorted(map(double, tasks))
    assert list(each(double, [], processes=False)) == []


def test_processes_give_the_same_and_their_death_is_told() -> None:
    assert sorted(each(math.sqrt, [4, 9, 16], processes=True)) == [2, 3, 4]
    with pytest.raises(UserError, match="ended without a word"):
        list(each(signal.raise_signal, [signal.SIGKILL], processes=True))


@pytest.mark.parametrize(("task", "error"), [(3, "prompt: is missing; give one"), (4, "here.jsonl: No such file")])
def test_an_error_that_the_user_can_mend_arrives_as_one(task: int, error: str) -> None:
    with pytest.raises(UserError, match=error):
        list(each(refuse, [0, task, 1], processes=False))


def test_a_bug_arrives_as_what_it_is() -> None:
    with pytest.raises(Exception, match="a bug") as caught:
        list(each(refuse, [5], processes=False))
    assert not isinstance(caught.value, UserError)


begun: list[int] = []


def slowly(task: int) -> int:
    begun.append(task)
    time.sleep(0.05)
    return task


def test_leaving_early_cancels_what_has_not_begun() -> None:
    begun.clear()
    for _ in each(slowly, range(200), processes=False):
        break
    assert 1 <= len(begun) < 100


def test_a_process_has_one_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    Engine().start()
    with pytest.raises(UserError, match="runs on native in this process already"):
        Engine("ray").start()
    # As if another part of the program had started Daft.
    monkeypatch.setattr(engine, "_running", None)
    monkeypatch.setattr(Engine, "_start_ray", lambda self: None)
    monkeypatch.setattr(load_daft(), "set_runner_ray", lambda *_, **__: load_daft().set_runner_native())
    Engine().start()
    monkeypatch.setattr(engine, "_running", None)
    with pytest.raises(UserError, match="runs on native in this process already"):
        Engine("ray").start()


def test_what_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r'needs Ray: pip install "skyrm-jax\[curate,ray\]"'):
        Engine("ray")._start_ray()
    monkeypatch.setitem(sys.modules, "daft", None)
    with pytest.raises(UserError, match=r'needs Daft: pip install "skyrm-jax\[curate\]"'):
        load_daft()


def test_options_that_say_nothing_are_refused() -> None:
    with pytest.raises(UserError, match=r"engine\.kind 'dask' is not known"):
        Engine("dask")  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"engine\.ray_address is given"):
        Engine("native", "auto")


def test_a_table_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    table = pa.table({"n": range(1000), "text": ["x" * n for n in range(1000)]})
    for name in ("a", "b"):
        write_table(tmp_path / "new" / f"{name}.parquet", table)
    assert (tmp_path / "new" / "a.parquet").read_bytes() == (tmp_path / "new" / "b.parquet").read_bytes()
    assert pq.read_table(tmp_path / "new" / "a.parquet") == table
    with pytest.raises(AttributeError):
        write_table(tmp_path / "new" / "a.parquet", None)  # type: ignore[arg-type]
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["a.parquet", "b.parquet"]
    assert pq.read_table(tmp_path / "new" / "a.parquet") == table


def test_rows_are_read_from_many_files_and_sorted(tmp_path: Path) -> None:
    paths = [tmp_path / f"{n}.parquet" for n in (3, 1, 2)]
    for n, path in enumerate(paths):
        write_table(path, pa.table({"a": [n % 2, 5], "b": [n, -n]}))
    table = sorted_table(read(paths), "a", "b")
    assert table.to_pydict() == {"a": [0, 0, 1, 5, 5, 5], "b": [0, 2, 1, -2, -1, 0]}


@pytest.mark.parametrize("name", ["a b", "[1]", "*", "?", "{x,y}", "é%20"])
def test_files_are_read_whatever_their_folder_is_called(tmp_path: Path, name: str) -> None:
    write_table(tmp_path / name / "1.parquet", pa.table({"a": [1]}))
    assert read([tmp_path / name / "1.parquet"]).to_pydict() == {"a": [1]}
