"""Chat templates rendered as transformers' `apply_chat_template` renders them, in less than half the time.

Templates come from the Hub: they run in transformers' own sandbox, with its filters and functions. Most of its time goes
into asking of every attribute whether it is safe; of the few kinds of objects that templates are made of, that is known.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Any

from jinja2.runtime import LoopContext

_OF_DICT = frozenset(dir(dict))
# Not format: what it reads is safe only in the sandbox's own version.
_OF_STR = frozenset({"endswith", "lower", "lstrip", "rstrip", "split", "startswith", "strip", "title", "upper"})


@lru_cache(maxsize=8)
def renderer(template: str) -> Callable[..., str]:
    """A function of the template's variables.

    Raises what Jinja raises for a template that is not one.
    """
    from transformers.utils.chat_template_utils import _compile_jinja_template

    # An overlay, because transformers keeps and shares the environment.
    environment = _compile_jinja_template(template).environment.overlay()
    checked, undefined = environment.getattr, environment.undefined
    attributes = {LoopContext, environment.globals["namespace"]}

    def attribute(owner: Any, name: str) -> Any:
        """`owner.name`, or else `owner["name"]`, as the sandbox gives it."""
        kind = type(owner)
        if kind is dict:
            if name not in _OF_DICT:
                return owner[name] if name in owner else undefined(obj=owner, name=name)
        elif kind is str:
            if name in _OF_STR:
                return getattr(owner, name)
        elif kind in attributes and not name.startswith("_"):
            try:
                return getattr(owner, name)
            except AttributeError:
                pass
        return checked(owner, name)

    environment.getattr = attribute
    return environment.from_string(template).render  # type: ignore[no-any-return]
