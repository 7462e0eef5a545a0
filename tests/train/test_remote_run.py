"""Runs in processes of their own whose folder is on Google Cloud Storage, as those of a TPU pod are."""

import io
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from fake_gcs import FakeGcs
from finished_runs import records, require_same_params
from rich.console import Console

from skyrm_jax import checkpoint
from skyrm_jax.config import TrainConfig
from skyrm_jax.train import run

OUT = "gs://bucket/some runs/one"

RUN = """
import json, sys, time
from pathlib import Path
from rich.console import Console
from skyrm_jax.config import parse_train_config
from skyrm_jax.train import run, saving
from skyrm_jax.train.logs import Logs

saving.PATIENCE = 0.2
write, failing, server = Logs.write, [int(s) for s in sys.argv[1].split(",") if s], sys.argv[2]
if failing:
    saving.SLOW = 0.5  # elsewhere a checkpoint waits for the one before, however slow the machine

def switched(logs, step, record, kept):
    "The store fails from the first of these steps to the second, between which steps are slow."
    write(logs, step, record, kept)
    if failing:
        Path(server).write_text("-1" if failing[0] <= step < failing[1] else "0")
        time.sleep(1.5)

Logs.write = switched
run(parse_train_config(sys.argv[3:]), Console(stderr=True, width=300))
"""


@pytest.fixture
def gcs(tmp_path: Path) -> Iterator[FakeGcs]:
    (tmp_path / "gcs" / "bucket").mkdir(parents=True)
    with FakeGcs(tmp_path / "gcs") as server:
        yield server


@pytest.fixture
def local(config: TrainConfig) -> TrainConfig:
    """The same run in a local folder, done; its store is what a remote run uses too."""
    # A rate that does not depend on when the run is to end.
    optimizer = replace(config.optimizer, schedule="constant", warmup=0)
    config = replace(config, optimizer=optimizer, run=replace(config.run, checkpoint_every=2, evaluate_every=0))
    run(config, Console(file=io.StringIO()))
    return config


def remote(config: TrainConfig, gcs: FakeGcs, cache: Path, *options: str, failing: str = "") -> str:
    """Runs it in the bucket, on a machine with this cache; what it said."""
    cache.mkdir(exist_ok=True)
    switch = cache / "switch"
    store = str(Path(config.run.out) / "store")
    given = replace(config, data=replace(config.data, sources=[], store=store), run=replace(config.run, out=OUT))
    file = cache / "config.yaml"
    file.write_text(yaml.safe_dump(given.as_dict()))
    log = cache / "log"
    with log.open("w") as told:
        process = subprocess.Popen(
            [sys.executable, "-c", RUN, failing, str(switch), "--config", str(file), *options],
            env={**os.environ, **gcs.environment, "JAX_PLATFORMS": "cpu", "SKYRM_CACHE": str(cache)},
            stdout=told,
            stderr=subprocess.STDOUT,
        )
        while process.poll() is None:
            if switch.exists():
                gcs.fail = int(switch.read_text() or 0)
            time.sleep(0.05)
    gcs.fail = 0
    assert process.returncode == 0, log.read_text()
    return log.read_text()


def bucket(gcs: FakeGcs) -> Path:
    return gcs.root / OUT.removeprefix("gs://")


@pytest.mark.full
def test_a_run_in_a_bucket_outlives_a_failing_store_and_goes_on_elsewhere_past_a_damaged_checkpoint(
    local: TrainConfig, gcs: FakeGcs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = remote(local, gcs, tmp_path / "one machine", failing="3,6")
    assert "training goes on" in said, said
    assert (bucket(gcs) / "tokenizer" / "tokenizer.json").exists()
    folder = bucket(gcs) / "checkpoints"
    last, before = sorted(path.name for path in folder.iterdir())  # run.keep is 2
    assert last == "10"
    chunk = max((folder / last / "model").rglob("d/*"), key=lambda path: path.stat().st_size)
    body = bytearray(chunk.read_bytes())
    body[len(body) // 2] ^= 1
    chunk.write_bytes(body)

    said = remote(local, gcs, tmp_path / "another machine")
    assert "WARNING: the checkpoint of step 10 is NOT used" in said and chunk.name in said
    assert f"resumed from step {before} of 10" in said
    assert sorted(path.name for path in folder.iterdir()) == ["10", "10.damaged", max(before, "8")]
    assert records(bucket(gcs)) == records(Path(local.run.out))
    for name in ("training.png", "run.html"):
        assert (bucket(gcs) / name).stat().st_size > 1000

    for name, value in gcs.environment.items():
        monkeypatch.setenv(name, value)
    ours, theirs = checkpoint.load_model(OUT), checkpoint.load_model(local.run.out)
    assert (ours.tokenizer / "tokenizer.json").read_bytes() == (theirs.tokenizer / "tokenizer.json").read_bytes()
    require_same_params(OUT, local.run.out)
