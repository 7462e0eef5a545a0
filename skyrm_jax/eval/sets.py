"""What an evaluation scores: benchmarks, held-out files, or the held-out comparisons of a store."""

import hashlib
import re
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Console

from skyrm_jax import distributed
from skyrm_jax.chat import Tree
from skyrm_jax.comparison import Comparison
from skyrm_jax.data.quarantine import Quarantine, entries
from skyrm_jax.data.sources import read_located
from skyrm_jax.errors import RecordError, UserError
from skyrm_jax.eval.benchmarks import BENCHMARKS
from skyrm_jax.eval.journal import COMPUTED, Done, Journal
from skyrm_jax.eval.manifest import describe
from skyrm_jax.eval.rewards import HELD_OUT, keys
from skyrm_jax.eval.scoring import readable
from skyrm_jax.eval.stored import HeldOut
from skyrm_jax.report.progress import Advance, progress

if TYPE_CHECKING:
    from skyrm_jax.tree_scorer import TreeScorer

UNREAD = np.empty(0, np.float32)
"""The rewards of a comparison that the model cannot read."""

REASONS = 10
"""Of so many dropped comparisons it is told why."""

PLACE = re.compile(r"#\d+|.+:\d+")
"""What a comparison without an id of its own is called."""

KNOWN, NOISE = 8, 2.0**-6
"""How many comparisons are scored once more to know a model again, and how far their rewards may be off, of the largest."""

WINDOW = 256
"""Comparisons that are packed together; a killed evaluation loses as many at most."""


@dataclass
class EvalSet:
    """Comparisons to be scored, with the name of their set and what the manifest says of them."""

    name: str
    comparisons: list[Comparison]
    facts: dict[str, Any]
    missing: list[str] = field(default_factory=list)
    """Line by line, what of it no figure counts."""

    def check(self, scorer: "TreeScorer") -> None:
        """Raises UserError if the scorer is not for this set."""

    def read(self, scorer: "TreeScorer", console: Console) -> None:
        """Finds out, before any is scored, which comparisons the scorer can read, and tells of the others."""

    @property
    def has_ids(self) -> bool:
        """Whether no comparison is called by its place in a file or list."""
        return not any(PLACE.fullmatch(key) for key in keys(self.comparisons))

    def score(self, scorer: "TreeScorer", start: int, stop: int, advance: Advance) -> list[np.ndarray]:
        """The rewards f32[K] of the comparisons from `start` to `stop`, empty of those that the scorer cannot read."""
        raise NotImplementedError

    def resume(self, scorer: "TreeScorer", rewards: Sequence[np.ndarray]) -> None:
        """Takes note of rewards, of the first comparisons, that exist already."""

    def usable(self, rewards: Sequence[np.ndarray]) -> tuple[list[Comparison], list[np.ndarray]]:
        """The comparisons that figures are made of, and their rewards; those without rewards are counted as dropped.

        Raises UserError if none is left.
        """
        kept = [i for i, reward in enumerate(rewards) if reward.size]
        if dropped := len(rewards) - len(kept):
            lost = [key for key, reward in zip(keys(self.comparisons), rewards, strict=True) if not reward.size]
            self.facts["counts"] = {**self.facts.get("counts", {}), "dropped": dropped}
            self.missing = [f"{dropped:,} of {len(rewards):,} comparisons that the model cannot read ({_some(lost)})"]
            if not kept:
                raise UserError(f"{self.name}: {self.missing[0]}: nothing is left; choose another --template")
        return [self.comparisons[i] for i in kept], [rewards[i] for i in kept]


class BenchmarkSet(EvalSet):
    """A benchmark; comparisons that the model cannot read have empty rewards."""

    def __init__(self, name: str, data: Path | None) -> None:
        """Raises UserError if its published files, in `data` or on the Hub, are not in order."""
        comparisons = BENCHMARKS[name].load(data)
        super().__init__(name, comparisons, describe(comparisons, "the Hub" if data is None else str(data)))
        self._trees: dict[int, Tree] = {}

    @property
    def has_ids(self) -> bool:
        return True

    def read(self, scorer: "TreeScorer", console: Console) -> None:
        refused: dict[str, str] = {}
        with progress(console, f"{self.name}, read", len(self.comparisons)) as advance:
            for start in range(0, len(self.comparisons), WINDOW):
                window = self.comparisons[start : start + WINDOW]
                for i, tree in enumerate(scorer.trees(window), start):
                    if isinstance(tree, RecordError):
                        refused[self.comparisons[i].id] = str(tree)
                    else:
                        self._trees[i] = tree
                advance(len(window))
        if refused:
            first = dict(list(refused.items())[:REASONS])
            self.facts["refused"] = first
            said = "".join(f"\n  {name}: {reason}" for name, reason in first.items())
            more = "\n  ..." if len(refused) > len(first) else ""
            console.print(
                f"{self.name}: {len(refused):,} comparisons are dropped, since the model cannot read them:{said}{more}",
                markup=False,
                highlight=False,
                soft_wrap=True,
            )

    def score(self, scorer: "TreeScorer", start: int, stop: int, advance: Advance) -> list[np.ndarray]:
        numbers = [i for i in range(start, stop) if i in self._trees]
        advance(stop - start - len(numbers))
        scored = scorer.score_trees([self._trees.pop(i) for i in numbers], advance)
        found = dict(zip(numbers, scored, strict=True))
        return [found.get(i, UNREAD) for i in range(start, stop)]


class Stored(EvalSet):
    """The held-out comparisons of a store, tokenised already."""

    def __init__(self, path: str) -> None:
        self._held_out = HeldOut.read(path)
        store = self._held_out.store
        super().__init__(HELD_OUT, self._held_out.comparisons, {"store": path, "fingerprint": store.fingerprint})
        self.facts |= describe(self.comparisons, path)
        # The comparisons have no text, but the store knows what it was made of.
        content = f"{store.fingerprint} {self.facts['content_sha256']}"
        self.facts["content_sha256"] = hashlib.sha256(content.encode()).hexdigest()

    def check(self, scorer: "TreeScorer") -> None:
        self._held_out.check(scorer)

    def score(self, scorer: "TreeScorer", start: int, stop: int, advance: Advance) -> list[np.ndarray]:
        return scorer.score_trees(self._held_out.trees[start:stop], advance)


class Files(EvalSet):
    """Held-out comparisons in files; records that the model cannot read go to the quarantine, with empty rewards."""

    def __init__(self, paths: Sequence[str], form: str, quarantine: Quarantine) -> None:
        self._quarantine = quarantine
        self._records = list(read_located(paths, form, training=False, quarantine=quarantine))
        comparisons = [record.comparison for record in self._records]
        super().__init__(HELD_OUT, comparisons, describe(comparisons, " ".join(paths)))

    def score(self, scorer: "TreeScorer", start: int, stop: int, advance: Advance) -> list[np.ndarray]:
        chunk = self._records[start:stop]
        numbers, (trees,) = readable([scorer], chunk, self._quarantine)
        self._quarantine.check()
        advance(len(chunk) - len(numbers))
        rewards = [UNREAD] * len(chunk)
        for number, reward in zip(numbers, scorer.score_trees(trees, advance), strict=True):
            rewards[number] = reward
        return rewards

    def resume(self, scorer: "TreeScorer", rewards: Sequence[np.ndarray]) -> None:
        refused = [self._records[i] for i, reward in enumerate(rewards) if not reward.size]
        readable([scorer], refused, self._quarantine)

    def refuse(self, rewards: Sequence[np.ndarray], told: Path) -> None:
        """Quarantines the records that the model could not read when the rewards were made, with the reasons that the
        file `told` of that run gives, if it is there."""
        reasons = entries(told)
        unknown = RecordError("record", "was refused by the model", "see the quarantine of the run that scored it")
        for record, reward in zip(self._records, rewards, strict=True):
            if not reward.size:
                reason = reasons.get((record.file, record.line), unknown)
                self._quarantine.add(record.file, record.line, reason, record.raw)
        self._quarantine.check()

    def usable(self, rewards: Sequence[np.ndarray]) -> tuple[list[Comparison], list[np.ndarray]]:
        for file in self._quarantine.counts:
            self._quarantine.finish(file)
        kept = [i for i, reward in enumerate(rewards) if reward.size]
        comparisons = [self.comparisons[i] for i in kept]
        sizes = {"comparisons": len(kept), "responses": sum(len(c.responses) for c in comparisons)}
        self.facts |= {**sizes, "bad_records": self._quarantine.bad}
        return comparisons, [rewards[i] for i in kept]


def held_out_set(paths: Sequence[str], form: str, quarantine: Quarantine) -> EvalSet:
    """The held-out comparisons of a store, or of files.

    Raises UserError for a store beside other paths, which have text and a store has not.
    """
    if not any(Path(path).is_dir() for path in paths):
        return Files(paths, form, quarantine)
    if len(paths) > 1:
        raise UserError("--held-out takes one store, or any number of files: score them one after the other")
    return Stored(paths[0])


def score_set(one: EvalSet, scorer: "TreeScorer", journal: Journal, console: Console) -> Done:
    """The rewards of a set, window by window, and what the scorer counted; what the journal has is not scored again.

    Of several processes all score, and only the one that writes knows the rewards of the windows that it found there.
    """
    one.check(scorer)
    content, total = one.facts["content_sha256"], len(one.comparisons)
    found = journal.of(one.name, content, keys(one.comparisons))
    done = distributed.from_writer(len(found.rewards))
    if distributed.from_writer(
        int(done < total or not scorer.pinned or not all(reward.size for reward in found.rewards))
    ):
        one.read(scorer, console)
    # So that the rest is packed as it would have been without a stop, in every process.
    batches = distributed.all_from_writer([n for batch in found.computed.get("batches", ()) for n in batch])
    if batches:
        scorer.go_on(list(zip(batches[::2], batches[1::2], strict=True)))
    if distributed.is_writer():
        one.resume(scorer, found.rewards)
    else:
        found = Done([UNREAD] * done)
    if done:
        console.print(f"{one.name}: {done:,} of {total:,} were scored before", highlight=False)
        if not scorer.pinned:
            require_same(one, scorer, found.rewards)
    with progress(console, one.name, total, done) as advance:
        for start in range(done, total, WINDOW):
            before = Counter(scorer.counts)
            window = one.score(scorer, start, min(start + WINDOW, total), advance)
            require_finite(one, scorer, start, window)
            counted = {name: value - before[name] for name, value in scorer.counts.items()}
            computed = {name: value for name, value in scorer.manifest.items() if name in COMPUTED}
            if distributed.is_writer():
                journal.add(one.name, content, start, window, counted, computed)
            found.add(window, counted, computed)
    found.counts = Counter({name: found.counts[name] for name in scorer.counts})
    return found


def require_finite(one: EvalSet, scorer: "TreeScorer", start: int, rewards: Sequence[np.ndarray]) -> None:
    """Raises UserError, naming the first, if rewards from the comparison `start` on are no finite numbers: before they are
    kept, and before hours of more like them."""
    for i, reward in enumerate(rewards, start):
        if not np.isfinite(reward).all():
            model = scorer.manifest.get("checkpoint") or scorer.manifest.get("endpoint")
            raise UserError(
                f"{one.name}: comparison {keys(one.comparisons)[i]!r} has a reward from {model} that is not a finite number "
                f"({reward.tolist()}): the model is broken, and no figure is computed from it; try another checkpoint"
            )


def require_same(one: EvalSet, scorer: "TreeScorer", rewards: Sequence[np.ndarray]) -> None:
    """Raises UserError if the scorer gives other rewards now, beyond what another batch changes, than are known."""
    known = [i for i, reward in enumerate(rewards) if reward.size]
    for i in sorted({known[int(at)] for at in np.linspace(0, len(known) - 1, min(KNOWN, len(known)))}):
        (again,) = one.score(scorer, i, i + 1, lambda _: None)
        if np.abs(again - rewards[i]).max() > NOISE * max(1.0, float(np.abs(rewards[i]).max())):
            raise UserError(
                f"{one.name}: comparison {keys(one.comparisons)[i]!r} had the rewards {rewards[i].tolist()} and has "
                f"{again.tolist()} now: another model is served there; give another --out, or remove what is in this one"
            )


def _some(names: Collection[str]) -> str:
    return ", ".join(list(names)[:3]) + (", ..." if len(names) > 3 else "")
