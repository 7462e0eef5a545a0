"""Strict configs: what is unknown or contradictory is named."""

from pathlib import Path

import pytest

from skyrm_jax.config import parse_train_config
from skyrm_jax.errors import UserError

CONFIGS = sorted((Path(__file__).parents[1] / "configs").glob("*.yaml"))
GOOD = "data: {sources: [a.jsonl], tokenizer: t}\nmodel: {architecture: {model_type: qwen3}}\n"


def write(tmp_path: Path, text: str) -> list[str]:
    (tmp_path / "c.yaml").write_text(text)
    return ["--config", str(tmp_path / "c.yaml")]


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.name)
def test_shipped_configs_are_read(path: Path) -> None:
    assert parse_train_config(["--config", str(path)]).as_dict()["run"]["out"].startswith("runs/")


def test_overrides_win(tmp_path: Path) -> None:
    config = parse_train_config([*write(tmp_path, GOOD), "--optimizer.batch", "7", "--run.out", "x"])
    assert (config.optimizer.batch, config.run.out) == (7, "x")
    assert str(config.store) == "x/store"


@pytest.mark.parametrize(
    ("text", "named"),
    [
        (GOOD + "optimizer: {learning_rte: 1}\n", "learning_rte"),
        (GOOD + "optimiser: {batch: 1}\n", "optimiser"),
        (GOOD + "optimizer: {batch: many}\n", "optimizer.batch"),
        (GOOD + "optimizer: {schedule: quadratic}\n", "optimizer.schedule"),
    ],
)
def test_unknown_and_mistyped_keys_are_named(
    tmp_path: Path, text: str, named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        parse_train_config(write(tmp_path, text))
    assert stop.value.code == 2 and named in capsys.readouterr().err


def test_a_missing_config_file_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse_train_config(["--config", "nowhere.yaml"])
    assert "nowhere.yaml" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("extra", "named"),
    [
        (["--model.architecture", "null"], "give model.base"),
        (["--data.row_tokens", "8"], "data.row_tokens must be at least data.max_tokens"),
        (["--optimizer.learning_rate", "0"], "optimizer.learning_rate must be positive"),
        (["--optimizer.final", "2"], "optimizer.final"),
    ],
)
def test_contradictions_are_named(tmp_path: Path, extra: list[str], named: str) -> None:
    with pytest.raises(UserError, match=named):
        parse_train_config([*write(tmp_path, GOOD), *extra])
