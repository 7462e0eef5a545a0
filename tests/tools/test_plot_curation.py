"""A picture of results that were made up, and intervals of them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from curation_synthetic import clean_pairs


def seed(shift: float) -> dict[str, Any]:
    accuracy = {"original": 80 + shift, "filtered": 90, "corrected": 92, "clean": 94}
    curve = [
        {"set": name, "pairs": n, "accuracy": 70 + n / 50} for name in ("original", "corrected") for n in (10, 100)
    ]
    pairs = {"original": 1000, "filtered": 700, "corrected": 900, "clean": 1000}
    return {"accuracy": accuracy, "pairs": pairs, "others": {"gold": {"accuracy": 85}}, "curve": curve}


@pytest.mark.parametrize("curve", [True, False])
def test_a_picture(tool: Any, tmp_path: Path, curve: bool) -> None:
    seeds = [seed(0), seed(1)]
    if not curve:
        for one in seeds:
            del one["curve"]
    (tmp_path / "r.json").write_text(json.dumps({"world": "synthetic", "seeds": seeds}))
    tool("plot_curation").main([str(tmp_path / "r.json"), "--out", str(tmp_path / "p.png")])
    size = int.from_bytes((tmp_path / "p.png").read_bytes()[16:20])  # the width
    assert size == (2 if curve else 1) * 5.2 * 150


def test_intervals_are_of_prompts(tool: Any) -> None:
    difference = tool("experiment_curation").difference
    pairs = clean_pairs(50, 1)
    one, other = np.arange(50) % 10 < 9, np.arange(50) % 10 < 5
    once = difference(one, other, pairs)
    assert once["difference"] == pytest.approx(40) and 20 < once["low"] < 40 < once["high"] < 60
    # The same prompts four times over are no more evidence than once.
    again = difference(np.tile(one, 4), np.tile(other, 4), pairs * 4)
    assert again == pytest.approx(once)
