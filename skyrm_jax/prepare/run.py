"""Sources -> chunks -> shards, in as many processes as there are cores -> one store."""

import json
import multiprocessing
import os
import shutil
from collections import Counter, deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from skyrm_jax import __version__
from skyrm_jax.chat import Chat
from skyrm_jax.data.files import HubDataset, Source, expand
from skyrm_jax.data.quarantine import EARLY, Quarantine
from skyrm_jax.data.readers import chunks
from skyrm_jax.data.sources import require_form
from skyrm_jax.data.store import FORMAT, QUARANTINE, Store
from skyrm_jax.data.writing import finish, require_free, write_durably
from skyrm_jax.errors import UserError
from skyrm_jax.folders import locked
from skyrm_jax.prepare import report
from skyrm_jax.prepare.options import PrepareOptions
from skyrm_jax.prepare.shard import KEPT, READ, REPEATED, TRUNCATED, Facts, Job, Maker, facts, start_worker, work
from skyrm_jax.prepare.split import repeats, split

SMALLEST_CHUNK, LARGEST_CHUNK, CHUNKS = 1 << 20, 128 << 20, 512
"""Bytes of a chunk are a fixed part of all bytes between these bounds: they must not depend on the machine."""

PACKED = 4
"""About how many bytes a byte of a compressed file becomes."""

WORTH_PROCESSES = 8 << 20
"""With fewer bytes the work is done before other processes are up."""


def prepare(options: PrepareOptions, console: Console | None = None) -> Store:
    """Makes the store that `options` describe and prints what became of every record.

    Finished shards are kept when the run is killed or fails, and not made again by the next one with the same options
    and sources. The result, byte for byte, and the held-out split depend on the records and the options only.

    Raises:
        UserError: an option, a file or the tokenizer is unusable; too many records are bad, none is left, or
            there is something in the way at `out`.
    """
    console = console or Console()
    directory = Path(options.out).absolute()
    require_form(options.form)
    require_free(directory, options.overwrite)
    sources = expand(options.sources, options.root)
    chat = Chat.load(options.tokenizer, None, options.template)
    pad = chat.tokenizer.pad_token_id if options.pad_token_id == "tokenizer" else options.pad_token_id
    chat = replace(chat, pad_token_id=pad)
    made_of = {
        "sources": options.sources,
        "options": _what_matters(options),
        "tokenizer_hash": chat.tokenizer_hash,
        "template_hash": chat.template_hash,
        "pad_token_id": chat.pad_token_id,
        "bos": chat.bos,
        "max_tokens": options.max_tokens,
    }
    with _partial(directory, made_of) as partial:
        shards = _Shards(options, pad, partial, sources)
        shards.make(console)
        meta = {name: value for name, value in made_of.items() if name != "sources"}
        store = shards.store(directory, meta)
    report.show(store, console)
    return store


def _what_matters(options: PrepareOptions) -> dict[str, Any]:
    """The options that decide what is in the store; where things are, and how it is made, does not belong to it."""
    given = asdict(options)
    return {name: given[name] for name in given if name not in ("sources", "out", "root", "overwrite", "workers")}


@contextmanager
def _partial(directory: Path, made_of: dict[str, Any]) -> Iterator[Path]:
    """The folder that finished shards wait in; those made of something else, or otherwise, are removed."""
    partial = directory.with_name(f".{directory.name}.partial")
    used_late = ("held_out", "dedup", "max_bad_share")
    options = {name: value for name, value in made_of["options"].items() if name not in used_late}
    made_of = made_of | {"options": options, "format": FORMAT, "version": __version__}
    note = partial / "made_of.json"
    with locked(directory):
        if not note.is_file() or json.loads(note.read_text(encoding="utf-8")) != made_of:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
            write_durably(note, json.dumps(made_of))
        yield partial


@dataclass
class _Shards:
    """The shards of a store being made, and the account of them."""

    options: PrepareOptions
    pad_token_id: int | None
    folder: Path
    sources: list[Source]
    of_source: Counter[str] = field(default_factory=Counter)
    made: list[Facts] = field(default_factory=list)
    source_of: list[Source] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.quarantine = Quarantine(self.folder / QUARANTINE, self.options.max_bad_share)

    def make(self, console: Console) -> None:
        """Makes what is missing, in order of the records."""
        total = sum(source.nbytes * (PACKED if source.packed else 1) for source in self.sources)
        endless = any(isinstance(source, HubDataset) for source in self.sources)
        size = LARGEST_CHUNK if endless else min(max(total // CHUNKS, SMALLEST_CHUNK), LARGEST_CHUNK)
        workers = self.options.workers
        if workers is None:
            workers = _cores() if endless or total > WORTH_PROCESSES else 0
        with ExitStack() as stack:
            arguments = self.options, self.pad_token_id, self.folder
            run: Callable[[Job], Future[None] | None]
            run = stack.enter_context(_pool(workers, arguments)) if workers else Maker(*arguments).make
            progress = stack.enter_context(report.progress(console, sum(source.nbytes for source in self.sources)))
            waiting: deque[tuple[Job, Source, Future[None] | None]] = deque()
            for job, source in self._jobs(size):
                known = facts(self.folder, job.number)
                made = None if known is not None and known.job == job.facts else run(job)
                # Without the payload: there may be gigabytes of them.
                waiting.append((replace(job, chunk=replace(job.chunk, payload=None)), source, made))
                while len(waiting) > workers + 2:
                    self._collect(*waiting.popleft(), progress)
            while waiting:
                self._collect(*waiting.popleft(), progress)
        for source in self.sources:
            self.quarantine.finish(source.name)
        self.quarantine.check()

    def _jobs(self, size: int) -> Iterator[tuple[Job, Source]]:
        number = 0
        for source in self.sources:
            for chunk in chunks(source, size):
                yield Job(number, source.name, source.short, chunk), source
                number += 1

    def _collect(self, job: Job, source: Source, made: Future[None] | None, progress: report.Progress) -> None:
        """Waits for a shard and takes it into the account."""
        if made is not None:
            try:
                made.result()
            except BrokenProcessPool as error:
                raise UserError(
                    f"a process that tokenises {job.name} from record {job.chunk.first} ended without a word, perhaps for "
                    "want of memory: run it again to go on, with fewer workers. (A script of yours that calls prepare() "
                    "needs `if __name__ == '__main__':` around it.)"
                ) from error
        found = facts(self.folder, job.number)
        if found is None:
            raise UserError(f"{self.folder}: shard {job.number} was removed while it was made; run the command again")
        self.made.append(found)
        self.source_of.append(source)
        self.quarantine.merge(found.quarantine)
        self.of_source[source.given] += len(found.rows)
        progress.show(source, job.chunk, self.quarantine.records)
        if self.quarantine.records >= EARLY:
            self.quarantine.check()

    def store(self, directory: Path, meta: dict[str, Any]) -> Store:
        """Splits off the held-out comparisons, leaves out repeated ones and completes the store."""
        if not self.of_source.total():
            found = sum((Counter(dict(outcomes)) for outcomes in self.quarantine.counts.values()), Counter())
            raise UserError(f"no comparison is left to store: {dict(found)}; see {self.quarantine.path}")
        repeated = np.zeros(self.of_source.total(), bool)
        if self.options.dedup:
            repeated = repeats(np.concatenate([one.contents for one in self.made]))
        held_out = split(np.concatenate([one.prompts for one in self.made])[~repeated], self.options.held_out)
        of_shard = np.split(repeated, np.cumsum([len(one.rows) for one in self.made])[:-1])
        rows, sizes = [], dict.fromkeys((source.given for source in self.sources), 0)
        repeats_of: Counter[str] = Counter()
        truncated: Counter[str] = Counter()
        turns: Counter[int] = Counter()
        for one, source, dropped in zip(self.made, self.source_of, of_shard, strict=True):
            rows.append(one.rows[~dropped])
            sizes[source.given] += len(rows[-1])
            repeats_of[source.name] += int(dropped.sum())
            truncated[source.name] += int(one.truncated[~dropped].sum())
            turns.update(one.turns[~dropped].tolist())
        if (
            sum(sizes.values())
            != sum(self.quarantine.counts[source.name][KEPT] for source in self.sources) - repeated.sum()
        ):
            raise AssertionError(f"the shards hold {sizes}, which is not what was counted: {self.quarantine.counts}")
        counts = {
            source.label: self._counts(source.name, repeats_of[source.name], truncated[source.name])
            for source in self.sources
        }
        report.lengths_plot(rows, self.folder / report.PICTURE)
        return finish(
            self.folder,
            directory,
            [one.shard for one in self.made],
            rows,
            list(sizes.items()),
            np.flatnonzero(held_out),
            np.flatnonzero(repeated),
            {"counts": counts, "turns": {str(length): turns[length] for length in sorted(turns)}} | meta,
            (QUARANTINE, report.PICTURE),
        )

    def _counts(self, name: str, repeated: int, truncated: int) -> dict[str, int]:
        """What became of the records of a file, by outcome; `read` is the sum of the others."""
        outcomes = Counter(self.quarantine.counts[name])
        if sum(outcomes.values()) != 2 * outcomes[READ]:
            raise AssertionError(f"{name}: records were lost: {dict(outcomes)}")
        outcomes[KEPT] -= repeated
        outcomes[REPEATED] += repeated
        counts = {outcome: count for outcome, count in sorted(outcomes.items()) if count}
        return counts | ({TRUNCATED: truncated} if truncated else {})


def _cores() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def _pool(workers: int, arguments: tuple[Any, ...]) -> Iterator[Callable[[Job], Future[None]]]:
    """Processes that make shards; those that have not begun when the block fails never do."""
    # Forking a process that has threads (JAX's, tokenizers') can lock it up.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, context, start_worker, arguments)
    try:
        yield lambda job: pool.submit(work, job)
    finally:
        pool.shutdown(cancel_futures=True)
