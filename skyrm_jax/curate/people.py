"""A batch goes to people and their answers come back, by whatever way they work."""

from collections.abc import Callable, Sequence
from itertools import count
from pathlib import Path

from skyrm_jax.curate.humans.argilla import read_argilla, write_argilla
from skyrm_jax.curate.humans.batch import read_key, write_batch
from skyrm_jax.curate.humans.queue import HumanQueue, Waiting, first
from skyrm_jax.curate.humans.verified import Answer, Imported, read_answers, verify
from skyrm_jax.errors import Interrupted, UserError
from skyrm_jax.report.files import whole

ANSWERS = (".jsonl", ".json")
"""How the names of files of answers end."""

People = Callable[[Path], None]
"""Has a batch verified: is given its file, and leaves answers beside it, as `answers_of` finds them."""


def ask(
    folder: Path, name: str, waiting: Sequence[Waiting], queue: HumanQueue, enough: float, people: People | None
) -> Imported:
    """What people say of the first pairs of the queue.

    The batch is `folder`/NAME.jsonl, and the same for Argilla; answers are read from NAME.answers*.

    Raises:
        Interrupted: fewer than the share `enough` of the batch is answered.
        UserError: the answers are none, or none to this batch.
    """
    batch = write_batch(folder, name, first(waiting, queue.budget), queue.seed, queue.reveal)
    write_argilla(folder, name, queue.annotators)
    if people is not None and not answers_of(folder, name):
        people(batch)
    imported = read(folder, name, queue)
    total = len(imported.verified) + len(imported.waiting)
    if len(imported.verified) < enough * total:
        raise Interrupted(
            f"{len(imported.verified)} of {total} pairs of {batch} are verified. Have the others verified, bring the "
            "answers back with `skyrm curate answers`, and run the same command again; calls already made are not repeated"
        )
    return imported


def read(folder: Path, name: str, queue: HumanQueue) -> Imported:
    """What the answers that are there come to."""
    answers = [answer for path in answers_of(folder, name) for answer in _read(path)]
    return verify(read_key(folder, name), answers, queue.annotators)


def take(folder: Path, name: str, files: Sequence[Path], queue: HumanQueue) -> Imported:
    """Puts files of answers beside the batch, once they are known to be answers to it; what all of them come to.

    Raises UserError if one is not, or contradicts what is there: nothing is changed then.
    """
    for path in files:
        if path.suffix not in ANSWERS:
            raise UserError(
                f"{path}: answers come as {' or '.join(ANSWERS)} (Argilla's records are .json); unpack or rename it"
            )
    there = [answer for path in answers_of(folder, name) for answer in _read(path)]
    added = [answer for path in files for answer in _read(path)]
    if not added:
        raise UserError(f"{', '.join(map(str, files))}: there is no answer in it")
    imported = verify(read_key(folder, name), there + added, queue.annotators)
    numbers = (number for number in count() if not list(folder.glob(f"{name}.answers-{number:03d}.*")))
    for path, number in zip(files, numbers, strict=False):
        with whole(folder / f"{name}.answers-{number:03d}{path.suffix}") as temporary:
            temporary.write_bytes(path.read_bytes())
    return imported


def answers_of(folder: Path, name: str) -> list[Path]:
    """The files of answers to a batch."""
    return sorted(path for path in folder.glob(f"{name}.answers*") if path.suffix in ANSWERS)


def _read(path: Path) -> list[Answer]:
    """Answers in lines, or in Argilla's records, which are one JSON list."""
    return read_argilla([path]) if path.suffix == ".json" else read_answers([path])
