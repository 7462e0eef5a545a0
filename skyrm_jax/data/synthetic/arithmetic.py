"""Sums and differences, bare and told as stories."""

from collections.abc import Callable, Sequence

from skyrm_jax.data.synthetic.draw import Draw
from skyrm_jax.data.synthetic.task import Draft, Family, Slots, Task
from skyrm_jax.data.synthetic.words import THINGS

ANSWERS = tuple(range(1, 10))
LARGEST_CHANGE = 3


def _draft(sign: int, things: bool) -> Callable[[Draw], Draft]:
    def draft(draw: Draw) -> Draft:
        answers = draw.sample(ANSWERS, 4)
        change = draw.number(1, min(LARGEST_CHANGE, answers[0]))
        slots = {"a": str(answers[0] - sign * change), "b": str(change)}
        contents = [str(n) for n in answers]
        if things:
            kind, other = draw.sample(THINGS, 2)
            slots["things"] = kind
            contents = [f"{n} {kind}" for n in contents[:3]] + [f"{answers[0]} {other}"]
        return Draft(slots, contents[:1], contents[1:])

    return draft


def _solve(sign: int) -> Callable[[Slots], Sequence[str]]:
    def solve(slots: Slots) -> Sequence[str]:
        answer = str(int(slots["a"]) + sign * int(slots["b"]))
        return [f"{answer} {slots['things']}" if "things" in slots else answer]

    return solve


ARITHMETIC = Family(
    "arithmetic",
    (
        Task(("What is {a} plus {b}?",), _draft(1, things=False), _solve(1)),
        Task(("What is {a} minus {b}?",), _draft(-1, things=False), _solve(-1)),
        Task(("I have {a} {things} plus {b} more.",), _draft(1, things=True), _solve(1)),
        Task(("I have {a} {things} minus {b} lost.",), _draft(-1, things=True), _solve(-1)),
    ),
)
