"""Runs of several real processes, which meet over loopback as hosts of a pod do."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from finished_runs import params, require_same_params
from local_processes import Processes, environment, free_port, train, wait_for_step

from skyrm_jax import checkpoint
from skyrm_jax.config import TrainConfig
from skyrm_jax.errors import RESTART
from skyrm_jax.report.plots import read_metrics
from skyrm_jax.train import run


@pytest.fixture
def written(config: TrainConfig, tmp_path: Path) -> Path:
    """The config of a run of 10 steps in a file; rows follow the mesh."""
    return write(config, tmp_path)


def write(config: TrainConfig, folder: Path) -> Path:
    path = folder / "config.yaml"
    config = replace(config, data=replace(config.data, rows=0), run=replace(config.run, out=str(folder / "run")))
    path.write_text(yaml.safe_dump(config.as_dict()))
    return path


@pytest.fixture(scope="module")
def undisturbed(module_config: TrainConfig) -> Path:
    """The folder of the same run in two processes, done; its store is what disturbed ones use too."""
    folder = Path(module_config.run.out).parent
    ends_well(train(write(module_config, folder), "--run.checkpoint_every", "0", "--run.evaluate_every", "0"), 2)
    return folder / "run"


def require_same(out: Path, undisturbed: Path) -> None:
    """Losses and parameters are those of the undisturbed run, to the bit."""
    assert losses(out) == losses(undisturbed)
    require_same_params(out, undisturbed)


def losses(out: Path) -> list[float]:
    return [record["loss"] for record in read_metrics(out / "metrics.jsonl")]


def ends_well(command: list[str], count: int, extra: dict[str, str] | None = None) -> list[str]:
    """Runs it in `count` processes; what each said."""
    with Processes(command, count, extra or {}) as processes:
        ends = processes.ends()
    for code, said in ends:
        assert code == 0, said
    return [said for _, said in ends]


@pytest.mark.full
def test_one_two_and_four_processes_give_the_same_losses(written: Path, config: TrainConfig, tmp_path: Path) -> None:
    run(replace(config, run=replace(config.run, out=str(tmp_path / "one"))))
    reference = losses(tmp_path / "one")
    for count in (2, 4):
        out = tmp_path / str(count)
        said = ends_well(train(written, "--run.out", str(out), "--mesh.data", "2"), count)
        np.testing.assert_allclose(losses(out), reference, rtol=1e-5)
        # Process 0 alone speaks and writes.
        assert "finished 10 steps" in said[0] and not any("step" in other for other in said[1:])
    theirs = params(tmp_path / "one")
    for name, value in params(tmp_path / "4").items():
        np.testing.assert_allclose(value, theirs[name], atol=1e-5, err_msg=name)


@pytest.mark.full
def test_sigterm_to_one_process_stops_all_at_one_step_and_loses_none(
    written: Path, tmp_path: Path, undisturbed: Path
) -> None:
    out = tmp_path / "run"
    options = ["--run.checkpoint_every", "0", "--run.evaluate_every", "0", "--data.store", str(undisturbed / "store")]
    with Processes(train(written, *options), 2) as processes:
        wait_for_step(out, 2, processes)
        processes.running[1].send_signal(signal.SIGTERM)
        ends = processes.ends()
    for code, said in ends:
        assert code == RESTART and "the same command goes on from there" in said
    (step,) = checkpoint.finished_steps(out)
    assert 2 < step < 10 and len(losses(out)) == step
    said = ends_well(train(written, *options), 2)
    assert f"resumed from step {step} of 10" in said[0]
    require_same(out, undisturbed)


@pytest.mark.full
def test_who_is_gone_or_stuck_is_named(written: Path, tmp_path: Path) -> None:
    out, options = tmp_path / "run", ["--run.steps", "10", "--run.stuck_seconds", "8"]
    slow = ["--optimizer.batch", "5", "--run.epochs", "400", "--run.checkpoint_every", "0", "--run.evaluate_every", "0"]
    with Processes(train(written, *options, *slow, "--run.steps", "0"), 2) as processes:
        wait_for_step(out, 2, processes)
        processes.running[1].send_signal(signal.SIGSTOP)
        processes.running[0].wait(120)
        processes.running[1].send_signal(signal.SIGKILL)
        (code, said), _ = processes.ends()
    assert code in (RESTART, -signal.SIGABRT)
    # Ours after stuck_seconds, or jax's coordinator after ten seconds without a heartbeat.
    assert "process 1 does not answer" in said or "unhealthy (stopped sending heartbeats):\n1" in said, said


FULL = """
import resource, sys
from skyrm_jax import distributed
from skyrm_jax.train import __main__, logs, saving

saving.OTHERS, saving.PATIENCE = 10, 0.0
write = logs.Logs.write

def limited(self, step, *rest):
    # The disk of process 1 is full from the third step to the sixth.
    write(self, step, *rest)
    if not distributed.is_writer():
        resource.setrlimit(resource.RLIMIT_FSIZE, (2_000 if 3 <= step < 6 else -1, -1))

logs.Logs.write = limited
__main__.main(sys.argv[1:])
"""

FULL_AT_THE_END = """
import resource, sys
from skyrm_jax import distributed
from skyrm_jax.train import __main__, saving

saving.OTHERS, saving.PATIENCE = 10, 0.0
save = saving.Saver.save

def limited(self, *rest):
    # The disk of process 1 is full for the first try of the one checkpoint.
    if not distributed.is_writer():
        resource.setrlimit(resource.RLIMIT_FSIZE, (-1 if self._failures else 2_000, -1))
    save(self, *rest)

saving.Saver.save = limited
__main__.main(sys.argv[1:])
"""


@pytest.mark.full
def test_a_disk_that_is_full_for_one_process_is_outlived_by_all(
    written: Path, tmp_path: Path, undisturbed: Path
) -> None:
    out = tmp_path / "run"
    command = [sys.executable, "-c", FULL, *train(written)[3:], "--data.store", str(undisturbed / "store")]
    options = ["--run.checkpoint_every", "2", "--run.evaluate_every", "0", "--mesh.fsdp", "-1"]
    said = ends_well([*command, *options], 2)
    assert "could NOT be written" in said[0], said[0]
    assert "finished 10 steps" in said[0]
    assert checkpoint.finished_steps(out)[-1] == 10
    assert len(losses(out)) == 10
    require_same(out, undisturbed)


@pytest.mark.full
def test_the_last_checkpoint_is_tried_again_by_all(written: Path, tmp_path: Path, undisturbed: Path) -> None:
    out = tmp_path / "run"
    command = [sys.executable, "-c", FULL_AT_THE_END, *train(written)[3:], "--data.store", str(undisturbed / "store")]
    options = ["--run.checkpoint_every", "0", "--run.evaluate_every", "0", "--mesh.fsdp", "-1"]
    said = ends_well([*command, *options], 2)
    assert said[0].count("the checkpoint of step 10 could NOT be written") == 1, said[0]
    require_same(out, undisturbed)


def test_a_process_that_does_not_come_is_missed(written: Path) -> None:
    told = environment(0, 2, free_port()) | {"SKYRM_START_TIMEOUT": "3"}
    ended = subprocess.run(train(written), env=told, capture_output=True, text=True, timeout=120)
    assert ended.returncode != 0
    assert "process 0 of 2 did not meet the others within 3 s" in ended.stderr, ended.stderr


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"JAX_PROCESS_ID": "0"}, "JAX_PROCESS_ID given without JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES"),
        (
            {"JAX_COORDINATOR_ADDRESS": "a:1", "JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "2"},
            "JAX_PROCESS_ID must be a number from 0 to JAX_NUM_PROCESSES - 1",
        ),
        (
            {
                "JAX_COORDINATOR_ADDRESS": "127.0.0.1:1",
                "JAX_NUM_PROCESSES": "1",
                "JAX_PROCESS_ID": "0",
                "SKYRM_START_TIMEOUT": "soon",
            },
            "SKYRM_START_TIMEOUT must be a whole number of seconds",
        ),
    ],
)
def test_wrong_settings_are_named(written: Path, settings: dict[str, str], said: str) -> None:
    ended = subprocess.run(
        train(written), env={**os.environ, "JAX_PLATFORMS": "cpu", **settings}, capture_output=True, text=True
    )
    assert ended.returncode == 2 and f"error: {said}" in ended.stderr


@pytest.mark.full
def test_slurm_is_understood(written: Path, tmp_path: Path) -> None:
    """Two processes that are told what srun would tell them, and nothing else."""
    slurm = {
        "SLURM_JOB_ID": str(free_port()),
        "SLURM_STEP_NODELIST": "localhost",
        "SLURM_NTASKS": "2",
        "SLURM_STEP_NUM_TASKS": "2",
        "JAX_PLATFORMS": "cpu",
        "JAX_CPU_COLLECTIVES_IMPLEMENTATION": "gloo",
    }
    command = train(written, "--run.steps", "2")
    processes = [
        subprocess.Popen(
            command,
            env={**os.environ, **slurm, "SLURM_PROCID": str(number), "SLURM_LOCALID": str(number)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for number in range(2)
    ]
    said = [process.communicate(timeout=180)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], said
    assert "finished 2 steps" in said[0] and "finished" not in said[1]


@pytest.mark.full
def test_kills_lose_nothing(tmp_path: Path) -> None:
    tool = Path(__file__).parents[2] / "tools" / "check_kills.py"
    result = tmp_path / "kills.json"
    ended = subprocess.run(
        [sys.executable, tool, "--times", "3", "--seed", str(int(time.time())), "--json", result],
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert '"bit_identical": true' in result.read_text()
