"""A curation in numbers: the funnel from raw to kept, who agrees with whom, what it cost, what it is worth."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from skyrm_jax.curate import measure
from skyrm_jax.curate.annotators import summary
from skyrm_jax.curate.decisions import VERDICTS, WHO, opinion
from skyrm_jax.curate.engine import read
from skyrm_jax.curate.workspace import Workspace

Said = tuple[str | None, ...]
"""What each of WHO says of a pair; None: not asked."""

MODELS = ("best", "gold")
"""Reward models of stage 2, by the names of their folders."""


@dataclass(frozen=True, slots=True)
class Verified:
    """A pair that people have decided, and what others had said of it before they did.

    Attributes:
        people: `original` or `flipped`.
        objectivity: of its attributes; `unknown` without.
        models: the verdict of each annotator that has one.
        annotators: what they come to; None: too few valid votes, or not asked.
        p: sigmoid(r_chosen - r_rejected) by the reward model of its iteration; NaN where there was none.
    """

    people: str
    objectivity: str
    models: Mapping[str, str]
    annotators: str | None
    p: float


def facts(work: Workspace) -> dict[str, Any]:
    """Everything that the report shows, as plain values; what is not there yet is left out.

    config: all options.
    preprocess: its report, see `account.account`.
    iterations: the summaries of stage 1's finished iterations, see `stage1.summary`.
    annotators: see `by_objectivity`.
    filters: see `filters`.
    models: {name: {trained_on, checkpoint, correct, ties, pairs}} of stage 2's MODELS, see `training.Checked`.
    decisions: [{decision, by, pairs}], see `decisions.SCHEMA`.
    agreement: [{one, other, pairs: {verdict: {verdict: n}}}] for each two of WHO, over the pairs that both judged.
    calls: one account for each annotator and purpose, see `annotators.Tally`.
    measured: the figures of stages and arms, see `measure.arm_of`.
    """
    told: dict[str, Any] = {"config": work.config.as_dict()}
    report = work.root / "preprocess" / "report.json"
    if report.is_file():
        told["preprocess"] = json.loads(report.read_text(encoding="utf-8"))
    iterations = [one for one in work.before(work.config.stage1.iterations + 1) if one.finished]
    told["iterations"] = [json.loads(one.summary.read_text(encoding="utf-8")) for one in iterations]
    known = list(verified(work, len(iterations)))
    told["annotators"] = by_objectivity(known)
    told["filters"] = filters(known, work.config.stage2.rule.band)
    told["models"] = models(work)
    parts = sorted((work.stage2 / "decisions").glob("part-*.parquet"))
    if parts:
        work.config.engine.start()
        frame = read(parts).groupby("decision", "by", *WHO).count("id").to_pydict()
        rows = list(zip(*(frame[name] for name in ("decision", "by", *WHO, "id")), strict=True))
        told["decisions"] = by_reason((row[0], row[1], row[-1]) for row in rows)
        told["agreement"] = agreement([(tuple(row[2:-1]), row[-1]) for row in rows])
    # What was answered from the cache is known of a run, not of a folder.
    told["calls"] = [{k: v for k, v in asdict(one).items() if k != "cached"} for one in summary(work.calls)]
    told["measured"] = measure.figures(work)
    return told


def by_reason(rows: Iterable[tuple[str, str, int]]) -> list[dict[str, Any]]:
    """Pairs by decision and who made it, the most frequent first."""
    counts: Counter[tuple[str, str]] = Counter()
    for decision, by, pairs in rows:
        counts[decision, by] += pairs
    return [
        {"decision": of[0], "by": of[1], "pairs": n} for of, n in sorted(counts.items(), key=lambda c: (-c[1], c[0]))
    ]


def agreement(rows: Sequence[tuple[Said, int]]) -> list[dict[str, Any]]:
    """For each two of WHO a table of what they say of the pairs that both judged."""
    tables = []
    for (i, one), (j, other) in combinations(enumerate(WHO), 2):
        pairs: dict[str, dict[str, int]] = {}
        for said, n in rows:
            if said[i] is not None and said[j] is not None:
                of_one = pairs.setdefault(str(said[i]), {})
                of_one[str(said[j])] = of_one.get(str(said[j]), 0) + n
        tables.append({"one": one, "other": other, "pairs": pairs})
    return tables


def verified(work: Workspace, iterations: int) -> Iterator[Verified]:
    """The pairs that people have decided in so many iterations, undecidable ones left out."""
    for one in work.before(iterations):
        selected = pq.read_table(one.file("selected"), columns=["id", "p"])
        p = dict(zip(selected["id"].to_pylist(), selected["p"].to_pylist(), strict=True))
        labels = {}
        if one.file("labels").is_file():
            labels = {row["id"]: row for row in pq.read_table(one.file("labels")).to_pylist()}
        for example in one.gold():
            if example.verdict == "none":
                continue
            id, label = example.pair.id, labels.get(example.pair.id, {"models": "{}", "verdict": None})
            kind = "unknown" if example.attributes is None else example.attributes.preference_objectivity
            sure = np.nan if p[id] is None else p[id]
            yield Verified(example.verdict, kind, json.loads(label["models"]), label["verdict"], sure)


def by_objectivity(known: Iterable[Verified]) -> list[dict[str, Any]]:
    """How often annotators say what people say, by the objectivity of the pair (paper, table 14).

    [{objectivity, merged, models: {name}}], each of them {pairs, agree, none}: pairs that it judged, those on which it
    says what people say, and those on which it has no preference.
    """
    merged: dict[str, Counter[str]] = {}
    alone: dict[str, dict[str, Counter[str]]] = {}
    for one in known:
        said = [
            (alone.setdefault(one.objectivity, {}).setdefault(name, Counter()), v) for name, v in one.models.items()
        ]
        if one.annotators is not None:
            said.append((merged.setdefault(one.objectivity, Counter()), one.annotators))
        for counts, verdict in said:
            counts.update({"pairs": 1, "agree": verdict == one.people, "none": verdict == "none"})
    return [
        {
            "objectivity": kind,
            "merged": dict(merged.get(kind, {})),
            "models": {n: dict(c) for n, c in sorted(of.items())},
        }
        for kind, of in sorted(alone.items())
    ]


def filters(known: Sequence[Verified], band: float) -> list[dict[str, Any]]:
    """How often people say what a filter says where it keeps a label, and where it turns it round (paper, table 19).

    [{who, keep, flip}], each of them {pairs, right}. The best model is that of a pair's iteration, which has not seen
    it and was not chosen by it; it has an opinion where it is surer than 0.5 + `band`.
    """
    people = np.array([VERDICTS[one.people] for one in known])
    best = opinion(np.array([one.p for one in known]), band)
    annotators = np.array([VERDICTS[one.annotators or "none"] for one in known])
    who = {"best": best, "annotators": annotators, "best and annotators": np.where(best == annotators, best, 0)}

    def counts(says: np.ndarray, side: int) -> dict[str, int]:
        return {"pairs": int((says == side).sum()), "right": int(((says == side) & (people == side)).sum())}

    return [{"who": name, "keep": counts(says, 1), "flip": counts(says, -1)} for name, says in who.items()]


def models(work: Workspace) -> dict[str, dict[str, Any]]:
    """How many pairs the reward models of stage 2 were trained on, and how they do on verified pairs."""
    notes = {name: work.stage2 / name / "best.json" for name in MODELS}
    read = {name: json.loads(note.read_text(encoding="utf-8")) for name, note in notes.items() if note.is_file()}
    return {name: {"trained_on": note["pairs"], **note["best"]} for name, note in read.items()}
