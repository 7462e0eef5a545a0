"""Tree attention on NVIDIA GPUs: Pallas kernels that read and compute live blocks only.

One program holds one block of one row and head and walks, tile by tile, the compacted list of the blocks that are live
with it, so the cost is what the row's trees hold. Softmax and sums are in fp32; products take the type of q, k and v.

The kernels take Pallas' Triton route. The alternative, Mosaic GPU, compiles for Hopper and newer only, with the copies,
barriers and warp roles of each generation written by hand; Triton compiles one kernel for every GPU since Ampere. JAX
deprecates the route from 0.11 on and still compiles it; the kernels must move before it is removed.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from math import e, log2
from typing import Any

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton
from jaxtyping import Array, Bool, Float, Int

from skyrm_jax.attention.blocks import LiveBlocks, PairList, live_blocks
from skyrm_jax.attention.over_mesh import over_mesh
from skyrm_jax.errors import UserError

HEAD_DIMS = (64, 128, 256)
"""The sides of Triton's tensors are powers of two; these are the ones that models use."""

Ref = Any
"""A kernel's view of an array in the GPU's memory; annotations give its shape."""

_LOWEST = -1e30
"""Where a query's running maximum starts. Finite, so that a block hidden from a query makes no inf - inf."""


@dataclass(frozen=True)
class GpuBackend:
    """head_dim 64, 128 or 256, rows of any length.

    Args:
        block: tokens of a block, 64: larger ones skip less. 16 and 32 are for tests.
        interpret: run the kernels as plain JAX on any platform: slow, for tests.

    Raises:
        UserError: `block` is none of these.
    """

    block: int = 64
    interpret: bool = False

    def __post_init__(self) -> None:
        if self.block not in (16, 32, 64):
            raise UserError(f"block: the gpu attention backend takes 16, 32 or 64 tokens, not {self.block}")

    def prepare(self, end: Int[Array, "B T"]) -> LiveBlocks:
        return live_blocks(end, self.block)

    def attend(
        self, q: Float[Array, "B T H E"], k: Float[Array, "B T G E"], v: Float[Array, "B T G E"], mask: LiveBlocks
    ) -> Float[Array, "B T H E"]:
        """Attention as the contract has it.

        Raises:
            UserError: the kernels are not made for this head_dim.
        """
        if q.shape[-1] not in HEAD_DIMS:
            raise UserError(
                f"head_dim: the gpu attention backend takes {', '.join(map(str, HEAD_DIMS))}, not {q.shape[-1]}; "
                "choose the attention backend cpu, which takes any head_dim and runs on GPUs too"
            )
        return over_mesh(partial(_attend, self), q, k, v, mask)


def _attend(backend: GpuBackend, q: Array, k: Array, v: Array, mask: LiveBlocks) -> Array:
    T = q.shape[1]
    pad = mask.end.shape[1] - T
    q, k, v = (jnp.pad(x, ((0, 0), (0, pad), (0, 0), (0, 0))) for x in (q, k, v))
    return _attend_blocks(backend, q, k, v, mask)[:, :T]


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attend_blocks(
    backend: GpuBackend,
    q: Float[Array, "B T H E"],
    k: Float[Array, "B T G E"],
    v: Float[Array, "B T G E"],
    mask: LiveBlocks,
) -> Float[Array, "B T H E"]:
    return _forward(backend, q, k, v, mask)[0]


def _forward_rule(backend: GpuBackend, q: Array, k: Array, v: Array, mask: LiveBlocks) -> tuple[Array, tuple[Any, ...]]:
    o, lse = _forward(backend, q, k, v, mask)
    o, lse = checkpoint_name(o, "attention_out"), checkpoint_name(lse, "attention_lse")
    return o, (q, k, v, mask, o, lse)


def _backward_rule(backend: GpuBackend, saved: tuple[Any, ...], do: Array) -> tuple[Array, Array, Array, None]:
    q, k, v, mask, o, lse = saved
    delta = jnp.sum(o.astype(jnp.float32) * do.astype(jnp.float32), -1).swapaxes(1, 2)
    dq = _backward_q(backend, q, k, v, mask, do, lse, delta)
    dk, dv = _backward_kv(backend, q, k, v, mask, do, lse, delta)
    return dq, dk, dv, None


_attend_blocks.defvjp(_forward_rule, _backward_rule)


def _forward(
    backend: GpuBackend, q: Float[Array, "B T H E"], k: Array, v: Array, mask: LiveBlocks
) -> tuple[Float[Array, "B T H E"], Float[Array, "B H T"]]:
    """The output and, in base 2, the log-sum-exp of every query's scores."""
    B, T, H, _ = q.shape
    at = _Call(backend, q, k)
    return at(
        _forward_kernel,
        grid=(at.n, H, B),
        in_specs=[at.block, at.group_keys, at.group_keys, *at.lists(mask.by_query)],
        out_specs=[at.block, at.block_scalars],
        out_shape=[jax.ShapeDtypeStruct(q.shape, q.dtype), jax.ShapeDtypeStruct((B, H, T), jnp.float32)],
    )(q, k, v, mask.end, mask.by_query.start, mask.by_query.minor)


def _forward_kernel(
    q_ref: Ref,  # C E
    k_ref: Ref,  # T E
    v_ref: Ref,  # T E
    end_ref: Ref,  # T
    start_ref: Ref,  # n+1
    minor_ref: Ref,  # P
    o_ref: Ref,  # C E
    lse_ref: Ref,  # C
    *,
    D: int,
) -> None:
    i, (C, E) = pl.program_id(0), q_ref.shape
    q, queries = q_ref[...], _tokens(i, C)
    walk = _Walk(i, C, D, start_ref, minor_ref)

    def key_tile(step: Array, carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        o, top, total = carry
        j = walk.tile(step)
        here = pl.ds(j * D, D)
        seen = _sees(queries[:, None], _tokens(j, D)[None, :], end_ref[here][None, :])
        scores = jnp.where(seen, _dot(q, k_ref[here, :].T) * _scale(E), -jnp.inf)
        new = jnp.maximum(top, scores.max(1))
        weights, fade = jnp.exp2(scores - new[:, None]), jnp.exp2(top - new)
        o = o * fade[:, None] + _dot(weights.astype(q.dtype), v_ref[here, :])
        return o, new, total * fade + weights.sum(1)

    nothing = jnp.zeros((C, E), jnp.float32), jnp.full((C,), _LOWEST, jnp.float32), jnp.zeros((C,), jnp.float32)
    o, top, total = jax.lax.fori_loop(walk.first, walk.last, key_tile, nothing)
    o_ref[...] = (o / total[:, None]).astype(o_ref.dtype)
    lse_ref[...] = top + jnp.log2(total)


def _backward_q(
    backend: GpuBackend, q: Array, k: Array, v: Array, mask: LiveBlocks, do: Array, lse: Array, delta: Array
) -> Float[Array, "B T H E"]:
    B, _, H, _ = q.shape
    at = _Call(backend, q, k)
    scalars = [at.block_scalars, at.block_scalars]
    return at(
        _backward_q_kernel,
        grid=(at.n, H, B),
        in_specs=[at.block, at.group_keys, at.group_keys, at.block, *scalars, *at.lists(mask.by_query)],
        out_specs=at.block,
        out_shape=jax.ShapeDtypeStruct(q.shape, q.dtype),
    )(q, k, v, do, lse, delta, mask.end, mask.by_query.start, mask.by_query.minor)


def _backward_q_kernel(
    q_ref: Ref,  # C E
    k_ref: Ref,  # T E
    v_ref: Ref,  # T E
    do_ref: Ref,  # C E
    lse_ref: Ref,  # C
    delta_ref: Ref,  # C
    end_ref: Ref,  # T
    start_ref: Ref,  # n+1
    minor_ref: Ref,  # P
    dq_ref: Ref,  # C E
    *,
    D: int,
) -> None:
    i, (C, E) = pl.program_id(0), q_ref.shape
    q, do, queries = q_ref[...], do_ref[...], _tokens(i, C)
    lse, delta = lse_ref[...][:, None], delta_ref[...][:, None]
    walk = _Walk(i, C, D, start_ref, minor_ref)

    def key_tile(step: Array, dq: Array) -> Array:
        j = walk.tile(step)
        here = pl.ds(j * D, D)
        k, v = k_ref[here, :], v_ref[here, :]
        seen = _sees(queries[:, None], _tokens(j, D)[None, :], end_ref[here][None, :])
        weights = jnp.exp2(jnp.where(seen, _dot(q, k.T) * _scale(E), -jnp.inf) - lse)
        d_scores = weights * (_dot(do, v.T) - delta)
        return dq + _dot(d_scores.astype(k.dtype), k)

    dq = jax.lax.fori_loop(walk.first, walk.last, key_tile, jnp.zeros((C, E), jnp.float32))
    dq_ref[...] = (dq * E**-0.5).astype(dq_ref.dtype)


def _backward_kv(
    backend: GpuBackend, q: Array, k: Array, v: Array, mask: LiveBlocks, do: Array, lse: Array, delta: Array
) -> tuple[Float[Array, "B T G E"], Float[Array, "B T G E"]]:
    B, _, G, _ = k.shape
    at = _Call(backend, q, k)
    queries, scalars = at.group_queries, at.group_scalars
    return at(
        _backward_kv_kernel,
        grid=(at.n, G, B),
        in_specs=[queries, at.block, at.block, queries, scalars, scalars, *at.lists(mask.by_key)],
        out_specs=[at.block, at.block],
        out_shape=[jax.ShapeDtypeStruct(k.shape, k.dtype), jax.ShapeDtypeStruct(v.shape, v.dtype)],
    )(q, k, v, do, lse, delta, mask.end, mask.by_key.start, mask.by_key.minor)


def _backward_kv_kernel(
    q_ref: Ref,  # T N E
    k_ref: Ref,  # C E
    v_ref: Ref,  # C E
    do_ref: Ref,  # T N E
    lse_ref: Ref,  # N T
    delta_ref: Ref,  # N T
    end_ref: Ref,  # T
    start_ref: Ref,  # n+1
    minor_ref: Ref,  # P
    dk_ref: Ref,  # C E
    dv_ref: Ref,  # C E
    *,
    D: int,
) -> None:
    """Scores are keys by queries here: then no product needs a computed operand transposed."""
    j, (C, E), N = pl.program_id(0), k_ref.shape, q_ref.shape[1]
    k, v, keys, end = k_ref[...], v_ref[...], _tokens(j, C)[:, None], end_ref[pl.ds(j * C, C)][:, None]
    walk = _Walk(j, C, D, start_ref, minor_ref)

    def query_tile(step: Array, grads: tuple[Array, Array]) -> tuple[Array, Array]:
        dk, dv = grads
        # One loop over tiles and, inside them, heads: lists are short, and two loops would fill a pipeline per head.
        i, head = walk.tile(jax.lax.div(step, N)), jax.lax.rem(step, N)
        here = pl.ds(i * D, D)
        q, do = q_ref[here, head, :], do_ref[here, head, :]
        lse, delta = lse_ref[head, here][None, :], delta_ref[head, here][None, :]
        seen = _sees(_tokens(i, D)[None, :], keys, end)
        weights = jnp.exp2(jnp.where(seen, _dot(k, q.T) * _scale(E), -jnp.inf) - lse)
        # Before d_scores are made: the other order takes more registers than a thread has.
        dv = dv + _dot(weights.astype(do.dtype), do)
        d_scores = weights * (_dot(v, do.T) - delta)
        return dk + _dot(d_scores.astype(q.dtype), q), dv

    nothing = jnp.zeros((C, E), jnp.float32), jnp.zeros((C, E), jnp.float32)
    dk, dv = jax.lax.fori_loop(walk.first * N, walk.last * N, query_tile, nothing)
    dk_ref[...] = (dk * E**-0.5).astype(dk_ref.dtype)
    dv_ref[...] = dv.astype(dv_ref.dtype)


class _Call:
    """A kernel on a grid of blocks, heads and rows: what program (i, h, b) sees of each array, and how it runs."""

    def __init__(self, backend: GpuBackend, q: Array, k: Array) -> None:
        (_, T, H, E), G, C = q.shape, k.shape[2], backend.block
        N = H // G
        tile, self.warps = _tile_and_warps(E, q.dtype)
        self.T, self.n, self.tile, self.interpret = T, T // C, min(tile, C), backend.interpret
        self.block = pl.BlockSpec((None, C, None, E), lambda i, h, b: (b, i, h, 0))
        self.block_scalars = pl.BlockSpec((None, None, C), lambda i, h, b: (b, h, i))
        # Of a query head, the keys of its group; of a kv head, the queries of its group.
        self.group_keys = pl.BlockSpec((None, T, None, E), lambda i, h, b: (b, 0, jax.lax.div(h, N), 0))
        self.group_queries = pl.BlockSpec((None, T, N, E), lambda i, g, b: (b, 0, g, 0))
        self.group_scalars = pl.BlockSpec((None, N, T), lambda i, g, b: (b, g, 0))

    def lists(self, pairs: PairList) -> list[pl.BlockSpec]:
        """For a row's `end`, and for `start` and `minor` of its live pairs."""
        lengths = self.T, pairs.start.shape[1], pairs.minor.shape[1]
        return [pl.BlockSpec((None, length), lambda i, h, b: (b, 0)) for length in lengths]

    def __call__(self, kernel: Callable[..., None], **shapes: Any) -> Callable[..., Any]:
        return pl.pallas_call(
            partial(kernel, D=self.tile),
            interpret=self.interpret,
            compiler_params=triton.CompilerParams(num_warps=self.warps, num_stages=2),
            name=kernel.__name__.strip("_"),
            **shapes,
        )


def _tile_and_warps(E: int, dtype: jnp.dtype) -> tuple[int, int]:
    """Tokens of a tile, and warps of a program, with which tools/compile_gpu.py shows that nothing spills.

    On an H100 no other of those that were tried in bf16 (tiles of 32 and 128, blocks of 128, 4 and 8 warps, 1, 3 and 4 stages)
    was better by more than a tenth, but for dk and dv of heads of 64: 3 stages, by 16 %.
    """
    if dtype == jnp.float32:
        # No tensor core multiplies fp32 exactly; plain cores have it unrolled into registers, and larger tiles spill.
        return 16, 8
    return (64, 4) if E <= 128 else (32, 8)


class _Walk:
    """The tiles, of D tokens, that make up the blocks which are live with block i, of C."""

    def __init__(self, i: Array, C: int, D: int, start_ref: Ref, minor_ref: Ref) -> None:
        self._blocks, self._tiles = minor_ref, C // D
        self.first, self.last = start_ref[i] * self._tiles, start_ref[i + 1] * self._tiles

    def tile(self, step: Array) -> Array:
        return self._blocks[jax.lax.div(step, self._tiles)] * self._tiles + jax.lax.rem(step, self._tiles)


def _tokens(tile: Array, C: int) -> Int[Array, "C"]:
    return tile * C + jnp.arange(C)


def _sees(query: Int[Array, "..."], key: Int[Array, "..."], end: Int[Array, "..."]) -> Bool[Array, "..."]:
    return (key <= query) & (query < end)


def _scale(E: int) -> float:
    """Of scores whose exponentials are powers of 2, which a GPU computes in one instruction."""
    return E**-0.5 * log2(e)


def _dot(a: Float[Array, "M K"], b: Float[Array, "K N"]) -> Float[Array, "M N"]:
    # The highest precision keeps fp32 operands from being rounded to TF32; it changes nothing for bf16.
    return jnp.dot(a, b, preferred_element_type=jnp.float32, precision=jax.lax.Precision.HIGHEST)
