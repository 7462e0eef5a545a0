"""Datasheet figures of the chips a plan can be made for, per device as JAX sees it (a tpu7x chip is two devices)."""

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
    """

    name: str
    flops: float
    usable: float
    bandwidth: float
    interconnect: float


CHIPS = {
    # Google Cloud's pages of each generation; links in Gbit/s per chip there: 1,600, 4,800, 3,584, 9,600.
    "v5e": Chip("TPU v5e", 197e12, 15.75 * GIB, 819e9, 200e9),
    "v5p": Chip("TPU v5p", 459e12, 95.74 * GIB, 2765e9, 600e9),
    "v6e": Chip("TPU v6e", 918e12, 31.25 * GIB, 1640e9, 448e9),
    "tpu7x": Chip("TPU7x, one of its two cores", 2307e12 / 2, 94.75 * GIB, 7380e9 / 2, 1200e9 / 2),
    # NVIDIA's H100 SXM datasheet, without sparsity; XLA preallocates 75 % by default, 92 % is what runs well.
    "h100": Chip("NVIDIA H100 SXM", 989e12, 0.92 * 84942979072, 3350e9, 900e9),
}


def chip(generation: str) -> Chip:
    """Raises UserError for a generation that is not in the table."""
    if generation not in CHIPS:
        raise UserError(f"there is no chip {generation!r}: choose from {', '.join(CHIPS)}")
    return CHIPS[generation]
