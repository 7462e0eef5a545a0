"""One chunk of records -> one shard and the account of it, in a process of its own.

7.trees              the shard
7.npz                `Facts`' arrays, one entry for each comparison in the shard
7.quarantine.jsonl   records put aside, if any
7.json               the rest; written last: with it the shard is finished

Each is written under another name, synced and renamed, so that a process that should have ended spoils none.
"""

import hashlib
import json
import multiprocessing
import os
import threading
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, Self

import numpy as np

from skyrm_jax.chat import Chat, OverLong, Tree
from skyrm_jax.comparison import Comparison, IdenticalResponses
from skyrm_jax.data.files import Source
from skyrm_jax.data.index import MOST
from skyrm_jax.data.quarantine import Quarantine
from skyrm_jax.data.readers import Chunk
from skyrm_jax.data.record import StoredTree
from skyrm_jax.data.sources import IDENTICAL, Located, comparisons_of
from skyrm_jax.data.store import facts_of
from skyrm_jax.data.writing import ShardWriter, unfinished, write_durably
from skyrm_jax.errors import RecordError
from skyrm_jax.folders import sync
from skyrm_jax.prepare.options import PrepareOptions
from skyrm_jax.prepare.split import content_hash, prompt_hash

BATCH = 512
"""Comparisons tokenised together."""

READ = "read"
KEPT = "kept"
TRUNCATED = "truncated"
DROPPED = "over-long, dropped"
EMPTY = "empty response, dropped"
ALIKE = "over-long, identical once truncated"
REPEATED = "repeats an earlier record"

PARTS = {"pairs": "identical pairs removed", "emptied": "empty responses removed"}
"""What was taken out of comparisons of which something is left to learn: the array that counts it, and its name."""


@dataclass(frozen=True)
class Job:
    """A chunk to make a shard of.

    Attributes:
        number: names the shard's files.
        name, short: the source's label and short name.
        made_of: stands for the options, the tokenizer and the version of the program.
    """

    number: int
    name: str
    short: str
    chunk: Chunk
    made_of: str = ""

    @classmethod
    def of(cls, source: Source, chunk: Chunk, made_of: str) -> Self:
        """A job whose number depends on what it is made of alone: a shard stays good when other sources come or go."""
        job = cls(0, source.label, source.short, chunk, made_of)
        return replace(job, number=number_of(job.facts))

    @property
    def facts(self) -> dict[str, Any]:
        """What a shard made of this depends on."""
        first, digest = self.chunk.first, self.chunk.digest
        return {"name": self.name, "short": self.short, "first": first, "digest": digest, "made_of": self.made_of}


def number_of(facts: dict[str, Any]) -> int:
    """The number of a `Job.of` these facts."""
    digest = hashlib.blake2b(json.dumps(facts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little")


@dataclass(frozen=True)
class Facts:
    """What is known of a finished shard.

    Attributes:
        job: what it was made of.
        shard: size and checksum of its file, and records in it.
        rows: of the index, one for each comparison.
        prompts, contents: `prompt_hash` and `content_hash` of each.
        quarantine: counts, and where the records are that were put aside.
        truncated: whether each was cut.
        turns: messages of the longest conversation of each.
        pairs, emptied: identical pairs and empty responses removed from each.
    """

    job: dict[str, Any]
    shard: dict[str, Any]
    rows: np.ndarray
    prompts: np.ndarray
    contents: np.ndarray
    truncated: np.ndarray
    turns: np.ndarray
    pairs: np.ndarray
    emptied: np.ndarray
    quarantine: Quarantine


class Maker:
    """Makes shards in a folder."""

    def __init__(self, options: PrepareOptions, pad_token_id: int | None, folder: Path) -> None:
        """Raises UserError if the tokenizer cannot be used."""
        self.options, self.folder = options, folder
        self.chat = Chat.load(options.tokenizer, pad_token_id, options.template)

    def make(self, job: Job) -> None:
        """The shard of a chunk, whole or not at all.

        Raises:
            UserError: a record is bad and none may be.
        """
        options, paths = self.options, Paths(self.folder, job.number)
        beside = Paths(self.folder, job.number, unfinished)
        quarantine = Quarantine(beside.quarantine, 1.0 if options.max_bad_share else 0.0)
        prompts, contents = [], bytearray()
        columns: dict[str, list[int]] = {name: [] for name in ("truncated", "turns", *PARTS)}
        located = comparisons_of(job.chunk, job.name, job.short, options.form, options.training, quarantine)
        with ShardWriter(beside.trees) as writer:
            for batch in _batches(self._with_text(located, quarantine), BATCH):
                for (one, emptied), tree in zip(batch, self._trees(batch), strict=True):
                    comparison, outcome = one.comparison, ""
                    if isinstance(tree, Tree) and options.training:
                        comparison, outcome, tree = _learnable(comparison, tree)
                    if isinstance(tree, Tree) and max(len(tree.reward_index), len(comparison.preferences)) > MOST:
                        tree = RecordError("preferences", "are too many", f"give at most {MOST:,} pairs and responses")
                    if isinstance(tree, RecordError):
                        outcome = DROPPED if isinstance(tree, OverLong) else outcome
                        quarantine.add(job.name, one.line, tree, one.raw, outcome)
                        continue
                    writer.add(StoredTree(tree, comparison.preferences, comparison.id, comparison.category))
                    quarantine.count(job.name, KEPT)
                    prompts.append(prompt_hash(comparison, options.seed))
                    contents += content_hash(comparison)
                    columns["truncated"].append(tree.truncated > 0)
                    columns["turns"].append(len(comparison.prompt) + max(map(len, comparison.responses)))
                    columns["pairs"].append(len(one.comparison.preferences) - len(comparison.preferences))
                    columns["emptied"].append(emptied)
        with beside.arrays.open("wb") as file:
            np.savez(
                file,
                rows=writer.rows,
                prompts=np.array(prompts, np.uint64),
                contents=np.frombuffer(bytes(contents), "<u8").reshape(-1, 2),
                allow_pickle=False,
                **{name: np.array(values, np.int32) for name, values in columns.items()},
            )
        for written, path in zip(beside.data, paths.data, strict=True):
            if written.exists():
                sync(written)
                written.replace(path)
            else:  # no record was put aside
                path.unlink(missing_ok=True)
        sync(self.folder)
        facts = {
            "job": job.facts,
            "shard": facts_of(paths.trees) | {"records": len(prompts)},
            "quarantine": _size(paths.quarantine),
            "counts": quarantine.counts.get(job.name, {}),
            "bad": quarantine.bad,
        }
        write_durably(paths.facts, json.dumps(facts))

    def _with_text(self, located: Iterable[Located], quarantine: Quarantine) -> Iterator[tuple[Located, int]]:
        """The comparisons without responses that say nothing, and how many these were, if they are to be dropped."""
        drop = self.options.training and self.options.empty == "drop"
        for one in located:
            silent = [k for k, r in enumerate(one.comparison.responses) if drop and not r[-1].content.strip()]
            left = one.comparison.without(silent) if silent else one.comparison
            if silent and not left.preferences:
                error = RecordError(
                    "responses",
                    "is empty",
                    "write the response, or keep empty ones (empty: keep)",
                    f"response {silent[0]}",
                )
                quarantine.add(one.file, one.line, error, one.raw, EMPTY)
            else:
                yield (replace(one, comparison=left) if silent else one), len(silent)

    def _trees(self, batch: list[tuple[Located, int]]) -> list[Tree | RecordError]:
        comparisons = [located.comparison for located, _ in batch]
        return self.chat.trees(comparisons, self.options.max_tokens, self.options.over_long)


class Paths:
    """The files of a shard, with names that `called` may change."""

    def __init__(self, folder: Path, number: int, called: Callable[[str], str] = str) -> None:
        self.trees = folder / called(f"{number}.trees")
        self.arrays = folder / called(f"{number}.npz")
        self.quarantine = folder / called(f"{number}.quarantine.jsonl")
        self.facts = folder / called(f"{number}.json")

    @property
    def data(self) -> tuple[Path, ...]:
        """All but the facts."""
        return self.trees, self.arrays, self.quarantine


def facts(folder: Path, number: int, checksum: bool = True) -> Facts | None:
    """What a finished shard holds; None if it is not there, or not whole: `checksum` reads all of it to know."""
    paths = Paths(folder, number)
    try:
        told = json.loads(paths.facts.read_text(encoding="utf-8"))
        with np.load(paths.arrays) as arrays:
            columns = {name: arrays[name] for name in ("rows", "prompts", "contents", "truncated", "turns", *PARTS)}
        if (_size(paths.trees), _size(paths.quarantine)) != (told["shard"]["bytes"], told["quarantine"]):
            return None
        if checksum and facts_of(paths.trees)["crc32"] != told["shard"]["crc32"]:
            return None
    except (OSError, ValueError, KeyError, zipfile.BadZipFile):
        return None
    quarantine = Quarantine(None)
    quarantine.path = paths.quarantine  # to be read, not begun anew
    quarantine.counts = {told["job"]["name"]: Counter(told["counts"])}
    quarantine.records, quarantine.bad = told["counts"].get(READ, 0), told["bad"]
    return Facts(told["job"], told["shard"], **columns, quarantine=quarantine)


def _size(path: Path) -> int:
    """Bytes of a file; 0 if it is not there."""
    return path.stat().st_size if path.exists() else 0


_maker: Maker | None = None


def start_worker(*arguments: Any) -> None:
    """Prepares a worker process; the arguments are `Maker`'s."""
    global _maker
    threading.Thread(target=_end_with_parent, daemon=True).start()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # there is a process for every core
    _maker = Maker(*arguments)


def _end_with_parent() -> None:
    """Ends this process when the one that started it is gone, however that ended: it must not write on unasked."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def work(job: Job) -> None:
    """Makes a shard in a worker process."""
    assert _maker is not None
    _maker.make(job)


def _learnable(comparison: Comparison, tree: Tree) -> tuple[Comparison, str, Tree | RecordError]:
    """A comparison without the pairs of which nothing can be learned; if none is left, the outcome and why."""
    # Different texts may have equal tokens: templates trim, and truncation cuts differences off.
    told_apart = tuple(p for p in comparison.preferences if tree.leaf[p.winner] != tree.leaf[p.loser])
    if not told_apart:
        first = comparison.preferences[0]
        return comparison, ALIKE if tree.truncated else IDENTICAL, IdenticalResponses(first.winner, first.loser)
    return replace(comparison, preferences=told_apart), "", tree


def _batches(items: Iterable[tuple[Located, int]], size: int) -> Iterator[list[tuple[Located, int]]]:
    items = iter(items)
    while batch := list(islice(items, size)):
        yield batch
