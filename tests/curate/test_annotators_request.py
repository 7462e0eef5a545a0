"""An answer's key changes with all that the answer depends on, and with nothing else."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skyrm_jax.curate.annotators import Annotator, Request
from skyrm_jax.curate.annotators.request import call_key

TEXT = st.text(max_size=8)
MESSAGES = st.lists(st.fixed_dictionaries({"role": st.sampled_from(["system", "user"]), "content": TEXT}), max_size=3)
NUMBERS = st.floats(0.01, 1) | st.just(1)

annotators = st.builds(
    Annotator,
    name=st.sampled_from("ab"),
    model=st.sampled_from("mn"),
    base_url=st.sampled_from(["http://x/v1", "http://x/v1/", "http://x/v2"]),
    concurrency=st.integers(1, 9),
    timeout=NUMBERS,
    retries=st.integers(0, 9),
    temperature=st.none() | NUMBERS,
    top_p=st.none() | NUMBERS,
    max_tokens=st.integers(1, 3),
    length_field=st.sampled_from(["max_tokens", "max_completion_tokens"]),
    price_in=NUMBERS,
    price_out=NUMBERS,
    extra=st.dictionaries(st.sampled_from(["seed", "think"]), st.integers(0, 1) | st.booleans() | TEXT),
    weight=NUMBERS,
)
requests = st.builds(
    Request,
    annotators=st.just(("a",)),
    purpose=st.sampled_from(["x", "y"]),
    messages=MESSAGES.map(tuple),
    prompt=st.sampled_from(["judge@1", "judge@2"]),
    sample=st.integers(0, 2),
    tag=st.integers(),
)


def ingredients(annotator: Annotator, request: Request, attempt: int) -> Any:
    """All that an answer depends on, in a form in which equal things are equal and True is not 1."""

    def marked(value: Any) -> Any:
        return type(value), value

    return (
        annotator.name,
        annotator.model,
        {name: float(value) for name, value in annotator.sampling.items()},
        {name: marked(value) for name, value in annotator.extra.items()},
        [(message["role"], message["content"]) for message in request.messages],
        request.prompt,
        request.sample,
        attempt,
    )


@settings(max_examples=300)
@given(annotators, annotators, requests, requests, st.integers(0, 1), st.integers(0, 1), st.data())
def test_keys_are_equal_exactly_when_all_ingredients_are(
    one: Annotator, other: Annotator, first: Request, second: Request, i: int, j: int, data: st.DataObject
) -> None:
    # Most of the other's fields are taken over, or the two would always differ in several.
    kept = data.draw(st.sets(st.sampled_from(sorted(one.__dataclass_fields__))))
    other = replace(other, **{name: getattr(one, name) for name in kept})
    taken = data.draw(st.sets(st.sampled_from(["purpose", "messages", "prompt", "sample", "tag"])))
    second = replace(second, **{name: getattr(first, name) for name in taken})
    equal = ingredients(one, first, i) == ingredients(other, second, j)
    assert (call_key(one, first, i) == call_key(other, second, j)) == equal


BASE = Annotator("a", "m", "http://x/v1", extra={"seed": 1})
ASKED = Request(("a",), "p", ({"role": "user", "content": "hello"},), "judge@1")


@pytest.mark.parametrize(
    ("annotator", "request_"),
    [
        (replace(BASE, name="b"), ASKED),
        (replace(BASE, model="n"), ASKED),
        (replace(BASE, temperature=0.7), ASKED),
        (replace(BASE, temperature=None), ASKED),
        (replace(BASE, top_p=1.0), ASKED),
        (replace(BASE, max_tokens=5), ASKED),
        (replace(BASE, length_field="max_completion_tokens"), ASKED),
        (replace(BASE, extra={"seed": 2}), ASKED),
        (replace(BASE, extra={}), ASKED),
        (BASE, replace(ASKED, messages=({"role": "user", "content": "hello "},))),
        (BASE, replace(ASKED, messages=({"role": "system", "content": "hello"},))),
        (BASE, replace(ASKED, messages=(*ASKED.messages, {"role": "user", "content": ""}))),
        (BASE, replace(ASKED, prompt="judge@2")),
        (BASE, replace(ASKED, sample=1)),
    ],
)
def test_each_ingredient_changes_the_key(annotator: Annotator, request_: Request) -> None:
    assert call_key(annotator, request_, 0) != call_key(BASE, ASKED, 0)
    assert call_key(annotator, request_, 1) != call_key(annotator, request_, 0)


def test_nothing_else_does() -> None:
    other = replace(
        BASE,
        base_url="http://y/v1",
        concurrency=1,
        timeout=1,
        retries=0,
        price_in=1,
        price_out=1,
        weight=2,
        api_key_env="K",
    )
    asked = replace(ASKED, annotators=("b", "c"), purpose="q", tag=object())
    assert call_key(other, asked, 3) == call_key(BASE, ASKED, 3)


def test_a_key_stays_what_it_is() -> None:
    """Another key for the same question would have every answer paid for again."""
    assert call_key(BASE, ASKED, 0) == "62a02e81094d0c54a1b16cacb92a3b3d08d3e820d8d00130bb19108f0e450ac3"


def test_a_call_costs_no_more_than_was_said() -> None:
    priced = replace(BASE, price_in=2.0, price_out=10.0, max_tokens=100)
    asked = [{"role": "user", "content": "ä" * 1000}]
    assert priced.most(asked) == pytest.approx((2 * (2000 + 256) + 10 * 100) / 1e6)
    assert priced.cost(7, 3) == pytest.approx(44 / 1e6)
