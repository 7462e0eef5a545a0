"""Tree attention in plain XLA: query blocks, causal key ranges, never O(T^2) memory.

Work goes one (row, kv head) at a time through 2-D products, since XLA's batched products are several times slower on
CPUs than its plain ones. A query block sees keys up to its own end only, and is recomputed in the backward pass.
"""

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, Int

from skyrm_jax.models.sharding import LOGICAL_TO_MESH, ROW_AXES


@dataclass(frozen=True)
class CpuBackend:
    """Runs on every platform; made for CPUs."""

    block: int = 256

    def prepare(self, end: Int[Array, "B T"]) -> Int[Array, "B T"]:
        return end

    def attend(
        self,
        q: Float[Array, "B T H E"],
        k: Float[Array, "B T G E"],
        v: Float[Array, "B T G E"],
        mask: Int[Array, "B T"],
    ) -> Float[Array, "B T H E"]:
        local = partial(_attend_local, block=self.block)
        if jax.sharding.get_abstract_mesh().empty:
            return local(q, k, v, mask)
        # The loop over rows and heads must run on each device's own part, not be partitioned by the compiler.
        heads = P(ROW_AXES, None, LOGICAL_TO_MESH["heads"], None)
        return jax.shard_map(
            local, in_specs=(heads, heads, heads, P(ROW_AXES, None)), out_specs=heads, check_vma=False
        )(q, k, v, mask)


def _attend_local(q: Array, k: Array, v: Array, end: Array, block: int) -> Array:
    B, T, H, E = q.shape
    G = k.shape[2]
    # [B*G, T, heads of the group, E]: the queries that share one kv head.
    grouped = q.reshape(B, T, G, H // G, E).transpose(0, 2, 1, 3, 4).reshape(B * G, T, H // G, E)
    keys = k.transpose(0, 2, 1, 3).reshape(B * G, T, E)
    values = v.transpose(0, 2, 1, 3).reshape(B * G, T, E)
    ends = jnp.repeat(end, G, axis=0)
    out = jax.lax.map(lambda one: _attend_head(one[0], one[1], one[2], one[3], block), (grouped, keys, values, ends))
    return out.reshape(B, G, T, H // G, E).transpose(0, 2, 1, 3, 4).reshape(B, T, H, E)


def _attend_head(
    q: Float[Array, "T N E"], k: Float[Array, "T E"], v: Float[Array, "T E"], end: Int[Array, "T"], block: int
) -> Float[Array, "T N E"]:
    parts = []
    for start in range(0, q.shape[0], block):
        stop = min(start + block, q.shape[0])
        part = jax.checkpoint(partial(_attend_block, start=start))
        parts.append(part(q[start:stop], k[:stop], v[:stop], end[:stop]))
    return jnp.concatenate(parts, 0)


def _attend_block(q: Array, k: Array, v: Array, end: Array, start: int) -> Array:
    C, N, E = q.shape
    S = k.shape[0]
    precision = jax.lax.Precision.HIGHEST if q.dtype == jnp.float32 else None
    dot = partial(jnp.dot, preferred_element_type=jnp.float32, precision=precision)
    scores = dot(q.reshape(C * N, E), k.T).reshape(C, N, S) * E**-0.5
    query, key = start + jnp.arange(C), jnp.arange(S)
    seen = (key[None, :] <= query[:, None]) & (query[:, None] < end[None, :])
    scores = jnp.where(seen[:, None, :], scores, -jnp.inf)
    weights = jnp.exp(scores - jax.lax.stop_gradient(scores.max(-1, keepdims=True)))
    total = weights.sum(-1, keepdims=True)
    out = dot(weights.astype(v.dtype).reshape(C * N, S), v).reshape(C, N, E)
    return (out / total).astype(q.dtype)
