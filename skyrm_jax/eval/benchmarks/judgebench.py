"""JudgeBench: objectively right against objectively wrong, in four categories.

Data: github.com/ScalerLab/JudgeBench, `data/dataset=judgebench,response_model=<model>.jsonl`. The rule is
that of its `utils/metrics.py` in the two-game form behind the published table: each pair is judged in both
orders, so an exact tie votes once for each side and the pair is wrong. Therefore: a strict win is required.

Two headlines: the leaderboard's is the accuracy over all pairs (micro); Skywork-Reward-V2 reports the
unweighted mean of the four categories (macro) on the GPT-4o split.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from skyrm_jax.comparison import Comparison
from skyrm_jax.data.files import Source
from skyrm_jax.errors import RecordError, UserError
from skyrm_jax.eval.benchmarks.reading import Published, shortfall
from skyrm_jax.eval.figures import Result, Rewards
from skyrm_jax.eval.heldout import pair_counts
from skyrm_jax.eval.table import Table

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


def parse(record: Mapping[str, Any], source: Source, line: int) -> Comparison:
    """Responses are [A, B]; the preference is the label's; `source` is the model that wrote the responses (the
    split) and `category` one of CATEGORIES."""
    if record["label"] not in ("A>B", "B>A"):
        raise RecordError("label", "is none of JudgeBench's", "use 'A>B' or 'B>A'", repr(record["label"]))
    category = next((name for prefix, name in PREFIXES.items() if record["source"].startswith(prefix)), None)
    if category is None:
        remedy = f"it begins with one of {', '.join(PREFIXES)}"
        raise RecordError("source", "is none of JudgeBench's", remedy, repr(record["source"]))
    return Comparison.of(
        prompt=record["question"],
        responses=[record["response_A"], record["response_B"]],
        chosen=0 if record["label"] == "A>B" else 1,
        id=record["pair_id"],
        source=record["response_model"],
        category=category,
    )


PUBLISHED = Published(
    title="JudgeBench",
    files=("dataset=judgebench,*.jsonl", "gpt*.parquet", "claude*.parquet", "gpt.jsonl", "claude.jsonl"),
    folders=("judgebench", "JudgeBench"),
    hub=("hub://ScalerLab/JudgeBench?split=gpt", "hub://ScalerLab/JudgeBench?split=claude"),
    home="github.com/ScalerLab/JudgeBench, folder `data`",
    fields=dict.fromkeys(FIELDS, str),
    parse=parse,
    but=("*,judge_name=*",),
)


def table(comparisons: Sequence[Comparison], rewards: Rewards) -> Table:
    """For each split the accuracy of each category, micro and macro."""
    correct, ties, _ = pair_counts(comparisons, rewards)
    splits, categories = (np.array([getattr(c, name) for c in comparisons]) for name in ("source", "category"))
    figures = Table(len(comparisons))
    for split in _splits(comparisons):
        parts = [
            figures.accuracy((split, name), (splits == split) & (categories == name), correct, ties)
            for name in CATEGORIES
        ]
        figures.accuracy((split, MICRO), splits == split, correct, ties)
        figures.weighted((split, MACRO), parts)
    return figures


def score(comparisons: Sequence[Comparison], rewards: Rewards) -> Result:
    """Accuracy by category, micro and macro, for each split; `rewards[i]` is f32[2] for responses A and B.

    Correct is reward(right) > reward(wrong), strictly; ties are wrong and counted apart.
    """
    result = table(comparisons, rewards).result((HEADLINE_SPLIT, MACRO))
    here = _splits(comparisons)
    for split in [*here, *(name for name in SIZES if name not in here)]:
        found = Counter(c.category for c in comparisons if c.source == split)
        lacks = [f"{split}: {line}" for line in shortfall(found, SIZES.get(split, {}), "pairs")]
        if not found:
            lacks = [f"{split}: none of its {sum(SIZES[split].values())} pairs is here"]
        elif split not in SIZES:
            lacks = [f"{split}: not a published split, so its completeness is unknown"]
        # The headline is of one split: what the others lack does not touch it.
        (result.partial if split == HEADLINE_SPLIT or result.headline is None else result.notes).extend(lacks)
    return result


def published_rewards(record: Mapping[str, Any], where: str) -> list[float]:
    """[reward A, reward B] from a record of the authors' output dump (`judgments`, both orders).

    Raises UserError if the record lacks them or the two orders disagree on the winner, because a reward
    model that depends on the order has no single reward for a response.
    """
    try:
        first, second = (judgment["judgment"]["scores"] for judgment in record["judgments"])
        (a, b), (b_swapped, a_swapped) = map(float, first), map(float, second)
    except (KeyError, TypeError, ValueError, OverflowError):
        raise UserError(f"{where}: `judgments` does not hold two judgments with two scores each") from None
    if not np.isfinite([a, b, a_swapped, b_swapped]).all():
        raise UserError(f"{where}: `judgments` holds scores that are no finite numbers ({first} and {second})")
    if np.sign(a - b) != np.sign(a_swapped - b_swapped):
        raise UserError(f"{where}: the two orders disagree on the winner ({first} and {second})")
    return [a, b]


def _splits(comparisons: Sequence[Comparison]) -> list[str]:
    return sorted({c.source for c in comparisons}, key=lambda name: (name != HEADLINE_SPLIT, name))
