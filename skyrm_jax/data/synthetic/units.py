"""Conversions between units."""

from collections.abc import Sequence

from skyrm_jax.data.synthetic.draw import Draw
from skyrm_jax.data.synthetic.task import Draft, Family, Slots, Task

FACTORS = {
    ("m", "cm"): 100,
    ("km", "m"): 1000,
    ("cm", "mm"): 10,
    ("weeks", "days"): 7,
    ("hours", "minutes"): 60,
    ("feet", "inches"): 12,
}
AMOUNTS = tuple(range(2, 8))


def _convert(draw: Draw) -> Draft:
    (big, small), (big2, small2) = draw.sample(tuple(FACTORS), 2)
    factor, factor2 = FACTORS[big, small], FACTORS[big2, small2]
    amount, *others = draw.sample(AMOUNTS, 4)
    wrong = [f"{n * factor} {small}" for n in others]
    slots = {"amount": str(amount), "big": big, "small": small}
    return Draft(slots, [f"{amount * factor} {small}"], [*wrong, f"{amount * factor2} {small2}"])


def _solve(slots: Slots) -> Sequence[str]:
    factor = FACTORS[slots["big"], slots["small"]]
    return (f"{int(slots['amount']) * factor} {slots['small']}",)


UNITS = Family(
    "units",
    (
        Task(
            ("{amount} {big} in {small}?", "Say {amount} {big} in {small}."),
            _convert,
            _solve,
        ),
    ),
)
