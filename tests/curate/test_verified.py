"""What people answer: mapped back to the pairs, strictly read, and never counted twice."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skyrm_jax.comparison import Message
from skyrm_jax.curate.attributes import Attributes
from skyrm_jax.curate.humans.batch import VERDICTS, read_items, read_key, write_batch
from skyrm_jax.curate.humans.queue import Waiting
from skyrm_jax.curate.humans.verified import Imported, Verified, agreement, read_answers, verify
from skyrm_jax.curate.pair import Pair
from skyrm_jax.errors import UserError

ATTRIBUTES = Attributes("Math", "Objective", "Low", "correctness", "Check the result.")


def pairs(count: int, flipped: Sequence[bool] = ()) -> list[Pair]:
    """Pairs of a better and a worse response, labelled so, or the other way round where `flipped` says so."""
    plain = [
        Pair.of((Message("user", f"q{n}"),), (Message("assistant", f"better {n}"),), (Message("assistant", f"{n}"),))
        for n in range(count)
    ]
    return [pair.flipped() if n < len(flipped) and flipped[n] else pair for n, pair in enumerate(plain)]


@pytest.fixture
def batch(tmp_path: Path) -> Path:
    """The folder of a batch `b` of 4 pairs, of which the first two are labelled wrongly."""
    write_batch(tmp_path, "b", [Waiting(pair, ATTRIBUTES) for pair in pairs(4, [True, True])], 0)
    return tmp_path


def lines(folder: Path, name: str = "b") -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / f"{name}.jsonl").read_text().splitlines()]


def truth(line: dict[str, Any]) -> str:
    """The answer of somebody who knows the better response, from what the file shows."""
    return next(v for v, c in zip(VERDICTS, line["candidates"], strict=False) if "better" in c[0]["content"])


def answered(line: dict[str, Any], annotator: str = "ann", **values: Any) -> dict[str, Any]:
    """An item's line, filled in."""
    return line | {"verdict": truth(line), "annotator": annotator} | values


def answer(folder: Path, *rows: dict[str, Any] | str, file: str = "b.answers.jsonl") -> Path:
    path = folder / file
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def taken(folder: Path, *files: Path, annotators: int = 1) -> Imported:
    return verify(read_key(folder, "b"), read_answers(files), annotators)


def verdicts(imported: Imported) -> list[str]:
    return [one.verdict for one in imported.verified]


TEXTS = st.text(st.characters(codec="utf-8"), min_size=1, max_size=8)


@given(st.data())
def test_an_item_that_goes_out_and_comes_back_gives_the_truth(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    count = data.draw(st.integers(1, 6))
    texts = data.draw(st.lists(TEXTS, min_size=3 * count, max_size=3 * count, unique=True))
    better = data.draw(st.lists(st.sampled_from(["chosen", "rejected", "none"]), min_size=count, max_size=count))
    pool = [
        Pair.of((Message("user", a),), (Message("assistant", b),), (Message("assistant", c),))
        for a, b, c in zip(texts[::3], texts[1::3], texts[2::3], strict=True)
    ]
    folder = tmp_path_factory.mktemp("batch")
    write_batch(folder, "b", [Waiting(pair) for pair in pool], data.draw(st.integers(0, 9)))
    known = {pair.prompt: getattr(pair, side, None) for pair, side in zip(pool, better, strict=True)}

    rows = []
    for item, line in zip(read_items(folder / "b.jsonl"), lines(folder), strict=True):
        best = known[item.prompt]
        rows.append(line | {"annotator": "ann", "verdict": VERDICTS[(*item.candidates, best).index(best)]})
    found = taken(folder, answer(folder, *data.draw(st.permutations(rows))))
    meaning = {"chosen": "original", "rejected": "flipped", "none": "none"}
    assert found.verified == tuple(
        Verified(pair.id, meaning[side], ("ann",), None)  # type: ignore[arg-type]
        for pair, side in zip(pool, better, strict=True)
    )
    assert (found.waiting, found.agreement) == ((), None)


def test_always_the_first_candidate_is_right_half_of_the_time(tmp_path: Path) -> None:
    write_batch(tmp_path, "b", [Waiting(pair) for pair in pairs(400)], 0)
    rows = [line | {"verdict": "candidate 1", "annotator": "lazy"} for line in lines(tmp_path)]
    assert 160 < verdicts(taken(tmp_path, answer(tmp_path, *rows))).count("original") < 240  # 4 standard deviations


def test_what_is_open_waits_and_importing_more_adds_to_it(batch: Path) -> None:
    ids = [pair.id for pair in pairs(4, [True, True])]
    rows = lines(batch)
    one = taken(batch, answer(batch, *rows[:2], answered(rows[2]), rows[3] | {"annotator": "ann"}))
    assert verdicts(one) == ["original"] and one.waiting == (ids[0], ids[1], ids[3])
    assert one == taken(batch, batch / "b.answers.jsonl", batch / "b.answers.jsonl")
    more = answer(batch, answered(rows[0], "bob"), answered(rows[2], "ann"), file="b.answers.more.jsonl")
    both = taken(batch, batch / "b.answers.jsonl", more)
    assert verdicts(both) == ["flipped", "original"] and both.waiting == (ids[1], ids[3])
    assert both == taken(batch, more, batch / "b.answers.jsonl")


def test_a_bare_answer_will_do(batch: Path) -> None:
    row = {name: answered(lines(batch)[0])[name] for name in ("batch", "item", "verdict", "annotator")}
    whole = row | {"seconds": 12, "note": "easy", "time": "2025-07-02T10:00:00Z", "attributes": {}}
    assert taken(batch, answer(batch, row)) == taken(batch, answer(batch, whole))
    (read,) = read_answers([batch / "b.answers.jsonl"])
    assert (read.seconds, read.note, read.time) == (12.0, "easy", "2025-07-02T10:00:00Z")


@pytest.mark.parametrize(
    ("given", "verdict"),
    [
        (["better", "better", "worse"], "flipped"),
        (["worse", "better", "worse", "better", "better"], "flipped"),
        (["worse", "worse", "better"], "original"),
        (["better", "worse"], "none"),
        (["better", "better", "worse", "undecidable"], "none"),  # no more than half
        (["undecidable", "undecidable", "worse"], "none"),
    ],
)
def test_more_than_half_decide(batch: Path, given: list[str], verdict: str) -> None:
    line = lines(batch)[0]
    best = truth(line)
    say = {"better": best, "worse": next(v for v in VERDICTS if v != best), "undecidable": "undecidable"}
    rows = [answered(line, f"a{n}", verdict=say[word]) for n, word in enumerate(given)]
    (one,) = taken(batch, answer(batch, *reversed(rows))).verified
    assert (one.verdict, one.annotators) == (verdict, tuple(f"a{n}" for n in range(len(given))))


def test_an_item_waits_for_as_many_as_it_needs(batch: Path) -> None:
    first, second, *_ = lines(batch)
    path = answer(batch, answered(first, "ann"), answered(first, "ann"), answered(second, "ann"), answered(second, "b"))
    found = taken(batch, path, annotators=2)
    assert [one.annotators for one in found.verified] == [("ann", "b")]
    assert found.waiting[0] == pairs(1, [True])[0].id and len(found.waiting) == 3


def test_changed_attributes_come_back_and_unchanged_ones_do_not(batch: Path) -> None:
    rows = lines(batch)
    sent = rows[0]["attributes"]
    mended = replace(ATTRIBUTES, annotation_guideline="Do the sum.")
    found = taken(
        batch,
        answer(
            batch,
            answered(rows[0]),
            answered(rows[1], attributes=sent | {"annotation_guideline": " Do the sum. "}),
            answered(rows[2], attributes={"preference_objectivity": "subjective"}),
            # Of three people two agree; of two who do not, the first by name counts.
            answered(rows[3], "zoe", attributes={"controversiality": "High"}),
            answered(rows[3], "yan", attributes={"controversiality": "High"}),
            answered(rows[3], "ann", attributes={"controversiality": "Medium"}),
        ),
    )
    assert [one.attributes for one in found.verified] == [
        None,
        mended,
        replace(ATTRIBUTES, preference_objectivity="Subjective"),
        replace(ATTRIBUTES, controversiality="High"),
    ]
    rows = [answered(rows[0], "b", attributes={"controversiality": "High"}), answered(rows[0], "a", attributes=sent)]
    rows += [answered(rows[0], "c", attributes={"controversiality": "Medium"})]
    assert taken(batch, answer(batch, *rows)).verified[0].attributes == replace(ATTRIBUTES, controversiality="High")


def test_a_pair_without_attributes_can_get_all_of_them_but_not_some(tmp_path: Path) -> None:
    write_batch(tmp_path, "b", [Waiting(pair) for pair in pairs(1)], 0)
    (line,) = lines(tmp_path)
    assert line["attributes"] is None
    (one,) = taken(tmp_path, answer(tmp_path, answered(line, attributes=ATTRIBUTES.row()))).verified
    assert one.attributes == ATTRIBUTES
    path = answer(tmp_path, answered(line, attributes={"task_category": "Math"}))
    with pytest.raises(UserError, match=r"b\.answers\.jsonl:1: attributes\.preference_objectivity, .*: missing"):
        taken(tmp_path, path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"verdict": "candidate 3"}, "verdict: is not known"),
        ({"verdict": "original"}, "verdict: is not known"),
        ({"verdict": 1}, "verdict: is not known"),
        ({"verdict": ["candidate 1"]}, "verdict: is not known"),
        ({"annotator": None}, "annotator: is missing"),
        ({"annotator": " "}, "annotator: is missing"),
        ({"annotator": 7}, "annotator: is not text"),
        ({"item": None}, "item: is missing"),
        ({"batch": ""}, "batch: is missing"),
        ({"seconds": -1}, "seconds: is not a time spent"),
        ({"seconds": "12"}, "seconds: is not a time spent"),
        ({"seconds": True}, "seconds: is not a time spent"),
        ({"seconds": float("nan")}, "seconds: is not a time spent"),
        ({"seconds": 10**400}, "seconds: is not a time spent"),
        ({"time": "yesterday"}, "time: is not a time"),
        ({"time": 5}, "time: is not text"),
        ({"note": ["x"]}, "note: is not text"),
        ({"verdit": "candidate 1"}, "verdit: is not known"),
        ({"attributes": "Math"}, "attributes: is not an object"),
        ({"attributes": {"category": "Math"}}, r"attributes\.category: is not known"),
        ({"attributes": {"task_category": "Maths"}}, r"attributes\.task_category: is not known \('Maths'\)"),
        ({"attributes": {"annotation_guideline": ""}}, r"attributes\.annotation_guideline: is missing"),
    ],
)
def test_a_bad_line_is_named_with_its_fault(batch: Path, change: dict[str, Any], message: str) -> None:
    first, second, *_ = lines(batch)
    path = answer(batch, answered(first), "", answered(second, **change))
    with pytest.raises(UserError, match=rf"b\.answers\.jsonl:3: {message}.*; "):
        taken(batch, path)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"verdict": "candidate 1"', "record: is not valid JSON"),
        ("[1]", "answer: is not an object"),
        ('{"item": "x", "batch": "b", "annotator": "ann"}', "verdict: is missing"),
    ],
)
def test_a_line_that_is_no_answer_is_named(batch: Path, line: str, message: str) -> None:
    with pytest.raises(UserError, match=rf"b\.answers\.jsonl:2: {message}"):
        taken(batch, answer(batch, answered(lines(batch)[0]), line))


def test_files_that_are_not_there_or_hold_nothing_are_errors(batch: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        taken(batch, batch / "none.jsonl")
    with pytest.raises(UserError, match="empty"):
        taken(batch, answer(batch))


def test_two_answers_of_one_annotator_are_one_if_alike_and_an_error_if_not(batch: Path) -> None:
    line = lines(batch)[0]
    # Nobody changed the attributes: what was left out and what was sent back as it was are the same.
    alike = [answered(line, seconds=3), answered(line, seconds=4, note="again", attributes=None)]
    assert taken(batch, answer(batch, *alike)).verified[0].annotators == ("ann",)
    for change in ({"verdict": "undecidable"}, {"attributes": {"controversiality": "High"}}):
        path = answer(batch, answered(line), answered(lines(batch)[1]), answered(line, **change))
        with pytest.raises(UserError, match=r"b\.answers\.jsonl:1 and .*b\.answers\.jsonl:3: ann gives two answers"):
            taken(batch, path)


def test_answers_to_another_batch_name_both(batch: Path) -> None:
    write_batch(batch, "c", [Waiting(pair, ATTRIBUTES) for pair in pairs(4, [True, True])], 0)
    path = answer(batch, answered(lines(batch)[0]), answered(lines(batch, "c")[0]))
    with pytest.raises(UserError, match=r"b\.answers\.jsonl:2: answers batch c, and is read as one to batch b"):
        taken(batch, path)


def test_answers_to_a_batch_made_anew_in_another_order_are_not_taken(batch: Path) -> None:
    rows = [answered(line) for line in lines(batch)]
    assert verdicts(taken(batch, answer(batch, *rows))) == ["flipped", "flipped", "original", "original"]
    (batch / "b.answers.jsonl").unlink()
    before = read_key(batch, "b").origins.values()
    write_batch(batch, "b", [Waiting(pair, ATTRIBUTES) for pair in pairs(4, [True, True])], 1)
    turned = [
        one.swapped != two.swapped for one, two in zip(before, read_key(batch, "b").origins.values(), strict=True)
    ]
    assert sorted(set(turned)) == [False, True]
    for row, is_turned, verdict in zip(rows, turned, ["flipped", "flipped", "original", "original"], strict=True):
        path = answer(batch, row)
        if is_turned:
            with pytest.raises(UserError, match=r":1: item .* is not in batch b; if the batch was made anew"):
                taken(batch, path)
        else:
            assert verdicts(taken(batch, path)) == [verdict]


def test_agreement_is_krippendorffs() -> None:
    # Four observers, twelve units, values missing: the example of his paper of 2011, section C, whose alpha is 0.743.
    observers = ["123321412...", "1233224125.3", ".3332342251.", "12332441251."]
    units = [[value for value in unit if value != "."] for unit in zip(*observers, strict=True)]
    found = agreement(units)
    assert found is not None
    assert found.alpha == pytest.approx(0.743, abs=5e-4)
    assert found.items == 11


def test_agreement_of_few_answers() -> None:
    one, two, undecidable = VERDICTS
    assert agreement([]) is None and agreement([[one], [], [two]]) is None
    found = agreement([[one, one], [one]])
    assert found is not None and (found.items, found.share, found.alpha) == (1, 1.0, None)
    found = agreement([[one, one], [two, two], [one, two, undecidable]])
    assert found is not None and (found.items, found.share) == (3, 0.4)
    found = agreement([[one, two]] * 10)
    assert found is not None and found.alpha is not None and found.share == 0 and found.alpha < 0


def test_agreement_comes_with_the_answers(batch: Path) -> None:
    rows = lines(batch)
    other = next(v for v in VERDICTS if v != truth(rows[1]))
    path = answer(
        batch,
        *(answered(row, who) for row in rows[2:] for who in ("ann", "bob")),
        answered(rows[1], "ann"),
        answered(rows[1], "bob", verdict=other),
        answered(rows[0], "ann"),
    )
    found = taken(batch, path).agreement
    assert found is not None and (found.items, found.share) == (3, pytest.approx(2 / 3))
