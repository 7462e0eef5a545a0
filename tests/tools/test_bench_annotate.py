"""The benchmark of the annotation page at a tiny size: it counts what it answers, and a lost answer is not passed over."""

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("uvicorn")


def test_every_answer_is_accounted_for(tool: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bench = tool("bench_annotate")
    out = tmp_path / "out" / "figures.json"
    sizes = ["--items", "60", "--answers", "10", "--turns", "5", "--people", "4", "--each", "3"]
    bench.main([*sizes, "--scratch", str(tmp_path), "--json", str(out)])
    assert [path.name for path in tmp_path.iterdir()] == ["out"]  # what was made is gone
    found = json.loads(out.read_text())
    assert (found["acknowledged"], found["lost"], found["doubled"]) == (5 + 4 * 3, 0, 0)
    assert 0 < found["limit_ms"] < found["page_ms"] <= found["page_p95_ms"]
    assert found["page_bytes"] > 5000
    assert found["load_requests_per_second"] == pytest.approx(4 * (1 + 2 * 3) / found["load_seconds"])
    assert "page_ms" in capsys.readouterr().out


def test_a_lost_and_a_doubled_answer_are_found(tool: Any, tmp_path: Path) -> None:
    from skyrm_jax.annotate.given import Given
    from skyrm_jax.annotate.store import Store

    bench = tool("bench_annotate")
    bench.filled(tmp_path, 4, 0)
    with Store(tmp_path / "store") as store:
        leases = []
        for who in ("ann", "bob"):
            store.annotator(who, create=True)
            shown = store.next(who)
            assert shown is not None
            store.answer(who, shown.lease, Given("both bad"))
            leases.append((who, shown.lease))
    whole = {"acknowledged": 2, "lost": 0, "doubled": 0}
    assert bench.account(tmp_path / "store", leases) == whole
    forged = [*leases, ("ann", "another")]
    assert bench.account(tmp_path / "store", forged) == whole | {"acknowledged": 3, "lost": 1}
    with Store(tmp_path / "store") as store, store.writing() as db:
        (item,) = db.execute("SELECT item FROM answers WHERE who = 'ann'").fetchone()
        db.execute("UPDATE answers SET item = ? WHERE who = 'bob'", (item,))
    assert bench.account(tmp_path / "store", leases) == whole | {"doubled": 1}


def test_too_few_items_are_refused(tool: Any, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        tool("bench_annotate").main(["--items", "10"])
    assert "at least 1200" in capsys.readouterr().err
