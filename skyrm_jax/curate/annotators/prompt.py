"""Prompts as files that a user can edit: Jinja templates with a block for each message."""

import hashlib
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined, Template, TemplateSyntaxError, UndefinedError, nodes
from jinja2.meta import find_undeclared_variables

from skyrm_jax.errors import UserError

FOLDER = Path(__file__).parents[1] / "prompts"
ROLES = ("system", "user")
SUFFIX = ".jinja"


@dataclass(frozen=True)
class Prompt:
    """A template, and its name and hash for the key of answers. Made by `load`.

    In the file the blocks `system` and `user` are the messages (`{% block system %}...{% endblock %}`); what stands
    outside of them is for macros and comments. A file without blocks is one user message.
    """

    name: str
    source: str
    file: str

    @classmethod
    def load(cls, name: str, example: Mapping[str, Any]) -> "Prompt":
        """The prompt of this name in the package, or else of this file. It is tried on `example`.

        Raises:
            UserError: there is no such file, or it is no template, or it needs a variable that `example` lacks.
        """
        built_in = sorted(path.stem for path in FOLDER.glob(f"*{SUFFIX}"))
        path = FOLDER / f"{name}{SUFFIX}" if name in built_in else Path(name)
        try:
            source = path.read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            raise UserError(
                f"prompt {name}: cannot be read ({error}); give a template file, or one of {', '.join(built_in)}"
            ) from None
        prompt = cls(name if name in built_in else path.name, source, str(path))
        prompt._check(example)
        return prompt

    @cached_property
    def hash(self) -> str:
        """Of the file's text."""
        return hashlib.sha256(self.source.encode()).hexdigest()

    @property
    def version(self) -> str:
        """Name and hash, as they go into the key of an answer."""
        return f"{self.name}@{self.hash}"

    def render(self, **values: Any) -> tuple[dict[str, str], ...]:
        """The messages. Raises UserError, naming the line, if the template fails on these values."""
        template = self._template
        try:
            context = template.new_context(values)
            whole = "".join(template.root_render_func(context))  # also defines macros that blocks use
            texts = {role: "".join(template.blocks[role](context)) for role in ROLES if role in template.blocks}
        except Exception as error:  # whatever a template's own code raises
            raise self._error(error) from None
        if not template.blocks:
            texts = {"user": whole}
        return tuple({"role": role, "content": text.strip()} for role, text in texts.items() if text.strip())

    @cached_property
    def _template(self) -> Template:
        environment = Environment(
            undefined=StrictUndefined,
            autoescape=False,
            trim_blocks=True,
            lstrip_blocks=True,
            keep_trailing_newline=True,
        )
        # With these the same values would not always make the same messages, and answers would be paid for twice.
        del environment.filters["random"], environment.globals["lipsum"]
        try:
            code = environment.compile(self.source, filename=self.file)
        except TemplateSyntaxError as error:
            raise self._error(error) from None
        return Template.from_code(environment, code, environment.globals)

    def _check(self, example: Mapping[str, Any]) -> None:
        tree = self._template.environment.parse(self.source)
        # What is defined outside of the blocks is seen in them, though not by find_undeclared_variables.
        own = {node.name for node in tree.find_all(nodes.Macro)}
        own |= {node.name for node in tree.find_all(nodes.Name) if node.ctx == "store"}
        given = own | set(example) | set(self._template.environment.globals)
        for name in sorted(find_undeclared_variables(tree) - given):
            line = min(node.lineno for node in tree.find_all(nodes.Name) if node.name == name)
            raise UserError(
                f"{self.file}:{line}: the prompt uses {name!r}, which is not given; given are "
                f"{', '.join(sorted(example))}"
            )
        if self._template.blocks:
            for block in tree.find_all(nodes.Block):
                if block.name not in ROLES:
                    raise UserError(
                        f"{self.file}:{block.lineno}: the prompt has a block {block.name!r}; use {' and '.join(ROLES)}"
                    )
            for outside in (node for node in tree.body if isinstance(node, nodes.Output)):
                for part in outside.nodes:
                    if not isinstance(part, nodes.TemplateData) or part.data.strip():
                        raise UserError(
                            f"{self.file}:{outside.lineno}: text outside of the prompt's blocks would be lost; "
                            "move it into the block system or user"
                        )
        if not any(message["role"] == "user" for message in self.render(**example)):
            raise UserError(f"{self.file}: the prompt has no text for the user's message; add a block user")

    def _error(self, error: Exception) -> UserError:
        """One line for what the template engine says, with the line of the file."""
        line = error.lineno if isinstance(error, TemplateSyntaxError) else None
        if line is None:
            for frame in traceback.extract_tb(error.__traceback__):
                if frame.filename == self.file:  # a line of the code that the template was made into
                    line = self._template.get_corresponding_lineno(frame.lineno or 1)
        where = self.file if line is None else f"{self.file}:{line}"
        if isinstance(error, UndefinedError):
            return UserError(f"{where}: the prompt uses something that is not given: {error.message}; mend its name")
        return UserError(f"{where}: the prompt does not work as a Jinja template ({error}); mend it")
