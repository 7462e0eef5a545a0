"""The configuration of a curation: shipped files are read, contradictions are named, and what may change meanwhile may."""

from dataclasses import replace
from pathlib import Path

import pytest

from skyrm_jax.curate.annotators import Annotator
from skyrm_jax.curate.config import CurateConfig, Measure, Stage1, Stage2, parse_curate_config
from skyrm_jax.curate.decisions import Rule
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
    with pytest.raises(UserError, match=r"begun with another annotators\.b"):
        Workspace(replace(config, annotators=[ANNOTATOR, replace(ANNOTATOR, name="b", model="b")]))
