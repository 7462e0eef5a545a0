"""A task: prompts with a right answer that a program can find again from the prompt's text alone.

A task draws its answers first and the question second: several contents are drawn alike, one of them is made the right
one, and a prompt is written to which it is the answer. So, for a reader of the responses alone, any of them may be right:
neither length nor wording tells, only prompt and response together do.
"""

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from string import Formatter

from skyrm_jax.data.synthetic.draw import Draw
from skyrm_jax.data.synthetic.words import NAMES

PLAIN = ("It is {}.", "I say {}.", "Answer: {}.", "So {}.")
FLASHY = (
    "# Answer\n\n**It is {}!**",
    "Great question! It is **{}**!",
    "**Absolutely!** The answer is {}!",
    "Sure!!! What fun! I say **{}**!!!",
)
AS_IS = ("{}",)
FAR = 0.5
OPENER = "{asker} asks: "


@dataclass(frozen=True)
class Draft:
    """What a task drew: the prompt's slots and the contents (not yet worded) of right and wrong answers."""

    slots: Mapping[str, str]
    right: Collection[str]
    wrong: Collection[str]


def _pattern(template: str) -> re.Pattern[str]:
    """The regular expression of `template`: a slot is words, spaces and commas, and the same wherever it recurs."""
    seen: set[str] = set()
    parts = []
    for literal, slot, _, _ in Formatter().parse(template):
        parts.append(re.escape(literal))
        if slot:
            parts.append(f"(?P={slot})" if slot in seen else f"(?P<{slot}>[\\w ,]+?)")
            seen.add(slot)
    return re.compile("".join(parts))


@dataclass(frozen=True)
class Task:
    """Prompts `templates` with {slots}; `make` draws slots and contents; `solve` gives every right content of the slots.

    `forms` are the wordings that an answer of this task may have, {} being its content.
    """

    templates: tuple[str, ...]
    make: Callable[[Draw], Draft]
    solve: Callable[[Mapping[str, str]], Collection[str]]
    forms: tuple[str, ...] = PLAIN

    @cached_property
    def patterns(self) -> tuple[re.Pattern[str], ...]:
        """The templates as regular expressions."""
        return tuple(_pattern(OPENER + template) for template in self.templates)

    def read(self, prompt: str) -> dict[str, str] | None:
        """The slots of `prompt`, or None if no template of this task gives that prompt."""
        for pattern in self.patterns:
            if match := pattern.fullmatch(prompt):
                return match.groupdict()
        return None

    def check(self, prompt: str, response: str) -> bool | None:
        """Whether `response` is right; None if the prompt is not of this task."""
        slots = self.read(prompt)
        if slots is None:
            return None
        try:
            contents = self.solve(slots)
        except (KeyError, ValueError):  # the words fit a template, but no such question is ever asked
            return None
        return any(response == form.format(content) for content in contents for form in self.forms)


@dataclass(frozen=True)
class Family:
    """A named group of tasks, all equally likely. `lures` pits plain wording against flashy wording."""

    name: str
    tasks: tuple[Task, ...]
    lures: bool = field(default=False)

    def compose(self, draw: Draw, responses: int, others: "Sequence[Family]") -> tuple[str, list[str], list[str]]:
        """A prompt with its right and its wrong responses, `responses` of them in all (fewer if the task has no more)."""
        task = draw.pick(self.tasks)
        draft = task.make(draw)
        prompt = (OPENER + draw.pick(task.templates)).format(asker=draw.pick(NAMES), **draft.slots)
        right_forms = wrong_forms = task.forms
        if self.lures:  # in half of the comparisons the wrong answers are the flashy ones, in half the right ones
            right_forms, wrong_forms = (PLAIN, FLASHY) if draw.chance(0.5) else (FLASHY, PLAIN)
        right = [form.format(content) for content in draft.right for form in right_forms]
        wrong = [form.format(content) for content in draft.wrong for form in wrong_forms]
        count = min(draw.number(1, responses - 1), len(right))
        right = draw.sample(right, count)
        near = draw.sample(wrong, min(responses - count, len(wrong)))
        far: set[str] = set()
        for k in range(len(near)):
            if draw.chance(FAR):
                other = draw.pick(draw.pick(others).tasks)
                while self.lures and other.forms is AS_IS:
                    other = draw.pick(draw.pick(others).tasks)
                forms = wrong_forms if self.lures else (PLAIN if other.forms is not AS_IS else AS_IS)
                text = draw.pick(forms).format(draw.pick(tuple(other.make(draw).right)))
                if not task.check(prompt, text) and text not in near and text not in far:
                    near[k] = text
                    far.add(text)
        self.__dict__["far"] = far
        return prompt, right, near
