"""The pool and what is left out are those of a naive program; nothing is lost, killed runs go on, engines agree."""

import io
import json
import os
import pickle
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from rich.console import Console

from skyrm_jax.curate import near_duplicates
from skyrm_jax.curate import preprocess as module
from skyrm_jax.curate.account import REASONS, account
from skyrm_jax.curate.engine import Engine
from skyrm_jax.curate.ingest import POOL, Part
from skyrm_jax.curate.near_duplicates import NearDuplicates
from skyrm_jax.curate.pair import Pair
from skyrm_jax.curate.preprocess import REMOVED, Preprocess, preprocess
from skyrm_jax.errors import UserError

N, OVERLAP, ALIKE = 3, 2, 0.6
HELD_OUT = ["the cat sat on the mat", "one two"]
"""First turns of the held-out file: the second is too short for an n-gram."""

PROMPTS = [
    "one two",
    "one two three",
    "so the cat sat on a chair",  # two n-grams: enough
    "so the cat sat there",  # one
    *(f"please tell me now what you know of all {what} and why" for what in ("cats", "dogs", "cats too")),
    "how do you do",
]


def lines(path: Path, records: Sequence[Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(one) + "\n" for one in records), encoding="utf-8")
    return path


def run(out: Path, options: Preprocess, engine: Engine = Engine()) -> dict[str, Any]:  # noqa: B008
    return preprocess(options, out, engine, Console(file=io.StringIO()))


def rows(out: Path, pattern: str) -> list[dict[str, Any]]:
    return list(chain.from_iterable(pq.read_table(path).to_pylist() for path in sorted(out.glob(pattern))))


def contents(out: Path) -> dict[str, bytes]:
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()}


# A naive program

Key = tuple[Any, ...]


@dataclass
class Naive:
    """Pairs are named (line, number in the record).

    Attributes:
        pairs: texts of each: prompt, chosen, rejected.
        why: those left out, and for which reason.
        outcomes: records by what became of them.
    """

    pairs: dict[Key, tuple[str, str, str]]
    why: dict[Key, str]
    outcomes: Counter[str]

    def kept(self) -> list[tuple[Any, ...]]:
        """Line and texts of the pairs left, in order."""
        return [(key[0], *texts) for key, texts in self.pairs.items() if key not in self.why]

    def removed(self) -> list[tuple[Any, ...]]:
        """Line, texts and reason of the others."""
        return [(key[0], *texts, self.why[key]) for key, texts in self.pairs.items() if key in self.why]


def naive(records: Sequence[Any], contradictions: str, near: bool) -> Naive:
    """What preprocessing should do."""
    outcomes: Counter[str] = Counter()
    pairs: dict[Key, tuple[str, str, str]] = {}
    for line, record in enumerate(records, 1):
        if not isinstance(record, dict):
            outcomes["bad"] += 1
            continue
        said, preferences = record["responses"], record["preferences"]
        sides = [(said[p["winner"]], said[p["loser"]], p["p"]) for p in preferences]
        decided = [(one, other) if p > 0.5 else (other, one) for one, other, p in sides if p != 0.5]
        if sides and all(one == other for one, other, _ in sides):
            outcomes["identical_responses"] += 1
        elif not decided:
            outcomes["undecided"] += 1
        else:
            outcomes["used"] += 1
            pairs |= {(line, k): (record["prompt"], *both) for k, both in enumerate(decided)}
    why = {key: "identical" for key, (_, better, worse) in pairs.items() if better == worse}
    first: dict[tuple[str, str, str], Key] = {}
    for key, texts in pairs.items():
        if key not in why and first.setdefault(texts, key) != key:
            why[key] = "duplicate"
    if contradictions == "drop":
        why |= {key: "contradictory" for (x, better, worse), key in first.items() if (x, worse, better) in first}
    left = {key: texts[0] for key, texts in pairs.items() if key not in why}
    why |= {key: "contaminated" for key, prompt in left.items() if dirty(prompt)}
    if near:
        prompts = list(dict.fromkeys(prompt for key, prompt in left.items() if key not in why))
        cluster = {prompt: prompt for prompt in prompts}
        for i, one in enumerate(prompts):
            for other in prompts[i + 1 :]:
                if jaccard(one, other) >= ALIKE:
                    cluster = {p: cluster[one] if root == cluster[other] else root for p, root in cluster.items()}
        roots = {
            prompt: min((p for p in prompts if cluster[p] == cluster[prompt]), key=prompts.index) for prompt in prompts
        }
        why |= {k: "near_duplicate" for k, prompt in left.items() if k not in why and roots[prompt] != prompt}
    return Naive(pairs, why, outcomes)


def grams(prompt: str) -> set[tuple[str, ...]]:
    said = [word for word in prompt.split() if len(word) > 1]
    return {tuple(said[i : i + N]) for i in range(len(said) - N + 1)}


def dirty(prompt: str) -> bool:
    return prompt == HELD_OUT[1] or len(grams(prompt) & grams(HELD_OUT[0])) >= OVERLAP


def jaccard(one: str, other: str) -> float:
    a, b = set(one.split()), set(other.split())
    return len(a & b) / len(a | b)


preference = st.builds(
    lambda winner, loser, p: {"winner": winner, "loser": loser, "p": p},
    *[st.sampled_from([0, 1, 2])] * 2,
    st.sampled_from([1.0, 1.0, 0.7, 0.5, 0.2]),
).filter(lambda one: one["winner"] != one["loser"])
record = st.builds(
    lambda prompt, said, preferences: {"prompt": prompt, "responses": said, "preferences": preferences},
    st.sampled_from(PROMPTS),
    st.lists(st.sampled_from("xyz"), min_size=3, max_size=3),
    st.lists(preference, max_size=3),
)
pool = st.lists(st.one_of(record, record, record, record, st.just("bad")), min_size=20, max_size=60)


@settings(
    max_examples=12,
    phases=[Phase.generate],
    suppress_health_check=[
        HealthCheck.function_scoped_fixture,
        HealthCheck.too_slow,
        HealthCheck.data_too_large,
        HealthCheck.large_base_example,
    ],
)
@given(records=pool, contradictions=st.sampled_from(["drop", "drop", "keep"]), near=st.booleans())
def test_the_same_as_a_naive_program(
    monkeypatch: pytest.MonkeyPatch, records: list[Any], contradictions: Any, near: bool
) -> None:
    monkeypatch.setattr(near_duplicates, "RECALL", 1 - 1e-9)  # no test fails by chance
    expected = naive(records, contradictions, near)
    if not expected.kept():
        return
    with tempfile.TemporaryDirectory() as folder:
        held_out = lines(Path(folder, "held_out.jsonl"), [{"prompt": p, "responses": ["x"]} for p in HELD_OUT])
        options = Preprocess(
            [str(lines(Path(folder, "a.jsonl"), records))],
            max_bad_share=1.0,
            contradictions=contradictions,
            held_out=[str(held_out)],
            ngram=N,
            overlap=OVERLAP,
            near_duplicates=NearDuplicates(ALIKE, 1) if near else None,
        )
        out = Path(folder, "out")
        report = run(out, options)
        found, removed = rows(out, "pool/*"), rows(out, "preprocess/removed-*")
        put_aside = out / "preprocess" / "bad.jsonl"
        bad = put_aside.read_text().splitlines() if put_aside.exists() else []
    assert [texts(row) for row in found] == expected.kept()
    assert [(*texts(row), row["reason"]) for row in removed] == expected.removed()
    funnel, reasons = report["funnel"], Counter(expected.why.values())
    assert {name: funnel[name] for name in ("bad", "undecided", "identical_responses", "used")} == {
        name: expected.outcomes[name] for name in ("bad", "undecided", "identical_responses", "used")
    }
    assert {name: funnel[name] for name in REASONS} == {name: reasons[name] for name in REASONS}
    assert funnel["kept"] == len(found) and funnel["records"] == len(records)
    assert len(bad) == funnel["bad"] + funnel["identical_responses"]


def texts(row: dict[str, Any]) -> tuple[Any, ...]:
    return row["line"], *(row[name][0]["content"] for name in ("prompt", "chosen", "rejected"))


# Evidence


SAID = "tell me why the moon is so far away from the big green house on the old hill"
RECORDS = [
    {"prompt": f"{SAID} number 1", "chosen": "a", "rejected": "b"},
    {"prompt": "which is better", "chosen": "a", "rejected": "b"},
    {"prompt": "which is better", "chosen": "b", "rejected": "a"},
    {"prompt": "which is better", "chosen": "b", "rejected": "a", "id": "again"},
    {"prompt": f"{SAID} number 2", "chosen": "a", "rejected": "b"},
    {
        "prompt": [{"role": "system", "content": SAID}, {"role": "user", "content": "Held OUT!"}],
        "chosen": "a",
        "rejected": "b",
    },
    {"prompt": f"well, {HELD_OUT[0]}", "chosen": "a", "rejected": "b"},
    {"prompt": "q", "responses": ["x", "x", "y"], "preferences": [[0, 1], [1, 2]]},
    {
        "prompt": [
            {"role": "user", "content": "hello"},
            {"role": "assistant", "content": "hi"},
            {"role": "user", "content": HELD_OUT[0]},
        ],
        "chosen": "a",
        "rejected": "b",
    },
    "bad",
]


@pytest.fixture
def options(tmp_path: Path) -> Preprocess:
    """One pair or more for every reason, in two files."""
    lines(tmp_path / "data" / "a.jsonl", RECORDS[:4])
    lines(tmp_path / "data" / "b.jsonl", RECORDS[4:])
    bench = {"pair_id": "0", "source": "mmlu-pro-x", "response_model": "gpt-4o-2024-05-13", "label": "A>B"}
    bench |= {"question": HELD_OUT[0], "response_A": "yes", "response_B": "no"}
    lines(tmp_path / "bench" / "judgebench" / "dataset=judgebench,response_model=gpt-4o-2024-05-13.jsonl", [bench])
    lines(tmp_path / "held_out.jsonl", [{"prompt": p, "responses": ["x"]} for p in (*HELD_OUT, "held out")])
    return Preprocess(
        ["data"],
        root=str(tmp_path),
        max_bad_share=0.5,
        benchmarks=str(tmp_path / "bench"),
        held_out=["held_out.jsonl"],
        ngram=5,
        near_duplicates=NearDuplicates(),
    )


def test_every_pair_left_out_says_why(options: Preprocess, tmp_path: Path) -> None:
    out = tmp_path / "out"
    report = run(out, options)
    removed = rows(out, "preprocess/removed-*")
    ids = {(row["file"], row["line"]): row["id"] for row in [*removed, *rows(out, "pool/*")]}
    shared = {"ngram": "the cat sat on the", "shared": 2}
    assert [(row["file"], row["line"], row["reason"], json.loads(row["evidence"])) for row in removed] == [
        (
            "data/a.jsonl",
            2,
            "contradictory",
            {"other": {"file": "data/a.jsonl", "line": 3, "id": ids["data/a.jsonl", 3]}},
        ),
        (
            "data/a.jsonl",
            3,
            "contradictory",
            {"other": {"file": "data/a.jsonl", "line": 2, "id": ids["data/a.jsonl", 2]}},
        ),
        ("data/a.jsonl", 4, "duplicate", {"other": {"file": "data/a.jsonl", "line": 3}}),
        (
            "data/b.jsonl",
            1,
            "near_duplicate",
            {"other": {"file": "data/a.jsonl", "line": 1, "id": ids["data/a.jsonl", 1]}, "similarity": 17 / 19},
        ),
        ("data/b.jsonl", 2, "contaminated", {"sets": [{"set": "held_out.jsonl", "ngram": "held out", "shared": 1}]}),
        (
            "data/b.jsonl",
            3,
            "contaminated",
            {"sets": [{"set": "judgebench"} | shared, {"set": "held_out.jsonl"} | shared]},
        ),
        ("data/b.jsonl", 4, "identical", {}),
    ]
    assert [(row["file"], row["line"]) for row in rows(out, "pool/*")] == [
        ("data/a.jsonl", 1),
        ("data/b.jsonl", 4),
        ("data/b.jsonl", 5),
    ]
    for path in (*out.glob("pool/*"), *out.glob("preprocess/removed-*")):
        assert pq.read_schema(path).equals(POOL if path.parent.name == "pool" else REMOVED)
    for row in rows(out, "pool/*"):
        pair = Pair.of_row(row)
        assert (row["contents"], row["prompt_key"]) == (pair.contents, pair.prompt_key)
    put_aside = [json.loads(line) for line in (out / "preprocess" / "bad.jsonl").read_text().splitlines()]
    assert [(one["file"], one["line"]) for one in put_aside] == [("data/b.jsonl", 6)]
    told = {name: facts["pairs"] for name, facts in report["contamination"].items() if facts["found"]}
    assert told == {"judgebench": 1, "held_out.jsonl": 2}
    assert not report["contamination"]["rmb"]["found"] and len(report["contamination"]) == 8
    assert report["funnel"]["contaminated_by"] == {"held_out.jsonl": 1, "judgebench": 1}
    assert report["bad"] == {"record: is not an object": 1}
    assert {name: facts["kept"] for name, facts in report["files"].items()} == {"data/a.jsonl": 1, "data/b.jsonl": 2}
    assert not [path for path in out.iterdir() if path.name not in ("pool", "preprocess")]


def test_options_switch_the_steps(options: Preprocess, tmp_path: Path) -> None:
    bare = replace(options, contradictions="keep", benchmarks=None, held_out=[], near_duplicates=None)
    report = run(tmp_path / "bare", bare)
    assert {name: report["funnel"][name] for name in REASONS} == dict.fromkeys(REASONS, 0) | {
        "duplicate": 1,
        "identical": 1,
    }
    assert not any(facts["found"] for facts in report["contamination"].values())
    assert run(tmp_path / "short", replace(options, short_prompts=False))["funnel"]["contaminated"] == 1
    assert run(tmp_path / "overlap", replace(options, overlap=3))["funnel"]["contaminated"] == 1
    assert run(tmp_path / "long", replace(options, ngram=7, short_prompts=False))["funnel"]["contaminated"] == 0


def test_the_account_is_printed(options: Preprocess, tmp_path: Path) -> None:
    console = Console(file=io.StringIO(), width=200)
    preprocess(options, tmp_path / "out", Engine(), console)
    printed = console.file.getvalue()  # type: ignore[attr-defined]
    for said in ("contradict each other", "of these first by judgebench", "not found", "record: is not an object"):
        assert said in printed


# Finished, interrupted, in the way


def test_what_is_finished_is_not_made_again(
    options: Preprocess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = run(tmp_path / "out", options)
    before = contents(tmp_path / "out")
    monkeypatch.setattr(module, "ingest", None)
    assert run(tmp_path / "out", options) == report and contents(tmp_path / "out") == before
    for changes in ({"ngram": 6}, {"contradictions": "keep", "ngram": 6}):
        with pytest.raises(
            UserError, match=f"was made with another {', '.join(sorted(changes))}; choose another folder"
        ):
            run(tmp_path / "out", replace(options, **changes))  # type: ignore[arg-type]
    with (tmp_path / "data" / "b.jsonl").open("a") as file:
        file.write("\n")
    with pytest.raises(UserError, match=r"other files \(preprocess\.sources\) than there are now"):
        run(tmp_path / "out", options)
    for path in (tmp_path / "data").iterdir():
        path.unlink()
    assert run(tmp_path / "out", options) == report
    assert options.benchmarks is not None
    (extra := Path(options.benchmarks) / "more.jsonl").write_text("{}\n")
    with pytest.raises(UserError, match=r"other files \(preprocess\.benchmarks\)"):
        run(tmp_path / "out", options)
    extra.unlink()
    (held_out := tmp_path / options.held_out[0]).write_text(held_out.read_text() + "\n")
    with pytest.raises(UserError, match=r"other files \(preprocess\.held_out\)"):
        run(tmp_path / "out", options)
    held_out.unlink()
    assert run(tmp_path / "out", options) == report
    assert contents(tmp_path / "out") == before


def test_what_is_in_the_way_stays(options: Preprocess, tmp_path: Path) -> None:
    lines(tmp_path / "out" / "pool" / "mine.txt", [1])
    with pytest.raises(UserError, match="pool exists and is not empty"):
        run(tmp_path / "out", options)
    assert (tmp_path / "out" / "pool" / "mine.txt").exists()


def test_no_pair_left_is_an_error(options: Preprocess, tmp_path: Path) -> None:
    source = lines(tmp_path / "c.jsonl", RECORDS[1:3])
    with pytest.raises(UserError, match="no pair is left to curate"):
        run(tmp_path / "out", replace(options, sources=[str(source)]))
    assert not (tmp_path / "out" / "pool").exists()
    lines(source, [{"prompt": "q", "responses": ["a", "b"]}] * 2)
    with pytest.raises(UserError, match=r"no record of the sources gives a pair.*undecided"):
        run(tmp_path / "out", replace(options, sources=[str(source)]))


def test_other_options_begin_anew_what_is_not_finished(
    options: Preprocess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(module, "divide", lambda task: 1 / 0)
        with pytest.raises(Exception, match="division by zero"):
            run(tmp_path / "out", options)
    other = replace(options, contradictions="keep", near_duplicates=None)
    assert run(tmp_path / "out", other) == run(tmp_path / "new", other)
    assert contents(tmp_path / "out") == contents(tmp_path / "new")


def test_files_that_changed_meanwhile_count(
    options: Preprocess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the same size, so that only their contents tell."""
    with monkeypatch.context() as patch:
        patch.setattr(module, "account", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run(tmp_path / "out", options)
    held_out, source = tmp_path / "held_out.jsonl", tmp_path / "data" / "b.jsonl"
    held_out.write_text(held_out.read_text().replace('"held out"', '"held off"'))
    source.write_text(source.read_text().replace("hello", "hallo"))
    report = run(tmp_path / "out", options)
    assert report["funnel"]["contaminated"] == 1
    assert run(tmp_path / "new", options) == report and contents(tmp_path / "new") == contents(tmp_path / "out")


@pytest.mark.parametrize("moved", [0, 1])
def test_a_run_that_ends_while_it_moves_its_results_is_completed(
    options: Preprocess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moved: int
) -> None:
    report = run(tmp_path / "whole", options)
    moves: list[Any] = []
    move = os.replace

    def stopping(old: Any, new: Any) -> None:
        if Path(new).parent == tmp_path / "out":
            if len(moves) == moved:
                raise KeyboardInterrupt
            moves.append(new)
        move(old, new)

    with monkeypatch.context() as patch:
        patch.setattr(module.os, "replace", stopping)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "out", options)
    assert not (tmp_path / "out" / "preprocess").exists()
    monkeypatch.setattr(module, "ingest", None)
    assert run(tmp_path / "out", options) == report
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


KILLED = """
import io, os, pickle, signal, sys
from rich.console import Console
from skyrm_jax.curate.engine import Engine
from skyrm_jax.curate.preprocess import preprocess
options, out, left = pickle.loads(bytes.fromhex(sys.argv[1]))
sync = os.fsync
def counted(descriptor):
    global left
    left -= 1
    if left < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    sync(descriptor)
os.fsync = counted
preprocess(options, out, Engine(), Console(file=io.StringIO()))
"""


def test_a_killed_run_goes_on(options: Preprocess, tmp_path: Path) -> None:
    """Killed after some files, again and again in one folder, then completed."""
    report, out = run(tmp_path / "whole", options), tmp_path / "out"
    partial = out / ".preprocess.partial"
    seen: dict[str, int] = {}
    for left in (10, 10, 10, 15):
        packed = pickle.dumps((options, str(out), left)).hex()
        assert subprocess.run([sys.executable, "-c", KILLED, packed], check=False).returncode == -signal.SIGKILL
        # The lock of the killed run does not hold, and what it finished was not made again.
        assert {name: (partial / name).stat().st_mtime_ns for name in seen} == seen
        finished = [*partial.glob("*.parquet"), *partial.glob("pairs/*.json"), *partial.glob("decided/*.json")]
        seen = {str(path.relative_to(partial)): path.stat().st_mtime_ns for path in finished}
    assert {name.partition("/")[0] for name in seen} >= {"pairs", "decided", "contaminated.parquet"}
    assert run(out, options) == report
    assert contents(out) == contents(tmp_path / "whole")


# The account


def test_what_does_not_add_up_is_told() -> None:
    part = Part("00000-0000000001", 0, "a", {"read": 3, "used": 2, "bad: x: y": 1}, 1, 0, 2, 10)
    divided = {"number": 0, "file": "a", "kept": 1, "reasons": {"duplicate": 1}, "by_set": {}, "hits": {}}
    told = account([part], {"a": part.outcomes}, [divided])
    assert told["funnel"]["kept"] == 1 and told["bad"] == {"x: y": 1}
    for wrong in (
        {"kept": 0},
        {"reasons": {"duplicate": 2}},
        {"reasons": {"contaminated": 1}},
    ):
        with pytest.raises(AssertionError, match="do not add up"):
            account([part], {"a": part.outcomes}, [divided | wrong])
    with pytest.raises(AssertionError, match="records"):
        account([part], {"a": part.outcomes | {"read": 4}}, [divided])


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"ngram": 0}, "ngram must be at least 1: 0"),
        ({"overlap": 0}, "overlap must be at least 1: 0"),
        ({"max_bad_share": 2.0}, "max_bad_share must be a share"),
        ({"contradictions": "flip"}, "contradictions must be drop or keep"),
    ],
)
def test_impossible_options_are_refused(values: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=rf"preprocess\.{said}"):
        Preprocess(["a.jsonl"], **values)
    with pytest.raises(UserError, match="form 'csv' is not known"):
        Preprocess(["a.jsonl"], form="csv")


# Processes and Ray

ON = """
import io, pickle, sys
from rich.console import Console
from skyrm_jax.curate import preprocess as module
from skyrm_jax.curate.engine import Engine
options, out, engine = pickle.loads(bytes.fromhex(sys.argv[1]))
module.WORTH_PROCESSES = 0
module.preprocess(options, out, engine, Console(file=io.StringIO()))
"""


@pytest.mark.full
@pytest.mark.parametrize("engine", [Engine(), Engine("ray")])
def test_processes_and_ray_give_the_same(options: Preprocess, tmp_path: Path, engine: Engine) -> None:
    if engine.kind == "ray":
        pytest.importorskip("ray")
    extra = [{"prompt": f"{SAID} {n} {n * n}", "chosen": f"{n % 7}", "rejected": "x"} for n in range(3000)]
    lines(tmp_path / "data" / "c.jsonl", [*extra, *extra[:100]])
    run(tmp_path / "here", options)
    packed = pickle.dumps((options, str(tmp_path / "there"), engine)).hex()
    subprocess.run([sys.executable, "-c", ON, packed], check=True, timeout=600)
    assert contents(tmp_path / "there") == contents(tmp_path / "here")
