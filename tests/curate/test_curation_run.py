"""A whole curation on a small scale: what goes where, what is never mixed, and that nothing is done or paid twice."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml
from fake_openai import FakeOpenAI
from rich.console import Console
from small_curation import config, files_of, people, reply, write_data

from skyrm_jax.comparison import to_record
from skyrm_jax.curate import passes
from skyrm_jax.curate.annotators import Annotator
from skyrm_jax.curate.cli import main as curate_main
from skyrm_jax.curate.config import CurateConfig, Measure, Stage1, Stage2
from skyrm_jax.curate.decisions import Rule
from skyrm_jax.curate.humans.queue import HumanQueue
from skyrm_jax.curate.measure import ARMS, figures, stage_pairs
from skyrm_jax.curate.run import (
    run,
    step_attributes,
    step_measure,
    step_preprocess,
    step_stage1,
    step_stage2,
    take_answers,
)
from skyrm_jax.curate.stage1 import reward_model
from skyrm_jax.curate.workspace import Workspace
from skyrm_jax.data.synthetic import generate, oracle, truth
from skyrm_jax.errors import Interrupted, UserError

PAIRS = 120


@pytest.fixture(scope="module")
def curated(tmp_path_factory: pytest.TempPathFactory) -> tuple[Workspace, FakeOpenAI, CurateConfig]:
    folder = tmp_path_factory.mktemp("curation")
    write_data(folder, PAIRS)
    with FakeOpenAI(reply) as server:
        options = config(folder, server.url)
        work = run(options, Console(quiet=True), people)
    return work, server, options


def table(path: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(path).to_pylist()
    return rows


def test_every_pair_is_decided_with_the_opinions_that_made_it_so(curated: Any) -> None:
    work, _, _ = curated
    pool = {pair.id: pair for pair in passes.all_pairs(work.pool)}
    decisions = {row["id"]: row for part in passes.parts(work.stage2 / "decisions") for row in table(part)}
    assert list(decisions) == list(pool) and len(pool) > 100
    gold = {example.pair.id: example for n in range(2) for example in work.iteration(n).gold()}
    assert len(gold) == 16
    for id, row in decisions.items():
        is_true = truth(pool[id].comparison())[0]
        assert (row["human"] is not None) == (id in gold)
        if row["human"]:
            assert row["decision"] == ("kept" if is_true else "flipped")
        if row["annotators"]:
            assert row["annotators"] == ("original" if is_true else "flipped")
        if row["best_p"] < 0.5 and not row["human"]:
            assert row["annotators"] is not None
    kept = {row["id"] for row in decisions.values() if row["decision"] == "kept"}
    turned = {row["id"] for row in decisions.values() if row["decision"] == "flipped"}
    filtered = {row["id"] for part in passes.parts(work.final / "filtered") for row in table(part)}
    corrected = {row["id"]: row for part in passes.parts(work.final / "corrected") for row in table(part)}
    assert filtered == kept and set(corrected) == kept | turned and turned
    for id in turned:
        assert [message["content"] for message in corrected[id]["chosen"]] == [m.content for m in pool[id].rejected]
    for id in kept:
        assert [message["content"] for message in corrected[id]["chosen"]] == [m.content for m in pool[id].chosen]


def test_gold_chooses_the_model_and_does_not_train_it(curated: Any) -> None:
    work, _, _ = curated
    for number, folder in ((1, work.iteration(1).model), (2, work.stage2 / "best")):
        trained = [json.loads(line) for line in (folder / "pairs.jsonl").read_text().splitlines()]
        prompts = {example.pair.prompt[-1].content for example in work.gold(number)}
        assert trained and prompts
        assert not prompts & {record["prompt"] for record in trained}
        best = json.loads((folder / "best.json").read_text())
        assert best["best"]["correct"] == max(one["correct"] for one in best["all"])
        assert best["best"]["pairs"] == len(work.gold(number))
    gold = [json.loads(line) for line in (work.stage2 / "gold" / "pairs.jsonl").read_text().splitlines()]
    assert len(gold) == len(work.gold(2))


def test_silver_is_what_annotators_and_data_agree_on(curated: Any) -> None:
    work, _, _ = curated
    silver = work.silver(2)
    assert silver and all(truth(pair.comparison())[0] for pair in silver)
    both = {pair.id for pair in silver} & {one.pair.id for n in range(2) for one in work.iteration(n).gold()}
    assert not both


def test_later_pairs_are_neighbours_of_verified_ones_and_new(curated: Any) -> None:
    work, _, _ = curated
    first = {row["id"] for row in table(work.iteration(0).file("selected"))}
    later = table(work.iteration(1).file("selected"))
    gold = {example.pair.id for example in work.gold(1)}
    assert 0 < len(later) <= 24
    assert not first & {row["id"] for row in later}
    assert all(row["found_by"] in gold and row["p"] is not None and row["similarity"] <= 1.01 for row in later)


def test_stages_are_what_stands_so_far(curated: Any) -> None:
    work, _, _ = curated
    sets = stage_pairs(work, 1)
    assert [pair.id for pair in sets["original"]] == [
        pair.id for n in range(2) for pair in work.iteration(n).selected()
    ]
    right = [truth(pair.comparison())[0] for pair in sets["original"]]
    # Annotators and people are always right here.
    assert len(sets["filtered"]) == sum(right) and len(sets["corrected"]) == len(right)
    assert all(truth(pair.comparison())[0] for pair in sets["corrected"])
    assert sets["filtered"] == sets["corrected"][: len(sets["filtered"])]


@pytest.mark.full
def test_stages_are_measured_once(curated: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    work, _, options = curated
    held_out = tmp_path / "held_out.jsonl"
    held_out.write_text("".join(json.dumps(to_record(one)) + "\n" for one in generate(30, 77, most=2)))
    raw = replace(options.preprocess, held_out=[str(held_out)])
    measured = replace(options, measure=Measure([str(held_out)]), preprocess=raw, out=str(tmp_path / "out"))
    copy = Path(measured.out)
    shutil.copytree(work.root, copy)
    (copy / "curation.json").unlink()
    step_measure(Workspace(measured), Console(quiet=True))
    told = figures(Workspace(measured))
    assert [(one["stage"], one["arm"]) for one in told] == [("stage 2", arm) for arm in ARMS]
    assert told[0]["pairs"] > told[2]["pairs"] > told[1]["pairs"] > 0
    for one in told:
        figure = one["headlines"]["held-out"]
        assert 0 <= figure["low"] <= figure["value"] <= figure["high"] <= 100
    times = {path: path.stat().st_mtime_ns for path in copy.glob("measure/*/*/figures.json")}
    step_measure(Workspace(measured), Console(quiet=True))
    assert {path: path.stat().st_mtime_ns for path in times} == times


def test_a_second_run_does_nothing(curated: Any) -> None:
    work, _, options = curated
    before = files_of(work.root)
    times = {name: (work.root / name).stat().st_mtime_ns for name in before}
    # The server is gone: any call would fail.
    run(options, Console(quiet=True), people)
    assert files_of(work.root) == before
    assert {name: (work.root / name).stat().st_mtime_ns for name in before} == times


def test_what_killed_runs_left_is_removed(curated: Any) -> None:
    work, _, options = curated
    before = files_of(work.root)
    folders = [
        work.iteration(0).folder,
        work.stage2,
        work.stage2 / "decisions",
        work.final / "filtered",
        work.attributes,
    ]
    work.attributes.mkdir()
    left = [folder / f"{name}.4711.tmp" for folder in folders for name in ("part-000000.parquet", "other.json")]
    for path in left:
        path.write_bytes(b"PAR1")
    assert files_of(work.root).keys() > before.keys()
    run(options, Console(quiet=True), people)
    work.attributes.rmdir()
    assert files_of(work.root) == before and not any(path.exists() for path in left)


def test_other_options_are_refused(curated: Any) -> None:
    _, _, options = curated
    with pytest.raises(UserError, match="begun with another seed"):
        run(CurateConfig(**{**vars(options), "seed": 3}), Console(quiet=True))
    more = replace(options, stage1=Stage1(iterations=2, first=40, pairs=24))
    with pytest.raises(UserError, match="stage 2 comes after 1 iterations"):
        Workspace(more)


def apart(*servers: FakeOpenAI) -> list[Annotator]:
    """An annotator at each server, a, b and so on, asked once."""
    return [Annotator(name, name, one.url, retries=0) for name, one in zip("ab", servers, strict=True)]


def copied(work: Workspace, options: CurateConfig, folder: Path, **changes: Any) -> Workspace:
    """The same curation in another folder, with other options."""
    shutil.copytree(work.root, folder)
    (folder / "curation.json").unlink()
    return Workspace(replace(options, out=str(folder), **changes))


def test_a_curation_may_be_moved(curated: Any, tmp_path: Path) -> None:
    work, _, options = curated
    moved = copied(work, options, tmp_path / "out")
    best = reward_model(moved, 1, moved.iteration(1).model, Console(quiet=True))
    assert Path(best.checkpoint).is_relative_to(tmp_path / "out") and Path(best.checkpoint).is_dir()


def test_nothing_goes_on_from_half_a_step(curated: Any, tmp_path: Path) -> None:
    work, _, options = curated
    raw = replace(options.preprocess, held_out=["h.jsonl"])
    half = copied(work, options, tmp_path / "out", measure=Measure(["h.jsonl"]), preprocess=raw)
    passes.parts(half.stage2 / "decisions")[-1].unlink()
    with pytest.raises(UserError, match="not all pairs are decided on yet; run the step stage2"):
        step_measure(half, Console(quiet=True))
    half.iteration(1).summary.unlink()
    with pytest.raises(UserError, match="stage 1 has not finished iteration 1"):
        step_stage2(half, Console(quiet=True))


def test_without_people_by_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_data(tmp_path, 60)
    file = tmp_path / "curation.yaml"
    with FakeOpenAI(reply) as server:
        options = config(
            tmp_path,
            server.url,
            humans=None,
            stage1=Stage1(iterations=1, first=20, pairs=20, silver="relabelled"),
            stage2=Stage2(Rule(keep="best_or_annotators", band=0.3)),
        )
        file.write_text(yaml.safe_dump(options.as_dict()))
        for step in ("preprocess", "attributes", "stage1", "stage2", "report"):
            curate_main([step, "--config", str(file)])
        asked = len(server.bodies)
        curate_main(["run", "--config", str(file)])
        assert len(server.bodies) == asked
    work = Workspace(options)
    pool = passes.all_pairs(work.pool)
    assert len(work.silver(1)) == 20 and all(truth(pair.comparison())[0] for pair in work.silver(1))
    assert any(pair.id not in work.selected_ids(1) for pair in work.silver(1)), "some are turned round"
    assert sum(len(table(part)) for part in passes.parts(work.attributes)) == len(pool)
    decisions = [row for part in passes.parts(work.stage2 / "decisions") for row in table(part)]
    assert {row["gold"] for row in decisions} == {None} and {row["human"] for row in decisions} == {None}
    assert {row["decision"] for row in decisions} >= {"kept", "flipped"}
    assert not (work.stage2 / "gold").exists() and (work.root / "report.html").is_file()
    assert "report.html" in capsys.readouterr().out


def test_an_annotator_that_is_gone_is_waited_for(tmp_path: Path) -> None:
    write_data(tmp_path, 30)
    quiet = Console(quiet=True)
    with FakeOpenAI(reply) as server, FakeOpenAI(reply) as other:
        annotators = apart(server, other)
        options = config(
            tmp_path,
            server.url,
            annotators=annotators,
            humans=None,
            attributes=None,
            stage1=Stage1(iterations=0, first=20),
            stage2=Stage2(Rule(keep="best_or_annotators")),
        )
        work = Workspace(options)
        step_preprocess(work, quiet)
        other.dies_after = 5
        with pytest.raises(UserError, match=r"votes: \d+ of 80 answers are missing, as annotators were given up \(b: "):
            step_stage1(work, quiet)
        assert not work.iteration(0).file("labels").exists()
        paid = len(server.answered)
        # Without it, if that is wanted, or when it is back: nobody is asked twice.
        without = copied(work, options, tmp_path / "without", votes=replace(options.votes, absent="pass"))
        step_stage1(without, quiet)
        assert {row["failed"] for row in table(without.iteration(0).file("labels"))} >= {2}
        with FakeOpenAI(reply) as back:
            moved = [annotators[0], replace(annotators[1], base_url=back.url)]
            step_stage1(Workspace(replace(options, annotators=moved)), quiet)
            assert len(back.answered) + len(other.answered) == 40
        assert {row["failed"] for row in table(work.iteration(0).file("labels"))} == {0}
        assert len(server.answered) == paid == 40


def test_without_people_it_waits_for_their_answers(tmp_path: Path) -> None:
    write_data(tmp_path, 40)
    quiet = Console(quiet=True)
    with FakeOpenAI(reply) as server:
        work = Workspace(config(tmp_path, server.url, stage1=Stage1(iterations=0, first=20)))
        step_preprocess(work, quiet)
        with pytest.raises(Interrupted, match="0 of 8 pairs"):
            step_stage1(work, quiet)
        asked = len(server.bodies)
        assert asked == 20 * (1 + 2 * 2)
        folder = work.iteration(0).folder / "people"
        people(folder / "iteration-00.jsonl")
        brought = tmp_path / "brought.jsonl"
        (folder / "iteration-00.answers.jsonl").rename(brought)
        lines = brought.read_text().splitlines(keepends=True)
        brought.write_text("".join(lines[:5]))
        take_answers(work, [brought], quiet)
        with pytest.raises(Interrupted, match="5 of 8 pairs"):
            step_stage1(work, quiet)
        brought.write_text("".join(lines[5:]))
        take_answers(work, [brought], quiet)
        step_stage1(work, quiet)
        assert work.iteration(0).finished and len(work.gold(1)) == 8
        assert len(server.bodies) == asked
    with pytest.raises(UserError, match="no batch waits"):
        take_answers(work, [brought], quiet)


def test_attributes_wait_for_who_gives_them_too(tmp_path: Path) -> None:
    write_data(tmp_path, 20)
    with FakeOpenAI(lambda body: "I would rather not say.") as server, FakeOpenAI(reply) as other:
        annotators = apart(server, other)
        work = Workspace(config(tmp_path, server.url, annotators=annotators))
        step_preprocess(work, Console(quiet=True))
        other.dies_after = 3
        with pytest.raises(UserError, match=r"attributes: \d+ of \d+ answers are missing, .*\(b: "):
            step_attributes(work, Console(quiet=True))
        assert not work.attributes.exists()


def test_a_second_look_shows_who_said_what_and_why(tmp_path: Path) -> None:
    write_data(tmp_path, 30)
    quiet = Console(quiet=True)

    def reply_with_reasons(body: Any) -> str:
        said = reply(body)
        preferred = json.loads(said).get("preferred")
        return said if preferred is None else f"{preferred} holds. {said}"

    with FakeOpenAI(reply_with_reasons) as server:
        options = config(tmp_path, server.url, stage1=Stage1(iterations=0, first=20), humans=HumanQueue(8, reveal=True))
        work = Workspace(options)
        step_preprocess(work, quiet)
        with pytest.raises(Interrupted):
            step_stage1(work, quiet)
    batch = work.iteration(0).folder / "people" / "iteration-00.jsonl"
    items = [json.loads(line) for line in batch.read_text().splitlines()]
    assert len(items) == 8
    for item in items:
        label, *models = item["opinions"]
        assert label["who"] == "label" and [one["who"] for one in models] == ["a", "b"]
        first = oracle(item["prompt"][-1]["content"], item["candidates"][0][-1]["content"])
        for one in models:
            assert one["verdict"] == f"candidate {1 if first else 2}"
            assert one["why"].startswith(f"Candidate {1 if first else 2} holds.")


def test_steps_say_what_is_missing(tmp_path: Path) -> None:
    write_data(tmp_path, 10)
    work = Workspace(config(tmp_path, "http://127.0.0.1:9/v1"))
    with pytest.raises(UserError, match="run the step preprocess first"):
        step_stage1(work, Console(quiet=True))
    with pytest.raises(UserError, match="run the step stage1 first"):
        step_stage2(work, Console(quiet=True))
