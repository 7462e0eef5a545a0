"""Ten thousand records damaged in every way we know: each one is read as it is meant, or put aside with place and reason."""

import gzip
import io
import json
import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from skyrm_jax.chat import Chat, Tree, build_tree
from skyrm_jax.comparison import Preference
from skyrm_jax.data.record import StoredTree
from skyrm_jax.prepare import PrepareOptions, prepare

Record = dict[str, Any]
Mutation = Callable[[Record, np.random.Generator], bytes]
Turns = list[tuple[str, str]]

FORMS = ("messages", "binarized", "prompt", "hh", "sharegpt", "scores", "label", "native")
TURNS = ("messages", "binarized", "sharegpt")
"""Forms whose chosen side is a turn or a list of turns."""


def user(content: str) -> Record:
    return {"role": "user", "content": content}


def assistant(content: str) -> Record:
    return {"role": "assistant", "content": content}


def sound(form: str, i: int, winner: int) -> Record:
    """Record `i` of a form: "good" stands first, "bad" second; where the form can say so, `winner` (0 or 1) has won."""
    question, good = f"question {i}", f"good {i}"
    lists = {"chosen": [user(question), assistant(good)], "rejected": [user(question), assistant("bad")]}
    dialogue = f"\n\nHuman: {question}\n\nAssistant: hm\n\nHuman: well?\n\nAssistant: "
    return {
        "messages": lists,
        "binarized": lists | {"prompt": question, "system": "kind", "weight": 2.5},
        "prompt": {"prompt": question, "chosen": good, "rejected": "bad", "margin": 1.5},
        "hh": {"chosen": dialogue + good, "rejected": dialogue + "bad", "p": 0.75},
        "sharegpt": {"conversations": [{"from": "human", "value": question}],
                     "chosen": {"from": "gpt", "value": good}, "rejected": {"from": "gpt", "value": "bad"}},
        "scores": {"prompt": question, "responses": [good, "bad", "so so"], "scores": [1 - winner, winner, 0.75]},
        "label": {"history": [["hi", "hello"]], "question": question, "response_1": good, "response_2": "bad",
                  "label": winner + 1},
        "native": {"prompt": [user(question)], "responses": [[assistant(good)], [assistant("bad")]], "weight": 0.5,
                   "preferences": [{"winner": winner, "loser": 1 - winner, "p": 0.875}]},
    }[form]  # fmt: skip


def sides(record: Record) -> tuple[str, ...]:
    """The fields that hold the responses."""
    names = ("responses",), ("response_1", "response_2"), ("chosen", "rejected")
    return next(fields for fields in names if fields[0] in record)


def meant(record: Record, form: str) -> tuple[list[Turns], list[Preference]]:
    """What a record of a form says, read in the plainest way: whole conversations, and who is preferred to whom."""
    values = record["responses"] if "responses" in record else [record[name] for name in sides(record)]
    if form == "hh":
        marked = re.compile(r"\n\n(Human|Assistant):(.*?)(?=\n\nHuman:|\n\nAssistant:|\Z)", re.DOTALL)
        roles = {"Human": "user", "Assistant": "assistant"}
        conversations = [[(roles[who], said.strip()) for who, said in marked.findall(value)] for value in values]
    else:
        before: Turns = [("system", record["system"])] if record.get("system") else []
        for question, answer in record.get("history") or ():
            before += [("user", question), ("assistant", answer)]
        if form not in ("messages", "binarized"):
            prompt = next(record[name] for name in ("prompt", "question", "conversations") if name in record)
            before += turns(prompt, "user")
        conversations = [before + turns(value, "assistant") for value in values]
    given = {name: record[name] for name in ("p", "margin", "weight") if record.get(name) is not None}
    if form == "scores":
        scores = list(enumerate(record.get("scores", [])))
        pairs = [(a, b) for a, more in scores for b, less in scores if more > less]
    elif form == "label":
        pairs = {1: [(0, 1)], 2: [(1, 0)]}.get(record["label"], [])
    elif form == "native":
        stated = record.get("preferences", [])
        pairs = [(pair["winner"], pair["loser"]) for pair in stated]
        if stated:
            given["p"] = stated[0]["p"]
    else:
        pairs = [(0, 1)]
    return conversations, [Preference(*pair, **given) for pair in pairs]


def turns(value: Any, role: str) -> Turns:
    """Role and content of a turn or of several; text is one of `role`."""
    if isinstance(value, str):
        return [(role, value)]
    speakers = {"human": "user", "gpt": "assistant"}
    listed = value if isinstance(value, list) else [value]
    return [(t["role"], t["content"]) if "role" in t else (speakers[t["from"]], t["value"]) for t in listed]


def encoded(record: Any) -> bytes:
    return json.dumps(record, ensure_ascii=False).encode("utf-8", "surrogatepass")


def saying(record: Record, text: str) -> Record:
    """The record with `text` instead of "good"."""
    return json.loads(json.dumps(record).replace("good", json.dumps(text)[1:-1]))


def add(**more: Any) -> Mutation:
    return lambda record, _: encoded(record | more)


def say(text: str) -> Mutation:
    return lambda record, _: encoded(saying(record, text))


def put(value: Any) -> Mutation:
    """One side, or all responses, become `value`."""
    return lambda record, rng: encoded(record | {str(rng.choice(sides(record))): value})


def last_turn(name: str, value: Any = None) -> Mutation:
    """The `role` or `content` of the last chosen turn becomes `value`, or goes."""

    def mutate(record: Record, _: np.random.Generator) -> bytes:
        turn = record["chosen"][-1] if isinstance(record["chosen"], list) else record["chosen"]
        key = name if name in turn else {"role": "from", "content": "value"}[name]
        del turn[key]
        if value is not None:
            turn[key] = value
        return encoded(record)

    return mutate


def twice(record: Record, _: np.random.Generator) -> bytes:
    """Every list of turns begins with its first one twice."""
    return encoded({name: [v[0], *v] if isinstance(v, list) else v for name, v in record.items()})


def alike(record: Record, _: np.random.Generator) -> bytes:
    if "responses" in record:
        return encoded(record | {"responses": record["responses"][1:2] * len(record["responses"])})
    first, second = sides(record)
    return encoded(record | {first: record[second]})


def spliced(record: Record, rng: np.random.Generator) -> bytes:
    """A byte taken out, put in or changed anywhere: still a record, or not."""
    data = bytearray(encoded(record))
    at = int(rng.integers(len(data)))
    data[at : at + int(rng.integers(0, 2))] = bytes(rng.choice([b"", b"\x00", b"\xff", b'"', b"}", b"x", b"\\"]))
    return bytes(data).replace(b"\n", b" ")


class Bad(NamedTuple):
    """A mutation that makes a record unusable, and the reason, a pattern: of all `forms`, or of each."""

    mutate: Mutation
    reasons: str | dict[str, str]
    forms: Sequence[str] = FORMS

    def reason(self, form: str) -> str:
        return self.reasons if isinstance(self.reasons, str) else self.reasons.get(form) or self.reasons["others"]


KEPT: dict[str, tuple[Mutation, Sequence[str]]] = {
    "sound": (add(), FORMS),
    "unknown field": (add(extra={"deep": [1, None]}), FORMS),
    "null fields": (add(margin=None, id=None), FORMS),
    "NUL in text": (say("a\x00b"), FORMS),
    "line separators": (say("a\u2028b\u0085c"), FORMS),
    "same role twice": (twice, ("messages", "sharegpt")),
    "carriage return": (lambda r, _: encoded(r) + b"\r", FORMS),
    "spaces": (lambda r, _: b"  " + encoded(r) + b"\t", FORMS),
}
SILENT = "does not end in an assistant turn"
BAD: dict[str, Bad] = {
    "bad JSON": Bad(lambda r, rng: encoded(r)[: int(rng.integers(2, len(encoded(r))))], "is not valid JSON"),
    "two records": Bad(lambda r, _: encoded(r) * 2, "is not valid JSON"),
    "not UTF-8": Bad(lambda r, _: encoded(r).replace(b"bad", b"b\xe4d"), "is not UTF-8|is not valid Unicode"),
    "lone surrogate": Bad(lambda r, _: json.dumps(saying(r, "a\ud800")).encode(), "is not valid Unicode"),
    "raw surrogate": Bad(say("a\ud800"), "is not UTF-8|is not valid Unicode"),
    "list": Bad(lambda r, _: encoded([r]), "is not an object"),
    "number": Bad(lambda _, rng: str(rng.random()).encode(), "is not an object"),
    "huge number": Bad(lambda r, _: encoded(r)[:-1] + b', "m": ' + b"9" * 5000 + b"}", "cannot be read as JSON"),
    "deep nesting": Bad(lambda _, __: b"[" * 100_000, "cannot be read as JSON"),
    "nothing": Bad(lambda _, __: b"{}", "has the fields of no known form"),
    "sides are numbers": Bad(put(3), {
        "hh": "is not a list|is not text", "sharegpt": "is not an object", "prompt": "is neither text nor",
        "binarized": "is neither text nor", "label": "is neither text nor", "others": "is not a list"}),
    "sides are empty": Bad(put([]), {
        "messages": "shares no prompt", "hh": "is not a list|is not text", "scores": "is not as long as 'responses'",
        "native": "is empty", "others": SILENT}),
    "turns are text": Bad(put(["hello"]), {"hh": "is not an object|is not text", "others": "is not an object"},
                          ("messages", "hh", "sharegpt", "label")),
    "no role": Bad(last_turn("role"), "is not known", TURNS),
    "no content": Bad(last_turn("content"), "is missing", TURNS),
    "unknown role": Bad(last_turn("role", "bot"), "is not known", TURNS),
    "content is a list": Bad(last_turn("content", [1]), "is not text", TURNS),
    "ends in a user turn": Bad(lambda r, _: encoded(r | {"chosen": [*r["chosen"], user("?")]}), SILENT, TURNS[:2]),
    "another prompt": Bad(add(prompt="another"), "has system or user turns before its first answer", ["binarized"]),
    "label 0": Bad(add(label=0), "does not say who won", ["label"]),
    "history is text": Bad(add(history="hi"), {"hh": "stands beside a prompt of several", "others": "is not a list"}),
    "identical sides": Bad(alike, "identical"),
    "weight below zero": Bad(add(weight=-1), "is not a weight"),
    "p is no probability": Bad(add(p=1.5), {"native": "stands beside a pair's own", "others": "is not a probability"}),
    "margin is not finite": Bad(add(margin=float("nan")), "is not finite"),
    "10 MB of text": Bad(lambda r, _: encoded(saying(r, "x" * 10_000_000)), "over-long"),
}  # fmt: skip
LINES = ("bad JSON", "two records", "huge number", "deep nesting", "spliced", "blank")
"""What would spoil a whole JSON list."""


@dataclass(frozen=True)
class Mutant:
    form: str
    kind: str
    raw: bytes


def mutants(rng: np.random.Generator, count: int) -> dict[str, list[Mutant]]:
    """The mutated records, by the name of the file they go to."""
    kinds = [*KEPT, *BAD, "spliced", "spliced", "spliced", "blank"]
    often = np.array([0.001 if kind == "10 MB of text" else 1.0 for kind in kinds])
    drawn = rng.choice(len(kinds), count, p=often / often.sum())
    drawn[7] = kinds.index("10 MB of text")
    files: dict[str, list[Mutant]] = defaultdict(list)
    for number, kind in enumerate(kinds[k] for k in drawn):
        mutate, forms = {"spliced": (spliced, FORMS), "blank": (lambda _, __: b" ", FORMS)}.get(kind) or (
            KEPT[kind] if kind in KEPT else (BAD[kind].mutate, BAD[kind].forms)
        )
        form = str(rng.choice(forms))
        winner = int(rng.integers(2))
        raw = mutate(sound(form, number, winner), rng)
        file = str(rng.choice(["a.jsonl", "b.jsonl.gz", "c.json", f"{form}.parquet"]))
        if kind in LINES:
            file = "a.jsonl" if number % 2 else "b.jsonl.gz"
        elif file.endswith(".parquet") and not fits_in_parquet(raw, sound(form, number, winner)):
            file = "c.json"
        files[file].append(Mutant(form, kind, raw))
    return files


def fits_in_parquet(raw: bytes, like: Record) -> bool:
    """Whether the mutated record's fields can stand in one column with those of a sound one."""
    try:
        record = json.loads(raw)
        for name in {*record, *like}:
            pa.array([like.get(name), record.get(name)])
    except (pa.ArrowException, ValueError, AttributeError, TypeError):
        return False
    return True


def write(path: Path, records: Sequence[Mutant]) -> None:
    raw = [record.raw for record in records]
    if path.suffix == ".parquet":
        rows = [json.loads(one) for one in raw]
        columns = {name: [row.get(name) for row in rows] for name in dict.fromkeys(n for row in rows for n in row)}
        pq.write_table(pa.table(columns), path)
    elif path.suffix == ".json":
        path.write_bytes(b"[" + b",".join(raw) + b"]")
    else:
        lines = b"\n".join(raw)
        path.write_bytes(gzip.compress(lines, 1) if path.suffix == ".gz" else lines)


def chatml(conversation: Turns) -> str:
    """The conversation as the template of the tests' tokenizer writes it."""
    return "".join(f"<|im_start|>{role}\n{content}<|im_end|>\n" for role, content in conversation)


def expected_trees(chat: Chat, comparisons: Sequence[Sequence[Turns]]) -> list[Tree]:
    texts = [chatml(conversation) for conversations in comparisons for conversation in conversations]
    encodings = iter(chat.tokenizer.backend_tokenizer.encode_batch_fast(texts, add_special_tokens=False))
    return [build_tree([next(encodings).ids for _ in one], chat.pad_token_id) for one in comparisons]


def assert_same(stored: StoredTree, tree: Tree, preferences: list[Preference], of: Any) -> None:
    assert sorted(stored.preferences, key=astuple) == sorted(preferences, key=astuple), of
    for field in fields(Tree):
        assert np.array_equal(getattr(stored.tree, field.name), getattr(tree, field.name)), (field.name, of)


def options(folder: Path, tokenizer: Path, sources: Sequence[str], **more: Any) -> PrepareOptions:
    return PrepareOptions(
        list(sources), str(folder / "store"), str(tokenizer), str(folder),
        max_tokens=2000, held_out=0, max_bad_share=1, workers=0, **more,
    )  # fmt: skip


@pytest.mark.parametrize("seed", [0, 1])
def test_every_one_of_5000_mutated_records_is_accounted_for(tmp_path: Path, byte_tokenizer: Path, seed: int) -> None:
    files = mutants(np.random.default_rng(seed), 5000)
    assert len(files) == 3 + len(FORMS)
    for name, records in files.items():
        write(tmp_path / name, records)
    store = prepare(options(tmp_path, byte_tokenizer, sorted(files)), Console(file=io.StringIO()))
    made = {
        (name, line): record for name, records in files.items() for line, record in enumerate(records, 1)
        if record.kind != "blank"
    }  # fmt: skip
    stored = store.read(range(len(store)))
    kept = {(one.id.split(":")[0], int(one.id.split(":")[1])): one for one in stored}
    entries = [json.loads(line) for line in (Path(store.directory, "quarantine.jsonl")).read_text().splitlines()]
    aside = {(Path(entry["file"]).name, entry["line"]): entry for entry in entries}

    # Every record is in one place only, or is counted as one that says nothing; what is put aside says where and why.
    assert len(entries) == len(aside) and len(stored) == len(kept)
    assert not {*kept} & {*aside} and {*kept, *aside} <= {*made}
    assert all((tmp_path / e["file"]).is_file() and e["reason"] and e["remedy"] for e in entries)
    passed_over = [made[place] for place in {*made} - {*kept} - {*aside}]
    assert all(one.kind == "spliced" and not meant(json.loads(one.raw), one.form)[1] for one in passed_over)
    undecided = 0
    for name, counts in store.meta["counts"].items():
        assert counts["read"] == sum(place[0] == name for place in made) > 0
        assert counts["read"] == sum(n for outcome, n in counts.items() if outcome != "read")
        assert counts["kept"] == sum(place[0] == name for place in kept) > 0
        undecided += counts.get("undecided (tie or no label)", 0)
    assert len(kept) + len(aside) + undecided == len(made) and undecided == len(passed_over)

    for place, record in made.items():
        if record.kind in KEPT:
            assert place in kept, (record, aside.get(place))
        elif record.kind in BAD:
            assert place in aside, record
            assert re.search(BAD[record.kind].reason(record.form), aside[place]["reason"]), (record, aside[place])
    # What is kept says what its record says, and no more.
    told = {place: meant(json.loads(made[place].raw), made[place].form) for place in kept}
    trees = expected_trees(Chat.load(byte_tokenizer, store.meta["pad_token_id"]), [told[place][0] for place in kept])
    for (place, one), tree in zip(kept.items(), trees, strict=True):
        assert_same(one, tree, told[place][1], made[place])
    assert sum(made[place].kind == "spliced" for place in kept) > 50


@pytest.mark.parametrize("policy", ["truncate_left", "truncate_right"])
def test_ten_megabytes_of_text_are_cut_if_asked_for(tmp_path: Path, byte_tokenizer: Path, policy: str) -> None:
    left = policy == "truncate_left"
    record = {"prompt": "question ", "chosen": "good ", "rejected": "bad "}
    record["prompt" if left else "chosen"] += "0123456789" * 1_000_000
    (tmp_path / "a.jsonl").write_bytes(encoded(record))
    made = options(tmp_path, byte_tokenizer, ["a.jsonl"], over_long=policy)
    store = prepare(made, Console(file=io.StringIO()))
    assert store.meta["counts"]["a.jsonl"] == {"read": 1, "kept": 1, "truncated": 1}
    tree = store[0].tree
    decode = Chat.load(byte_tokenizer).tokenizer.decode
    for k, whole in enumerate(map(chatml, meant(record, "prompt")[0])):
        last = tree.reward_index[tree.leaf[k]]
        ancestors = tree.tokens[: last + 1][tree.end[: last + 1] > last]
        text = decode(ancestors)
        assert whole.endswith(text) if left else whole.startswith(text)
        # One token for each byte, and for each special token. The good response is one byte longer than the bad one.
        tokens = len(re.sub(r"<\|\w+\|>", "s", whole))
        assert len(ancestors) == (2000 - k if left else min(tokens, 2000))
        assert k or tree.truncated == tokens - 2000
