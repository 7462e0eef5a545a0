"""Checkpoints and logs in a bucket: what is written there, what is read back, and what a store that fails costs."""

import io
import shutil
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import gcsfs
import numpy as np
import pytest
from fake_gcs import FakeGcs
from finished_runs import records, require_same_params
from gcsfs.extended_gcsfs import BucketType
from rich.console import Console

from skyrm_jax import checkpoint
from skyrm_jax.comparison import Comparison, Message
from skyrm_jax.config import TrainConfig
from skyrm_jax.convert.stored import StoredWeights
from skyrm_jax.errors import UserError
from skyrm_jax.scorer import Scorer
from skyrm_jax.seal import SEAL
from skyrm_jax.train import run, saving
from skyrm_jax.train.logs import Logs
from skyrm_jax.train.saving import newest_whole, remove_leftovers

OUT = "gs://bucket/some runs/one"


async def plain(*_: Any) -> BucketType:
    """What gcsfs would ask of another service, with credentials."""
    return BucketType.NON_HIERARCHICAL


@pytest.fixture
def gcs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeGcs]:
    """A server with an empty bucket, answering in short pages; gcsfs, which retries for half a minute, does not."""
    (tmp_path / "gcs" / "bucket").mkdir(parents=True)
    once = gcsfs.core.GCSFileSystem._request.__wrapped__
    monkeypatch.setattr(gcsfs.core.GCSFileSystem, "_request", once)
    monkeypatch.setattr(gcsfs.extended_gcsfs.ExtendedGcsFileSystem, "_get_bucket_type", plain)
    monkeypatch.setattr(saving, "PATIENCE", 0.0)
    with FakeGcs(tmp_path / "gcs") as server:
        server.page = 3
        for name, value in {**server.environment, "SKYRM_CACHE": str(tmp_path / "a machine")}.items():
            monkeypatch.setenv(name, value)
        yield server


@pytest.fixture(scope="module")
def local(module_config: TrainConfig) -> TrainConfig:
    """A run in a local folder, done."""
    # A rate that does not depend on when the run is to end.
    optimizer = replace(module_config.optimizer, schedule="constant", warmup=0)
    config = replace(
        module_config, optimizer=optimizer, run=replace(module_config.run, checkpoint_every=2, evaluate_every=0)
    )
    run(config, Console(file=io.StringIO()))
    return config


def remote(config: TrainConfig, **options: Any) -> TrainConfig:
    """The same run in the bucket, on the same store."""
    data = replace(config.data, sources=[], store=str(Path(config.run.out) / "store"))
    return replace(config, data=data, run=replace(config.run, out=OUT, **options))


def folder(gcs: FakeGcs) -> Path:
    return gcs.root / OUT.removeprefix("gs://")


def uploaded(local: TrainConfig, gcs: FakeGcs) -> Path:
    """Puts the finished checkpoints of the local run, 8 and 10, and its tokenizer into the bucket."""
    for name in ("checkpoints", "tokenizer"):
        shutil.copytree(Path(local.run.out) / name, folder(gcs) / name)
    return folder(gcs) / "checkpoints"


def said(config: TrainConfig) -> str:
    told = io.StringIO()
    run(config, Console(file=told, width=300))
    return told.getvalue()


def objects(place: Path) -> dict[str, bytes]:
    return {str(path.relative_to(place)): path.read_bytes() for path in place.rglob("*") if path.is_file()}


@pytest.mark.full
def test_a_run_goes_on_from_the_bucket_on_another_machine(
    local: TrainConfig, gcs: FakeGcs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said(remote(local, steps=6))
    there = folder(gcs)
    assert sorted(path.name for path in (there / "checkpoints").iterdir()) == ["4", "6"]  # run.keep is 2
    files = objects(there / "checkpoints" / "6")
    # TensorStore wrote past gcsfs: the seal knows of its files too.
    sealed = {line.split(" ", 2)[2] for line in files.pop(SEAL).decode().splitlines()[:-1]}
    assert sealed == set(files) and any("/d/" in name for name in sealed)

    monkeypatch.setenv("SKYRM_CACHE", str(tmp_path / "another machine"))
    assert "resumed from step 6 of 10" in said(remote(local))
    assert sorted(path.name for path in (there / "checkpoints").iterdir()) == ["10", "8"]
    assert records(there) == records(Path(local.run.out))
    for name in ("training.png", "run.html"):
        assert (there / name).stat().st_size > 1000
    assert len(list((there / "tensorboard").iterdir())) == 2
    require_same_params(OUT, local.run.out)

    question = Comparison(
        (Message("user", "repeat the word red"),), tuple((Message("assistant", word),) for word in ("red", "blue"))
    )
    rewards = [Scorer.load(out, max_tokens=64, dtype="float32").score([question])[0] for out in (OUT, local.run.out)]
    np.testing.assert_array_equal(*rewards)
    found = checkpoint.locate(f"{OUT}/checkpoints/8")
    assert found is not None and found.step == 8
    assert StoredWeights(found).architecture == found.architecture


@pytest.mark.parametrize("fault", ["flipped", "missing", "no seal"])
def test_a_damaged_checkpoint_is_put_aside_and_the_one_before_used(
    local: TrainConfig, gcs: FakeGcs, fault: str
) -> None:
    there = uploaded(local, gcs)
    chunk = max((there / "10" / "model").rglob("d/*"), key=lambda path: path.stat().st_size)
    if fault == "flipped":
        body = bytearray(chunk.read_bytes())
        body[len(body) // 2] ^= 1
        chunk.write_bytes(body)
    else:
        (chunk if fault == "missing" else there / "10" / SEAL).unlink()
    damaged = objects(there / "10")
    if fault != "no seal":
        with pytest.raises(UserError, match=rf"{chunk.name}.*or use another: {OUT}/checkpoints/8"):
            Scorer.load(OUT)
    told: list[str] = []
    assert newest_whole(OUT, told.append) == 8
    assert len(told) == 1 and told[0].startswith("WARNING: the checkpoint of step 10 is NOT used: ")
    assert f"{OUT}/checkpoints/10.damaged" in told[0]
    assert objects(there / "10.damaged") == damaged
    assert sorted(path.name for path in there.iterdir()) == ["10.damaged", "8"]
    if fault == "flipped":
        assert "resumed from step 8 of 10" in said(remote(local))
        assert sorted(path.name for path in there.iterdir()) == ["10", "10.damaged", "8"]
        require_same_params(OUT, local.run.out)


def test_a_save_that_was_killed_is_cleared_away(local: TrainConfig, gcs: FakeGcs) -> None:
    """In a bucket Orbax writes under the last name: what has neither its mark nor our seal was not finished."""
    there = uploaded(local, gcs)
    for name in (SEAL, "commit_success.txt"):
        (there / "10" / name).unlink()
    told: list[str] = []
    assert newest_whole(OUT, told.append) == 8 and not told
    remove_leftovers(OUT)
    assert [path.name for path in there.iterdir()] == ["8"]


@pytest.mark.full
def test_a_store_that_fails_for_a_while_costs_no_step_and_no_checkpoint(
    local: TrainConfig, gcs: FakeGcs, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, kept = Logs.write, []

    def failing(logs: Logs, step: int, record: dict[str, Any], is_kept: bool) -> None:
        """No request is answered from step 3 to step 7, the first save being done."""
        write(logs, step, record, is_kept)
        while step == 2 and not (folder(gcs) / "checkpoints" / "2" / SEAL).exists():
            time.sleep(0.01)
        gcs.fail = -1 if 3 <= step < 7 else 0
        kept.append([path.name for path in (folder(gcs) / "checkpoints").glob(f"*/{SEAL}")])

    monkeypatch.setattr(Logs, "write", failing)
    told = said(remote(local, keep=1))
    assert "the checkpoint of step 4 could NOT be written" in told and "training goes on, the next try is in" in told
    assert len(kept) == 10 and all(kept[1:]), kept  # there is always a whole one
    assert [path.name for path in (folder(gcs) / "checkpoints").iterdir()] == ["10"]
    assert records(folder(gcs)) == records(Path(local.run.out))
    require_same_params(OUT, local.run.out)


@pytest.mark.parametrize("fault", ["503", "no server"])
def test_a_store_that_cannot_be_asked_is_not_an_empty_one(
    local: TrainConfig, gcs: FakeGcs, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run does not begin anew in it, and nothing is put aside or removed."""
    before = objects(uploaded(local, gcs))
    with monkeypatch.context() as away:
        if fault == "503":
            gcs.fail = -1
        else:
            away.setenv("STORAGE_EMULATOR_HOST", "http://127.0.0.1:9")
        for ask in (newest_whole, lambda out, _: checkpoint.finished_steps(out), lambda out, _: checkpoint.locate(out)):
            with pytest.raises(Exception, match=r"503|connect"):
                ask(OUT, print)
        with pytest.raises(Exception, match=r"503|connect"):
            run(remote(local), Console(file=io.StringIO()))
        remove_leftovers(OUT)
    gcs.fail = 0
    assert objects(folder(gcs) / "checkpoints") == before
    assert newest_whole(OUT, print) == 10


def test_files_that_fail_while_a_checkpoint_is_checked_do_not_make_it_damaged(
    local: TrainConfig, gcs: FakeGcs, monkeypatch: pytest.MonkeyPatch
) -> None:
    uploaded(local, gcs)
    asked = []

    def once_then_away(path: Any) -> tuple[int, int]:
        asked.append(path)
        raise ConnectionResetError("the network is gone")

    monkeypatch.setattr("skyrm_jax.seal._sum", once_then_away)
    with pytest.raises(ConnectionResetError):
        newest_whole(OUT, print)
    assert asked and (folder(gcs) / "checkpoints" / "10").is_dir()


def test_a_bucket_that_is_not_there(local: TrainConfig, gcs: FakeGcs) -> None:
    config = remote(local)
    with pytest.raises(UserError, match="gs://none/run: there is no such bucket"):
        run(replace(config, run=replace(config.run, out="gs://none/run")), Console(file=io.StringIO()))


def test_a_folder_of_the_bucket_in_which_nothing_is(gcs: FakeGcs) -> None:
    assert newest_whole(OUT, print) is None and checkpoint.finished_steps(OUT) == []
    assert checkpoint.locate(OUT) is None
    with pytest.raises(UserError, match=OUT):
        Scorer.load(OUT)
