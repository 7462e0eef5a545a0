"""`python -m skyrm_jax.prepare`: preference files -> tokenised store, with an account of every record."""

import hashlib
import json
import sys
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, UInt64
from jsonargparse import ArgumentParser
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from skyrm_jax.chat import Chat, OverLong, Policy, Tree
from skyrm_jax.comparison import Comparison, identical_responses
from skyrm_jax.data.quarantine import Quarantine
from skyrm_jax.data.sources import Located, read_located
from skyrm_jax.data.store import QUARANTINE, Index, Store, StoredTree, StoreWriter
from skyrm_jax.errors import RecordError, UserError, run_command

BATCH = 512
"""Comparisons tokenised together."""

READ = "read"
KEPT = "kept"
TRUNCATED = "truncated"
DROPPED = "over-long, dropped"
ALIKE = "over-long, identical once truncated"


@dataclass(frozen=True)
class PrepareOptions:
    """What goes into a store, and how.

    Args:
        sources: files of comparisons (jsonl, jsonl.gz, json, parquet).
        out: folder of the store.
        tokenizer: folder or Hub id.
        root: folder that relative sources start from; default: the current one.
        form: shape of the records; `auto` detects it record by record.
        pad_token_id: the model's; null if it has none.
        template: a chat template file, or a built-in name (chatml, plain), instead of the tokenizer's own.
        max_tokens: longest conversation.
        over_long: what happens to longer ones.
        held_out: comparisons held out by prompt: a share below 1, or a number of comparisons.
        seed: of the held-out split.
        max_bad_share: stop when more than this share of records is bad.
        training: put aside identical pairs and pass over undecided records; off: keep both, for evaluation.
        overwrite: replace a store that is already there.
    """

    sources: list[str]
    out: str
    tokenizer: str
    root: str | None = None
    form: str = "auto"
    pad_token_id: int | Literal["tokenizer"] | None = "tokenizer"
    template: str | None = None
    max_tokens: int = 16384
    over_long: Policy = "drop"
    held_out: float = 0.02
    seed: int = 0
    max_bad_share: float = 0.05
    training: bool = True
    overwrite: bool = False

    def __post_init__(self) -> None:
        for name, bad, rule in [
            ("max_tokens", self.max_tokens < 2, "must be at least 2"),
            ("held_out", self.held_out < 0, "must not be negative"),
            ("held_out", self.held_out > 1 and self.held_out % 1, "must be whole, or a share below 1"),
            ("max_bad_share", not 0 <= self.max_bad_share <= 1, "must be a share, 0 to 1"),
        ]:
            if bad:
                raise UserError(f"{name} {rule}: {getattr(self, name)}")


def prepare(options: PrepareOptions, console: Console | None = None) -> Store:
    """Makes the store that `options` describe and prints what became of every record.

    The result, byte for byte, and the held-out split depend on the records and the options only.

    Raises:
        UserError: an option, a file or the tokenizer is unusable; too many records are bad, none is left, or
            there is something in the way at `out`.
    """
    console = console or Console()
    paths = [Path(options.root or "") / source for source in options.sources]
    if len({path.resolve() for path in paths}) < len(paths):
        raise UserError(f"sources name a file twice: {', '.join(map(str, paths))}; name each once")
    with StoreWriter(options.out, options.overwrite) as writer:
        quarantine = Quarantine(writer.partial / QUARANTINE, options.max_bad_share)
        located = read_located(paths, options.form, options.training, quarantine)
        chat = Chat.load(options.tokenizer, None, options.template)
        pad = chat.tokenizer.pad_token_id if options.pad_token_id == "tokenizer" else options.pad_token_id
        chat = replace(chat, pad_token_id=pad)
        account = _Account(options, chat, writer, quarantine, {str(p): i for i, p in enumerate(paths)})
        for batch in _batches(_shown(located, console), BATCH):
            account.add(batch)
        quarantine.check()
        store = account.finish()
    _print(store, console)
    return store


def split(prompts: UInt64[np.ndarray, "n"], held_out: float) -> Bool[np.ndarray, "n"]:
    """Which comparisons are held out: whole prompts by the order of their hashes, no more than asked for.

    `prompts` are `prompt_hash`es; `held_out` is a share below 1 or a number. Raises UserError if it is all.
    """
    wanted = round(held_out * len(prompts)) if held_out < 1 else int(held_out)
    if wanted and wanted >= len(prompts):
        raise UserError(f"held_out = {held_out:g} of {len(prompts)} comparisons leaves nothing to train on; lower it")
    _, number, sizes = np.unique(prompts, return_inverse=True, return_counts=True)
    taken = np.zeros(len(sizes), bool)
    for prompt, size in enumerate(sizes.tolist()):
        if not wanted:
            break
        if size <= wanted:
            taken[prompt] = True
            wanted -= size
    return taken[number]


def prompt_hash(comparison: Comparison, seed: int) -> int:
    """64 bits that depend on the seed and on how the prompt opens: its messages up to the first user turn.

    Longer and shorter cuts of one dialogue open alike (one in eighteen of hh-rlhf's prompts continues another one), and the
    longer holds an answer to the shorter: they must not be on different sides of a split.
    """
    roles = [message.role for message in comparison.prompt]
    opening = comparison.prompt[: roles.index("user") + 1] if "user" in roles else comparison.prompt
    text = json.dumps([seed, *([m.role, m.content] for m in opening)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


@dataclass
class _Account:
    """Puts comparisons into the store, or aside, and counts both."""

    options: PrepareOptions
    chat: Chat
    writer: StoreWriter
    quarantine: Quarantine
    numbers: dict[str, int]
    prompts: "array[int]" = field(default_factory=lambda: array("Q"))
    truncated: Counter[str] = field(default_factory=Counter)

    def add(self, batch: Sequence[Located]) -> None:
        """Tokenises and stores a batch."""
        comparisons = [located.comparison for located in batch]
        trees = self.chat.trees(comparisons, self.options.max_tokens, self.options.over_long)
        for located, tree in zip(batch, trees, strict=True):
            outcome = ""
            if isinstance(tree, Tree) and self.options.training:
                # Different texts may have equal tokens: templates trim, and truncation cuts differences off.
                outcome, tree = _unlearnable(located.comparison, tree)
            if isinstance(tree, RecordError):
                if isinstance(tree, OverLong):
                    outcome = DROPPED
                self.quarantine.add(located.file, located.line, tree, located.raw, outcome)
                continue
            comparison = located.comparison
            stored = StoredTree(tree, comparison.preferences, comparison.id, comparison.category)
            self.writer.add(stored, self.numbers[located.file])
            self.prompts.append(prompt_hash(comparison, self.options.seed))
            self.quarantine.count(located.file, KEPT)
            self.truncated[located.file] += tree.truncated > 0

    def finish(self) -> Store:
        """Splits off the held-out comparisons and completes the store."""
        if not len(self.writer):
            found = {outcome: n for c in self.quarantine.counts.values() for outcome, n in c.items()}
            raise UserError(f"no comparison is left to store: {found}; see {self.quarantine.path}")
        given = {file: self.options.sources[number] for file, number in self.numbers.items()}
        counts = {}
        for file, outcomes in self.quarantine.counts.items():
            if sum(outcomes.values()) != 2 * outcomes[READ]:
                raise AssertionError(f"{file}: records were lost: {dict(outcomes)}")
            counts[given[file]] = dict(sorted(outcomes.items()))
            if self.truncated[file]:
                counts[given[file]][TRUNCATED] = self.truncated[file]
        options = asdict(self.options)
        for name in ("out", "root", "overwrite"):  # where things are does not belong to what they are
            del options[name]
        meta = {
            "sources": self.options.sources,
            "options": options,
            "tokenizer_hash": self.chat.tokenizer_hash,
            "template_hash": self.chat.template_hash,
            "pad_token_id": self.chat.pad_token_id,
            "bos": self.chat.bos,
            "max_tokens": self.options.max_tokens,
            "counts": counts,
        }
        return self.writer.finish(split(np.frombuffer(self.prompts, np.uint64), self.options.held_out), meta)


def _unlearnable(comparison: Comparison, tree: Tree) -> tuple[str, Tree | RecordError]:
    """The tree, or why nothing can be learned from it and, if it is not the record's fault, the outcome."""
    for p in comparison.preferences:
        if tree.leaf[p.winner] == tree.leaf[p.loser]:
            return (ALIKE if tree.truncated else ""), identical_responses(p.winner, p.loser)
    return "", tree


def _batches(items: Iterator[Located], size: int) -> Iterator[list[Located]]:
    while batch := list(islice(items, size)):
        yield batch


def _shown(items: Iterable[Located], console: Console) -> Iterator[Located]:
    """The items, with a line on the console that says how many and how fast."""
    columns = [
        SpinnerColumn(),
        TextColumn("{task.description}"),
        TextColumn("{task.completed} comparisons, {task.fields[rate]} a second"),
        TimeElapsedColumn(),
    ]
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("tokenising", total=None, rate="-")
        for number, item in enumerate(items, 1):
            yield item
            if number % 100 == 0:
                elapsed = progress.tasks[0].elapsed or 1
                name = f"tokenising {Path(item.file).name}"
                progress.update(task, completed=number, description=name, rate=f"{number / elapsed:.0f}")


def statistics(index: Index) -> dict[str, float]:
    """Figures of a store: comparisons, tokens, what sharing the prompts saves, lengths of conversations."""
    longest = index.longest
    return {
        "comparisons": len(index),
        "held out": int(index.heldout.sum()),
        "pairs": int(index.pairs.sum()),
        "tokens": int(index.tokens.sum()),
        "tokens without sharing": int(index.conversation_tokens.sum()),
        "sharing ratio": float(index.conversation_tokens.sum() / index.tokens.sum()),
        "longest conversation, mean": float(longest.mean()),
        "longest conversation, median": float(np.median(longest)),
        "longest conversation, 95 %": float(np.percentile(longest, 95)),
        "longest conversation, most": int(longest.max()),
    }


def _print(store: Store, console: Console) -> None:
    """The account of the records and the figures of the store."""
    counts: dict[str, dict[str, int]] = store.meta["counts"]
    if len(counts) > 1:
        counts = counts | {"all": dict(sum(map(Counter, counts.values()), Counter()))}
    table = Table("file", "records", "what became of them", title="What became of every record")
    table.columns[1].justify = "right"
    for file, outcomes in counts.items():
        table.add_section()
        for outcome in sorted(outcomes, key=lambda o: (o != READ, o != KEPT, o != TRUNCATED)):
            name = Path(file).name if outcome == READ else ""
            words = f"  of these {outcome}" if outcome == TRUNCATED else outcome
            table.add_row(name, f"{outcomes[outcome]:,}", words)
    console.print(table)
    figures = Table(title="The store", show_header=False)
    for name, value in statistics(store.index).items():
        figures.add_row(name, f"{value:,}" if isinstance(value, int) else f"{value:,.2f}")
    console.print(figures)
    quarantine = store.directory / QUARANTINE
    if quarantine.exists():
        console.print(f"records put aside, with reasons: {quarantine}", soft_wrap=True)
    console.print(f"store: {store.directory}", soft_wrap=True)


def parse_options(argv: Sequence[str] | None = None) -> PrepareOptions:
    """PrepareOptions from the command line and, with `--config FILE`, from YAML; unknown keys are errors."""
    parser = ArgumentParser(
        prog="skyrm prepare",
        usage="skyrm prepare FILE [FILE ...] --tokenizer DIR --out DIR [--key VALUE ...]",
        description="Preference files to a tokenised store.",
    )
    parser.add_argument("--config", action="config", help="YAML file; arguments after it override it")
    parser.add_argument("files", nargs="*", type=str, help="the sources, instead of --sources")
    parser.add_class_arguments(PrepareOptions)
    parser.set_defaults(sources=[])
    read: dict[str, Any] = parser.parse_args(argv).as_dict()
    del read["config"]
    return PrepareOptions(**(read | {"sources": read.pop("files") or read["sources"]}))


def main(argv: list[str] | None = None) -> None:
    """The command."""
    prepare(parse_options(argv))


if __name__ == "__main__":
    sys.exit(run_command(main))
