"""Which mesh axis each logical axis of a parameter or activation is laid out on. The only place that says so."""

from collections.abc import Mapping

from jax.sharding import PartitionSpec as P

# Rows of a micro-batch are spread over both data axes; `fsdp` also shards every weight, `model` splits heads and MLP.
ROW_AXES = ("data", "fsdp")

LOGICAL_TO_MESH: Mapping[str, str | tuple[str, ...] | None] = {
    "layers": None,
    # The embedding is split by its columns alone, so that looking up a row moves that row and not the table.
    "vocab": None,
    "embedding": ("fsdp", "model"),
    "hidden": "fsdp",
    "heads": "model",
    "mlp": "model",
    "head_dim": None,
    "reward": None,
    "norm": None,
}


def partition(logical_axes: tuple[str, ...]) -> P:
    """PartitionSpec of an array whose dimensions carry these logical names."""
    return P(*(LOGICAL_TO_MESH[name] for name in logical_axes))


def rows() -> P:
    """PartitionSpec of a micro-batch array: its first dimension is the row."""
    return P(ROW_AXES)
