"""Tree attention in plain XLA: live blocks only, online softmax, memory linear in the row. Made for CPUs, runs anywhere.

Work goes one (row, kv head) at a time, through 2-D products of plain operands: XLA's batched products, and products
that contract the first axis of both operands, are several times slower on CPUs. So whatever a product needs transposed
is transposed once, up front, and kept block by block. The loops over live blocks have dynamic bounds, which JAX cannot
differentiate; the backward pass is written out, and recomputes the weights of a block from the saved log-sum-exp.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Bool, Float, Int

from skyrm_jax.attention.blocks import LiveBlocks, live_blocks
from skyrm_jax.attention.over_mesh import over_mesh
from skyrm_jax.models.linear import as_bits, from_bits, precision

_HIDDEN = -1e30
"""Score of a hidden pair. Finite, so that a query that sees nothing of a live block makes no NaN: what it adds before
its first visible key is scaled by exp(-1e30) = 0 afterwards, and the diagonal block, which comes last, shows it a key."""


@dataclass(frozen=True)
class CpuBackend:
    """Any head_dim, any row length.

    Args:
        block: tokens of a block; smaller ones skip more, larger ones make larger and faster products.
    """

    block: int = 256

    def prepare(self, end: Int[Array, "B T"]) -> LiveBlocks:
        return live_blocks(end, min(self.block, end.shape[1]))

    def attend(
        self, q: Float[Array, "B T H E"], k: Float[Array, "B T G E"], v: Float[Array, "B T G E"], mask: LiveBlocks
    ) -> Float[Array, "B T H E"]:
        return over_mesh(_attend, q, k, v, mask)


def _attend(q: Array, k: Array, v: Array, mask: LiveBlocks) -> Array:
    B, T, H, E = q.shape
    G = k.shape[2]
    n = mask.by_query.start.shape[1] - 1
    C = mask.end.shape[1] // n
    q, k, v = (jnp.pad(x, ((0, 0), (0, n * C - T), (0, 0), (0, 0))) for x in (q, k, v))
    # The N queries of a token that share a kv head stand together, as rows of one product.
    q = q.reshape(B * n, C, G, H // G, E).swapaxes(1, 2).reshape(B * n, G, C * (H // G), E)
    k, v = (x.reshape(B * n, C, G, E).swapaxes(1, 2) for x in (k, v))
    out = _attend_blocks(q, k, v, mask)
    out = out.reshape(B * n, G, C, H // G, E).swapaxes(1, 2).reshape(B, n * C, H, E)
    return out[:, :T]


@jax.custom_vjp
def _attend_blocks(
    q: Float[Array, "Bn G CN E"], k: Float[Array, "Bn G C E"], v: Float[Array, "Bn G C E"], mask: LiveBlocks
) -> Float[Array, "Bn G CN E"]:
    return _forward(q, k, v, mask)[0]


def _forward(q: Array, k: Array, v: Array, mask: LiveBlocks) -> tuple[Array, Array]:
    """The output, and the log-sum-exp of each query's scores: [B n, G, CN]."""
    (Bn, G, CN, E), dtype = q.shape, q.dtype
    start, minor = mask.by_query.start, mask.by_query.minor
    n = start.shape[1] - 1
    seen = _Visibility.of(mask.end, n, CN)
    queries, turned_keys, values = _Blocks.of(q), _Blocks.of(k, turned=True), _Blocks.of(v)

    def query_block(i: Array, results: tuple[Array, Array]) -> tuple[Array, Array]:
        row = i // n

        def key_block(p: Array, carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
            top, total, out = carry
            j = row * n + minor[row, p]
            scores = jnp.where(seen(i, j), _dot(queries[i], turned_keys[j]) * E**-0.5, _HIDDEN)
            new = jnp.maximum(top, scores.max(-1, keepdims=True))
            weights, scale = jnp.exp(scores - new), jnp.exp(top - new)
            total = total * scale + weights.sum(-1, keepdims=True)
            return new, total, out * scale + _dot(weights.astype(dtype), values[j])

        nothing = jnp.full((G, CN, 1), -jnp.inf), jnp.zeros((G, CN, 1)), jnp.zeros((G, CN, E))
        top, total, out = jax.lax.fori_loop(start[row, i % n], start[row, i % n + 1], key_block, nothing)
        outs, sums = results
        return outs.at[i].set(out / total), sums.at[i].set((top + jnp.log(total))[..., 0])

    out, lse = jax.lax.fori_loop(0, Bn, query_block, (jnp.zeros((Bn, G, CN, E)), jnp.zeros((Bn, G, CN))))
    return out.astype(dtype), lse


def _backward(saved: tuple[Any, ...], g: Array) -> tuple[Array, Array, Array]:
    """dq, dk and dv, in one walk over the live blocks."""
    q, k, v, mask, out, lse = saved
    (Bn, G, CN, E), C, dtype = q.shape, k.shape[2], q.dtype
    start, major, minor = mask.by_query.start, mask.by_query.major, mask.by_query.minor
    n = start.shape[1] - 1
    seen = _Visibility.of(mask.end, n, CN)
    delta = jnp.sum(out.astype(jnp.float32) * g.astype(jnp.float32), -1)
    turned_q, turned_g, turned_k, turned_v = (_Blocks.of(x, turned=True) for x in (q, g, k, v))
    queries, cotangents, keys = _Blocks.of(q), _Blocks.of(g), _Blocks.of(k)

    def row(b: Array, grads: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        def pair(p: Array, grads: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
            dq, dk, dv = grads
            i, j = b * n + major[b, p], b * n + minor[b, p]
            scores = jnp.where(seen(i, j), _dot(queries[i], turned_k[j]) * E**-0.5, _HIDDEN)
            weights = jnp.exp(scores - lse[i][..., None])
            d_scores = (weights * (_dot(cotangents[i], turned_v[j]) - delta[i][..., None]) * E**-0.5).astype(dtype)
            dq = dq.at[i].add(_dot(d_scores, keys[j]))
            # Transposed, [E, C], so that the weights are the right operand and need no turning.
            dk = dk.at[j].add(_dot(turned_q[i], d_scores))
            dv = dv.at[j].add(_dot(turned_g[i], weights.astype(dtype)))
            return dq, dk, dv

        return jax.lax.fori_loop(0, start[b, n], pair, grads)

    blank = jnp.zeros((Bn, G, CN, E)), jnp.zeros((Bn, G, E, C)), jnp.zeros((Bn, G, E, C))
    dq, dk, dv = jax.lax.fori_loop(0, Bn // n, row, blank)
    return dq.astype(dtype), dk.swapaxes(2, 3).astype(dtype), dv.swapaxes(2, 3).astype(dtype)


def _forward_rule(q: Array, k: Array, v: Array, mask: LiveBlocks) -> tuple[Array, tuple[Any, ...]]:
    out, lse = _forward(q, k, v, mask)
    out, lse = checkpoint_name(out, "attention_out"), checkpoint_name(lse, "attention_lse")
    return out, (q, k, v, mask, out, lse)


def _backward_rule(saved: tuple[Any, ...], g: Array) -> tuple[Array | None, ...]:
    return *_backward(saved, g), None


_attend_blocks.defvjp(_forward_rule, _backward_rule)


@dataclass(frozen=True)
class _Blocks:
    """Blocks to take one of, kept as their bits: see `linear.as_bits`."""

    bits: Array

    @classmethod
    def of(cls, blocks: Float[Array, "n G A E"], turned: bool = False) -> "_Blocks":
        """With `turned`, each block is transposed, in memory: the barrier keeps XLA from folding it into the products."""
        bits = as_bits(blocks)
        return cls(jax.lax.optimization_barrier(bits.swapaxes(2, 3) if turned else bits))

    def __getitem__(self, i: Array) -> Array:
        return from_bits(self.bits[i])


@dataclass(frozen=True)
class _Visibility:
    """Which keys of block j the queries of block i, N to a token, may see: [CN, C], for all kv heads alike."""

    end: Int[Array, "Bn C"]
    blocks: int
    heads: int

    @classmethod
    def of(cls, end: Int[Array, "B nC"], n: int, CN: int) -> "_Visibility":
        return cls(end.reshape(len(end) * n, -1), n, CN * n // end.shape[1])

    def __call__(self, i: Array, j: Array) -> Bool[Array, "CN C"]:
        C = self.end.shape[1]
        query, key = i % self.blocks * C + jnp.arange(C * self.heads) // self.heads, j % self.blocks * C + jnp.arange(C)
        return (key[None, :] <= query[:, None]) & (query[:, None] < self.end[j][None, :])


def _dot(a: Float[Array, "G M K"], b: Float[Array, "G K N"]) -> Float[Array, "G M N"]:
    return jnp.matmul(a, b, preferred_element_type=jnp.float32, precision=precision(a.dtype))
