"""Sums and differences, bare and told as stories."""

from collections.abc import Callable, Collection, Mapping

from skyrm_jax.data.synthetic.draw import Draw
from skyrm_jax.data.synthetic.task import Draft, Family, Task
from skyrm_jax.data.synthetic.words import THINGS

LARGEST = 9
ANSWERS = tuple(range(1, LARGEST + 1))


def _operands(draw: Draw, answer: int, plus: bool) -> tuple[int, int]:
    """Two numbers whose sum (plus) or difference is `answer`, all in 0..LARGEST."""
    b = draw.number(0, answer if plus else LARGEST - answer)
    return (answer - b, b) if plus else (answer + b, b)


def _sum(plus: bool, things: bool) -> Callable[[Draw], Draft]:
    def make(draw: Draw) -> Draft:
        answers = draw.sample(ANSWERS, 4)
        a, b = _operands(draw, answers[0], plus)
        slots = {"a": str(a), "b": str(b)}
        contents = [str(n) for n in answers]
        if things:
            kinds = draw.sample(THINGS, 2)
            slots["things"] = kinds[0]
            # half of the wrong answers have the wrong number, half the wrong things
            contents = [f"{answers[0]} {kinds[0]}", f"{answers[1]} {kinds[0]}", f"{answers[0]} {kinds[1]}"]
        return Draft(slots, contents[:1], contents[1:])

    return make


def _solve(plus: bool) -> Callable[[Mapping[str, str]], Collection[str]]:
    def solve(slots: Mapping[str, str]) -> Collection[str]:
        a, b = int(slots["a"]), int(slots["b"])
        total = str(a + b if plus else a - b)
        return (f"{total} {slots['things']}" if "things" in slots else total,)

    return solve


def _task(templates: tuple[str, ...], plus: bool, things: bool = False) -> Task:
    return Task(templates, _sum(plus, things), _solve(plus))


ARITHMETIC = Family(
    "arithmetic",
    (
        _task(("{a} plus {b}?",), plus=True),
        _task(("{a} minus {b}?",), plus=False),
        _task(("I have {a} {things} plus {b}.",), plus=True, things=True),
        _task(("I have {a} {things} minus {b}.",), plus=False, things=True),
    ),
)
