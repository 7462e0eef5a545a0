"""What a run's time went into, over all its restarts."""

import time
from dataclasses import asdict, dataclass, field
from typing import Any

import jax

from skyrm_jax.chips import chip_of
from skyrm_jax.models.architecture import Architecture
from skyrm_jax.models.flops import flops


@dataclass
class Account:
    """Kept in every checkpoint, and so without what was lost since.

    Attributes:
        began: when the run was first started, in seconds since 1970.
        productive: seconds in steps whose work is part of the run's result.
        skipped: batches left out because their loss or gradient was not finite.
    """

    began: float = field(default_factory=time.time)
    productive: float = 0.0
    skipped: int = 0

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    @property
    def goodput(self) -> float:
        """Productive time over all time since the run began, that between its restarts included."""
        return self.productive / max(time.time() - self.began, 1e-9)


def utilisation(architecture: Architecture, tokens: int, visible: int, seconds: float) -> float | None:
    """MFU: the model FLOPs of these trees over what all chips could have done; None where the chip is not known."""
    device = jax.devices()[0]
    chip = chip_of(device.device_kind)
    if chip is None:
        return None
    return flops(architecture, tokens, visible).total / (seconds * jax.device_count() * chip.flops)
