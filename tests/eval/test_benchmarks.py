"""The registry: names, and where a benchmark's files are looked for."""

import json
from pathlib import Path

import pytest

from skyrm_jax.errors import UserError
from skyrm_jax.eval import benchmarks

RECORD = {
    "pair_id": "1",
    "source": "livecodebench",
    "question": "?",
    "response_model": "m",
    "response_A": "a",
    "response_B": "b",
    "label": "A>B",
}


def test_names() -> None:
    assert benchmarks.select(["all"]) == list(benchmarks.BENCHMARKS)
    assert benchmarks.select(["judgebench,judgebench", "judgebench"]) == ["judgebench"]
    with pytest.raises(UserError, match="no 'judge': choose from all, judgebench"):
        benchmarks.select(["judge"])


def test_data_is_a_folder_of_benchmarks_or_one_or_a_file(tmp_path: Path) -> None:
    folder = tmp_path / "all" / "judgebench"
    folder.mkdir(parents=True)
    file = folder / "dataset=judgebench,response_model=m.jsonl"
    file.write_text(json.dumps(RECORD) + "\n")
    for data in (tmp_path / "all", folder, file):
        assert [c.id for c in benchmarks.load("judgebench", data)] == ["1"]
    with pytest.raises(UserError, match="absent: no such file or folder"):
        benchmarks.load("judgebench", tmp_path / "absent")
