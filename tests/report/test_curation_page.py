"""The page of a curation: its numbers are those of the facts, whatever users write is escaped, any part may be missing."""

import re
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from test_run_page import Page

from skyrm_jax.curate.account import REASONS
from skyrm_jax.report.curation_page import FIGURE_7, TABLE_14, TABLE_19, Share, curation_page, funnel, print_curation

NASTY = "<script>alert('x')</script> & \"co\" $x_1$"


def preprocessed(**other: Any) -> dict[str, Any]:
    funnel = {
        "records": 120_000,
        "bad": 7,
        "undecided": 1_000,
        "identical_responses": 93,
        "used": 118_900,
        "preferences": 130_100,
        "undecided_preferences": 100,
        "pairs": 130_000,
        "identical": 0,
        "duplicate": 9_000,
        "contradictory": 800,
        "contaminated": 200,
        "near_duplicate": 10_000,
        "kept": 110_000,
        "contaminated_by": {"rmb": 150, "held out.jsonl": 50},
    }
    found = {"found": True, "prompts": 2_985, "ngrams": 91_234, "short_prompts": 17}
    return {
        "made_of": {"options": {"overlap": 1, "ngram": 13}},
        "revisions": {"hub://a/b": "abc123"},
        "funnel": funnel,
        "files": {"one.jsonl": funnel, "two.jsonl": funnel | {"records": 77_777}},
        "bad": {"no chosen response": 5, "not JSON": 2},
        "contamination": {
            "rmb": found | {"pairs": 160},
            "held out.jsonl": found | {"pairs": 66, "prompts": 500},
            "rm-bench": {"found": False, "prompts": 0, "ngrams": 0, "short_prompts": 0, "pairs": 0},
        },
    } | other


def iterations() -> list[dict[str, Any]]:
    first = {
        "iteration": 0,
        "pairs": 2_000,
        "verified": 60,
        "people": {"original": 35, "flipped": 20, "none": 5},
        "annotators": {"original": 1_210, "flipped": 400, "none": 390},
        "gold_so_far": 55,
        "silver_so_far": 1_180,
        "best_checkpoint": None,
        "best_accuracy_on_gold": None,
    }
    later = {
        "annotators": {"original": 1_000, "flipped": 700, "none": 297, "unlabelled": 3},
        "gold_so_far": 111,
        "silver_so_far": 2_150,
        "best_checkpoint": "c",
        "best_accuracy_on_gold": 44 / 55,
    }
    return [first, first | later | {"iteration": 1}]


def call(annotator: str = "model-a", purpose: str = "judge", **other: Any) -> dict[str, Any]:
    return {
        "annotator": annotator,
        "purpose": purpose,
        "calls": 4_025,
        "retries": 31,
        "statuses": {"invalid": 20, "lost": 4, "ok": 3_990, "rate_limited": 11},
        "input_tokens": 5_000_123,
        "output_tokens": 40_456,
        "usd": 12.5,
        "unsure_usd": 0.75,
        "seconds": 1.25,
        "notes": (),
    } | other


def measured(stage: str, arm: str, value: float, **other: Any) -> dict[str, Any]:
    headlines = {"held-out": {"value": value, "low": value - 1.5, "high": value + 1.25}}
    return {"stage": stage, "arm": arm, "pairs": 12_345, "headlines": headlines, "average": None} | other


def told(**other: Any) -> dict[str, Any]:
    """A whole curation."""
    config = {
        "out": "runs/curation",
        "budget": 50.0,
        "annotators": [{"name": "model-a", "model": "m"}],
        "preprocess": {"benchmarks": "data", "ngram": 13},
        "humans": {"budget": 60},
        "stage1": {"iterations": 1},
        "measure": {"stages": "all"},
    }
    decisions = [("kept", "gold+best", 80_000), ("kept", "human", 70), ("flipped", "gold+annotators", 20_000)]
    decisions.append(("discarded", "gold model unsure", 9_930))
    verdicts = {"original": {"original": 60, "flipped": 15}, "flipped": {"original": 5, "none": 20}}
    agreed = {"pairs": 50, "agree": 30, "none": 10}
    return {
        "config": config,
        "preprocess": preprocessed(),
        "iterations": iterations(),
        "annotators": [{"objectivity": "Objective", "merged": agreed | {"agree": 36}, "models": {"model-a": agreed}}],
        "filters": [
            {"who": "best", "keep": {"pairs": 40, "right": 31}, "flip": {"pairs": 0, "right": 0}},
            {"who": "annotators", "keep": {"pairs": 0, "right": 0}, "flip": {"pairs": 0, "right": 0}},
        ],
        "models": {"best": {"trained_on": 2_150, "checkpoint": "c", "correct": 90, "ties": 0, "pairs": 111}},
        "decisions": [dict(zip(("decision", "by", "pairs"), one, strict=True)) for one in decisions],
        "agreement": [
            {"one": "human", "other": "annotators", "pairs": verdicts},
            {"one": "human", "other": "gold", "pairs": {}},
        ],
        "calls": [call(), call(purpose="attributes", usd=0.25, unsure_usd=0.0, statuses={"ok": 4_025})],
        "measured": [
            measured("iteration 1", "original", 61.5),
            measured("iteration 1", "corrected", 70.25),
            measured("stage 2", "corrected", 75.0),
        ],
    } | other


def written(folder: Path, facts: dict[str, Any]) -> str:
    curation_page(folder / "report.html", facts)
    return (folder / "report.html").read_text(encoding="utf-8")


def flat(page: Page) -> list[list[str]]:
    """The rows of all tables, white space apart."""
    return [[" ".join(cell.split()) for cell in row] for row in page.rows]


def test_the_funnel_in_numbers_with_reasons(tmp_path: Path) -> None:
    page = Page(written(tmp_path, told()))
    rows = flat(page)
    for row in (
        ["records", "120,000", ""],
        ["bad", "7", "< 0.1"],
        ["ties and records without a label", "1,000", "0.8"],
        ["used", "118,900", "99.1"],
        ["pairs in these", "130,000", ""],
        ["identical sides", "0", "0.0"],
        ["prompt nearly that of an earlier pair", "10,000", "7.7"],
        ["in the pool", "110,000", "84.6"],
        ["looked at", "4,000", "3.6"],
        ["verified by people", "120", "0.1"],
        ["kept", "80,070", "72.8"],
        ["turned round", "20,000", "18.2"],
        ["left out", "9,930", "9.0"],
        ["no chosen response", "5"],
    ):
        assert row in rows
    assert any(row[0] == "two.jsonl" and row[1] == "77,777" for row in rows)
    assert "120,000 records · 130,000 pairs · 110,000 in the pool · 111 decided by people" in " ".join(
        page.text.split()
    )


def test_every_pair_of_the_funnel_is_accounted_for() -> None:
    groups = {title: rows for title, rows in funnel(told())}
    pairs = groups["Pairs"]
    assert len(pairs) == len(REASONS) + 2
    assert pairs[0].count == sum(row.count for row in pairs[1:])
    assert groups["Records"][0].count == sum(row.count for row in groups["Records"][1:])
    assert sum(row.share or 0 for row in groups["Stage 2"]) == pytest.approx(100)


def test_benchmarks_kept_out(tmp_path: Path) -> None:
    page = Page(written(tmp_path, told()))
    rows = flat(page)
    assert ["rmb", "2,985", "91,234", "17", "160", "150"] in rows
    assert ["held out.jsonl", "500", "91,234", "17", "66", "50"] in rows
    assert ["rm-bench", "not found", "", "", "", ""] in rows
    assert "Prompts of these may be in the pool: RM-Bench: their files were not found" in page.text
    assert "shares an n-gram of 13 words with" in " ".join(page.text.split())
    several = preprocessed(made_of={"options": {"overlap": 3, "ngram": 8}})
    assert "shares 3 n-grams of 8 words" in " ".join(Page(written(tmp_path, told(preprocess=several))).text.split())


def test_stage_1_by_iteration(tmp_path: Path) -> None:
    page = Page(written(tmp_path, told()))
    rows = flat(page)
    assert ["0", "2,000", "1,210", "400", "390", "0", "60", "35", "20", "5", "55", "1,180", "–"] in rows
    (later,) = (row for row in rows if row[:2] == ["1", "2,000"])
    assert later[2:12] == ["1,000", "700", "297", "3", "60", "35", "20", "5", "111", "2,150"]
    # Of the gold pairs there were before it, not of those there are after it.
    assert later[12].split()[0] == "80.0" and later[12].endswith("44 of 55")
    assert "3 pairs of stage 1 without a verdict of annotators" in page.text
    assert "gets 90 of 111 gold pairs" in " ".join(page.text.split())
    assert "Not there yet" not in page.text


def test_decisions_and_agreement(tmp_path: Path) -> None:
    page = Page(written(tmp_path, told()))
    rows = flat(page)
    assert rows.index(["kept", "80,070", "72.8"]) < rows.index(["gold+best", "80,000", "72.7"])
    assert ["gold model unsure", "9,930", "9.0"] in rows
    assert ["right", "60 60.0 %", "15 15.0 %", "0 0.0 %"] in rows  # of the 100 that both judged
    assert ["wrong", "5 5.0 %", "0 0.0 %", "20 20.0 %"] in rows
    # Both prefer one of 80, the same of 60.
    assert ["people", "–", "–", "–", "75.0 of 80"] in rows and ["annotators", "75.0 of 80", "–", "–", "–"] in rows
    assert "People (rows) and annotators" in page.headings
    assert not any("gold model" in heading for heading in page.headings)  # that nobody else has judged


def test_models_against_people_beside_the_papers_figures(tmp_path: Path) -> None:
    page = Page(written(tmp_path, told()))
    rows = flat(page)
    assert ["model-a", "75.0 60 to 86 30 of 40 10 without", "–"] in rows
    assert ["all together", "90.0 77 to 96 36 of 40 10 without", "–"] in rows
    assert ["best model", "77.5 62 to 88 31 of 40", "–"] in rows
    assert not any(row[0] == "annotators" and "of 0" in "".join(row) for row in rows)
    for name, values in (TABLE_14 | TABLE_19).items():
        assert [name, *map(str, values)] in rows
    wide = told()
    wide["annotators"].append(wide["annotators"][0] | {"objectivity": "unknown"})
    assert ["language models alone", "75", "63", ""] in flat(Page(written(tmp_path, wide)))


def test_shares_have_wilsons_interval() -> None:
    # Wilson's formula by hand: (k + z^2/2)/(n + z^2) -+ z/(n + z^2) sqrt(k(n - k)/n + z^2/4), z = 1.959964.
    low, high = Share(8, 10).interval
    assert (low, high) == (pytest.approx(49.0162, abs=1e-3), pytest.approx(94.3318, abs=1e-3))
    assert Share(0, 0).percent is None and Share(0, 0).interval == (None, None)


def test_calls_and_costs(tmp_path: Path) -> None:
    given_up = call("model-b", usd=100.0, notes=("2026-01-02 03:04:05: server error: gone",))
    both = [given_up, given_up | {"purpose": "attributes"}]
    page = Page(written(tmp_path, told(calls=[*told()["calls"], *both])))
    rows = flat(page)
    others = "invalid 20, rate limited 11"
    counts = ["4,025", "3,990", others, "31", "4", "5,000,123", "40,456", "1.25", "12.50"]
    assert ["model-a", "judge", *counts] in rows
    assert ["model-a", "attributes", "4,025", "4,025", "–", "31", "0", "5,000,123", "40,456", "1.25", "0.2500"] in rows
    assert ["all", "", "16,100", "15,995", "", "124", "12", "20,000,492", "161,824", "", "212.75"] in rows
    text = " ".join(page.text.split())
    assert "The budget is USD 50.00." in text and "USD 2.25 at most may have been charged" in text
    assert text.count("server error: gone") == 1 and "Given up: model-b" in text


def test_scores_by_stage_and_the_papers_apart(tmp_path: Path) -> None:
    text = written(tmp_path, told())
    page = Page(text)
    rows = flat(page)
    assert ["as it came", "12,345", "61.5 60.0 to 62.8"] in rows
    assert ["filtered and corrected", "12,345", "75.0 73.5 to 76.2"] in rows
    assert ["stage 2", *(f"{FIGURE_7[arm][-1]}" for arm in ("original", "filtered", "corrected"))] in rows
    assert ["iteration 8", "72.1", "79.0", "83.0"] in rows and ["seed", "69.9", "71.0", "73.0"] in rows
    assert {"Held out", "For comparison: the paper's figure 7"} <= set(page.headings)
    labels = [found.get("aria-label") for tag, found in page.tags if tag == "svg"]
    assert "Held out: score by stage" in labels and "Average" not in text
    whole = [one | {"average": 66.5} for one in told()["measured"]]
    page = Page(written(tmp_path, told(measured=whole)))
    assert "Average of the seven benchmarks" in page.headings
    assert ["as it came", "12,345", "61.5 60.0 to 62.8", "66.5"] in flat(page)


def test_whatever_users_write_is_escaped(tmp_path: Path) -> None:
    facts = told(calls=[call(NASTY, NASTY, notes=(NASTY,), statuses={NASTY: 1})])
    facts["config"] |= {"out": NASTY, "annotators": [{"name": NASTY, "model": NASTY}]}
    facts["preprocess"]["contamination"][NASTY] = facts["preprocess"]["contamination"]["rmb"] | {"found": False}
    facts["preprocess"]["files"][NASTY] = facts["preprocess"]["funnel"]
    facts["preprocess"]["bad"][NASTY] = 1
    facts["annotators"][0] = {
        "objectivity": NASTY,
        "merged": {},
        "models": {NASTY: {"pairs": 1, "agree": 1, "none": 0}},
    }
    text = written(tmp_path, facts)
    assert "<script" not in text and "alert('x')" not in text
    assert "<title>&lt;script&gt;" in text
    page = Page(text)
    assert NASTY in page.headings and f"annotator {NASTY}" in page.headings
    console = Console(width=120)
    with console.capture() as capture:
        print_curation(console, told(calls=[call("[red]x")]))
    assert "[red]x, judge" in capture.get()


def test_the_page_needs_nothing_but_itself_and_follows_light_and_dark(tmp_path: Path) -> None:
    text = written(tmp_path, told())
    page = Page(text)
    linked = [value for _, found in page.tags for name, value in found.items() if name in ("src", "href", "xlink:href")]
    assert linked and all(link and link.startswith("#") for link in linked)
    names = [found["id"] for _, found in page.tags if "id" in found]
    assert len(names) == len(set(names))
    assert {link[1:] for link in linked if link} <= set(names)
    assert {"script", "link", "img", "iframe"}.isdisjoint(tag for tag, _ in page.tags)
    assert "@import" not in text and "url(http" not in text
    # A fixed colour would be lost on one of the two grounds.
    assert not re.findall(r"(?:fill|stroke): #[0-9a-f]{6}", text[text.index("<svg") :])
    labels = [found["aria-label"] for tag, found in page.tags if tag == "svg"]
    assert len(set(labels)) == len(labels) == 7
    assert written(tmp_path, told()) == text


@pytest.mark.parametrize(
    ("name", "step"),
    [
        ("preprocess", "preprocess"),
        ("iterations", "stage1"),
        ("decisions", "stage2"),
        ("agreement", None),
        ("annotators", None),
        ("filters", None),
        ("models", None),
        ("calls", "stage1"),
        ("measured", "measure"),
        ("config", None),
    ],
)
def test_any_part_may_be_missing(tmp_path: Path, name: str, step: str | None) -> None:
    facts = told()
    del facts[name]
    page = Page(written(tmp_path, facts))
    assert ("Not there yet" in page.text) == (step is not None)
    assert step is None or f"The step skyrm curate {step} makes it." in page.text
    assert sum(tag == "h2" for tag, _ in page.tags) == 9
    print_curation(Console(quiet=True), facts)


def test_a_curation_that_has_just_begun(tmp_path: Path) -> None:
    bare = {"config": told()["config"], **{name: [] for name in ("iterations", "annotators", "calls", "measured")}}
    page = Page(written(tmp_path, bare))
    assert page.text.count("Not there yet") == 8
    assert "2 of 2 iterations" in page.text and not [tag for tag, _ in page.tags if tag == "svg"]
    half = told(decisions=[], agreement=[])
    half["config"]["stage1"]["iterations"] = 4
    assert "Not there yet: 3 of 5 iterations" in Page(written(tmp_path, half)).text
    alone = told(annotators=[], filters=[], calls=[])
    alone["config"] |= {"humans": None, "annotators": []}
    text = Page(written(tmp_path, alone)).text
    assert "humans is null in the configuration" in text and "There are no annotators in the configuration." in text
    console = Console(width=80)
    with console.capture() as capture:
        print_curation(console, bare)
    assert "skyrm curate run" in capture.get()


def test_the_configuration_is_whole_and_folded(tmp_path: Path) -> None:
    page = Page(written(tmp_path, told()))
    rows = flat(page)
    assert ["out", '"runs/curation"'] in rows and ["budget", "50.0"] in rows
    assert ["iterations", "1"] in rows and ["hub://a/b", '"abc123"'] in rows
    assert "annotator model-a" in page.headings
    folded = written(tmp_path, told()).split("<summary>All options</summary>")
    assert "annotator model-a" in folded[1] and folded[0].rstrip().endswith("<details>")


def test_the_terminal_shows_the_funnel_decisions_and_costs() -> None:
    console = Console(width=100)
    with console.capture() as capture:
        print_curation(console, told())
    lines = [line.split() for line in capture.get().splitlines()]
    assert ["records", "120,000"] in lines
    assert ["in", "the", "pool", "110,000", "84.6"] in lines
    assert ["gold+best", "80,000", "72.7"] in lines
    assert ["model-a,", "judge", "4,025", "3,990", "31", "4", "12.50"] in lines
    assert any(line[:4] == ["Prompts", "of", "these", "may"] for line in lines)
