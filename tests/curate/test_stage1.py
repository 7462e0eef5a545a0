"""What an iteration of stage 1 may look at, how it finds pairs, and what happens where little is left."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from rich.console import Console

from skyrm_jax.comparison import Comparison, Message
from skyrm_jax.curate import attributes as preference_attributes
from skyrm_jax.curate import stage1
from skyrm_jax.curate.annotators import Annotator
from skyrm_jax.curate.attributes import Attributes, Labelled
from skyrm_jax.curate.config import CurateConfig, Stage1
from skyrm_jax.curate.engine import write_table
from skyrm_jax.curate.gold import Gold
from skyrm_jax.curate.humans.batch import read_items
from skyrm_jax.curate.ingest import POOL
from skyrm_jax.curate.judge import Example
from skyrm_jax.curate.pair import Pair
from skyrm_jax.curate.training import RewardModel
from skyrm_jax.curate.workspace import GOLD, SELECTED, Workspace
from skyrm_jax.errors import Interrupted

QUIET = Console(quiet=True)
FACT = Attributes("Math", "Objective", "Low", "correctness", "Check the result.")


def pair(prompt: int, number: int) -> Pair:
    """The pairs of a prompt are alike, and prompts of near numbers are."""
    texts = [(Message("assistant", f"{number} {side}"),) for side in ("yes", "no")]
    return Pair.of((Message("user", str(prompt)),), *texts)


def workspace(folder: Path, pairs: Sequence[Pair], **options: Any) -> Workspace:
    """A curation with a pool of two parts."""
    annotators = [Annotator("a", "a", "http://localhost:1/v1")]
    config = CurateConfig(
        str(folder / "out"), RewardModel("model.yaml"), annotators=annotators, stage1=Stage1(2, 4, 4, **options)
    )
    work = Workspace(config)
    rows = [one.row() | {"prompt_key": one.prompt_key, "contents": one.contents} for one in pairs]
    for number, part in enumerate((rows[: len(rows) // 2], rows[len(rows) // 2 :])):
        write_table(work.pool / f"part-{number:05d}.parquet", pa.Table.from_pylist(part, POOL))
    return work


def looked_at(work: Workspace, number: int, pairs: Sequence[Pair], people: dict[str, str]) -> None:
    """Writes an iteration that has looked at pairs, of which people have said something by id."""
    nothing = dict.fromkeys(("found_by", "rank", "similarity", "p"))
    one = work.iteration(number)
    write_table(one.file("selected"), pa.Table.from_pylist([pair.row() | nothing for pair in pairs], SELECTED))
    gold = [
        pair.row() | {"verdict": people[pair.id], "people": ["ann"]} | FACT.row() for pair in pairs if pair.id in people
    ]
    write_table(one.file("gold"), pa.Table.from_pylist(gold, GOLD))


PAIRS = [pair(prompt, number) for prompt in range(10) for number in range(2)]


@pytest.fixture
def work(tmp_path: Path) -> Workspace:
    """Ten prompts of two pairs each; four pairs were looked at, of which two are verified and one is undecidable."""
    made = workspace(tmp_path, PAIRS)
    seen = [PAIRS[0], PAIRS[4], PAIRS[8], PAIRS[12]]
    looked_at(made, 0, seen, {PAIRS[0].id: "original", PAIRS[4].id: "flipped", PAIRS[8].id: "none"})
    return made


def test_neither_seen_pairs_nor_others_of_verified_prompts_are_looked_at(work: Workspace) -> None:
    assert stage1.unseen(work, 0).all()
    free = np.flatnonzero(stage1.unseen(work, 1)).tolist()
    assert free == [2, 3, 6, 7, 9, 10, 11, 13, *range(14, 20)]


class Embedder:
    """Vectors on a circle, by the prompt's number; `responses` of all that it was shown."""

    def __init__(self) -> None:
        self.responses: list[int] = []

    def embed(self, comparisons: Iterable[Comparison], progress: Any = None) -> np.ndarray:
        shown = list(comparisons)
        self.responses += [len(one.responses) for one in shown]
        angles = np.array([int(one.prompt[-1].content) for one in shown]) * 0.1
        return np.stack([np.cos(angles), np.sin(angles)], 1).astype(np.float32)


class Wrong:
    """A reward model that is surely wrong about every label."""

    def score(self, comparisons: Iterable[Comparison]) -> list[np.ndarray]:
        return [np.array([0.0, 9.0]) for _ in comparisons]


def find(work: Workspace, embedder: Embedder | None) -> stage1.Selected:
    gold = Gold(work.gold(1), lambda: embedder)  # type: ignore[arg-type, return-value]
    return stage1.select(work, 1, stage1.unseen(work, 1), gold, Wrong(), QUIET)  # type: ignore[arg-type]


def test_neighbours_are_of_other_prompts(work: Workspace) -> None:
    embedder = Embedder()
    found = find(work, embedder)
    assert [int(one.prompt[-1].content) for one in found.pairs] == [1, 1, 3, 3]
    assert {by for by in found.found_by} == {PAIRS[0].id, PAIRS[4].id}
    # Attributes of the pool are not known: vectors are of conversations alone on either side.
    assert embedder.responses == [2] * (len(PAIRS) + 2)


def test_attributes_are_compared_where_the_pool_has_them(work: Workspace) -> None:
    for number, part in enumerate((PAIRS[:10], PAIRS[10:])):
        rows = [Labelled(one.id, FACT, "a", 1, "", "call").row() for one in part]
        table = pa.Table.from_pylist(rows, preference_attributes.SCHEMA)
        write_table(work.attributes / f"part-{number:05d}.parquet", table)
        embedder = Embedder()
        find(work, embedder)
        assert embedder.responses == [2 + number] * (len(PAIRS) + 2)  # with half of the attributes, none counts


def test_random_pairs_are_unseen_ones_and_others_each_time(tmp_path: Path) -> None:
    work = workspace(tmp_path, PAIRS, retrieval="random")
    looked_at(work, 0, PAIRS[:6], {PAIRS[0].id: "original", PAIRS[8].id: "original"})
    found = find(work, Embedder())
    assert len(found.pairs) == 4 and found.found_by == [None] * 4
    assert not {one.id for one in found.pairs} & {one.id for one in PAIRS[:6]}
    gold = Gold([], lambda: None)
    again = [stage1.select(work, n, np.ones(20, bool), gold, None, QUIET).pairs for n in (1, 1, 2)]
    assert again[0] == again[1] != again[2]


def test_a_pair_with_the_other_label_is_none_of_its_own_examples() -> None:
    examples = [Example(one.flipped() if k == 0 else one, "original", FACT) for k, one in enumerate(PAIRS[::2])]
    gold = Gold(examples, lambda: Embedder())  # type: ignore[arg-type, return-value]
    (first, second) = gold.items([PAIRS[0], PAIRS[5]], {}, 2)
    # The most similar one comes last.
    assert [one.pair.id for one in first.examples] == [PAIRS[4].id, PAIRS[2].id]
    assert second.examples[-1].pair.id == PAIRS[4].id


def test_of_a_pair_with_both_labels_people_see_one(work: Workspace) -> None:
    pairs = [PAIRS[2], PAIRS[6], PAIRS[2].flipped()]
    looked_at(work, 1, pairs, {})
    work.iteration(1).file("gold").unlink()
    with pytest.raises(Interrupted, match="0 of 2 pairs"):
        stage1.verified(work, 1, pairs, {}, None, None)
    assert len(read_items(work.iteration(1).folder / "people" / "iteration-01.jsonl")) == 2


def test_a_pool_that_is_used_up_ends_well(work: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    everything = [one for one in PAIRS if one.id not in work.selected_ids(1)]
    looked_at(work, 1, everything, {})
    monkeypatch.setattr(stage1, "reward_model", None)  # none is needed
    calls = SimpleNamespace()
    monkeypatch.setattr(stage1.labelling, "attributes_of", lambda *_: {})
    monkeypatch.setattr(stage1.labelling, "verdicts_of", lambda *_: {})
    stage1.iterate(work, 2, calls, None, QUIET)  # type: ignore[arg-type]
    assert work.iteration(2).finished and work.iteration(2).selected() == work.iteration(2).gold() == []
    assert len(work.gold(3)) == len(work.gold(1)) == 2
