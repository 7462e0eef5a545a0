"""Running the stacked layers, and adding their gradients to sums that are there already.

Ordinary differentiation stacks the gradients of a micro-batch in a buffer of their own, to be added to the sums of those
before: one more fp32 copy of the model. Here the backward pass adds each layer's to the sums in place.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

Body = Callable[..., Array]
"""body(x, layer, *constants) -> x, of one layer."""


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def scan_onto(body: Body, x: Float[Array, "B T D"], layers: Any, sums: Any, constants: tuple[Any, ...]) -> Array:
    """`body` of each layer in turn, whose backward pass keeps nothing but each layer's input.

    `layers` and `sums` are like pytrees with the axis of layers first. What differentiation returns as the gradient by
    `layers` is `sums` plus that gradient; `constants` (mask, rotary table) have none.
    """
    return _forward(body, x, layers, sums, constants)[0]


def _forward(body: Body, x: Array, layers: Any, sums: Any, constants: tuple[Any, ...]) -> tuple[Array, Any]:
    out, inputs = jax.lax.scan(lambda x, layer: (body(x, layer, *constants), x), x, layers)
    return out, (inputs, layers, sums, constants)


def _backward(body: Body, saved: Any, dx: Array) -> tuple[Array, Any, None, None]:
    inputs, layers, sums, constants = saved

    def step(carry: tuple[Array, Any], layer: tuple[Array, Array, Any]) -> tuple[tuple[Array, Any], None]:
        dx, sums = carry
        i, x, parameters = layer
        _, pull = jax.vjp(lambda x, parameters: body(x, parameters, *constants), x, parameters)
        dx, gradients = pull(dx)
        return (dx, jax.tree.map(lambda total, more: total.at[i].add(more), sums, gradients)), None

    (dx, sums), _ = jax.lax.scan(step, (dx, sums), (jnp.arange(len(inputs)), inputs, layers), reverse=True)
    return dx, sums, None, None


scan_onto.defvjp(_forward, _backward)
