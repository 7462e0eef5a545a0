"""Tree attention on TPUs: Pallas kernels that fetch and compute live blocks only.

The grid has a step for each live pair of blocks, taken from a list in scalar memory. A step serves all query heads of
its kv heads, so that keys and values are fetched once for all of them and the fixed cost of a step is spread over
enough work. The backward pass walks the pairs twice, by query block for dq and by key block for dk and dv, so that
each gradient is summed in fast memory and written once. Softmax and sums are in fp32; products take the type of q.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.experimental import pallas as pl
from jaxtyping import Array, Float, Int

from skyrm_jax.attention.blocks import LiveBlocks, live_blocks
from skyrm_jax.attention.over_mesh import over_mesh
from skyrm_jax.attention.tpu_walk import LANES, Ref, Step, Walk
from skyrm_jax.errors import UserError

HEAD_DIMS = (64, 128, 256)

_HIDDEN = -1e30
"""Added to the score of a hidden pair. Finite, so that a query that sees nothing of a live block makes no NaN: what it
adds before its first visible key is scaled by exp(-1e30) = 0 afterwards, and the diagonal block, which comes last in
by_query, shows it a key."""


@dataclass(frozen=True)
class TpuBackend:
    """head_dim 64, 128 or 256, rows of any length.

    Args:
        block: tokens of a block, a multiple of 128. Smaller blocks skip more; larger ones make larger products.
        interpret: run the kernels as plain JAX on any platform, with blocks of less than 128 too: slow, for tests.
    """

    block: int = 256
    interpret: bool = False

    def __post_init__(self) -> None:
        if self.block % LANES and not self.interpret:
            raise UserError(f"block: {self.block} is not a multiple of {LANES}; set one that is, such as 256")

    def prepare(self, end: Int[Array, "B T"]) -> LiveBlocks:
        return live_blocks(end, min(self.block, -(-end.shape[1] // LANES) * LANES))

    def attend(
        self, q: Float[Array, "B T H E"], k: Float[Array, "B T G E"], v: Float[Array, "B T G E"], mask: LiveBlocks
    ) -> Float[Array, "B T H E"]:
        """Attention as the contract has it.

        Raises:
            UserError: the kernels are not made for this head_dim, or the lists of pairs exceed scalar memory.
        """
        if q.shape[-1] not in HEAD_DIMS:
            raise UserError(
                f"head_dim: {q.shape[-1]} is none of {HEAD_DIMS}, which the tpu attention takes; "
                "set model.attention to cpu, which takes any"
            )
        return over_mesh(partial(_attend, self.interpret), q, k, v, mask)


def _attend(interpret: bool, q: Array, k: Array, v: Array, mask: LiveBlocks) -> Array:
    B, T, H, E = q.shape
    G, padded = k.shape[2], mask.end.shape[1]
    # A block of tokens must be the last dimension but one.
    q, k, v = (jnp.pad(x, ((0, 0), (0, padded - T), (0, 0), (0, 0))).swapaxes(1, 2) for x in (q, k, v))
    out = _attend_heads(interpret, q.reshape(B, G, H // G, padded, E), k, v, mask)
    return out.reshape(B, H, padded, E)[:, :, :T].swapaxes(1, 2)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attend_heads(
    interpret: bool,
    q: Float[Array, "B G N T E"],
    k: Float[Array, "B G T E"],
    v: Float[Array, "B G T E"],
    mask: LiveBlocks,
) -> Float[Array, "B G N T E"]:
    return _forward(interpret, q, k, v, mask)[0]


def _forward_rule(interpret: bool, q: Array, k: Array, v: Array, mask: LiveBlocks) -> tuple[Array, tuple[Any, ...]]:
    out, lse = _forward(interpret, q, k, v, mask)
    out, lse = checkpoint_name(out, "attention_out"), checkpoint_name(lse, "attention_lse")
    return out, (q, k, v, mask, out, lse)


def _forward(interpret: bool, q: Array, k: Array, v: Array, mask: LiveBlocks) -> tuple[Array, Array]:
    """The output, and the log-sum-exp of each query's scores: "B G n 1 M", the queries of a block in one line."""
    walk = Walk.over(q, mask.by_query, True, interpret)
    lse = jax.ShapeDtypeStruct((*k.shape[:2], walk.n, 1, walk.M), jnp.float32)
    return walk.run(
        _output,
        [(q, walk.queries()), (k, walk.keys()), (v, walk.keys()), (mask.end[:, None], walk.ends())],
        [(q, walk.queries()), (lse, walk.per_query())],
        [(walk.S, walk.M, LANES), (walk.S, walk.M, LANES), (walk.S, walk.M, walk.E)],
    )


def _backward_rule(interpret: bool, saved: tuple[Any, ...], g: Array) -> tuple[Array | None, ...]:
    q, k, v, mask, out, lse = saved
    by_query = Walk.over(q, mask.by_query, True, interpret)
    by_key = Walk.over(q, mask.by_key, False, interpret)
    delta = jnp.sum(out.astype(jnp.float32) * g.astype(jnp.float32), -1)
    delta = delta.reshape(*q.shape[:3], by_query.n, by_query.C).swapaxes(2, 3).reshape(lse.shape)

    def inputs(walk: Walk) -> list[tuple[Array, pl.BlockSpec]]:
        of_queries, of_keys, numbers = walk.queries(), walk.keys(), walk.per_query()
        ends = (mask.end[:, None], walk.ends())
        return [(q, of_queries), (k, of_keys), (v, of_keys), ends, (g, of_queries), (lse, numbers), (delta, numbers)]

    of_query, of_key = (by_query.S, by_query.M), (by_key.S, by_key.C, by_key.E)
    (dq,) = by_query.run(
        _dq,
        inputs(by_query),
        [(q, by_query.queries())],
        [(*of_query, LANES), (*of_query, LANES), (*of_query, by_query.E)],
    )
    dk, dv = by_key.run(_dk_dv, inputs(by_key), [(k, by_key.keys()), (v, by_key.keys())], [of_key, of_key])
    return dq, dk, dv, None


_attend_heads.defvjp(_forward_rule, _backward_rule)


def _output(
    walk: Walk,
    step: Step,
    q: Float[Ref, "S N C E"],
    k: Float[Ref, "S C E"],
    v: Float[Ref, "S C E"],
    end: Int[Ref, "1 C"],
    out: Float[Ref, "S N C E"],
    lse: Float[Ref, "S 1 M"],
    top: Float[Ref, "S M lanes"],
    total: Float[Ref, "S M lanes"],
    summed: Float[Ref, "S M E"],
) -> None:
    """Online softmax over the key blocks of a query block; M is N * C, head by head."""

    @pl.when(step.first)
    def _() -> None:
        top[...] = jnp.full_like(top, _HIDDEN)
        total[...] = jnp.zeros_like(total)
        summed[...] = jnp.zeros_like(summed)

    @pl.when(step.live)
    def _() -> None:
        hidden = _hidden(walk, step, end)
        for s in range(walk.S):
            scores = _scores(walk, q[s], k[s], hidden)
            old = top[s]
            new = jnp.maximum(old, scores.max(-1, keepdims=True))
            weights, decay = jnp.exp(scores - _wide(new, walk.C)), jnp.exp(old - new)
            top[s] = new
            total[s] = total[s] * decay + weights.sum(-1, keepdims=True)
            summed[s] = summed[s] * _wide(decay, walk.E) + _dot(weights.astype(v.dtype), v[s])

    @pl.when(step.last)
    def _() -> None:
        for s in range(walk.S):
            out[s] = (summed[s] / _wide(total[s], walk.E)).reshape(out.shape[1:]).astype(out.dtype)
            lse[s] = (top[s] + jnp.log(total[s])).T[:1]


def _dq(
    walk: Walk,
    step: Step,
    q: Float[Ref, "S N C E"],
    k: Float[Ref, "S C E"],
    v: Float[Ref, "S C E"],
    end: Int[Ref, "1 C"],
    g: Float[Ref, "S N C E"],
    lse: Float[Ref, "S 1 M"],
    delta: Float[Ref, "S 1 M"],
    dq: Float[Ref, "S N C E"],
    lse_column: Float[Ref, "S M lanes"],
    delta_column: Float[Ref, "S M lanes"],
    summed: Float[Ref, "S M E"],
) -> None:
    @pl.when(step.first)
    def _() -> None:
        summed[...] = jnp.zeros_like(summed)
        for s in range(walk.S):
            lse_column[s], delta_column[s] = _column(lse[s]), _column(delta[s])

    @pl.when(step.live)
    def _() -> None:
        hidden = _hidden(walk, step, end)
        for s in range(walk.S):
            weights = jnp.exp(_scores(walk, q[s], k[s], hidden) - _wide(lse_column[s], walk.C))
            d_weights = _dot(g[s].reshape(walk.M, walk.E), v[s], turned=True)
            d_scores = weights * (d_weights - _wide(delta_column[s], walk.C))
            summed[s] += _dot(d_scores.astype(k.dtype), k[s])

    @pl.when(step.last)
    def _() -> None:
        dq[...] = (summed[...] * walk.E**-0.5).reshape(dq.shape).astype(dq.dtype)


def _dk_dv(
    walk: Walk,
    step: Step,
    q: Float[Ref, "S N C E"],
    k: Float[Ref, "S C E"],
    v: Float[Ref, "S C E"],
    end: Int[Ref, "1 C"],
    g: Float[Ref, "S N C E"],
    lse: Float[Ref, "S 1 M"],
    delta: Float[Ref, "S 1 M"],
    dk: Float[Ref, "S C E"],
    dv: Float[Ref, "S C E"],
    summed_dk: Float[Ref, "S C E"],
    summed_dv: Float[Ref, "S C E"],
) -> None:
    """Keys go down and queries across: so the sums over queries, and lse and delta as they come, need no turning."""

    @pl.when(step.first)
    def _() -> None:
        summed_dk[...] = jnp.zeros_like(summed_dk)
        summed_dv[...] = jnp.zeros_like(summed_dv)

    @pl.when(step.live)
    def _() -> None:
        hidden = jnp.concatenate([_hidden(walk, step, end).T] * walk.N, 1)
        for s in range(walk.S):
            queries, cotangents = (x[s].reshape(walk.M, walk.E) for x in (q, g))
            scores = _dot(k[s], queries, turned=True) * walk.E**-0.5 + hidden
            weights = jnp.exp(scores - lse[s])
            summed_dv[s] += _dot(weights.astype(g.dtype), cotangents)
            d_scores = weights * (_dot(v[s], cotangents, turned=True) - delta[s])
            summed_dk[s] += _dot(d_scores.astype(q.dtype), queries)

    @pl.when(step.last)
    def _() -> None:
        dk[...] = (summed_dk[...] * walk.E**-0.5).astype(dk.dtype)
        dv[...] = summed_dv[...].astype(dv.dtype)


def _hidden(walk: Walk, step: Step, end: Int[Ref, "1 C"]) -> Float[Array, "C C"]:
    """What the mask adds to the scores of each query, down, and key, across; the same for all heads."""
    query = step.query * walk.C + jax.lax.broadcasted_iota(jnp.int32, (walk.C, walk.C), 0)
    key = step.key * walk.C + jax.lax.broadcasted_iota(jnp.int32, (walk.C, walk.C), 1)
    return jnp.where((key <= query) & (query < end[...]), 0.0, _HIDDEN)


def _scores(
    walk: Walk, q: Float[Array, "N C E"], k: Float[Array, "C E"], hidden: Float[Array, "C C"]
) -> Float[Array, "M C"]:
    scores = _dot(q.reshape(walk.M, walk.E), k, turned=True) * walk.E**-0.5
    return (scores.reshape(walk.N, walk.C, walk.C) + hidden).reshape(walk.M, walk.C)


def _dot(a: Float[Array, "A B"], b: Array, turned: bool = False) -> Float[Array, "A D"]:
    """a b, or a b^T where `turned`."""
    precision = jax.lax.Precision.HIGHEST if a.dtype == jnp.float32 else jax.lax.Precision.DEFAULT
    axes = ((1,), (1 if turned else 0,)), ((), ())
    return jax.lax.dot_general(a, b, axes, precision, jnp.float32)


def _wide(x: Float[Array, "M lanes"], width: int) -> Float[Array, "M width"]:
    """The number of each line, in as many columns as it is to meet."""
    return x[:, :width] if width <= LANES else jnp.concatenate([x] * (width // LANES), 1)


def _column(x: Float[Array, "1 M"]) -> Float[Array, "M lanes"]:
    return jnp.broadcast_to(x, (LANES, x.shape[1])).T
