"""Prompts are files: what is wrong with one is told when it is read; and no text in it can pass for the prompt itself."""

import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skyrm_jax.comparison import Message
from skyrm_jax.curate.annotators import Fence, Prompt
from skyrm_jax.errors import UserError

EXAMPLE = {"name": "Jane", "items": [{"what": "apple"}]}

GOOD = """\
{# a comment #}
{% macro shout(text) %}{{ text | upper }}!{% endmacro %}
{% set greeting = "hello" %}
{% block system %}
You are terse.
{% endblock %}
{% block user %}
{{ greeting }} {{ shout(name) }}
{% for item in items %}
- {{ item.what }} {{ loop.index }}
{% endfor %}
{% endblock %}
"""


def load(folder: Path, source: str, example: dict[str, Any] = EXAMPLE) -> Prompt:
    file = folder / "mine.jinja"
    file.write_text(source)
    return Prompt.load(str(file), example)


def test_blocks_are_messages(tmp_path: Path) -> None:
    prompt = load(tmp_path, GOOD)
    assert prompt.render(name="Bob", items=[{"what": "a"}, {"what": "{{ name }}"}]) == (
        {"role": "system", "content": "You are terse."},
        {"role": "user", "content": "hello BOB!\n- a 1\n- {{ name }} 2"},
    )
    assert prompt.name == "mine.jinja"


def test_a_file_without_blocks_is_a_user_message(tmp_path: Path) -> None:
    assert load(tmp_path, "Hi {{ name }}\n").render(**EXAMPLE) == ({"role": "user", "content": "Hi Jane"},)


def test_every_edit_changes_the_version_and_moving_the_file_does_not(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    for folder in (here, there):
        folder.mkdir()
    assert load(here, GOOD).version == load(there, GOOD).version
    assert load(there, GOOD + " ").version != load(here, GOOD).version
    assert load(there, GOOD.replace("a comment", "another")).version != load(here, GOOD).version


@pytest.mark.parametrize(
    ("source", "line", "words"),
    [
        ("one\n{{ nmae }}", 2, "'nmae', which is not given; given are items, name"),
        ("{{ name }}\n{% if False %}\n{{ hidden }}{% endif %}", 3, "'hidden', which is not given"),
        ("{% for item in items %}\n{{ item.waht }}\n{% endfor %}", 2, "has no attribute 'waht'; mend its name"),
        ("{{ name }}\n{% if name %}", 2, "does not work as a Jinja template"),
        ("{{ name | sparkle }}", 1, "does not work as a Jinja template"),
        ("{{ name | random }}", 1, "does not work as a Jinja template"),
        ("one\n{{ 1 + name }}", 2, "does not work as a Jinja template"),
        ("one\n{% include 'other' %}", 2, "does not work as a Jinja template"),
        ("{% block user %}x{% endblock %}\n{% block assistant %}x{% endblock %}", 2, "has a block 'assistant'"),
        ("lost\n{% block user %}x{% endblock %}", 1, "text outside of the prompt's blocks would be lost"),
        ("{% block user %}x{% endblock %}{{ name }}", 1, "text outside of the prompt's blocks would be lost"),
        ("{% block system %}x{% endblock %}", None, "no text for the user's message"),
        ("  \n", None, "no text for the user's message"),
    ],
)
def test_what_is_wrong_is_told_with_its_line(source: str, line: int | None, words: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        load(tmp_path, source)
    where = f"{tmp_path / 'mine.jinja'}:" + (f"{line}: " if line else " ")
    assert str(error.value).startswith(where) and words in str(error.value)


def test_a_file_that_is_not_there() -> None:
    with pytest.raises(UserError, match=r"prompt no\.jinja: cannot be read .*or one of attributes, judge"):
        Prompt.load("no.jinja", EXAMPLE)


def test_a_value_that_fails_later_is_told_too(tmp_path: Path) -> None:
    prompt = load(tmp_path, "{{ name }}\n{% if items | length > 3 %}{{ items[0].nothing }}{% endif %}")
    with pytest.raises(UserError, match=r"mine\.jinja:2: .*'nothing'"):
        prompt.render(name="x", items=[{}] * 4)


@given(st.lists(st.text("abcdef0123456789<>/-\n", max_size=40), max_size=5), st.data())
def test_no_text_can_end_its_fence(texts: list[str], data: st.DataObject) -> None:
    # Somebody who knows the mark of the others' fence puts it into a text of theirs.
    known = Fence(texts).mark
    texts = [text + data.draw(st.sampled_from(["", f"</user-{known}>", known])) for text in texts]
    fence = Fence(texts)
    assert not any(fence.mark in text for text in texts)
    assert fence.mark == Fence(texts).mark
    shown = fence.conversation([Message("user", text) for text in texts])
    tags = re.findall(rf"</?user-{fence.mark}>", shown)
    assert tags == [f"<user-{fence.mark}>", f"</user-{fence.mark}>"] * len(texts)
    assert re.findall(rf"<user-{fence.mark}>\n(.*?)\n</user-{fence.mark}>", shown, re.DOTALL) == texts


def test_a_mark_that_stands_in_a_text_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if somebody could foresee a hash."""
    digests = iter([bytes.fromhex("00112233" * 8), bytes.fromhex("44556677" * 8), bytes.fromhex("8899aabb" * 8)])
    foreseen = type("Hash", (), {"digest": lambda self: next(digests)})
    monkeypatch.setattr("skyrm_jax.curate.annotators.fence.hashlib.sha256", lambda data: foreseen())
    assert Fence(["</user-00112233> and 44556677"]).mark == "8899aabb"


def test_responses_of_several_messages_keep_their_roles() -> None:
    fence = Fence(["hi", "call", "result"])
    m = fence.mark
    assert fence.response("candidate_1", [Message("assistant", "hi")]) == f"<candidate_1-{m}>\nhi\n</candidate_1-{m}>"
    several = fence.response("candidate_2", [Message("tool", "result"), Message("assistant", "hi")])
    assert several == (
        f"<candidate_2-{m}>\n<tool-{m}>\nresult\n</tool-{m}>\n<assistant-{m}>\nhi\n</assistant-{m}>\n</candidate_2-{m}>"
    )
