"""Plots: what is read from a metrics file, how it is smoothed, and that a picture comes out whole."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from skyrm_jax.errors import UserError
from skyrm_jax.report.plots import read_metrics, series, smooth, training_plot

PNG = b"\x89PNG"


def write(path: Path, records: list[dict[str, Any]], tail: str = "") -> Path:
    path.write_text("".join(json.dumps(r) + "\n" for r in records) + tail)
    return path


def test_the_last_record_of_a_step_counts_and_steps_are_sorted(tmp_path: Path) -> None:
    records = [
        {"step": 2, "loss": 0.6},
        {"step": 1, "loss": 0.7, "held_out_loss": 0.9},
        {"step": 2, "loss": 0.5},
        {"step": 3, "loss": None},
    ]
    read = read_metrics(write(tmp_path / "m.jsonl", records))
    steps, values = series(read, "loss")
    assert (steps.tolist(), values.tolist()) == ([1, 2], [0.7, 0.5])
    assert series(read, "held_out_loss")[0].tolist() == [1]
    assert series(read, "accuracy")[0].tolist() == []


def test_a_cut_last_line_is_left_out_but_damage_is_not(tmp_path: Path) -> None:
    path = write(tmp_path / "m.jsonl", [{"step": 1, "loss": 0.7}], '{"step": 2, "lo')
    assert read_metrics(path) == [{"step": 1, "loss": 0.7}]
    path.write_text('{"step": 1, "lo\n{"step": 2, "loss": 0.6}\n')
    with pytest.raises(UserError, match="line 1: not JSON"):
        read_metrics(path)
    with pytest.raises(UserError, match="no such file"):
        read_metrics(tmp_path / "absent.jsonl")


def test_smoothing_is_a_centred_mean_that_keeps_a_constant() -> None:
    np.testing.assert_allclose(smooth(np.full(10, 3.0), 4), 3.0)
    np.testing.assert_allclose(smooth(np.array([0.0, 3.0, 6.0, 9.0]), 3), [1.5, 3.0, 6.0, 7.5])


@pytest.mark.parametrize("steps", [1, 8, 300])
def test_training_plot_is_written_whole(tmp_path: Path, steps: int) -> None:
    records = [
        {"step": s, "loss": 0.7 / s, "accuracy": 0.5} | ({"held_out_accuracy": 0.6} if s % 4 == 0 else {})
        for s in range(1, steps + 1)
    ]
    out = tmp_path / "new" / "training.png"
    training_plot(write(tmp_path / "m.jsonl", records), out, title="a run")
    assert out.read_bytes().startswith(PNG)
    assert [p.name for p in out.parent.iterdir()] == ["training.png"]


def test_training_plot_needs_a_loss(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"m\.jsonl: no record with `step` and `loss`"):
        training_plot(write(tmp_path / "m.jsonl", [{"step": 1}]), tmp_path / "x.png")
    assert not (tmp_path / "x.png").exists()
