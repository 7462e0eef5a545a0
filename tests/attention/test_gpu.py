"""What the gpu backend does on top of the conformance suite: on a GPU where JAX has one, else as plain JAX, slowly."""

import jax.numpy as jnp
import numpy as np
import pytest
from trees import ON_GPU, assert_close, inputs, random_row, results

from skyrm_jax.attention.gpu import GpuBackend
from skyrm_jax.attention.reference import ReferenceBackend
from skyrm_jax.errors import UserError


@pytest.mark.parametrize("block", [64, 32])
def test_several_tiles_to_a_block_equal_the_oracle(block: int) -> None:
    # fp32 has tiles of 16 tokens. Neither row fills its last block; the second has dead blocks.
    q, k, v, g, _ = inputs(1, 2, 150, 6, 2, 64)
    end = jnp.asarray(np.stack([random_row(np.random.default_rng(1), 150), np.repeat([70, 150], [70, 80])]), jnp.int32)
    case = q, k, v, g, end
    backend = GpuBackend(block, interpret=not ON_GPU)
    assert_close(results(backend, *case), results(ReferenceBackend(), *case), 1e-5, 1e-4, 1e-4, 1e-4)


def test_bf16_tiles_of_wide_heads_stay_near_the_oracle() -> None:
    # Heads of 256 have tiles of 32 tokens.
    case = inputs(2, 1, 100, 2, 1, 256)
    halves = (*(x.astype(jnp.bfloat16) for x in case[:4]), case[4])
    got, expected = results(GpuBackend(interpret=not ON_GPU), *halves), results(ReferenceBackend(), *case)
    assert_close(got, expected, 0.01, 0.02, 0.02, 0.01)


@pytest.mark.skipif(not ON_GPU, reason="needs a GPU: as plain JAX, rows as long as these take minutes")
@pytest.mark.parametrize(
    ("dtype", "limits"), [("float32", (1e-5, 1e-4, 1e-4, 1e-4)), ("bfloat16", (0.01, 0.02, 0.02, 0.01))]
)
@pytest.mark.parametrize(("H", "G", "E"), [(16, 8, 128), (9, 3, 64), (4, 1, 256)])
def test_long_rows_equal_the_oracle(H: int, G: int, E: int, dtype: str, limits: tuple[float, ...]) -> None:
    case = inputs(7, 2, 1300, H, G, E)
    got = results(GpuBackend(), *(x.astype(dtype) for x in case[:4]), case[4])
    assert_close(got, results(ReferenceBackend(), *case), *limits)


def test_dead_blocks_are_not_touched() -> None:
    q, k, v, g, _ = inputs(4, 1, 128, 2, 1, 64)
    end = jnp.concatenate([jnp.full(64, 64), jnp.full(64, 128)])[None].astype(jnp.int32)
    spoiled = [x.at[:, :64].set(jnp.nan) for x in (q, k, v, g)]
    for out in results(GpuBackend(32, interpret=not ON_GPU), *spoiled, end):
        assert bool(jnp.isnan(out[:, :64]).all()) and bool(jnp.isfinite(out[:, 64:]).all())


def test_what_the_kernels_cannot_honour_is_refused() -> None:
    x = jnp.zeros((1, 16, 1, 80))
    backend = GpuBackend()
    with pytest.raises(UserError, match=r"head_dim: .* not 80"):
        backend.attend(x, x, x, backend.prepare(jnp.arange(1, 17)[None]))
    with pytest.raises(UserError, match=r"block: .* not 48"):
        GpuBackend(48)
