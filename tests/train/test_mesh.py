"""Eight forced host devices: every mesh gives the single device's losses, on the same batches."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

from skyrm_jax.config import TrainConfig
from skyrm_jax.report.plots import read_metrics
from skyrm_jax.train import run


@pytest.fixture(scope="module")
def alone(module_config: TrainConfig) -> TrainConfig:
    """A run of three steps on one device, done."""
    three = replace(module_config.run, steps=3, checkpoint_every=0, evaluate_every=0)
    config = replace(module_config, data=replace(module_config.data, rows=8, row_tokens=64), run=three)
    run(config)
    return config


@pytest.mark.parametrize(
    ("data", "fsdp", "model"),
    [(2, 2, 2), pytest.param(8, 1, 1, marks=pytest.mark.full), pytest.param(1, 8, 1, marks=pytest.mark.full)],
)
def test_meshes_agree(alone: TrainConfig, tmp_path: Path, data: int, fsdp: int, model: int) -> None:
    mesh = replace(alone.mesh, data=data, fsdp=fsdp, model=model)
    config = replace(alone, mesh=mesh, run=replace(alone.run, out=str(tmp_path / "run")))
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(config.as_dict()))
    subprocess.run(
        [sys.executable, "-m", "skyrm_jax.train", "--config", tmp_path / "run.yaml"],
        env={
            **os.environ,
            "XLA_FLAGS": "--xla_force_host_platform_device_count=8",
            # Three steps are not worth compiling well.
            "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
        },
        check=True,
        capture_output=True,
    )
    single, many = losses(alone.run.out), losses(config.run.out)
    np.testing.assert_allclose(many[:, 0], single[:, 0], atol=1e-5, rtol=0)
    np.testing.assert_allclose(many[:, 1], single[:, 1], rtol=1e-4)
    np.testing.assert_array_equal(many[:, 2:], single[:, 2:])


def losses(out: str) -> np.ndarray:
    """Loss, gradient norm, pairs and comparisons of each step."""
    names = ("loss", "gradient_norm", "pairs", "comparisons")
    return np.array([[record[name] for name in names] for record in read_metrics(Path(out) / "metrics.jsonl")])
