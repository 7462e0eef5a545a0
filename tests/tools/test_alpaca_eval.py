"""The alpaca_eval experiment: judgements of a prompt become one comparison, and the rules are counted right."""

import json
from pathlib import Path
from typing import Any

import alpaca_eval
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from skyrm_jax.errors import UserError


def judgement(prompt: int, reference: str, answer: str, preference: Any) -> dict[str, Any]:
    return {
        "instruction": f"question {prompt}", "output_1": reference, "output_2": answer, "preference": preference,
        "generator_1": "reference", "generator_2": "model",
    }  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    files = {
        # The reference is right and longer; right and shorter.
        "a": [judgement(0, "the longer one", "short", 1), judgement(1, "short", "a long answer", 1.2)],
        # The other is right and longer; as long as the reference; undecided twice; no record.
        "b": [
            judgement(0, "the longer one", "the longest of all of them", 2),
            judgement(1, "short", "equal", 1.9),
            judgement(2, "x", "y", 1.5),
            judgement(3, "x", "x", 0),
            {"instruction": "question 4", "output_1": "x", "output_2": "y"},
            *[judgement(5, "x", "y", 1.5)] * 20,
        ],
    }
    for name, records in files.items():
        (tmp_path / f"{name}__annotations.json").write_text(json.dumps(records))
    return tmp_path


def test_merged_and_compared(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    merged = folder / "merged.jsonl"
    alpaca_eval.main(["merge", str(folder), "--out", str(merged)])
    assert "27 judgements: 4 of 2 prompts kept, 22 undecided (tie or no label), 1 bad" in capsys.readouterr().out
    assert "question 4" in Path(f"{merged}.quarantine.jsonl").read_text()
    records = [json.loads(line) for line in merged.read_text().splitlines()]
    texts = [[response[-1]["content"] if isinstance(response, list) else response for response in r["responses"]]
             for r in records]  # fmt: skip
    assert texts == [["the longer one", "short", "the longest of all of them"], ["short", "a long answer", "equal"]]

    # Right on both pairs of the first prompt, a tie and a wrong one on the second's.
    rewards = {"id": [r["id"] for r in records], "rewards": [[1.0, 0.0, 2.0], [1.0, 1.0, 0.5]]}
    pq.write_table(pa.table(rewards), folder / "rewards.parquet")
    found = ["--rewards", str(folder / "rewards.parquet"), "--json", str(folder / "out.json")]
    alpaca_eval.main(["compare", str(folder), "--merged", str(merged), *found])
    assert "4 held-out pairs of 2 prompts, 1 ties of the model" in capsys.readouterr().out
    result = json.loads((folder / "out.json").read_text())
    expected = {"model": 50, "longer wins": 62.5, "reference wins": 50, "model - longer wins": -12.5}
    assert {name: result[name]["value"] for name in expected} == expected
    assert result["model"]["low"] == 0 and result["model"]["high"] == 100


def test_what_does_not_fit_is_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere: holds no \*__annotations.json"):
        alpaca_eval.main(["merge", str(tmp_path / "nowhere"), "--out", str(tmp_path / "out")])
    (folder / "merged.jsonl").write_text("")
    pq.write_table(pa.table({"id": ["other"], "rewards": [[1.0, 2.0]]}), folder / "rewards.parquet")
    with pytest.raises(UserError, match="other is in neither"):
        alpaca_eval.main(
            [
                "compare",
                str(folder),
                "--merged",
                str(folder / "merged.jsonl"),
                "--rewards",
                str(folder / "rewards.parquet"),
            ]
        )
