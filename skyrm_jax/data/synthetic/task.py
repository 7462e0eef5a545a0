"""A task: prompts whose right answers a program can find again from the prompt's text alone."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from string import Formatter

from skyrm_jax.data.synthetic.draw import Draw
from skyrm_jax.data.synthetic.wording import AS_IS, FLASHY, OPENER, PLAIN

Slots = Mapping[str, str]
"""What fills the {slots} of a template."""


@dataclass(frozen=True)
class Draft:
    """What a task drew: the prompt's slots, and contents (answers not yet worded) that are right and wrong."""

    slots: Slots
    right: Sequence[str]
    wrong: Sequence[str]


@dataclass(frozen=True)
class Task:
    """One kind of question.

    Attributes:
        templates: prompts with {slots}, after the opener.
        draft: draws slots and contents. It draws the contents first, all alike, makes one of them the right one and
            finds slots to match: so a reader of the responses alone cannot tell which is right, not by any
            wording or length. Only prompt and response together do.
        solve: every right content for given slots; KeyError or ValueError for slots that are never drawn.
        forms: the wordings that answers are made in, {} being the content. Where they are not AS_IS, a right content
            in any of the wordings is right.
    """

    templates: tuple[str, ...]
    draft: Callable[[Draw], Draft]
    solve: Callable[[Slots], Sequence[str]]
    forms: tuple[str, ...] = PLAIN

    @cached_property
    def _patterns(self) -> tuple[re.Pattern[str], ...]:
        return tuple(_pattern(OPENER + template) for template in self.templates)

    def read(self, prompt: str) -> Slots | None:
        """The slots of `prompt`, or None if no template gives that prompt."""
        for pattern in self._patterns:
            if match := pattern.fullmatch(prompt):
                return match.groupdict()
        return None

    def check(self, prompt: str, response: str) -> bool | None:
        """Whether `response` is right; None if this task never asks `prompt`."""
        slots = self.read(prompt)
        if slots is None:
            return None
        try:
            contents = self.solve(slots)
        except (KeyError, ValueError):
            return None
        forms = self.forms if self.forms is AS_IS else PLAIN + FLASHY
        return any(response == form.format(content) for content in contents for form in forms)


@dataclass(frozen=True)
class Family:
    """A named group of tasks, all equally likely; with `lures`, plain answers stand against flashy ones."""

    name: str
    tasks: tuple[Task, ...]
    lures: bool = False

    def check(self, prompt: str, response: str) -> bool | None:
        """Whether `response` is right; None if no task of the family asks `prompt`."""
        verdicts = (task.check(prompt, response) for task in self.tasks)
        return next((verdict for verdict in verdicts if verdict is not None), None)


def _pattern(template: str) -> re.Pattern[str]:
    """The regular expression of `template`; a slot is words, spaces and commas, the same wherever it recurs."""
    seen: set[str] = set()
    parts = []
    for literal, slot, _, _ in Formatter().parse(template):
        parts.append(re.escape(literal))
        if slot:
            parts.append(f"(?P={slot})" if slot in seen else rf"(?P<{slot}>[\w ,]+?)")
            seen.add(slot)
    return re.compile("".join(parts))
