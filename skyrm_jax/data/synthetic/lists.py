"""Edits of short lists and questions about them."""

from collections.abc import Sequence

from skyrm_jax.data.synthetic.draw import Draw
from skyrm_jax.data.synthetic.task import Draft, Family, Slots, Task
from skyrm_jax.data.synthetic.words import KINDS, WORDS

PLACES = {"first": 0, "last": -1}


def _place(draw: Draw) -> Draft:
    words = draw.sample(WORDS, 2)
    other = draw.pick([w for w in WORDS if w not in words])
    place = draw.pick(tuple(PLACES))
    right = words[PLACES[place]]
    return Draft({"place": place, "list": ", ".join(words)}, [right], [w for w in words if w != right] + [other])


def _solve_place(slots: Slots) -> Sequence[str]:
    return (slots["list"].split(", ")[PLACES[slots["place"]]],)


def _pick(draw: Draw) -> Draft:
    kinds = draw.sample(tuple(KINDS), 3)
    words = [draw.pick(KINDS[kind]) for kind in kinds]
    absent = draw.pick([word for word in KINDS[kinds[0]] if word != words[0]])
    slots = {"kind": kinds[0], "list": ", ".join(draw.sample(words, 3))}
    return Draft(slots, words[:1], [*words[1:], absent])


def _solve_pick(slots: Slots) -> Sequence[str]:
    return [word for word in slots["list"].split(", ") if word in KINDS[slots["kind"]]]


def _add(draw: Draw) -> Draft:
    a, b, c, d = draw.sample(WORDS, 4)
    return Draft(
        {"list": f"{a}, {b}", "item": c},
        [f"{a}, {b}, {c}"],
        [f"{a}, {b}, {d}", f"{a}, {d}, {c}", f"{d}, {b}, {c}"],
    )


def _solve_add(slots: Slots) -> Sequence[str]:
    return (f"{slots['list']}, {slots['item']}",)


LISTS = Family(
    "lists",
    (
        Task(("Give the {place} of {list}.",), _place, _solve_place),
        Task(("Pick {kind} from {list}.",), _pick, _solve_pick),
        Task(("Add {item} to {list}.",), _add, _solve_add),
    ),
)
