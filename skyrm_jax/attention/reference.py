"""The oracle: dense tree attention in fp32, for tests and for small inputs."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


def visible(end: Int[Array, "B T"]) -> Bool[Array, "B T T"]:
    """[b, q, k]: may query q of row b see key k, i.e. k <= q < end[k]."""
    index = jnp.arange(end.shape[1])
    q, k = index[None, :, None], index[None, None, :]
    return (k <= q) & (q < end[:, None, :])


@dataclass(frozen=True)
class ReferenceBackend:
    """O(T^2) memory, every product in fp32 at the highest precision."""

    def prepare(self, end: Int[Array, "B T"]) -> Bool[Array, "B T T"]:
        return visible(end)

    def attend(
        self,
        q: Float[Array, "B T H E"],
        k: Float[Array, "B T G E"],
        v: Float[Array, "B T G E"],
        mask: Bool[Array, "B T T"],
    ) -> Float[Array, "B T H E"]:
        B, T, H, E = q.shape
        G = k.shape[2]
        high = jax.lax.Precision.HIGHEST
        grouped = q.astype(jnp.float32).reshape(B, T, G, H // G, E)
        scores = jnp.einsum("bqghe,bkge->bghqk", grouped, k.astype(jnp.float32), precision=high) / E**0.5
        # Every token sees itself, so no row of the mask is empty and the softmax is finite everywhere.
        weights = jax.nn.softmax(jnp.where(mask[:, None, None], scores, -jnp.inf), -1)
        out = jnp.einsum("bghqk,bkge->bqghe", weights, v.astype(jnp.float32), precision=high)
        return out.reshape(B, T, H, E).astype(q.dtype)
