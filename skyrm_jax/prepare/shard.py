"""One chunk of records -> one shard and the account of it, in a process of its own.

7.trees              the shard
7.npz                `Facts`' arrays, one entry for each comparison in the shard
7.quarantine.jsonl   records put aside, if any
7.json               the rest; written last and durably: with it the shard is finished
"""

import json
import os
import zipfile
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from skyrm_jax.chat import Chat, OverLong, Tree
from skyrm_jax.comparison import Comparison, IdenticalResponses
from skyrm_jax.data.index import MOST
from skyrm_jax.data.quarantine import Quarantine
from skyrm_jax.data.readers import Chunk
from skyrm_jax.data.record import StoredTree
from skyrm_jax.data.sources import IDENTICAL, Located, comparisons_of
from skyrm_jax.data.store import facts_of
from skyrm_jax.data.writing import ShardWriter, write_durably
from skyrm_jax.errors import RecordError
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


@dataclass(frozen=True)
class Job:
    """A chunk to make a shard of: `number` counts over all sources, `name` and `short` are the source's."""

    number: int
    name: str
    short: str
    chunk: Chunk

    @property
    def facts(self) -> dict[str, Any]:
        """What a shard made of this depends on."""
        return {"name": self.name, "short": self.short, "first": self.chunk.first, "digest": self.chunk.digest}


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
    """

    job: dict[str, Any]
    shard: dict[str, Any]
    rows: np.ndarray
    prompts: np.ndarray
    contents: np.ndarray
    truncated: np.ndarray
    turns: np.ndarray
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
        paths = Paths(self.folder, job.number)
        quarantine = Quarantine(paths.quarantine, 1.0 if self.options.max_bad_share else 0.0)
        prompts, contents, turns, truncated = [], bytearray(), [], []
        options = self.options
        located = comparisons_of(job.chunk, job.name, job.short, options.form, options.training, quarantine)
        with ShardWriter(paths.trees) as writer:
            for batch in _batches(self._with_text(located, quarantine), BATCH):
                for one, tree in zip(batch, self._trees(batch), strict=True):
                    outcome = ""
                    if isinstance(tree, Tree) and max(len(tree.reward_index), len(one.comparison.preferences)) > MOST:
                        tree = RecordError("preferences", "are too many", f"give at most {MOST:,} pairs and responses")
                    if isinstance(tree, Tree) and options.training:
                        # Different texts may have equal tokens: templates trim, and truncation cuts differences off.
                        outcome, tree = _unlearnable(one.comparison, tree)
                    if isinstance(tree, RecordError):
                        outcome = DROPPED if isinstance(tree, OverLong) else outcome
                        quarantine.add(job.name, one.line, tree, one.raw, outcome)
                        continue
                    comparison = one.comparison
                    writer.add(StoredTree(tree, comparison.preferences, comparison.id, comparison.category))
                    quarantine.count(job.name, KEPT)
                    prompts.append(prompt_hash(comparison, options.seed))
                    contents += content_hash(comparison)
                    turns.append(len(comparison.prompt) + max(map(len, comparison.responses)))
                    truncated.append(tree.truncated > 0)
        hashes = np.frombuffer(bytes(contents), "<u8").reshape(-1, 2)
        np.savez(
            paths.arrays,
            rows=writer.rows,
            prompts=np.array(prompts, np.uint64),
            contents=hashes,
            truncated=np.array(truncated, bool),
            turns=np.array(turns, np.int32),
        )
        facts = {
            "job": job.facts,
            "shard": facts_of(paths.trees) | {"records": len(prompts)},
            "counts": quarantine.counts.get(job.name, {}),
            "bad": quarantine.bad,
        }
        write_durably(paths.facts, json.dumps(facts))

    def _with_text(self, located: Iterable[Located], quarantine: Quarantine) -> Iterator[Located]:
        """Those whose responses all say something, if others are to be dropped."""
        for one in located:
            silent = [k for k, r in enumerate(one.comparison.responses) if not r[-1].content.strip()]
            if silent and self.options.training and self.options.empty == "drop":
                error = RecordError(
                    "responses",
                    "is empty",
                    "write the response, or keep empty ones (empty: keep)",
                    f"response {silent[0]}",
                )
                quarantine.add(one.file, one.line, error, one.raw, EMPTY)
            else:
                yield one

    def _trees(self, batch: list[Located]) -> list[Tree | RecordError]:
        comparisons = [located.comparison for located in batch]
        return self.chat.trees(comparisons, self.options.max_tokens, self.options.over_long)


class Paths:
    """The files of a shard in the making."""

    def __init__(self, folder: Path, number: int) -> None:
        self.trees = folder / f"{number}.trees"
        self.arrays = folder / f"{number}.npz"
        self.quarantine = folder / f"{number}.quarantine.jsonl"
        self.facts = folder / f"{number}.json"


def facts(folder: Path, number: int) -> Facts | None:
    """What a finished shard holds; None if it is not there, or not whole."""
    paths = Paths(folder, number)
    try:
        told = json.loads(paths.facts.read_text(encoding="utf-8"))
        with np.load(paths.arrays) as arrays:
            columns = {name: arrays[name] for name in ("rows", "prompts", "contents", "truncated", "turns")}
        if paths.trees.stat().st_size != told["shard"]["bytes"]:
            return None
    except (OSError, ValueError, KeyError, zipfile.BadZipFile):
        return None
    quarantine = Quarantine(None)
    quarantine.path = paths.quarantine  # to be read, not begun anew
    quarantine.counts = {told["job"]["name"]: Counter(told["counts"])}
    quarantine.records, quarantine.bad = told["counts"].get(READ, 0), told["bad"]
    return Facts(told["job"], told["shard"], **columns, quarantine=quarantine)


_maker: Maker | None = None


def start_worker(*arguments: Any) -> None:
    """Prepares a worker process; the arguments are `Maker`'s."""
    global _maker
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # there is a process for every core
    _maker = Maker(*arguments)


def work(job: Job) -> None:
    """Makes a shard in a worker process."""
    assert _maker is not None
    _maker.make(job)


def _unlearnable(comparison: Comparison, tree: Tree) -> tuple[str, Tree | RecordError]:
    """The tree, or why nothing can be learned from it, and the outcome."""
    for p in comparison.preferences:
        if tree.leaf[p.winner] == tree.leaf[p.loser]:
            return (ALIKE if tree.truncated else IDENTICAL), IdenticalResponses(p.winner, p.loser)
    return "", tree


def _batches(items: Iterable[Located], size: int) -> Iterator[list[Located]]:
    items = iter(items)
    while batch := list(islice(items, size)):
        yield batch
