"""What the TPU compiler is asked for: weight gathers that run beside the computation, on every generation."""

import logging
from functools import cache

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from skyrm_jax.mesh import replicated

log = logging.getLogger(__name__)

TPU = {
    # v5p and v6e gather synchronously unless told; v5e has these by default.
    "xla_enable_async_all_gather": True,
    "xla_tpu_enable_async_collective_fusion": True,
    "xla_tpu_enable_async_collective_fusion_fuse_all_gather": True,
    # Otherwise small gathers (k and v) become all-reduces, which wait.
    "xla_tpu_prefer_async_allgather_to_allreduce": True,
}


def compiler_options(mesh: Mesh) -> dict[str, bool | str] | None:
    """Options for `jax.jit` of programs on this mesh; None where there are none to give."""
    if mesh.devices.flat[0].platform != "tpu" or mesh.size == 1:
        return None
    return dict(TPU) if _known(mesh) else None


@cache
def _known(mesh: Mesh) -> bool:
    """Whether this machine's compiler has these options; they are libtpu's own and promised by nobody."""
    nothing = jax.ShapeDtypeStruct((), jnp.float32, sharding=replicated(mesh))
    try:
        jax.jit(lambda x: x + 1).lower(nothing).compile(compiler_options=dict(TPU))
    except jax.errors.JaxRuntimeError as error:
        log.warning("this TPU compiler does not know our options; weight gathers may wait: %s", error)
        return False
    return True
