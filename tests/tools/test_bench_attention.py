"""The attention benchmark on a few comparisons. Times are not looked at."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from skyrm_jax.attention.cpu import CpuBackend


def test_live_fraction_counts_blocks(tool: Any) -> None:
    bench = tool("bench_attention")
    # Two trees of two blocks each: 6 of the 10 blocks on and below the diagonal, and 4 of one token each see themselves.
    assert bench.live_fraction(np.repeat([[32, 64]], 32, 1), CpuBackend(16)) == 0.6
    assert bench.live_fraction(np.arange(1, 65)[None], CpuBackend(16)) == 0.4
    assert bench.live_fraction(np.full((1, 64), 64), CpuBackend(16)) == 1


def test_deepest_shares_what_any_two_have_in_common(tool: Any) -> None:
    deepest = tool("bench_attention").deepest
    assert deepest([[1, 2, 3], [1, 2, 4, 5], [1, 9], [1, 2, 3]]) == 6
    assert deepest([[1, 2], [1, 2, 3]]) == 3


def test_real_rows(tool: Any, shared: Path, tmp_path: Path) -> None:
    bench, out = tool("bench_attention"), tmp_path / "out" / "figures.json"
    arguments = ["--only", "blocks", "depth", "--sample", "12", "--shared", str(shared), "--json", str(out)]
    bench.main(arguments)
    found: dict[str, float] = json.loads(out.read_text())
    assert found["live_fraction_k32"] <= 0.10
    for name in ("hh_rlhf", "judgebench", "rm_bench", "rmb"):
        assert (
            0 < found[f"visible_{name}"] < found[f"live_fraction_{name}_gpu"] < found[f"live_fraction_{name}_tpu"] < 1
        )
        assert 0 < found[f"tokens_over_unshared_{name}"] < 1 <= found[f"tokens_over_deepest_{name}"]


@pytest.mark.full
def test_times_of_this_platform(tool: Any, shared: Path, tmp_path: Path) -> None:
    bench, out = tool("bench_attention"), tmp_path / "figures.json"
    common = ["--sample", "4", "--row-tokens", "8192", "--rounds", "1", "--shared", str(shared), "--json", str(out)]
    bench.main(["--only", "times", *common])
    found: dict[str, Any] = json.loads(out.read_text())
    assert {"cpu_forward_over_causal_rmb", "cpu_backward_over_causal_hh_rlhf", "cpu_backward_ms_causal"} <= set(found)
