"""From votes to a verdict: first inside each model, then over the models.

The paper gives neither the number of votes nor the rule by which models are merged (section 3.2); the rules are options.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal, get_args

from skyrm_jax.curate.judge import Verdict, Vote
from skyrm_jax.errors import UserError

Merge = Literal["majority", "weighted", "unanimous"]


@dataclass(frozen=True)
class VoteOptions:
    """How votes become a verdict.

    Args:
        merge: over the models' verdicts: the most frequent one, the one with the most weight, or the one that all give;
            no preference if there is none such.
        min_votes: valid votes that a pair needs; with fewer it stays unlabelled.
        absent: what happens when an annotator has been given up (its server is down, its quota spent): `wait` stops the
            curation before labels or attributes are made without it, so that it costs nothing but time; `pass` goes on with the others.
    """

    merge: Merge = "majority"
    min_votes: int = 1
    absent: Literal["wait", "pass"] = "wait"

    def __post_init__(self) -> None:
        """Raises UserError naming the field."""
        if self.merge not in get_args(Merge):
            raise UserError(f"votes.merge must be one of {', '.join(get_args(Merge))}, not {self.merge!r}")
        if self.absent not in ("wait", "pass"):
            raise UserError(f"votes.absent must be wait or pass, not {self.absent!r}")
        if self.min_votes < 1:
            raise UserError(f"votes.min_votes must be at least 1, not {self.min_votes}")


@dataclass(frozen=True, slots=True)
class Decision:
    """What the annotators say of a pair.

    Attributes:
        pair: its id.
        verdict: None: there are too few valid votes.
        share: of the models that voted, by weight where that counts, those with this verdict.
        counts: valid votes by verdict.
        failed: votes that are not valid.
        models: the verdict of each model that has a valid vote.
    """

    pair: str
    verdict: Verdict | None
    share: float
    counts: dict[Verdict, int]
    failed: int
    models: dict[str, Verdict]


def decide(votes: Iterable[Vote], options: VoteOptions, weights: Mapping[str, float] | None = None) -> Decision:
    """The verdict on one pair from all its votes, whatever their order. `weights` are the annotators', 1 by default."""
    votes = sorted(votes, key=lambda vote: (vote.annotator, vote.sample))
    (pair,) = {vote.pair for vote in votes}
    samples: dict[str, Counter[Verdict]] = {}
    for vote in votes:
        if vote.verdict is not None:
            samples.setdefault(vote.annotator, Counter())[vote.verdict] += 1
    counts: dict[Verdict, int] = dict(sorted(sum(samples.values(), Counter()).items()))
    models: dict[str, Verdict] = {name: _first(of_model) for name, of_model in samples.items()}
    failed = len(votes) - sum(counts.values())
    if sum(counts.values()) < options.min_votes:
        return Decision(pair, None, 0.0, counts, failed, models)
    shares: dict[Verdict, Fraction] = {}
    for name, of_model in models.items():
        # Fractions: with floats the order of adding could make or break a tie.
        weight = (weights or {}).get(name, 1.0) if options.merge == "weighted" else 1.0
        shares[of_model] = shares.get(of_model, Fraction(0)) + Fraction(str(weight))
    verdict = _first(shares)
    if options.merge == "unanimous" and len(shares) > 1:
        verdict = "none"
    share = float(shares.get(verdict, Fraction(0)) / sum(shares.values()))
    return Decision(pair, verdict, share, counts, failed, models)


def _first(counts: Mapping[Verdict, int | Fraction]) -> Verdict:
    """The verdict with the highest count; no preference if that is a tie."""
    most = max(counts.values())
    first, *others = (verdict for verdict, count in counts.items() if count == most)
    return "none" if others else first
