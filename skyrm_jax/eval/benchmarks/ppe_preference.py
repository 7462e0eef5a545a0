"""PPE Preference: which of two answers people voted for.

Data: Hub `lmarena-ai/PPE-Human-Preference-V1`, split `test` (16,038 rows). Rows whose `winner` is neither model are ties
between the answers and are not scored. The figure is plain accuracy, strictly; an exact tie of rewards is wrong, and
counted, since how PPE's own scorer treats one is not known.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from skyrm_jax.comparison import Comparison
from skyrm_jax.data.files import Source
from skyrm_jax.eval.benchmarks.reading import Published, shortfall
from skyrm_jax.eval.figures import Result, Rewards
from skyrm_jax.eval.heldout import pair_counts
from skyrm_jax.eval.table import Table

SIZE = 16_038
SLICES = ("hard_prompt", "easy_prompt", "if_prompt", "is_code", "math_prompt", "is_refusal")
ACCURACY, SLICED = "Accuracy", "Slices"
ALL = "All votes"


@dataclass(frozen=True, slots=True)
class Vote(Comparison):
    """A comparison with the names of the slices that it belongs to."""

    slices: tuple[str, ...] = ()


def parse(record: Mapping[str, Any], source: Source, line: int) -> Comparison:
    """Responses are [1, 2], `category` the language; without a preference where people chose neither."""
    winner = {"model_a": [(0, 1)], "model_b": [(1, 0)]}.get(record["winner"], [])
    language = str(record.get("language") or "")
    slices = [name for name in SLICES if record.get(name) is True]
    if language:
        slices.append("english" if language.lower() == "english" else "not english")
    made = Comparison.of(
        prompt=record["prompt"],
        responses=[record["response_1"], record["response_2"]],
        preferences=winner,
        id=str(record["question_id"]),
        source="PPE Preference",
        category=language,
    )
    return Vote(**{field.name: getattr(made, field.name) for field in fields(Comparison)}, slices=tuple(slices))


PUBLISHED = Published(
    title="PPE Preference",
    files=("test*", "*Human-Preference*"),
    folders=("ppe-preference", "PPE-Human-Preference-V1"),
    hub=("hub://lmarena-ai/PPE-Human-Preference-V1?split=test",),
    home="huggingface.co/datasets/lmarena-ai/PPE-Human-Preference-V1",
    fields={"question_id": (str, int), "prompt": str, "response_1": str, "response_2": str, "winner": str},
    parse=parse,
)


def table(comparisons: Sequence[Comparison], rewards: Rewards) -> Table:
    """Accuracy over all votes that have a winner, and over slices of them."""
    correct, ties, decided = pair_counts(comparisons, rewards)
    belongs = [set(c.slices) if isinstance(c, Vote) else set() for c in comparisons]
    figures = Table(len(comparisons))
    figures.accuracy((ACCURACY, ALL), decided > 0, correct, ties)
    for name in sorted({name for one in belongs for name in one}):
        figures.accuracy((SLICED, name), (decided > 0) & np.array([name in one for one in belongs]), correct, ties)
    return figures


def score(comparisons: Sequence[Comparison], rewards: Rewards) -> Result:
    """Accuracy; `rewards[i]` is f32[2]."""
    undecided = sum(not c.preferences for c in comparisons)
    partial = shortfall({"all": len(comparisons)}, {"all": SIZE}, "votes")
    if undecided == len(comparisons):
        notes = ["no vote has a winner: there is nothing to be right or wrong about"]
        return Result(sections={}, partial=partial, notes=notes)
    result = table(comparisons, rewards).result((ACCURACY, ALL))
    result.partial = partial
    result.notes.append(f"{undecided:,} of {len(comparisons):,} votes chose neither answer and are left out")
    return result
