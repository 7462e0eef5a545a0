"""The data benchmark at a tiny size: every section runs, and its figures are possible. Times are not looked at."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from skyrm_jax.data.store import Store

TINY = ["--ids", "1", "--rounds", "1", "--comparisons", "3000", "--batch", "500", "--batches", "4", "--pairs", "48"]


@pytest.fixture
def run(tool: Any, tmp_path: Path) -> Any:
    """The figures of a section."""
    bench = tool("bench_data")

    def figures(section: str, *arguments: str) -> dict[str, Any]:
        out = tmp_path / "out" / "figures.json"
        bench.main([*TINY, "--only", section, "--scratch", str(tmp_path), "--json", str(out), *arguments])
        assert [path.name for path in tmp_path.iterdir()] == ["out"]  # what was made is gone
        found: dict[str, Any] = json.loads(out.read_text())
        assert all(value >= 0 for value in found.values() if isinstance(value, int | float))
        return found

    return figures


def test_tokenize_counts_every_id_on_both_sides(run: Any, shared: Path) -> None:
    found = run("tokenize", "--shared", str(shared), "--sample", "20")
    for name in ("long", "short"):
        assert found[f"tokenize_ratio_{name}"] > 0
        assert found[f"tokenize_ids_{name}"] == pytest.approx(40 * found[f"tokenize_mean_tokens_{name}"])
        assert found[f"tokenize_ids_per_second_{name}"] > 0 < found[f"bare_ids_per_second_{name}"]
    assert found["tokenize_mean_tokens_long"] > found["tokenize_mean_tokens_short"]


def test_index_plans_every_token(run: Any, capsys: pytest.CaptureFixture[str]) -> None:
    found = run("index")
    assert 0 < found["padding_16"] < found["padding_256"] < 1
    assert found["step_imbalance"] >= found["step_imbalance_bound"] >= 1
    assert found["step_imbalance_16"] >= found["step_imbalance_bound_16"] >= 1
    assert 0 < found["rss_gib_before"] <= found["rss_gib"] < 2
    assert found["index_gib"] == 3000 * 20 / 2**30
    assert found["micro_batches_16"] > found["micro_batches_256"] >= 1
    shown = capsys.readouterr().out
    assert "padding_256" in shown and "<= 0.05" in shown


@pytest.mark.full
def test_trl_gives_as_many_pairs_as_ours(run: Any, shared: Path) -> None:
    for name in ("trl", "accelerate", "datasets"):
        pytest.importorskip(name, reason="the comparison with TRL needs trl")
    found = run("trl", "--shared", str(shared))
    assert found["vs_trl_pairs"] == 48  # both sides' counts are checked by the benchmark itself
    assert {"vs_trl", "vs_trl_with_start_up", "vs_trl_cpu", "ours_pairs_per_second", "trl_pairs_per_second"} <= set(
        found
    )


def test_trl_is_left_out_where_it_is_not_installed(
    run: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "trl" else find(name, *rest))
    assert set(run("trl", "--shared", str(tmp_path))) == {"cores"}
    assert "trl is left out" in capsys.readouterr().out


def test_loader_shows_its_arithmetic(run: Any, shared: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = run("loader", "--shared", str(shared), "--tokens", "100000")
    for name in ("", "_short"):
        ratio = found[f"loader_tokens_per_second{name}"] / found[f"v5e_tokens_per_second{name}"]
        assert found[f"loader_ratio{name}"] == pytest.approx(ratio)
    # 8 chips at half of 197 TFLOP/s, and at least 6 operations for each of 440 million parameters
    assert 100_000 < found["v5e_tokens_per_second"] < found["v5e_tokens_per_second_short"] < 8 * 98.5e12 / (6 * 440e6)
    assert "440,401,920 parameters" in capsys.readouterr().out


def test_the_synthetic_index_has_the_lengths_it_should(tool: Any, tmp_path: Path) -> None:
    bench = tool("bench_index")
    bench.make_index(tmp_path / "store", 20_000)
    store = Store.open(tmp_path / "store")
    rows = store.index.rows
    assert len(store) == 20_000 and rows["unshared"].mean() == pytest.approx(2000, rel=0.03)
    assert rows["longest"].max() <= 16_384 and (rows["tokens"] > 16_384).any()
    assert len(store.index.held_out) == pytest.approx(400, rel=0.3)
    logs = np.log(bench.lengths(np.random.default_rng(1), 20_000)[0])
    assert logs.std() == pytest.approx(0.9, abs=0.02)
    for stored, row in zip(bench.Shaped.open(tmp_path / "store").read(range(200)), rows[:200], strict=True):
        tree = stored.tree
        facts = len(tree.tokens), tree.conversation_tokens, tree.longest, len(tree.reward_index)
        assert facts == (row["tokens"], row["unshared"], row["longest"], 2)


def test_imbalance_is_one_when_shards_do_the_same(tool: Any) -> None:
    from skyrm_jax.packing import MicroBatchPlan, Pieces, RowShape

    bench = tool("bench_index")
    columns = np.array([[6, 1, 0, 21], [6, 1, 0, 21], [3, 1, 0, 6]])
    pieces = Pieces(np.arange(3), *columns.T)
    shape = RowShape(2, 8, 2, 1)
    even, uneven = MicroBatchPlan(shape, [[0], [1]]), MicroBatchPlan(shape, [[2], []])
    most, bound, as_run, mean = bench.step_flops(pieces, [even], 2, 10, 1)
    assert (most, bound, as_run, mean) == (81, 81, 8 * 10 + 21, 81)
    most, bound, as_run, mean = bench.step_flops(pieces, [even, uneven], 2, 10, 1)
    assert (most, bound, as_run, mean) == (81 + 36, 81 + 36, 101 + 86, 81 + 18)
