"""What runs have left, for tests to compare."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from skyrm_jax import checkpoint
from skyrm_jax.models.parameters import flattened


def params(out: str | Path) -> dict[str, np.ndarray]:
    """The parameters of a run's newest checkpoint, by dotted path."""
    found = checkpoint.locate(out)
    assert found is not None
    return {name: np.asarray(value) for name, value in flattened(checkpoint.restore_params(found)).items()}


def require_same_params(one: str | Path, other: str | Path) -> None:
    """The newest checkpoints of two runs hold the same parameters, to the bit."""
    ours, theirs = params(one), params(other)
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        np.testing.assert_array_equal(value, theirs[name], err_msg=name)


def records(out: Path) -> list[dict[str, Any]]:
    """What a run has logged of its steps, without what differs from machine to machine."""
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [{name: one[name] for name in ("step", "loss", "correct", "gradient_norm")} for one in lines]
