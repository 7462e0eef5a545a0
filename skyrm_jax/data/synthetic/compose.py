"""One comparison: a prompt, right answers to it, and wrong ones, near and far."""

from collections.abc import Sequence
from dataclasses import dataclass

from skyrm_jax.data.synthetic.draw import Draw
from skyrm_jax.data.synthetic.task import Family, Task
from skyrm_jax.data.synthetic.wording import AS_IS, FLASHY, OPENER, PLAIN
from skyrm_jax.data.synthetic.words import NAMES

FAR = 0.5
"""Share of the wrong answers that are right answers to other prompts; the others answer this prompt, wrongly."""


@dataclass(frozen=True)
class Composed:
    """The texts of a comparison; `right[k]` says whether response k is right."""

    prompt: str
    responses: list[str]
    right: list[bool]


def compose(draw: Draw, family: Family, families: Sequence[Family], responses: int, lured: bool = False) -> Composed:
    """A comparison of `family` with `responses` >= 2 responses, or as many as its task has.

    With `lured`, plain answers stand against flashy ones where the task's answers can be worded, as they always do in
    a family with lures.

    The number of right ones is anything from 1 up, so that their share says nothing. Far wrong answers come from
    `families` as right answers do, so that no answer is more often wrong than right for being in the wrong family.
    """
    task = draw.pick(family.tasks)
    draft = task.draft(draw)
    prompt = (OPENER + draw.pick(task.templates)).format(asker=draw.pick(NAMES), **draft.slots)
    forms = rivals = task.forms
    lured = family.lures or (lured and task.forms is not AS_IS)
    if lured:  # the wrong answers are the flashy ones in half of the comparisons, the right ones in the other
        forms, rivals = (PLAIN, FLASHY) if draw.chance(0.5) else (FLASHY, PLAIN)
    candidates = [form.format(content) for content in draft.right for form in forms]
    right = draw.sample(candidates, min(draw.number(1, responses - 1), len(candidates)))
    near = [form.format(content) for content in draft.wrong for form in rivals]
    near = draw.sample(near, min(responses - len(right), len(near)))
    wrong: list[str] = []
    for answer in near:
        far = _answer(draw, families, rivals if lured else None)
        swap = draw.chance(FAR) and not task.check(prompt, far) and far not in near and far not in wrong
        wrong.append(far if swap else answer)
    order = draw.sample(range(len(right) + len(wrong)), len(right) + len(wrong))
    texts = right + wrong
    return Composed(prompt, [texts[k] for k in order], [k < len(right) for k in order])


def _answer(draw: Draw, families: Sequence[Family], forms: Sequence[str] | None) -> str:
    """A right answer to some prompt of `families`, in its own plain wording or in one of `forms`."""
    tasks: list[Task] = [draw.pick(draw.pick(families).tasks)]
    while forms is not None and tasks[-1].forms is AS_IS:  # a lure needs an answer that can be worded
        tasks.append(draw.pick(draw.pick(families).tasks))
    task = tasks[-1]
    own = AS_IS if task.forms is AS_IS else PLAIN
    return draw.pick(forms or own).format(draw.pick(task.draft(draw).right))
