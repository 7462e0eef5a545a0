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

MESHES = {"8x1x1": (8, 1, 1), "1x8x1": (1, 8, 1), "2x2x2": (2, 2, 2)}


def losses(config: TrainConfig, devices: int) -> list[list[float]]:
    file = Path(config.run.out).with_suffix(".yaml")
    file.write_text(yaml.safe_dump(config.as_dict()))
    subprocess.run(
        [sys.executable, "-m", "skyrm_jax.train", "--config", str(file)],
        env={
            **os.environ,
            "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
            # Three steps are not worth compiling well.
            "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
        },
        check=True,
        capture_output=True,
    )
    lines = (Path(config.run.out) / "metrics.jsonl").read_text().splitlines()
    return [[r["loss"], r["gradient_norm"], r["pairs"], r["comparisons"]] for r in map(json.loads, lines)]


def test_meshes_agree(config: TrainConfig, tmp_path: Path) -> None:
    def on(name: str, sizes: tuple[int, int, int], devices: int) -> list[list[float]]:
        mesh = replace(config.mesh, data=sizes[0], fsdp=sizes[1], model=sizes[2])
        return losses(
            replace(
                config,
                data=replace(config.data, rows=8, row_tokens=64),
                mesh=mesh,
                run=replace(config.run, out=str(tmp_path / name), steps=3, checkpoint_every=0, evaluate_every=0),
            ),
            devices,
        )

    single = np.array(on("single", (1, 1, 1), 1))
    for name, sizes in MESHES.items():
        many = np.array(on(name, sizes, 8))
        np.testing.assert_allclose(many[:, 0], single[:, 0], atol=1e-5, rtol=0, err_msg=name)
        np.testing.assert_allclose(many[:, 1], single[:, 1], rtol=1e-4, err_msg=name)
        np.testing.assert_array_equal(many[:, 2:], single[:, 2:])
