"""Strict configs: what is unknown or contradictory is named."""

from pathlib import Path

import pytest

from skyrm_jax.config import DataConfig, parse_train_config
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
        (GOOD + "optimizer: {betas: [1\n", 'c.yaml", line '),
    ],
)
def test_unknown_and_mistyped_keys_are_named(
    tmp_path: Path, text: str, named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        parse_train_config(write(tmp_path, text))
    error = capsys.readouterr().err
    assert stop.value.code == 2 and named in error and "<unicode string>" not in error
    assert f"error: {tmp_path / 'c.yaml'}: " in error and "; correct the file" in error


def test_what_is_wrong_on_the_command_line_is_not_laid_to_the_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for override in (["--optimizer.learning_rte", "1"], ["--optimizer.batch", "many"]):
        with pytest.raises(SystemExit):
            parse_train_config([*write(tmp_path, GOOD), *override])
        error = capsys.readouterr().err
        assert override[0].removeprefix("--") in error and "c.yaml" not in error


def test_a_missing_config_file_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse_train_config(["--config", "nowhere.yaml"])
    assert "nowhere.yaml" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("extra", "named"),
    [
        (["--model.architecture", "null"], "give model.base"),
        (["--data.row_tokens", "8"], "data.row_tokens must be at least data.max_tokens"),
        (["--data.row_tokens", "[8, 64]"], "data.row_tokens must be at least data.max_tokens"),
        (["--data.row_tokens", "[16384, 4, 3, 2]"], "data.row_tokens may be three lengths at most"),
        (["--data.rows", "[1, 2]"], "data.rows must be one number, or one for each length"),
        (["--data.rows", "-1"], "data.rows must not be negative"),
        (["--optimizer.learning_rate", "0"], "optimizer.learning_rate must be positive"),
        (["--optimizer.final", "2"], "optimizer.final"),
        *[
            ([f"--{key}", value], f"{key} must ")
            for key, value in [
                ("data.held_out", "-1"),
                ("data.held_out", "2.5"),
                ("data.max_bad_share", "1.5"),
                ("data.prefetch", "-1"),
                ("data.workers", "-1"),
                ("optimizer.batch", "0"),
                ("optimizer.learning_rate", "-1"),
                ("optimizer.warmup", "-1"),
                ("optimizer.warmup", "1.5"),
                ("optimizer.weight_decay", "-1"),
                ("optimizer.b1", "2"),
                ("optimizer.b2", "1"),
                ("optimizer.eps", "0"),
                ("optimizer.clip", "-1"),
                ("run.seed", "-1"),
                ("run.seed", "9223372036854775808"),
                ("run.epochs", "0"),
                ("run.steps", "-3"),
                ("run.log_every", "-1"),
                ("run.evaluate_every", "-1"),
                ("run.checkpoint_every", "-1"),
                ("run.keep", "0"),
            ]
        ],
    ],
)
def test_contradictions_are_named(tmp_path: Path, extra: list[str], named: str) -> None:
    with pytest.raises(UserError, match=named):
        parse_train_config([*write(tmp_path, GOOD), *extra])


def test_bounds_that_are_allowed(tmp_path: Path) -> None:
    argv = ["--optimizer.b1", "0", "--optimizer.clip", "0", "--optimizer.warmup", "0", "--data.held_out", "0"]
    assert parse_train_config([*write(tmp_path, GOOD), *argv, "--optimizer.weight_decay", "0"]).optimizer.b1 == 0


@pytest.mark.parametrize("section", ["data: 5", "data: null", "data: [1]", "run: 5"])
def test_a_section_without_keys_is_named(tmp_path: Path, section: str) -> None:
    name, _, _ = section.partition(": ")
    text = "model: {architecture: {model_type: qwen3}}\ndata: {store: s}\n"
    text = text.replace("data: {store: s}", section) if name == "data" else text + section
    with pytest.raises(UserError, match=rf"c\.yaml: {name} must hold keys, not "):
        parse_train_config(write(tmp_path, text))


def test_a_config_that_is_not_utf_8_is_named(tmp_path: Path) -> None:
    argv = write(tmp_path, "")
    (tmp_path / "c.yaml").write_bytes(b"run: {out: \xff\xe9}\n")
    for given in (argv, ["=".join(argv)]):
        with pytest.raises(UserError, match=r"^\S*c\.yaml: is not UTF-8 text"):
            parse_train_config(given)


SHORT = {"most_tokens": 900, "most_leaves": 4}


def test_rows_for_the_sub_trees_of_the_longest_tree() -> None:
    data = DataConfig(["a"], row_tokens=[1000, 300])
    long = {"most_tokens": 2500, "most_leaves": 32}
    assert data.micro_batches(1, SHORT)[1] == [1, 1]
    assert data.micro_batches(1, long)[1] == [5, 1]
    assert data.micro_batches(4, long)[1] == [8, 4]
    assert data.micro_batches(1, long | {"most_leaves": 3})[1] == [3, 1]
    assert DataConfig(["a"], row_tokens=1000, rows=2).micro_batches(1, long)[1] == [2]


def test_rows_of_several_lengths_and_mixtures(tmp_path: Path) -> None:
    given = "data: {sources: [a, b], tokenizer: t, row_tokens: [16384, 2048], mixture: {a: 2, b: 0.5}}\n"
    data = parse_train_config(write(tmp_path, given + "model: {architecture: {model_type: qwen3}}\n")).data
    assert data.mixture == {"a": 2, "b": 0.5}
    assert data.micro_batches(8, SHORT) == ([16384, 2048], [8, 8])
    data = parse_train_config(
        [*write(tmp_path, GOOD), "--data.row_tokens", "[16384, 512]", "--data.rows", "[2, 8]"]
    ).data
    assert data.micro_batches(2, SHORT) == ([16384, 512], [2, 8])
    with pytest.raises(UserError, match=r"data.rows .* must be a multiple of .* \(4\)"):
        data.micro_batches(4, SHORT)
