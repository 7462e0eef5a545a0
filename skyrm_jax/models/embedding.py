"""The gradient of the embedding: rows of tokens added into a table of which every device has some columns."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from skyrm_jax.models.sharding import partition
from skyrm_jax.models.sharding import rows as by_row


def add_rows(table: Float[Array, "V D"], tokens: Int[Array, "B T"], rows: Float[Array, "B T D"]) -> Float[Array, "V D"]:
    """table[tokens] += rows, a token that occurs n times gets n rows; tokens and rows are spread by row of the micro-batch.

    Over `data`, the network between slices, the compiler would add into the whole table on every device, and sum those.
    Within a slice it does as is done here, with a better layout.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.shape["data"] == 1:
        return table.at[tokens].add(rows)

    def add(table: Array, tokens: Array, rows: Array) -> Array:
        # Every device gets its columns of all rows of its `fsdp` group.
        tokens = jax.lax.all_gather(tokens, "fsdp", axis=0, tiled=True)
        rows = jax.lax.all_to_all(rows, "fsdp", split_axis=2, concat_axis=0, tiled=True)
        mine = table.shape[1]
        rows = jax.lax.dynamic_slice_in_dim(rows, jax.lax.axis_index("model") * mine, mine, axis=2)
        return table + jax.lax.psum(jnp.zeros_like(table).at[tokens].add(rows), "data")

    columns = partition(("vocab", "embedding"))
    return jax.shard_map(add, in_specs=(columns, by_row(), by_row()), out_specs=columns, check_vma=False)(
        table, tokens, rows
    )
