"""Sources -> chunks -> shards, in as many processes as there are cores -> one store."""

import hashlib
import json
import multiprocessing
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
from skyrm_jax.cores import cores
from skyrm_jax.data.files import HubDataset, Source, expand
from skyrm_jax.data.quarantine import EARLY, Quarantine
from skyrm_jax.data.readers import chunks
from skyrm_jax.data.sources import require_form
from skyrm_jax.data.store import FORMAT, QUARANTINE, Store
from skyrm_jax.data.writing import finish, remove_unfinished, require_free, write_durably
from skyrm_jax.errors import UserError
from skyrm_jax.folders import locked
from skyrm_jax.prepare import report
from skyrm_jax.prepare.options import PrepareOptions
from skyrm_jax.prepare.shard import (
    KEPT,
    PARTS,
    READ,
    REPEATED,
    TRUNCATED,
    Facts,
    Job,
    Maker,
    facts,
    number_of,
    start_worker,
    work,
)
from skyrm_jax.prepare.split import repeats, split

SMALLEST_CHUNK, LARGEST_CHUNK, CHUNKS = 1 << 20, 128 << 20, 512
"""Bytes of a chunk are a fixed part of all bytes between these bounds: they must not depend on the machine. They are a
power of two, so that finished shards mostly stay good when a source is added or left out."""

PACKED = 4
"""About how many bytes a byte of a compressed file becomes."""

WORTH_PROCESSES = 8 << 20
"""With fewer bytes the work is done before other processes are up."""


def prepare(options: PrepareOptions, console: Console | None = None) -> Store:
    """Makes the store that `options` describe and prints what became of every record.

    Finished shards are kept when the run is killed or fails, and not made again by the next one with the same options,
    whatever other sources it has. The result, byte for byte, and the held-out split depend only on the records, the
    names of their files from the root, the tokenizer, the template and the other options.

    Raises:
        UserError: an option, a file or the tokenizer is unusable; too many records are bad, none is left, or
            there is something in the way at `out`.
    """
    console = console or Console()
    directory = Path(options.out).absolute()
    require_form(options.form)
    found = expand(options.sources, options.root)
    sources = [source.resolved() if isinstance(source, HubDataset) else source for source in found]
    chat = Chat.load(options.tokenizer, None, options.template)
    pad = chat.tokenizer.pad_token_id if options.pad_token_id == "tokenizer" else options.pad_token_id
    chat = replace(chat, pad_token_id=pad)
    made_of = {
        "options": recorded(options, chat),
        "tokenizer_hash": chat.tokenizer_hash,
        "template_hash": chat.template_hash,
        "pad_token_id": chat.pad_token_id,
        "bos": chat.bos,
        "max_tokens": options.max_tokens,
    }
    revisions = {one.given: one.revision for one in sources if isinstance(one, HubDataset) and one.revision}
    with _partial(directory, options.overwrite, made_of) as (partial, stamp):
        shards = _Shards(options, pad, partial, sources, stamp)
        shards.make(console)
        store = shards.store(directory, made_of | ({"revisions": revisions} if revisions else {}))
    report.show(store, console)
    return store


def recorded(options: PrepareOptions, chat: Chat) -> dict[str, Any]:
    """The options that decide what is in the store, as store.json keeps them.

    Where things are, and how it is made, does not belong to it: `tokenizer` and `template`, if one was given, are the
    hashes of what was found there.
    """
    left_out = ("sources", "out", "root", "overwrite", "workers")
    given = {name: value for name, value in asdict(options).items() if name not in left_out}
    template = None if options.template is None else chat.template_hash
    return given | {"tokenizer": chat.tokenizer_hash, "template": template}


@contextmanager
def _partial(directory: Path, overwrite: bool, made_of: dict[str, Any]) -> Iterator[tuple[Path, str]]:
    """The folder that finished shards wait in, and what stands for what they are made of; other ones are removed.

    Raises UserError if there is something in the way at `directory`, or another process is making it.
    """
    partial = directory.with_name(f".{directory.name}.partial")
    used_late = ("held_out", "dedup", "max_bad_share")
    options = {name: value for name, value in made_of["options"].items() if name not in used_late}
    text = json.dumps(made_of | {"options": options, "format": FORMAT, "version": __version__})
    note = partial / "made_of.json"
    with locked(directory):
        require_free(directory, overwrite)
        if not note.is_file() or note.read_text(encoding="utf-8") != text:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
            write_durably(note, text)
        remove_unfinished(partial)
        yield partial, hashlib.sha256(text.encode()).hexdigest()


@dataclass
class _Shards:
    """The shards of a store being made, and the account of them."""

    options: PrepareOptions
    pad_token_id: int | None
    folder: Path
    sources: list[Source]
    made_of: str
    of_source: Counter[str] = field(default_factory=Counter)
    made: list[Facts] = field(default_factory=list)
    source_of: list[Source] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.quarantine = Quarantine(self.folder / QUARANTINE, self.options.max_bad_share)

    def make(self, console: Console) -> None:
        """Makes what is missing, in order of the records."""
        total = sum(source.nbytes * (PACKED if source.packed else 1) for source in self.sources)
        endless = any(isinstance(source, HubDataset) for source in self.sources)
        part = 1 << (total // CHUNKS).bit_length()
        size = LARGEST_CHUNK if endless else min(max(part, SMALLEST_CHUNK), LARGEST_CHUNK)
        workers = self.options.workers
        if workers is None:
            workers = cores() if endless or total > WORTH_PROCESSES else 0
        with ExitStack() as stack:
            arguments = self.options, self.pad_token_id, self.folder
            run: Callable[[Job], Future[None] | None]
            run = stack.enter_context(_pool(workers, arguments)) if workers else Maker(*arguments).make
            progress = stack.enter_context(report.progress(console, sum(source.nbytes for source in self.sources)))
            waiting: deque[tuple[Job, Source, Future[None] | None]] = deque()
            for job, source in self._jobs(size):
                made = None if self._finished(job, checksum=True) else run(job)
                # Without the payload: there may be gigabytes of them.
                waiting.append((replace(job, chunk=replace(job.chunk, payload=None)), source, made))
                while len(waiting) > workers + 2:
                    self._collect(*waiting.popleft(), progress)
            while waiting:
                self._collect(*waiting.popleft(), progress)
        self.quarantine.finish(self.sources[-1].label)
        self.quarantine.check()

    def _jobs(self, size: int) -> Iterator[tuple[Job, Source]]:
        for source in self.sources:
            is_empty = True
            for chunk in chunks(source, size):
                is_empty = False
                yield Job.of(source, chunk, self.made_of), source
            if is_empty:
                self.quarantine.finish(source.label)

    def _finished(self, job: Job, checksum: bool) -> Facts | None:
        """The shard of a job, if there is one and it is whole."""
        found = facts(self.folder, job.number, checksum)
        return found if found is not None and number_of(found.job) == job.number else None

    def _collect(self, job: Job, source: Source, made: Future[None] | None, progress: report.Progress) -> None:
        """Waits for a shard, the next one in order, and takes it into the account."""
        if self.source_of and self.source_of[-1] is not source:
            self.quarantine.finish(self.source_of[-1].label)
        if made is not None:
            try:
                made.result()
            except BrokenProcessPool as error:
                raise UserError(
                    f"a process that tokenises {job.name} from record {job.chunk.first} ended without a word, perhaps for "
                    "want of memory: run it again to go on, with fewer workers. (A script of yours that calls prepare() "
                    "needs `if __name__ == '__main__':` around it.)"
                ) from error
        found = self._finished(job, checksum=False)  # made just now, or read when it was found
        if found is None:
            raise UserError(
                f"{self.folder}: the shard of {job.name} from record {job.chunk.first} was removed or damaged while it was "
                "made; run the command again"
            )
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
        parts: dict[str, Counter[str]] = {source.label: Counter() for source in self.sources}
        turns: Counter[int] = Counter()
        for one, source, dropped in zip(self.made, self.source_of, of_shard, strict=True):
            rows.append(one.rows[~dropped])
            sizes[source.given] += len(rows[-1])
            repeats_of[source.label] += int(dropped.sum())
            for array, name in {"truncated": TRUNCATED, **PARTS}.items():
                parts[source.label][name] += int(getattr(one, array)[~dropped].sum())
            turns.update(one.turns[~dropped].tolist())
        if (
            sum(sizes.values())
            != sum(self.quarantine.counts[source.label][KEPT] for source in self.sources) - repeated.sum()
        ):
            raise AssertionError(f"the shards hold {sizes}, which is not what was counted: {self.quarantine.counts}")
        counts = {
            source.label: self._counts(source.label, repeats_of[source.label]) | dict(+parts[source.label])
            for source in self.sources
        }
        report.write(self.folder, counts, rows, int(held_out.sum()), turns)
        return finish(
            self.folder,
            directory,
            [one.shard for one in self.made],
            rows,
            list(sizes.items()),
            np.flatnonzero(held_out),
            np.flatnonzero(repeated),
            {"counts": counts, "turns": {str(length): turns[length] for length in sorted(turns)}} | meta,
            (QUARANTINE, report.PICTURE, report.REPORT),
        )

    def _counts(self, name: str, repeated: int) -> dict[str, int]:
        """What became of the records of a file, by outcome; `read` is the sum of the others."""
        outcomes = Counter(self.quarantine.counts[name])
        if sum(outcomes.values()) != 2 * outcomes[READ]:
            raise AssertionError(f"{name}: records were lost: {dict(outcomes)}")
        outcomes[KEPT] -= repeated
        outcomes[REPEATED] += repeated
        return {outcome: count for outcome, count in sorted(outcomes.items()) if count}


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
