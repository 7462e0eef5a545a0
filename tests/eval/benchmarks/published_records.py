"""A record of each benchmark with all the fields that it is published with, and files of such records."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

Record = dict[str, Any]


def write(path: Path, records: Sequence[Any]) -> Path:
    """A file of the kind that its suffix says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(list(records)), path)
    elif path.suffix == ".json":
        path.write_text(json.dumps(records))
    else:
        path.write_text("".join(json.dumps(one) + "\n" for one in records))
    return path


def rewardbench(number: int, subset: str = "hep-cpp", **changes: Any) -> Record:
    texts = {"prompt": f"Question {number}", "chosen": "right", "rejected": "wrong"}
    models = {"chosen_model": "human", "rejected_model": "GPT"}
    return {**texts, **models, "subset": subset, "id": number, **changes}


def rewardbench2(number: int, subset: str = "Focus", **changes: Any) -> Record:
    record = {
        "id": str(number),
        "prompt": f"Question {number}",
        "chosen": ["right"],
        "rejected": ["wrong", "wronger", "wrongest"],
        "num_correct": 1,
        "num_incorrect": 3,
        "total_completions": 4,
        "models": ["m"] * 4,
        "subset": subset,
        "additional_metadata": {"category": None, "index": 3.0, "instruction_id_list": ["x"], "valid": 1.0},
    }
    return record | changes


def ties(name: str, correct: int, wrong: int) -> Record:
    """A row of the Ties subset of RewardBench 2; `name` is ref:N or tied:N."""
    chosen, rejected = [f"right {i}" for i in range(correct)], [f"wrong {i}" for i in range(wrong)]
    counts = {"num_correct": correct, "num_incorrect": wrong, "total_completions": correct + wrong}
    return rewardbench2(0, "Ties", id=name, chosen=chosen, rejected=rejected, **counts)


def ppe_preference(number: int, winner: str = "model_a", **changes: Any) -> Record:
    record = {
        "question_id": f"q{number}",
        "prompt": f"Question {number}",
        "response_1": "this",
        "response_2": "that",
        "model_a": "m",
        "model_b": "n",
        "winner": winner,
        "language": "English",
        "is_code": False,
        "is_refusal": False,
        "hard_prompt": True,
        "easy_prompt": False,
        "if_prompt": False,
        "math_prompt": False,
        "length_a": 4,
        "length_b": 4,
        "conv_metadata": {"turns": 1},
    }
    return record | changes


def ppe_correctness(number: int, **changes: Any) -> Record:
    """32 responses, of which the first 16 are right, and five conflict pairs, the first twice."""
    record = {
        "question_id": f"q{number}",
        "model_name": "m",
        "prompt": f"Question {number}",
        **{f"response_{k + 1}": f"answer {k}" for k in range(32)},
        "scores": [k < 16 for k in range(32)],
        "mean_score": 0.5,
        "sampled_conflict_pairs": [[0, 31], [1, 30], [29, 2], [28, 3], [0, 31]],
        "parsed_outputs": ["A"] * 32,
        "Subdomain": "Chemistry",
    }
    return record | changes


def rmb_pair(number: int, category: str = "Helpfulness/Chat/Discussion", **changes: Any) -> Record:
    turns = [
        {"role": "user", "content": "Hello", "language": "English"},
        {"role": "assistant", "content": "Yes?", "language": None},
        {"role": "user", "content": f"Question {number}", "language": "English"},
    ]
    record = {
        "pair_uid": f"p{number}",
        "conversation_input": turns,
        "chosen": {"llm_name": "m", "answer": "better"},
        "reject": {"llm_name": "n", "answer": "worse"},
        "category_path": f"Pairwise_set/{category}",
    }
    return record | changes


def rmb_best(number: int, category: str = "Harmlessness/S1", losers: int = 2, **changes: Any) -> Record:
    record = {
        "bon_uid": f"b{number}",
        "conversation_input": [{"role": "user", "content": f"Question {number}"}],
        "bon_best": {"llm_name": "m", "answer": "best"},
        "loser_list": [{"llm_name": "n", "answer": f"loser {k}"} for k in range(losers)],
        "category_path": f"BoN_set/{category}",
    }
    return record | changes


def rm_bench(number: int, domain: str = "chat", **changes: Any) -> Record:
    record = {
        "id": f"{domain}/{number}",
        "prompt": f"Question {number}",
        "chosen": ["right", "right at length", "# right"],
        "rejected": ["wrong", "wrong at length", "# wrong"],
        "domain": domain,
    }
    return record | changes


def judgebench(number: int, label: str = "A>B", source: str = "mmlu-pro-law", **changes: Any) -> Record:
    record = {
        "pair_id": f"j{number}",
        "original_id": "1",
        "source": source,
        "question": f"Question {number}",
        "response_model": "gpt-4o-2024-05-13",
        "response_A": "this",
        "response_B": "that",
        "label": label,
    }
    return record | changes


PUBLISHED: dict[str, tuple[Callable[[int], Record], str]] = {
    "rewardbench": (rewardbench, "rewardbench/data/filtered-00000-of-00001.parquet"),
    "rewardbench2": (rewardbench2, "rewardbench2/data/test-00000-of-00001.parquet"),
    "ppe-preference": (ppe_preference, "ppe-preference/data/test-00000-of-00001.parquet"),
    "ppe-correctness": (ppe_correctness, "ppe-correctness/PPE-GPQA-Best-of-K/data/train-00000-of-00001.parquet"),
    "rmb": (rmb_pair, "rmb/RMB_dataset/Pairwise_set/Helpfulness/Chat/Discussion.json"),
    "rm-bench": (rm_bench, "rm-bench/total_dataset.json"),
    "judgebench": (judgebench, "judgebench/dataset=judgebench,response_model=gpt-4o-2024-05-13.jsonl"),
}
"""Name -> (number -> record, place of its file in a folder of all benchmarks)."""
