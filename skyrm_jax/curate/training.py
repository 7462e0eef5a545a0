"""Reward models trained on curated pairs, and the checkpoint of a run that verified pairs like best."""

import json
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from rich.console import Console

from skyrm_jax import checkpoint
from skyrm_jax.comparison import Comparison, to_record
from skyrm_jax.config import TrainConfig, parse_train_config
from skyrm_jax.curate.pair import Pair
from skyrm_jax.errors import UserError
from skyrm_jax.report.files import whole
from skyrm_jax.scorer import Scorer
from skyrm_jax.train.loop import run

ROW = 4096
"""Tokens of a row where pairs are scored, if none is longer."""


@dataclass(frozen=True)
class RewardModel:
    """How a reward model is trained.

    Args:
        config: a file for `skyrm train`. Its data, its checkpoints and its folder are set by the curation.
        overrides: keys of that file with other values, such as {"run.epochs": 3}.
        checkpoints: how many of a run are compared on verified pairs, the last included.
        dtype: of matrix operands where it scores.
    """

    config: str = ""
    overrides: dict[str, Any] | None = None
    checkpoints: int = 4
    dtype: Literal["bfloat16", "float32"] = "bfloat16"

    def __post_init__(self) -> None:
        if not self.config:
            raise UserError("reward_model.config is missing; give a file for `skyrm train`, such as one of configs/")
        if self.checkpoints < 1:
            raise UserError(f"reward_model.checkpoints must be at least 1, not {self.checkpoints}")

    def of(self, name: str, overrides: Mapping[str, Any] | None) -> "RewardModel":
        """This with further overrides; `name` says in errors what they are for."""
        for key in overrides or {}:
            if key.startswith(("data.sources", "data.store", "data.held_out", "run.out", "run.checkpoint_every")):
                raise UserError(f"{name}.{key} is set by the curation; leave it away")
        return replace(self, overrides={**(self.overrides or {}), **(overrides or {})})

    def train_config(self, data: Path, out: Path, pairs: int) -> TrainConfig:
        """The run's configuration for a file of so many pairs. Raises UserError for a config that is none."""
        given = ["--config", self.config]
        for name, value in (self.overrides or {}).items():
            given += [f"--{name}", value if isinstance(value, str) else json.dumps(value)]
        given += ["--data.sources", json.dumps([str(data)]), "--data.held_out", "0", "--run.out", str(out)]
        config = parse_train_config(given)
        steps = config.run.steps or -(-pairs * config.run.epochs // config.optimizer.batch)
        every = -(-steps // self.checkpoints)
        loose = replace(config.data, root=None, store=None, mixture=None, form="native", max_bad_share=0.0)
        return replace(
            config,
            data=loose,
            run=replace(config.run, checkpoint_every=every, evaluate_every=0, keep=self.checkpoints + 1),
        )


@dataclass(frozen=True)
class Checked:
    """A checkpoint, and the pairs of all verified ones that it gets right (a tie is wrong), and ties."""

    checkpoint: str
    correct: int
    ties: int
    pairs: int

    @property
    def accuracy(self) -> float:
        return self.correct / self.pairs if self.pairs else 0.0


def write_pairs(path: Path, pairs: Iterable[Pair]) -> int:
    """A file for `skyrm train` in native form; the number of pairs. In the order of the ids, so that equal sets of pairs
    are equal files."""
    lines = sorted((pair.id, json.dumps(to_record(pair.comparison()), ensure_ascii=False)) for pair in pairs)
    with whole(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        for _, line in lines:
            file.write(line + "\n")
    return len(lines)


def train(model: RewardModel, pairs: Sequence[Pair], verified: Sequence[Pair], out: Path, console: Console) -> Checked:
    """Trains on `pairs` in the folder `out`; its best checkpoint on `verified`, the earliest of equally good ones.

    Without verified pairs it is the last one. The other checkpoints are removed. What was done before is not done again.

    Raises:
        UserError: a pair to train on is also one to choose by, or there is none; else as `train.loop.run` does.
        Interrupted: as there.
    """
    note = out / "best.json"
    if note.is_file():
        kept = Checked(**json.loads(note.read_text())["best"])
        return replace(kept, checkpoint=str(out / kept.checkpoint))
    require_apart(pairs, verified)
    if not pairs:
        raise UserError(
            f"{out}: there is no pair to train on: of all that were looked at, none has a label that annotators agree with "
            "and a prompt that no person has verified; let stage 1 look at more pairs (stage1.first, stage1.pairs)"
        )
    count = write_pairs(out / "pairs.jsonl", pairs)
    config = model.train_config(out / "pairs.jsonl", out / "run", count)
    run(config, console)
    steps = checkpoint.finished_steps(out / "run")
    folders = [str(checkpoint.folder_of(out / "run", step)) for step in steps]
    if verified:
        checked = [check(model, folder, verified) for folder in folders]
        best = max(checked, key=lambda one: one.correct)
    else:
        checked = [Checked(folders[-1], 0, 0, 0)]
        best = checked[0]
    with whole(note) as temporary:
        # By its name in `out`, which may be moved.
        named = [asdict(one) | {"checkpoint": os.path.relpath(one.checkpoint, out)} for one in checked]
        facts = {"best": named[checked.index(best)], "all": named, "pairs": count}
        temporary.write_text(json.dumps(facts, indent=2) + "\n")
    for folder in folders:
        if folder != best.checkpoint:
            shutil.rmtree(folder)
    shutil.rmtree(out / "run" / "store")
    return best


def require_apart(pairs: Iterable[Pair], verified: Iterable[Pair]) -> None:
    """Raises UserError if a pair that chooses the model, or one of its prompt, is among those that train it."""
    choosing = {pair.prompt_key for pair in verified}
    both = next((pair for pair in pairs if pair.prompt_key in choosing), None)
    if both is not None:
        raise UserError(
            f"the prompt of pair {both.id} ({both.file}:{both.line}) is among the pairs to train on and among the verified "
            "pairs that choose the checkpoint; take it out of one of them"
        )


def load(model: RewardModel, folder: str) -> Scorer:
    """The scorer of a checkpoint of a run."""
    data = model.train_config(Path("pairs.jsonl"), Path("run"), 1).data
    return Scorer.load(folder, max_tokens=data.max_tokens, row_tokens=max(data.max_tokens, ROW), dtype=model.dtype)


def check(model: RewardModel, folder: str, verified: Sequence[Pair]) -> Checked:
    """How many of the verified pairs the checkpoint gets right."""
    margins = margins_of(load(model, folder), [pair.comparison() for pair in verified])
    return Checked(folder, int((margins > 0).sum()), int((margins == 0).sum()), len(margins))


def margins_of(scorer: Scorer, comparisons: Sequence[Comparison]) -> np.ndarray:
    """r_chosen - r_rejected of comparisons of two responses, the chosen one first."""
    return np.array([of[0] - of[1] for of in scorer.score(comparisons)], np.float32)
