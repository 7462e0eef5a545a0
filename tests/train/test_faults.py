"""What a run survives: damaged checkpoints, full disks, SIGTERM, batches that are not finite."""

import io
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from finished_runs import params
from local_processes import train
from rich.console import Console

from skyrm_jax import checkpoint
from skyrm_jax.config import TrainConfig
from skyrm_jax.errors import RESTART, UserError
from skyrm_jax.report.plots import read_metrics
from skyrm_jax.scorer import Scorer
from skyrm_jax.train import run, saving
from skyrm_jax.train.logs import Logs
from skyrm_jax.train.saving import newest_whole


def records(config: TrainConfig) -> list[dict[str, Any]]:
    return read_metrics(Path(config.run.out) / "metrics.jsonl")


def quiet() -> Console:
    return Console(file=io.StringIO(), width=300)


def test_damage_to_any_file_is_met_by_the_checkpoint_before(
    config: TrainConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = replace(config, run=replace(config.run, steps=4, checkpoint_every=2, evaluate_every=0))
    run(config, quiet())
    out = Path(config.run.out)
    files = sorted(p.relative_to(out) for p in (out / "checkpoints" / "4").rglob("*") if p.is_file())
    assert len(files) > 10 and checkpoint.finished_steps(out) == [2, 4]
    capsys.readouterr()
    for number, name in enumerate(files):
        copy = tmp_path / "copy"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(out / "checkpoints", copy / "checkpoints")
        body = bytearray((copy / name).read_bytes())
        if number % 3 == 0 or not body:
            (copy / name).unlink()
        elif number % 3 == 1:
            (copy / name).write_bytes(body[:-1])
        else:
            body[len(body) // 2] ^= 4
            (copy / name).write_bytes(body)
        told: list[str] = []
        assert newest_whole(str(copy), told.append) == 2
        assert len(told) == 1 and "WARNING: the checkpoint of step 4 is NOT used" in told[0] and str(name) in told[0]
        assert checkpoint.finished_steps(copy) == [2] and (copy / "checkpoints" / "4.damaged").is_dir()


def test_a_run_goes_on_from_before_the_damage_and_a_scorer_refuses_it(
    config: TrainConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = replace(config, run=replace(config.run, checkpoint_every=2, evaluate_every=0))
    run(config, quiet())
    expected = params(config.run.out)
    out = Path(config.run.out)
    arrays = [p for p in (out / "checkpoints" / "10" / "model").rglob("d/*") if p.is_file()]
    largest = max(arrays, key=lambda path: path.stat().st_size)
    body = bytearray(largest.read_bytes())
    body[len(body) // 2] ^= 1
    largest.write_bytes(body)
    with pytest.raises(UserError, match=r"its checksum is wrong; .* or use another: .*/checkpoints/8"):
        Scorer.load(str(out))
    told = io.StringIO()
    run(config, Console(file=told, width=300))
    assert "resumed from step 8 of 10" in told.getvalue()
    assert "WARNING: the checkpoint of step 10 is NOT used" in capsys.readouterr().err
    for name, value in params(out).items():
        np.testing.assert_array_equal(value, expected[name], err_msg=name)
    assert [r["step"] for r in records(config)] == list(range(1, 11))


def test_a_full_disk_is_outlived(config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel refuses files of more than 20 KB from step 3 to step 6, as a full disk would."""
    monkeypatch.setattr(saving, "PATIENCE", 0.0)
    config = replace(config, run=replace(config.run, checkpoint_every=2, keep=1, evaluate_every=0))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    write, kept = Logs.write, []

    def limited(logs: Logs, step: int, record: dict[str, Any], is_kept: bool) -> None:
        write(logs, step, record, is_kept)
        while step == 2 and not checkpoint.finished_steps(config.run.out):
            time.sleep(0.01)
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000 if 3 <= step < 6 else soft, hard))
        kept.append(checkpoint.finished_steps(config.run.out))

    monkeypatch.setattr(Logs, "write", limited)
    told = io.StringIO()
    try:
        run(config, Console(file=told, width=300))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "the checkpoint of step 4 could NOT be written" in told.getvalue(), told.getvalue()
    assert "training goes on, the next try is in" in told.getvalue()
    # The last good one stays until a newer one is complete.
    assert kept[1] == kept[3] == kept[4] == [2] and all(kept[1:]), kept
    assert checkpoint.finished_steps(config.run.out) == [10]
    assert not list((Path(config.run.out) / "checkpoints").glob("*tmp*"))
    assert [r["step"] for r in records(config)] == list(range(1, 11))


def test_a_disk_that_stays_full_ends_the_run_with_what_there_is(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(saving, "PATIENCE", 0.0)
    monkeypatch.setattr(saving, "TRIES", 2)
    config = replace(config, run=replace(config.run, steps=4, checkpoint_every=2, evaluate_every=0))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    write = Logs.write

    def limited(logs: Logs, step: int, record: dict[str, Any], is_kept: bool) -> None:
        write(logs, step, record, is_kept)
        while step == 2 and not checkpoint.finished_steps(config.run.out):
            time.sleep(0.01)
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000 if step >= 3 else soft, hard))

    monkeypatch.setattr(Logs, "write", limited)
    try:
        with pytest.raises(UserError, match=r"could not be written; the newest of this run is that of step 2"):
            run(config, quiet())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    monkeypatch.setattr(Logs, "write", write)
    told = io.StringIO()
    run(config, Console(file=told, width=300))
    assert "resumed from step 2 of 4" in told.getvalue()


def test_sigterm_saves_at_the_next_step_and_asks_for_a_restart(config: TrainConfig, tmp_path: Path) -> None:
    config = replace(config, run=replace(config.run, epochs=2000, checkpoint_every=0, evaluate_every=0))
    file, out = tmp_path / "config.yaml", Path(config.run.out)
    file.write_text(yaml.safe_dump(config.as_dict()))
    process = subprocess.Popen(
        train(file), env={**os.environ, "JAX_PLATFORMS": "cpu"}, stderr=subprocess.PIPE, text=True
    )
    while not (out / "metrics.jsonl").exists() or len((out / "metrics.jsonl").read_text().splitlines()) < 3:
        assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=120)
    (step,) = checkpoint.finished_steps(out)
    assert process.returncode == RESTART
    assert f"told to stop: step {step} of 10000 is saved in {out}; the same command goes on from there" in said
    assert [r["step"] for r in records(config)] == list(range(1, step + 1))
    process = subprocess.Popen(
        train(file), env={**os.environ, "JAX_PLATFORMS": "cpu"}, stderr=subprocess.PIPE, text=True
    )
    while len((out / "metrics.jsonl").read_text().splitlines()) < step + 2:
        assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    assert f"resumed from step {step} of 10000" in process.communicate(timeout=120)[1]
    assert process.returncode == RESTART


@pytest.fixture
def poisoned(config: TrainConfig, material: Path, tmp_path: Path) -> TrainConfig:
    """A run in which one comparison's loss overflows."""
    lines = [json.loads(line) for line in (material / "data.jsonl").read_text().splitlines()]
    bad = {**lines[0], "id": "the bad one"}
    del bad["chosen"]
    bad["preferences"] = [{"winner": 0, "loser": 1, "margin": 9e29, "weight": 1e20}]
    data = tmp_path / "poisoned.jsonl"
    data.write_text("".join(json.dumps(line) + "\n" for line in [*lines[1:], bad]))
    return replace(
        config,
        data=replace(config.data, sources=[str(data)], held_out=0),
        run=replace(config.run, epochs=1, checkpoint_every=0),
    )


def test_a_batch_that_is_not_finite_stops_the_run_and_is_written_down(poisoned: TrainConfig) -> None:
    with pytest.raises(
        UserError, match=r"step (\d+) cannot be taken: its loss is inf .*run.non_finite skip"
    ) as stopped:
        run(poisoned, quiet())
    out = Path(poisoned.run.out)
    (evidence,) = (out / "non_finite").iterdir()
    assert str(evidence) in str(stopped.value)
    about = json.loads(evidence.read_text())
    assert "the bad one" in [one["id"] for one in about["comparisons"]] and len(about["comparisons"]) == 10
    # What was done until then is saved, and the batch has changed nothing.
    assert checkpoint.finished_steps(out) == ([about["step"] - 1] if about["step"] > 1 else [0])
    assert all(np.isfinite(value).all() for value in params(out).values())
    with pytest.raises(UserError, match=rf"step {about['step']} cannot be taken"):  # nor at the next start
        run(poisoned, quiet())


def test_such_batches_are_skipped_and_counted_if_asked(poisoned: TrainConfig, tmp_path: Path) -> None:
    with pytest.raises(UserError):
        run(poisoned, quiet())
    skipping = replace(poisoned, run=replace(poisoned.run, non_finite="skip"))
    told = io.StringIO()
    run(skipping, Console(file=told, width=300))
    (step,) = [r["step"] for r in records(skipping) if r["loss"] is None]
    assert f"step {step} is skipped: its loss is inf" in told.getvalue()
    assert records(skipping)[-1]["skipped"] == 1 and len(records(skipping)) == 6
    assert all(np.isfinite(value).all() for value in params(skipping.run.out).values())
    found = checkpoint.locate(skipping.run.out)
    assert found is not None and found.meta["account"]["skipped"] == 1


RESTORED = """
import json, sys
import jax
from skyrm_jax.comparison import Comparison, Message
from skyrm_jax.mesh import make_mesh
from skyrm_jax.scorer import Scorer

out, sizes = sys.argv[1], json.loads(sys.argv[2])
answers = tuple((Message("assistant", word),) for word in ("red", "blue", "green"))
comparison = Comparison((Message("user", "repeat the word red"),), answers)
for size in sizes:
    data, fsdp, model = size
    mesh = make_mesh(data, fsdp, model, jax.devices()[: data * fsdp * model])
    scorer = Scorer.load(out, mesh=mesh, max_tokens=64, dtype="float32")
    print(json.dumps([float(r) for r in scorer.score([comparison] * 5)[0]]))
"""


@pytest.mark.full
def test_a_save_on_4x2_restores_on_2x2_and_1x1_with_the_same_rewards(config: TrainConfig, tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    config = replace(
        config,
        data=replace(config.data, rows=4),
        mesh=replace(config.mesh, data=1, fsdp=4, model=2),
        run=replace(config.run, steps=3, checkpoint_every=0, evaluate_every=0),
    )
    file.write_text(yaml.safe_dump(config.as_dict()))
    env = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": "--xla_force_host_platform_device_count=8"}
    trained = subprocess.run(train(file), env=env, capture_output=True, text=True)
    assert trained.returncode == 0, trained.stderr
    sizes = [(1, 4, 2), (1, 2, 2), (1, 1, 1)]
    command = [sys.executable, "-c", RESTORED, config.run.out, json.dumps(sizes)]
    scored = subprocess.run(command, env=env, capture_output=True, text=True)
    assert scored.returncode == 0, scored.stderr
    rewards = [json.loads(line) for line in scored.stdout.splitlines()]
    assert len(set(rewards[0])) == 3
    for other in rewards[1:]:
        np.testing.assert_allclose(other, rewards[0], atol=1e-6)
