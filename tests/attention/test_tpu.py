"""The tpu backend's kernels, run as plain JAX, against the dense oracle; and compiled for TPUs that are not there."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from trees import assert_close, inputs, results

from skyrm_jax.attention import tpu_walk
from skyrm_jax.attention.reference import ReferenceBackend
from skyrm_jax.attention.tpu import TpuBackend
from skyrm_jax.errors import UserError


def test_rows_of_one_batch_may_differ_in_live_pairs() -> None:
    q, k, v, g, end = inputs(1, 3, 72, 2, 1, 64)
    # One tree of all tokens, pads alone, and random trees: every pair of blocks, the diagonal, something between.
    end = end.at[0].set(72).at[1].set(jnp.arange(1, 73))
    backend = TpuBackend(8, interpret=True)
    totals = backend.prepare(end).by_query.start[:, -1]
    assert totals[0] == 45 and totals[1] == 9 and 9 < totals[2] < 45
    case = q, k, v, g, end
    assert_close(results(backend, *case), results(ReferenceBackend(), *case), 1e-5, 1e-4, 1e-4, 1e-4)


def test_kv_heads_in_several_steps_equal_the_oracle(monkeypatch: pytest.MonkeyPatch) -> None:
    # 2 of 6 kv heads to a step, 2 query heads of 16 tokens and 128 lanes each.
    monkeypatch.setattr(tpu_walk, "_STEP_BYTES", 2 * 2 * 16 * 128 * 4)
    case = inputs(2, 2, 48, 12, 6, 64)
    got, expected = results(TpuBackend(16, interpret=True), *case), results(ReferenceBackend(), *case)
    assert_close(got, expected, 1e-5, 1e-4, 1e-4, 1e-4)


def test_dead_blocks_are_not_touched() -> None:
    q, k, v, g, _ = inputs(4, 1, 64, 2, 1, 64)
    end = jnp.concatenate([jnp.full(32, 32), jnp.full(32, 64)])[None].astype(jnp.int32)
    spoiled = [x.at[:, :32].set(jnp.nan) for x in (q, k, v, g)]
    for out in results(TpuBackend(16, interpret=True), *spoiled, end):
        assert bool(jnp.isnan(out[:, :32]).all()) and bool(jnp.isfinite(out[:, 32:]).all())


def test_few_blocks_of_many_responses_are_live() -> None:
    # 32 responses of 1,024 tokens to a prompt of as many.
    T = 33 * 1024
    end = np.where(np.arange(T) < 1024, T, (np.arange(T) // 1024 + 1) * 1024)
    start = TpuBackend().prepare(jnp.asarray(end[None], jnp.int32)).by_query.start
    n = start.shape[1] - 1
    assert int(start[0, -1]) <= 0.10 * n * (n + 1) / 2


def test_what_the_kernels_cannot_honour_is_refused() -> None:
    q, k, v, _, end = inputs(7, 1, 16, 2, 1, 80)
    backend = TpuBackend()
    with pytest.raises(UserError, match=r"head_dim: 80 .*model\.attention"):
        backend.attend(q, k, v, backend.prepare(end))
    with pytest.raises(UserError, match="block: 200"):
        TpuBackend(200)
    many = jax.ShapeDtypeStruct((64, 32768, 1, 64), jnp.bfloat16)
    ends = jax.ShapeDtypeStruct((64, 32768), jnp.int32)
    with pytest.raises(UserError, match="rows"):
        jax.eval_shape(lambda x, end: backend.attend(x, x, x, backend.prepare(end)), many, ends)


@pytest.mark.full
@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="the TPU compiler is not installed: libtpu")
@pytest.mark.parametrize("topology", ["v5e:2x2", "v6e:2x2", "v5p:2x2x1", "tpu7x:2x2x1"])
def test_compiles_for(topology: str) -> None:
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("compile_tpu.py")), topology],
        env=os.environ | {"JAX_PLATFORMS": "cpu", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1", "TPU_SKIP_MDS_QUERY": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    kernels = json.loads(done.stdout.splitlines()[-1])
    assert kernels.pop("forward of 32 responses") == 1
    assert kernels.pop("recomputed") == 4
    assert kernels.pop("saved by name") == 3
    assert len(kernels) == 6 and set(kernels.values()) == {3}
