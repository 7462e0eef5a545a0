"""The device mesh, and which rows of a batch are this process's."""

from collections.abc import Sequence

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from skyrm_jax.errors import UserError
from skyrm_jax.models.sharding import rows

AXES = ("data", "fsdp", "model")


def make_mesh(data: int = 1, fsdp: int = -1, model: int = 1, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A mesh over all devices (or `devices`); one size may be -1, whatever is left.

    Raises:
        UserError: the sizes do not multiply to the number of devices, or do not suit the slices that these are in.
    """
    devices = jax.devices() if devices is None else devices
    sizes = [data, fsdp, model]
    if sizes.count(-1) > 1 or any(s == 0 or s < -1 for s in sizes):
        raise UserError(f"mesh sizes must be positive, at most one -1; got data={data}, fsdp={fsdp}, model={model}")
    if -1 in sizes:
        sizes[sizes.index(-1)] = max(1, len(devices) // -int(np.prod(sizes)))
    if np.prod(sizes) != len(devices):
        raise UserError(
            f"mesh {dict(zip(AXES, sizes, strict=True))} needs {np.prod(sizes)} devices, but {len(devices)} are here"
        )
    automatic = (AxisType.Auto,) * 3
    slices = len({getattr(device, "slice_index", None) for device in devices})
    if slices == 1:
        return jax.make_mesh(tuple(sizes), AXES, axis_types=automatic, devices=devices)
    # Between slices is the data-centre network: only `data` may cross it, which sums gradients once a micro-batch.
    if sizes[0] % slices:
        raise UserError(f"mesh.data must be a multiple of the {slices} slices, or -1; it is {sizes[0]}")
    inner = (sizes[0] // slices, *sizes[1:])
    return Mesh(mesh_utils.create_hybrid_device_mesh(inner, (slices, 1, 1), devices), AXES, axis_types=automatic)


def row_shards(mesh: Mesh) -> int:
    """Over how many devices the rows of a micro-batch are spread."""
    return mesh.shape["data"] * mesh.shape["fsdp"]


def my_rows(mesh: Mesh, count: int) -> list[int]:
    """The rows, of `count` in a micro-batch, that this process's devices hold, ascending."""
    indices = NamedSharding(mesh, rows()).addressable_devices_indices_map((count,))
    mine: set[int] = set()
    for index in indices.values():
        assert index is not None
        mine.update(range(*index[0].indices(count)))
    return sorted(mine)


def to_device(mesh: Mesh, local: dict[str, np.ndarray]) -> dict[str, jax.Array]:
    """This process's rows of a micro-batch as global arrays, spread by row."""
    sharding = NamedSharding(mesh, rows())
    return {name: jax.make_array_from_process_local_data(sharding, array) for name, array in local.items()}


def replicated(mesh: Mesh) -> NamedSharding:
    """The sharding of what every device holds whole."""
    return NamedSharding(mesh, P())
