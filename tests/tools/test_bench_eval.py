"""The benchmarks' bench: what it makes of the sides' seconds, and that what is measured once is not measured again."""

import json
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import bench_eval as bench
import pytest
from bench_eval import Measured, neighbours, ratio

SECONDS = {("eager", 1): 3.0, ("eager", 4): 2.5, ("sdpa", 1): 3.0, ("sdpa", 4): 2.0, ("sdpa", 8): 2.2}
"""Of the other side, for each conversation; 4.0 at other settings. Ours takes 1.5."""


class FakeSide:
    """Both sides, with known seconds."""

    asked: ClassVar[list[dict[str, Any]]] = []

    def __init__(self, script: str, arguments: list[str], *_: Any) -> None:
        self.name, self.sets = arguments[0], {}
        self.compiled: set[str] = set()

    def __enter__(self) -> "FakeSide":
        return self

    def __exit__(self, *error: object) -> None: ...

    def ask(self, do: str, name: str, comparisons: Any = None, **setting: Any) -> dict[str, Any]:
        if do == "take":
            self.sets[name] = [ids for one in comparisons for ids in one]
            return {"tree_tokens": 80, "unshared_tokens": 100}
        if do == "compile":
            self.compiled.add(name)
            return {}
        self.asked.append({"side": self.name, "name": name, **setting})
        count = len(self.sets[name])
        answer: dict[str, Any] = {"rewards": [float(len(ids)) for ids in self.sets[name]]}
        if setting == {"attention": "sdpa", "batch": 16}:
            return {"rewards": [], "seconds": 0.1, "fits": False}
        if self.name != "ours":
            return answer | {"seconds": count * SECONDS.get((setting.get("attention"), setting.get("batch")), 4.0)}
        return answer | {"seconds": count * 1.5, "compiled": name not in self.compiled}


@pytest.fixture
def sides(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What they are asked to score; there are 6 comparisons of rmb, of 3 conversations, and 4 of judgebench, of 2."""
    made = {
        "rmb": [[[0] * (10 * i + k + 1) for k in range(3)] for i in range(6)],
        "judgebench": [[[0] * (50 * i + k + 1) for k in range(2)] for i in range(4)],
    }
    monkeypatch.setattr(bench, "Side", FakeSide)
    monkeypatch.setattr(FakeSide, "asked", [])
    monkeypatch.setattr(bench, "write_hf", lambda *_: None)
    monkeypatch.setattr(bench, "Chat", SimpleNamespace(load=lambda *_: None))
    monkeypatch.setattr(bench, "select", lambda *_: (list(made), []))
    monkeypatch.setattr(bench, "BENCHMARKS", {name: SimpleNamespace(load=lambda _, n=name: n) for name in made})
    monkeypatch.setattr(bench, "encoded", lambda _, name: made[name])
    return FakeSide.asked


def test_figures_are_of_the_seconds_of_whole_windows(sides: Any, tmp_path: Path) -> None:
    out, resumed = tmp_path / "out.json", ["--resume", str(tmp_path / "windows.jsonl")]
    given = ["--shared", str(tmp_path), "--json", str(out), "--window", "4"]
    bench.main([*given, *resumed])
    figures = json.loads(out.read_text())
    # 18 and 8 conversations, at the best setting for 2 seconds each, against 1.5.
    assert figures["ours_seconds"] == 26 * 1.5 and figures["transformers_seconds"] == 26 * 2.0
    assert figures["ratio"] == figures["ratio_rmb"] == pytest.approx(2.0 / 1.5)
    assert figures["rmb_transformers_setting"] == "sdpa, 4" and figures["rmb_token_ratio"] == 1.25
    assert (figures["rmb_comparisons"], figures["rmb_of"], figures["judgebench_comparisons"]) == (6, 6, 4)
    assert figures["judgebench_search_sdpa_8"] == pytest.approx(8 * 2.2)
    timed = [one for one in sides if one["name"] == "rmb"]
    assert [(one["side"], one.get("batch")) for one in timed] == 2 * [("ours", None), ("transformers", 4)]
    sides.clear()
    bench.main([*given, *resumed])
    assert not sides and json.loads(out.read_text()) == figures


def test_a_sampled_benchmark_counts_as_if_whole(sides: Any, tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    bench.main(["--shared", str(tmp_path), "--json", str(out), "--comparisons", "2"])
    figures = json.loads(out.read_text())
    assert figures["rmb_comparisons"] == figures["judgebench_comparisons"] == 2
    assert figures["transformers_seconds"] == pytest.approx(26 * 2.0)


def test_windows_are_spread_over_a_benchmark(sides: Any, tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    bench.main(["--shared", str(tmp_path), "--json", str(out), "--windows", "2", "--window", "2"])
    figures = json.loads(out.read_text())
    assert (figures["rmb_comparisons"], figures["judgebench_comparisons"]) == (4, 4)
    assert figures["transformers_seconds"] == pytest.approx(26 * 2.0)  # all of it, as if what was left out were alike


def test_sides_that_differ_end_it(sides: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = FakeSide.ask

    def off(self: FakeSide, do: str, name: str, **asked: Any) -> dict[str, Any]:
        answer = whole(self, do, name, **asked)
        return answer | {"rewards": answer["rewards"][::-1]} if do == "score" and self.name == "ours" else answer

    monkeypatch.setattr(FakeSide, "ask", off)
    with pytest.raises(SystemExit, match="rmb: the sides do not get the same rewards"):
        bench.main(["--shared", str(tmp_path)])


def test_settings_are_tried_on_batches_as_padded_as_a_windows() -> None:
    window = [[0] * length for length in range(200, 0, -1)]
    runs = [[len(ids) for ids in run] for run in neighbours(window, 16, 3)]
    assert all(run == list(range(run[0], run[0] - 16, -1)) for run in runs)
    # Each third of the tokens is more of the short ones: 1/6, 1/2 and 5/6 of them are in those of 183, 141 and 82 or more.
    assert [run[8] for run in runs] == [183, 142, 82]
    assert neighbours(window[:40], 16, 3) == [window[:40]] and neighbours([], 16, 3) == []


def test_a_run_that_was_stopped_goes_on(tmp_path: Path) -> None:
    file = tmp_path / "windows.jsonl"
    calls: list[int] = []

    def measure(number: int) -> dict[str, float]:
        calls.append(number)
        return {"ours": number, "theirs": 2 * number}

    measured = Measured(file, layers=4)
    assert [measured(partial(measure, n), start=n)["ours"] for n in (1, 2, 1)] == [1, 2, 1] and calls == [1, 2]
    with file.open("a") as stream:
        stream.write('{"asked": {"layers": 4, "start"')
    again = Measured(file, layers=4)
    assert [again(partial(measure, n), start=n)["ours"] for n in (1, 2, 3)] == [1, 2, 3] and calls == [1, 2, 3]
    assert Measured(file, layers=4)(lambda: measure(9), start=3) == {"ours": 3, "theirs": 6}
    Measured(file, layers=28)(lambda: measure(4), start=1)
    Measured(None, layers=4)(lambda: measure(5), start=1)
    assert calls == [1, 2, 3, 4, 5]


def test_the_ratio_is_of_all_seconds() -> None:
    assert ratio([(1.0, 3.0), (9.0, 12.0)]) == 1.5
