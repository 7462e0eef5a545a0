"""Accumulating: the sums over micro-batches are the micro-batches' own gradients, added up."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh

from skyrm_jax.config import ModelConfig, OptimizerConfig
from skyrm_jax.mesh import make_mesh
from skyrm_jax.models.architecture import Architecture, Rope
from skyrm_jax.models.decoder import REMAT_POLICIES
from skyrm_jax.models.parameters import initialise
from skyrm_jax.rows import MicroBatch
from skyrm_jax.train.optimizer import make_optimizer
from skyrm_jax.train.step import StepPrograms, step_programs

ROWS, TOKENS, LEAVES = 2, 24, 4


def micro_batch(seed: int) -> dict[str, jax.Array]:
    """Two rows, each of four responses to one prompt of four tokens, and two of their pairs."""
    rng = np.random.default_rng(seed)
    starts = np.arange(4, TOKENS, 5)
    end = np.concatenate([np.full(4, TOKENS), np.repeat(starts + 5, 5)])
    positions = np.concatenate([np.arange(4), np.tile(np.arange(4, 9), LEAVES)])
    slots = np.arange(ROWS)[:, None] * LEAVES
    arrays = MicroBatch(
        tokens=rng.integers(0, 100, (ROWS, TOKENS), np.int32),
        positions=np.tile(positions.astype(np.int32), (ROWS, 1)),
        end=np.tile(end.astype(np.int32), (ROWS, 1)),
        reward_index=np.tile(starts.astype(np.int32) + 4, (ROWS, 1)),
        winner=(slots + np.array([0, 2])).astype(np.int32),
        loser=(slots + np.array([1, 3])).astype(np.int32),
        p=np.ones((ROWS, 2), np.float32),
        margin=np.zeros((ROWS, 2), np.float32),
        pair_weight=np.ones((ROWS, 2), np.float32),
    ).arrays()
    return {name: jnp.asarray(array) for name, array in arrays.items()}


@pytest.fixture
def mesh() -> Mesh:
    return make_mesh(1, 1, 1, jax.devices()[:1])


@pytest.mark.parametrize("remat", REMAT_POLICIES)
def test_sums_are_the_gradients_of_the_micro_batches(mesh: Mesh, remat: str) -> None:
    architecture = Architecture(
        "qwen3", 100, 32, 48, 2, 4, 2, 16, True, 1e-6, Rope("default", 1e4), 512, 0, initializer_range=0.2
    )
    config = ModelConfig(architecture={}, remat=remat, compute_dtype="float32", attention="cpu")
    optimizer = make_optimizer(OptimizerConfig(), architecture, 10)
    params = initialise(architecture, jax.random.key(0))
    params["score"] = jax.random.normal(jax.random.key(1), params["score"].shape)
    with jax.set_mesh(mesh):
        programs: StepPrograms = step_programs(architecture, config, optimizer, mesh)
        divisor = jnp.float32(8)
        batches = [micro_batch(seed) for seed in range(3)]
        apart = [programs.first(params, batch, divisor) for batch in batches]
        expected: Any = jax.tree.map(lambda *parts: np.sum([np.asarray(p) for p in parts], axis=0), *apart)
        sums = programs.first(params, batches[0], divisor)
        for batch in batches[1:]:
            sums = programs.add(sums, params, batch, divisor)

    def same(path: Any, got: Any, want: Any) -> None:
        assert np.abs(want).max() > 0, path
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6 * np.abs(want).max(), err_msg=str(path))

    jax.tree_util.tree_map_with_path(same, sums.gradients, expected.gradients)
    np.testing.assert_allclose(sums.loss, expected.loss, rtol=1e-6)
