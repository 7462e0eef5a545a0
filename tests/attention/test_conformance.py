"""What a backend must show before `auto` may select it: the rule of the trees, forward and backward, to the digit.

On CPUs the tpu and gpu kernels run as plain JAX; test_tpu.py and tools/compile_gpu.py compile them. Where JAX has a GPU the gpu
kernels run on it: `pytest tests/attention -k gpu`.
"""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from trees import ON_GPU, Row, assert_close, inputs, random_row, results, rows

from skyrm_jax import attention
from skyrm_jax.attention.cpu import CpuBackend
from skyrm_jax.attention.gpu import GpuBackend
from skyrm_jax.attention.reference import ReferenceBackend, visible
from skyrm_jax.attention.tpu import TpuBackend

ORACLE = ReferenceBackend()
CANDIDATES: dict[str, Any] = {
    "reference": ORACLE,
    # Small blocks, so that short rows hold many, live and dead.
    "cpu": CpuBackend(block=16),
    "tpu": TpuBackend(block=16, interpret=True),
    "gpu": GpuBackend(block=16, interpret=not ON_GPU),
}
T = 88
"""Not a multiple of a block."""

each = pytest.mark.parametrize("name", sorted(CANDIDATES))


def case(ends: list[Row], H: int = 4, G: int = 2, E: int = 64) -> tuple[jax.Array, ...]:
    q, k, v, g, _ = inputs(0, len(ends), len(ends[0]), H, G, E)
    return q, k, v, g, jnp.asarray(np.stack(ends))


def equals_the_oracle(name: str, ends: list[Row], **heads: int) -> None:
    one = case(ends, **heads)
    assert_close(results(CANDIDATES[name], *one), results(ORACLE, *one), 1e-5, 1e-4, 1e-4, 1e-4)


def test_auto_selects_none_but_candidates() -> None:
    assert set(attention.AUTO.values()) <= set(CANDIDATES) == set(attention.BACKENDS)


def test_visible_is_the_rule() -> None:
    end = random_row(np.random.default_rng(0), 40)
    seen = np.asarray(visible(jnp.asarray(end)[None]))[0]
    for q in range(40):
        for k in range(40):
            assert seen[q, k] == (k <= q < end[k])


@each
@settings(max_examples=25, suppress_health_check=[HealthCheck.too_slow])
@given(one=rows(T), other=rows(T))
def test_random_trees(name: str, one: Row, other: Row) -> None:
    equals_the_oracle(name, [one, other])


def tree(prompt: int, *responses: int) -> list[int]:
    ends = np.cumsum([prompt, *responses])
    return np.repeat([ends[-1], *ends[1:]], [prompt, *responses]).tolist()


SHAPES = {
    "one causal sequence": np.full(T, T),
    "pads alone": np.arange(1, T + 1),
    "exactly full": np.array(tree(8, *[10] * 8)),
    "responses of one token": np.array(tree(8, *[1] * 80)),
    "a prompt of one token": np.array(tree(1, 40, 47)),
    "responses across blocks of their own": np.array(tree(16, 16, 16, 16, 24)),
    "nested prefixes": np.repeat([T, 80, 72, 64, 80, T], [16, 16, 16, 16, 16, 8]),
}


@each
def test_trees_at_the_edges(name: str) -> None:
    equals_the_oracle(name, [row.astype(np.int32) for row in SHAPES.values()])


@each
@pytest.mark.parametrize("length", [1, 15, 16, 17])
def test_short_rows(name: str, length: int) -> None:
    equals_the_oracle(name, [random_row(np.random.default_rng(length), length)])


@each
@pytest.mark.parametrize(("H", "G", "E"), [(2, 2, 128), (6, 1, 64), (3, 3, 256)])
def test_heads(name: str, H: int, G: int, E: int) -> None:
    equals_the_oracle(name, [random_row(np.random.default_rng(E), 40)], H=H, G=G, E=E)


@pytest.mark.parametrize("name", ["reference", "cpu"])
@pytest.mark.parametrize(("H", "G", "E"), [(4, 2, 16), (3, 3, 10), (9, 3, 80)])
def test_any_head_dim(name: str, H: int, G: int, E: int) -> None:
    equals_the_oracle(name, [random_row(np.random.default_rng(E), 40)], H=H, G=G, E=E)


@each
def test_bf16_stays_near_the_oracle(name: str) -> None:
    q, k, v, g, end = inputs(3, 2, T, 4, 2, 64)
    got = results(CANDIDATES[name], *(x.astype(jnp.bfloat16) for x in (q, k, v, g)), end)
    assert {x.dtype for x in got} == {jnp.dtype(jnp.bfloat16)}
    # 2^-8 is the rounding of one operand; scores, weights and results are each rounded once.
    assert_close(got, results(ORACLE, q, k, v, g, end), 0.01, 0.02, 0.02, 0.01)


@each
def test_no_token_reaches_outside_its_tree(name: str) -> None:
    q, k, v, g, end = inputs(5, 1, T, 2, 1, 64)
    seen = np.asarray(visible(end))[0]
    before = results(CANDIDATES[name], q, k, v, g, end)
    for at in (3, 40, 77):
        blind, hidden = ~seen[:, at], ~seen[at]
        assert blind.any() and hidden.any()
        changed = results(CANDIDATES[name], q, *(x.at[:, at].add(10.0) for x in (k, v)), g, end)
        np.testing.assert_array_equal(before[0][:, blind], changed[0][:, blind])
        # Backward: the gradients of keys that query `at` cannot see do not depend on its cotangent.
        pulled = results(CANDIDATES[name], q, k, v, g.at[:, at].add(10.0), end)
        for i in (2, 3):
            np.testing.assert_array_equal(before[i][:, hidden], pulled[i][:, hidden])
            assert i == 2 or (before[i][:, ~hidden] != pulled[i][:, ~hidden]).any()


@each
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_rows_of_pads_are_finite(name: str, dtype: str) -> None:
    q, k, v, g, _ = (x.astype(dtype) * 30 for x in inputs(6, 1, T, 2, 2, 64))
    out, dq, dk, dv = results(CANDIDATES[name], q, k, v, g, jnp.arange(1, T + 1, dtype=jnp.int32)[None])
    for x in (out, dq, dk, dv):
        assert bool(jnp.isfinite(x).all())
    np.testing.assert_array_equal(np.asarray(out, np.float32), np.asarray(v, np.float32))  # each pad sees itself alone


MESH = """
import jax
from jax.sharding import AxisType
from test_conformance import CANDIDATES, ORACLE
from trees import assert_close, inputs, results

case = inputs(8, 4, 40, 4, 2, 64)
expected = results(ORACLE, *case)
with jax.set_mesh(jax.make_mesh((2, 2, 2), ("data", "fsdp", "model"), axis_types=(AxisType.Auto,) * 3)):
    for name, backend in CANDIDATES.items():
        got = results(backend, *case)
        assert name == "reference" or len(got[0].sharding.device_set) == 8, name
        assert_close(got, expected, 1e-5, 1e-4, 1e-4, 1e-4)
"""


def test_eight_devices_equal_one() -> None:
    done = subprocess.run(
        [sys.executable, "-c", MESH],
        env=os.environ
        | {
            "PYTHONPATH": str(Path(__file__).parent),
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": "--xla_force_host_platform_device_count=8",
        },
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
