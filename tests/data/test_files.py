"""What a source names: files, globs, folders, URLs and Hub data sets, and how each is read."""

import gzip
import json
from pathlib import Path
from typing import Any

import fsspec
import gcsfs
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fake_gcs import FakeGcs

from skyrm_jax.data.files import HubDataset, SourceFile, expand
from skyrm_jax.data.quarantine import Quarantine
from skyrm_jax.data.readers import chunks
from skyrm_jax.data.sources import read_comparisons
from skyrm_jax.errors import UserError

LINE = json.dumps({"prompt": "q", "chosen": "a", "rejected": "b"}) + "\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "data" / "deep").mkdir(parents=True)
    for name in ("data/b.jsonl", "data/a.jsonl", "data/deep/c.jsonl", "data/[x].jsonl"):
        (tmp_path / name).write_text(LINE)
    (tmp_path / "data" / "notes.txt").write_text("no data")
    return tmp_path


def labels(sources: list[str], root: Path | None = None) -> list[str]:
    return [source.label for source in expand(sources, root)]


def test_globs_and_folders_name_their_files_in_order(folder: Path) -> None:
    assert labels(["data/[ab].jsonl"], folder) == ["data/a.jsonl", "data/b.jsonl"]
    assert labels(["data/**/*.jsonl"], folder) == [
        "data/[x].jsonl", "data/a.jsonl", "data/b.jsonl", "data/deep/c.jsonl",
    ]  # fmt: skip
    assert labels(["data"], folder) == labels(["data/**/*.jsonl"], folder)
    assert labels(["data/deep", "data/a.jsonl"], folder) == ["data/deep/c.jsonl", "data/a.jsonl"]
    # A name with brackets that is there is no glob.
    assert labels(["data/[x].jsonl"], folder) == ["data/[x].jsonl"]
    assert labels([str(folder / "data" / "*.jsonl")])[1] == str(folder / "data" / "a.jsonl")
    given = {source.given for source in expand(["data"], folder)}
    assert given == {"data"}


def test_stores_and_hidden_folders_are_no_sources(folder: Path) -> None:
    (folder / ".home" / "data" / ".cache").mkdir(parents=True)
    for name in ("x.jsonl", ".cache/y.jsonl", ".z.jsonl"):
        (folder / ".home" / "data" / name).write_text(LINE)
    assert labels([".home/data"], folder) == [".home/data/x.jsonl"]
    (folder / "data" / "store").mkdir()
    for name in ("store.json", "quarantine.jsonl"):
        (folder / "data" / "store" / name).write_text("{}")
    assert labels(["data"], folder) == ["data/[x].jsonl", "data/a.jsonl", "data/b.jsonl", "data/deep/c.jsonl"]


def test_other_file_systems_are_read_alike() -> None:
    memory = fsspec.filesystem("memory")
    for name in ("one.jsonl", "two.jsonl"):
        memory.pipe(f"/files/{name}", LINE.encode())
    assert labels(["memory://files/*.jsonl"]) == ["memory:///files/one.jsonl", "memory:///files/two.jsonl"]
    assert labels(["one.jsonl"], "memory://files") == ["one.jsonl"]  # type: ignore[arg-type]
    found = list(read_comparisons(["memory://files"], "auto", True, Quarantine(None, 0)))
    assert [c.id for c in found] == ["one.jsonl:1", "two.jsonl:1"]
    with pytest.raises(UserError, match=r"memory://files/none.jsonl: there is no such file"):
        expand(["memory://files/none.jsonl"])
    with pytest.raises(UserError, match=r"nosuch://a: cannot be reached: ValueError: Protocol not known"):
        expand(["nosuch://a"])


def test_gs_urls_are_read_by_gcsfs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bucket" / "prefs").mkdir(parents=True)
    for name in ("one.jsonl", "two.jsonl"):
        (tmp_path / "bucket" / "prefs" / name).write_text(LINE * 3)
    (tmp_path / "bucket" / "prefs" / "three.jsonl.gz").write_bytes(gzip.compress(LINE.encode()))
    gcsfs.GCSFileSystem.clear_instance_cache()
    with FakeGcs(tmp_path) as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        names = [f"gs://bucket/prefs/{name}.jsonl" for name in ("one", "two")]
        assert labels(["gs://bucket/prefs/*.jsonl"]) == names
        found = list(read_comparisons(["gs://bucket/prefs"], "auto", True, Quarantine(None, 0)))
        assert len(found) == 7
        with pytest.raises(UserError, match=r"gs://bucket/prefs/none.jsonl: there is no such file"):
            expand(["gs://bucket/prefs/none.jsonl"])
    gcsfs.GCSFileSystem.clear_instance_cache()


def test_what_names_nothing_is_refused(folder: Path) -> None:
    (folder / "empty").mkdir()
    for sources, message in [
        (["data/*.csv"], r"no file of a known kind \(\.jsonl, .*\) matches"),
        (["empty"], "is a folder without files of a known kind"),
        (["data/notes.txt"], "is not of a known kind"),
        (["data", "data/a.jsonl"], r"name a file twice: .*data/a\.jsonl"),
        (["data/a.jsonl", f"../{folder.name}/data/a.jsonl"], "name a file twice"),
        ([], "there are no sources"),
        (["hub://a/b?subset=x"], "'subset' is not known; give config, split or revision"),
    ]:
        with pytest.raises(UserError, match=message):
            expand(sources, folder)


def test_a_hub_data_set_is_streamed(tmp_path: Path) -> None:
    pytest.importorskip("datasets", reason="needs skyrm-jax[hub]")
    (tmp_path / "set" / "data").mkdir(parents=True)
    rows = [{"prompt": f"q{i}", "chosen": "a", "rejected": "b"} for i in range(7)]
    for split in ("train", "test"):
        pq.write_table(
            pa.Table.from_pylist(rows[: 7 if split == "train" else 2]), tmp_path / "set" / "data" / f"{split}-0.parquet"
        )
    (source,) = expand([f"hub://{tmp_path}/set"])
    assert isinstance(source, HubDataset) and source.short == "set"
    found = list(read_comparisons([f"hub://{tmp_path}/set"], "auto", True, Quarantine(None, 0)))
    assert [c.prompt[0].content for c in found] == [f"q{i}" for i in range(7)]
    assert found[6].id == "set:7"
    assert len(list(read_comparisons([f"hub://{tmp_path}/set?split=test"], "auto", True, Quarantine(None, 0)))) == 2
    with pytest.raises(UserError, match="cannot be read as a Hub data set"):
        list(read_comparisons([f"hub://{tmp_path}/set?split=dev"], "auto", True, Quarantine(None, 0)))


def lines_of(path: Path, size: int) -> list[tuple[int, Any]]:
    (source,) = expand([str(path)])
    assert isinstance(source, SourceFile)
    return [(line, raw) for chunk in chunks(source, size) for line, raw, _ in chunk.records()]


@pytest.mark.parametrize("kind", ["jsonl", "jsonl.gz", "jsonl.zst"])
@pytest.mark.parametrize("size", [1, 1500, 1 << 20])
def test_chunks_hold_whole_lines_with_their_numbers(tmp_path: Path, kind: str, size: int) -> None:
    texts = [b"{}", b"", b'{"a": "\xe2\x80\xa8 no line end"}', b"x" * 5000, b"{}", b"{}\r", b"last"]
    data = b"\xef\xbb\xbf" + b"\n".join(texts)
    path = tmp_path / f"a.{kind}"
    if kind == "jsonl.zst":
        # Two frames, as parallel compressors write.
        path.write_bytes(b"".join(pa.compress(part, "zstd", asbytes=True) for part in (data[:200], data[200:])))
    else:
        path.write_bytes(gzip.compress(data) if kind.endswith("gz") else data)
    expected = [(n, text.rstrip(b"\r")) for n, text in enumerate(texts, 1) if text]
    assert lines_of(path, size) == expected


def test_chunks_of_tables_and_lists_count_records(tmp_path: Path) -> None:
    rows = [{"prompt": f"q{i}", "chosen": "a" * i, "rejected": "b"} for i in range(100)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet", row_group_size=30)
    (tmp_path / "a.json").write_text(json.dumps(rows))
    for name in ("a.parquet", "a.json"):
        (source,) = expand([str(tmp_path / name)])
        made = list(chunks(source, 1000))
        assert len(made) > 3
        assert [record for chunk in made for record in chunk.records()] == [(i + 1, r, r) for i, r in enumerate(rows)]
        assert made[-1].read >= source.nbytes - 1
        assert [c.digest for c in made] == [c.digest for c in chunks(source, 1000)]


def test_text_that_is_not_utf8_in_a_table_spoils_its_row_only(tmp_path: Path) -> None:
    raw = pa.array([b"q0", b"q1", b"caf\xe9", b"q3"]).view(pa.string())
    sides = {"chosen": ["a"] * 4, "rejected": ["b"] * 4}
    pq.write_table(pa.table({"prompt": raw, **sides}), tmp_path / "a.parquet")
    quarantine = Quarantine(tmp_path / "q.jsonl", 0.5)
    found = list(read_comparisons([str(tmp_path / "a.parquet")], "auto", True, quarantine))
    assert [c.id for c in found] == ["a.parquet:1", "a.parquet:2", "a.parquet:4"]
    (entry,) = map(json.loads, (tmp_path / "q.jsonl").read_text().splitlines())
    assert (entry["line"], entry["reason"]) == (3, "is not UTF-8")


@pytest.mark.parametrize("kind", ["jsonl.gz", "jsonl.zst"])
def test_a_damaged_compressed_file_is_an_error(tmp_path: Path, kind: str) -> None:
    data = b"".join(b'{"a": %d}\n' % i for i in range(20_000))
    whole = gzip.compress(data) if kind.endswith("gz") else pa.compress(data, "zstd", asbytes=True)
    for number, bad in enumerate((whole[: len(whole) // 2], whole[:-3], b"plain text" + whole)):
        path = tmp_path / f"{number}.{kind}"
        path.write_bytes(bad)
        with pytest.raises(UserError, match=r"is damaged after line \d+ .*fetch or write it again"):
            lines_of(path, 1 << 12)
