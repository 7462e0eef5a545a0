"""The facts of a curation's folder, made by hand, against what a reader of its files would count."""

import json
import sqlite3
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from skyrm_jax.comparison import Message
from skyrm_jax.curate import decisions
from skyrm_jax.curate.annotators import Annotator
from skyrm_jax.curate.annotators.ledger import FILE, require_version
from skyrm_jax.curate.attributes import NAMES, Attributes
from skyrm_jax.curate.config import CurateConfig, Stage1
from skyrm_jax.curate.engine import write_table
from skyrm_jax.curate.facts import Verified, by_objectivity, facts, filters
from skyrm_jax.curate.labelling import LABELS
from skyrm_jax.curate.pair import Pair
from skyrm_jax.curate.training import RewardModel
from skyrm_jax.curate.workspace import GOLD, SELECTED, Workspace
from skyrm_jax.report.curation_page import curation_page

TASTE = Attributes("Creative writing", "Subjective", "High", "wit", "Read it aloud.")
FACT = Attributes("Math", "Objective", "Low", "correctness", "Check the result.")


def pair(name: str) -> Pair:
    return Pair.of((Message("user", name),), (Message("assistant", "yes"),), (Message("assistant", "no"),))


def workspace(folder: Path, **other: Any) -> Workspace:
    annotators = [Annotator(name, name, "http://localhost:1/v1") for name in ("a", "b")]
    return Workspace(CurateConfig(str(folder / "out"), RewardModel("model.yaml"), annotators=annotators, **other))


def iteration(work: Workspace, number: int, rows: list[dict[str, Any]], summary: dict[str, Any] | None) -> None:
    """Writes an iteration of `rows`: name of the pair, p, models' verdicts, what they come to, people's, attributes."""
    one = work.iteration(number)
    selected = [pair(r["name"]).row() | dict.fromkeys(("found_by", "rank", "similarity")) | {"p": r["p"]} for r in rows]
    write_table(one.file("selected"), pa.Table.from_pylist(selected, SELECTED))
    labels = [
        {"id": pair(r["name"]).id, "verdict": r["merged"], "models": json.dumps(r["models"])}
        | dict.fromkeys(("share", "original", "flipped", "none", "failed"))
        for r in rows
        if "models" in r
    ]
    write_table(one.file("labels"), pa.Table.from_pylist(labels, LABELS))
    gold = [
        pair(r["name"]).row()
        | {"verdict": r["people"], "people": ["ann"]}
        | (r["of"].row() if r["of"] else dict.fromkeys(NAMES))
        for r in rows
        if r.get("people")
    ]
    write_table(one.file("gold"), pa.Table.from_pylist(gold, GOLD))
    if summary is not None:
        one.summary.write_text(json.dumps(summary))


def row(name: str, p: float | None, a: str | None, b: str | None, merged: str | None, **other: Any) -> dict[str, Any]:
    said = {"a": a, "b": b}
    models = {model: verdict for model, verdict in said.items() if verdict}
    return {"name": name, "p": p, "models": models, "merged": merged, "of": FACT} | other


SUMMARY = {
    "pairs": 3,
    "verified": 2,
    "people": {"original": 2},
    "annotators": {"original": 2, "none": 1},
    "gold_so_far": 2,
    "silver_so_far": 1,
    "best_accuracy_on_gold": None,
}


@pytest.fixture
def curated(tmp_path: Path) -> Workspace:
    """Two finished iterations and one that is not, two parts of decisions, five calls, two measured arms."""
    work = workspace(tmp_path, stage1=Stage1(iterations=2))
    first = [
        row("p0", None, "original", "original", "original", people="original"),
        row("p1", None, "original", "flipped", "none", people="flipped"),
        row("p2", None, "original", "original", "original"),  # nobody has verified it
        row("p3", None, None, None, None, people="original"),  # no valid vote
        row("p4", None, "flipped", "flipped", "flipped", people="none"),  # undecidable: compared with nothing
    ]
    iteration(work, 0, first, {"iteration": 0} | SUMMARY)
    second = [
        row("p5", 0.65, "original", None, "original", people="flipped", of=TASTE),
        row("p6", 0.55, "flipped", "flipped", "flipped", people="flipped", of=TASTE),
        row("p7", 0.2, "flipped", "flipped", "flipped", people="flipped", of=None),
        row("p8", 0.9, "none", "original", "none", people="original"),
    ]
    iteration(work, 1, second, {"iteration": 1} | SUMMARY)
    iteration(work, 2, [row("p9", 0.9, "original", "original", "original", people="flipped")], None)
    for name, note in {
        "best": {"best": {"checkpoint": "c", "correct": 4, "ties": 1, "pairs": 6}, "all": [], "pairs": 9},
        "gold": {"best": {"checkpoint": "d", "correct": 0, "ties": 0, "pairs": 0}, "all": [], "pairs": 6},
    }.items():
        path = work.stage2 / name / "best.json"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(note))
    decided(work)
    called(work)
    for stage, arm in (("iteration 1", "filtered"), ("stage 2", "original")):
        path = work.root / "measure" / stage.replace(" ", "-") / arm / "figures.json"
        path.parent.mkdir(parents=True)
        headlines = {"held-out": {"value": 71.25, "low": 70.0, "high": 72.5}}
        path.write_text(json.dumps({"stage": stage, "arm": arm, "pairs": 7, "headlines": headlines, "average": None}))
    return work


DECIDED = [
    # decision, by, human, gold, best, annotators
    ("kept", "human", "original", "original", "none", "original"),
    ("kept", "gold+best", None, "original", "original", None),
    ("kept", "gold+best", None, "original", "original", "none"),
    ("flipped", "human", "flipped", "original", "original", "flipped"),
    ("discarded", "gold model alone", None, "flipped", "original", None),
    ("kept", "gold+best", None, "original", "original", None),
]


def decided(work: Workspace) -> None:
    """DECIDED, in two parts."""
    rows = [
        dict(zip(("decision", "by", *decisions.WHO), one, strict=True)) | {"id": str(n), "best_p": 0.7, "gold_p": 0.6}
        for n, one in enumerate(DECIDED)
    ]
    for number, part in enumerate((rows[:4], rows[4:])):
        path = work.stage2 / "decisions" / f"part-{number:06d}.parquet"
        write_table(path, pa.Table.from_pylist(part, decisions.SCHEMA))


def called(work: Workspace) -> None:
    """Four calls of `a` as a judge, one of them a retry, and one of `b` for attributes; `b` was given up."""
    work.calls.mkdir()
    rows = [
        # key, annotator, purpose, seconds, status, tokens, usd, unsure usd
        ("1", "a", "judge", 2.0, "ok", 100, 10, 0.25, 0.0),
        ("2", "a", "judge", 9.0, "timeout", None, None, 0.0, 0.125),
        ("2", "a", "judge", 4.0, "invalid", 100, 20, 0.25, 0.0),
        ("3", "a", "judge", None, "lost", None, None, 0.0, 0.125),
        ("4", "b", "attributes", 1.0, "ok", 50, 5, 0.5, 0.0),
    ]
    with sqlite3.connect(work.calls / FILE) as connection:
        require_version(connection, work.calls / FILE, make=True)
        for key, annotator, purpose, seconds, status, tokens_in, tokens_out, usd, unsure in rows:
            connection.execute(
                "INSERT INTO calls VALUES (NULL, ?, ?, ?, 0, ?, ?, ?, ?, ?, ?, '')",
                (key, annotator, purpose, seconds, status, tokens_in, tokens_out, usd, unsure),
            )
        connection.execute("INSERT INTO notes VALUES (0, 'b', 'server error: <503>')")
    connection.close()


def test_facts_are_those_of_the_files(curated: Workspace) -> None:
    report = {"funnel": {"kept": 6}}
    (curated.root / "preprocess").mkdir()
    (curated.root / "preprocess" / "report.json").write_text(json.dumps(report))
    told = facts(curated)
    assert json.loads(json.dumps(told)) == told | {"calls": json.loads(json.dumps(told["calls"]))}  # plain values
    assert told["preprocess"] == report
    assert told["config"]["out"] == curated.config.out
    assert told["iterations"] == [{"iteration": 0} | SUMMARY, {"iteration": 1} | SUMMARY]

    # p3 has no vote, p4 is undecidable, p9 is of an unfinished iteration.
    objective = {"pairs": 3, "agree": 1, "none": 2}  # p0; not p1 and p8, on which they do not agree
    assert told["annotators"] == [
        {
            "objectivity": "Objective",
            "merged": objective,
            "models": {"a": {"pairs": 3, "agree": 1, "none": 1}, "b": {"pairs": 3, "agree": 3, "none": 0}},
        },
        {
            "objectivity": "Subjective",
            "merged": {"pairs": 2, "agree": 1, "none": 0},
            "models": {"a": {"pairs": 2, "agree": 1, "none": 0}, "b": {"pairs": 1, "agree": 1, "none": 0}},
        },
        {
            "objectivity": "unknown",
            "merged": {"pairs": 1, "agree": 1, "none": 0},
            "models": {"a": {"pairs": 1, "agree": 1, "none": 0}, "b": {"pairs": 1, "agree": 1, "none": 0}},
        },
    ]
    assert told["filters"] == [
        {"who": "best", "keep": {"pairs": 2, "right": 1}, "flip": {"pairs": 1, "right": 1}},  # not sure of p6
        {"who": "annotators", "keep": {"pairs": 2, "right": 1}, "flip": {"pairs": 2, "right": 2}},
        {"who": "best and annotators", "keep": {"pairs": 1, "right": 0}, "flip": {"pairs": 1, "right": 1}},
    ]
    assert told["models"]["best"] == {"trained_on": 9, "checkpoint": "c", "correct": 4, "ties": 1, "pairs": 6}
    assert told["models"]["gold"]["trained_on"] == 6


def test_decisions_and_agreement_are_counted_over_all_parts(curated: Workspace) -> None:
    told = facts(curated)
    assert told["decisions"] == [
        {"decision": "kept", "by": "gold+best", "pairs": 3},
        {"decision": "discarded", "by": "gold model alone", "pairs": 1},
        {"decision": "flipped", "by": "human", "pairs": 1},
        {"decision": "kept", "by": "human", "pairs": 1},
    ]
    tables = {(one["one"], one["other"]): one["pairs"] for one in told["agreement"]}
    assert tables == {
        ("human", "gold"): {"original": {"original": 1}, "flipped": {"original": 1}},
        ("human", "best"): {"original": {"none": 1}, "flipped": {"original": 1}},
        ("human", "annotators"): {"original": {"original": 1}, "flipped": {"flipped": 1}},
        ("gold", "best"): {"original": {"none": 1, "original": 4}, "flipped": {"original": 1}},
        ("gold", "annotators"): {"original": {"original": 1, "none": 1, "flipped": 1}},
        ("best", "annotators"): {"none": {"original": 1}, "original": {"none": 1, "flipped": 1}},
    }


def test_calls_and_measurements(curated: Workspace) -> None:
    told = facts(curated)
    attributes, judge = sorted(told["calls"], key=lambda one: one["purpose"])
    assert (judge["annotator"], judge["calls"], judge["retries"]) == ("a", 4, 1)
    assert judge["statuses"] == {"invalid": 1, "lost": 1, "ok": 1, "timeout": 1}
    assert (judge["input_tokens"], judge["output_tokens"]) == (200, 30)
    assert (judge["usd"], judge["unsure_usd"], judge["seconds"]) == (0.5, 0.25, 3.0)
    assert (attributes["annotator"], attributes["usd"]) == ("b", 0.5)
    assert [note.endswith("server error: <503>") for note in attributes["notes"]] == [True]
    assert [(one["stage"], one["arm"]) for one in told["measured"]] == [
        ("iteration 1", "filtered"),
        ("stage 2", "original"),
    ]


def test_the_page_takes_what_a_folder_gives(curated: Workspace, tmp_path: Path) -> None:
    curation_page(tmp_path / "report.html", facts(curated))
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "server error: &lt;503&gt;" in text and "server error: <503>" not in text
    assert "The best model was trained on 9 silver pairs; its checkpoint gets 4 of 6 gold pairs" in text


def test_what_is_not_there_yet_is_left_out(tmp_path: Path) -> None:
    work = workspace(tmp_path)
    told = facts(work)
    assert set(told) == {"config", "iterations", "annotators", "filters", "models", "calls", "measured"}
    assert not any(told[name] for name in told.keys() - {"config", "filters"})
    assert not any(one[side]["pairs"] for one in told["filters"] for side in ("keep", "flip"))
    curation_page(tmp_path / "report.html", told)


def test_an_annotator_may_have_any_name() -> None:
    known = [Verified("original", "Objective", {"merged": "flipped"}, "original", 0.9)]
    (found,) = by_objectivity(known)
    assert (found["merged"]["agree"], found["models"]["merged"]["agree"]) == (1, 0)


def test_a_filter_counts_by_its_own_word_not_by_that_of_people() -> None:
    known = [Verified(people, "Objective", {}, None, p) for people, p in (("original", 0.1), ("flipped", 0.1))]
    best, annotators, both = filters(known, 0.1)
    assert best["flip"] == {"pairs": 2, "right": 1} and best["keep"] == {"pairs": 0, "right": 0}
    assert annotators["keep"] == annotators["flip"] == both["keep"] == both["flip"] == {"pairs": 0, "right": 0}
