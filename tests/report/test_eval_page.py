"""The page of an evaluation: what it says, what it never says of part of a benchmark, that it is safe and whole."""

import copy
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_run_page import Page

from skyrm_jax.comparison import Comparison
from skyrm_jax.eval import heldout
from skyrm_jax.eval.benchmarks import BENCHMARKS
from skyrm_jax.eval.benchmarks.rm_bench import cell
from skyrm_jax.eval.pairs import describe_pairs
from skyrm_jax.eval.paper_tables import COLUMNS, FIGURES, V2, complete
from skyrm_jax.report import eval_section
from skyrm_jax.report.eval_page import correlations, eval_page, sizes
from skyrm_jax.report.eval_plots import curve_plot, reliability_plot
from skyrm_jax.report.eval_runs import Run, mark, runs_of

NASTY = "<script>alert('x')</script> & \"co\" $x_1$"


def figure(value: float, **other: Any) -> dict[str, Any]:
    return {
        "value": value,
        "low": value - 2.0,
        "high": value + 1.5,
        "total": 200,
        "correct": None,
        "ties": None,
    } | other


def result(name: str, value: float, **other: Any) -> dict[str, Any]:
    sections = {"Parts": {"A part": figure(value, correct=141, ties=3), "Mean": figure(value)}}
    return {
        "title": BENCHMARKS[name].title if name in BENCHMARKS else "Held out",
        "sections": sections,
        "headline": ["Parts", "Mean"],
        "partial": [],
        "notes": [],
        "curves": {},
        "matrices": {},
        "pairs": None,
    } | other


def run(name: str = "mine", parameters: int | None = None, **other: Any) -> dict[str, Any]:
    """A whole evaluation of the seven benchmarks: 61.25, 62.25, ... of their headlines. Plots need `parameters`."""
    results = {one: result(one, 61.25 + i) for i, one in enumerate(BENCHMARKS)}
    return {
        "name": name,
        "manifest": {
            "created": "2026-01-02T03:04:05+00:00",
            "command": ["skyrm", "eval", "--out", "a b"],
            "rewards": {"checkpoint": "runs/x", "parameters": parameters, "max_tokens": 16384},
            "sets": {one: {"comparisons": 1234, "content_sha256": one} for one in results},
            "ties": "an exact tie is wrong",
        },
        "results": results,
        "average": 64.25,
        "absent": [],
        "against": {},
    } | other


def held_out(**other: Any) -> dict[str, Any]:
    return run(results={"held-out": result("held-out", 71.5, **other)}, average=None)


def written(folder: Path, *runs: dict[str, Any]) -> str:
    eval_page(folder / "report.html", runs)
    return (folder / "report.html").read_text(encoding="utf-8")


def overview(page: Page, name: str) -> list[str]:
    """The cells of the row that begins with `name`, white space apart."""
    rows = (["".join(cell.split()) for cell in row] for row in page.rows)
    return next(row[1:] for row in rows if row and row[0].endswith("".join(name.split())) and len(row) > 5)


def test_figures_stand_with_their_intervals_beside_published_ones(tmp_path: Path) -> None:
    page = Page(written(tmp_path, run(average_interval=[63.5, 65.0])))
    cells = [f"{61.25 + i:.1f}{59.25 + i:.1f}to{62.75 + i:.1f}" for i in range(7)]
    assert overview(page, "mine") == [*cells, "64.263.5to65.0"]
    for name, row in V2.items():
        assert overview(page, name.removeprefix("Skywork-Reward-V2-")) == [f"{v:.1f}" for v in row]
    for name, row in FIGURES.items():
        if name not in V2:
            assert overview(page, name) == ["–" if v is None else f"{v:.1f}" for v in row]
    assert "Published: Skywork-Reward-V2, arXiv 2507.01352" in page.text
    assert page.values["A part"] == ["67.25", "65.2 to 68.8", "", "141 of 200", "3"]  # the last set's: JudgeBench
    assert ["Mean", "61.25", "59.2 to 62.8", "", "of 200", ""] in page.rows
    assert "2026-01-02 03:04 UTC" in page.text and "checkpoint runs/x, up to 16,384 tokens" in page.text
    assert "skyrm eval --out 'a b'" in page.text


def test_part_of_a_benchmark_is_marked_and_never_beside_published_figures(tmp_path: Path) -> None:
    whole, part = run(), run(average=None)
    missing = "Easy: 3 of 441 records"
    part["results"]["rm-bench"]["partial"] = [missing]
    part["results"]["rm-bench"]["sections"] = {"Summary": {name: figure(50.0) for name in ("Easy", "Normal", "Hard")}}
    part["results"]["rm-bench"]["headline"] = ["Summary", "Easy"]
    page = Page(written(tmp_path, part, whole | {"name": "other"}))
    assert missing in page.text
    assert "Partial: RM-Bench: part of the data is missing" in page.text
    assert "Partial: not comparable with published figures." in page.text
    assert overview(page, "mine")[5] == "50.048.0to51.5partial" and overview(page, "mine")[7] == "–"
    assert overview(page, "other")[5] == "66.264.2to67.8"
    assert "RM-Bench partial" in page.headings
    assert "headline figure, of part of the data" in page.text
    assert ["Qwen3-0.6B", "90.3", "78.0", "54.8"] not in page.rows
    assert "Published parts of the figure are not shown beside these" in page.text
    # Whole, it stands beside them.
    part["results"]["rm-bench"]["partial"] = []
    page = Page(written(tmp_path, part))
    assert ["Qwen3-0.6B", "90.3", "78.0", "54.8"] in page.rows
    assert "not comparable" not in page.text and "Partial" not in page.text
    assert not any("partial" in cell for row in page.rows for cell in row)


def test_plots_and_correlations_leave_parts_of_benchmarks_out() -> None:
    mine, other = run(parameters=596_049_920), run("other")
    assert [title for title, _ in sizes(runs_of([mine, other]))] == ["Average of the seven", *COLUMNS]
    assert sizes(runs_of([other])) == []  # nobody knows its parameters
    found = correlations(runs_of([mine, other]))
    assert (found.published, found.runs) == (len(complete()), 2)
    mine["results"]["rmb"]["partial"] = ["something"]
    runs = runs_of([mine, other])
    # The file's average is then no average of seven whole figures, whatever it says.
    assert [title for title, _ in sizes(runs)] == [column for column in COLUMNS if column != "RMB"]
    assert runs[0].average is None and runs[1].average == 64.25
    assert correlations(runs).runs == 1
    rows = np.array([row[:7] for row in complete().values()])
    only_published = np.array([r for _, r in correlations(runs[:1]).rows])
    np.testing.assert_allclose(only_published, np.corrcoef(rows.T))
    assert np.abs(np.array([r for _, r in found.rows]) - only_published).max() > 1e-3


def test_what_a_reader_must_know_first(tmp_path: Path) -> None:
    data = run(absent=["ppe-preference"], average=None)
    del data["results"]["ppe-preference"]
    data["manifest"]["sets"]["rmb"]["counts"] = {"truncated": 12, "dropped": 3}
    data["manifest"]["sets"]["judgebench"]["bad_records"] = 4
    data["results"]["judgebench"]["pairs"] = {"pairs": 620, "ties": 11}
    data["results"]["rmb"]["sections"]["Parts"]["Mean"]["ties"] = 7
    text = " ".join(Page(written(tmp_path, data)).text.split())
    assert "Not evaluated: PPE Preference" in text
    assert "RMB: 12 of 1,234 truncated: comparisons were longer than 16,384 tokens" in text
    assert "RMB: 3 dropped" in text and "JudgeBench: 4 bad records" in text
    assert "Exactly equal rewards: RMB: 7 of 200, JudgeBench: 11 of 620; an exact tie is wrong" in text
    assert "Exactly" not in Page(written(tmp_path, run())).text


@pytest.mark.parametrize(
    ("origin", "said"),
    [
        ({"baseline": "length"}, "baseline length"),
        ({"file": "r.parquet"}, "rewards read from r.parquet"),
        ({"endpoint": "h:1", "model": "m"}, "endpoint h:1, model m"),
        ({"checkpoint": "c", "step": 3000, "parameters": 1_720_000_000}, "checkpoint c, step 3,000, 1.72 B parameters"),
        ({}, "rewards of unknown origin"),
    ],
)
def test_what_was_scored(origin: dict[str, Any], said: str) -> None:
    assert Run("a", mark(0), {"manifest": {"rewards": origin}}).scored() == said


def test_runs_look_different() -> None:
    assert len({(mark(i).color, mark(i).marker) for i in range(20)}) == 20


def test_whatever_users_write_is_escaped(tmp_path: Path) -> None:
    data = run(NASTY)
    data["manifest"]["rewards"]["checkpoint"] = NASTY
    data["manifest"]["command"] = [NASTY]
    of = data["results"]["rmb"]
    of["partial"] = of["notes"] = [NASTY]
    of["sections"][NASTY] = {NASTY: figure(50.0)}
    of["curves"] = {NASTY: curve(40.0)}
    data["against"] = {NASTY: {"rmb": {NASTY: {NASTY: {"value": 1.0, "low": 0.5, "high": 2.0}}}}}
    data["results"]["held-out"] = result("held-out", 50.0, title=NASTY)
    text = written(tmp_path, data, run(NASTY))
    assert "<script" not in text and "alert('x')" not in text
    assert "<title>&lt;script&gt;" in text
    page = Page(text)
    assert NASTY in page.headings and f"{NASTY} less {NASTY}" in page.headings
    assert f"{NASTY} (2)" in page.text  # two runs of one name can be told apart
    assert [NASTY, "+1.00", "+0.50 to +2.00", "", "▲ higher"] in page.rows


def test_the_page_needs_nothing_but_itself_and_follows_light_and_dark(tmp_path: Path) -> None:
    data = held_out(curves={"a": curve(40.0), "b": curve(50.0)}, pairs=some_pairs())
    data["results"] |= run()["results"]
    data["average"], data["manifest"]["rewards"]["parameters"] = 64.25, 596_049_920
    text = written(tmp_path, data, run("other"))
    page = Page(text)
    linked = [value for _, found in page.tags for name, value in found.items() if name in ("src", "href", "xlink:href")]
    assert linked and all(link and link.startswith("#") for link in linked)
    names = [found["id"] for _, found in page.tags if "id" in found]
    assert len(names) == len(set(names))
    assert {link[1:] for link in linked if link} <= set(names)
    assert {"script", "link", "img", "iframe"}.isdisjoint(tag for tag, _ in page.tags)
    assert "@import" not in text and "url(http" not in text
    assert "prefers-color-scheme: dark" in text and 'name="viewport"' in text
    # A fixed colour would be lost on one of the two grounds.
    assert not re.findall(r"(?:fill|stroke): #[0-9a-f]{6}", text[text.index("<svg") :])
    labels = [found["aria-label"] for tag, found in page.tags if tag == "svg"]
    assert len(set(labels)) == len(labels) >= 8 + 3
    assert written(tmp_path, data, run("other")) == text


def curve(last: float, **other: Any) -> dict[str, Any]:
    reward = [30.0, 35.0, last]
    around = {"low": [v - 1 for v in reward], "high": [v + 1 for v in reward]}
    rest = {"oracle": [30.0, 60.0, 90.0], "random": [30.0] * 3, "offering": [50, 50, 20], "comparisons": 50}
    loss = {"loss": 0.0625, "loss_low": 0.05, "loss_high": 0.075}
    return {"n": [1, 2, 3], "reward": reward, **around, **rest, **loss} | other


def some_pairs(**other: Any) -> dict[str, Any]:
    bins = [
        {"low": 0.5, "high": 0.55, "pairs": 30, "confidence": 0.52, "right": 0.5, "interval": [0.25, 0.75]},
        {"low": 0.95, "high": 1.0, "pairs": 70, "confidence": 0.98, "right": 0.875},
    ]
    fitted = {"temperature": 2.5, "fitted_ece": 0.01, "fitted_log_loss": 0.4}
    of = {"ece": [0.07, 0.09], "log_loss": [0.45, 0.55], "fitted_ece": [0.005, 0.02], "fitted_log_loss": [0.35, 0.45]}
    intervals = {"more": [77.5, 82.5], "less": [45.0, 77.5], "gap": [1.0, 34.0]}
    length = {"correlation": 0.25, "low": 0.125, "high": 0.375, "more": [80.0, 1060], "less": [62.5, 40], "gap": 17.5}
    none = {"correlation": None, "low": None, "high": None, "more": None, "less": None, "gap": None, "intervals": {}}
    return {
        "pairs": 100,
        "ties": 2,
        "length": length | {"intervals": intervals},
        "markdown": none,
        "calibration": {
            "bins": bins,
            "ece": 0.0795,
            "log_loss": 0.5,
            **fitted,
            "intervals": of | {"temperature": [2.0, 3.25]},
        },
    } | other


def test_curves_of_other_evaluations_are_drawn_if_they_are_of_the_same_comparisons(tmp_path: Path) -> None:
    mine = held_out(curves={"All": curve(40.0)})
    other = mine | {"name": "other", "results": {"held-out": result("held-out", 60.0, curves={"All": curve(70.0)})}}
    text = written(tmp_path, mine, other)
    assert "Over 50 comparisons, 20 of which have 3 responses" in text and "oracle 0.0625 (0.0500 to 0.0750)" in text
    svg = re.compile(r"<svg.*?</svg>", re.DOTALL)
    (both,) = svg.findall(text)
    assert "var(--orange)" in both
    other["manifest"] = {"sets": {"held-out": {"content_sha256": "2"}}}
    mine["manifest"] = {"sets": {"held-out": {"content_sha256": "1"}}}
    text = written(tmp_path, mine, other)
    (alone,) = svg.findall(text)
    assert "var(--orange)" not in alone and "var(--blue)" in alone
    assert [row[1].split()[-2:] for row in Page(text).rows if "other" in row[0]] == [["other", "data"]]


def test_biases_and_calibration_in_words(tmp_path: Path) -> None:
    text = " ".join(Page(written(tmp_path, held_out(pairs=some_pairs()))).text.split())
    assert "Over 100 pairs, 2 of them exactly tied" in text
    assert "r = 0.25 (0.12 to 0.38)" in text
    assert "Right on 80.0 % (77.5 to 82.5) of the 1,060 pairs whose better response has more" in text
    assert "and on 62.5 % (45.0 to 77.5) of the 40 pairs whose better response has less." in text
    assert "A gap of +17.5 (1.0 to 34.0) points" in text
    assert "Number of markdown elements. The rewards, or the responses, do not differ in it" in text
    assert "Expected calibration error 8.0 (7.0 to 9.0) points, log loss 0.5000 (0.4500 to 0.5500)" in text
    assert "temperature 2.5 (2 to 3.25) fit these very pairs best, so the model is too sure of itself" in text
    assert "then the error is 1.0 (0.5 to 2.0) points and the log loss 0.4000 (0.3500 to 0.4500)" in text
    given = some_pairs()
    given["calibration"]["intervals"]["temperature"] = [0.75, 3456.7]
    text = " ".join(Page(written(tmp_path, held_out(pairs=given))).text.split())
    assert "2.5 (0.75 to 3,457) fit" in text and "may be either too sure of itself or not sure enough" in text
    del given["calibration"]["intervals"]["temperature"], given["length"]["intervals"]["gap"]
    text = " ".join(Page(written(tmp_path, held_out(pairs=given))).text.split())
    assert "2.5 (too uncertain for an interval) fit these very pairs best, so the model seems too sure of" in text
    assert "of +17.5 points" in text
    given = some_pairs(length=None, markdown=None)
    given["calibration"] |= {"temperature": None, "fitted_ece": None, "fitted_log_loss": None}
    text = written(tmp_path, held_out(pairs=given))
    assert "No temperature fits" in text and "markdown" not in text


def test_figures_off_the_scale_have_no_place_on_it() -> None:
    on, below, above = (eval_section.row("x", {"value": v, "low": v - 1, "high": v + 1}) for v in (50.0, 0.5, 99.5))
    assert on.strip == (49.0, 50.0, 51.0) and below.strip is above.strip is None
    assert below.interval == "-0.5 to 1.5"


def test_runs_of_one_colour_differ_in_curves_of_many_responses() -> None:
    curve = {name: list(range(32)) for name in ("n", "reward", "oracle", "random", "low", "high")}
    curves = [(mark(number), curve) for number in range(5)]  # the last has the first one's colour
    assert mark(4).color == mark(0).color
    with_it, without = (str(curve_plot(some, "c", "curve")).count("<use") for some in (curves, curves[:-1]))
    assert with_it - without == 11  # of 32 points every third has a marker


def test_trivial_rules_are_no_models_to_correlate() -> None:
    rule = run("length")
    rule["manifest"]["rewards"] = {"baseline": "length"}
    models, with_rule = (correlations(runs_of(some)) for some in ([run()], [run(), rule]))
    assert models == with_rule and models.runs == 1


def test_points_of_the_reliability_curve_have_their_intervals() -> None:
    bins = some_pairs()["calibration"]["bins"]
    bare = [{key: value for key, value in one.items() if key != "interval"} for one in bins]
    lines = [reliability_plot(of, "r", "reliability").count("<path") for of in (bins, bare)]
    assert lines[0] == lines[1] + 1


def test_differences_say_which_are_more_than_noise(tmp_path: Path) -> None:
    def differs(value: float, low: float, high: float) -> dict[str, float]:
        return {"value": value, "low": low, "high": high}

    shown = {"Mean": differs(2.0, 0.04, 3.5), "A part": differs(-1.0, -3.0, 0.0), "Not shown": differs(9.0, 8.0, 10.0)}
    lower = {"Mean": differs(-4.0, -6.0, -2.0)}
    data = run(against={"other": {"rmb": {"Parts": shown}, "judgebench": {"Parts": lower}}})
    data["results"]["judgebench"]["partial"] = ["part"]
    data["compared"] = {"other": {"rmb": {"comparisons": 9, "of": 9}, "judgebench": {"comparisons": 5, "of": 9}}}
    data["mean_less"] = {"other": differs(1.0, 0.5, 1.5)}
    page = Page(written(tmp_path, data, run("other")))
    assert ["Mean of seven", "+1.00", "+0.50 to +1.50", "", "▲ higher"] in page.rows
    assert "JudgeBench: over the 5 of 9 comparisons that both models could read." in page.text
    assert page.text.count("that both models could read") == 1
    assert page.rows.count(["RMB", "+2.00", "+0.04 to +3.50", "", "▲ higher"]) == 1
    assert ["JudgeBench partial", "-4.00", "-6.00 to -2.00", "", "▼ lower"] in page.rows
    assert ["A part", "-1.00", "-3.00 to +0.00", "", "not clear"] in page.rows  # 0 is not excluded
    assert "Not shown" not in page.text
    assert "2 of all 3 intervals exclude 0" in page.text
    assert "Differences from other evaluations" not in Page(written(tmp_path, run())).headings


def test_matrices_and_long_tables(tmp_path: Path) -> None:
    matrix = [[83.61, 3.83, 2.19], [99.45, 66.12, 49.73], [100.0, 80.33, 66.67]]
    data = run()
    data["results"]["rm-bench"]["matrices"] = {"chat": matrix}
    data["results"]["rmb"]["sections"]["Scenarios"] = {f"S{i}": figure(50.0) for i in range(30)}
    page = Page(written(tmp_path, data))
    assert ["detailed plain", "99.5", "66.1", "49.7"] in page.rows
    cells = {cell(i, j): figure(matrix[i][j]) for i in range(3) for j in range(3)}
    data["results"]["rm-bench"]["sections"]["chat"] = {"Hard": figure(18.5)} | cells
    page = Page(written(tmp_path, data))
    shown = ["99.597.5 to 101.0", "66.164.1 to 67.6", "49.747.7 to 51.2"]
    assert ["detailed plain", *shown] in [["".join(one.split("\n")) for one in row] for row in page.rows]
    assert "18.50" in page.values["Hard"] and not any("over" in name for name in page.values)  # once on the page
    assert "Scenarios: 30 figures" in page.text and "Scenarios" not in page.headings
    assert "S29" in page.values


def test_any_part_may_be_missing(tmp_path: Path) -> None:
    page = Page(written(tmp_path, {"name": "bare"}))
    assert "Overview" in page.headings and "Skywork" not in page.text
    assert "None was written." in page.text
    page = Page(written(tmp_path, held_out()))
    assert "Skywork" not in page.text and "Across models" not in page.headings
    assert not [tag for tag, _ in page.tags if tag == "svg"]
    assert [h for h in page.headings if h in (*COLUMNS, "Held out")] == ["Held out"]
    nothing = {"title": "Held out", "sections": {"Pair accuracy": {}}, "headline": None, "notes": ["no preference"]}
    assert "no preference" in Page(written(tmp_path, run(results={"held-out": nothing}))).text
    unknown = result("held-out", 50.0)
    unknown["sections"]["Parts"]["Mean"] |= {"low": float("nan"), "high": None}
    text = written(tmp_path, run(results={"held-out": unknown}))
    assert not re.search(r"\bnan\b", text, re.IGNORECASE)
    with pytest.raises(ValueError, match="no evaluation"):
        eval_page(tmp_path / "none.html", [])


def test_the_manifest_is_whole(tmp_path: Path) -> None:
    data = run()
    data["manifest"]["rewards"]["versions"] = {"jax": "0.8"}
    page = Page(written(tmp_path, data, run("other") | {"manifest": {"python": "3.99"}}))
    assert ["versions", '{\n "jax": "0.8"\n}'] in page.rows and ["max_tokens", "16384"] in page.rows
    assert ["content_sha256", '"judgebench"'] in page.rows and "set judgebench" in page.headings
    assert ["python", '"3.99"'] in page.rows


def test_it_takes_what_an_evaluation_makes(tmp_path: Path) -> None:
    """Real figures, curves, pairs and differences of two models, through their own dictionaries."""
    rng = np.random.default_rng(0)
    held = [
        Comparison.of(prompt="p", responses=["a" * int(rng.integers(1, 50)) for _ in range(3)], chosen=0, id=f"{i}")
        for i in range(40)
    ]
    styles = [
        Comparison.of(
            prompt="p",
            responses=["x" * int(rng.integers(1, 50)) for _ in range(6)],
            chosen=[0, 1, 2],
            id=f"chat/{i}",
            category="chat",
        )
        for i in range(40)
    ]
    sets = {"rm-bench": styles, "held-out": held}
    scorers = {"rm-bench": BENCHMARKS["rm-bench"], "held-out": heldout}
    models = [
        {name: [rng.normal(size=len(c.responses)) for c in comparisons] for name, comparisons in sets.items()}
        for _ in range(2)
    ]
    runs = []
    for number, rewards in enumerate(models):
        found = {
            name: {
                "title": name,
                **scorers[name].score(sets[name], rewards[name]).to_dict(),
                "pairs": describe_pairs(sets[name], rewards[name]),
            }
            for name in sets
        }
        runs.append(run(f"model {number}", results=found, average=None))
    less = {
        name: scorers[name].table(sets[name], models[0][name]).less(scorers[name].table(sets[name], models[1][name]))[0]
        for name in sets
    }
    runs[0]["against"] = {
        "model 1": {
            name: {part: {key: asdict(one) for key, one in of.items()} for part, of in parts.items()}
            for name, parts in less.items()
        }
    }
    before = copy.deepcopy(runs)
    page = Page(written(tmp_path, *runs))
    assert runs == before
    chat = runs[0]["results"]["rm-bench"]["sections"]["chat"]["Hard"]
    assert ["Hard", f"{chat['value']:.2f}", f"{chat['low']:.1f} to {chat['high']:.1f}", "", "of 120", "0"] in page.rows
    assert "math: 0 of 529 records" in page.text
    all_pairs = runs[0]["results"]["held-out"]["sections"]["Pair accuracy"]["All pairs"]
    assert f"{all_pairs['correct']} of 80" in page.text
    paired = less["held-out"]["Pair accuracy"]["All pairs"]
    assert page.values["All pairs"][:2] == [f"{paired.value:+.2f}", f"{paired.low:+.2f} to {paired.high:+.2f}"]
