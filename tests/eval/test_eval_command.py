"""The eval command from files to files, with a scorer whose rewards are known."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from skyrm_jax import checkpoint
from skyrm_jax.comparison import Comparison
from skyrm_jax.errors import RecordError, UserError
from skyrm_jax.eval import cli, options, scoring
from skyrm_jax.eval.journal import UNFINISHED

HELD_OUT = [
    {"prompt": "p", "responses": ["long answer", "no", "maybe"], "chosen": 0, "category": "long"},
    {"prompt": "q", "responses": ["no", "longer"], "chosen": 0, "category": "short"},
    {"prompt": "q", "responses": ["same", "same"], "chosen": 0, "category": "short"},
]


class LengthScorer:
    """Rewards a response by its length."""

    pinned = True
    loaded = "x"

    def __init__(self) -> None:
        self.manifest: dict[str, Any] = {
            "checkpoint": "by length",
            "compute_dtype": "float32",
            "template_hash": "abc",
            "batches": [(8, 512)],
        }
        self.counts = {"comparisons": 0, "truncated": 0}
        self.went_on: list[Any] = []

    def go_on(self, batches: Any) -> None:
        self.went_on += batches

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
    monkeypatch.setattr(checkpoint, "digest", lambda loaded: f"hash of {loaded}")
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
    assert "gpt-4o-2024-05-13: Coding: 4 of 42 pairs" in text
    accuracy = results["results"]["held-out"]["sections"]["Pair accuracy"]
    assert {n: (f["correct"], f["ties"], f["total"]) for n, f in accuracy.items()} == {
        "All pairs": (2, 1, 4),
        "long": (2, 0, 2),
        "short": (0, 1, 2),
    }
    # N = 1: (1/3 + 1/2 + 1/2) / 3; N = 2: the long one is in 2/3 of the pairs; (2/3 + 0 + 1/2) / 3.
    np.testing.assert_allclose(
        results["results"]["held-out"]["curves"]["Best of N"]["reward"], np.array([4 / 3, 7 / 6, 3 / 2]) / 3 * 100
    )
    manifest = results["manifest"]
    assert manifest["rewards"]["template_hash"] == "abc"
    assert manifest["sets"]["judgebench"]["counts"] == {"comparisons": 4, "truncated": 1}
    assert manifest["sets"]["held-out"]["comparisons"] == 3
    assert manifest["rewards"]["checkpoint_sha256"] == "hash of x"
    assert manifest["rewards"]["batches"] == [[8, 512]]
    assert results["average"] is None
    assert "<svg" in (tmp_path / "out/report.html").read_text()
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
    held_out(tmp_path / "h.jsonl")  # mended, and otherwise the same
    cli.main(arguments)
    assert not list((tmp_path / "out").glob("*quarantine*"))


def test_what_the_model_cannot_read_is_put_aside_and_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("skyrm_jax.eval.sets.WINDOW", 2)
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
        (entry,) = map(json.loads, (tmp_path / out / "held-out.quarantine.jsonl").read_text().splitlines())
        assert (entry["line"], entry["reason"]) == (1, "is refused by the chat template")  # whoever computes again
        assert not list((tmp_path / out).glob("*unfinished*"))
    # What is refused leaves an earlier run's bad records beside its results.
    with pytest.raises(UserError, match="something else made"):
        cli.main(["--baseline", "length", *sets, str(tmp_path / "out")])
    assert json.loads((tmp_path / "out/held-out.quarantine.jsonl").read_text()) == entry
    (tmp_path / "rewards.parquet").write_bytes((tmp_path / "out/rewards.parquet").read_bytes())
    cli.main(["--from-rewards", str(tmp_path / "rewards.parquet"), *sets, str(tmp_path / "alone")])
    entry = json.loads((tmp_path / "alone/held-out.quarantine.jsonl").read_text())
    assert (entry["reason"], entry["remedy"]) == (
        "was refused by the model",
        "see the quarantine of the run that scored it",
    )


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
        (["--benchmarks", "rewardbench3", "--data", "{tmp}"], "there is no 'rewardbench3'"),
        (["--benchmarks", "all", "--data", "nowhere"], "nowhere: no such file or folder"),
        (["--benchmarks", "rmb", "--data", "{tmp}"], "no RMB file here"),
        (["--benchmarks", "rmb"], "RMB is not on the Hub: give --data"),
        (["--data", ".", "--held-out", "x"], "--data is for --benchmarks"),
        (["--benchmarks", "all", "--endpoint-model", "m"], "belong to --endpoint"),
        (["--benchmarks", "all", "--against", "nowhere"], "--against nowhere: no results.json there"),
        (["--held-out", "absent.jsonl"], r"absent\.jsonl: there is no such file"),
        (["--held-out", "x", "--against", "{tmp}"], "--against .*: no rewards.parquet there"),
    ],
)
def test_mistakes_are_answered_before_the_model_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], words: str
) -> None:
    monkeypatch.setattr(scoring, "load_scorer", lambda *args: pytest.fail("loaded the model"))
    (tmp_path / "results.json").write_text('{"name": "", "results": {}, "manifest": {"sets": {}}}')
    with pytest.raises(UserError, match=words):
        cli.main(["--checkpoint", "x", "--out", str(tmp_path), *(a.format(tmp=tmp_path) for a in arguments)])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--endpoint", "http://x", "--tokenizer", "t", "--dtype", "bfloat16"], "--dtype is for --checkpoint"),
        (["--from-rewards", "r.jsonl", "--dtype", "float32"], "--dtype is for --checkpoint"),
        (["--from-rewards", "r.jsonl", "--max-tokens", "16384"], "--max-tokens and --template are for a model"),
        (["--baseline", "length", "--template", "plain"], "--max-tokens and --template are for a model"),
        (["--baseline", "length", "--mesh", "1", "1", "1"], "--mesh is for --checkpoint"),
    ],
)
def test_options_that_would_change_nothing_are_refused(arguments: list[str], words: str) -> None:
    given = ["--held-out", "h.jsonl", "--out", "o"]
    with pytest.raises(UserError, match=words):
        options.parse([*arguments, *given])
    assert vars(options.parse(["--checkpoint", "x", *given]))["dtype"] == "bfloat16"
    assert options.parse(["--endpoint", "http://x", "--tokenizer", "t", *given]).max_tokens == 16_384


def test_missing_rewards_stop_everything(tmp_path: Path) -> None:
    (tmp_path / "r.jsonl").write_text('{"id": "0", "rewards": [1, 0]}\n')
    sets = ["--benchmarks", "judgebench", "--data", str(judgebench(tmp_path / "data"))]
    with pytest.raises(UserError, match=r"no rewards for 3 of the 4 comparisons of judgebench"):
        cli.main(["--from-rewards", str(tmp_path / "r.jsonl"), *sets, "--out", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


class Killed(BaseException):
    """Stands for SIGKILL."""


def test_a_killed_evaluation_goes_on_where_it_stopped(
    tmp_path: Path, scorer: LengthScorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("skyrm_jax.eval.sets.WINDOW", 2)
    given = ["--benchmarks", "judgebench", "--data", str(judgebench(tmp_path / "data"))]
    given += ["--held-out", str(held_out(tmp_path / "h.jsonl"))]
    cli.main(["--checkpoint", "x", *given, "--out", str(tmp_path / "whole")])
    wanted = json.loads((tmp_path / "whole/results.json").read_text())

    scored: list[str] = []
    whole = LengthScorer.score

    def until_killed(self: LengthScorer, comparisons: list[Comparison], progress: Any = None) -> list[np.ndarray]:
        if len(scored) >= 4:
            raise Killed
        scored.extend(c.prompt[0].content for c in comparisons)
        return whole(self, comparisons)

    again = [*given, "--out", str(tmp_path / "out")]
    scorer.manifest["batches"], scorer.manifest["mesh"] = [(4, 256)], {"data": 1}
    monkeypatch.setattr(LengthScorer, "score", until_killed)
    with pytest.raises(Killed):
        cli.main(["--checkpoint", "x", *again])
    unfinished = tmp_path / "out" / UNFINISHED
    with unfinished.open("ab") as stream:
        stream.write(b'{"set": "judgebench", "sta')  # what a kill leaves of a line
    scored.clear()
    scorer.manifest["batches"], scorer.manifest["mesh"] = [(8, 512)], {"data": 2}
    cli.main(["--checkpoint", "x", *again])
    assert scored == ["p", "q", "q"]  # only the held-out set was left
    assert scorer.went_on == [(4, 256)]  # and it is packed as if nothing had happened
    assert not unfinished.exists()
    got = json.loads((tmp_path / "out/results.json").read_text())
    assert got["results"] == wanted["results"]
    assert got["manifest"]["sets"] == wanted["manifest"]["sets"]
    scored.clear()
    cli.main(["--checkpoint", "x", *again])  # finished: nothing is scored again
    assert not scored
    assert json.loads((tmp_path / "out/results.json").read_text())["results"] == wanted["results"]
    cli.main(["--from-rewards", str(tmp_path / "out/rewards.parquet"), *given, "--out", str(tmp_path / "file")])
    for out in ("out", "file"):  # all parts of the evaluation are told of, whoever computes the figures again
        manifest = json.loads((tmp_path / out / "results.json").read_text())["manifest"]
        assert manifest["rewards"]["batches"] == [[4, 256], [8, 512]]
        assert manifest["rewards"]["mesh"] == [{"data": 1}, {"data": 2}]
        assert manifest["sets"] == wanted["manifest"]["sets"]


def test_rewards_of_another_model_are_not_taken_over(
    tmp_path: Path, scorer: LengthScorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("skyrm_jax.eval.sets.WINDOW", 2)
    given = ["--held-out", str(held_out(tmp_path / "h.jsonl")), "--out", str(tmp_path / "out")]

    def killed(*_: Any) -> Any:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(LengthScorer, "score", lambda _, some: [np.zeros(len(c.responses), np.float32) for c in some])
        patch.setattr(cli, "report", killed)
        patch.setattr("skyrm_jax.eval.journal.Journal.finish", killed)
        with pytest.raises(Killed):
            cli.main(["--checkpoint", "x", *given])
    scorer.manifest["compute_dtype"] = "bfloat16"
    with pytest.raises(UserError, match=r"rewards.parquet: .* something else made \(its compute_dtype differ\)"):
        cli.main(["--checkpoint", "x", *given])
    (tmp_path / "out/rewards.parquet").unlink()
    with pytest.raises(UserError, match=r"unfinished.jsonl: .* \(its compute_dtype differ\): remove the file"):
        cli.main(["--checkpoint", "x", *given])
    (tmp_path / "out" / UNFINISHED).unlink()
    cli.main(["--checkpoint", "x", *given])
    results = json.loads((tmp_path / "out/results.json").read_text())
    assert results["results"]["held-out"]["sections"]["Pair accuracy"]["All pairs"]["correct"] == 2


def test_a_model_that_gives_no_numbers_is_answered_at_once_and_nothing_is_kept(
    tmp_path: Path, scorer: LengthScorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("skyrm_jax.eval.sets.WINDOW", 2)
    given = ["--benchmarks", "judgebench", "--data", str(judgebench(tmp_path / "data")), "--out", str(tmp_path / "out")]

    def broken(self: LengthScorer, comparisons: list[Comparison], progress: Any = None) -> list[np.ndarray]:
        self.counts["comparisons"] += len(comparisons)
        return [np.array([1.0, np.nan if c.id == "2" else 0.0], np.float32) for c in comparisons]

    with monkeypatch.context() as patch:
        patch.setattr(LengthScorer, "score", broken)
        said = r"judgebench: comparison '2' has a reward from by length that is not a finite number \(\[1\.0, nan\]\)"
        with pytest.raises(UserError, match=said):
            cli.main(["--checkpoint", "x", *given])
    assert len((tmp_path / "out" / UNFINISHED).read_text().splitlines()) == 2  # the origin, and the window before it
    cli.main(["--checkpoint", "x", *given])
    assert len(pq.read_table(tmp_path / "out/rewards.parquet")) == 4


def test_a_comparison_with_another_model_says_over_how_much_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--checkpoint", "x", "--benchmarks", "judgebench", "--data", str(judgebench(tmp_path / "data")), "--out"]
    cli.main([*given, str(tmp_path / "all")])
    whole = pq.read_table(tmp_path / "all/rewards.parquet")
    for name, kept in (("part", {0, 1, 2}), ("none", set())):  # of an earlier model, which could read less
        shutil.copytree(tmp_path / "all", tmp_path / name)
        rows = [row if i in kept else row | {"rewards": []} for i, row in enumerate(whole.to_pylist())]
        pq.write_table(pa.Table.from_pylist(rows, schema=whole.schema), tmp_path / name / "rewards.parquet")
    capsys.readouterr()
    cli.main([*given, str(tmp_path / "again"), "--against", str(tmp_path / "part"), str(tmp_path / "none")])
    part, none = json.loads((tmp_path / "again/results.json").read_text())["compared"].values()
    assert (part, none) == ({"judgebench": {"comparisons": 3, "of": 4}}, {"judgebench": {"comparisons": 0, "of": 4}})
    said = capsys.readouterr().out
    assert "judgebench: over the 3 of 4 comparisons that both models could read\n" in said
    assert "judgebench: over the 0 of 4 comparisons that both models could read\n" in said
    page = (tmp_path / "again/report.html").read_text()
    assert "JudgeBench: over the 3 of 4 comparisons that both models could read." in page


def test_odd_names_end_in_figures(tmp_path: Path) -> None:
    records = [record | {"category": "All pairs"} for record in HELD_OUT]
    (tmp_path / "h.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    out = tmp_path / "out"
    cli.main(["--checkpoint", "x", "--held-out", str(tmp_path / "h.jsonl"), "--out", str(out), "--name", "\udcff"])
    accuracy = json.loads((out / "results.json").read_text())["results"]["held-out"]["sections"]["Pair accuracy"]
    assert list(accuracy) == ["All pairs", "All pairs (category)"]
    assert accuracy["All pairs"] == accuracy["All pairs (category)"]
    assert "\\udcff" in (out / "report.html").read_text()


def test_two_models_are_compared_figure_by_figure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sets = ["--benchmarks", "judgebench", "--data", str(judgebench(tmp_path / "data"))]
    cli.main(["--baseline", "length", *sets, "--out", str(tmp_path / "length")])
    rewards = "".join(json.dumps({"id": str(i), "rewards": [float(i < 3), 0.5]}) + "\n" for i in range(4))
    (tmp_path / "theirs.jsonl").write_text(rewards)
    capsys.readouterr()
    arguments = ["--from-rewards", str(tmp_path / "theirs.jsonl"), *sets, "--against", str(tmp_path / "length")]
    cli.main([*arguments, "--out", str(tmp_path / "out")])
    text = re.sub(" +", " ", capsys.readouterr().out)
    results = json.loads((tmp_path / "out/results.json").read_text())
    assert results["name"] == "theirs"
    difference = results["against"]["baseline: length"]["judgebench"]["gpt-4o-2024-05-13"]["Overall (leaderboard)"]
    assert difference["value"] == 25.0  # 3 of 4, less 2 of 4
    assert difference["low"] < 25.0 < difference["high"]
    assert "theirs less baseline: length" in text
    assert "+25.00" in text
    page = (tmp_path / "out/report.html").read_text()
    assert "baseline: length" in page
    twice = ["--against", str(tmp_path / "length"), str(tmp_path / "length"), "--out", str(tmp_path / "twice")]
    cli.main([*arguments[:-2], *twice])
    results = json.loads((tmp_path / "twice/results.json").read_text())
    assert list(results["against"]) == ["baseline: length", "baseline: length (2)"]
    other = judgebench(tmp_path / "other")
    path = next(other.iterdir())
    path.write_text(path.read_text().replace("bb", "cc"))
    with pytest.raises(UserError, match="its judgebench holds other comparisons"):
        cli.main([*arguments, "--data", str(other), "--out", str(tmp_path / "out2")])


@pytest.mark.parametrize(("rule", "wanted"), [("length", [8.0, 8.0, 3.0]), ("longest-markdown", [0.0, 6.0, 0.0])])
def test_baselines_are_rules_on_text(tmp_path: Path, rule: str, wanted: list[float]) -> None:
    record = {"prompt": "p", "responses": ["plain te", "a\n# head", "abc"], "chosen": 0, "id": "1"}
    (tmp_path / "h.jsonl").write_text(json.dumps(record) + "\n")
    given = ["--held-out", str(tmp_path / "h.jsonl"), "--out", str(tmp_path / "out")]
    cli.main(["--baseline", rule, *given])
    assert pq.read_table(tmp_path / "out/rewards.parquet")["rewards"].to_pylist() == [wanted]
    results = json.loads((tmp_path / "out/results.json").read_text())
    assert results["manifest"]["rewards"] == {"baseline": rule}


def test_the_random_baseline_depends_on_the_text_alone(tmp_path: Path) -> None:
    given = ["--benchmarks", "judgebench", "--data", str(judgebench(tmp_path / "data"))]
    cli.main(["--baseline", "random", *given, "--out", str(tmp_path / "out")])
    rewards = pq.read_table(tmp_path / "out/rewards.parquet")["rewards"].to_pylist()
    assert len({second for _, second in rewards}) == 1  # always "bb"
    assert len({first for first, _ in rewards}) == 4


def test_a_folder_that_holds_some_benchmarks_says_which_are_absent(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "all").mkdir()
    judgebench(tmp_path / "all" / "judgebench")
    given = ["--benchmarks", "all", "--data", str(tmp_path / "all"), "--out", str(tmp_path / "out")]
    cli.main(["--baseline", "length", *given])
    results = json.loads((tmp_path / "out/results.json").read_text())
    assert list(results["results"]) == ["judgebench"]
    assert "rmb" in results["absent"]
    assert len(results["absent"]) == 6
    text = re.sub(" +", " ", capsys.readouterr().out)
    assert "RMB not in the data" in text
    assert "JudgeBench 50.00" in text
    assert "PARTIAL" in text


def test_what_a_model_cannot_read_of_a_benchmark_is_dropped_told_and_makes_it_partial(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, scorer: LengthScorer
) -> None:
    monkeypatch.setattr("skyrm_jax.eval.sets.WINDOW", 2)
    monkeypatch.setattr("skyrm_jax.eval.benchmarks.judgebench.SIZES", {"gpt-4o-2024-05-13": {"Coding": 4}})
    data = judgebench(tmp_path / "data")
    path = next(data.iterdir())
    given = ["--benchmarks", "judgebench", "--data", str(data), "--out"]
    cli.main(["--checkpoint", "x", *given, str(tmp_path / "all")])
    assert not json.loads((tmp_path / "all/results.json").read_text())["results"]["judgebench"]["partial"]
    records = [json.loads(line) for line in path.read_text().splitlines()]
    records[3]["question"] = "refused"
    path.write_text("".join(json.dumps(r) + "\n" for r in records))
    capsys.readouterr()
    cli.main(["--checkpoint", "x", *given, str(tmp_path / "out")])
    said = capsys.readouterr().out
    reason = "3: record: is refused by the chat template; mend it"
    assert f"judgebench: 1 comparisons are dropped, since the model cannot read them:\n  {reason}\n" in said
    cli.main(["--checkpoint", "x", *given, str(tmp_path / "out")])  # nothing is left to score, and all is told again
    assert reason in capsys.readouterr().out
    cli.main(["--from-rewards", str(tmp_path / "out/rewards.parquet"), *given, str(tmp_path / "again")])
    for out in ("out", "again"):
        results = json.loads((tmp_path / out / "results.json").read_text())
        result = results["results"]["judgebench"]
        figure = result["sections"]["gpt-4o-2024-05-13"]["Overall (leaderboard)"]
        assert (figure["correct"], figure["ties"], figure["total"]) == (1, 1, 3)
        assert "1 of 4 comparisons that the model cannot read (3)" in result["partial"]
        assert results["manifest"]["sets"]["judgebench"]["counts"]["dropped"] == 1
        assert "JudgeBench: 1 dropped" in (tmp_path / out / "report.html").read_text()
    path.write_text("".join(json.dumps(r | {"question": "refused"}) + "\n" for r in records))
    with pytest.raises(
        UserError, match=r"judgebench: 4 of 4 comparisons that the model cannot read \(0, 1, 2, \.\.\.\)"
    ):
        cli.main(["--checkpoint", "x", *given, str(tmp_path / "none")])


def test_rewards_by_place_are_not_taken_for_those_of_other_data(tmp_path: Path) -> None:
    def data(folder: str) -> str:
        (tmp_path / folder).mkdir()
        return str(held_out(tmp_path / folder / "h.jsonl"))

    first, second = data("a"), data("b")
    out = ["--out", str(tmp_path / "out")]
    cli.main(["--baseline", "length", "--held-out", first, *out])
    file = str(tmp_path / "out/rewards.parquet")
    again = ["--out", str(tmp_path / "again")]
    cli.main(["--from-rewards", file, "--held-out", second, *again])  # elsewhere, but the same
    Path(second).write_text("".join(json.dumps(r) + "\n" for r in HELD_OUT[::-1]))
    with pytest.raises(UserError, match="its rewards of held-out are of other comparisons, and these have no ids"):
        cli.main(["--from-rewards", file, "--held-out", second, "--out", str(tmp_path / "other")])

    named = [r | {"id": f"name {i}"} for i, r in enumerate(HELD_OUT)]
    Path(first).write_text("".join(json.dumps(r) + "\n" for r in named))
    Path(second).write_text("".join(json.dumps(r) + "\n" for r in named[:0:-1]))
    with pytest.raises(UserError, match="holds rewards of held-out that are of other data and that would be lost"):
        cli.main(["--baseline", "length", "--held-out", first, *out])
    out, again = ["--out", str(tmp_path / "out2")], ["--out", str(tmp_path / "again2")]
    file = str(tmp_path / "out2/rewards.parquet")
    cli.main(["--baseline", "length", "--held-out", first, *out])
    cli.main(["--from-rewards", file, "--held-out", second, *again])  # a part, by ids
    assert pq.read_table(tmp_path / "again2/rewards.parquet")["rewards"].to_pylist() == [[4, 4], [2, 6]]

    Path(second).write_text("".join(json.dumps(r | {"prompt": "another"}) + "\n" for r in named))
    with pytest.raises(
        UserError, match="row 0: the rewards of 'name 0' are of another text than the comparison of that"
    ):
        cli.main(["--from-rewards", file, "--held-out", second, "--out", str(tmp_path / "text")])
    relabelled = [r | {"chosen": 1, "category": "other"} for r in named]
    Path(second).write_text("".join(json.dumps(r) + "\n" for r in relabelled))
    cli.main(
        ["--from-rewards", file, "--held-out", second, "--out", str(tmp_path / "labels")]
    )  # a model reads no label


def test_evaluating_less_loses_no_rewards(tmp_path: Path, scorer: LengthScorer) -> None:
    benchmark = ["--benchmarks", "judgebench", "--data", str(judgebench(tmp_path / "data"))]
    own = ["--held-out", str(held_out(tmp_path / "h.jsonl"))]
    out = ["--out", str(tmp_path / "out")]
    file = tmp_path / "out/rewards.parquet"

    def held() -> list[tuple[str, list[float]]]:
        return sorted((row["set"], row["rewards"]) for row in pq.read_table(file).to_pylist())

    cli.main(["--checkpoint", "x", *benchmark, *own, *out])
    everything, asked = held(), scorer.counts["comparisons"]
    assert len(everything) == 7
    cli.main(["--checkpoint", "x", *own, *out])
    assert held() == everything
    cli.main(["--from-rewards", str(file), *benchmark, *out])
    assert held() == everything
    cli.main(["--checkpoint", "x", *benchmark, *own, *out])
    assert scorer.counts["comparisons"] == asked
    sets = json.loads((tmp_path / "out/results.json").read_text())["manifest"]["sets"]
    assert [sets[name]["counts"] for name in ("judgebench", "held-out")] == [
        {"comparisons": 4, "truncated": 1},
        {"comparisons": 3, "truncated": 1},
    ]
    path = next((tmp_path / "data").iterdir())
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:3]))
    part = ["--out", str(tmp_path / "part")]
    for maker in (["--from-rewards", str(file)], ["--checkpoint", "x"]):
        with pytest.raises(
            UserError, match="holds rewards of judgebench that are of other data and that would be lost"
        ):
            cli.main([*maker, *benchmark, *out])
    cli.main(["--from-rewards", str(file), *benchmark, *part])  # a part: what was counted is of the whole
    assert "counts" not in json.loads((tmp_path / "part/results.json").read_text())["manifest"]["sets"]["judgebench"]
    cli.main(["--checkpoint", "x", *benchmark, *part])  # so it is scored anew, and counted
    sets = json.loads((tmp_path / "part/results.json").read_text())["manifest"]["sets"]
    assert sets["judgebench"]["counts"] == {"comparisons": 3, "truncated": 1}
    for other in (["--baseline", "length"], ["--checkpoint", "x", "--dtype", "float32"]):
        scorer.manifest["compute_dtype"] = "another"
        for some in (own, [*benchmark, *own]):
            with pytest.raises(
                UserError, match=r"rewards of held-out, judgebench that something else made \(its .* differ"
            ):
                cli.main([*other, *some, *out])
        assert held() == everything
