"""The score command: every comparison comes out once, in order, whole files only."""

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from skyrm_jax import score
from skyrm_jax.comparison import Comparison
from skyrm_jax.errors import RecordError, UserError
from skyrm_jax.eval import scoring


class FakeScorer:
    """Rewards that float32 cannot write short: a third of each response's length."""

    def __init__(self) -> None:
        self.manifest = {"checkpoint": "fake"}
        self.counts = {"comparisons": 0, "truncated": 0}
        self.fails_after = 10**9

    def trees(self, comparisons: list[Comparison]) -> list[Any]:
        """The comparisons themselves stand for their trees; a template refuses the word `refused`."""
        refused = RecordError("record", "is refused by the chat template", "mend it")
        return [refused if c.prompt[0].content == "refused" else c for c in comparisons]

    def score_trees(self, trees: list[Comparison], progress: Any = None) -> list[np.ndarray]:
        self.counts["comparisons"] += len(trees)
        if self.counts["comparisons"] > self.fails_after:
            raise UserError("out of memory")
        return [reward(c) for c in trees]


def reward(comparison: Comparison) -> np.ndarray:
    return np.array([len(r[-1].content) for r in comparison.responses], np.float32) / 3


@pytest.fixture(autouse=True)
def scorer(monkeypatch: pytest.MonkeyPatch) -> FakeScorer:
    made = FakeScorer()
    monkeypatch.setattr(scoring, "load_scorer", lambda *args: made)
    monkeypatch.setattr(scoring, "origin", lambda scorer: scorer.manifest)
    monkeypatch.setattr(score, "CHUNK", 3)
    return made


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "in.jsonl"
    records = [{"prompt": "p", "responses": ["x" * j for j in range(1, i + 2)]} for i in range(8)]
    records[5]["id"] = "named"
    path.write_text("".join(json.dumps(r) + "\n" for r in records))
    return path


def expected() -> list[list[float]]:
    return [(np.arange(1, i + 2, dtype=np.float32) / 3).tolist() for i in range(8)]


def read(path: Path) -> list[dict[str, Any]]:
    if path.suffix == ".parquet":
        return pq.read_table(path).to_pylist()
    data = path.read_bytes()
    return [json.loads(line) for line in (gzip.decompress(data) if path.suffix == ".gz" else data).splitlines()]


@pytest.mark.parametrize("name", ["out.jsonl", "out.jsonl.gz", "out.parquet", "new/folder/out.jsonl"])
def test_every_comparison_comes_out_in_order(tmp_path: Path, file: Path, name: str) -> None:
    out = tmp_path / name
    score.main([str(file), str(out), "--checkpoint", "x"])
    rows = read(out)
    assert [np.array(r["rewards"], np.float32).tolist() for r in rows] == expected()
    assert [r["id"] for r in rows] == [f"in.jsonl:{i}" if i != 6 else "named" for i in range(1, 9)]
    manifest = json.loads((out.parent / f"{out.name}.manifest.json").read_text())
    assert manifest["checkpoint"] == "fake"
    assert (manifest["comparisons"], manifest["bad_records"]) == (8, 0)
    assert {p.name for p in out.parent.iterdir()} <= {"in.jsonl", out.name, f"{out.name}.manifest.json"}


@pytest.mark.parametrize("name", ["out.jsonl", "out.parquet"])
def test_an_ensemble_writes_the_combined_reward_and_each_members(
    tmp_path: Path, file: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Other(FakeScorer):
        def score_trees(self, trees: list[Comparison], progress: Any = None) -> list[np.ndarray]:
            return [reward * -2 for reward in super().score_trees(trees, progress)]

    monkeypatch.setattr(scoring, "load_scorer", lambda args, source: {"x": FakeScorer, "y": Other}[source]())
    out = tmp_path / name
    options = ["--checkpoint", "x", "--checkpoint", "y", "--ensemble", "mean-std", "--k", "0.5"]
    score.main([str(file), str(out), *options])
    for row, first in zip(read(out), expected(), strict=True):
        one, other = np.array(first, np.float32), np.array(first, np.float32) * -2
        np.testing.assert_allclose(row["members"], [one, other], rtol=1e-6)
        np.testing.assert_allclose(row["rewards"], (one + other) / 2 - 0.5 * np.abs(one - other) / 2, rtol=1e-6)
    manifest = json.loads((tmp_path / f"{name}.manifest.json").read_text())
    assert manifest["ensemble"] == "mean-std" and manifest["k"] == 0.5 and len(manifest["members"]) == 2


def test_what_the_template_refuses_goes_to_the_quarantine(tmp_path: Path, file: Path) -> None:
    with file.open("a") as stream:
        stream.write(json.dumps({"prompt": "refused", "responses": ["a"]}) + "\n")
    out = tmp_path / "out.jsonl"
    score.main([str(file), str(out), "--checkpoint", "x", "--max-bad-share", "0.2"])
    assert len(read(out)) == 8
    (entry,) = read(tmp_path / "out.jsonl.quarantine.jsonl")
    assert (entry["line"], entry["reason"]) == (9, "is refused by the chat template")


def test_too_many_refused_records_leave_no_output(tmp_path: Path, file: Path) -> None:
    with file.open("a") as stream:
        stream.write(json.dumps({"prompt": "refused", "responses": ["a"]}) + "\n")
    out = tmp_path / "out.jsonl"
    with pytest.raises(UserError, match="1 of 9 records are bad"):
        score.main([str(file), str(out), "--checkpoint", "x", "--max-bad-share", "0.1"])
    assert not out.exists()


def test_json_numbers_are_short_and_exact(tmp_path: Path, file: Path) -> None:
    score.main([str(file), str(tmp_path / "out.jsonl"), "--checkpoint", "x"])
    assert '"rewards": [0.33333334, 0.6666667]' in (tmp_path / "out.jsonl").read_text()


def test_bad_records_go_beside_the_output(tmp_path: Path, file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file.write_bytes(file.read_bytes() + b'{"prompt": "p"}\n\xff\n')
    out = tmp_path / "out.jsonl"
    with pytest.raises(UserError, match="2 of 10 records are bad"):
        score.main([str(file), str(out), "--checkpoint", "x"])
    assert not out.exists()
    score.main([str(file), str(out), "--checkpoint", "x", "--max-bad-share", "0.5"])
    assert len(read(out)) == 8
    assert [r["line"] for r in read(tmp_path / "out.jsonl.quarantine.jsonl")] == [9, 10]
    told = capsys.readouterr().out
    assert "bad_records: 2" in told and "out.jsonl.quarantine.jsonl" in told


def test_nothing_half_written_stays_after_a_failure(tmp_path: Path, file: Path, scorer: FakeScorer) -> None:
    out = tmp_path / "out.parquet"
    out.write_text("the result of an earlier run")
    scorer.fails_after = 5
    with pytest.raises(UserError, match="out of memory"):
        score.main([str(file), str(out), "--checkpoint", "x"])
    assert out.read_text() == "the result of an earlier run"
    assert {p.name for p in tmp_path.iterdir()} == {"in.jsonl", "out.parquet"}


@pytest.mark.parametrize(
    ("source", "out", "words"),
    [
        ("in.jsonl", "out.csv", r"must end in \.jsonl, \.jsonl\.gz or \.parquet"),
        ("in.jsonl", "in.jsonl", "OUT is IN"),
        ("absent.jsonl", "out.jsonl", r"absent\.jsonl: there is no such file"),
        ("empty.jsonl", "out.jsonl", r"empty\.jsonl: the file is empty"),
        ("in.jsonl", "empty.jsonl/out.jsonl", r"empty\.jsonl: cannot be written to \(Not a directory\)"),
        ("in.jsonl", "folder.jsonl", r"folder\.jsonl: is a folder"),
    ],
)
def test_mistakes_are_answered_before_the_model_is_loaded(
    tmp_path: Path, file: Path, monkeypatch: pytest.MonkeyPatch, source: str, out: str, words: str
) -> None:
    monkeypatch.setattr(scoring, "load_scorer", lambda *args: pytest.fail("loaded the model"))
    (tmp_path / "empty.jsonl").touch()
    (tmp_path / "folder.jsonl").mkdir()
    with pytest.raises(UserError, match=words):
        score.main([str(tmp_path / source), str(tmp_path / out), "--checkpoint", "x"])


@pytest.mark.parametrize("given", ["0", "-5", "many"])
def test_max_tokens_is_checked(tmp_path: Path, file: Path, given: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        score.main([str(file), str(tmp_path / "out.jsonl"), "--checkpoint", "x", "--max-tokens", given])
    assert "--max-tokens: must be a number of at least 2" in capsys.readouterr().err
