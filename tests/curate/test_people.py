"""Answers that are brought to a batch: none is lost, none is taken that could not be read."""

import json
from pathlib import Path

import pytest

from skyrm_jax.comparison import Message
from skyrm_jax.curate import people
from skyrm_jax.curate.humans.batch import read_items, write_batch
from skyrm_jax.curate.humans.queue import HumanQueue, Waiting
from skyrm_jax.curate.pair import Pair
from skyrm_jax.errors import UserError

QUEUE = HumanQueue()


@pytest.fixture
def batch(tmp_path: Path) -> Path:
    """A batch of three pairs in the folder `people`."""
    pairs = [
        Pair.of([Message("user", str(n))], [Message("assistant", "yes")], [Message("assistant", "no")])
        for n in range(3)
    ]
    return write_batch(tmp_path / "people", "b", [Waiting(one) for one in pairs], 0)


def answers(batch: Path, number: int, path: Path) -> Path:
    """A file of the answer to one item."""
    item = read_items(batch)[number]
    path.write_text(json.dumps(item.row() | {"verdict": "candidate 1", "annotator": "ann"}) + "\n")
    return path


def test_what_could_not_be_read_later_is_refused(batch: Path, tmp_path: Path) -> None:
    packed = answers(batch, 0, tmp_path / "answers.jsonl.gz")
    with pytest.raises(UserError, match=r"answers\.jsonl\.gz: answers come as \.jsonl or \.json"):
        people.take(batch.parent, "b", [packed], QUEUE)
    assert people.answers_of(batch.parent, "b") == []


def test_a_file_never_takes_the_place_of_another(batch: Path, tmp_path: Path) -> None:
    files = [answers(batch, number, tmp_path / f"{number}.jsonl") for number in range(3)]
    people.take(batch.parent, "b", files[:2], QUEUE)
    people.answers_of(batch.parent, "b")[0].unlink()
    assert len(people.take(batch.parent, "b", files[2:], QUEUE).verified) == 2
    assert len(people.take(batch.parent, "b", files[:1], QUEUE).verified) == 3
    assert len(people.answers_of(batch.parent, "b")) == 3
