"""The page of a run: what it says for records whole, missing, null and none; that it is safe, whole and small."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from skyrm_jax.config import DataConfig, ModelConfig, RunConfig, TrainConfig
from skyrm_jax.errors import UserError
from skyrm_jax.report.plots import thinned
from skyrm_jax.report.run_page import PAGE, PANELS, columns_of, run_page

VOID = {"meta", "br"}


class Page(HTMLParser):
    """Checks that tags are balanced; collects rows of the tables, headings, links, and all text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self._open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.rows: list[list[str]] = []
        self.headings: list[str] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert self._open == []
        self.values = {row[0]: row[1:] for row in self.rows}

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self._open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("th", "td") and self.rows:
            self.rows[-1].append("")
        if tag in ("h2", "h3"):
            self.headings.append("")

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data
        if "small" in self._open and "tr" in self._open and "td" not in self._open:
            return  # notes are not part of a row's name
        if "h2" in self._open or "h3" in self._open:
            self.headings[-1] += data
        elif "tr" in self._open and self.rows[-1]:
            self.rows[-1][-1] += data.strip("\n")


def record(step: int, **other: Any) -> dict[str, Any]:
    return {
        "step": step,
        "loss": 0.5 + 0.1 / step,
        "accuracy": 0.75,
        "margin": 1.5,
        "reward_mean": 0.25,
        "reward_std": 2.0,
        "gradient_norm": 3.0,
        "learning_rate": 3e-6,
        "comparisons": 256,
        "micro_batches": 4,
        "row_fill": 0.9,
        "pairs_per_second": 12.5,
        "tokens_per_second": 12345.6,
        "unshared_tokens_per_second": 23456.7,
        "data_wait_seconds": 0.25,
        "seconds": 1.0,
        "mfu": 0.4,
        "checkpoint_seconds": 0.0,
        "goodput": 0.95,
        "skipped": 0,
    } | other


def config(**run: Any) -> dict[str, Any]:
    data = DataConfig(sources=["<script>alert('x')</script> & co.jsonl"])
    return TrainConfig(data, ModelConfig(architecture={"a": [1]}), run=RunConfig(**run)).as_dict()


def page(folder: Path, records: list[dict[str, Any]], about: dict[str, Any] | None = None, tail: str = "") -> Page:
    (folder / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records) + tail)
    run_page(folder, config(out="runs/mine") if about is None else about)
    return Page((folder / PAGE).read_text())


def test_the_newest_figures_and_their_means(tmp_path: Path) -> None:
    held_out = {"held_out_loss": 0.6, "held_out_accuracy": 0.7, "held_out_pairs": 1234, "held_out_ties": 2}
    records = [record(s, accuracy=s / 200) for s in range(1, 101)]
    records[89] |= held_out
    shown = page(tmp_path, records, config(out="runs/mine", steps=400))
    assert shown.values["Loss"] == ["0.5010", f"{np.mean([0.5 + 0.1 / s for s in range(51, 101)]):.4f}"]
    assert shown.values["Accuracy"] == ["50.0%", "37.8%"]  # the mean of 51 ... 100 halves of a percent
    assert shown.values["Held-out accuracy"] == ["70.0%step 90", ""]
    assert shown.values["Held-out pairs"] == ["1,234step 90", ""]
    assert shown.values["Tokens/s"][0] == "12,346"
    assert shown.values["Tokens/s, unshared"][0] == "23,457"
    assert shown.values["Data wait"] == ["25.0%", "25.0%"]
    assert shown.values["MFU"][0] == "40.0%"
    assert shown.values["Goodput"] == ["95.0%", ""]
    assert shown.values["Learning rate"] == ["3e-06", ""]
    assert "runs/mine" in shown.text
    assert re.search(r"Step 100 of 400 at most · updated \d{4}-\d\d-\d\d \d\d:\d\d UTC", shown.text)
    assert ("progress", {"max": "400", "value": "100", "aria-label": "steps done"}) in shown.tags
    assert "means of 7 of them" in shown.text and "thinned" not in shown.text
    assert "skipped:" not in shown.text


def test_every_panel_is_drawn_where_there_is_data_for_it(tmp_path: Path) -> None:
    panels = [panel.title for panel in PANELS]
    shown = page(tmp_path, [record(s, held_out_loss=0.6, held_out_accuracy=0.7) for s in range(1, 31)])
    assert [h for h in shown.headings if h in panels] == panels
    assert [a["aria-label"] for tag, a in shown.tags if tag == "svg"] == [f"{title} over steps" for title in panels]
    for word in ("held out", "guessing", "as if no prompt were shared", "waiting for data", "MFU"):
        assert word in shown.text
    shown = page(tmp_path, [{"step": s, "loss": 0.5, "mfu": None} for s in range(1, 31)])
    assert [h for h in shown.headings if h in panels] == ["Loss"]
    assert "held out" not in shown.text
    assert shown.values["MFU"] == ["–", ""]
    assert "Goodput" not in shown.values


def test_values_that_are_not_finite_are_not_shown_as_such(tmp_path: Path) -> None:
    lines = [record(1), record(2, loss=None, accuracy=float("nan"), gradient_norm="NaN", skipped=1)]
    shown = page(tmp_path, lines)
    assert shown.values["Loss"] == ["–0.6000 at step 1", "0.6000"]
    assert shown.values["Accuracy"][0] == "–75.0% at step 1"
    assert shown.values["Gradient norm"][0] == "–3 at step 1"
    assert "1 batch skipped" in shown.text
    text = (tmp_path / PAGE).read_text()
    assert not re.search(r"\bnan\b", text, re.IGNORECASE)


@pytest.mark.parametrize("records", [[], None])
def test_a_run_without_records_says_so(tmp_path: Path, records: list[dict[str, Any]] | None) -> None:
    if records is None:
        run_page(tmp_path, config(out="runs/mine", steps=5))
        shown = Page((tmp_path / PAGE).read_text())
    else:
        shown = page(tmp_path, records)
    assert "No step is recorded yet" in shown.text
    assert "Newest figures" not in shown.headings and "Over the steps" not in shown.headings
    assert shown.values["batch"] == ["256"]


def test_one_record_and_old_or_cut_ones(tmp_path: Path) -> None:
    shown = page(tmp_path, [record(3)], config(out="o", epochs=2))
    assert "Step 3; the run is for 2 epochs" in shown.text
    assert len([tag for tag, _ in shown.tags if tag == "svg"]) == len(PANELS)
    shown = page(tmp_path, [record(5)], config(out="o", steps=5))
    assert "Step 5 of 5: finished" in shown.text
    shown = page(tmp_path, [{"step": 1, "loss": 0.7}, {"loss": 9.0}], {}, tail='{"step": 2, "lo')
    assert shown.values["Loss"][0] == "0.7000"
    assert str(tmp_path) in shown.text and "Config" not in shown.headings


def test_the_config_is_whole_and_escaped(tmp_path: Path) -> None:
    about = config(out="<b>&'\"", profile=[2, 3])
    shown = page(tmp_path, [record(1)], about)
    for section, part in about.items():
        assert section in shown.headings
        for key, value in part.items():
            assert [key, json.dumps(value, indent=1)] in shown.rows, key
    text = (tmp_path / PAGE).read_text()
    assert "<script" not in text and "<b>&" not in text
    assert "<title>&lt;b&gt;&amp;&#39;&#34;</title>" in text


def test_the_page_needs_nothing_but_itself_and_follows_light_and_dark(tmp_path: Path) -> None:
    (tmp_path / "training.png").touch()
    shown = page(tmp_path, [record(s) for s in range(1, 4)])
    loaded = [attributes[name] for _, attributes in shown.tags for name in ("src", "href") if name in attributes]
    assert [link for link in loaded if link and not link.startswith("#")] == ["training.png", "metrics.jsonl"]
    assert {"script", "link", "img", "iframe"}.isdisjoint(tag for tag, _ in shown.tags)
    text = (tmp_path / PAGE).read_text()
    assert "@import" not in text and "url(http" not in text
    assert "prefers-color-scheme: dark" in text and 'name="viewport"' in text
    drawn = text[text.index("<svg") :]
    assert "var(--ink)" in drawn and "var(--blue)" in drawn
    # A fixed colour would be lost on one of the two grounds.
    assert not re.findall(r"(?:fill|stroke): #[0-9a-f]{6}", drawn)
    names = [a["id"] for _, a in shown.tags if "id" in a]
    assert len(names) == len(set(names))


def test_time_shares_are_time_over_time(tmp_path: Path) -> None:
    # Ten steps of 1 s, of which 0.25 s is waiting, and in one of them 6 s of a checkpoint.
    records = [record(s, checkpoint_seconds=6.0 if s == 5 else 0.0) for s in range(1, 11)]
    sparse = [record(s, checkpoint_seconds=6.0 if s == 50 else 0.0) for s in range(10, 101, 10)]
    for given, steps_each in ((records, 1), (sparse, 10)):
        columns = columns_of(given)
        waiting, saving = columns["waiting"][1], columns["saving"][1]
        # Means of three, twice: a third of the checkpoint's 6 s comes on its own record, which stands for so many steps.
        assert saving[4] == pytest.approx(2.0 / (2.0 + steps_each))
        assert waiting[4] == pytest.approx(0.25 * steps_each / (2.0 + steps_each))
        np.testing.assert_allclose(waiting / 0.25 + saving, 1.0)  # all time is in steps and checkpoints
    assert columns_of([record(1)])["waiting"][1].tolist() == [0.25]


def test_how_long_the_run_is_and_when_it_was_begun_are_said_if_known(tmp_path: Path) -> None:
    assert "begun" not in page(tmp_path, [record(1)]).text.replace("the run began", "")
    run_page(tmp_path, config(out="runs/mine"), 40, 86400.0 * 365)
    assert "Step 1 of 40 · begun 1971-01-01 00:00 UTC" in Page((tmp_path / PAGE).read_text()).text


def test_it_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page(tmp_path, [record(1)])
    before = (tmp_path / PAGE).read_text()

    def full(path: Path, text: str, encoding: str) -> None:
        path.write_bytes(text[:100].encode())
        raise OSError("no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", full)
        with pytest.raises(OSError, match="no space"):
            run_page(tmp_path, {})
    assert (tmp_path / PAGE).read_text() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["metrics.jsonl", PAGE]
    (tmp_path / "metrics.jsonl").write_text("{\n{}\n")
    with pytest.raises(UserError, match="line 1: not JSON"):
        run_page(tmp_path, {})
    assert (tmp_path / PAGE).read_text() == before


def test_a_long_run_is_thinned(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).uniform(0.5, 1.5, 15_000)
    names = [line.column for panel in PANELS for line in panel.lines]
    records = [record(s, **dict.fromkeys(names, noise[s - 1])) for s in range(1, 15_001)]
    shown = page(tmp_path, records)
    assert "Of 15,000 records; bold lines are means of 1,001 of them. Lines are thinned" in shown.text
    assert (tmp_path / PAGE).stat().st_size < 600_000


def test_thinning_keeps_every_spike_and_the_order() -> None:
    values = np.random.default_rng(0).normal(size=40_000)
    spikes = np.arange(50, 40_000, 400)
    values[spikes] = 9.0
    values[spikes + 200] = -9.0
    steps = np.arange(1, 40_001)
    at, kept = thinned((steps, values))
    assert len(at) <= 600 and (np.diff(at) > 0).all()
    assert np.array_equal(kept, values[at - 1])
    assert (kept == 9.0).sum() == (kept == -9.0).sum() == len(spikes)
    short = (steps[:600], values[:600])
    assert thinned(short) is short
