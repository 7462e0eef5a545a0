"""Eight forced host devices: every mesh gives the single device's losses, on the same batches."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import yaml

from skyrm_jax.config import TrainConfig
from skyrm_jax.train import run

MESHES = {"8x1x1": (8, 1, 1), "1x8x1": (1, 8, 1), "2x2x2": (2, 2, 2)}


RUNS = """
import sys
from skyrm_jax.config import parse_train_config
from skyrm_jax.train import run

for file in sys.argv[1:]:
    run(parse_train_config(["--config", file]))
"""


def test_meshes_agree(config: TrainConfig, tmp_path: Path) -> None:
    data = replace(config.data, rows=8, row_tokens=64)
    three = replace(config.run, steps=3, checkpoint_every=0, evaluate_every=0)
    run(replace(config, data=data, run=three))
    files = []
    for name, (over_data, fsdp, model) in MESHES.items():
        mesh = replace(config.mesh, data=over_data, fsdp=fsdp, model=model)
        one = replace(config, data=data, mesh=mesh, run=replace(three, out=str(tmp_path / name)))
        files.append(tmp_path / f"{name}.yaml")
        files[-1].write_text(yaml.safe_dump(one.as_dict()))
    subprocess.run(
        [sys.executable, "-c", RUNS, *files],
        env={
            **os.environ,
            "XLA_FLAGS": "--xla_force_host_platform_device_count=8",
            # Three steps are not worth compiling well.
            "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
        },
        check=True,
        capture_output=True,
    )
    single = losses(config.run.out)
    for name in MESHES:
        many = losses(tmp_path / name)
        np.testing.assert_allclose(many[:, 0], single[:, 0], atol=1e-5, rtol=0, err_msg=name)
        np.testing.assert_allclose(many[:, 1], single[:, 1], rtol=1e-4, err_msg=name)
        np.testing.assert_array_equal(many[:, 2:], single[:, 2:])


def losses(out: str | Path) -> np.ndarray:
    """Loss, gradient norm, pairs and comparisons of each step."""
    lines = (Path(out) / "metrics.jsonl").read_text().splitlines()
    return np.array([[r["loss"], r["gradient_norm"], r["pairs"], r["comparisons"]] for r in map(json.loads, lines)])
