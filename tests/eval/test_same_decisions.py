"""Decisions on real comparisons depend on nothing but the texts: not on order, batch shape, mesh or the moment."""

import os
import random
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from skyrm_jax.comparison import Comparison
from skyrm_jax.convert.streamed import write_checkpoint
from skyrm_jax.convert.weights import MemoryWeights
from skyrm_jax.eval.benchmarks import BENCHMARKS
from skyrm_jax.models.architecture import Architecture, Rope
from skyrm_jax.models.parameters import map_table
from skyrm_jax.scorer import Scorer

NAMES = ("rewardbench", "rmb", "rm-bench", "judgebench")


@pytest.fixture(scope="module")
def model(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model with a real tokenizer."""
    rng = np.random.default_rng(0)
    architecture = Architecture("qwen3", 151_936, 32, 64, 2, 2, 2, 16, True, 1e-6, Rope(), 40_960, pad_token_id=151_654)
    params = map_table(architecture, lambda _, spec: jnp.asarray(rng.normal(0, 0.2, spec.shape), jnp.float32))
    path = tmp_path_factory.mktemp("decisions") / "model"
    write_checkpoint(path, MemoryWeights.of(architecture, params), shared / "tokenizers/qwen3", {})
    return path


@pytest.fixture(scope="module")
def comparisons(shared: Path) -> list[Comparison]:
    """Some of every benchmark."""
    rng = random.Random(0)
    found = []
    for name in NAMES:
        all_of_it = BENCHMARKS[name].load(shared / "data/benchmarks")
        short = [
            c for c in all_of_it if sum(len(m.content) for k in range(len(c.responses)) for m in c.responses[k]) < 6000
        ]
        found += rng.sample(short, 12)
    return found


def twins(comparison: Comparison) -> tuple[int, int] | None:
    """Two of its responses that are identical."""
    for k, response in enumerate(comparison.responses):
        if response in comparison.responses[:k]:
            return comparison.responses.index(response), k
    return None


def decisions(rewards: list[np.ndarray]) -> list[list[int]]:
    """For each comparison the sign of every difference of two rewards."""
    return [np.sign(np.subtract.outer(one, one)).astype(int).tolist() for one in rewards]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_identical_responses_tie_exactly(shared: Path, model: Path, dtype: str) -> None:
    found = {}
    for name in ("rmb", "judgebench"):
        found[name] = [c for c in BENCHMARKS[name].load(shared / "data/benchmarks") if twins(c) is not None]
    assert {name: len(some) for name, some in found.items()} == {"rmb": 1 + 3, "judgebench": 1}
    scorer = Scorer.load(str(model), dtype=dtype)  # type: ignore[arg-type]
    for some in found.values():
        for comparison, reward in zip(some, scorer.score(some), strict=True):
            pair = twins(comparison)
            assert pair is not None
            assert reward[pair[0]] == reward[pair[1]]
            assert len(set(reward.tolist())) == len(set(comparison.responses))  # and only they do


def test_order_and_batch_shape_change_no_decision(model: Path, comparisons: list[Comparison]) -> None:
    scorer = Scorer.load(str(model), dtype="float32")
    rewards = scorer.score(comparisons)
    wanted = decisions(rewards)
    assert decisions(scorer.score(comparisons)) == wanted
    order = random.Random(1).sample(range(len(comparisons)), len(comparisons))
    shuffled = scorer.score([comparisons[i] for i in order])
    assert decisions([shuffled[order.index(i)] for i in range(len(comparisons))]) == wanted
    # Rows so short that trees are cut apart, and trees one by one.
    longest = max(int(tree.positions.max()) + 1 for tree in scorer.chat.trees(comparisons, 16_384))  # type: ignore[union-attr]
    short = Scorer.load(str(model), dtype="float32", max_tokens=longest)
    assert decisions(short.score(comparisons)) == wanted
    few = comparisons[::6]
    assert decisions([scorer.score([one])[0] for one in few]) == wanted[::6]


MESHES = """
import json, sys
from pathlib import Path
import jax
from skyrm_jax.eval.benchmarks import BENCHMARKS
from skyrm_jax.mesh import make_mesh
from skyrm_jax.scorer import Scorer
import numpy as np

model, data = sys.argv[1:]
comparisons = BENCHMARKS["rewardbench"].load(Path(data))[::12]
found = []
for sizes in ((1, 1, 1), (1, 4, 1), (2, 1, 2), (4, 1, 1)):
    mesh = make_mesh(*sizes, devices=jax.devices()[: sizes[0] * sizes[1] * sizes[2]])
    rewards = Scorer.load(model, mesh=mesh, dtype="float32").score(comparisons)
    found.append([int(np.sign(one[0] - one[1])) for one in rewards])
assert len(found[0]) == 35 and set(found[0]) == {-1, 1}, found[0]
assert all(one == found[0] for one in found), found
print("the same")
"""


@pytest.mark.full
def test_the_mesh_changes_no_decision(model: Path, shared: Path) -> None:
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": "--xla_force_host_platform_device_count=4"}
    command = [sys.executable, "-c", MESHES, str(model), str(shared / "data/benchmarks")]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert ended.returncode == 0 and "the same" in ended.stdout, ended.stderr
