"""The one place where a matrix product is written: which operands, which accumulator, which form going backward.

Operands are cast to the compute dtype and products accumulate in fp32, forward and backward. Without the custom
rule JAX would multiply the fp32 cotangent with a bf16 operand, which is a slow mixed product everywhere.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

Contraction = tuple[tuple[tuple[int, ...], tuple[int, ...]], tuple[tuple[int, ...], tuple[int, ...]]]


def _dot(a: Array, b: Array, contract: tuple[int, int], dtype: jnp.dtype) -> Array:
    # fp32 compute means fp32: the TPU's default would round the operands to bf16.
    precision = jax.lax.Precision.HIGHEST if dtype == jnp.float32 else None
    dimensions: Contraction = (((contract[0],), (contract[1],)), ((), ()))
    return jax.lax.dot_general(
        a.astype(dtype), b.astype(dtype), dimensions, precision=precision, preferred_element_type=jnp.float32
    )


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _matmul(x: Array, w: Array, dtype: jnp.dtype) -> Array:
    return _dot(x, w, (1, 0), dtype)


def _forward(x: Array, w: Array, dtype: jnp.dtype) -> tuple[Array, tuple[Array, Array]]:
    return _dot(x, w, (1, 0), dtype), (x, w)


def _backward(dtype: jnp.dtype, saved: tuple[Array, Array], g: Array) -> tuple[Array, Array]:
    x, w = saved
    dx = _dot(g, w, (1, 1), dtype)
    dw = _dot(x, g, (0, 0), dtype)
    return dx.astype(x.dtype), dw.astype(w.dtype)


_matmul.defvjp(_forward, _backward)


def matmul(
    x: Float[Array, "*leading inner"], w: Float[Array, "inner outer"], dtype: jnp.dtype
) -> Float[Array, "*leading outer"]:
    """x @ w with operands in `dtype` and an fp32 result."""
    flat = x.reshape(-1, x.shape[-1])
    return _matmul(flat, w, jnp.dtype(dtype)).reshape(*x.shape[:-1], w.shape[-1])
