"""Checkpoints of ours: a record that is damaged or of another program is laid to the checkpoint."""

from pathlib import Path
from typing import Any

import pytest

from skyrm_jax.checkpoint import Located
from skyrm_jax.errors import UserError
from skyrm_jax.models.architecture import Architecture, Rope

RECORD = Architecture(
    "llama", vocab_size=100, hidden=32, mlp=64, layers=2, heads=4, kv_heads=2, head_dim=8, qk_norm=False,
    rms_eps=1e-5, rope=Rope(), max_positions=64,
).to_dict()  # fmt: skip


@pytest.mark.parametrize(
    ("meta", "said"),
    [
        ({"architecture": {**RECORD, "model_type": "gemma"}}, "model_type 'gemma' is not implemented"),
        ({"architecture": {**RECORD, "sinks": 4}}, "unknown architecture field.* sinks"),
        ({"architecture": {"model_type": "llama"}}, "the architecture record is damaged"),
        ({"architecture": "llama"}, ""),
        ({"architecture": None}, ""),
        ({}, "architecture"),
    ],
)
def test_a_foreign_or_damaged_architecture_is_laid_to_its_checkpoint(meta: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=rf"^runs/a/checkpoints/7: .*{said}.*; fetch or write the checkpoint again"):
        Located(Path("runs/a"), 7, meta).architecture  # noqa: B018


def test_a_whole_record_is_read() -> None:
    assert Located(Path("a"), 1, {"architecture": RECORD}).architecture.to_dict() == RECORD
