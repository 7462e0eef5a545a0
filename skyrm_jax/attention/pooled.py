"""Attention of the pooled tokens alone over all keys of their rows: dense, as so few queries cost next to nothing."""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from skyrm_jax.attention.over_mesh import over_mesh
from skyrm_jax.models.linear import precision

_QUERIES = 64
"""Of a row at a time, which bounds the memory that scores take."""

_HIDDEN = -1e30
"""Score of a hidden pair; finite, so that a slot without a token makes no NaN."""


def attend_at(
    q: Float[Array, "B S H E"],
    k: Float[Array, "B T G E"],
    v: Float[Array, "B T G E"],
    end: Int[Array, "B T"],
    index: Int[Array, "B S"],
) -> Float[Array, "B S H E"]:
    """What a backend's `attend` gives for the tokens `index` of each row; q and k are already rotated."""
    return over_mesh(_attend, q, k, v, (end, index))


def _attend(q: Array, k: Array, v: Array, mask: tuple[Array, Array]) -> Array:
    end, index = mask
    (B, S, H, E), G, dtype = q.shape, k.shape[2], q.dtype
    product = partial(jnp.einsum, precision=precision(dtype), preferred_element_type=jnp.float32)
    key = jnp.arange(k.shape[1])

    def some(part: tuple[Array, Array]) -> Array:
        q, query = part[0], part[1][..., None]
        seen = (key <= query) & (query < end[:, None])
        scores = product("bsgne,btge->bgnst", q, k)
        scores = jnp.where(seen[:, None, None], scores * E**-0.5, _HIDDEN)
        weights = jnp.exp(scores - scores.max(-1, keepdims=True))
        out = product("bgnst,btge->bgnse", weights.astype(dtype), v)
        return jnp.einsum("bgnse->bsgne", out / weights.sum(-1, keepdims=True)).astype(dtype)

    at_once = _QUERIES if S % _QUERIES == 0 else S
    parts = q.reshape(B, -1, at_once, G, H // G, E).swapaxes(0, 1), index.reshape(B, -1, at_once).swapaxes(0, 1)
    return jax.lax.map(some, parts).swapaxes(0, 1).reshape(B, S, H, E)
