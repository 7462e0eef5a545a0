"""Preparing a store: every record is accounted for, the split is by prompt, the result depends on nothing else."""

import dataclasses
import gzip
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from skyrm_jax.chat import TEMPLATES, Chat
from skyrm_jax.comparison import Comparison
from skyrm_jax.data.record import StoredTree
from skyrm_jax.data.store import Store
from skyrm_jax.errors import UserError, run_command
from skyrm_jax.prepare import PrepareOptions, prepare, shard
from skyrm_jax.prepare.__main__ import main
from skyrm_jax.prepare.options import parse_options
from skyrm_jax.prepare.split import prompt_hash, split


def record(i: int, prompt: str | None = None, good: str = "good", bad: str = "bad") -> dict[str, Any]:
    return {"prompt": prompt or f"question {i}", "responses": [good, bad], "preferences": [[0, 1]], "id": f"r{i}"}


def write(path: Path, values: list[Any]) -> str:
    path.write_text("".join(v + "\n" if isinstance(v, str) else json.dumps(v) + "\n" for v in values))
    return str(path)


Run = Callable[..., tuple[Store, str]]


@pytest.fixture
def run(tmp_path: Path, byte_tokenizer: Path) -> Run:
    """Prepares sources with the byte tokenizer; the store and what was printed."""

    def prepared(sources: list[str], **options: Any) -> tuple[Store, str]:
        console = Console(file=io.StringIO(), width=200)
        defaults = {"out": str(tmp_path / "store"), "tokenizer": str(byte_tokenizer), "held_out": 0}
        store = prepare(PrepareOptions(sources, **(defaults | options)), console)
        return store, console.file.getvalue()  # type: ignore[attr-defined]

    return prepared


def test_every_record_is_accounted_for(tmp_path: Path, run: Run) -> None:
    tie = {"instruction": "i", "output_1": "a", "output_2": "b", "preference": None}
    a = write(
        tmp_path / "a.jsonl", [record(0), "{bad", record(1, good="x" * 200), tie, record(2, good="bad"), record(3)]
    )
    b = write(tmp_path / "b.jsonl", [record(4), record(5), tie])
    store, printed = run([a, b], max_tokens=150, max_bad_share=0.5)
    assert store.meta["counts"] == {
        a: {
            "bad: record: is not valid JSON": 1,
            "identical responses, dropped": 1,
            "kept": 2,
            "over-long, dropped": 1,
            "read": 6,
            "undecided (tie or no label)": 1,
        },
        b: {"kept": 2, "read": 3, "undecided (tie or no label)": 1},
    }
    assert [stored.id for stored in store.read(range(4))] == ["r0", "r3", "r4", "r5"]
    assert store.sources == [a, b]
    assert store.index.source(np.arange(4)).tolist() == [0, 0, 1, 1]
    lines = [json.loads(line) for line in (Path(store.directory, "quarantine.jsonl")).read_text().splitlines()]
    assert sorted((Path(e["file"]).name, e["line"]) for e in lines) == [("a.jsonl", 2), ("a.jsonl", 3), ("a.jsonl", 5)]
    for text in (
        "a.jsonl",
        "b.jsonl",
        "over-long, dropped",
        "identical responses",
        "quarantine.jsonl",
        "sharing ratio",
    ):
        assert text in printed


def test_a_stored_comparison_is_the_chats_tree(tmp_path: Path, run: Run, byte_tokenizer: Path) -> None:
    source = write(tmp_path / "a.jsonl", [record(i, good="good" * i) | {"category": "c"} for i in range(1, 4)])
    store, _ = run([source])
    chat = Chat.load(byte_tokenizer, 0)
    for i, stored in enumerate(store.read(range(3)), 1):
        tree = chat.tree(Comparison.of(f"question {i}", ["good" * i, "bad"], chosen=0))
        for field in dataclasses.fields(tree):
            assert np.array_equal(getattr(stored.tree, field.name), getattr(tree, field.name)), field.name
        assert [(p.winner, p.loser) for p in stored.preferences] == [(0, 1)]
        assert stored.category == "c"
    assert store.meta["pad_token_id"] == 0
    assert store.meta["tokenizer_hash"] == chat.tokenizer_hash
    assert store.meta["template_hash"] == chat.template_hash


def test_the_pad_token_is_the_tokenizers_unless_the_model_says_otherwise(tmp_path: Path, run: Run) -> None:
    source = write(tmp_path / "a.jsonl", [record(0)])
    for given_id, expected in [("tokenizer", 0), (None, None), (7, 7)]:
        store, _ = run([source], pad_token_id=given_id, overwrite=True)
        assert store.meta["pad_token_id"] == expected


def test_truncated_comparisons_are_counted(tmp_path: Path, run: Run) -> None:
    source = write(tmp_path / "a.jsonl", [record(0), record(1, prompt="x" * 200), record(2, good="y" * 200)])
    store, printed = run([source], max_tokens=100, over_long="truncate_left")
    assert store.meta["counts"][source] == {"kept": 2, "over-long, dropped": 1, "read": 3, "truncated": 1}
    assert store.index.column("longest").tolist()[1] == 100
    assert store[1].tree.truncated > 100
    assert "of these truncated" in printed


def test_responses_made_equal_by_truncation_or_template_teach_nothing(tmp_path: Path, run: Run) -> None:
    source = write(tmp_path / "a.jsonl", [record(0, prompt="x" * 200), record(1)])
    store, _ = run([source], max_tokens=100, over_long="truncate_right")
    assert store.meta["counts"][source] == {"kept": 1, "over-long, identical once truncated": 1, "read": 2}

    (tmp_path / "trim.jinja").write_text("{% for m in messages %}{{ m.content | trim }}{% endfor %}")
    source = write(tmp_path / "b.jsonl", [record(0, good="same", bad="same "), record(1)])
    options = {"template": str(tmp_path / "trim.jinja"), "max_bad_share": 0.5, "overwrite": True}
    store, _ = run([source], **options)
    assert store.meta["counts"][source]["identical responses, dropped"] == 1
    assert len(store) == 1
    assert len(run([source], training=False, **options)[0]) == 2


def test_empty_responses_are_dropped_unless_wanted(tmp_path: Path, run: Run) -> None:
    source = write(tmp_path / "a.jsonl", [record(0, bad=""), record(1), record(2, good=" \n")])
    store, _ = run([source], max_bad_share=0)
    assert store.meta["counts"][source] == {"empty response, dropped": 2, "kept": 1, "read": 3}
    lines = [json.loads(line) for line in Path(store.directory, "quarantine.jsonl").read_text().splitlines()]
    assert [(e["line"], e["reason"], e["detail"]) for e in lines] == [
        (1, "is empty", "response 1"), (3, "is empty", "response 0"),
    ]  # fmt: skip
    assert len(run([source], empty="keep", overwrite=True)[0]) == 3
    assert len(run([source], training=False, overwrite=True)[0]) == 3


def test_more_preferences_than_can_be_stored_are_put_aside(tmp_path: Path, run: Run) -> None:
    scored = {"prompt": "q", "responses": [str(i) for i in range(400)], "scores": list(range(400))}
    store, _ = run([write(tmp_path / "a.jsonl", [record(0), scored])], max_bad_share=0.5)
    assert len(store) == 1 and "bad: preferences: are too many" in store.meta["counts"][str(tmp_path / "a.jsonl")]


def test_without_training_ties_and_identical_responses_are_kept(tmp_path: Path, run: Run) -> None:
    tie = {"instruction": "i", "output_1": "a", "output_2": "b", "preference": 1.5}
    store, _ = run([write(tmp_path / "a.jsonl", [record(0, good="bad"), tie])], training=False)
    assert store.index.column("pairs").tolist() == [1, 0]
    assert store.index.column("leaves").tolist() == [1, 2]
    assert store.index.column("weight").tolist() == [1.0, 0.0]


def test_the_same_records_and_options_give_the_same_bytes(tmp_path: Path, run: Run) -> None:
    source = write(tmp_path / "a.jsonl", [record(i) for i in range(30)] + ["{"])
    one, _ = run([source], out=str(tmp_path / "one"), held_out=0.3)
    two, _ = run([source], out=str(tmp_path / "two"), held_out=0.3)
    names = [p.name for p in Path(one.directory).iterdir()]
    assert len(names) == 8
    for name in names:
        assert (Path(one.directory) / name).read_bytes() == (Path(two.directory) / name).read_bytes(), name


def test_where_things_are_leaves_no_trace(tmp_path: Path, run: Run, byte_tokenizer: Path) -> None:
    made = []
    for place in (tmp_path / "here", tmp_path / "there" / "deep"):
        place.mkdir(parents=True)
        shutil.copytree(byte_tokenizer, place / f"tokenizer of {place.name}")
        (place / f"{place.name}.jinja").write_text(TEMPLATES["chatml"])
        (place / "data").mkdir()
        write(place / "data" / "a.jsonl", [record(i) for i in range(30)] + ["{"])
        write(place / "b.jsonl", [record(40), record(41, good="")])
        options = {
            "tokenizer": str(place / f"tokenizer of {place.name}"),
            "template": str(place / f"{place.name}.jinja"),
        }
        store, _ = run(["data/*.jsonl", "b.jsonl"], root=str(place), out=str(place / "store"), **options)
        made.append({path.name: path.read_bytes() for path in Path(store.directory).iterdir()})
    assert made[0] == made[1] and "quarantine.jsonl" in made[0]
    assert not any(str(tmp_path).encode() in content for content in made[0].values())
    entries = [json.loads(line) for line in made[0]["quarantine.jsonl"].splitlines()]
    assert [(e["file"], e["line"]) for e in entries] == [("data/a.jsonl", 31), ("b.jsonl", 2)]
    chat = Chat.load(byte_tokenizer)
    assert store.meta["options"] == {
        "tokenizer": chat.tokenizer_hash,
        "template": chat.template_hash,
        "form": "auto",
        "pad_token_id": "tokenizer",
        "max_tokens": 16384,
        "over_long": "drop",
        "empty": "drop",
        "held_out": 0,
        "seed": 0,
        "max_bad_share": 0.05,
        "dedup": True,
        "training": True,
    }
    store, _ = run(["b.jsonl"], root=str(place))
    assert store.meta["options"]["template"] is None


def test_the_report_stays_in_the_store(tmp_path: Path, run: Run) -> None:
    turns = [{"role": role, "content": "x"} for role in ("user", "assistant", "user")]
    source = write(tmp_path / "a.jsonl", [*(record(i) for i in range(9)), record(10) | {"prompt": turns}, "{"])
    store, _ = run([source], held_out=3, max_bad_share=0.5)
    told = json.loads(Path(store.directory, "report.json").read_text())
    assert told["counts"] == store.meta["counts"]
    assert told["turns"] == {"2": 9, "4": 1}
    totals, longest = store.meta["totals"], store.index.column("longest")
    figures = told["store"]
    assert [figures[name] for name in ("comparisons", "held out", "pairs")] == [10, 3, 10]
    assert [figures["tokens"], figures["tokens without sharing"]] == [totals["tokens"], totals["unshared"]]
    assert figures["sharing ratio"] == totals["unshared"] / totals["tokens"] > 1
    assert figures["longest conversation, mean"] == pytest.approx(longest.mean())
    assert figures["messages of the longest conversation, mean"] == pytest.approx(2.2)
    for name in ("longest", "tokens"):
        counted, _ = np.histogram(store.index.column(name), told["lengths"]["edges"])
        assert told["lengths"][name] == counted.tolist() and counted.sum() == 10


def pairs(stored: StoredTree) -> list[tuple[int, int]]:
    return [(p.winner, p.loser) for p in stored.preferences]


def test_only_the_pairs_of_identical_responses_are_removed(tmp_path: Path, run: Run) -> None:
    scored = {"prompt": "q", "responses": ["a", "b", "a", "c"], "scores": [4, 3, 2, 1], "id": "four"}
    again = {"prompt": "q", "responses": ["a", "b", "a", "c"], "id": "again"}
    again["preferences"] = [[0, 1], [0, 3], [1, 2], [1, 3], [2, 3]]
    hopeless = {"prompt": "r", "responses": ["a", "a", "a", "b"], "preferences": [[0, 1], [2, 1]]}
    source = write(tmp_path / "a.jsonl", [scored, again, hopeless])
    store, printed = run([source], max_bad_share=0)
    assert store.meta["counts"][source] == {
        "identical responses, dropped": 1,
        "kept": 1,
        "read": 3,
        "repeats an earlier record": 1,
        "identical pairs removed": 1,
    }
    assert "in these, identical pairs removed" in printed
    assert pairs(store[0]) == [(0, 1), (0, 3), (1, 2), (1, 3), (2, 3)]
    assert len(store[0].tree.leaf) == 4 and len(store[0].tree.reward_index) == 3
    evaluated, _ = run([source], training=False, overwrite=True)
    assert [len(one.preferences) for one in evaluated.read(range(3))] == [6, 5, 2]
    assert evaluated[0].tree.leaf[0] == evaluated[0].tree.leaf[2]  # an exact tie
    assert evaluated.meta["counts"][source] == {"kept": 3, "read": 3}


def test_only_pairs_that_truncation_makes_alike_are_removed(tmp_path: Path, run: Run) -> None:
    long = "x" * 200
    responses = {"responses": [f"{long}1", f"{long}2", "short"], "preferences": [[0, 1], [2, 0]]}
    store, _ = run([write(tmp_path / "a.jsonl", [record(0) | responses])], max_tokens=100, over_long="truncate_right")
    assert pairs(store[0]) == [(2, 0)]
    assert store.meta["counts"][str(tmp_path / "a.jsonl")] == {
        "kept": 1, "read": 1, "truncated": 1, "identical pairs removed": 1,
    }  # fmt: skip


def test_only_empty_responses_are_removed(tmp_path: Path, run: Run, byte_tokenizer: Path) -> None:
    scored = {"prompt": "q", "responses": ["a", " ", "b", "c"], "scores": [1, 2, 3, 4], "id": "four"}
    left = {"prompt": "r", "responses": ["", "a", "b", ""], "preferences": [[0, 1], [2, 3]]}
    source = write(tmp_path / "a.jsonl", [scored, left])
    store, printed = run([source], max_bad_share=0)
    assert store.meta["counts"][source] == {
        "empty response, dropped": 1, "kept": 1, "read": 2, "empty responses removed": 1,
    }  # fmt: skip
    assert "in these, empty responses removed" in printed
    (stored,) = store.read(range(len(store)))
    assert sorted(pairs(stored)) == [(1, 0), (2, 0), (2, 1)]
    tree = Chat.load(byte_tokenizer, 0).tree(Comparison.of("q", ["a", "b", "c"]))
    assert np.array_equal(stored.tree.tokens, tree.tokens) and np.array_equal(stored.tree.leaf, tree.leaf)
    for kept in ({"empty": "keep"}, {"training": False}):
        store, _ = run([source], overwrite=True, **kept)
        assert [len(one.tree.leaf) for one in store.read(range(2))] == [4, 4]
        assert [len(one.preferences) for one in store.read(range(2))] == [6, 2]


def test_the_commit_of_a_hub_data_set_is_recorded_and_read(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    datasets = pytest.importorskip("datasets", reason="needs skyrm-jax[hub]")
    asked: list[Any] = []

    def dataset_info(self: Any, id: str, revision: str | None, timeout: float) -> Any:
        if id == "owner/none":
            raise OSError("no such data set")
        asked.append(revision)
        return SimpleNamespace(sha="c0ffee")

    def load_dataset(id: str, config: str | None, split: str, revision: str, streaming: bool) -> Any:
        asked.append(revision)
        return [record(i) for i in range(3)]

    monkeypatch.setattr("huggingface_hub.HfApi.dataset_info", dataset_info)
    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    source = "hub://owner/set?revision=v1"
    store, _ = run([source], workers=0)
    assert asked == ["v1", "c0ffee"]
    assert store.meta["revisions"] == {source: "c0ffee"}
    assert store.sources == [source]
    with pytest.raises(UserError, match="hub://owner/none: cannot be found on the Hub: OSError: no such data set"):
        run(["hub://owner/none"], overwrite=True)


def test_batches_leave_no_trace(tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write(tmp_path / "a.jsonl", [record(i) for i in range(20)])
    one, _ = run([source], out=str(tmp_path / "one"))
    monkeypatch.setattr(shard, "BATCH", 3)
    assert one.fingerprint == run([source], out=str(tmp_path / "two"))[0].fingerprint


def held_out_ids(store: Store) -> set[str]:
    return {stored.id for stored in store.read(store.index.held_out)}


def test_the_split_is_by_prompt_and_does_not_depend_on_the_order_of_files(tmp_path: Path, run: Run) -> None:
    records = [record(i, prompt=f"p{i % 20}", good=f"good {i}") for i in range(60)]
    a, b = write(tmp_path / "a.jsonl", records[:25]), write(tmp_path / "b.jsonl", records[25:])
    one = held_out_ids(run([a, b], held_out=15)[0])
    assert len(one) == 15
    prompts = {int(id[1:]) % 20 for id in one}
    assert len(prompts) == 5
    assert one == {f"r{i}" for i in range(60) if i % 20 in prompts}
    assert held_out_ids(run([b, a], held_out=15, overwrite=True)[0]) == one
    assert held_out_ids(run([a, b], held_out=0.25, overwrite=True)[0]) == one
    assert held_out_ids(run([a, b], held_out=15, seed=1, overwrite=True)[0]) != one


@given(st.lists(st.integers(0, 9), min_size=2, max_size=60), st.data())
def test_split_takes_whole_prompts_and_no_more_than_asked_for(prompts: list[int], data: st.DataObject) -> None:
    hashes = np.array([prompt_hash(Comparison.of(str(p), ["a"]), 0) for p in prompts], np.uint64)
    wanted = data.draw(st.integers(0, len(prompts) - 1))
    sizes = {p: prompts.count(p) for p in prompts}
    if wanted and min(sizes.values()) > wanted:
        with pytest.raises(UserError, match="every prompt has more"):
            split(hashes, wanted)
        return
    taken = split(hashes, wanted)
    assert all(len(set(taken[hashes == h].tolist())) == 1 for h in hashes)
    assert taken.sum() <= wanted
    # What is missing is too little for any prompt that is left.
    left = [sizes[p] for p, t in zip(prompts, taken, strict=True) if not t]
    assert min(left) > wanted - taken.sum()


def test_split_holds_out_nothing_or_says_that_all_is_too_much() -> None:
    hashes = np.arange(10, dtype=np.uint64)
    assert not split(hashes, 0).any()
    assert split(hashes, 0.2).sum() == split(hashes, 2).sum() == 2
    for held_out in (10, 0.99, 11):
        with pytest.raises(UserError, match="leaves nothing to train on"):
            split(hashes, held_out)


def test_prompt_hash_sees_the_opening_of_the_prompt_and_the_seed() -> None:
    user, system = {"role": "user", "content": "a"}, {"role": "system", "content": "a"}
    one = prompt_hash(Comparison.of("a", ["x"]), 0)
    assert one == prompt_hash(Comparison.of([user], ["y", "z"], id="other"), 0)
    longer = [user, {"role": "assistant", "content": "x"}, {"role": "user", "content": "b"}]
    assert one == prompt_hash(Comparison.of(longer, ["y"]), 0)
    others = [Comparison.of("b", ["x"]), Comparison.of([system, user], ["x"])]
    assert len({one, prompt_hash(Comparison.of("a", ["x"]), 1), *(prompt_hash(c, 0) for c in others)}) == 4


def test_after_too_many_bad_records_the_quarantine_can_be_read(tmp_path: Path, run: Run) -> None:
    source = write(tmp_path / "a.jsonl", [record(0), "{", "{"])
    with pytest.raises(UserError, match="max_bad_share") as caught:
        run([source])
    file = tmp_path / ".store.partial" / "quarantine.jsonl"
    assert str(file) in str(caught.value)
    assert len(file.read_text().splitlines()) == 2
    assert not (tmp_path / "store").exists()


def test_bad_records_found_while_tokenising_count_too(tmp_path: Path, run: Run) -> None:
    (tmp_path / "strict.jinja").write_text(
        "{{ messages[0].content if messages[0].content != 'no' else raise_exception('!') }}{{ messages[-1].content }}"
    )
    source = write(tmp_path / "a.jsonl", [record(0), record(1, prompt="no")])
    options = {"template": str(tmp_path / "strict.jinja")}
    with pytest.raises(UserError, match=r"1 of 2 records are bad.*refused by the chat template"):
        run([source], **options)
    store, _ = run([source], max_bad_share=0.5, **options)
    assert store.meta["counts"][source]["bad: record: is refused by the chat template"] == 1


def test_nothing_left_is_an_error(tmp_path: Path, run: Run) -> None:
    source = write(tmp_path / "a.jsonl", [record(0)])
    with pytest.raises(UserError, match=r"no comparison is left to store.*over-long, dropped.: 1"):
        run([source], max_tokens=5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_tokens": 1}, "max_tokens must be at least 2: 1"),
        ({"held_out": -1}, "held_out must not be negative"),
        ({"held_out": 1.5}, "held_out must be whole"),
        ({"seed": -1}, "seed must not be negative"),
        ({"out": "gs://bucket/store"}, "out must be a local folder"),
        ({"max_bad_share": 2}, "max_bad_share must be a share"),
    ],
)
def test_impossible_options_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        PrepareOptions(**({"sources": ["a"], "out": "out", "tokenizer": "tokenizer"} | options))


def test_a_file_named_twice_is_refused(tmp_path: Path, run: Run) -> None:
    write(tmp_path / "a.jsonl", [record(0)])
    with pytest.raises(UserError, match="name a file twice"):
        run(["a.jsonl", "../" + tmp_path.name + "/a.jsonl"], root=str(tmp_path))


def test_the_command_reads_yaml_and_overrides(tmp_path: Path, byte_tokenizer: Path, capsys: Any) -> None:
    write(tmp_path / "a.jsonl", [record(i) for i in range(10)])
    config = tmp_path / "prepare.yaml"
    config.write_text(f"sources: [a.jsonl]\ntokenizer: {byte_tokenizer}\nout: {tmp_path / 'store'}\nheld_out: 3\n")
    arguments = ["--config", str(config), "--root", str(tmp_path)]
    assert parse_options([*arguments, "--held_out", "0.5"]).held_out == 0.5
    main(arguments)
    assert "What became of every record" in capsys.readouterr().out
    store = Store.open(tmp_path / "store")
    assert (len(store), len(store.index.held_out), store.sources) == (10, 3, ["a.jsonl"])
    assert str(tmp_path) not in json.dumps(store.meta["counts"])
    options = parse_options(["b.jsonl", "c.jsonl", "--tokenizer", "t", "--out", "o", "--pad_token_id", "null"])
    assert (options.sources, options.pad_token_id) == (["b.jsonl", "c.jsonl"], None)

    config.write_text(config.read_text() + "heldout: 3\n")
    with pytest.raises(SystemExit):
        main(arguments)
    assert "heldout" in capsys.readouterr().err


def test_a_user_error_is_one_line_and_exit_code_2(
    tmp_path: Path, byte_tokenizer: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["none.jsonl", "--tokenizer", str(byte_tokenizer), "--out", str(tmp_path / "store")]
    monkeypatch.delenv("SKYRM_TRACEBACK", raising=False)
    assert run_command(lambda _: main(arguments)) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: none.jsonl: there is no such file")
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setenv("SKYRM_TRACEBACK", "1")
    with pytest.raises(UserError):
        run_command(lambda _: main(arguments))
    assert run_command(lambda _: None) == 0


def test_real_hh_rlhf(shared: Path, run: Run) -> None:
    source = "data/preferences/hh-rlhf/harmless-base_test.jsonl.gz"
    store, _ = run([source], root=str(shared), tokenizer=str(shared / "tokenizers/qwen3"), held_out=400, empty="keep")
    assert store.meta["counts"] == {source: {"kept": 2312, "read": 2312}}
    assert len(store.index.held_out) == 400
    assert store.meta["totals"]["unshared"] == 796351
    with gzip.open(shared / source, "rt") as lines:
        opened = [json.loads(line)["chosen"].split("\n\nAssistant:")[0] for line in lines]
    held_out, training = (
        {opened[i] for i in np.flatnonzero(side)} for side in (store.index.is_held_out, ~store.index.is_held_out)
    )
    assert not held_out & training
    assert 1.5 < store.meta["totals"]["unshared"] / store.meta["totals"]["tokens"] < 1.6


def test_real_alpaca_eval(shared: Path, run: Run) -> None:
    sources = ["claude-2.1__annotations.json", "phi-2__annotations.json"]
    tokenizer = {"tokenizer": str(shared / "models/stories260k"), "template": "plain"}
    store, _ = run(sources, root=str(shared / "data/preferences/alpaca_eval"), held_out=0.2, **tokenizer)
    assert store.meta["counts"] == {
        sources[0]: {"kept": 803, "read": 805, "undecided (tie or no label)": 2},
        sources[1]: {"empty response, dropped": 2, "kept": 775, "read": 805, "undecided (tie or no label)": 28},
    }
    assert len(store.index.held_out) == 316
    assert {stored.category for stored in store.read(range(len(store)))} == {"claude-2.1", "phi-2"}
    # The same prompts are judged for both models, in the same order: none is on both sides.
    held_out, training = (
        {int(stored.id.split(":")[1]) for stored in store.read(np.flatnonzero(side))}
        for side in (store.index.is_held_out, ~store.index.is_held_out)
    )
    assert not held_out & training
