"""Evaluations by real processes: several at once, and one that is killed."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pyarrow.parquet as pq
import pytest
from local_processes import Processes

from skyrm_jax.comparison import Comparison
from skyrm_jax.convert.streamed import write_checkpoint
from skyrm_jax.convert.weights import MemoryWeights
from skyrm_jax.data import bpe
from skyrm_jax.eval.journal import UNFINISHED
from skyrm_jax.models.architecture import Architecture, Rope
from skyrm_jax.models.parameters import map_table

pytestmark = pytest.mark.full

IN_SMALL_WINDOWS = """
import sys, time
from skyrm_jax.eval import cli, journal, sets

sets.WINDOW = 4
add = journal.Journal.add

def slowly(*given):
    add(*given)
    time.sleep(0.3)

journal.Journal.add = slowly
cli.main(sys.argv[1:])
"""


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Options that name a small checkpoint and 30 comparisons."""
    folder = tmp_path_factory.mktemp("model")
    rng = np.random.default_rng(0)
    words = ["red", "green", "blue", "one", "two", "three", "sun", "moon"]
    records: list[dict[str, Any]] = [
        {
            "id": str(i),
            "prompt": f"{i} {' '.join(rng.choice(words, 5))}",
            "responses": [" ".join(rng.choice(words, n)) for n in (2, 4, 3)],
            "chosen": 0,
        }
        for i in range(30)
    ]
    (folder / "data.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    comparisons = [Comparison.of(record["prompt"], record["responses"]) for record in records]
    tokenizer = bpe.save(bpe.train(bpe.texts_of(comparisons), 300), folder / "tokenizer")
    architecture = Architecture("qwen3", 300, 16, 32, 2, 2, 2, 8, True, 1e-6, Rope(), 256, pad_token_id=0)
    params = map_table(architecture, lambda _, spec: jnp.asarray(rng.normal(0, 0.2, spec.shape), jnp.float32))
    write_checkpoint(folder / "model", MemoryWeights.of(architecture, params), tokenizer, {})
    data = ["--held-out", str(folder / "data.jsonl")]
    return ["--checkpoint", str(folder / "model"), *data, "--max-tokens", "128", "--dtype", "float32"]


def rewards(out: Path) -> list[list[float]]:
    return pq.read_table(out / "rewards.parquet")["rewards"].to_pylist()


def evaluated(given: list[str], out: Path) -> None:
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-m", "skyrm_jax.eval", *given, "--out", str(out)]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr


def test_processes_and_meshes_give_the_rewards_of_one(given: list[str], tmp_path: Path) -> None:
    evaluated(given, tmp_path / "one")
    for count, mesh in ((2, ["1", "-1", "1"]), (2, ["2", "1", "2"]), (1, ["1", "2", "1"])):
        out = tmp_path / f"{count} {' '.join(mesh)}"
        command = [sys.executable, "-m", "skyrm_jax.eval", *given, "--mesh", *mesh, "--out", str(out)]
        with Processes(command, count) as processes:
            ends = processes.ends()
        assert [code for code, _ in ends] == [0] * count, ends
        np.testing.assert_allclose(rewards(out), rewards(tmp_path / "one"), atol=1e-6)
        assert "Pair accuracy" in ends[0][1]
        assert all("Pair accuracy" not in said for _, said in ends[1:])


def test_a_killed_evaluation_ends_with_the_same_rewards(given: list[str], tmp_path: Path) -> None:
    out, undisturbed = tmp_path / "out", tmp_path / "undisturbed"
    command = [sys.executable, "-c", IN_SMALL_WINDOWS, *given, "--out"]
    with Processes([*command, str(out)], 2) as processes:
        file = out / UNFINISHED
        while not file.exists() or file.read_bytes().count(b"\n") < 3:
            assert all(process.poll() is None for process in processes.running)
            time.sleep(0.02)
        for process in processes.running:
            process.send_signal(signal.SIGKILL)
    before = file.read_bytes().count(b"\n") - 1
    assert 2 <= before < 8
    with Processes([*command, str(out)], 2) as processes:
        ends = processes.ends()
    assert [code for code, _ in ends] == [0, 0], ends
    assert f"held-out: {4 * before} of 30 were scored before" in ends[0][1]
    with Processes([*command, str(undisturbed)], 2) as processes:
        processes.ends()
    assert rewards(out) == rewards(undisturbed)
    results = [json.loads((place / "results.json").read_text()) for place in (out, undisturbed)]
    assert results[0]["results"] == results[1]["results"]
    assert results[0]["manifest"]["sets"] == results[1]["manifest"]["sets"]
    assert not file.exists()
