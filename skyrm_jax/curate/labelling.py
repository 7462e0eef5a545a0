"""What annotators say of some pairs, asked once and kept in files: their attributes, and which response is better."""

import json
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console

from skyrm_jax.curate import attributes as preference_attributes
from skyrm_jax.curate import judge as judging
from skyrm_jax.curate import votes as voting
from skyrm_jax.curate.annotators import Calls
from skyrm_jax.curate.attributes import Attributes, Labelled
from skyrm_jax.curate.config import CurateConfig
from skyrm_jax.curate.engine import write_table
from skyrm_jax.curate.humans.queue import Opinion
from skyrm_jax.curate.judge import Item, Verdict
from skyrm_jax.curate.pair import Pair
from skyrm_jax.errors import UserError
from skyrm_jax.report.progress import progress

LABELS = pa.schema(
    [
        ("id", pa.string()),
        ("verdict", pa.string()),
        ("share", pa.float64()),
        *[(name, pa.int64()) for name in ("original", "flipped", "none", "failed")],
        ("models", pa.string()),
    ]
)
"""Columns of a file of labels: `verdict` is null where too few votes are valid; `models` is a JSON object, each one's
verdict."""


def attributes_of(
    calls: Calls | None, pairs: Sequence[Pair], config: CurateConfig, path: Path, console: Console
) -> dict[str, Attributes]:
    """The attributes of the pairs that got valid ones, by id; kept in `path`, with the failures. None asked: none.

    Raises UserError as `verdicts_of` does.
    """
    if config.attributes is None or calls is None:
        return {}
    if not path.is_file():
        rows: list[dict[str, Any]] = []
        with progress(console, "attributes", len(pairs)) as advance:
            for labelled in preference_attributes.label(calls, pairs, config.attributes, len(pairs)):
                rows.append(labelled.row())
                advance(1)
        missing = sum(
            row["annotator"] in calls.given_up and row[preference_attributes.NAMES[0]] is None for row in rows
        )
        _require_present(calls, config, "attributes", missing, len(rows))
        write_table(path, pa.Table.from_pylist(rows, preference_attributes.SCHEMA))
    return read_attributes(path)


def read_attributes(path: Path) -> dict[str, Attributes]:
    """The attributes in a file of them, by id, without the failures."""
    found = map(Labelled.of_row, pq.read_table(path).to_pylist())
    return {one.pair: one.attributes for one in found if one.attributes is not None}


def verdicts_of(
    calls: Calls | None,
    items: Iterable[Item],
    total: int,
    config: CurateConfig,
    votes: Path,
    labels: Path,
    label: str,
    console: Console,
) -> dict[str, Verdict]:
    """The annotators' verdicts on pairs, by id, without those that got too few valid votes.

    Every vote is kept in `votes`, what they come to in `labels`. Without annotators there is no verdict.

    Raises UserError if an annotator was given up and `votes.absent` is `wait`: nothing is written then.
    """
    if calls is None:
        return {}
    if not labels.is_file():
        weights = {annotator.name: annotator.weight for annotator in config.annotators}
        cast: list[dict[str, Any]] = []
        rows: list[dict[str, Any]] = []
        with progress(console, label, total) as advance:
            for of_pair in judging.judge(calls, items, config.judge, total):
                cast.extend(vote.row() for vote in of_pair)
                rows.append(_row(voting.decide(of_pair, config.votes, weights)))
                advance(1)
        missing = sum(row["annotator"] in calls.given_up and row["verdict"] is None for row in cast)
        _require_present(calls, config, label, missing, len(cast))
        write_table(votes, pa.Table.from_pylist(cast, judging.SCHEMA))
        write_table(labels, pa.Table.from_pylist(rows, LABELS))
    return read_verdicts(labels)


def read_verdicts(path: Path) -> dict[str, Verdict]:
    """The verdicts in a file of labels, by id."""
    table = pq.read_table(path, columns=["id", "verdict"])
    found = zip(table["id"].to_pylist(), table["verdict"].to_pylist(), strict=True)
    return {id: verdict for id, verdict in found if verdict is not None}


def opinions_of(calls: Calls, votes: Path, pairs: Collection[str]) -> dict[str, tuple[Opinion, ...]]:
    """What each annotator said of these pairs (ids) and why: its first vote of those it cast most, for a second look."""
    cast: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for row in pq.read_table(votes).to_pylist():
        if row["verdict"] is not None and row["pair"] in pairs:
            cast.setdefault(row["pair"], {}).setdefault(row["annotator"], []).append(row)

    def opinion(of_one: list[dict[str, Any]]) -> Opinion:
        most = Counter(vote["verdict"] for vote in of_one).most_common(1)[0][0]
        vote = next(vote for vote in of_one if vote["verdict"] == most)
        return Opinion(vote["annotator"], most, calls.text(vote["call"]) or "", vote["swapped"])

    return {id: tuple(opinion(of_one) for _, of_one in sorted(models.items())) for id, models in cast.items()}


def _require_present(calls: Calls, config: CurateConfig, label: str, missing: int, total: int) -> None:
    """Raises UserError if answers are missing because annotators were given up, and these are to be waited for."""
    if not missing or config.votes.absent == "pass":
        return
    why = "; ".join(f"{name}: {reason}" for name, reason in sorted(calls.given_up.items()))
    raise UserError(
        f"{label}: {missing:,} of {total:,} answers are missing, as annotators were given up ({why}). All that came are kept: "
        "see to the annotators and run the same command again, or go on without with --votes.absent pass"
    )


def _row(decision: voting.Decision) -> dict[str, Any]:
    counts: Mapping[str, int] = {"original": 0, "flipped": 0, "none": 0} | decision.counts
    return {
        "id": decision.pair,
        "verdict": decision.verdict,
        "share": decision.share,
        **counts,
        "failed": decision.failed,
        "models": json.dumps(decision.models, sort_keys=True),
    }
