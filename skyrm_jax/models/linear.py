"""The one place where a matrix product is written: which operands, which accumulator, which form going backward.

Operands are cast to the compute dtype and products accumulate in fp32, forward and backward. Without the custom
rule JAX would multiply the fp32 cotangent with a bf16 operand, which is a slow mixed product everywhere.

XLA multiplies bf16 natively on CPUs only if the left operand is contracted on its last axis; it converts the operands of
other products to fp32, which is two to four times slower. It cannot slice bf16 either. Both are got around here.
"""

import functools
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from skyrm_jax.models.gradients import sharded_product

Contraction = tuple[tuple[tuple[int, ...], tuple[int, ...]], tuple[tuple[int, ...], tuple[int, ...]]]


def precision(dtype: jnp.dtype) -> jax.lax.Precision | None:
    """Of a product of operands in `dtype`. fp32 means fp32: the TPU's default would round the operands to bf16."""
    return jax.lax.Precision.HIGHEST if dtype == jnp.float32 else None


def _dot(a: Array, b: Array, contract: tuple[int, int], dtype: jnp.dtype) -> Array:
    dimensions: Contraction = (((contract[0],), (contract[1],)), ((), ()))
    return jax.lax.dot_general(
        a.astype(dtype), b.astype(dtype), dimensions, precision=precision(dtype), preferred_element_type=jnp.float32
    )


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _matmul(x: Array, weights: tuple[Array, ...], dtype: jnp.dtype, axes: tuple[str, str]) -> tuple[Array, ...]:
    return tuple(_dot(x, w, (1, 0), dtype) for w in weights)


def _forward(x: Array, weights: tuple[Array, ...], dtype: jnp.dtype, axes: tuple[str, str]) -> tuple[Any, Any]:
    return _matmul(x, weights, dtype, axes), (x, weights)


def _backward(dtype: jnp.dtype, axes: tuple[str, str], saved: Any, gradients: tuple[Array, ...]) -> tuple[Any, Any]:
    x, weights = saved
    product = partial(jax.lax.platform_dependent, cpu=_weights_on_cpu, default=_weights)
    dx = functools.reduce(jnp.add, (_dot(g, w, (1, 1), dtype) for g, w in zip(gradients, weights, strict=True)))
    then, products = x.astype(dtype), []
    for i, g in enumerate(gradients):
        last = i + 1 == len(gradients)
        dw, then = sharded_product(product, then, g.astype(dtype), axes, dx if last else then)
        products.append(dw)
    return then.astype(x.dtype), tuple(dw.astype(w.dtype) for dw, w in zip(products, weights, strict=True))


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
    x: Float[Array, "rows inner"],
    weights: tuple[Float[Array, "inner outer"], ...],
    dtype: jnp.dtype,
    axes: tuple[str, str],
) -> tuple[Float[Array, "rows outer"], ...]:
    """x @ w of each weight, with operands in `dtype` and fp32 results; `axes` are the logical axes of the weights."""
    return _matmul(x, weights, jnp.dtype(dtype), axes)
