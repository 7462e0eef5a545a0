"""Held-out figures of a run in training, and the means that it logs."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from skyrm_jax.data.pipeline import Packer
from skyrm_jax.mesh import to_device
from skyrm_jax.train.step import StepPrograms, TrainState


def averages(sums: dict[str, Any]) -> dict[str, Any]:
    """Counters as they are, and means over the counted pairs."""
    pairs = max(1, int(sums["pairs"]))
    mean = float(sums["reward_sum"]) / pairs
    return {
        "pairs": int(sums["pairs"]),
        "correct": int(sums["correct"]),
        "ties": int(sums["ties"]),
        "accuracy": int(sums["correct"]) / pairs,
        "margin": float(sums["margin_sum"]) / pairs,
        "reward_mean": mean,
        "reward_std": max(0.0, float(sums["reward_square_sum"]) / pairs - mean**2) ** 0.5,
    }


def evaluate(
    programs: StepPrograms,
    state: TrainState,
    packer: Packer,
    ids: np.ndarray,
    mesh: Mesh,
    going_on: Callable[[], None] = lambda: None,
) -> dict[str, float]:
    """Held-out loss and accuracy over the comparisons `ids`; `going_on` is called before each micro-batch."""
    pieces, plans = packer.plan(ids)
    loss, sums = (
        0.0,
        dict.fromkeys(("pairs", "correct", "ties", "margin_sum", "reward_sum", "reward_square_sum"), 0),
    )
    for plan in plans:
        going_on()
        value, metrics = jax.device_get(
            programs.evaluate(state.params, to_device(mesh, packer.load(ids, pieces, plan)))
        )
        loss += float(value)
        sums = {name: sums[name] + metrics[name] for name in sums}
    figures = {"loss": loss / (float(packer.store.index[ids]["weight"].sum(dtype=np.float64)) or 1.0), **averages(sums)}
    return {f"held_out_{name}": figures[name] for name in ("loss", "accuracy", "margin", "pairs", "correct", "ties")}
