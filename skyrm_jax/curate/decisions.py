"""Stage 2's rule: which pairs are kept as they are, which are turned round, which are left out, and who said so.

Source: the paper's sections 3.2 and 3.3. Four can have an opinion on a pair's label: a person, the gold reward model (trained
on what people verified), the best reward model (trained on what annotators verified, chosen by what people verified), and
the annotators. A person's word decides. Otherwise a label stands if the gold model agrees with it and so does the best
model or the annotators; a pair whose label does not stand is turned round if the turned label does.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Float, Int8

from skyrm_jax.errors import UserError

VERDICTS = {"original": 1, "flipped": -1, "none": 0}
"""What can be said of a pair's label: it is right, wrong, or neither."""

KEPT, FLIPPED, DISCARDED = "kept", "flipped", "discarded"

WHO = ("human", "gold", "best", "annotators")

SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("decision", pa.string()),
        ("by", pa.string()),
        ("best_p", pa.float32()),
        ("gold_p", pa.float32()),
        *[(who, pa.string()) for who in WHO],
    ]
)
"""Columns of a file of decisions: `by` names who agrees with the label decided on, or, of a discarded pair, what is missing."""


@dataclass(frozen=True)
class Rule:
    """When a label stands, of pairs that no person has verified.

    Args:
        keep: whose agreement it takes. `gold_and_either`: the gold model's, and the best model's or the annotators'. The
            others are for comparison, and `best_or_annotators` for when there is no gold model.
        confident: `checked`: pairs that the best model is sure of need the gold model's agreement like all others;
            `retained`: they are kept without. The paper can be read both ways.
        recycle: pairs whose label does not stand. `checked`: turned round if the turned label stands; `all`: every one of
            them turned round, as for the first 40M model; `none`: left out.
        band: the best model has an opinion where it is surer than 0.5 + band; the others are doubtful, and annotated.
        gold_band: the same for the gold model.
        flip_band: the gold model must be surer than 0.5 + flip_band of a turned label. Default: as gold_band.
    """

    keep: Literal["gold_and_either", "gold", "best", "annotators", "best_or_annotators"] = "gold_and_either"
    confident: Literal["checked", "retained"] = "checked"
    recycle: Literal["checked", "all", "none"] = "checked"
    band: float = 0.1
    gold_band: float = 0.0
    flip_band: float | None = None

    def __post_init__(self) -> None:
        for name in ("band", "gold_band", "flip_band"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < 0.5:
                raise UserError(f"stage2.rule.{name} ({value}) must be at least 0 and below 0.5")

    @property
    def needs_gold(self) -> bool:
        """Whether anything depends on the gold model's opinion."""
        return self.keep in ("gold_and_either", "gold")

    @property
    def needs_annotators(self) -> bool:
        """Whether anything depends on the annotators' opinion."""
        return self.keep in ("gold_and_either", "annotators", "best_or_annotators")

    def doubtful(self, best_p: Float[np.ndarray, "n"]) -> Bool[np.ndarray, "n"]:
        """Which pairs the annotators are asked about: those that the best model is not sure are right."""
        return ~(np.asarray(best_p, np.float64) > 0.5 + self.band)


@dataclass(frozen=True)
class Opinions:
    """What is known of n pairs. Verdicts are +1 (the label is right), -1 (wrong) or 0 (neither, or not asked).

    `best_p` and `gold_p` are sigmoid(r_chosen - r_rejected); NaN where there is no such model. `asked` and `seen` tell
    apart who was asked from who had no opinion, for the record.
    """

    best_p: Float[np.ndarray, "n"]
    gold_p: Float[np.ndarray, "n"]
    annotators: Int8[np.ndarray, "n"]
    human: Int8[np.ndarray, "n"]
    asked: Bool[np.ndarray, "n"]
    seen: Bool[np.ndarray, "n"]


def opinion(p: Float[np.ndarray, "n"], band: float) -> Int8[np.ndarray, "n"]:
    """+1 where p > 0.5 + band, -1 where p < 0.5 - band, else 0, as for NaN."""
    p = np.asarray(p, np.float64)
    return (p > 0.5 + band).astype(np.int8) - (p < 0.5 - band).astype(np.int8)


def decide(rule: Rule, o: Opinions) -> tuple[np.ndarray, np.ndarray]:
    """For each pair its decision (KEPT, FLIPPED or DISCARDED), and `by`: see SCHEMA."""
    best = opinion(o.best_p, rule.band)
    keeps = _stands(rule, best, opinion(o.gold_p, rule.gold_band), o.annotators)
    if rule.confident == "retained":
        keeps |= best > 0
    if rule.recycle == "all":
        flips = ~keeps
    elif rule.recycle == "checked":
        flip_band = rule.gold_band if rule.flip_band is None else rule.flip_band
        flips = ~keeps & _stands(rule, -best, -opinion(o.gold_p, flip_band), -o.annotators)
    else:
        flips = np.zeros_like(keeps)
    keeps, flips = np.where(o.seen, o.human > 0, keeps), np.where(o.seen, o.human < 0, flips)
    decision = np.select([keeps, flips], [KEPT, FLIPPED], DISCARDED)
    return decision, _by(rule, o, best, decision)


def _stands(
    rule: Rule, best: Int8[np.ndarray, "n"], gold: Int8[np.ndarray, "n"], annotators: Int8[np.ndarray, "n"]
) -> Bool[np.ndarray, "n"]:
    """Whether a label stands, given who agrees with it (+1)."""
    either = (best > 0) | (annotators > 0)
    rules = {
        "gold_and_either": (gold > 0) & either,
        "gold": gold > 0,
        "best": best > 0,
        "annotators": annotators > 0,
        "best_or_annotators": either,
    }
    return rules[rule.keep]


def _by(rule: Rule, o: Opinions, best: Int8[np.ndarray, "n"], decision: np.ndarray) -> np.ndarray:
    """Who agrees with the label decided on, such as `gold+best`; of a discarded pair, why no label stands."""
    side = np.select([decision == KEPT, decision == FLIPPED], [1, -1], 0)
    gold = opinion(o.gold_p, rule.gold_band)
    by = np.full(len(side), "", object)
    for name, says in (("gold", gold), ("best", best), ("annotators", o.annotators)):
        agrees = (side != 0) & (says == side)
        by[agrees] = [f"{given}+{name}" if given else name for given in by[agrees]]
    by[(side != 0) & (by == "")] = "nobody"
    discarded = side == 0
    by[discarded] = "no agreement"
    if rule.needs_gold:
        by[discarded & (gold == 0)] = "gold model unsure"
        by[discarded & (gold != 0)] = "gold model alone"
    by[o.seen] = np.where(o.human[o.seen] == 0, "human: undecidable", "human")
    return by


def table(ids: pa.Array, rule: Rule, o: Opinions) -> pa.Table:
    """The decisions of n pairs, with every opinion that made them: SCHEMA."""
    decision, by = decide(rule, o)
    words = np.array(["flipped", "none", "original"], object)

    def said(verdicts: Int8[np.ndarray, "n"], known: Bool[np.ndarray, "n"]) -> pa.Array:
        return pa.array(words[verdicts.astype(int) + 1], pa.string(), mask=~known)

    columns = {
        "id": ids,
        "decision": pa.array(decision, pa.string()),
        "by": pa.array(by, pa.string()),
        "best_p": _or_null(o.best_p),
        "gold_p": _or_null(o.gold_p),
        "human": said(o.human, o.seen),
        "gold": said(opinion(o.gold_p, rule.gold_band), ~np.isnan(o.gold_p)),
        "best": said(opinion(o.best_p, rule.band), ~np.isnan(o.best_p)),
        "annotators": said(o.annotators, o.asked),
    }
    return pa.table(columns, schema=SCHEMA)


def _or_null(p: Float[np.ndarray, "n"]) -> pa.Array:
    p = np.asarray(p, np.float32)
    return pa.array(p, pa.float32(), mask=np.isnan(p))
