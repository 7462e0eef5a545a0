"""Comparisons with a truth that a program can check: the quickstart's data, and a gold oracle for later work.

`generate` makes them; `oracle` says from the prompt's text alone whether any response is right, whatever its label.
"""

from collections.abc import Iterator

from skyrm_jax.comparison import Comparison, Preference
from skyrm_jax.data.synthetic.arithmetic import ARITHMETIC
from skyrm_jax.data.synthetic.draw import Draw
from skyrm_jax.data.synthetic.formats import FORMATS_FAMILY
from skyrm_jax.data.synthetic.lists import LISTS
from skyrm_jax.data.synthetic.safety import SAFETY
from skyrm_jax.data.synthetic.strings import STRINGS
from skyrm_jax.data.synthetic.style import STYLE
from skyrm_jax.data.synthetic.units import UNITS

FAMILIES = (ARITHMETIC, STRINGS, LISTS, UNITS, FORMATS_FAMILY, SAFETY, STYLE)
RESPONSES = (2, 8)


def compose(seed: int, index: int) -> tuple[str, str, list[str], list[bool]]:
    draw = Draw(f"{seed}/{index}")
    family = draw.pick(FAMILIES)
    prompt, right, wrong = family.compose(draw, draw.number(*RESPONSES), FAMILIES)
    marked = [(r, True) for r in right] + [(r, None if r in family.__dict__["far"] else False) for r in wrong]
    marked = draw.sample(marked, len(marked))
    return family.name, prompt, [m[0] for m in marked], [m[1] for m in marked]
