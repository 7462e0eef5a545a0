"""The configuration of a curation: shipped files are read, contradictions are named, and what may change meanwhile may."""

from dataclasses import replace
from pathlib import Path

import pytest

from skyrm_jax.curate.annotators import Annotator
from skyrm_jax.curate.config import CurateConfig, Measure, Stage1, Stage2, parse_curate_config
from skyrm_jax.curate.decisions import Rule
from skyrm_jax.curate.judge import JudgeOptions
from skyrm_jax.curate.training import RewardModel
from skyrm_jax.curate.workspace import Workspace
from skyrm_jax.errors import UserError

CONFIGS = Path(__file__).parents[2] / "configs"
ANNOTATOR = Annotator("a", "a", "http://localhost:1/v1")


def small(folder: Path) -> CurateConfig:
    return CurateConfig(str(folder / "out"), RewardModel("train.yaml"), annotators=[ANNOTATOR])


@pytest.mark.parametrize("path", sorted((CONFIGS / "curate").glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_configs_are_read(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(CONFIGS.parent)
    config = parse_curate_config(["--config", str(path), "--stage1.iterations", "3"])
    assert config.stage1.iterations == 3 and config.annotators and config.preprocess.sources
    assert parse_curate_config(["--config", str(path), "--engine", "ray"]).engine.kind == "ray"
    trained = config.gold_model.train_config(Path("pairs.jsonl"), Path("run"), 1000)
    assert trained.data.sources == ["pairs.jsonl"] and trained.data.held_out == 0


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"humans": None}, "gold_and_either needs a gold model"),
        ({"annotators": []}, "give annotators, or set stage1.iterations to 0"),
        ({"out": "gs://bucket/x"}, "out must be a local folder"),
        ({"enough": 0.0}, "enough must be a share"),
        ({"seed": -1}, "seed must be at least 0"),
        ({"measure": Measure(["h.jsonl"])}, "name it in preprocess.held_out too"),
        ({"measure": Measure([], ["judgebench"])}, "preprocess.benchmarks is not"),
    ],
)
def test_contradictions_are_named(tmp_path: Path, changes: dict[str, object], words: str) -> None:
    with pytest.raises(UserError, match=words):
        CurateConfig(**{**vars(small(tmp_path)), **changes})  # type: ignore[arg-type]


def test_parts_are_checked() -> None:
    with pytest.raises(UserError, match=r"stage1\.first must be at least 1"):
        Stage1(first=0)
    with pytest.raises(UserError, match=r"measure\.held_out and measure\.benchmarks are empty"):
        Measure([])
    with pytest.raises(UserError, match=r"reward_model\.config is missing"):
        RewardModel()
    with pytest.raises(UserError, match=r"stage2\.gold_model\.run\.out is set by the curation"):
        RewardModel("train.yaml").of("stage2.gold_model", {"run.out": "x"})


def test_unknown_keys_are_named(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("out: x\nreward_model: {config: y}\nstage1: {iteration: 3}\n")
    with pytest.raises(SystemExit):
        parse_curate_config(["--config", str(path)])


def test_a_folder_keeps_to_its_options(tmp_path: Path) -> None:
    config = small(tmp_path)
    Workspace(config)
    cheaper = replace(ANNOTATOR, price_in=1.0, concurrency=2, timeout=9.0, base_url="http://moved/v1")
    Workspace(replace(config, budget=7.0, annotators=[cheaper], stage1=Stage1(iterations=9), enough=0.5))
    with pytest.raises(UserError, match=r"begun with another stage2\.rule\.band"):
        Workspace(replace(config, stage2=Stage2(Rule(band=0.2))))
    with pytest.raises(UserError, match=r"begun with another annotators\.a\.temperature"):
        Workspace(replace(config, annotators=[replace(ANNOTATOR, temperature=0.1)]))
    other = replace(ANNOTATOR, name="b", model="b")
    with pytest.raises(UserError, match=r"begun with another annotators, annotators\.b"):
        Workspace(replace(config, annotators=[ANNOTATOR, other]))
    with pytest.raises(UserError, match=r"begun with another annotators\.a\.extra, annotators\.a\.extra\.timeout;"):
        Workspace(replace(config, annotators=[replace(ANNOTATOR, extra={"timeout": 3})]))
    both = replace(config, out=str(tmp_path / "both"), annotators=[ANNOTATOR, other])
    Workspace(both)
    with pytest.raises(UserError, match="begun with another annotators;"):
        Workspace(replace(both, annotators=[other, ANNOTATOR]))


def test_contents_of_files_are_options_too(tmp_path: Path) -> None:
    train, prompt = tmp_path / "train.yaml", tmp_path / "judge.txt"
    train.write_text("model: {}")
    prompt.write_text("Which one?")
    config = replace(small(tmp_path), reward_model=RewardModel(str(train)), judge=JudgeOptions(prompt=str(prompt)))
    Workspace(config)
    Workspace(config)
    prompt.write_text("Which one is it?")
    with pytest.raises(UserError, match=r"begun with another judge\.prompt \(contents\);"):
        Workspace(config)
    train.unlink()  # a curation can be looked at without it
    prompt.write_text("Which one?")
    with pytest.raises(UserError, match=r"begun with another reward_model\.config \(contents\);"):
        Workspace(config)


def test_iterations_only_grow_and_not_after_stage_2(tmp_path: Path) -> None:
    config = small(tmp_path)

    def of(iterations: int) -> Workspace:
        return Workspace(replace(config, stage1=Stage1(iterations=iterations)))

    work = of(2)
    for number in range(3):
        work.iteration(number).folder.mkdir(parents=True)
    of(3)
    with pytest.raises(UserError, match=r"iteration 2 of stage 1 is begun already; stage1\.iterations may grow"):
        of(1)
    work.begin_stage2()
    of(2)
    with pytest.raises(UserError, match=r"stage 2 comes after 2 iterations of stage 1, and stage1\.iterations is 3"):
        of(3)
