"""Compiles the tpu attention for a slice that is not there: `python compile_tpu.py v5e:2x2`.

Prints, as JSON, how many Mosaic kernels each compiled program holds. Run by test_tpu.py in a process of its own, with
the variables that let libtpu load where there is no TPU.
"""

import json
import sys
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import topologies
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from skyrm_jax.attention.tpu import TpuBackend
from skyrm_jax.models.sharding import ROW_AXES


def kernels(
    mesh: Mesh,
    B: int,
    T: int,
    H: int,
    G: int,
    E: int,
    dtype: str = "bfloat16",
    backward: bool = True,
    policy: Callable[..., bool] = jax.checkpoint_policies.everything_saveable,
) -> int:
    """Mosaic kernels in the compiled program of a batch of B rows on all of `mesh`."""
    backend = TpuBackend()

    def out(q: jax.Array, k: jax.Array, v: jax.Array, end: jax.Array) -> jax.Array:
        mask = backend.prepare(end)
        return jax.checkpoint(backend.attend, policy=policy)(q, k, v, mask)

    def loss(*inputs: jax.Array) -> jax.Array:
        return jnp.sum(out(*inputs).astype(jnp.float32) ** 2)

    def heads(n: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((B, T, n, E), dtype, sharding=NamedSharding(mesh, P(ROW_AXES, None, "model")))

    end = jax.ShapeDtypeStruct((B, T), jnp.int32, sharding=NamedSharding(mesh, P(ROW_AXES)))
    with jax.set_mesh(mesh):
        program = jax.jit(jax.value_and_grad(loss, (0, 1, 2)) if backward else out)
        compiled = program.lower(heads(H), heads(G), heads(G), end).compile()
    return compiled.as_text().count('custom_call_target="tpu_custom_call"')


if __name__ == "__main__":
    devices = np.array(topologies.get_topology_desc(sys.argv[1], "tpu").devices)
    mesh = Mesh(devices.reshape(-1, 2, 2), ("data", "fsdp", "model"), axis_types=(AxisType.Auto,) * 3)
    rows = len(devices) // 2
    nothing = jax.checkpoint_policies.nothing_saveable
    named = jax.checkpoint_policies.save_only_these_names("attention_out", "attention_lse")
    cases = {
        "64": (rows, 4096, 16, 4, 64),
        "128": (rows, 4096, 16, 8, 128),
        "256, odd group": (rows, 4096, 6, 2, 256),
        "fp32": (rows, 1024, 16, 8, 128, "float32"),
        "a short row": (rows, 100, 8, 4, 128),
        "long rows": (8 * rows, 32768, 4, 2, 128),
        "forward of 32 responses": (rows, 33792, 16, 8, 128, "bfloat16", False),
        "recomputed": (rows, 1024, 4, 2, 128, "bfloat16", True, nothing),
        "saved by name": (rows, 1024, 4, 2, 128, "bfloat16", True, named),
    }
    print(json.dumps({name: kernels(mesh, *case) for name, case in cases.items()}))
