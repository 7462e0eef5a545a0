"""Rewards of this package and of transformers side by side, for the same checkpoint and conversations."""

import math
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from skyrm_jax.comparison import Comparison
from skyrm_jax.doctor.checks import SAMPLE, Patient
from skyrm_jax.doctor.findings import Finding, judge
from skyrm_jax.errors import UserError

Dtype = Literal["float32", "bfloat16"]
LEAST = 0.15
"""Honest backends differ by up to two bfloat16 steps or this, whichever is larger, in bfloat16."""
FP32 = 1e-3
"""By no more than this, relative to max(1, |reward|), in fp32."""

SAMPLES = [
    SAMPLE,
    Comparison.of("Name a prime between 20 and 30.", ["23", "21, since 21 is not even.", "29 is one; so is 23."]),
    Comparison.of("How do I pick a lock?", ["I am sorry, I cannot help with that.", "Why, with a pick: " * 40]),
]


@dataclass(frozen=True)
class Pair:
    """The reward of one response by both runtimes."""

    dtype: Dtype
    prompt: str
    response: str
    ours: float
    theirs: float

    @property
    def steps(self) -> float:
        """The difference in bfloat16 steps at the reward's size."""
        return abs(self.ours - self.theirs) / bfloat16_step(max(abs(self.ours), abs(self.theirs)))

    @property
    def is_well(self) -> bool:
        difference = abs(self.ours - self.theirs)
        if not math.isfinite(difference):
            return False
        size = max(abs(self.ours), abs(self.theirs))
        if self.dtype == "float32":
            return difference <= FP32 * max(1.0, size)
        return difference <= max(2 * bfloat16_step(size), LEAST)


def bfloat16_step(value: float) -> float:
    """The distance of neighbouring bfloat16 numbers at `value`: eight bits of significand."""
    if not math.isfinite(value):
        return math.nan
    return 2.0 ** (math.floor(math.log2(abs(value))) - 7) if value else 2.0**-133


def compare(patient: Patient, dtypes: Sequence[Dtype] = ("float32", "bfloat16")) -> list[Pair]:
    """Scores SAMPLES with both runtimes; our own checkpoint is exported to a temporary folder for transformers.

    Raises:
        UserError: torch or transformers is not installed, or the model has no template or a zero head.
    """
    try:
        import torch
        from transformers import AutoModelForSequenceClassification
    except ImportError as error:
        raise UserError("--against hf needs torch, which is not installed: see README for a CPU build") from error
    from skyrm_jax.convert.hf_export import write_hf
    from skyrm_jax.scorer import Scorer

    pairs: list[Pair] = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = patient.folder
        if patient.meta:
            folder = Path(temporary) / "export"
            write_hf(folder, patient.weights, patient.tokenizer)
        for dtype in dtypes:
            scorer = Scorer.load(patient.source, dtype=dtype)
            ours = scorer.score(SAMPLES)
            model = AutoModelForSequenceClassification.from_pretrained(
                folder, dtype=getattr(torch, dtype), trust_remote_code=False
            ).eval()
            for comparison, rewards in zip(SAMPLES, ours, strict=True):
                for number, reward in enumerate(rewards):
                    conversation = comparison.conversation(number)
                    with torch.no_grad():
                        logits = model(torch.tensor(scorer.chat.encode([conversation]))).logits
                    pairs.append(
                        Pair(
                            dtype,
                            comparison.prompt[-1].content,
                            conversation[-1].content,
                            float(reward),
                            float(logits[0, 0]),
                        )
                    )
            del model, scorer
    return pairs


def findings(pairs: Sequence[Pair]) -> list[Finding]:
    """One finding for each dtype: the greatest difference."""
    found = []
    for dtype in dict.fromkeys(pair.dtype for pair in pairs):
        of_dtype = [pair for pair in pairs if pair.dtype == dtype]
        worst = max(of_dtype, key=lambda pair: abs(pair.ours - pair.theirs))
        value = f"differs by at most {abs(worst.ours - worst.theirs):.3g} ({worst.steps:.1f} bf16 steps)"
        found.append(
            judge(
                f"transformers, {dtype}",
                all(pair.is_well for pair in of_dtype),
                value,
                f"the two read this checkpoint differently, most at {worst.response[:40]!r}: see the other findings",
            )
        )
    return found
