"""What the compiled step moves between chips is what the design says, and no activation is resharded by accident.

This stands in for tracing under Explicit mesh axes, which an FSDP layout does not type-check under: `fsdp` spreads both
rows and weights, so every use of a weight, the look-up of the embedding first, would have to name its output's sharding.
"""

import importlib.util

import pytest

from skyrm_jax.config import ModelConfig, OptimizerConfig
from skyrm_jax.mesh import make_mesh
from skyrm_jax.models.architecture import Architecture, Rope
from skyrm_jax.packing import RowShape
from skyrm_jax.plan.collectives import collectives
from skyrm_jax.plan.programs import Program, Programs
from skyrm_jax.plan.topology import topology

LAYERS, TOKENS, SMALL = 3, 1536, 2**16
MODEL = Architecture("qwen3", 4096, 1024, 2048, LAYERS, 8, 4, 128, True, 1e-6, Rope("default", 1e6), 4096, 0)
MATRICES = {1024 * 8 * 128, 1024 * 4 * 128, 1024 * 2048}
"""Elements of a layer's weights: q and o, k and v, the three of the MLP."""


@pytest.mark.full
@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="the TPU compiler is not installed: libtpu")
def test_weights_and_their_gradients_move_and_of_activations_only_the_embeddings_rows() -> None:
    mesh = make_mesh(1, 8, 1, topology("v5e:2x4", 1).devices)
    programs = Programs(MODEL, ModelConfig(architecture={}, attention="tpu"), OptimizerConfig(), mesh)
    program = programs.compile("add", RowShape(8, TOKENS, 16, 8))
    assert isinstance(program, Program)
    moved = [c for c in collectives(program.hlo) if c.bytes > SMALL]
    assert TOKENS * MODEL.hidden not in MATRICES
    gathers = [c for c in moved if c.kind == "all-gather"]
    scatters = [c for c in moved if c.kind == "reduce-scatter"]
    # Whole weights in bf16, once in the forward pass and once or twice in the backward pass of every layer.
    assert {c.bytes // 2 for c in gathers} <= MATRICES and {c.dtype for c in gathers} == {"bf16"}
    assert {c.times for c in gathers} == {LAYERS} and len(gathers) <= 3 * 7
    # Gradients in fp32: whole ones first, then what a first stage has left of them.
    assert max(c.bytes // 4 for c in scatters) in MATRICES and {c.times for c in scatters} == {LAYERS}
    assert sum(c.bytes // 4 in MATRICES for c in scatters) >= 7
    # The embeddings of a micro-batch's tokens, and their gradients: rows for columns, once each.
    exchanged = sorted((c.dtype, c.bytes, c.times) for c in moved if c.kind == "all-to-all")
    assert exchanged == [("bf16", 2 * TOKENS * MODEL.hidden, 1), ("f32", 4 * TOKENS * MODEL.hidden, 1)]
    # Gathers that the compiler has taken apart into steps from chip to chip; nothing is summed whole.
    assert all(c.dtype == "bf16" and c.times % LAYERS == 0 for c in moved if c.kind == "collective-permute")
    assert not [c for c in moved if c.kind == "all-reduce"]
