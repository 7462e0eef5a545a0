"""Devices that are not there: what the compiler needs to know of a slice, by its name."""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass

import jax
from jax.experimental import topologies

from skyrm_jax.chips import Chip, chip
from skyrm_jax.errors import UserError

H100 = """
platform_name: "CUDA"
device_description_str: "NVIDIA H100 80GB HBM3"
gpu_device_info {
  cuda_compute_capability { major: 9 feature_extension: ACCELERATED_FEATURES }
  core_count: 132
  fpus_per_core: 128
  clock_rate_ghz: 1.98
  device_memory_size: 84942979072
  memory_bandwidth: 3352320000000
  l2_cache_size: 52428800
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
  shared_memory_per_core: 233472
  shared_memory_per_block: 49152
  shared_memory_per_block_optin: 232448
  threads_per_warp: 32
  threads_per_block_limit: 1024
  threads_per_core_limit: 2048
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
}
"""
"""The SXM board, as XLA's GpuTargetConfigProto in text: what the compiler would have asked of the device."""


@dataclass(frozen=True)
class Topology:
    """Devices to compile for, `slices` slices of them, and their datasheet."""

    name: str
    slices: int
    chip: Chip
    devices: Sequence[jax.Device]


def topology(name: str, slices: int = 1) -> Topology:
    """The devices of `v5e:16x16`, `v5p:4x4x4`, `v6e:8x8`, `tpu7x:2x2x1` or `h100:8`, which need not exist.

    Raises:
        UserError: the name is no topology, or the compiler for it is not installed.
    """
    matched = re.fullmatch(r"(\w+):(\d+(?:x\d+)*)", name)
    if matched is None:
        raise UserError(f"{name!r} is no topology: say it as v5e:16x16, v5p:4x4x4 or h100:8")
    generation, shape = matched.groups()
    facts = chip(generation)
    # Nothing to ask of Google's metadata server, and several planners may run beside each other.
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    try:
        if generation == "h100":
            if slices > 1:
                raise UserError("--slices is for TPUs; name all GPUs as h100:N")
            found = topologies.get_topology_desc(platform="cuda", topology=f"1x1x{shape}", target_config=H100)
        else:
            options = {"wrap": (True,) * 3} if generation == "v5p" and _wraps(shape) else {}
            found = topologies.get_topology_desc(name, "tpu", num_slices=slices, **options)
    except (NotImplementedError, ValueError, RuntimeError, jax.errors.JaxRuntimeError) as error:
        extra = "cuda12" if generation == "h100" else "tpu"
        raise UserError(
            f"{name} cannot be compiled for: {error}\nThe compiler comes with `pip install 'jax[{extra}]'`; "
            "the shapes it knows are those that Google Cloud offers"
        ) from error
    return Topology(name, slices, facts, found.devices)


def _wraps(shape: str) -> bool:
    """A v5p slice is a torus where every side is a multiple of four."""
    sides = [int(side) for side in shape.split("x")]
    return len(sides) == 3 and all(side % 4 == 0 for side in sides)
