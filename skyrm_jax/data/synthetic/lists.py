"""Edits of short lists and questions about them."""

from collections.abc import Sequence

from skyrm_jax.data.synthetic.draw import Draw
from skyrm_jax.data.synthetic.task import Draft, Family, Slots, Task
from skyrm_jax.data.synthetic.words import WORDS

PLACES = {"first": 0, "last": -1}


def _place(draw: Draw) -> Draft:
    words = draw.sample(WORDS, 2)
    other = draw.pick([w for w in WORDS if w not in words])
    place = draw.pick(tuple(PLACES))
    right = words[PLACES[place]]
    return Draft({"place": place, "list": ", ".join(words)}, [right], [w for w in words if w != right] + [other])


def _solve_place(slots: Slots) -> Sequence[str]:
    return (slots["list"].split(", ")[PLACES[slots["place"]]],)


def _remove(draw: Draw) -> Draft:
    words = draw.sample(WORDS, 3)
    gone = draw.pick(words)
    contents = [", ".join(w for w in words if w != x) for x in words]
    right = contents[words.index(gone)]
    return Draft({"item": gone, "list": ", ".join(words)}, [right], [c for c in contents if c != right])


def _solve_remove(slots: Slots) -> Sequence[str]:
    return (", ".join(w for w in slots["list"].split(", ") if w != slots["item"]),)


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
        Task(("Remove {item} from {list}.",), _remove, _solve_remove),
        Task(("Add {item} to {list}.",), _add, _solve_add),
    ),
)
