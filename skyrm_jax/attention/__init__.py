"""Tree attention: one contract, several backends.

A row holds trees laid out depth first. `end[k]` is the index one past the subtree of token k, and query q attends to
key k exactly when

    k <= q < end[k]

which is causal masking, packing of many comparisons and K responses to one prompt, in one rule. A backend prepares
its mask from `end` once per batch, outside the layer scan, and attends under it in every layer.
"""

from typing import Any, Protocol

import jax
from jaxtyping import Array, Float, Int

from skyrm_jax.attention.cpu import CpuBackend
from skyrm_jax.attention.gpu import GpuBackend
from skyrm_jax.attention.reference import ReferenceBackend
from skyrm_jax.attention.tpu import TpuBackend
from skyrm_jax.errors import UserError

Mask = Any
"""A backend's own pytree, made by its `prepare`."""


class Backend(Protocol):
    """What every backend offers. It raises on inputs that it cannot honour; it never ignores a mask."""

    def prepare(self, end: Int[Array, "B T"]) -> Mask:
        """The mask of a batch of rows."""
        ...

    def attend(
        self, q: Float[Array, "B T H E"], k: Float[Array, "B T G E"], v: Float[Array, "B T G E"], mask: Mask
    ) -> Float[Array, "B T H E"]:
        """softmax(q k^T / sqrt(E)) v over the keys each query may see; q and k are already rotated. H % G == 0."""
        ...


BACKENDS: dict[str, Backend] = {
    "reference": ReferenceBackend(),
    "cpu": CpuBackend(),
    "tpu": TpuBackend(),
    "gpu": GpuBackend(),
}

AUTO = {"cpu": "cpu", "tpu": "tpu", "gpu": "gpu"}
"""The backend of each platform. Those named here pass tests/attention/test_conformance.py."""


def backend(name: str) -> Backend:
    """The backend called `name`; `auto` picks by platform.

    Raises:
        UserError: no backend has that name.
    """
    if name == "auto":
        name = AUTO.get(jax.default_backend(), "cpu")
    if name not in BACKENDS:
        raise UserError(f"attention backend {name!r} is unknown; choose one of: auto, {', '.join(BACKENDS)}")
    return BACKENDS[name]
