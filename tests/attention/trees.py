"""Rows of random trees, and what a backend makes of them: shared by the tests of attention."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

Row = NDArray[np.int32]

ON_GPU = jax.default_backend() == "gpu"
"""Whether the gpu kernels can run as what they are."""


def _row(draw: Callable[[int, int], int], T: int) -> Row:
    end = np.arange(1, T + 1, dtype=np.int32)

    def fill(start: int, stop: int, depth: int) -> None:
        at = start
        while at < stop:
            length = draw(1, stop - at)
            trunk = draw(1, length) if depth < 3 else length
            end[at : at + trunk] = at + length
            fill(at + trunk, at + length, depth + 1)
            at += length

    fill(0, T - draw(0, T // 3), 0)
    return end


@st.composite
def rows(draw: st.DrawFn, T: int) -> Row:
    """`end` of a row of T tokens: trees of up to four levels, responses of any length from one token, and pads."""
    return _row(lambda low, high: draw(st.integers(low, high)), T)


def random_row(rng: np.random.Generator, T: int) -> Row:
    """As `rows`, from a generator."""
    return _row(lambda low, high: int(rng.integers(low, high + 1)), T)


def inputs(seed: int, B: int, T: int, H: int, G: int, E: int) -> tuple[jax.Array, ...]:
    """q, k, v, the output's cotangent, and `end` of random rows."""
    rng = np.random.default_rng(seed)
    q, k, v, g = (jnp.asarray(rng.normal(size=(B, T, n, E)), jnp.float32) for n in (H, G, G, H))
    return q, k, v, g, jnp.asarray(np.stack([random_row(rng, T) for _ in range(B)]))


@partial(jax.jit, static_argnums=0)
def results(backend: Any, q: jax.Array, k: jax.Array, v: jax.Array, g: jax.Array, end: jax.Array) -> list[jax.Array]:
    """The output, dq, dk and dv."""
    mask = backend.prepare(end)
    out, pull = jax.vjp(lambda q, k, v: backend.attend(q, k, v, mask), q, k, v)
    return [out, *pull(g)]


def assert_close(got: list[Any], expected: list[Any], *limits: float) -> None:
    """Norm of the difference over norm, for the output, dq, dk and dv.

    A row in which every query sees itself only has no dq and dk but rounding: below a norm of 1 the gap is absolute.
    """
    for a, b, limit in zip(got, expected, limits, strict=True):
        assert a.shape == b.shape
        gap = np.linalg.norm(np.asarray(a, np.float64) - np.asarray(b, np.float64))
        assert gap / max(1.0, np.linalg.norm(np.asarray(b, np.float64))) < limit
