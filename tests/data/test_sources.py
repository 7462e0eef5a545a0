"""Files of comparisons: all kinds are read alike, and every record is accounted for, bad ones with their place."""

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from skyrm_jax.comparison import Comparison
from skyrm_jax.data import quarantine as quarantine_module
from skyrm_jax.data.quarantine import Quarantine
from skyrm_jax.data.sources import IDENTICAL, UNDECIDED, read_comparisons, read_located
from skyrm_jax.errors import UserError


def record(i: int) -> dict[str, Any]:
    return {"prompt": f"question {i}", "responses": [f"good {i} 你好", f"bad {i}"], "preferences": [[0, 1]]}


def write(path: Path, values: list[Any]) -> Path:
    lines = "".join(json.dumps(value, ensure_ascii=False) + "\n" for value in values)
    if path.name.endswith(".parquet"):
        pq.write_table(pa.Table.from_pylist(values), path)
    elif path.name.endswith(".gz"):
        path.write_bytes(gzip.compress(lines.encode()))
    elif path.name.endswith(".json"):
        path.write_text(json.dumps(values, indent=2))
    else:
        path.write_text(lines)
    return path


def entries(quarantine: Quarantine) -> list[dict[str, Any]]:
    assert quarantine.path is not None
    return [json.loads(line) for line in quarantine.path.read_text().splitlines()]


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.json", "a.parquet"])
def test_every_kind_of_file_is_read_alike(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name, [record(i) for i in range(5)])
    quarantine = Quarantine(None, 0)
    found = list(read_comparisons([path], "auto", True, quarantine))
    assert [c.id for c in found] == [f"{name}:{i}" for i in range(1, 6)]
    for i, comparison in enumerate(found):
        expected = Comparison.of(**record(i), id=f"{name}:{i + 1}", source=name)
        assert comparison == expected
    assert quarantine.counts == {str(path): {"read": 5}}


def test_message_lists_of_a_parquet_file(tmp_path: Path) -> None:
    chosen = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    rejected = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "b"}]
    path = write(tmp_path / "a.parquet", [{"chosen": chosen, "rejected": rejected, "prompt": None, "source": "s"}])
    (found,) = read_comparisons([path], "auto", True, Quarantine(None, 0))
    assert found == Comparison.of("q", ["a", "b"], chosen=0, id="a.parquet:1", source="s")


def test_json_suffix_on_lines_byte_order_marks_and_blank_lines(tmp_path: Path) -> None:
    lines = ["", json.dumps(record(0)), "  ", json.dumps(record(1))]
    for name, text in [
        ("a.json", "\n".join(lines[1:])),
        ("b.jsonl", "\r\n".join(lines)),
        ("c.json", json.dumps([record(0), record(1)])),
    ]:
        (tmp_path / name).write_bytes(b"\xef\xbb\xbf" + text.encode())
        found = list(read_located([tmp_path / name], "auto", True, Quarantine(None, 0)))
        assert [located.comparison.prompt[0].content for located in found] == ["question 0", "question 1"]
    assert [located.line for located in read_located([tmp_path / "b.jsonl"], "auto", True, Quarantine(None, 0))] == [
        2,
        4,
    ]


def test_bad_lines_go_to_the_quarantine_and_the_rest_is_read(tmp_path: Path) -> None:
    good = json.dumps(record(0)).encode()
    bad = [
        (b'{"prompt": "p", "responses": ["a"', "is not valid JSON"),
        (b'{"prompt": "caf\xe9", "responses": ["a"]}', "is not UTF-8"),
        (b"[1, 2]", "is not an object"),
        (b"null", "is not an object"),
        (b'{"prompt": 3, "responses": ["a", "b"], "chosen": 0}', "is neither text nor a list of messages"),
        (b'{"prompt": "\\ud800", "responses": ["a", "b"], "chosen": 0}', "is not valid Unicode"),
        (b"[" * 100_000, "cannot be read as JSON"),
        (b'{"prompt": "p", "responses": ["a", "a"], "preferences": [[0, 1]]}', "identical responses, one preferred"),
        (b'{"prompt": [{"role": "assistant", "content": "x"}], "responses": ["a"]}', "has no user turn"),
        (
            b'{"prompt": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}], "responses": ["a"]}',
            "ends in an assistant turn",
        ),
        (b"1" * 5000, "cannot be read as JSON"),
    ]
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"\n".join([good, *(line for line, _ in bad), good]) + b"\n")
    quarantine = Quarantine(tmp_path / "out" / "quarantine.jsonl", 0.9)
    found = list(read_located([path], "auto", True, quarantine))
    assert [located.line for located in found] == [1, len(bad) + 2]
    put_aside = entries(quarantine)
    assert [entry["line"] for entry in put_aside] == list(range(2, len(bad) + 2))
    for entry, (line, reason) in zip(put_aside, bad, strict=True):
        assert entry["file"] == str(path)
        assert reason in entry["reason"]
        assert entry["remedy"]
        assert entry["raw"] == line.decode("utf-8", "backslashreplace")
    counts = quarantine.counts[str(path)]
    assert counts["read"] == len(bad) + 2
    # Identical responses are no fault of the file.
    assert counts[IDENTICAL] == 1
    assert (
        sum(n for outcome, n in counts.items() if outcome.startswith(Quarantine.BAD)) == len(bad) - 1 == quarantine.bad
    )


def test_text_that_is_not_utf8_in_a_json_list_spoils_its_record_only(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    text = json.dumps([record(0), record(1) | {"prompt": "CAFE"}, record(2)])
    path.write_bytes(text.encode().replace(b"CAFE", b"caf\xe9"))
    quarantine = Quarantine(tmp_path / "q.jsonl", 0.5)
    assert [located.line for located in read_located([path], "auto", True, quarantine)] == [1, 3]
    (entry,) = entries(quarantine)
    assert (entry["line"], entry["field"]) == (2, "prompt")


def test_identical_and_undecided_records_matter_in_training_only(tmp_path: Path) -> None:
    same = {"prompt": "p", "responses": ["a", "a"], "preferences": [[0, 1]]}
    tie = {"instruction": "i", "output_1": "a", "output_2": "b", "preference": 1.5}
    path = write(tmp_path / "a.jsonl", [record(0), same, tie])
    training, scoring = Quarantine(tmp_path / "t.jsonl", 0.5), Quarantine(tmp_path / "s.jsonl", 0)
    assert len(list(read_comparisons([path], "auto", True, training))) == 1
    assert training.counts[str(path)][UNDECIDED] == 1
    assert [entry["line"] for entry in entries(training)] == [2]
    assert len(list(read_comparisons([path], "auto", False, scoring))) == 3
    assert not (tmp_path / "s.jsonl").exists()


def test_a_form_that_is_named_is_applied_to_every_record(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [record(0)])
    with pytest.raises(UserError, match=r"a\.jsonl:1: chosen: is missing"):
        list(read_comparisons([path], "hh_rlhf", True, Quarantine(None, 0)))
    with pytest.raises(UserError, match="form 'hh' is not known; choose from auto, native"):
        read_comparisons([path], "hh", True, Quarantine(None, 0))


def test_too_many_bad_records_stop_the_run_at_its_end(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [record(i) for i in range(94)] + [{"x": 1}] * 6)
    quarantine = Quarantine(tmp_path / "q.jsonl")
    with pytest.raises(
        UserError, match=r"6 of 100 records are bad, more than max_bad_share = 0\.05 .6 x record: has"
    ) as caught:
        list(read_comparisons([path], "auto", True, quarantine))
    assert str(tmp_path / "q.jsonl") in str(caught.value)
    for option in ("raise --max-bad-share ", "prepare: --max_bad_share", "train: data.max_bad_share"):
        assert option in str(caught.value)
    assert len(entries(quarantine)) == 6
    assert len(list(read_comparisons([path], "auto", True, Quarantine(None, 0.06)))) == 94


def test_too_many_bad_records_stop_the_run_early(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quarantine_module, "EARLY", 50)
    path = write(tmp_path / "a.jsonl", [record(0)] + [{"x": 1}] * 60 + [record(i) for i in range(9000)])
    found = read_comparisons([path], "auto", True, Quarantine(None))
    next(found)
    with pytest.raises(UserError, match="of 50 records are bad"):
        next(found)


def test_a_file_without_one_usable_record_is_an_error_however_small(tmp_path: Path) -> None:
    good = write(tmp_path / "a.jsonl", [record(i) for i in range(100)])
    bad = write(tmp_path / "b.jsonl", [{"x": 1}])
    with pytest.raises(UserError, match=r"b\.jsonl: none of its 1 records can be used"):
        list(read_comparisons([good, bad], "auto", True, Quarantine(None)))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("zzz.parquet", None, "there is no such file; look for its name in"),
        ("datas.jsonl", None, r"there is no such file; did you mean data\.jsonl"),
        ("folder/data.jsonl", None, "there is no such file, nor a folder"),
        ("a.jsonl", b"", "the file is empty"),
        ("a.jsonl", b" \n\n", "there is no record in it"),
        ("a.json", b"[]", "there is no record in it"),
        ("a.jsonl.gz", gzip.compress(b"", mtime=0), "there is no record in it"),
        ("a.json", b'[{"a": 1},', "is not a valid JSON list"),
        ("a.csv", b"a,b", r"is not of a known kind; give one of \.jsonl"),
        ("a.parquet", b"PAR1junkPAR1", "cannot be read as parquet"),
        ("a.jsonl.gz", gzip.compress(json.dumps(record(0)).encode() * 999, mtime=0)[:-9], "is damaged after line 0"),
        ("a.jsonl.gz", b"plain text", "is damaged after line 0"),
        ("empty", None, "is a folder without files of a known kind"),
    ],
)
def test_unusable_files_are_named_with_a_remedy(tmp_path: Path, name: str, content: bytes | None, message: str) -> None:
    write(tmp_path / "data.jsonl", [record(0)])
    (tmp_path / "empty").mkdir()
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        list(read_comparisons([path], "auto", True, Quarantine(None)))
    assert str(path) in str(caught.value)


def test_all_files_are_looked_at_before_the_first_is_read(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [record(0)])
    with pytest.raises(UserError, match=r"b\.jsonl"):
        read_comparisons([path, tmp_path / "b.jsonl"], "auto", True, Quarantine(None))
    with pytest.raises(UserError, match="no sources"):
        read_comparisons([], "auto", True, Quarantine(None))


def test_a_quarantine_starts_anew(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [record(0), {"x": 1}])
    for _ in range(2):
        quarantine = Quarantine(tmp_path / "q.jsonl", 1)
        list(read_comparisons([path], "auto", True, quarantine))
        assert len(entries(quarantine)) == 1


def test_real_files_are_read_whole(shared: Path) -> None:
    folder = shared / "data/preferences"
    expected = {  # read, kept, undecided, bad
        "hh-rlhf/*.jsonl.gz": (2312, 2312, 0, 0),
        "alpaca_eval/*.json": (4025, 3990, 35, 0),
        "dpo-demo/*.json": (600, 600, 0, 0),
        "llmbar/*.json": (466, 465, 0, 0),  # and one pair of identical responses
        "pandalm/*.json": (999, 914, 85, 0),
    }
    for pattern, figures in expected.items():
        quarantine = Quarantine(None, 0.01)
        kept = len(list(read_comparisons(sorted(folder.glob(pattern)), "auto", True, quarantine)))
        undecided = sum(counts[UNDECIDED] for counts in quarantine.counts.values())
        assert (quarantine.records, kept, undecided, quarantine.bad) == figures
