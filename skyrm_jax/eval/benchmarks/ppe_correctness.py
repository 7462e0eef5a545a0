"""PPE Correctness: five benchmarks with checkable answers, 32 sampled responses to each question.

Data: Hub `lmarena-ai/PPE-{MMLU-Pro,MATH,GPQA,MBPP-Plus,IFEval}-Best-of-K`, split `train`. The headline pools the pairs of
`sampled_conflict_pairs` (one right response, one wrong; repeated ones count again) of a benchmark, strictly, and is the
unweighted mean of the five accuracies. Beside it: ROC AUC of the reward for correctness, within a question and averaged
over questions, and best-of-K curves.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from skyrm_jax.comparison import Comparison
from skyrm_jax.data.files import Source, SourceFile
from skyrm_jax.errors import RecordError
from skyrm_jax.eval.benchmarks.reading import Published, shortfall
from skyrm_jax.eval.curves import best_of_n
from skyrm_jax.eval.figures import Result, Rewards
from skyrm_jax.eval.heldout import pair_counts
from skyrm_jax.eval.table import Table

SIZES = {"MMLU-Pro": 512, "MATH": 512, "GPQA": 512, "MBPP-Plus": 507, "IFEval": 512}
RESPONSES, PAIRS_OF_ROW = 32, 5
PAIRS, AUC = "Pairs", "ROC AUC within a question"
MEAN = "Mean of benchmarks"


@dataclass(frozen=True, slots=True)
class Sampled(Comparison):
    """A comparison with the correctness of every response, 0 to 1."""

    grades: tuple[float, ...] = ()


def parse(record: Mapping[str, Any], source: Source, line: int) -> Comparison:
    """Responses are the 32 samples, preferences the conflict pairs, right before wrong; `category` the benchmark."""
    benchmark = _benchmark(source)
    responses = [record[f"response_{k}"] for k in range(1, RESPONSES + 1)]
    grades = record["scores"]
    if len(grades) != RESPONSES or not all(isinstance(one, bool | int | float) and 0 <= one <= 1 for one in grades):
        raise RecordError("scores", "does not hold 32 values from 0 to 1", "download the file again", f"{grades!r:.80}")
    pairs = []
    for pair in record["sampled_conflict_pairs"]:
        if (
            not isinstance(pair, list)
            or not all(isinstance(k, int) and 0 <= k < RESPONSES for k in pair)
            or len(pair) != 2
        ):
            raise RecordError("sampled_conflict_pairs", "holds no pair of responses", "download again", f"{pair!r:.80}")
        i, j = pair
        if grades[i] == grades[j]:
            raise RecordError("sampled_conflict_pairs", "names two equally good responses", "download again", f"{pair}")
        pairs.append((i, j) if grades[i] > grades[j] else (j, i))
    made = Comparison.of(
        prompt=record["prompt"],
        responses=responses,
        preferences=pairs,
        id=f"{benchmark}/{record['model_name']}/{record['question_id']}",
        source=record["model_name"],
        category=benchmark,
    )
    values = {field.name: getattr(made, field.name) for field in fields(Comparison)}
    return Sampled(**values, grades=tuple(float(one) for one in grades))


PUBLISHED = Published(
    title="PPE Correctness",
    files=tuple(pattern for name in SIZES for pattern in (f"*{name}*", f"*{name}*/*")),
    folders=("ppe-correctness", "PPE-Correctness", *(f"PPE-{name}-Best-of-K" for name in SIZES)),
    hub=tuple(f"hub://lmarena-ai/PPE-{name}-Best-of-K?split=train" for name in SIZES),
    home="huggingface.co/lmarena-ai, the five data sets PPE-*-Best-of-K, each in a folder of its name",
    fields={
        "question_id": (str, int),
        "model_name": str,
        "prompt": str,
        **{f"response_{k}": str for k in range(1, RESPONSES + 1)},
        "scores": list,
        "sampled_conflict_pairs": list,
    },
    parse=parse,
)


def table(comparisons: Sequence[Comparison], rewards: Rewards) -> Table:
    """Pair accuracy of each benchmark and their mean, and the same of ROC AUC."""
    correct, ties, pairs = pair_counts(comparisons, rewards)
    names = np.array([c.category for c in comparisons])
    areas = np.array([area(np.asarray(r), _right(c)) for c, r in zip(comparisons, rewards, strict=True)])
    defined = np.isfinite(areas)
    figures = Table(len(comparisons))
    keys = []
    for name in SIZES:
        member = names == name
        keys.append(figures.ratio((PAIRS, name), member * correct, member * pairs, member * ties))
    figures.weighted((PAIRS, MEAN), keys)
    keys = [
        figures.ratio(
            (AUC, name), np.where(defined, areas, 0) * (names == name), defined & (names == name), counted=False
        )
        for name in SIZES
    ]
    figures.weighted((AUC, MEAN), keys)
    return figures


def score(comparisons: Sequence[Comparison], rewards: Rewards) -> Result:
    """Accuracy, ROC AUC and curves; `rewards[i]` is f32[32]."""
    result = table(comparisons, rewards).result((PAIRS, MEAN))
    result.partial = shortfall(Counter(c.category for c in comparisons), SIZES, "rows")
    if not result.partial:  # what has all rows may lack pairs, which the headline is made of
        pairs: Counter[str] = Counter()
        for c in comparisons:
            pairs[c.category] += len(c.preferences)
        result.partial = shortfall(pairs, {name: PAIRS_OF_ROW * rows for name, rows in SIZES.items()}, "pairs")
    for name in SIZES:
        mine = [i for i, c in enumerate(comparisons) if c.category == name and isinstance(c, Sampled)]
        curve = best_of_n([rewards[i] for i in mine], [_grades(comparisons[i]) for i in mine])
        if curve is not None:
            result.curves[name] = curve
    return result


def area(rewards: np.ndarray, right: np.ndarray) -> float:
    """ROC AUC of f[K] rewards for bool[K]: the share of (right, wrong) pairs in the right order, ties worth half.

    NaN where all are right, or all wrong.
    """
    good, bad = rewards[right], rewards[~right]
    if not len(good) or not len(bad):
        return float("nan")
    above = good[:, None] - bad[None, :]
    return float(((above > 0) + 0.5 * (above == 0)).mean())


def _benchmark(source: Source) -> str:
    """Which of the five a file holds: its name, or that of one of the two folders above it, says so."""
    parts = PurePosixPath(source.path if isinstance(source, SourceFile) else source.id).parts
    for part in parts[-1:-4:-1]:
        for name in SIZES:
            if name.lower() in part.lower():
                return name
    raise RecordError(
        "record",
        "is in a file whose name, and that of its folder, say none of the five benchmarks",
        f"put it into a folder such as PPE-GPQA-Best-of-K; known are {', '.join(SIZES)}",
    )


def _grades(comparison: Comparison) -> np.ndarray:
    return np.array(comparison.grades if isinstance(comparison, Sampled) else ())


def _right(comparison: Comparison) -> np.ndarray:
    grades = _grades(comparison)
    return grades > 0.5 if len(grades) else np.zeros(len(comparison.responses), bool)
