"""The eval command from files to files, with a scorer whose rewards are known."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from skyrm_jax.comparison import Comparison
from skyrm_jax.errors import RecordError, UserError
from skyrm_jax.eval import cli, scoring

HELD_OUT = [
    {"prompt": "p", "responses": ["long answer", "no", "maybe"], "chosen": 0, "category": "long"},
    {"prompt": "q", "responses": ["no", "longer"], "chosen": 0, "category": "short"},
    {"prompt": "q", "responses": ["same", "same"], "chosen": 0, "category": "short"},
]


class LengthScorer:
    """Rewards a response by its length."""

    def __init__(self) -> None:
        self.manifest = {"checkpoint": "by length", "compute_dtype": "float32", "template_hash": "abc"}
        self.counts = {"comparisons": 0, "truncated": 0}

    def trees(self, comparisons: list[Comparison]) -> list[Any]:
        """The comparisons themselves stand for their trees; a template refuses the word `refused`."""
        refused = RecordError("record", "is refused by the chat template", "mend it")
        return [refused if c.prompt[0].content == "refused" else c for c in comparisons]

    def score_trees(self, trees: list[Comparison], progress: Any = None) -> list[np.ndarray]:
        return self.score(trees)

    def score(self, comparisons: list[Comparison], progress: Any = None) -> list[np.ndarray]:
        self.counts["comparisons"] += len(comparisons)
        self.counts["truncated"] += 1
        return [np.array([len(r[-1].content) for r in c.responses], np.float32) for c in comparisons]


@pytest.fixture(autouse=True)
def scorer(monkeypatch: pytest.MonkeyPatch) -> LengthScorer:
    made = LengthScorer()
    monkeypatch.setattr(scoring, "load_scorer", lambda *args: made)
    monkeypatch.setattr(scoring, "origin", lambda scorer: {**scorer.manifest, **scorer.counts})
    return made


def judgebench(folder: Path) -> Path:
    records = [
        {
            "pair_id": str(i),
            "source": "livecodebench",
            "question": "?",
            "response_model": "gpt-4o-2024-05-13",
            "response_A": "a" * (i + 1),
            "response_B": "bb",
            "label": "A>B",
        }
        for i in range(4)
    ]
    folder.mkdir()
    path = folder / "dataset=judgebench,response_model=gpt-4o-2024-05-13.jsonl"
    path.write_text("".join(json.dumps(r) + "\n" for r in records))
    return folder


def held_out(path: Path, tail: str = "") -> Path:
    path.write_text("".join(json.dumps(r) + "\n" for r in HELD_OUT) + tail)
    return path


def test_everything_is_written_and_can_be_computed_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sets = ["--benchmarks", "judgebench", "--data", str(judgebench(tmp_path / "data"))]
    sets += ["--held-out", str(held_out(tmp_path / "h.jsonl")), "--out"]
    cli.main(["--checkpoint", "x", *sets, str(tmp_path / "out")])
    text = re.sub(" +", " ", capsys.readouterr().out)
    results = json.loads((tmp_path / "out/results.json").read_text())
    figures = results["results"]["judgebench"]["sections"]["gpt-4o-2024-05-13"]
    overall = figures["Overall (leaderboard)"]
    assert (overall["value"], overall["correct"], overall["ties"], overall["total"]) == (50.0, 2, 1, 4)
    assert "Overall (leaderboard) 50.00" in text
    assert "gpt-4o-2024-05-13: 4 of 42 Coding pairs" in text
    accuracy = results["results"]["held-out"]["sections"]["Pair accuracy"]
    assert {n: (f["correct"], f["ties"], f["total"]) for n, f in accuracy.items()} == {
        "All pairs": (2, 1, 4),
        "long": (2, 0, 2),
        "short": (0, 1, 2),
    }
    # N = 1: (1/3 + 1/2 + 1/2) / 3; N = 2: the long one is in 2/3 of the pairs; (2/3 + 0 + 1/2) / 3.
    np.testing.assert_allclose(
        results["results"]["held-out"]["best_of_n"]["reward"], np.array([4 / 3, 7 / 6, 3 / 2]) / 3 * 100
    )
    manifest = results["manifest"]
    assert manifest["rewards"]["template_hash"] == "abc"
    assert manifest["rewards"]["comparisons"] == 7
    assert manifest["sets"]["judgebench"]["counts"] == {"comparisons": 4, "truncated": 1}
    assert manifest["sets"]["held-out"]["comparisons"] == 3
    assert (tmp_path / "out/best_of_n.png").read_bytes().startswith(b"\x89PNG")
    assert pq.read_table(tmp_path / "out/rewards.parquet").num_rows == 7

    cli.main(["--from-rewards", str(tmp_path / "out/rewards.parquet"), *sets, str(tmp_path / "again")])
    again = json.loads((tmp_path / "again/results.json").read_text())
    assert again["results"] == results["results"]
    assert [again["manifest"]["sets"][n]["content_sha256"] for n in ("judgebench", "held-out")] == [
        manifest["sets"][n]["content_sha256"] for n in ("judgebench", "held-out")
    ]


def test_bad_records_are_put_aside_and_counted(tmp_path: Path) -> None:
    path = held_out(tmp_path / "h.jsonl", "not json\n")
    arguments = ["--checkpoint", "x", "--held-out", str(path), "--out", str(tmp_path / "out")]
    with pytest.raises(UserError, match="1 of 4 records are bad"):
        cli.main(arguments)
    cli.main([*arguments, "--max-bad-share", "0.3"])
    results = json.loads((tmp_path / "out/results.json").read_text())
    assert results["manifest"]["sets"]["held-out"]["bad_records"] == 1
    assert '"line": 4' in (tmp_path / "out/held-out.quarantine.jsonl").read_text()


def test_what_the_model_cannot_read_is_put_aside_and_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scoring, "CHUNK", 2)
    records = [{"prompt": "refused", "responses": ["a", "b"], "chosen": 0, "id": "twice"}, *HELD_OUT]
    records[2] = records[2] | {"id": "twice"}
    path = tmp_path / "h.jsonl"
    path.write_text("".join(json.dumps(r) + "\n" for r in records))
    sets = ["--held-out", str(path), "--out"]
    with pytest.raises(UserError, match="1 of 4 records are bad"):
        cli.main(["--checkpoint", "x", *sets, str(tmp_path / "out")])
    sets = ["--max-bad-share", "0.3", *sets]
    cli.main(["--checkpoint", "x", *sets, str(tmp_path / "out")])
    cli.main(["--from-rewards", str(tmp_path / "out/rewards.parquet"), *sets, str(tmp_path / "again")])
    for out in ("out", "again"):
        results = json.loads((tmp_path / out / "results.json").read_text())
        facts = results["manifest"]["sets"]["held-out"]
        assert (facts["comparisons"], facts["bad_records"]) == (3, 1)
        figure = results["results"]["held-out"]["sections"]["Pair accuracy"]["All pairs"]
        assert (figure["correct"], figure["ties"], figure["total"]) == (2, 1, 4)
        (entry,) = (tmp_path / out / "held-out.quarantine.jsonl").read_text().splitlines()
        assert json.loads(entry)["line"] == 1


def test_nothing_but_refused_records_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "h.jsonl").write_text(json.dumps({"prompt": "refused", "responses": ["a", "b"], "chosen": 0}) + "\n")
    arguments = ["--held-out", str(tmp_path / "h.jsonl"), "--out", str(tmp_path / "out"), "--max-bad-share", "1"]
    with pytest.raises(UserError, match="none of its 1 records can be used"):
        cli.main(["--checkpoint", "x", *arguments])


def test_a_folder_for_results_that_cannot_be_made_is_answered_before_the_model_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scoring, "load_scorer", lambda *args: pytest.fail("loaded the model"))
    path = held_out(tmp_path / "h.jsonl")
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="file/out: cannot be written to"):
        cli.main(["--checkpoint", "x", "--held-out", str(path), "--out", str(tmp_path / "file" / "out")])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "nothing to score"),
        (["--benchmarks", "all"], "--benchmarks needs --data"),
        (["--benchmarks", "rewardbench3", "--data", "."], "there is no 'rewardbench3'"),
        (["--held-out", "absent.jsonl"], r"absent\.jsonl: there is no such file"),
    ],
)
def test_mistakes_are_answered_before_the_model_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], words: str
) -> None:
    monkeypatch.setattr(scoring, "load_scorer", lambda *args: pytest.fail("loaded the model"))
    with pytest.raises(UserError, match=words):
        cli.main(["--checkpoint", "x", "--out", str(tmp_path), *arguments])


def test_missing_rewards_stop_everything(tmp_path: Path) -> None:
    (tmp_path / "r.jsonl").write_text('{"id": "0", "rewards": [1, 0]}\n')
    sets = ["--benchmarks", "judgebench", "--data", str(judgebench(tmp_path / "data"))]
    with pytest.raises(UserError, match=r"no rewards for 3 of the 4 comparisons of judgebench"):
        cli.main(["--from-rewards", str(tmp_path / "r.jsonl"), *sets, "--out", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()
