"""JudgeBench: the published figures from the published rewards, and every way to be wrong about a tie."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from skyrm_jax.errors import UserError
from skyrm_jax.eval import judgebench
from skyrm_jax.eval.judgebench import MACRO, MICRO
from skyrm_jax.eval.rewards import RewardFile

GPT, CLAUDE = "gpt-4o-2024-05-13", "claude-3-5-sonnet-20240620"
PUBLISHED = {
    "Skywork_Skywork-Reward-Llama-3.1-8B": ([59.09, 64.29, 76.79, 50.00, 62.29], 1),
    "internlm_internlm2-7b-reward": ([56.49, 61.22, 71.43, 50.00, 59.43], 0),
}


def record(pair: str, label: str = "A>B", source: str = "mmlu-pro-law", **changes: Any) -> dict[str, Any]:
    return {
        "pair_id": pair,
        "original_id": 1,
        "source": source,
        "question": "Which?",
        "response_model": GPT,
        "response_A": "this",
        "response_B": "that",
        "label": label,
    } | changes


def write(path: Path, records: list[Any]) -> Path:
    path.write_text("".join(json.dumps(r) + "\n" for r in records))
    return path


def name(split: str) -> str:
    return f"dataset=judgebench,response_model={split}.jsonl"


@pytest.mark.parametrize("model", PUBLISHED)
def test_published_rewards_give_the_published_figures(shared: Path, model: str) -> None:
    folder = shared / "data/published/judgebench"
    dump = folder / f"dataset=judgebench,response_model={GPT},judge_name=reward_model,judge_model={model}.jsonl"
    comparisons = judgebench.load(shared / "data/benchmarks/judgebench" / name(GPT))
    result = judgebench.score(comparisons, RewardFile(dump).of("judgebench", comparisons))
    figures, (expected, ties) = result.sections[GPT], PUBLISHED[model]
    names = ["Knowledge", "Reasoning", "Math", "Coding", MICRO]
    assert [round(figures[n].value, 2) for n in names] == expected
    assert figures[MICRO].ties == ties
    assert figures[MICRO].total == 350
    assert figures[MICRO].correct == sum(figures[n].correct or 0 for n in names[:4])
    assert figures[MACRO].value == pytest.approx(np.mean([figures[n].value for n in names[:4]]), abs=1e-12)
    assert not result.partial
    assert all(f.low <= f.value <= f.high for f in figures.values())


def test_the_published_files_load_completely(shared: Path) -> None:
    comparisons = judgebench.load(shared / "data/benchmarks/judgebench")
    counts = Counter((c.source, c.category) for c in comparisons)
    assert len(comparisons) == 350 + 270
    assert {split: {c: counts[split, c] for c in judgebench.CATEGORIES} for split in (GPT, CLAUDE)} == {
        GPT: {"Knowledge": 154, "Reasoning": 98, "Math": 56, "Coding": 42},
        CLAUDE: {"Knowledge": 154, "Reasoning": 51, "Math": 34, "Coding": 31},
    }
    winners = Counter((c.source, c.preferences[0].winner) for c in comparisons)
    assert winners == {(GPT, 0): 193, (GPT, 1): 157, (CLAUDE, 0): 143, (CLAUDE, 1): 127}
    assert sum(c.responses[0] == c.responses[1] for c in comparisons) == 1


def test_responses_keep_their_order_and_the_label_decides(tmp_path: Path) -> None:
    first, second = judgebench.load(write(tmp_path / "x.jsonl", [record("1"), record("2", "B>A")]))
    for comparison in (first, second):
        assert [r[0].content for r in comparison.responses] == ["this", "that"]
        assert comparison.prompt[0].content == "Which?"
    assert (first.preferences[0].winner, second.preferences[0].winner) == (0, 1)


def test_a_tie_is_wrong_whatever_the_label_and_counted(tmp_path: Path) -> None:
    # Half credit would give 75, the single-game rule (a tie reads "B>A") 75, and ties as wins 100.
    comparisons = judgebench.load(
        write(tmp_path / "x.jsonl", [record("1"), record("2", "B>A"), record("3", "B>A"), record("4")])
    )
    rewards = [np.array(r, np.float32) for r in ([1, 1], [2, 2], [0, 1], [1, 0])]
    figure = judgebench.score(comparisons, rewards).sections[GPT][MICRO]
    assert (figure.value, figure.correct, figure.ties, figure.total) == (50.0, 2, 2, 4)


def test_micro_and_macro_differ_and_a_part_is_called_a_part(tmp_path: Path) -> None:
    sources = ["mmlu-pro-law", "mmlu-pro-math", "mmlu-pro-x", "livebench-math"]
    comparisons = judgebench.load(
        write(tmp_path / "x.jsonl", [record(str(i), source=s) for i, s in enumerate(sources)])
    )
    rewards = [np.array([a, 0.0]) for a in (1.0, 1.0, 1.0, -1.0)]
    result = judgebench.score(comparisons, rewards)
    assert result.sections[GPT][MICRO].value == 75.0
    assert result.sections[GPT][MACRO].value == 50.0
    assert result.headline == (GPT, MACRO)
    assert f"{GPT}: 0 of 98 Reasoning pairs" in result.partial
    assert f"{GPT}: 3 of 154 Knowledge pairs" in result.partial
    assert len(result.partial) == 4


@pytest.mark.parametrize(
    ("records", "words"),
    [
        ([record("1"), {k: v for k, v in record("2").items() if k != "label"}], ["line 2", "label"]),
        ([{"prompt": "x", "chosen": "a", "rejected": "b"}], ["no JudgeBench record", "pair_id"]),
        ([[1, 2]], ["no JudgeBench record"]),
        ([record("1"), record("2"), record("1")], ["line 3", "pair_id 1", "line 1"]),
        ([record("1", label="A=B")], ["line 1", "label", "A=B"]),
        ([record("1", source="gsm8k")], ["line 1", "source", "gsm8k"]),
        ([record("1", response_A=None)], ["line 1", "response_A", "NoneType"]),
        ([record("1", question="\ud800")], ["line 1", "prompt", "Unicode"]),
        ([], ["empty"]),
    ],
)
def test_bad_files_are_refused_by_name(tmp_path: Path, records: list[Any], words: list[str]) -> None:
    path = write(tmp_path / "bad.jsonl", records)
    with pytest.raises(UserError) as error:
        judgebench.load(path)
    for word in [str(path), *words]:
        assert word in str(error.value)


def test_bytes_that_are_not_json_and_folders_without_files(tmp_path: Path) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_bytes(json.dumps(record("1")).encode() + b"\n\xff\xfe{}\n")
    with pytest.raises(UserError, match="line 2: not JSON in UTF-8"):
        judgebench.load(path)
    with pytest.raises(UserError, match="no JudgeBench file"):
        judgebench.load(tmp_path)


def test_the_same_pair_in_two_files_is_refused(tmp_path: Path) -> None:
    write(tmp_path / name(GPT), [record("1")])
    write(tmp_path / name(CLAUDE), [record("1", response_model=CLAUDE)])
    with pytest.raises(UserError, match="pair_id 1 also stands in"):
        judgebench.load(tmp_path)


@pytest.mark.parametrize(
    ("rewards", "words"),
    [
        ([[1.0, 0.0]], "1 lists of rewards for 2"),
        ([[1.0, 0.0], [1.0]], r"\(id '2'\) has 2 responses but rewards of shape \(1,\)"),
        ([[1.0, 0.0], [np.nan, 0.0]], r"\(id '2'\) has a reward that is not a finite"),
        ([[1.0, 0.0], [np.inf, 0.0]], r"\(id '2'\) has a reward that is not a finite"),
    ],
)
def test_missing_and_broken_rewards_are_refused(tmp_path: Path, rewards: list[list[float]], words: str) -> None:
    comparisons = judgebench.load(write(tmp_path / "x.jsonl", [record("1"), record("2")]))
    with pytest.raises(UserError, match=words):
        judgebench.score(comparisons, [np.array(r) for r in rewards])
    with pytest.raises(UserError, match="has the id '1' of comparison 0"):
        judgebench.score([comparisons[0]] * 2, [np.array([1.0, 0.0])] * 2)


def test_a_dump_whose_orders_disagree_is_refused() -> None:
    def judged(first: list[float], second: list[float]) -> dict[str, Any]:
        return {"judgments": [{"judgment": {"scores": first}}, {"judgment": {"scores": second}}]}

    assert judgebench.published_rewards(judged([1.0, 2.0], [2.5, 1.0]), "here") == [1.0, 2.0]
    with pytest.raises(UserError, match="here: the two orders disagree"):
        judgebench.published_rewards(judged([1.0, 2.0], [1.0, 2.0]), "here")
    with pytest.raises(UserError, match="here: `judgments` does not hold"):
        judgebench.published_rewards(judged([1.0], [2.0, 1.0]), "here")
