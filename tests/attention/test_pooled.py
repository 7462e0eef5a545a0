"""Attention of the pooled tokens: what the oracle gives for them, at any number of tokens and in any layout of trees."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from trees import inputs, rows

from skyrm_jax.attention.pooled import attend_at
from skyrm_jax.attention.reference import ReferenceBackend

T, ORACLE = 72, ReferenceBackend()


def equals_the_oracle(end: jax.Array, index: np.ndarray, H: int = 4, G: int = 2) -> None:
    q, k, v, _, _ = inputs(0, len(end), T, H, G, 16)
    wanted = ORACLE.attend(q, k, v, ORACLE.prepare(end))
    at = jnp.asarray(index)[..., None, None]
    found = jax.jit(attend_at)(jnp.take_along_axis(q, at, 1), k, v, end, jnp.asarray(index))
    np.testing.assert_allclose(found, jnp.take_along_axis(wanted, at, 1), atol=1e-5)


@settings(max_examples=25)
@given(st.lists(rows(T), min_size=2, max_size=2), st.integers(0, 2**31))
def test_any_tokens_of_any_trees(ends: list[np.ndarray], seed: int) -> None:
    index = np.random.default_rng(seed).integers(0, T, (2, 7))
    equals_the_oracle(jnp.asarray(np.stack(ends)), index)


@pytest.mark.parametrize(("count", "heads"), [(1, (4, 4)), (64, (4, 1)), (128, (4, 2)), (70, (2, 2))])
def test_any_number_of_them(count: int, heads: tuple[int, int]) -> None:
    end = inputs(1, 2, T, 1, 1, 1)[-1]
    equals_the_oracle(end, np.random.default_rng(count).integers(0, T, (2, count)), *heads)


def test_bfloat16_comes_near() -> None:
    q, k, v, _, end = inputs(2, 1, T, 4, 2, 16)
    index = jnp.arange(T)[None]
    low = attend_at(*(x.astype(jnp.bfloat16) for x in (q, k, v)), end, index)
    assert low.dtype == jnp.bfloat16
    np.testing.assert_allclose(low.astype(jnp.float32), ORACLE.attend(q, k, v, ORACLE.prepare(end)), atol=0.05)
