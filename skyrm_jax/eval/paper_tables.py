"""The published figures of Skywork-Reward-V2 and of the models that its paper compares with, in percent.

Source: arXiv 2507.01352. `FIGURES` is the full table of its appendix; `BREAKDOWNS` are its tables 2 (JudgeBench) and
3 (RMB), and in its first version figures 5 (RM-Bench) and 6 (RewardBench 2). They disagree by more than rounding for
Qwen3-4B on JudgeBench (69.3 in the full table, 69.5 in table 2), and by rounding elsewhere.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from skyrm_jax.eval.benchmarks import judgebench, rewardbench2, rm_bench, rmb

COLUMNS = ("RewardBench", "RewardBench v2", "PPE Pref", "PPE Corr", "RMB", "RM-Bench", "JudgeBench")
AVERAGE = "Avg"

V2: Mapping[str, tuple[float, ...]] = {
    "Skywork-Reward-V2-Qwen3-0.6B": (85.2, 61.3, 65.3, 68.3, 74.5, 74.4, 67.6, 70.9),
    "Skywork-Reward-V2-Qwen3-1.7B": (90.3, 68.3, 67.6, 70.5, 78.1, 78.7, 72.9, 75.2),
    "Skywork-Reward-V2-Qwen3-4B": (93.4, 75.5, 69.5, 74.7, 80.6, 81.6, 69.3, 77.8),
    "Skywork-Reward-V2-Qwen3-8B": (93.7, 78.2, 70.6, 75.1, 81.2, 82.6, 73.4, 79.3),
    "Skywork-Reward-V2-Llama-3.2-1B": (89.9, 64.3, 66.6, 67.4, 76.7, 76.4, 65.0, 72.3),
    "Skywork-Reward-V2-Llama-3.2-3B": (93.0, 74.7, 69.1, 72.1, 80.5, 81.1, 69.2, 77.1),
    "Skywork-Reward-V2-Llama-3.1-8B": (96.4, 84.1, 77.3, 83.4, 86.4, 92.8, 80.0, 85.7),
    "Skywork-Reward-V2-Llama-3.1-8B-40M": (97.8, 86.5, 79.8, 87.2, 89.3, 96.0, 83.4, 88.6),
}
"""Skywork-Reward-V2: model -> its figures in the order of COLUMNS, then AVERAGE."""

OTHERS: Mapping[str, tuple[float | None, ...]] = {
    "GRM-gemma2-2B-rewardmodel-ft": (88.5, 59.7, 59.7, 58.5, 68.0, 66.2, 63.5, 66.3),
    "RM-Mistral-7B": (80.9, 59.6, 61.8, 56.4, 66.6, 66.9, 62.1, 64.9),
    "Eurus-RM-7b": (83.3, 58.1, 59.6, 60.5, 65.5, 69.0, 58.4, 64.9),
    "BTRM Qwen2 7b 0613": (83.6, 57.4, 61.8, 58.4, 61.5, 69.4, 63.8, 65.1),
    "Internlm2-7b-reward": (87.6, 53.4, 62.1, 60.0, 67.1, 67.1, 59.4, 65.2),
    "FsfairX-LLaMA3-RM-v0.1": (84.7, 62.9, 63.1, 61.1, 70.2, 70.5, 59.9, 67.5),
    "internlm2-1 8b-reward": (82.0, 39.0, 57.3, 53.6, 54.2, 66.2, 59.0, 58.8),
    "ArmoRM-Llama3-8B-v0.1": (90.4, 66.5, 60.6, 60.6, 64.6, 69.3, 59.7, 67.4),
    "Llama-3-OffsetBias-RM-8B": (89.0, 64.8, 59.2, 64.1, 57.8, 71.3, 63.5, 67.1),
    "QRM-Llama3.1-8B-v2": (93.1, 70.7, 57.2, 60.3, 61.1, 72.5, 62.6, 68.2),
    "GRM-llama3-8B-distill": (86.2, 58.9, 63.2, 62.8, 68.8, 70.3, 63.3, 67.6),
    "QRM-Llama3.1-8B": (93.1, 70.7, 60.6, 60.5, 64.7, 72.8, 63.8, 69.5),
    "GRM-Llama3-8B-rewardmodel-ft": (91.5, 67.7, 62.1, 60.0, 70.2, 69.9, 62.3, 69.1),
    "URM-LLaMa-3.1-8B": (92.9, 73.9, 60.2, 60.4, 65.7, 72.0, 64.1, 69.9),
    "Skywork-Reward-Llama-3.1-8B": (92.5, 73.1, 62.1, 60.3, 69.2, 71.8, 62.0, 70.1),
    "Skywork-Reward-Llama-3.1-8B-v0.2": (93.1, 71.8, 62.2, 62.5, 66.6, 72.1, 62.9, 70.2),
    "Starling-RM-34B": (80.8, 45.5, 62.8, 57.5, 72.0, 67.1, 63.8, 64.2),
    "QRM-Gemma-2-27B": (94.4, 76.7, 52.3, 54.8, 53.4, 65.9, 57.5, 65.0),
    "Internlm2-20b-reward": (90.2, 56.3, 61.0, 63.0, 62.9, 68.3, 64.3, 66.6),
    "Skywork-Reward-Gemma-2-27B": (93.8, 75.8, 60.3, 60.1, 69.5, 68.5, 65.2, 70.4),
    "Llama-3.1-Nemotron-70B": (93.9, 76.7, 64.2, 63.2, 64.9, 72.2, 65.8, 71.6),
    "LDL-Reward-Gemma-2-27B-v0.1": (95.0, 72.5, 62.4, 63.9, 67.9, 71.1, 64.2, 70.9),
    "Skywork-Reward-Gemma-2-27B-v0.2": (94.3, 75.3, 63.6, 61.9, 69.4, 70.0, 66.5, 71.6),
    "INF-ORM-Llama3.1-70B": (95.1, 76.5, 64.2, 64.4, 70.5, 73.8, 70.2, 73.5),
    "GPT-4o": (86.7, 64.9, 67.7, None, 73.8, None, 59.8, None),
    "Claude-3.5-Sonnet": (84.2, 64.7, 67.3, None, 70.6, None, 64.8, None),
    "DeepSeek-GRM-27B": (90.4, None, 67.2, 63.2, 70.3, None, None, None),
    "RM-R1-Qwen-Instruct-32B": (92.9, None, None, None, 73.0, 79.1, None, None),
    "RM-R1-DeepSeek-Distill-Qwen-32B": (90.9, None, None, None, 69.8, 83.9, None, None),
    "EvalPlanner": (93.8, None, None, None, None, 82.1, 56.6, None),
    "J1-Llama-8B": (None, None, 60.6, 61.9, None, None, None, None),
    "J1-Llama-70B": (None, None, 67.0, 73.7, None, None, None, None),
}
"""The models compared with, in the same form; None where the paper has no figure."""

FIGURES: Mapping[str, tuple[float | None, ...]] = {**V2, **OTHERS}

PARAMETERS = {
    "Skywork-Reward-V2-Qwen3-0.6B": 0.6,
    "Skywork-Reward-V2-Qwen3-1.7B": 1.7,
    "Skywork-Reward-V2-Qwen3-4B": 4.0,
    "Skywork-Reward-V2-Qwen3-8B": 8.0,
    "Skywork-Reward-V2-Llama-3.2-1B": 1.0,
    "Skywork-Reward-V2-Llama-3.2-3B": 3.0,
    "Skywork-Reward-V2-Llama-3.1-8B": 8.0,
    "Skywork-Reward-V2-Llama-3.1-8B-40M": 8.0,
}
"""Nominal parameters in billions, by which the models are named."""


@dataclass(frozen=True)
class Breakdown:
    """The parts of a benchmark's figure, named as our figures that correspond.

    Attributes:
        section, figures: where our results have them.
        rows: model -> the parts in the order of `figures`.
    """

    section: str
    figures: tuple[str, ...]
    rows: Mapping[str, tuple[float, ...]]


BREAKDOWNS: Mapping[str, Breakdown] = {
    "RewardBench v2": Breakdown(
        rewardbench2.SUBSETS,
        tuple(rewardbench2.SIZES),
        {
            "Skywork-Reward-V2-Qwen3-0.6B": (58.2, 40.0, 71.6, 84.4, 79.4, 34.0),
            "Skywork-Reward-V2-Qwen3-1.7B": (65.8, 45.0, 72.7, 89.1, 88.5, 48.7),
            "Skywork-Reward-V2-Qwen3-4B": (77.3, 46.2, 73.2, 92.2, 96.6, 67.4),
            "Skywork-Reward-V2-Qwen3-8B": (79.8, 49.1, 77.0, 94.0, 96.4, 72.9),
            "Skywork-Reward-V2-Llama-3.2-1B": (60.9, 45.6, 59.6, 87.3, 89.3, 43.1),
            "Skywork-Reward-V2-Llama-3.2-3B": (76.2, 45.6, 69.4, 93.1, 96.0, 67.7),
            "Skywork-Reward-V2-Llama-3.1-8B": (84.6, 66.2, 77.6, 96.7, 98.4, 81.2),
            "Skywork-Reward-V2-Llama-3.1-8B-40M": (87.9, 67.8, 83.1, 97.3, 99.2, 83.9),
        },
    ),
    "RMB": Breakdown(
        rmb.SUMMARY,
        (rmb.CELLS["Helpfulness", "BoN_set"], rmb.CELLS["Harmlessness", "BoN_set"], rmb.BEST),
        {
            "Skywork-Reward-V2-Qwen3-0.6B": (68.4, 69.1, 68.8),
            "Skywork-Reward-V2-Qwen3-1.7B": (72.0, 72.2, 72.1),
            "Skywork-Reward-V2-Qwen3-4B": (74.7, 75.1, 74.9),
            "Skywork-Reward-V2-Qwen3-8B": (76.5, 75.8, 76.2),
            "Skywork-Reward-V2-Llama-3.2-1B": (68.0, 73.2, 70.6),
            "Skywork-Reward-V2-Llama-3.2-3B": (74.4, 76.2, 75.3),
            "Skywork-Reward-V2-Llama-3.1-8B": (82.3, 82.8, 82.5),
            "Skywork-Reward-V2-Llama-3.1-8B-40M": (86.2, 86.6, 86.4),
        },
    ),
    "RM-Bench": Breakdown(
        rm_bench.SUMMARY,
        ("Easy", "Normal", "Hard"),
        {
            "Skywork-Reward-V2-Qwen3-0.6B": (90.3, 78.0, 54.8),
            "Skywork-Reward-V2-Qwen3-1.7B": (93.0, 83.4, 59.7),
            "Skywork-Reward-V2-Qwen3-4B": (92.1, 84.7, 67.9),
            "Skywork-Reward-V2-Qwen3-8B": (91.9, 85.7, 70.1),
            "Skywork-Reward-V2-Llama-3.2-1B": (91.3, 79.9, 57.8),
            "Skywork-Reward-V2-Llama-3.2-3B": (91.5, 84.1, 67.8),
            "Skywork-Reward-V2-Llama-3.1-8B": (97.0, 95.0, 86.5),
            "Skywork-Reward-V2-Llama-3.1-8B-40M": (97.6, 96.9, 93.5),
        },
    ),
    "JudgeBench": Breakdown(
        judgebench.HEADLINE_SPLIT,
        judgebench.CATEGORIES,
        {
            "Skywork-Reward-V2-Qwen3-0.6B": (62.3, 66.3, 82.1, 59.5),
            "Skywork-Reward-V2-Qwen3-1.7B": (66.9, 69.4, 83.9, 71.4),
            "Skywork-Reward-V2-Qwen3-4B": (66.9, 64.3, 80.4, 66.7),
            "Skywork-Reward-V2-Qwen3-8B": (70.1, 67.3, 82.1, 73.8),
            "Skywork-Reward-V2-Llama-3.2-1B": (61.0, 66.3, 73.2, 59.5),
            "Skywork-Reward-V2-Llama-3.2-3B": (64.3, 65.3, 87.5, 59.5),
            "Skywork-Reward-V2-Llama-3.1-8B": (76.6, 75.5, 89.3, 78.6),
            "Skywork-Reward-V2-Llama-3.1-8B-40M": (79.9, 78.6, 89.3, 85.7),
        },
    ),
}
"""By the column that they are parts of."""


def complete(models: Mapping[str, tuple[float | None, ...]] = FIGURES) -> dict[str, tuple[float, ...]]:
    """The models that have all figures."""
    return {name: tuple(v for v in row if v is not None) for name, row in models.items() if None not in row}
