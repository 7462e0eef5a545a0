"""What an evaluation scores: which data is the same, and what names its comparisons have."""

import json
from pathlib import Path
from typing import Any

from skyrm_jax.data.quarantine import Quarantine
from skyrm_jax.eval.sets import BenchmarkSet, Stored, held_out_set
from skyrm_jax.prepare import PrepareOptions, prepare


def records(text: str) -> list[dict[str, Any]]:
    return [{"prompt": f"{i}", "responses": [f"{text} {i}", "b"], "chosen": 0, "id": f"r{i}"} for i in range(4)]


def written(path: Path, some: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(one) + "\n" for one in some))
    return str(path)


def test_stores_of_other_text_are_other_data(tmp_path: Path, byte_tokenizer: Path) -> None:
    def store(name: str, text: str) -> Stored:
        data, made = written(tmp_path / "data.jsonl", records(text)), str(tmp_path / name)
        prepare(PrepareOptions([data], made, str(byte_tokenizer), max_tokens=128, held_out=2, training=False))
        return Stored(made)

    one, same, other = store("one", "a"), store("same", "a"), store("other", "z")
    assert one.comparisons == same.comparisons == other.comparisons  # but for their text
    assert one.facts["content_sha256"] == same.facts["content_sha256"] != other.facts["content_sha256"]


def test_which_comparisons_have_ids(tmp_path: Path) -> None:
    def files(some: list[dict[str, Any]]) -> bool:
        return held_out_set([written(tmp_path / "h.jsonl", some)], "auto", Quarantine()).has_ids

    named = records("a")
    assert files(named)
    assert not files([*named, {**named[0], "id": ""}])  # called by file and line
    assert not files([*named, named[0]])  # called by number
    rows = [
        {"id": f"tied:{i}", "prompt": "?", "chosen": ["a", "b"], "rejected": ["c"], "subset": "Ties"} for i in range(2)
    ]
    written(tmp_path / "test.jsonl", rows)
    assert BenchmarkSet("rewardbench2", tmp_path / "test.jsonl").has_ids
