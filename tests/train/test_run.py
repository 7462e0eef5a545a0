"""Whole runs: the first loss, learning, resumption after SIGKILL, refusals."""

import io
import json
import re
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from finished_runs import params
from rich.console import Console

from skyrm_jax import checkpoint
from skyrm_jax.config import TrainConfig
from skyrm_jax.data.store import Store
from skyrm_jax.errors import UserError
from skyrm_jax.schedule import Schedule
from skyrm_jax.scorer import Scorer
from skyrm_jax.seal import SEAL
from skyrm_jax.train import run, setup
from skyrm_jax.train.resume import require_same_run


def metrics(out: str | Path) -> list[dict]:
    return [json.loads(line) for line in (Path(out) / "metrics.jsonl").read_text().splitlines()]


def test_a_run_starts_at_ln_2_learns_and_can_be_scored(config: TrainConfig) -> None:
    config = replace(
        config,
        optimizer=replace(config.optimizer, learning_rate=1e-2),
        run=replace(config.run, epochs=8, checkpoint_every=0),
    )
    told = io.StringIO()
    result = run(config, Console(file=told, width=200))
    records = metrics(config.run.out)
    assert records[0]["loss"] == pytest.approx(np.log(2), abs=1e-6)
    assert [r["step"] for r in records] == list(range(1, 41))
    # 50 training comparisons of 1 to 4 pairs each: every batch counts all its pairs.
    assert all(isinstance(r["correct"], int) and r["correct"] + r["ties"] <= r["pairs"] for r in records)
    assert records[-1]["loss"] < 0.5 * np.log(2)
    assert result.held_out["held_out_accuracy"] > 0.7
    assert (Path(config.run.out) / "training.png").stat().st_size > 10_000
    (events,) = (Path(config.run.out) / "tensorboard").glob("events.out.tfevents.*")
    assert events.read_bytes().count(b"tokens_per_second") >= 40
    line = r"step 40/40  loss 0\.\d{4}  accuracy [01]\.\d{3}  [\d.]+ pairs/s  [\d,]+ tokens/s  ETA 0:00"
    assert re.search(line, told.getvalue())
    scorer = Scorer.load(config.run.out, max_tokens=64, dtype="float32")
    assert scorer.loaded.meta["step"] == 40 and scorer.loaded.meta["template_hash"] == scorer.chat.template_hash


def test_mixtures_rows_of_two_lengths_and_worker_processes(config: TrainConfig, tmp_path: Path, material: Path) -> None:
    lines = (material / "data.jsonl").read_text().splitlines(keepends=True)
    for name, part in (("a.jsonl", lines[:40]), ("b.jsonl", lines[40:])):
        (tmp_path / name).write_text("".join(part))
    data = replace(
        config.data, root=str(tmp_path), sources=["a.jsonl", "b.jsonl"], mixture={"a.jsonl": 1, "b.jsonl": 3}
    )
    ran = []
    for name, tokens, workers in [("many", [128, 64], 2), ("one", 512, 0)]:
        out = replace(config.run, out=str(tmp_path / name), steps=3, checkpoint_every=0, evaluate_every=0)
        run(replace(config, data=replace(data, row_tokens=tokens, workers=workers), run=out))
        ran.append(metrics(tmp_path / name))
    for many, one in zip(*ran, strict=True):
        assert many["loss"] == pytest.approx(one["loss"], abs=2e-5) and many["pairs"] == one["pairs"]
        assert many["row_fill"] >= one["row_fill"] and many["micro_batches"] > one["micro_batches"]
    store = Store.open(tmp_path / "many" / "store")
    drawn = np.concatenate([Schedule(setup.pools(store, data.mixture), 10, 2, 0).ids_of(step) for step in range(10)])
    assert 0.5 < (store.index.source(drawn) == 1).mean() < 0.95
    with pytest.raises(UserError, match=r"data.mixture names c.jsonl, which is not a source of the store: a.jsonl, b"):
        setup.pools(store, {"c.jsonl": 1.0})


def test_accumulation_does_not_change_the_step(config: TrainConfig, tmp_path: Path) -> None:
    losses = []
    for name, row_tokens, rows in [("many", 64, 1), ("one", 512, 4)]:
        here = replace(
            config,
            data=replace(config.data, row_tokens=row_tokens, rows=rows),
            run=replace(config.run, out=str(tmp_path / name), steps=4, checkpoint_every=0),
        )
        run(here)
        records = metrics(here.run.out)
        assert (records[0]["micro_batches"] > 1) == (name == "many")
        losses.append([r["loss"] for r in records])
    np.testing.assert_allclose(*losses, rtol=1e-5)


KILLED = """
import os, signal, sys, time
from pathlib import Path
from skyrm_jax.train import __main__, metrics

write, at, awaited = metrics.MetricsLog.write, int(sys.argv[1]), Path(sys.argv[2])

def write_and_die(log, step, record):
    write(log, step, record)
    if step == at:
        while not awaited.exists():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGKILL)

metrics.MetricsLog.write = write_and_die
__main__.main(sys.argv[3:])
"""
"""A run that is killed as soon as a step is logged and a path exists."""


def test_killed_at_any_step_it_resumes_bit_identically(config: TrainConfig, tmp_path: Path) -> None:
    undisturbed = replace(config, run=replace(config.run, out=str(tmp_path / "undisturbed")))
    run(undisturbed)
    file, out = tmp_path / "config.yaml", Path(config.run.out)
    file.write_text(yaml.safe_dump(config.as_dict()))
    # Before the first checkpoint, between two of them, and while one is being written.
    for at, every, awaited, kept in [
        (2, 3, out, [[]]),
        (5, 3, out / "checkpoints" / "3" / SEAL, [[3]]),
        (8, 1, out, [[6, 7], [7], [7, 8], [6, 7, 8]]),
    ]:
        command = [sys.executable, "-c", KILLED, str(at), str(awaited)]
        options = ["--config", str(file), "--run.checkpoint_every", str(every)]
        killed = subprocess.run([*command, *options], capture_output=True, text=True)
        assert killed.returncode == -signal.SIGKILL, killed.stderr
        assert checkpoint.finished_steps(out) in kept and len(metrics(out)) == at
    told = io.StringIO()
    run(config, Console(file=told))
    assert re.search("resumed from step [78] of 10", told.getvalue())
    ours, theirs = params(config.run.out), params(undisturbed.run.out)
    for name, value in theirs.items():
        np.testing.assert_array_equal(ours[name], value, err_msg=name)
    timeless = ("loss", "step", "correct", "gradient_norm", "learning_rate")
    assert [[r[k] for k in timeless] for r in metrics(config.run.out)] == [
        [r[k] for k in timeless] for r in metrics(undisturbed.run.out)
    ]


def test_another_config_or_store_is_not_resumed(config: TrainConfig) -> None:
    run(replace(config, run=replace(config.run, steps=1)))
    with pytest.raises(UserError, match=r"optimizer.learning_rate = 0.001, now it is 0.5"):
        changed = replace(config.optimizer, learning_rate=0.5)
        run(replace(config, optimizer=changed, run=replace(config.run, steps=1)))


def test_another_architecture_is_refused_by_its_differing_keys_alone(tmp_path: Path) -> None:
    def facts(**architecture: Any) -> dict[str, Any]:
        return {"store": "s", "config": {"model": {"architecture": {"hidden_size": 64, **architecture}}}}

    before = facts(layers=2, rope={"theta": 1.0}, sliding_window=None)
    now = facts(layers=3, rope={"theta": 1.0})
    with pytest.raises(UserError) as refused:
        require_same_run(before, now, tmp_path, 1)
    assert str(refused.value) == (
        f"{tmp_path} holds a run with model.architecture.layers = 2, now it is 3; "
        "model.architecture.sliding_window = None, now it is left out; "
        "restore the value to resume, or choose another run.out"
    )
    require_same_run(now, now, tmp_path, 1)


def test_a_finished_run_may_be_trained_further(config: TrainConfig, tmp_path: Path) -> None:
    def to(steps: int, out: str) -> list[tuple[int, float]]:
        run(replace(config, run=replace(config.run, steps=steps, out=str(tmp_path / out))))
        return [(r["step"], r["loss"]) for r in metrics(tmp_path / out)]

    config = replace(config, optimizer=replace(config.optimizer, schedule="constant", warmup=0))
    to(2, "twice")
    assert to(4, "twice") == to(4, "once")
    with pytest.raises(UserError, match=r"run.steps = 4, now it is 3"):
        to(3, "twice")


def test_refusals_name_the_key(config: TrainConfig, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="needs 7 devices"):
        run(replace(config, mesh=replace(config.mesh, fsdp=7)))
    with pytest.raises(UserError, match="nowhere"):
        run(replace(config, data=replace(config.data, sources=[str(tmp_path / "nowhere.jsonl")])))
