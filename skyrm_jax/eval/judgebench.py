"""JudgeBench: objectively right against objectively wrong, in four categories.

Data: github.com/ScalerLab/JudgeBench, `data/dataset=judgebench,response_model=<model>.jsonl`. The rule is
that of its `utils/metrics.py` in the two-game form behind the published table: each pair is judged in both
orders, so an exact tie votes once for each side and the pair is wrong. Therefore: a strict win is required.

Two headlines: the leaderboard's is the accuracy over all pairs (micro); Skywork-Reward-V2 reports the
unweighted mean of the four categories (macro) on the GPT-4o split.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from skyrm_jax.comparison import Comparison
from skyrm_jax.errors import RecordError, UserError
from skyrm_jax.eval.figures import Figure, Result, check_ids, check_rewards
from skyrm_jax.eval.statistics import bootstrap, estimate, mean_of_defined, ratio

CATEGORIES = ("Knowledge", "Reasoning", "Math", "Coding")
PREFIXES = {
    "mmlu-pro": "Knowledge",
    "livebench-reasoning": "Reasoning",
    "livebench-math": "Math",
    "livecodebench": "Coding",
}
SIZES = {
    "gpt-4o-2024-05-13": {"Knowledge": 154, "Reasoning": 98, "Math": 56, "Coding": 42},
    "claude-3-5-sonnet-20240620": {"Knowledge": 154, "Reasoning": 51, "Math": 34, "Coding": 31},
}
HEADLINE_SPLIT = "gpt-4o-2024-05-13"
FIELDS = ("pair_id", "source", "question", "response_model", "response_A", "response_B", "label")
MICRO, MACRO = "Overall (leaderboard)", "Mean of categories (Skywork)"


def files(path: Path) -> list[Path]:
    """The published files at `path`, a file or a folder. Raises UserError if there is none."""
    if path.is_file():
        return [path]
    found = sorted(path.glob("dataset=judgebench,*.jsonl"))
    if not found:
        raise UserError(
            f"{path}: no JudgeBench file here (dataset=judgebench,*.jsonl): give the folder `data` of "
            "github.com/ScalerLab/JudgeBench, or one of its files"
        )
    return found


def records(path: Path) -> list[tuple[str, dict[str, Any]]]:
    """(file and line, record) of one published file, checked; raises UserError naming file, line, field."""
    out: list[tuple[str, dict[str, Any]]] = []
    seen: dict[str, int] = {}
    with open(path, "rb") as stream:
        for number, line in enumerate(stream, 1):
            if not line.strip():
                continue
            where = f"{path}, line {number}"
            try:
                record = json.loads(line)
            except ValueError as error:  # UnicodeDecodeError is a ValueError too
                raise UserError(f"{where}: not JSON in UTF-8 ({error}): download the file again") from None
            _check(record, where)
            if seen.setdefault(record["pair_id"], number) != number:
                raise UserError(
                    f"{where}: pair_id {record['pair_id']} already stands on line {seen[record['pair_id']]}: "
                    "remove one of the two"
                )
            out.append((where, record))
    if not out:
        raise UserError(f"{path}: the file is empty: download it again")
    return out


def load(path: str | Path) -> list[Comparison]:
    """The comparisons of a published JudgeBench file, or of all those in a folder.

    Responses are [A, B]; the preference is the label's; `source` is the model that wrote the responses (the
    split) and `category` one of CATEGORIES. Raises UserError for anything that is not a JudgeBench file in
    order.
    """
    comparisons: list[Comparison] = []
    found: dict[str, Path] = {}
    for file in files(Path(path)):
        for where, record in records(file):
            if found.setdefault(record["pair_id"], file) != file:
                raise UserError(
                    f"{where}: pair_id {record['pair_id']} also stands in {found[record['pair_id']]}: "
                    "give the files of one data set only"
                )
            comparisons.append(_comparison(record, where))
    return comparisons


def score(comparisons: Sequence[Comparison], rewards: Sequence[np.ndarray]) -> Result:
    """Accuracy by category, micro and macro, for each split; `rewards[i]` is f32[2] for responses A and B.

    Correct is reward(right) > reward(wrong), strictly; ties are wrong and counted apart. Raises UserError if
    a reward is missing or not finite, or an id occurs twice.
    """
    check_ids(comparisons)
    check_rewards(comparisons, rewards)
    result = Result(sections={})
    for split in sorted({c.source for c in comparisons}, key=lambda name: (name != HEADLINE_SPLIT, name)):
        members = [i for i, c in enumerate(comparisons) if c.source == split]
        result.sections[split] = _split([comparisons[i] for i in members], [rewards[i] for i in members])
        result.partial += _missing(split, Counter(comparisons[i].category for i in members))
    if HEADLINE_SPLIT in result.sections:
        result.headline = (HEADLINE_SPLIT, MACRO)
    else:
        result.notes.append(f"no headline figure: it belongs to the {HEADLINE_SPLIT} split, which is not here")
    return result


def published_rewards(record: Mapping[str, Any], where: str) -> list[float]:
    """[reward A, reward B] from a record of the authors' output dump (`judgments`, both orders).

    Raises UserError if the record lacks them or the two orders disagree on the winner, because a reward
    model that depends on the order has no single reward for a response.
    """
    try:
        first, second = (judgment["judgment"]["scores"] for judgment in record["judgments"])
        (a, b), (b_swapped, a_swapped) = map(float, first), map(float, second)
    except (KeyError, TypeError, ValueError):
        raise UserError(f"{where}: `judgments` does not hold two judgments with two scores each") from None
    if np.sign(a - b) != np.sign(a_swapped - b_swapped):
        raise UserError(f"{where}: the two orders disagree on the winner ({first} and {second})")
    return [a, b]


def _check(record: Any, where: str) -> None:
    missing = [name for name in FIELDS if name not in record] if isinstance(record, dict) else list(FIELDS)
    if missing:
        raise UserError(
            f"{where}: this is no JudgeBench record, it lacks {', '.join(missing)}: give a published JudgeBench file"
        )
    for name in FIELDS:
        if not isinstance(record[name], str):
            raise UserError(f"{where}: field {name} must be text, not {type(record[name]).__name__}")
    if record["label"] not in ("A>B", "B>A"):
        raise UserError(f"{where}: field label is {record['label']!r}: only 'A>B' and 'B>A' exist in JudgeBench")
    _category(record["source"], where)


def _comparison(record: Mapping[str, Any], where: str) -> Comparison:
    try:
        return Comparison.of(
            prompt=record["question"],
            responses=[record["response_A"], record["response_B"]],
            chosen=0 if record["label"] == "A>B" else 1,
            id=record["pair_id"],
            source=record["response_model"],
            category=_category(record["source"], where),
        )
    except RecordError as error:
        raise UserError(f"{where}: {error}") from None


def _category(source: str, where: str) -> str:
    for prefix, category in PREFIXES.items():
        if source.startswith(prefix):
            return category
    raise UserError(f"{where}: field source is {source!r}, which begins with none of {', '.join(PREFIXES)}")


def _split(comparisons: Sequence[Comparison], rewards: Sequence[np.ndarray]) -> dict[str, Figure]:
    winners = np.array([c.preferences[0].winner for c in comparisons])
    pairs = np.stack([np.asarray(r) for r in rewards])
    rows = np.arange(len(pairs))
    right, wrong = pairs[rows, winners], pairs[rows, 1 - winners]
    correct, ties = right > wrong, right == wrong
    categories = [name for name in CATEGORIES if any(c.category == name for c in comparisons)]
    groups = np.array([[c.category == name for name in categories] for c in comparisons])
    members = np.concatenate([groups, np.ones((len(pairs), 1), bool)], axis=1).astype(np.float64)
    points = members * correct[:, None]

    def rule(counts: np.ndarray) -> np.ndarray:
        shares = 100.0 * ratio(counts, points, members)
        return np.concatenate([shares, mean_of_defined(shares[:, :-1])[:, None]], axis=1)

    values = estimate(rule, len(pairs))
    low, high = bootstrap(rule, len(pairs))
    figures = {}
    for m, name in enumerate([*categories, MICRO, MACRO]):
        inside = members[:, m].astype(bool) if name != MACRO else np.ones(len(pairs), bool)
        figures[name] = Figure(
            value=float(values[m]),
            low=float(low[m]),
            high=float(high[m]),
            total=int(inside.sum()),
            correct=int(correct[inside].sum()) if name != MACRO else None,
            ties=int(ties[inside].sum()),
        )
    return figures


def _missing(split: str, found: Mapping[str, int]) -> list[str]:
    if split not in SIZES:
        return [f"{split}: not a published split, so its completeness is unknown"]
    return [
        f"{split}: {found.get(category, 0)} of {size} {category} pairs"
        for category, size in SIZES[split].items()
        if found.get(category, 0) != size
    ]
