"""What happens when a batch gives a loss or a gradient that is not finite: its comparisons are written down.

The step's program has left parameters and moments as they were before the batch.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np

from skyrm_jax import distributed
from skyrm_jax.data.store import Store
from skyrm_jax.errors import UserError
from skyrm_jax.report.files import whole


def keep_evidence(folder: Path, step: int, figures: dict[str, Any], store: Store, ids: np.ndarray) -> Path:
    """Writes which comparisons the batch of `step` holds, in their order; the file's path."""
    path = folder / "non_finite" / f"step_{step:07d}.json"
    if distributed.is_writer():
        sources, numbers = store.sources, store.index.source(ids)
        comparisons = [
            {"index": int(number), "id": stored.id, "source": sources[source]}
            for number, stored, source in zip(ids.tolist(), store.read(ids), numbers.tolist(), strict=True)
        ]
        about = {"step": step, "loss": str(figures["loss"]), "gradient_norm": str(figures["gradient_norm"])}
        with whole(path) as temporary:
            temporary.write_text(json.dumps({**about, "comparisons": comparisons}, indent=1))
    return path


def said(figures: dict[str, Any]) -> str:
    """What is not finite, in words."""
    return f"its loss is {float(figures['loss']):g} and its gradient's norm {float(figures['gradient_norm']):g}"


def stopped(step: int, figures: dict[str, Any], evidence: Path) -> UserError:
    """The error that ends a run at such a batch."""
    return UserError(
        f"step {step} cannot be taken: {said(figures)}. The batch's comparisons are in {evidence}, and step {step - 1} is "
        "saved. Look at them, or lower optimizer.learning_rate in a new run; --run.non_finite skip goes on without such "
        "batches"
    )
