"""Conversions between units."""

from collections.abc import Collection, Mapping

from skyrm_jax.data.synthetic.draw import Draw
from skyrm_jax.data.synthetic.task import Draft, Family, Task
from skyrm_jax.data.synthetic.words import NAMES

FACTORS = {
    ("m", "cm"): 100,
    ("km", "m"): 1000,
    ("kg", "g"): 1000,
    ("cm", "mm"): 10,
    ("hours", "minutes"): 60,
    ("weeks", "days"): 7,
    ("days", "hours"): 24,
    ("feet", "inches"): 12,
}
AMOUNTS = tuple(range(2, 8))


def _convert(draw: Draw) -> Draft:
    (big, small), (big2, small2) = draw.sample(tuple(FACTORS), 2)
    factor, factor2 = FACTORS[big, small], FACTORS[big2, small2]
    amount, *others = draw.sample(AMOUNTS, 4)
    wrong = [f"{n * factor} {small}" for n in others]
    slots = {"amount": str(amount), "big": big, "small": small, "name": draw.pick(NAMES)}
    return Draft(slots, [f"{amount * factor} {small}"], [*wrong, f"{amount * factor2} {small2}"])


def _solve(slots: Mapping[str, str]) -> Collection[str]:
    factor = FACTORS[slots["big"], slots["small"]]
    return (f"{int(slots['amount']) * factor} {slots['small']}",)


UNITS = Family(
    "units",
    (
        Task(
            (
                "{name} asks: how many {small} are {amount} {big}?",
                "Convert {amount} {big} to {small} for {name}.",
                "{name} has {amount} {big}. Say it in {small}.",
            ),
            _convert,
            _solve,
        ),
    ),
)
