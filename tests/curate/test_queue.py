"""Which pairs people see first, and that what they are sent tells them nothing."""

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skyrm_jax.comparison import Message
from skyrm_jax.curate.attributes import Attributes
from skyrm_jax.curate.humans.batch import BLANK, read_items, read_key, write_batch
from skyrm_jax.curate.humans.queue import HumanQueue, Opinion, Waiting, first
from skyrm_jax.curate.pair import Pair
from skyrm_jax.errors import UserError


def pair(n: int, **names: str) -> Pair:
    return Pair.of(
        (Message("user", f"question {n}"),),
        (Message("assistant", f"good {n}"),),
        (Message("assistant", f"bad {n}"),),
        **names,
    )


def attributes(objectivity: str = "Objective", controversiality: str = "Low") -> Attributes:
    return Attributes("Math", objectivity, controversiality, "correctness", "Check the result.")


def flipped(waiting: Waiting) -> Waiting:
    """The same pair with the label turned round."""
    return replace(waiting, pair=waiting.pair.flipped())


def some(count: int) -> list[Waiting]:
    return [Waiting(pair(n), attributes(), n / count) for n in range(count)]


def test_objective_then_uncontroversial_then_most_wrong_come_first() -> None:
    order = [
        Waiting(pair(0), attributes("Objective", "Low"), 0.1),
        Waiting(pair(1), attributes("Objective", "Low"), 0.9),
        Waiting(pair(2), attributes("Objective", "Low"), None),
        Waiting(pair(3), attributes("Objective", "Medium"), 0.2),
        Waiting(pair(4), attributes("Objective", "High"), 0.05),
        Waiting(pair(5), attributes("Subjective", "Low"), 0.01),
        Waiting(pair(6), attributes("Subjective", "High"), 0.01),
        Waiting(pair(7), None, 0.0),
        Waiting(pair(8), None, 0.5),
        Waiting(pair(9), None, None),
    ]
    assert first(reversed(order), 100) == order
    assert first(iter(order[::2] + order[1::2]), 4) == order[:4]


@given(st.permutations(range(6)), st.integers(1, 7), st.sets(st.integers(0, 5)))
def test_neither_the_order_of_files_nor_labels_break_ties(order: Sequence[int], budget: int, turned: set[int]) -> None:
    alike = [Waiting(pair(n), attributes(), 0.5) for n in range(6)]
    expected = [one.pair.contents for one in first(alike, budget)]
    mixed = [flipped(alike[n]) if n in turned else alike[n] for n in order]
    assert [one.pair.contents for one in first(mixed, budget)] == expected


def test_no_probability_no_place_in_the_queue() -> None:
    for p in (float("nan"), -0.1, 1.1):
        with pytest.raises(ValueError, match="not a probability"):
            Waiting(pair(0), None, p)


@pytest.mark.parametrize("wrong", [{"budget": 0}, {"annotators": 0}])
def test_options_name_the_field_at_fault(wrong: dict[str, int]) -> None:
    with pytest.raises(UserError, match=rf"humans\.{next(iter(wrong))} must be at least 1"):
        HumanQueue(**wrong)


@given(st.sets(st.integers(0, 19)), st.integers(0, 3))
def test_what_goes_out_is_the_same_whatever_the_labels(
    tmp_path_factory: pytest.TempPathFactory, turned: set[int], seed: int
) -> None:
    plain = some(20)
    other = [
        Waiting(
            replace(one.pair.flipped() if n in turned else one.pair, source=f"s{n}", record=f"r{n}", file="f", line=n),
            one.attributes,
            # What models say must not show either.
            p=1 - (one.p or 0),
            opinions=(Opinion("judge", "flipped", "because"),),
        )
        for n, one in enumerate(plain)
    ]
    one, two = tmp_path_factory.mktemp("one"), tmp_path_factory.mktemp("two")
    sent = write_batch(one, "b", plain, seed).read_bytes()
    assert write_batch(two, "b", other, seed).read_bytes() == sent
    assert (sorted(turned) == []) == ((one / "b.key.jsonl").read_bytes() == (two / "b.key.jsonl").read_bytes())
    for waiting in plain:  # ids of pairs depend on labels
        assert waiting.pair.id.encode() not in sent and waiting.pair.flipped().id.encode() not in sent


def test_items_hold_the_texts_and_blanks_and_nothing_else(tmp_path: Path) -> None:
    waiting = [Waiting(pair(n, source="s", category="c"), attributes() if n else None, 0.3) for n in range(3)]
    path = write_batch(tmp_path, "b-1", waiting, 0)
    items = read_items(path)
    key = read_key(tmp_path, "b-1")
    assert [item.item for item in items] == list(key.origins)
    for line, item, one in zip(path.read_text().splitlines(), items, waiting, strict=True):
        row = json.loads(line)
        assert set(row) == {"item", "batch", "prompt", "candidates", "attributes", *BLANK}
        assert {name: row[name] for name in BLANK} == BLANK
        assert row["attributes"] == (None if one.attributes is None else asdict(one.attributes))
        origin = key.origins[item.item]
        assert (origin.pair, origin.attributes) == (one.pair.id, one.attributes)
        shown = (one.pair.rejected, one.pair.chosen) if origin.swapped else (one.pair.chosen, one.pair.rejected)
        assert (item.batch, item.prompt, item.candidates) == ("b-1", one.pair.prompt, shown)


def test_half_of_the_items_are_swapped_and_the_seed_says_which(tmp_path: Path) -> None:
    waiting = some(400)
    orders = []
    for seed in range(2):
        write_batch(tmp_path / str(seed), "b", waiting, seed)
        orders.append([origin.swapped for origin in read_key(tmp_path / str(seed), "b").origins.values()])
    for order in orders:
        assert 160 < sum(order) < 240  # 4 standard deviations
    assert 160 < sum(a != b for a, b in zip(*orders, strict=True)) < 240


@pytest.mark.parametrize("turn", [False, True])
@pytest.mark.parametrize("swapped", [False, True])
def test_a_second_look_shows_what_others_said_of_the_candidates_as_shown(
    tmp_path: Path, turn: bool, swapped: bool
) -> None:
    # In the judge's words the better one, its candidate 1 or (swapped) 2, is the chosen one.
    own, other = (2, 1) if swapped else (1, 2)
    why = f"Candidate {own} is right, candidate_{other} is not; 12 of candidate 12 stay."
    for n in range(8):
        one = Waiting(pair(n), None, 0.25, (Opinion("judge", "original", why, swapped), Opinion("ann", "none")))
        one = flipped(one) if turn else one
        (item,) = read_items(write_batch(tmp_path, f"b{n}", [one], 0, reveal=True))
        chosen = 1 + item.candidates.index(one.pair.chosen)
        assert item.opinions == (
            {"who": "label", "verdict": f"candidate {chosen}", "why": ""},
            {"who": "reward model", "verdict": f"candidate {3 - chosen}", "why": "with probability 0.75"},
            {
                "who": "judge",
                "verdict": f"candidate {chosen}",
                "why": f"Candidate {chosen} is right, candidate_{3 - chosen} is not; 12 of candidate 12 stay.",
            },
            {"who": "ann", "verdict": "undecidable", "why": ""},
        )


def test_whatever_a_model_said_can_be_written(tmp_path: Path) -> None:
    why = "a lone \udc80, \u2028 and \x85"
    path = write_batch(tmp_path, "b", [Waiting(pair(0), None, None, (Opinion("judge", "none", why),))], 0, reveal=True)
    assert len(path.read_text().splitlines()) == 1
    assert json.loads(path.read_text())["opinions"][1]["why"] == why


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"checks": ["x"]}, r"TypeError: checks hold 'x', which is no object"),
        ({"checks": [{"candidate": 1, "verdict": "correct"}]}, r"KeyError: 'who'"),
        ({"checks": [{"who": 5, "candidate": 1, "verdict": "correct"}]}, r"checks\.who: is not text"),
        ({"checks": [{"who": "m", "verdict": "correct"}]}, r"KeyError: 'candidate'"),
        (
            {"checks": [{"who": "m", "candidate": "1", "verdict": "correct"}]},
            r"'candidate' of checks is '1'; write 1 or",
        ),
        ({"checks": [{"who": "m", "candidate": True, "verdict": "correct"}]}, r"'candidate' of checks is True"),
        ({"checks": [{"who": "m", "candidate": 3, "verdict": "correct"}]}, r"'candidate' of checks is 3"),
        (
            {"checks": [{"who": "m", "candidate": 1, "verdict": "right"}]},
            r"'verdict' of checks is 'right'; write correct",
        ),
        ({"checks": [{"who": "m", "candidate": 1, "verdict": []}]}, r"'verdict' of checks is \[\]"),
        ({"checks": [{"who": "m", "candidate": 1, "verdict": "unsure", "why": 1}]}, r"'why' of checks is 1"),
        ({"checks": 5}, r"TypeError"),
        ({"opinions": ["x"]}, r"opinions hold 'x', which is no object"),
        ({"opinions": [{"who": "m", "verdict": "left"}]}, r"'verdict' of opinions is 'left'; write candidate 1 or"),
        ({"opinions": [{"verdict": "undecidable"}]}, r"KeyError: 'who'"),
    ],
)
def test_what_others_say_must_be_whole(tmp_path: Path, changed: dict[str, object], message: str) -> None:
    """Whoever is shown the item could not be shown it otherwise."""
    path = write_batch(tmp_path, "b", some(2), 0)
    first, second = map(json.loads, path.read_text().splitlines())
    fine = {"who": "m", "candidate": 2, "verdict": "incorrect", "why": "half \ud83d"}
    path.write_text("".join(json.dumps(row) + "\n" for row in (first | {"checks": [fine]}, second)))
    assert [item.checks for item in read_items(path)] == [(fine,), ()]
    path.write_text("".join(json.dumps(row) + "\n" for row in (first, second | changed)))
    with pytest.raises(UserError, match=rf"b\.jsonl:2: is not a line of a batch \(.*{message}"):
        read_items(path)


def test_writing_again_changes_nothing_and_never_replaces_what_was_answered(tmp_path: Path) -> None:
    path = write_batch(tmp_path, "b", some(3), 0)
    before = {file: (file.read_bytes(), file.stat().st_mtime_ns) for file in tmp_path.iterdir()}
    assert write_batch(tmp_path, "b", some(3), 0) == path
    assert {file: (file.read_bytes(), file.stat().st_mtime_ns) for file in tmp_path.iterdir()} == before
    (tmp_path / "bb.answers.jsonl").write_text("{}\n")  # another batch's
    write_batch(tmp_path, "b", some(4), 0)  # nobody has answered this one yet
    assert len(read_items(path)) == len(read_key(tmp_path, "b").origins) == 4
    (tmp_path / "b.answers.ann.jsonl").write_text("{}\n")
    write_batch(tmp_path, "b", some(4), 0)
    sent = path.read_bytes()
    for count, seed in ((3, 0), (4, 1)):
        with pytest.raises(UserError, match=r"b\.jsonl: cannot be made anew, for .*b\.answers\.ann\.jsonl answers it"):
            write_batch(tmp_path, "b", some(count), seed)
    assert path.read_bytes() == sent and not list(tmp_path.glob(".*"))


def test_a_batch_that_cannot_be_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no pair to verify"):
        write_batch(tmp_path, "b", [], 0)
    for name in ("", "a b", "../b", "b.key"):
        with pytest.raises(UserError, match="must consist of letters"):
            write_batch(tmp_path, name, some(1), 0)
    one = some(1)[0]
    with pytest.raises(UserError, match="hold the same two responses"):
        write_batch(tmp_path, "b", [one, flipped(one)], 0)
    assert not list(tmp_path.iterdir())


def test_a_damaged_or_renamed_key_is_an_error_that_says_so(tmp_path: Path) -> None:
    write_batch(tmp_path, "b", some(2), 0)
    key = tmp_path / "b.key.jsonl"
    lines = key.read_text().splitlines()
    (tmp_path / "c.key.jsonl").write_text("\n".join(lines))
    with pytest.raises(UserError, match=r"c\.key\.jsonl:1: is of batch b, and should be of batch c"):
        read_key(tmp_path, "c")
    for damaged in (lines[1].replace("swapped", "swap"), "[]", lines[1].replace(': "Math"', ": 1, " + '"x": 2'), "{"):
        key.write_text(f"{lines[0]}\n{damaged}\n")
        with pytest.raises(UserError, match=r"b\.key\.jsonl:2: "):
            read_key(tmp_path, "b")
    with pytest.raises(UserError, match=r"no such file"):
        read_key(tmp_path, "d")
