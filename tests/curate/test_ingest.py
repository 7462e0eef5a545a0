"""Parts hold every pair once, in order, whatever the kind of file; finished ones are not made again; nothing is lost."""

import gzip
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from skyrm_jax.curate import ingest as module
from skyrm_jax.curate.engine import Engine
from skyrm_jax.curate.ingest import PART, USED, Part, ingest, pieces, place, position
from skyrm_jax.curate.pair import Pair
from skyrm_jax.data.files import expand
from skyrm_jax.data.quarantine import Quarantine
from skyrm_jax.data.sources import IDENTICAL, UNDECIDED
from skyrm_jax.errors import UserError

SIZE = 2000


def record(number: int) -> dict[str, Any]:
    system = [{"role": "system", "content": "be kind"}] if number % 3 == 0 else []
    prompt = [*system, {"role": "user", "content": f"question {number} é你"}]
    return {"prompt": prompt, "chosen": f"good {number}", "rejected": "bad", "category": "c" * (number % 2)}


@pytest.fixture(autouse=True)
def native() -> None:
    Engine().start()


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., tuple[list[Part], list[dict[str, Any]], Quarantine]]:
    """(parts, their rows, account) of the sources in a folder."""

    def made(source: Path, share: float = 0.05, size: int = SIZE, out: str = "out") -> Any:
        folder = tmp_path / out
        found, account = ingest(
            expand([str(source)]), "auto", share, folder / "pairs", folder / "bad.jsonl", False, size=size
        )
        rows = [row for part in found if part.pairs for row in pq.read_table(part.path(folder / "pairs")).to_pylist()]
        return found, rows, account

    return made


def lines(path: Path, records: list[Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(one) + "\n" for one in records), encoding="utf-8")
    return path


KINDS: dict[str, Callable[[Path, list[Any]], Any]] = {
    "a.jsonl": lines,
    "a.jsonl.gz": lambda path, records: path.write_bytes(
        gzip.compress("".join(json.dumps(one) + "\n" for one in records).encode())
    ),
    "a.json": lambda path, records: path.write_text(json.dumps(records)),
    "a.parquet": lambda path, records: pq.write_table(pa.Table.from_pylist(records), path),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_file_gives_the_same_pairs(run: Any, tmp_path: Path, kind: str) -> None:
    path = tmp_path / kind
    KINDS[kind](path, [record(n) for n in range(60)])
    parts, rows, _ = run(path)
    assert len(parts) > 1 and [part.stem for part in parts] == sorted(part.stem for part in parts)
    assert [row["line"] for row in rows] == list(range(1, 61))
    assert [row["position"] for row in rows] == [position(0, n, 0) for n in range(1, 61)]
    for n, row in enumerate(rows):
        pair = Pair.of_row(row)
        assert (pair.chosen[0].content, pair.rejected[0].content) == (f"good {n}", "bad")
        assert [m.content for m in pair.prompt] == ["be kind"] * (n % 3 == 0) + [f"question {n} é你"]
        assert (pair.file, pair.source, pair.record, pair.category) == (
            str(path),
            kind,
            f"{kind}:{n + 1}",
            "c" * (n % 2),
        )
        assert pair.id == Pair.of(pair.prompt, pair.chosen, pair.rejected).id
        assert (row["prompt_key"], row["contents"], row["identical"]) == (pair.prompt_key, pair.contents, False)
    assert all(pq.read_schema(part.path(tmp_path / "out" / "pairs")).equals(PART) for part in parts)


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize("end", [True, False])
def test_chunks_of_lines_are_found_from_the_middle(
    run: Any, tmp_path: Path, newline: str, mark: str, end: bool
) -> None:
    texts = [json.dumps(record(n), ensure_ascii=False) for n in range(50)]
    texts[7:7] = ["", " "]
    whole = mark + newline.join(texts) + newline * end
    (tmp_path / "a.jsonl").write_bytes(whole.encode())
    (source,) = expand([str(tmp_path / "a.jsonl")])
    found = [piece for piece in pieces(source, SIZE) if piece is not None]
    assert len(found) > 3
    ends = [piece.offset + piece.nbytes for piece in found]
    assert [piece.offset for piece in found[1:]] == ends[:-1] and ends[-1] == len(whole.encode())
    _, rows, _ = run(tmp_path / "a.jsonl")
    assert [row["line"] for row in rows] == [*range(1, 8), *range(10, 53)]
    assert [row["chosen"][0]["content"] for row in rows] == [f"good {n}" for n in range(50)]


def test_positions_order_as_sources_lines_and_preferences_do() -> None:
    places = [(0, 1, 0), (0, 1, 65535), (0, 2, 0), (0, 2**31 - 1, 65535), (1, 0, 0), (65535, 2**31 - 1, 65535)]
    positions = [position(*one) for one in places]
    assert positions == sorted(set(positions)) and positions[-1] < 2**63
    assert [place(one) for one in positions] == [one[:2] for one in places]


def test_what_becomes_of_every_record(run: Any, tmp_path: Path) -> None:
    several = {"prompt": "q", "responses": ["a", "b", "b", "c"]}
    half = {"winner": 0, "loser": 3, "p": 0.5}
    less = {"winner": 0, "loser": 1, "p": 0.2}
    source = lines(
        tmp_path / "a.jsonl",
        [
            {**several, "preferences": [[0, 1], [1, 2], half, less]},
            {**several, "preferences": []},
            {**several, "preferences": [half]},
            {**several, "preferences": [[1, 2]]},
            {"prompt": "q"},
            "text",
        ],
    )
    parts, rows, account = run(source, share=0.5)
    sides = [(row["chosen"][0]["content"], row["rejected"][0]["content"], row["identical"]) for row in rows]
    assert sides == [("a", "b", False), ("b", "b", True), ("b", "a", False)]
    assert [row["position"] for row in rows] == [position(0, 1, k) for k in range(3)]
    (counts,) = account.counts.values()
    assert counts["read"] == 6 and counts[USED] == 1 and counts[UNDECIDED] == 2 and counts[IDENTICAL] == 1
    assert sum(n for name, n in counts.items() if name.startswith("bad: ")) == 2
    assert sum(part.undecided for part in parts) == 1 and sum(part.pairs for part in parts) == 3
    put_aside = [json.loads(line) for line in (tmp_path / "out" / "bad.jsonl").read_text().splitlines()]
    assert [one["line"] for one in put_aside] == [4, 5, 6]


def test_too_many_preferences_are_a_bad_record(run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_PAIRS", 2)
    ranked = [{"prompt": "q", "responses": ["a", "b", "c"], "scores": scores} for scores in ([1, 2, 3], [1, 1, 2])]
    parts, rows, _ = run(lines(tmp_path / "a.jsonl", ranked), share=0.5)
    assert (parts[0].bad, len(rows)) == (1, 2)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the chunks that are read from now on."""
    names: list[str] = []
    make = module._make

    def noted(job: Any, chunk: Any) -> Part:
        names.append(f"{job.source.short}:{chunk.first}")
        return make(job, chunk)

    monkeypatch.setattr(module, "_make", noted)
    return names


@pytest.mark.parametrize("kind", ["a.jsonl", "a.json"])
def test_finished_parts_are_not_made_again(run: Any, tmp_path: Path, made: list[str], kind: str) -> None:
    records = [record(n) for n in range(60)]
    records[50] = "bad"  # type: ignore[call-overload]
    KINDS[kind](tmp_path / kind, records)
    parts, rows, account = run(tmp_path / kind)
    before, bad = contents(tmp_path / "out" / "pairs"), (tmp_path / "out" / "bad.jsonl").read_bytes()
    made.clear()
    assert run(tmp_path / kind)[:2] == (parts, rows) and not made
    removed = sorted(before)[3:]
    for name in removed:
        (tmp_path / "out" / "pairs" / name).unlink()
    again = run(tmp_path / kind)
    assert again[:2] == (parts, rows) and again[2].counts == account.counts
    assert made and f"{kind}:1" not in made and set(made) <= {f"{kind}:{int(name[6:16])}" for name in removed}
    assert contents(tmp_path / "out" / "pairs") == before and (tmp_path / "out" / "bad.jsonl").read_bytes() == bad


def test_a_chunk_that_has_changed_is_made_again(run: Any, tmp_path: Path, made: list[str]) -> None:
    source = lines(tmp_path / "a.jsonl", [record(n) for n in range(60)])
    run(source)
    made.clear()
    source.write_text(source.read_text().replace("good 40", "GOOD 40"))
    _, rows, _ = run(source)
    assert len(made) == 1 and rows[40]["chosen"][0]["content"] == "GOOD 40" and len(rows) == 60


def test_too_many_bad_records_end_the_run(run: Any, tmp_path: Path) -> None:
    some = lines(tmp_path / "some.jsonl", [record(n) if n % 10 else "bad" for n in range(50)])
    with pytest.raises(UserError, match=r"5 of 50 records are bad, more than max_bad_share = 0\.05.*bad\.jsonl"):
        run(some)
    with pytest.raises(UserError, match=r"some\.jsonl:1: record: is not an object"):
        run(some, share=0.0, out="strict")
    none = lines(tmp_path / "none.jsonl", ["bad"] * 3)
    with pytest.raises(UserError, match="none of its 3 records can be used"):
        run(none, share=1.0)
    (tmp_path / "blank.jsonl").write_text("\n \n")
    with pytest.raises(UserError, match="there is no record in it"):
        run(tmp_path / "blank.jsonl")


def test_bad_records_end_a_long_run_early(
    run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, made: list[str]
) -> None:
    monkeypatch.setattr(module, "EARLY", 20)
    source = lines(tmp_path / "a.jsonl", ["bad" * 50] * 4000)
    with pytest.raises(UserError, match="records are bad"):
        run(source)
    assert len(made) < len([piece for piece in pieces(expand([str(source)])[0], SIZE)]) // 2


def test_the_account_of_a_part_is_written_last(run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = lines(tmp_path / "a.jsonl", [record(0), "bad"])

    def killed(path: Path, text: str) -> Iterator[None]:
        assert {one.name for one in path.parent.iterdir()} == {f"{path.stem}.parquet", f"{path.stem}.bad.jsonl"}
        raise KeyError("killed")

    with monkeypatch.context() as patch:
        patch.setattr(module, "write_durably", killed)
        with pytest.raises(Exception, match="killed"):
            run(source, share=0.5)
    assert len(run(source, share=0.5)[1]) == 1
