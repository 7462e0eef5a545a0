"""First turns are compared with those of the benchmarks and held-out files, which must all be read."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skyrm_jax.comparison import Message
from skyrm_jax.curate.decontaminate import (
    benchmark_sets,
    contaminated,
    first_turn,
    first_turns,
    held_out_sets,
    sets_of,
    write_index,
)
from skyrm_jax.curate.engine import Engine, sorted_table, write_table
from skyrm_jax.curate.ngrams import NgramIndex
from skyrm_jax.curate.pair import MESSAGES
from skyrm_jax.data.files import expand
from skyrm_jax.errors import UserError

turns = st.lists(st.builds(Message, st.sampled_from(["system", "user", "assistant"]), st.text(max_size=3)), max_size=4)


@given(st.lists(turns, max_size=6), st.integers(0, 3))
def test_first_turns_of_a_column_are_those_of_its_rows(prompts: list[list[Message]], start: int) -> None:
    column = pa.array([[{"role": m.role, "content": m.content} for m in one] for one in prompts], MESSAGES)
    assert first_turns(column.slice(start)) == [first_turn(one) for one in prompts[start:]]


def test_the_first_turn_is_the_first_users() -> None:
    prompt = [Message("system", "s"), Message("user", "one"), Message("assistant", "a"), Message("user", "two")]
    assert first_turn(prompt) == "one" and first_turn(prompt[:1]) == ""


def lines(path: Path, records: list[Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def judgebench(number: int, question: str) -> dict[str, str]:
    names = {"pair_id": f"{number}", "source": "mmlu-pro-x", "response_model": "gpt-4o-2024-05-13", "label": "A>B"}
    return {**names, "question": question, "response_A": "yes", "response_B": "no"}


def test_benchmarks_in_a_folder_are_read_and_the_others_named(tmp_path: Path) -> None:
    file = tmp_path / "judgebench" / "dataset=judgebench,response_model=gpt-4o-2024-05-13.jsonl"
    lines(file, [judgebench(0, "Why?"), judgebench(1, "Why?"), judgebench(2, "How?")])
    sets, missing = benchmark_sets(tmp_path)
    assert sets == {"judgebench": ["Why?", "How?"]}
    assert missing == ["rewardbench", "rewardbench2", "ppe-preference", "ppe-correctness", "rmb", "rm-bench"]
    told = dict(sets_of(NgramIndex.of(sets, 13), missing))
    assert told["judgebench"] == {"found": True, "prompts": 2, "ngrams": 0, "short_prompts": 2}
    assert not told["rmb"]["found"] and list(told) == ["judgebench", *missing]
    lines(file, [judgebench(0, "Why?") | {"label": "?"}])
    with pytest.raises(UserError, match="label"):
        benchmark_sets(tmp_path)
    with pytest.raises(UserError, match="holds no benchmark"):
        benchmark_sets(lines(tmp_path / "none" / "x", []).parent)


def test_held_out_files_are_sets_and_must_be_in_order(tmp_path: Path) -> None:
    one = lines(
        tmp_path / "a.jsonl", [{"prompt": "p", "responses": ["x"]}, {"prompt": "q", "chosen": "x", "rejected": "y"}]
    )
    other = lines(tmp_path / "b.jsonl", [{"prompt": "p", "responses": ["x"]}] * 2)
    assert held_out_sets(expand([str(tmp_path)]), "auto") == {str(one): ["p", "q"], str(other): ["p"]}
    lines(other, [{"prompt": "p", "responses": ["x"]}, {"prompt": 3, "responses": ["x"]}])
    with pytest.raises(UserError, match=r"b\.jsonl:2: prompt"):
        held_out_sets(expand([str(tmp_path)]), "auto")


def test_prompts_that_share_enough_are_found_with_the_evidence(tmp_path: Path) -> None:
    Engine().start()
    index = NgramIndex.of({"bench": ["the cat sat on the mat today", "今天天气很好"], "mine": ["sat on the mat"]}, 3)
    write_index(tmp_path / "index", index)
    prompts = {
        "a": "A cat sat on the mat",
        "b": "the dog sat on a mat",
        "c": "我说今天天气不好",
        "d": "the cat sat!",
    }
    paths = []
    for number, keys in enumerate(("aab", "cda")):
        columns = {"prompt_key": list(keys), "prompt": [[{"role": "user", "content": prompts[key]}] for key in keys]}
        schema = pa.schema([("prompt_key", pa.string()), ("prompt", MESSAGES)])
        write_table(tmp_path / f"{number}.parquet", pa.table(columns, schema))
        paths.append(tmp_path / f"{number}.parquet")

    def found(overlap: int) -> dict[str, Any]:
        table = sorted_table(contaminated(paths, tmp_path / "index", overlap, processes=False), "prompt_key")
        return {row["prompt_key"]: json.loads(row["sets"]) for row in table.to_pylist()}

    a = [
        {"set": "bench", "ngram": "cat sat on", "shared": 3},
        {"set": "mine", "ngram": "sat on the", "shared": 2},
    ]
    c = [{"set": "bench", "ngram": "今 天 天", "shared": 2}]
    assert found(1) == {"a": a, "c": c, "d": [{"set": "bench", "ngram": "the cat sat", "shared": 1}]}
    assert found(2) == {"a": a, "c": c}
    assert found(3) == {"a": a[:1]}
    write_index(tmp_path / "index", NgramIndex.of({"bench": ["the dog sat"]}, 3))  # the same file, another index
    assert list(found(1)) == ["b"]
