"""Edits of short lists and questions about them."""

from collections.abc import Collection, Mapping

from skyrm_jax.data.synthetic.draw import Draw
from skyrm_jax.data.synthetic.task import Draft, Family, Task
from skyrm_jax.data.synthetic.words import WORDS

PLACES = {"first": 0, "second": 1, "last": 2}
COUNTS = ("two", "three", "four", "five")


def _place(draw: Draw) -> Draft:
    words = draw.sample(WORDS, 3)
    place = draw.pick(tuple(PLACES))
    right = words[PLACES[place]]
    return Draft({"place": place, "list": ", ".join(words)}, [right], [w for w in words if w != right])


def _solve_place(slots: Mapping[str, str]) -> Collection[str]:
    return (slots["list"].split(", ")[PLACES[slots["place"]]],)


def _remove(draw: Draw) -> Draft:
    words = draw.sample(WORDS, 3)
    gone = draw.pick(words)
    contents = [", ".join(w for w in words if w != x) for x in words]
    right = contents[words.index(gone)]
    return Draft({"item": gone, "list": ", ".join(words)}, [right], [c for c in contents if c != right])


def _solve_remove(slots: Mapping[str, str]) -> Collection[str]:
    return (", ".join(w for w in slots["list"].split(", ") if w != slots["item"]),)


def _reverse(draw: Draw) -> Draft:
    a, b, c = draw.sample(WORDS, 3)
    return Draft({"list": f"{b}, {a}"}, [f"{a}, {b}"], [f"{b}, {a}", f"{a}, {c}", f"{c}, {b}"])


def _solve_reverse(slots: Mapping[str, str]) -> Collection[str]:
    return (", ".join(slots["list"].split(", ")[::-1]),)


def _count(draw: Draw) -> Draft:
    right, *wrong = draw.sample(COUNTS, 4)
    words = draw.sample(WORDS, COUNTS.index(right) + 2)
    return Draft({"list": ", ".join(words)}, [right], wrong)


def _solve_count(slots: Mapping[str, str]) -> Collection[str]:
    return (COUNTS[len(slots["list"].split(", ")) - 2],)


LISTS = Family(
    "lists",
    (
        Task(("Which is {place} in {list}?", "Give the {place} item of {list}."), _place, _solve_place),
        Task(("Remove {item} from {list}.", "Leave out {item}: {list}."), _remove, _solve_remove),
        Task(("Reverse the list {list}.", "Turn round {list}."), _reverse, _solve_reverse),
        Task(("How many items are in {list}?", "Count {list}."), _count, _solve_count),
    ),
)
