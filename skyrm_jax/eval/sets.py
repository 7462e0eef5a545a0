"""What an evaluation scores: benchmarks, held-out files, or the held-out comparisons of a store."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Console

from skyrm_jax import distributed
from skyrm_jax.comparison import Comparison
from skyrm_jax.data.quarantine import Quarantine
from skyrm_jax.data.sources import read_located
from skyrm_jax.errors import RecordError, UserError
from skyrm_jax.eval.benchmarks import BENCHMARKS
from skyrm_jax.eval.journal import Journal
from skyrm_jax.eval.manifest import describe
from skyrm_jax.eval.rewards import HELD_OUT, keys
from skyrm_jax.eval.scoring import readable
from skyrm_jax.eval.stored import HeldOut
from skyrm_jax.report.progress import Advance, progress

if TYPE_CHECKING:
    from skyrm_jax.tree_scorer import TreeScorer

WINDOW = 256
"""Comparisons that are packed together; a killed evaluation loses as many at most."""


@dataclass
class EvalSet:
    """Comparisons to be scored, with the name of their set and what the manifest says of them."""

    name: str
    comparisons: list[Comparison]
    facts: dict[str, Any]

    def check(self, scorer: "TreeScorer") -> None:
        """Raises UserError if the scorer is not for this set."""

    def score(self, scorer: "TreeScorer", start: int, stop: int, advance: Advance) -> list[np.ndarray]:
        """The rewards f32[K] of the comparisons from `start` to `stop`."""
        return scorer.score(self.comparisons[start:stop], advance)

    def resume(self, scorer: "TreeScorer", rewards: Sequence[np.ndarray]) -> None:
        """Takes note of rewards, of the first comparisons, that exist already."""

    def usable(self, rewards: Sequence[np.ndarray]) -> tuple[list[Comparison], list[np.ndarray]]:
        """The comparisons that figures are made of, and their rewards."""
        return self.comparisons, list(rewards)


class Stored(EvalSet):
    """The held-out comparisons of a store, tokenised already."""

    def __init__(self, path: str) -> None:
        self._held_out = HeldOut.read(path)
        store = self._held_out.store
        super().__init__(HELD_OUT, self._held_out.comparisons, {"store": path, "fingerprint": store.fingerprint})
        self.facts |= describe(self.comparisons, path)

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
        rewards = [np.empty(0, np.float32)] * len(chunk)
        for number, reward in zip(numbers, scorer.score_trees(trees, advance), strict=True):
            rewards[number] = reward
        return rewards

    def resume(self, scorer: "TreeScorer", rewards: Sequence[np.ndarray]) -> None:
        refused = [self._records[i] for i, reward in enumerate(rewards) if not reward.size]
        readable([scorer], refused, self._quarantine)

    def refuse(self, rewards: Sequence[np.ndarray]) -> None:
        """Quarantines the records that the model could not read when the rewards were made."""
        for record, reward in zip(self._records, rewards, strict=True):
            if not reward.size:
                error = RecordError(
                    "record", "was refused by the model", "see the quarantine of the run that scored it"
                )
                self._quarantine.add(record.file, record.line, error, record.raw)
        self._quarantine.check()

    def usable(self, rewards: Sequence[np.ndarray]) -> tuple[list[Comparison], list[np.ndarray]]:
        for file in self._quarantine.counts:
            self._quarantine.finish(file)
        kept = [i for i, reward in enumerate(rewards) if reward.size]
        comparisons = [self.comparisons[i] for i in kept]
        sizes = {"comparisons": len(kept), "responses": sum(len(c.responses) for c in comparisons)}
        self.facts |= {**sizes, "bad_records": self._quarantine.bad}
        return comparisons, [rewards[i] for i in kept]


def benchmark_set(name: str, data: Path | None) -> EvalSet:
    """A benchmark from its published files in `data`, or from the Hub. Raises UserError if they are not in order."""
    comparisons = BENCHMARKS[name].load(data)
    return EvalSet(name, comparisons, describe(comparisons, "the Hub" if data is None else str(data)))


def held_out_set(paths: Sequence[str], form: str, quarantine: Quarantine) -> EvalSet:
    """The held-out comparisons of a store, or of files.

    Raises UserError for a store beside other paths, which have text and a store has not.
    """
    if not any(Path(path).is_dir() for path in paths):
        return Files(paths, form, quarantine)
    if len(paths) > 1:
        raise UserError("--held-out takes one store, or any number of files: score them one after the other")
    return Stored(paths[0])


def score_set(
    one: EvalSet, scorer: "TreeScorer", journal: Journal, console: Console
) -> tuple[list[np.ndarray], dict[str, int]]:
    """The rewards of a set, window by window, and what the scorer counted; what the journal has is not scored again.

    Of several processes all score, and only the one that writes knows the rewards of the windows that it found there.
    """
    one.check(scorer)
    content = one.facts["content_sha256"]
    rewards, counts = journal.of(one.name, content, keys(one.comparisons))
    done = distributed.from_writer(len(rewards))
    if distributed.is_writer():
        one.resume(scorer, rewards)
    else:
        rewards, counts = [np.empty(0, np.float32)] * done, Counter()
    if done:
        console.print(f"{one.name}: {done:,} of {len(one.comparisons):,} were scored before", highlight=False)
    with progress(console, one.name, len(one.comparisons), done) as advance:
        for start in range(done, len(one.comparisons), WINDOW):
            before = Counter(scorer.counts)
            window = one.score(scorer, start, min(start + WINDOW, len(one.comparisons)), advance)
            counted = {name: value - before[name] for name, value in scorer.counts.items()}
            if distributed.is_writer():
                journal.add(one.name, content, start, window, counted)
            rewards += window
            counts.update(counted)
    return rewards, {name: counts[name] for name in scorer.counts}
