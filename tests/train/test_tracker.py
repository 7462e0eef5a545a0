"""What Weights & Biases is told, by a package that only takes notes."""

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from skyrm_jax.config import DataConfig, ModelConfig, RunConfig, TrainConfig
from skyrm_jax.errors import UserError
from skyrm_jax.train.tracker import ID_FILE, Tracker


class Notes(ModuleType):
    """`wandb`, as far as it is used: what `init`, `log` and `finish` were called with."""

    class Error(Exception):
        pass

    def __init__(self) -> None:
        super().__init__("wandb")
        self.begun: list[dict[str, Any]] = []
        self.logged: list[tuple[int, dict[str, Any]]] = []
        self.finished: list[int] = []
        self.refusal: Exception | None = None

    def init(self, **arguments: Any) -> "Notes":
        if self.refusal is not None:
            raise self.refusal
        self.begun.append(arguments)
        return self

    def log(self, record: dict[str, Any], step: int) -> None:
        self.logged.append((step, record))

    def finish(self, exit_code: int) -> None:
        self.finished.append(exit_code)


@pytest.fixture
def wandb(monkeypatch: pytest.MonkeyPatch) -> Iterator[Notes]:
    notes = Notes()
    monkeypatch.setitem(sys.modules, "wandb", notes)
    yield notes


@pytest.fixture
def config(tmp_path: Path) -> TrainConfig:
    run = RunConfig(out=str(tmp_path / "my run"), wandb="rewards")
    return TrainConfig(data=DataConfig(store="s"), model=ModelConfig(base="b"), run=run)


def test_a_run_is_begun_logged_and_finished(wandb: Notes, config: TrainConfig) -> None:
    with Tracker(config, 0) as tracker:
        tracker.write(1, {"loss": 0.7, "mfu": None})
        tracker.write(2, {"loss": None, "skipped": 1})
    (begun,) = wandb.begun
    assert begun == {
        "project": "rewards",
        "id": (Path(config.run.out) / ID_FILE).read_text(),
        "name": config.run.out,
        "resume": "allow",
        "config": config.as_dict(),
    }
    assert wandb.logged == [(1, {"loss": 0.7}), (2, {"skipped": 1})]
    assert wandb.finished == [0]


def test_a_resumed_run_goes_on_and_a_new_one_in_the_same_folder_does_not(wandb: Notes, config: TrainConfig) -> None:
    for start in (0, 5, 9, 0):
        with Tracker(config, start):
            pass
    first, second, third, new = (begun["id"] for begun in wandb.begun)
    assert first == second == third != new
    assert len(first) == 16


def test_a_run_that_asks_for_it_only_when_resumed_begins_there(wandb: Notes, config: TrainConfig) -> None:
    with Tracker(config, 7) as tracker:
        tracker.write(8, {"loss": 0.5})
    assert wandb.begun[0]["id"]
    assert wandb.logged == [(8, {"loss": 0.5})]


def test_a_failed_run_is_said_to_have_failed(wandb: Notes, config: TrainConfig) -> None:
    with pytest.raises(ZeroDivisionError), Tracker(config, 0):
        _ = 1 / 0
    assert wandb.finished == [1]


def test_nobody_is_told_anything_unless_asked(wandb: Notes, config: TrainConfig) -> None:
    with Tracker(replace(config, run=replace(config.run, wandb=None)), 0) as tracker:
        tracker.write(1, {"loss": 0.7})
    assert (wandb.begun, wandb.logged, wandb.finished) == ([], [], [])
    assert not Path(config.run.out).exists()


def test_the_missing_package_is_named(monkeypatch: pytest.MonkeyPatch, config: TrainConfig) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)  # its import fails
    with pytest.raises(UserError, match=r'pip install "skyrm-jax\[wandb\]"'), Tracker(config, 0):
        pass


def test_a_refusal_says_what_to_do(wandb: Notes, config: TrainConfig) -> None:
    wandb.refusal = Notes.Error("No API key configured")
    with pytest.raises(UserError, match=r"run\.wandb: .*No API key configured.*WANDB_MODE=offline"), Tracker(config, 0):
        pass
    assert wandb.finished == []
