"""The one place where a matrix product is written: which operands, which accumulator, which form going backward.

Operands are cast to the compute dtype and products accumulate in fp32, forward and backward. Without the custom
rule JAX would multiply the fp32 cotangent with a bf16 operand, which is a slow mixed product everywhere.

XLA multiplies bf16 natively on CPUs only if the left operand is contracted on its last axis; it converts the operands of
other products to fp32, which is two to four times slower. It cannot slice bf16 either. Both are got around here.
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
    dw = jax.lax.platform_dependent(x.astype(dtype), g.astype(dtype), cpu=_weights_on_cpu, default=_weights)
    return dx.astype(x.dtype), dw.astype(w.dtype)


_matmul.defvjp(_forward, _backward)


def _weights(x: Float[Array, "rows inner"], g: Float[Array, "rows outer"]) -> Float[Array, "inner outer"]:
    """x^T g."""
    return _dot(x, g, (0, 0), x.dtype)


def _weights_on_cpu(x: Float[Array, "rows inner"], g: Float[Array, "rows outer"]) -> Float[Array, "inner outer"]:
    if x.dtype != jnp.bfloat16:
        return _weights(x, g)
    # The first barrier keeps what computes x from being done in the transpose's order, which strides through memory; the
    # third axis and the second barrier keep XLA from folding the transpose back into the product.
    turned = jax.lax.optimization_barrier(jax.lax.optimization_barrier(as_bits(x)).T[None])
    return _dot(from_bits(turned)[0], g, (1, 0), x.dtype)


def as_bits(x: Array) -> Array:
    """A bf16 array as its bits, which XLA moves as they are on CPUs; it would convert bf16 to fp32 and back."""
    return jax.lax.bitcast_convert_type(x, jnp.uint16) if x.dtype == jnp.bfloat16 else x


def from_bits(x: Array) -> Array:
    """The inverse of `as_bits`: uint16 stands for the bits of bf16."""
    return jax.lax.bitcast_convert_type(x, jnp.bfloat16) if x.dtype == jnp.uint16 else x


def matmul(
    x: Float[Array, "*leading inner"], w: Float[Array, "inner outer"], dtype: jnp.dtype
) -> Float[Array, "*leading outer"]:
    """x @ w with operands in `dtype` and an fp32 result."""
    flat = x.reshape(-1, x.shape[-1])
    return _matmul(flat, w, jnp.dtype(dtype)).reshape(*x.shape[:-1], w.shape[-1])
