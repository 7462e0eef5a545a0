"""Every backend against the dense oracle, on random trees."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from skyrm_jax import attention
from skyrm_jax.attention.reference import visible
from skyrm_jax.errors import UserError


def random_end(rng: np.random.Generator, T: int) -> np.ndarray:
    """`end` of a row of random nested trees and pads."""
    end = np.arange(1, T + 1)

    def fill(start: int, stop: int, depth: int) -> None:
        at = start
        while at < stop:
            length = int(rng.integers(1, stop - at + 1))
            trunk = int(rng.integers(1, length + 1)) if depth < 3 else length
            end[at : at + trunk] = at + length
            fill(at + trunk, at + length, depth + 1)
            at += length

    fill(0, T - int(rng.integers(0, T // 4 + 1)), 0)
    return end.astype(np.int32)


def inputs(seed: int, B: int, T: int, H: int, G: int, E: int) -> tuple[jax.Array, ...]:
    rng = np.random.default_rng(seed)
    q, k, v, g = (jnp.asarray(rng.normal(size=(B, T, n, E)), jnp.float32) for n in (H, G, G, H))
    end = jnp.asarray(np.stack([random_end(rng, T) for _ in range(B)]))
    return q, k, v, g, end


def run(name: str, q: jax.Array, k: jax.Array, v: jax.Array, g: jax.Array, end: jax.Array) -> list[jax.Array]:
    backend = attention.backend(name)
    mask = backend.prepare(end)
    out, pull = jax.vjp(lambda q, k, v: backend.attend(q, k, v, mask), q, k, v)
    return [out, *pull(g)]


def gap(a: jax.Array, b: jax.Array) -> float:
    # A single token has no choice: its q and k gradients are zero up to rounding.
    return float(jnp.linalg.norm((a - b).astype(jnp.float32)) / max(1.0, jnp.linalg.norm(b.astype(jnp.float32))))


def test_visible_is_the_rule() -> None:
    rng = np.random.default_rng(0)
    end = random_end(rng, 40)
    seen = np.asarray(visible(jnp.asarray(end)[None]))[0]
    for q in range(40):
        for k in range(40):
            assert seen[q, k] == (k <= q < end[k])


@pytest.mark.parametrize("T", [1, 7, 256, 257, 600])
@pytest.mark.parametrize(("H", "G", "E"), [(4, 2, 16), (3, 3, 8), (9, 3, 64)])
def test_cpu_equals_the_oracle(T: int, H: int, G: int, E: int) -> None:
    case = inputs(T, 2, T, H, G, E)
    for mine, oracle in zip(run("cpu", *case), run("reference", *case), strict=True):
        assert gap(mine, oracle) < 1e-5


def test_cpu_bf16_stays_near_the_oracle() -> None:
    q, k, v, g, end = inputs(3, 2, 300, 4, 2, 32)
    low = [x.astype(jnp.bfloat16) for x in (q, k, v, g)]
    for mine, oracle in zip(run("cpu", *low, end), run("reference", q, k, v, g, end), strict=True):
        assert mine.dtype == jnp.bfloat16
        assert gap(mine, oracle) < 0.02


@pytest.mark.parametrize("name", sorted(attention.BACKENDS))
def test_no_token_reaches_outside_its_tree_forward_or_backward(name: str) -> None:
    q, k, v, g, end = inputs(5, 1, 300, 2, 1, 8)
    seen = np.asarray(visible(end))[0]
    at = 100
    changed = [x.at[:, at].add(10.0) for x in (k, v)]
    before, after = run(name, q, k, v, g, end), run(name, q, *changed, g, end)
    blind = ~seen[:, at]
    assert blind.any() and (~blind).any()
    np.testing.assert_array_equal(before[0][:, blind], after[0][:, blind])
    # Backward: the gradient of keys that query `at` cannot see does not depend on its cotangent.
    pulled = run(name, q, k, v, g.at[:, at].add(10.0), end)
    hidden = ~seen[at]
    assert hidden.any()
    for i in (2, 3):
        np.testing.assert_array_equal(before[i][:, hidden], pulled[i][:, hidden])


@pytest.mark.parametrize("name", sorted(attention.BACKENDS))
def test_a_row_of_pads_is_finite(name: str) -> None:
    q, k, v, g, _ = inputs(6, 1, 64, 2, 2, 8)
    for out in run(name, q, k, v, g, jnp.arange(1, 65)[None]):
        assert bool(jnp.isfinite(out).all())


def test_unknown_backend_is_named() -> None:
    with pytest.raises(UserError, match="'flash'"):
        attention.backend("flash")
