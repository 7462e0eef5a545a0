"""`skyrm plan` as a user meets it; the TPU compiler itself only in the full suite."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from skyrm_jax.errors import UserError
from skyrm_jax.plan.cli import main

CONFIG: dict[str, Any] = {
    "data": {"store": "none", "max_tokens": 1024, "row_tokens": 1024},
    "model": {
        "architecture": {
            "model_type": "qwen3",
            "vocab_size": 4096,
            "hidden_size": 1024,
            "intermediate_size": 2048,
            "num_hidden_layers": 3,
            "num_attention_heads": 8,
            "num_key_value_heads": 4,
            "head_dim": 128,
            "rms_norm_eps": 1e-6,
            "rope_theta": 1e6,
            "max_position_embeddings": 4096,
            "pad_token_id": 0,
        }
    },
    "optimizer": {"batch": 64},
}


@pytest.fixture
def config(tmp_path: Path) -> Path:
    file = tmp_path / "small.yaml"
    file.write_text(yaml.safe_dump(CONFIG))
    return file


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--topology", "v9:2x2"], "no chip 'v9': choose from v5e"),
        (["--topology", "sixteen"], "say it as v5e:16x16"),
        (["--gpu", "h100:8", "--slices", "2"], "--slices is for TPUs"),
        (["--topology", "v5e:2x2", "--slices", "0"], "--slices must be at least 1"),
    ],
)
def test_mistakes_are_named(config: Path, arguments: list[str], said: str) -> None:
    with pytest.raises(UserError, match=said):
        main(["--config", str(config), *arguments])


def test_a_vocabulary_is_needed(config: Path, tmp_path: Path) -> None:
    del (architecture := dict(CONFIG["model"]["architecture"]))["vocab_size"]
    config.write_text(yaml.safe_dump({**CONFIG, "model": {"architecture": architecture}}))
    if importlib.util.find_spec("libtpu") is None:
        pytest.skip("the TPU compiler is not installed: libtpu")
    with pytest.raises(UserError, match="must say vocab_size"):
        main(["--config", str(config), "--topology", "v5e:2x2"])


@pytest.mark.full
@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="the TPU compiler is not installed: libtpu")
def test_two_slices_of_chips_that_are_not_here(config: Path, tmp_path: Path) -> None:
    file = tmp_path / "plan.json"
    done = subprocess.run(
        f"{sys.executable} -m skyrm_jax.plan --config {config} --topology v5e:2x2 --slices 2 --no-search --json {file}",
        shell=True,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "\nFITS: " in done.stdout and "--mesh.data 2" in done.stdout
    plan = json.loads(file.read_text())
    assert plan["fits"] and plan["mesh"] == {"data": 2, "fsdp": 4, "model": 1} and plan["rows"] == 8
    # Per device: a quarter of the fp32 parameters, twice as many moments, and the sums of gradients are in the peak.
    parameters, moments = plan["where_bytes"]["parameters"], plan["where_bytes"]["optimiser moments"]
    table = 4096 * 1024 + 3 * (2 * 1024 * 128 * 12 + 3 * 1024 * 2048 + 2 * 1024 + 2 * 128) + 2 * 1024
    assert table < parameters < 1.02 * table and 1.99 * parameters < moments < 2.01 * parameters
    assert plan["programs"]["add"]["peak_bytes"] > 2 * parameters
    assert plan["programs"]["update"]["resident_bytes"] == 0
    # Scoring holds half of the parameters' bytes, and neither gradients nor moments; its peak is not the run's.
    scoring = plan["scoring"]["peak_bytes"]
    assert parameters / 2 < scoring < plan["programs"]["evaluate"]["peak_bytes"] - parameters / 4
    assert "score" not in plan["programs"] and f"\nScoring: {scoring / 2**30:.2f} GiB a device" in done.stdout
    moved = {one["kind"]: one for one in plan["collectives"]}
    matrices = 4 * 3 * (2 * 1024 * 128 * 12 + 3 * 1024 * 2048)
    assert moved["reduce-scatter"]["bytes"] >= matrices, "gradients are reduced by scatters"
    assert moved["all-reduce"]["bytes"] < matrices, "and only their shards between the slices"
    assert moved["all-gather"]["overlapped"] > 0.5
