"""The page of agreement: its figures are those measured, its drawings obey the pages' policy, names stay names."""

from dataclasses import replace
from pathlib import Path

from markupsafe import Markup
from small_batches import Clock, answers_file, for_candidate, made, take, write
from small_pages import Reader, Seen

from skyrm_jax.annotate.agreement_page import agreement_json, without_styles
from skyrm_jax.annotate.exchange import import_batch

PEOPLE = ("ann", "<b>&$x_y$", "a very long name of somebody")


def test_figures_drawings_and_names(tmp_path: Path) -> None:
    clock = Clock()
    with made(tmp_path, clock, count=12, people=PEOPLE, overlap=3, gold_share=0.9) as store:
        gold = write(tmp_path, "g", 10)
        import_batch(store, gold, gold=answers_file(tmp_path / "g.right.jsonl", gold, ["candidate 1"] * 10))
        for n in range(22):
            for who in PEOPLE:
                if shown := store.next(who):
                    clock.time += 10 + n
                    wrong = who != "ann" and n % 3 == 0
                    store.answer(who, shown.lease, for_candidate(shown, 2 if wrong else 1, seconds=5.0 + n))
        html = Reader(store).login("ann").client.get("/agreement").text
    page = Seen.of(html)
    for text in ("All answers", "Gold checks", "Sides", "Pace", "Pairs of annotators", "Agreement by category"):
        assert text in page.text
    for who in PEOPLE:
        assert who in page.text
    drawings = [attributes for tag, attributes in page.elements if tag == "svg"]
    assert len(drawings) == 5 and all(a["role"] == "img" and a["aria-label"] for a in drawings)
    assert not [tag for tag, a in page.elements if "style" in a or tag in ("style", "b")]
    ids = [a["id"] for _, a in page.elements if "id" in a]
    assert len(ids) == len(set(ids))
    assert "100 %" in page.text and "12" in page.text


def test_more_people_than_are_drawn_is_said(tmp_path: Path) -> None:
    people = [f"person {n:02}" for n in range(26)]
    with made(tmp_path, Clock(), count=1, people=people, overlap=26) as store:
        for who in people:
            store.answer(who, take(store, who).lease, for_candidate(take(store, who), 1))
        page = Reader(store).login(people[0]).page("/agreement")
    assert page.text.count("The first 24 of 26 are drawn; the table has all.") == 2  # sides, pace
    assert all(who in page.text for who in people)


def test_in_review_the_first_answer_counts(tmp_path: Path) -> None:
    with made(tmp_path, Clock(), count=1, people=("ann", "bob"), overlap=2, review=True) as store:
        for who in ("ann", "bob"):
            shown = take(store, who)
            store.answer(who, shown.lease, for_candidate(shown, 1 if who == "ann" else 2))
        last = store.last("bob")
        assert last is not None
        again = store.undo("bob", last)
        store.answer("bob", again.lease, for_candidate(again, 1))
        assert agreement_json(store)["kappas"][0]["same"] == 0.0
        assert "first counts here" in Reader(store).login("ann").page("/agreement").text
        store.set_options(replace(store.options, review=False))
        assert agreement_json(store)["kappas"][0]["same"] == 1.0
        assert "first counts here" not in Reader(store).login("ann").page("/agreement").text


def test_with_one_answer_there_is_a_page(tmp_path: Path) -> None:
    with made(tmp_path, Clock(), people=("ann",)) as store:
        store.answer("ann", take(store, "ann").lease, for_candidate(take(store, "ann"), 0))
        page = Reader(store).login("ann").page("/agreement")
    assert "ann" in page.text and "–" in page.text


def test_styles_become_attributes() -> None:
    svg = Markup('<svg><style type="text/css">*{a: b}</style><path style="fill: var(--blue); stroke-width: 0.8"/>'
                 '<text style="font: 10px system-ui, sans-serif; text-anchor: middle">x</text></svg>')  # fmt: skip
    assert without_styles(svg) == (
        '<svg><path fill="var(--blue)" stroke-width="0.8"/><text font-size="10px" text-anchor="middle">x</text></svg>'
    )
