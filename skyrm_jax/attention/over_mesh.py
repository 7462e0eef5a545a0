"""Attention on each device's own rows and heads."""

from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float

from skyrm_jax.models.sharding import LOGICAL_TO_MESH, ROW_AXES


def over_mesh(
    local: Callable[..., Array],
    q: Float[Array, "B T H E"],
    k: Float[Array, "B T G E"],
    v: Float[Array, "B T G E"],
    mask: Any,
) -> Float[Array, "B T H E"]:
    """`local(q, k, v, mask)` on every device of the current mesh, or directly where there is none.

    Rows are spread over `data` and `fsdp`, heads over `model`; every array of `mask` begins with the axis of rows. A
    kernel, or a loop over rows and heads, must run on the device's part: the compiler would gather what it partitions.
    """
    if jax.sharding.get_abstract_mesh().empty:
        return local(q, k, v, mask)
    heads = P(ROW_AXES, None, LOGICAL_TO_MESH["heads"], None)
    rows = jax.tree.map(lambda _: P(ROW_AXES), mask)
    return jax.shard_map(local, in_specs=(heads, heads, heads, rows), out_specs=heads, check_vma=False)(q, k, v, mask)
