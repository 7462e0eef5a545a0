"""Every benchmark's published files: where they are looked for, in which forms, and what is wrong with bad ones."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import published_records as published
import pytest
from published_records import PUBLISHED, write

from skyrm_jax.comparison import Comparison
from skyrm_jax.data.files import HubDataset
from skyrm_jax.errors import UserError
from skyrm_jax.eval.benchmarks import BENCHMARKS, select

NAMES = list(BENCHMARKS)
every = pytest.mark.parametrize("name", NAMES)


def records(name: str, count: int = 2) -> list[dict[str, Any]]:
    return [PUBLISHED[name][0](number) for number in range(count)]


def all_benchmarks(folder: Path, *names: str) -> Path:
    for name in names or NAMES:
        write(folder / PUBLISHED[name][1], records(name))
    return folder


def loaded(name: str, data: Path) -> list[Comparison]:
    return BENCHMARKS[name].load(data)


def refused(name: str, data: Path) -> str:
    with pytest.raises(UserError) as error:
        loaded(name, data)
    return str(error.value)


@every
def test_parquet_json_and_jsonl_say_the_same(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "PPE-GPQA-Best-of-K"  # which says, for that benchmark, which of five it is
    forms = [loaded(name, write(folder / f"x.{kind}", records(name))) for kind in ("parquet", "json", "jsonl")]
    assert forms[0] == forms[1] == forms[2]
    assert len({c.id for c in forms[0]}) == 2
    assert all(c.preferences for c in forms[0])


def test_a_folder_of_all_is_told_apart_and_each_reads_its_own(tmp_path: Path) -> None:
    folder = all_benchmarks(tmp_path)
    assert select(["all"], folder) == (NAMES, [])
    for name in NAMES:
        assert len(loaded(name, folder)) == 2
        alone = folder / PUBLISHED[name][1]
        assert loaded(name, folder) == loaded(name, alone) == loaded(name, folder / name)


@every
def test_the_folder_of_one_holds_no_other(tmp_path: Path, name: str) -> None:
    own = all_benchmarks(tmp_path) / Path(PUBLISHED[name][1]).parts[0]
    assert select(["all"], own) == ([name], [other for other in NAMES if other != name])


@every
def test_what_is_absent_is_not_made_of_the_others(tmp_path: Path, name: str) -> None:
    others = [other for other in NAMES if other != name]
    folder = all_benchmarks(tmp_path, *others)
    assert select(["all"], folder) == (others, [name])
    assert select(["judgebench,rmb", "judgebench"], folder) == (["judgebench", "rmb"], [])
    assert f"no {BENCHMARKS[name].title} file here" in refused(name, folder)


def test_names_above_the_data_do_not_matter(tmp_path: Path) -> None:
    # Patterns such as test* and filtered* are of file names, not of folders that somebody's data lies in.
    # Nor do those of paths: GPQA says what a file is of from its own folder only.
    for above in ("test/filtered/train", "GPQA/mine", "MATH", "Pairwise_set/LLMBar/Natural"):
        folder = all_benchmarks(tmp_path / above, "judgebench")
        write(folder / "notes.json", [{"note": 1}])
        write(folder / "dataset.json", [{"note": 1}])
        assert select(["all"], folder)[0] == ["judgebench"]


def test_part_of_a_benchmark_in_its_own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, place in (("ppe-correctness", "PPE-GPQA-Best-of-K"), ("rmb", "RMB_dataset/Pairwise_set")):
        folder = all_benchmarks(tmp_path, name) / name / place
        assert len(loaded(name, folder)) == 2
    monkeypatch.chdir(folder)
    assert len(loaded("rmb", Path())) == 2


def test_names_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"there is no 'judge': choose from all, rewardbench, .*judgebench"):
        select(["judge"], tmp_path)
    for nothing in ("", ","):
        with pytest.raises(UserError, match="--benchmarks: names none: choose from all, rewardbench, "):
            select([nothing], tmp_path)
    assert select([], tmp_path) == ([], [])
    with pytest.raises(UserError, match="holds no benchmark: make a folder for each, named rewardbench, rewardbench2"):
        select(["all"], tmp_path)
    with pytest.raises(UserError, match="absent: no such file or folder"):
        select(["all"], tmp_path / "absent")
    with pytest.raises(UserError, match="absent: no such file or folder"):
        loaded("rmb", tmp_path / "absent")


@every
def test_the_file_of_another_benchmark_is_refused(tmp_path: Path, name: str) -> None:
    for other in NAMES:
        if other != name:
            path = write(tmp_path / f"{other}.jsonl", records(other))
            message = refused(name, path)
            assert message.startswith(f"{path}, line 1: ")
            assert BENCHMARKS[name].title in message


@every
def test_missing_and_mistyped_fields_are_named(tmp_path: Path, name: str) -> None:
    for field in BENCHMARKS[name].published[0].fields:
        good, bad = records(name)
        path = tmp_path / "PPE-GPQA.jsonl"
        write(path, [good, {key: value for key, value in bad.items() if key != field}])
        assert f"{path}, line 2: this is no" in (message := refused(name, path))
        assert f"it lacks {field}: give the files of" in message
        for value in (None, 1.5, True, {"a": 1}):
            write(path, [good, bad | {field: value}])
            assert f"{path}, line 2: field {field} of {BENCHMARKS[name].title} must be " in (
                message := refused(name, path)
            )
            assert f", not {type(value).__name__}: give the files of" in message


@every
def test_records_that_are_none_and_ids_that_occur_twice(tmp_path: Path, name: str) -> None:
    good, second = records(name)
    path = tmp_path / "PPE-GPQA.jsonl"
    assert "line 2: this is no" in refused(name, write(path, [good, [1, 2]]))
    message = refused(name, write(path, [good, second, good]))
    assert f"{path}, line 3: id {loaded(name, write(path, [good]))[0].id} also stands in {path}, line 1" in message
    path.write_text(json.dumps(good) + "\n\n{\n")
    assert f"{path}, line 3: record: is not valid JSON" in refused(name, path)
    path.write_bytes(json.dumps(good).encode() + b"\n\xff{}\n")
    assert f"{path}, line 2: record: is not UTF-8" in refused(name, path)


@pytest.mark.parametrize("content", ["", "\n\n", "[]"])
@every
def test_empty_files(tmp_path: Path, name: str, content: str) -> None:
    path = tmp_path / "PPE-GPQA.json"
    path.write_text(content)
    assert f"{path}: the file is empty" in refused(name, path)


@every
def test_text_that_no_tokenizer_takes(tmp_path: Path, name: str) -> None:
    (record,) = records(name, 1)
    spoilt = json.loads(json.dumps(record).replace("Question 0", "\\ud800"))
    path = write(tmp_path / "PPE-GPQA.jsonl", [spoilt])
    assert f"{path}, line 1: prompt" in (message := refused(name, path))
    assert "is not valid Unicode (lone surrogate at character 0)" in message


@every
def test_rewards_that_are_missing_or_no_numbers(tmp_path: Path, name: str) -> None:
    comparisons = loaded(name, all_benchmarks(tmp_path, name))
    good = [np.arange(len(c.responses), dtype=np.float64) for c in comparisons]
    score = BENCHMARKS[name].score
    score(comparisons, good)
    second = f"comparison 1 \\(id '{comparisons[1].id}'\\) has "
    count = len(comparisons[1].responses)
    for bad in (np.nan, np.inf):
        with pytest.raises(UserError, match=f"{second}a reward that is not a finite number"):
            score(comparisons, [good[0], np.where(good[1] == 1, bad, good[1])])
    with pytest.raises(UserError, match=f"{second}{count} responses but rewards of shape \\({count - 1},\\)"):
        score(comparisons, [good[0], good[1][1:]])
    with pytest.raises(UserError, match="1 lists of rewards for 2 comparisons"):
        score(comparisons, good[:1])
    with pytest.raises(UserError, match=r"comparison 1 has the id .* of comparison 0"):
        score([comparisons[0]] * 2, [good[0]] * 2)


@every
def test_a_part_is_called_one_and_has_no_headline_value(tmp_path: Path, name: str) -> None:
    comparisons = loaded(name, all_benchmarks(tmp_path, name))
    result = BENCHMARKS[name].score(comparisons, [-np.arange(len(c.responses), dtype=float) for c in comparisons])
    assert result.partial
    assert any(" of " in line and line.split(" of ")[0].endswith(": 2") for line in result.partial)
    assert result.headline is not None
    assert np.isfinite(result.figure(result.headline).value)
    assert result.headline_value is None
    result.partial.clear()
    assert result.headline_value == result.figure(result.headline).value


def test_a_clone_of_judgebench_holds_results_beside_the_data(tmp_path: Path) -> None:
    folder = tmp_path / "JudgeBench"
    data = write(folder / "data/dataset=judgebench,response_model=m.jsonl", records("judgebench"))
    judged = "outputs/dataset=judgebench,response_model=m,judge_name=reward_model,judge_model=x.jsonl"
    write(folder / judged, [one | {"judgments": []} for one in records("judgebench")])
    assert loaded("judgebench", tmp_path) == loaded("judgebench", folder) == loaded("judgebench", data)
    assert loaded("judgebench", folder / judged) == loaded("judgebench", data)


def test_a_clone_of_rm_bench_holds_every_record_twice(tmp_path: Path) -> None:
    folder = tmp_path / "RM-Bench" / "data"
    whole = write(folder / "total_dataset.json", [published.rm_bench(7), published.rm_bench(8, "math")])
    part = published.rm_bench(7, id=7)
    del part["domain"]
    write(folder / "chat_filtered.json", [part])
    assert loaded("rm-bench", tmp_path) == loaded("rm-bench", whole)
    whole.unlink()
    assert [c.id for c in loaded("rm-bench", tmp_path)] == ["chat/7"]


def test_a_clone_of_llmbar_holds_other_sets(tmp_path: Path) -> None:
    pair = {"input": "Q", "output_1": "a", "output_2": "b", "label": 2}
    sets = tmp_path / "LLMBar" / "Dataset"
    write(sets / "LLMBar/Natural/dataset.json", [pair])
    write(sets / "LLMBar/Adversarial/GPTInst/dataset.json", [pair])
    write(sets / "CaseStudy/Base_9/dataset.json", [pair])
    write(sets / "LLMBar/Natural/evaluators/GPT-4/CoT/result.json", [{"winner": 1}])
    assert [c.id for c in loaded("rewardbench", tmp_path)] == ["llmbar-adver-GPTInst/0", "llmbar-natural/0"]
    write(tmp_path / PUBLISHED["rewardbench"][1], records("rewardbench"))  # the whole goes before the part
    assert [c.category for c in loaded("rewardbench", tmp_path)] == ["hep-cpp"] * 2


def test_the_five_data_sets_of_ppe_may_lie_beside_the_other_benchmarks(tmp_path: Path) -> None:
    for name in ("GPQA", "MATH"):
        write(tmp_path / f"PPE-{name}-Best-of-K/data/train-00000-of-00001.parquet", records("ppe-correctness"))
    assert [c.category for c in loaded("ppe-correctness", tmp_path)] == ["MATH", "MATH", "GPQA", "GPQA"]
    assert select(["all"], tmp_path)[0] == ["ppe-correctness"]


def test_on_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, str]] = []

    def rows(dataset: HubDataset) -> Iterator[Any]:
        asked.append((dataset.id, dataset.split))
        yield from records(next(name for name in NAMES if BENCHMARKS[name].title == title))

    monkeypatch.setattr(HubDataset, "records", rows)
    assert select(["all"], None) == ([name for name in NAMES if name != "rmb"], ["rmb"])
    for name, benchmark in BENCHMARKS.items():
        title = benchmark.title
        if name == "rmb":
            with pytest.raises(
                UserError, match=r"RMB is not on the Hub: give --data, a folder with the files of github"
            ):
                benchmark.load(None)
        elif name == "judgebench":
            with pytest.raises(UserError, match=r"id j0 also stands in hub://ScalerLab/JudgeBench\?split=gpt, line 1"):
                benchmark.load(None)
        else:
            assert len(benchmark.load(None)) == (10 if name == "ppe-correctness" else 2)
    five = [f"lmarena-ai/PPE-{name}-Best-of-K" for name in ("MMLU-Pro", "MATH", "GPQA", "MBPP-Plus", "IFEval")]
    assert asked == [
        ("allenai/reward-bench", "filtered"),
        ("allenai/reward-bench-2", "test"),
        ("lmarena-ai/PPE-Human-Preference-V1", "test"),
        *((name, "train") for name in five),
        ("THU-KEG/RM-Bench", "train"),
        ("ScalerLab/JudgeBench", "gpt"),
        ("ScalerLab/JudgeBench", "claude"),
    ]
