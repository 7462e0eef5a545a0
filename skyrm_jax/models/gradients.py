"""Gradients of sharded weights: each device's own product, then a reduce-scatter onto the shards of the weight.

Left to itself the TPU compiler sums the whole gradient onto every device and then cuts out the shard, which moves twice
as much and holds all of it. Given one reduce-scatter over a whole axis it does the same, but not given two: one over
groups of devices as far apart as a row of the torus is long, one within such a row.
"""

import math
from collections.abc import Callable

import jax
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float

from skyrm_jax.models.sharding import ROW_AXES, partition


def sharded_product(
    local: Callable[[Array, Array], Array],
    x: Float[Array, "rows inner"],
    g: Float[Array, "rows outer"],
    axes: tuple[str, str],
    then: Float[Array, "rows inner"],
) -> tuple[Float[Array, "inner outer"], Float[Array, "rows inner"]]:
    """x^T g with the sharding of a weight of these logical axes, and `then` as it is but not before that.

    `local` is the product on one device. What is computed from `then` waits for the sum; else the compiler first makes
    the products of several weights, each whole and in fp32, and sums them later.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        return local(x, g), then
    spec = partition(axes)
    inner, outer = (None if axis in ROW_AXES else axis for axis in spec)
    turned = spec[1] in ROW_AXES  # TPUs scatter rows well, but not columns

    def product(x: Array, g: Array, then: Array) -> tuple[Array, Array]:
        total = local(g, x) if turned else local(x, g)
        # Scattered first: what is summed over the other axis, which may be the network between slices, is a shard.
        for axis in ROW_AXES:
            if axis in spec:
                total = _reduce_scatter(total, axis, mesh.shape[axis])
        for axis in ROW_AXES:
            if axis not in spec and mesh.shape[axis] > 1:
                total = jax.lax.psum(total, axis)
        # Compilers drop optimization barriers before they schedule, but may not fold 0 * y.
        after = then + (0 * total[0, 0]).astype(then.dtype)
        return total.T if turned else total, after

    rows = P(ROW_AXES, inner)
    return jax.shard_map(product, in_specs=(rows, P(ROW_AXES, outer), rows), out_specs=(spec, rows), check_vma=False)(
        x, g, then
    )


def _reduce_scatter(total: Array, axis: str, size: int) -> Array:
    """Sum over `axis`, of which device i gets the i-th part of the rows, in two stages where `size` has two factors."""
    row = _nearest_root(size)
    columns = [[i * row + j for i in range(size // row)] for j in range(row)]
    rows = [[i * row + j for j in range(row)] for i in range(size // row)]
    for groups in (columns, rows):
        if len(groups[0]) > 1:
            # An axis of its own to scatter, always the slowest one: the compiler may lay out the others as it likes.
            total = total.reshape(len(groups[0]), -1, total.shape[-1])
            total = jax.lax.psum_scatter(total, axis, axis_index_groups=groups)
    return total


def _nearest_root(n: int) -> int:
    """The largest divisor of n that is not above its square root."""
    return next(d for d in range(math.isqrt(n), 0, -1) if n % d == 0)
