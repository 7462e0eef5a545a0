"""Templates render as transformers renders them, and see no more than it lets them see."""

from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from skyrm_jax.chat import DATE, TEMPLATES
from skyrm_jax.rendering import renderer

text = st.lists(
    st.sampled_from(["a", " ", "\n", "<think>", "</think>", "<tool_response>", "</tool_response>", "{{", "é"]),
    max_size=6,
).map("".join)
message = st.fixed_dictionaries({"role": st.sampled_from(["system", "user", "assistant", "tool"]), "content": text})
CONVERSATION = [{"role": "user", "content": " a {} "}, {"role": "assistant", "content": "b"}]


def outcome(render: Any) -> tuple[str, str]:
    """What comes of it: the text, or the error."""
    try:
        return "text", render()
    except Exception as error:
        return type(error).__name__, str(error)


def both(tokenizer: Any, template: str, messages: list[dict[str, str]]) -> list[tuple[str, str]]:
    options: dict[str, Any] = {"add_generation_prompt": False, "date_string": DATE}
    theirs = tokenizer.apply_chat_template
    variables = tokenizer.special_tokens_map | options
    return [
        outcome(lambda: renderer(template)(messages=messages, tools=None, documents=None, **variables)),
        outcome(lambda: theirs(messages, chat_template=template, tokenize=False, **options)),
    ]


@pytest.mark.parametrize("name", ["qwen3", "llama3_1"])
@given(messages=st.lists(message, min_size=1, max_size=4))
def test_published_templates_render_as_transformers_renders_them(
    name: str, shared: Path, messages: list[dict[str, str]]
) -> None:
    tokenizer = loaded(shared / "tokenizers" / name)
    ours, theirs = both(tokenizer, tokenizer.chat_template, messages)
    assert ours == theirs


@lru_cache
def loaded(folder: Path) -> Any:
    return AutoTokenizer.from_pretrained(folder)


@pytest.mark.parametrize(
    "template",
    [
        *TEMPLATES.values(),
        "{% for m in messages %}{{ m.items() | list }}{{ m.keys is defined }}{{ m.absent is defined }}{{ m.absent }}{% endfor %}",
        "{% for m in messages %}{{ m['role'] }}{{ m.get('content') }}{{ m.content[0].isspace() }}{{ loop.x }}{% endfor %}",
        "{% for m in messages %}{{ loop.index }}{{ loop.last }}{{ loop.previtem.role }}{{ loop.cycle(1, 2) }}{% endfor %}",
        "{% set n = namespace(a=1) %}{% set n.a = n.a + 1 %}{{ n.a }}{{ n.b }}{{ n.b is defined }}",
        "{% for m in messages %}{{ m.content.split(' ')[0].strip().upper().title().nothing }}{% endfor %}",
        "{{ messages[0].content.format('x') }}{{ messages[0] | tojson }}{{ raise_exception('no') }}",
        "{{ messages[0].content.format('x') }}{{ messages[0] | tojson(indent=1) }}{{ messages | length }}",
    ],
)
def test_all_that_templates_do_is_done_alike(template: str, byte_tokenizer: Path) -> None:
    ours, theirs = both(AutoTokenizer.from_pretrained(byte_tokenizer), template, CONVERSATION)
    assert ours == theirs


@pytest.mark.parametrize(
    "template",
    [
        "{{ messages[0].__class__.__mro__ }}",
        "{{ messages[0].content.__class__.__mro__ }}",
        "{{ messages.append(1) }}",
        "{{ messages[0].update(a=1) }}",
        "{% for m in messages %}{{ loop.__init__.__globals__ }}{% endfor %}",
        "{% for m in messages %}{{ loop._iterator.__class__.__mro__ }}{% endfor %}",
        "{% set n = namespace() %}{{ n.__init__.__globals__ }}",
        "{{ '{0.__class__.__mro__}'.format(messages) }}",
        "{{ ('{a.__class__.__mro__}').format_map({'a': 1}) }}",
        "{% set n = namespace(f='{0.__class__.__mro__}'.format) %}{{ n.f(1) }}",
    ],
)
def test_the_sandbox_holds(template: str, byte_tokenizer: Path) -> None:
    ours, theirs = both(AutoTokenizer.from_pretrained(byte_tokenizer), template, CONVERSATION)
    assert ours == theirs and ours[0] != "text"


def test_transformers_environment_is_left_as_it_is(byte_tokenizer: Path) -> None:
    from transformers.utils.chat_template_utils import _compile_jinja_template

    renderer("{{ messages }}")
    assert "getattr" not in vars(_compile_jinja_template("{{ messages }}").environment)
