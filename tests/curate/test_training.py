"""Which pairs train, and which checkpoint is taken."""

import json
from pathlib import Path

import pytest
from rich.console import Console

from skyrm_jax.comparison import Message
from skyrm_jax.curate import training
from skyrm_jax.curate.pair import Pair
from skyrm_jax.curate.training import Checked, RewardModel, require_apart, train, write_pairs
from skyrm_jax.errors import UserError


def pair(prompt: str, chosen: str, rejected: str) -> Pair:
    return Pair.of([Message("user", prompt)], [Message("assistant", chosen)], [Message("assistant", rejected)])


def test_equal_sets_of_pairs_are_equal_files(tmp_path: Path) -> None:
    pairs = [pair("p", "a", "b"), pair("q", "a", "b"), pair("q", "b", "c")]
    assert write_pairs(tmp_path / "one.jsonl", pairs) == write_pairs(tmp_path / "two.jsonl", pairs[::-1]) == 3
    assert (tmp_path / "one.jsonl").read_bytes() == (tmp_path / "two.jsonl").read_bytes()
    records = [json.loads(line) for line in (tmp_path / "one.jsonl").read_text().splitlines()]
    assert {(r["prompt"], *r["responses"]) for r in records} == {("p", "a", "b"), ("q", "a", "b"), ("q", "b", "c")}
    assert all(record["preferences"] == [[0, 1]] for record in records)


def test_a_prompt_cannot_train_and_choose() -> None:
    require_apart([pair("p", "a", "b")], [pair("q", "a", "b")])
    with pytest.raises(UserError, match="is among the pairs to train on and among the verified"):
        require_apart([pair("p", "a", "b"), pair("q", "a", "b")], [pair("q", "x", "y")])


def test_checkpoints_are_spread_over_the_run(tmp_path: Path) -> None:
    config = tmp_path / "train.yaml"
    config.write_text("data: {sources: [x], max_tokens: 64, row_tokens: 64}\nmodel: {base: b}\noptimizer: {batch: 8}\n")
    model = RewardModel(str(config), {"run.epochs": 3}, checkpoints=4)
    made = model.train_config(tmp_path / "pairs.jsonl", tmp_path / "run", 100)
    assert (made.run.checkpoint_every, made.run.keep, made.run.epochs) == (10, 5, 3)  # of 38 steps
    assert (made.data.held_out, made.data.max_bad_share, made.data.sources) == (0, 0, [str(tmp_path / "pairs.jsonl")])


def test_the_best_checkpoint_is_kept_and_the_first_of_equals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tmp_path / "train.yaml"
    config.write_text("data: {sources: [x]}\nmodel: {base: b}\n")
    out = tmp_path / "out"
    correct = {5: 1, 10: 3, 15: 3, 20: 2}
    runs = []

    def run(*_: object) -> None:
        runs.append(1)
        for step in correct:
            (out / "run" / "checkpoints" / str(step)).mkdir(parents=True)
        (out / "run" / "store").mkdir()

    def check(_: RewardModel, folder: str, verified: list[Pair]) -> Checked:
        return Checked(folder, correct[int(folder.split("/")[-1])], 0, len(verified))

    monkeypatch.setattr(training, "run", run)
    monkeypatch.setattr(training, "check", check)
    monkeypatch.setattr(training.checkpoint, "finished_steps", lambda _: list(correct))
    verified = [pair(f"v{i}", "a", "b") for i in range(4)]
    for _ in range(2):
        best = train(RewardModel(str(config)), [pair("p", "a", "b")], verified, out, Console(quiet=True))
        assert best.checkpoint.endswith("checkpoints/10") and best.accuracy == 0.75
    assert len(runs) == 1
    assert [path.name for path in (out / "run" / "checkpoints").iterdir()] == ["10"]


def test_nothing_to_train_on_is_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no pair to train on"):
        train(RewardModel("train.yaml"), [], [], tmp_path, Console(quiet=True))
