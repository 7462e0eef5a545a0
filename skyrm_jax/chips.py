"""Datasheet figures of chips, per device as JAX sees it (a tpu7x chip is two devices)."""

from dataclasses import dataclass

from skyrm_jax.errors import UserError

GIB = 2**30


@dataclass(frozen=True)
class Chip:
    """One device.

    Args:
        flops: dense bf16 peak, FLOP/s.
        usable: bytes of memory a program may use: what the compiler allows, a little under the datasheet's.
        bandwidth: of that memory, bytes/s.
        interconnect: all links of a device together, bytes/s.
        kinds: how JAX's `device_kind` of it begins.
    """

    name: str
    flops: float
    usable: float
    bandwidth: float
    interconnect: float
    kinds: tuple[str, ...]


CHIPS = {
    # Google Cloud's pages of each generation; links in Gbit/s per chip there: 1,600, 4,800, 3,584, 9,600.
    "v5e": Chip("TPU v5e", 197e12, 15.75 * GIB, 819e9, 200e9, ("TPU v5 lite", "TPU v5e")),
    "v5p": Chip("TPU v5p", 459e12, 95.74 * GIB, 2765e9, 600e9, ("TPU v5p", "TPU v5")),
    "v6e": Chip("TPU v6e", 918e12, 31.25 * GIB, 1640e9, 448e9, ("TPU v6 lite", "TPU v6e")),
    "tpu7x": Chip("TPU7x, one of its two cores", 2307e12 / 2, 94.75 * GIB, 7380e9 / 2, 1200e9 / 2, ("TPU7x", "TPU v7")),
    # NVIDIA's H100 SXM datasheet, without sparsity; XLA preallocates 75 % by default, 92 % is what runs well.
    "h100": Chip("NVIDIA H100 SXM", 989e12, 0.92 * 84942979072, 3350e9, 900e9, ("NVIDIA H100 80GB HBM3",)),
}


def chip(generation: str) -> Chip:
    """Raises UserError for a generation that is not in the table."""
    if generation not in CHIPS:
        raise UserError(f"there is no chip {generation!r}: choose from {', '.join(CHIPS)}")
    return CHIPS[generation]


def chip_of(device_kind: str) -> Chip | None:
    """The chip that JAX calls this; None if it is not in the table."""
    found = [(len(kind), one) for one in CHIPS.values() for kind in one.kinds if device_kind.startswith(kind)]
    return max(found, key=lambda pair: pair[0])[1] if found else None
