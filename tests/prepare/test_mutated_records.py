"""Ten thousand records damaged in every way we know: each one is read, or put aside with its place and a reason."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from skyrm_jax.chat import Chat
from skyrm_jax.prepare import PrepareOptions, prepare

Mutation = Callable[[dict[str, Any], np.random.Generator], bytes]


def encoded(record: Any) -> bytes:
    return json.dumps(record, ensure_ascii=False).encode("utf-8", "surrogatepass")


def sound(i: int) -> dict[str, Any]:
    turns = [{"role": "user", "content": f"question {i}"}]
    return {"chosen": [*turns, {"role": "assistant", "content": f"good {i}"}],
            "rejected": [*turns, {"role": "assistant", "content": "bad"}], "n": i}  # fmt: skip


def with_last(record: dict[str, Any], **fields: Any) -> dict[str, Any]:
    record["chosen"][-1] |= fields
    return record


def without(record: dict[str, Any], name: str) -> dict[str, Any]:
    del record["chosen"][-1][name]
    return record


def put(value: Any) -> Mutation:
    return lambda record, rng: encoded(record | {str(rng.choice(["chosen", "rejected"])): value})


def spliced(record: dict[str, Any], rng: np.random.Generator) -> bytes:
    """A byte taken out, put in or changed anywhere: still a record, or not."""
    data = bytearray(encoded(record))
    at = int(rng.integers(len(data)))
    data[at : at + int(rng.integers(0, 2))] = bytes(rng.choice([b"", b"\x00", b"\xff", b'"', b"}", b"x", b"\\"]))
    return bytes(data).replace(b"\n", b" ")


KEPT: dict[str, Mutation] = {
    "sound": lambda r, _: encoded(r),
    "unknown field": lambda r, _: encoded(r | {"extra": {"deep": [1, None]}}),
    "null field": lambda r, _: encoded(r | {"margin": None}),
    "NUL in text": lambda r, _: encoded(with_last(r, content="a\x00b")),
    "line separators": lambda r, _: encoded(with_last(r, content="a\u2028b\u0085c")),
    "same role twice": lambda r, _: encoded(r | {n: [r[n][0], *r[n]] for n in ("chosen", "rejected")}),
    "carriage return": lambda r, _: encoded(r) + b"\r",
    "spaces": lambda r, _: b"  " + encoded(r) + b"\t",
}
LONG: dict[str, Mutation] = {"10 MB of text": lambda r, _: encoded(with_last(r, content="x" * 10_000_000))}
BAD: dict[str, tuple[Mutation, str]] = {
    "bad JSON": (lambda r, rng: encoded(r)[: int(rng.integers(2, len(encoded(r))))], "is not valid JSON"),
    "two records": (lambda r, _: encoded(r) * 2, "is not valid JSON"),
    "not UTF-8": (lambda r, _: encoded(r).replace(b"bad", b"b\xe4d"), "is not UTF-8"),
    "lone surrogate": (lambda r, _: json.dumps(with_last(r, content="a\ud800")).encode(), "is not valid Unicode"),
    "raw surrogate": (lambda r, _: encoded(with_last(r, content="a\ud800")), "is not UTF-8"),
    "list": (lambda r, _: encoded([r]), "is not an object"),
    "number": (lambda _, rng: str(rng.random()).encode(), "is not an object"),
    "sides are numbers": (put(3), ""),
    "sides are missing": (lambda _, __: b"{}", ""),
    "empty sides": (put([]), ""),
    "messages are text": (put(["hello"]), ""),
    "no role": (lambda r, _: encoded(without(r, "role")), "is not known"),
    "no content": (lambda r, _: encoded(without(r, "content")), "is missing"),
    "unknown role": (lambda r, _: encoded(with_last(r, role="bot")), "is not known"),
    "content is a list": (lambda r, _: encoded(with_last(r, content=[1])), "is not text"),
    "ends in a user turn": (lambda r, _: encoded(r | {"chosen": r["chosen"] + r["chosen"][:1]}), ""),
    "identical sides": (lambda r, _: encoded(r | {"chosen": r["rejected"]}), "identical"),
    "weight below zero": (lambda r, _: encoded(r | {"weight": -1}), "is not a weight"),
    "p is no probability": (lambda r, _: encoded(r | {"p": 1.5}), "is not a probability"),
    "margin is not finite": (lambda r, _: encoded(r | {"margin": float("nan")}), "is not finite"),
    "huge number": (lambda r, _: encoded(r)[:-1] + b', "m": ' + b"9" * 5000 + b"}", "cannot be read as JSON"),
    "deep nesting": (lambda _, __: b"[" * 100_000, ""),
}


@pytest.mark.parametrize("seed", [0, 1])
def test_every_one_of_5000_mutated_records_is_accounted_for(tmp_path: Path, byte_tokenizer: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    kinds = [*KEPT, *LONG, *BAD, "spliced", "blank"]
    often = np.array([0.001 if kind in LONG else 1.0 for kind in kinds])
    drawn = rng.choice(len(kinds), 5000, p=often / often.sum())
    drawn[7] = kinds.index("10 MB of text")
    lines, kind_of = [], {}
    for number, kind in enumerate((kinds[k] for k in drawn), 1):
        record = sound(number)
        mutation = KEPT.get(kind) or LONG.get(kind) or (BAD[kind][0] if kind in BAD else None)
        lines.append(mutation(record, rng) if mutation else b"" if kind == "blank" else spliced(record, rng))
        kind_of[number] = kind
    source = tmp_path / "mutated.jsonl"
    source.write_bytes(b"\n".join(lines))

    options = PrepareOptions(
        [source.name], str(tmp_path / "store"), str(byte_tokenizer), str(tmp_path),
        max_tokens=2000, held_out=0, max_bad_share=1, workers=0,
    )  # fmt: skip
    store = prepare(options, Console(file=io.StringIO()))
    counts = store.meta["counts"][source.name]
    entries = [json.loads(line) for line in (Path(store.directory, "quarantine.jsonl")).read_text().splitlines()]
    aside = {entry["line"]: entry for entry in entries}
    kept = [int(stored.id.split(":")[1]) for stored in store.read(range(len(store)))]

    # Every line that is not blank is in exactly one place, and all that is put aside says why.
    assert len(entries) == len(aside) and len(set(kept)) == len(kept)
    assert not set(kept) & set(aside)
    repeated = counts.get("repeats an earlier record", 0)
    blank = sum(not line.strip() for line in lines)
    assert len(kept) + len(aside) + repeated + counts.get("undecided (tie or no label)", 0) == 5000 - blank
    assert counts["read"] == 5000 - blank == sum(n for outcome, n in counts.items() if outcome != "read")
    assert all(e["file"] == str(source) and e["reason"] and e["remedy"] for e in entries)
    put_aside = {
        outcome: n for outcome, n in counts.items() if outcome.startswith("bad: ") or outcome.endswith("dropped")
    }
    assert sum(put_aside.values()) == len(entries)

    for number, kind in kind_of.items():
        if kind in KEPT:
            assert number in kept, (kind, aside.get(number))
        elif kind in LONG:
            assert aside[number]["reason"] == "over-long"
        elif kind in BAD:
            assert number in aside, kind
            assert BAD[kind][1] in aside[number]["reason"], (kind, aside[number])
    # What was kept holds the text of its record.
    tokenizer = Chat.load(byte_tokenizer).tokenizer
    for place, number in list(enumerate(kept))[:500]:
        if kind_of[number] in KEPT:
            assert f"question {number}<" in tokenizer.decode(store[place].tree.tokens)
