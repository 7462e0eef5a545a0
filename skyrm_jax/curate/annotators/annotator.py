"""One model at one endpoint: how it is reached, how it samples, what it costs."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite
from typing import Any, Literal
from urllib.parse import urlsplit

from skyrm_jax.errors import UserError

OWN = (
    "model",
    "messages",
    "n",
    "stream",
    "temperature",
    "top_p",
    "max_tokens",
    "max_completion_tokens",
)
"""Fields of a request that `extra` may not hold: they have options of their own, or one answer would not be one."""

OVERHEAD = 256
"""Tokens that a chat template may add to a prompt's own, at most; some put a system prompt of theirs in front."""


@dataclass(frozen=True)
class Annotator:
    """One model at one endpoint.

    Args:
        name: of this annotator in reports and votes; its answers are kept under it.
        model: as the endpoint calls it.
        base_url: of the OpenAI-compatible endpoint, such as https://api.openai.com/v1 or http://localhost:8000/v1. It may
            change while a curation goes on.
        api_key_env: environment variable that holds the key. Default: the endpoint asks for none.
        concurrency: calls under way at once, at most; fewer while the endpoint says that there are too many.
        timeout: seconds for one whole call.
        retries: further tries of a call that got no answer. Waiting because of a rate limit is not one.
        temperature: of sampling; null leaves it to the endpoint, as some reasoning models demand.
        top_p: of sampling; null leaves it to the endpoint.
        max_tokens: longest answer, reasoning included.
        length_field: what the endpoint calls that; OpenAI's reasoning models want max_completion_tokens.
        price_in: USD for a million tokens of prompts.
        price_out: USD for a million tokens of answers.
        extra: further fields of the request, such as {"chat_template_kwargs": {"enable_thinking": false}}.
        weight: of its verdict when the models' verdicts are merged by weight.
    """

    name: str
    model: str
    base_url: str
    api_key_env: str | None = None
    concurrency: int = 16
    timeout: float = 600.0
    retries: int = 8
    temperature: float | None = 0.6
    top_p: float | None = 0.9
    max_tokens: int = 4096
    length_field: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    price_in: float = 0.0
    price_out: float = 0.0
    extra: dict[str, Any] = field(default_factory=dict)
    weight: float = 1.0

    def __post_init__(self) -> None:
        """Raises UserError naming the field for a value that cannot be."""
        if not self.name.strip():
            raise UserError("annotators: one has no name; give each a name")
        self._require("model", bool(self.model.strip()), "give the model's name at the endpoint")
        try:
            parts = urlsplit(self.base_url)
            usable = parts.scheme in ("http", "https") and bool(parts.hostname) and self.base_url.isascii()
        except ValueError:
            usable = False
        self._require("base_url", usable, "give the endpoint's URL, such as http://localhost:8000/v1")
        bare = not (parts.query or parts.fragment or parts.username)
        self._require("base_url", bare, "give the URL alone, and the key in the variable that api_key_env names")
        ends = not self.url.endswith("/completions")
        self._require("base_url", ends, "leave /chat/completions away: it is added to the URL")
        for name in ("concurrency", "max_tokens"):
            self._require(name, getattr(self, name) >= 1, "must be at least 1")
        self._require("timeout", 0 < self.timeout < float("inf"), "must be a number of seconds above 0")
        self._require("retries", self.retries >= 0, "must be at least 0")
        for name in ("price_in", "price_out"):
            price = getattr(self, name)
            self._require(name, isfinite(price) and price >= 0, "must be a number of at least 0")
        self._require("weight", isfinite(self.weight) and self.weight > 0, "must be a number above 0")
        warm = self.temperature is None or (isfinite(self.temperature) and self.temperature >= 0)
        self._require("temperature", warm, "must be a number of at least 0, or null")
        self._require("top_p", self.top_p is None or 0 < self.top_p <= 1, "must be above 0 and at most 1, or null")
        for name in OWN:
            self._require("extra", name not in self.extra, f"may not hold {name}")

    def _require(self, name: str, holds: bool, remedy: str) -> None:
        if not holds:
            raise UserError(f"annotators: {self.name}: {name}: {remedy} (it is {getattr(self, name)!r:.200})")

    @property
    def url(self) -> str:
        """The endpoint, written in one way."""
        return self.base_url.rstrip("/")

    @property
    def sampling(self) -> dict[str, Any]:
        """The fields of a request that say how to sample."""
        chosen = {"temperature": self.temperature, "top_p": self.top_p}
        given = {name: float(value) for name, value in chosen.items() if value is not None}
        return given | {self.length_field: self.max_tokens}

    @property
    def identity(self) -> dict[str, Any]:
        """What its answers depend on. Not the URL: the endpoint of a model may move."""
        return {"name": self.name, "model": self.model, "sampling": self.sampling, "extra": self.extra}

    def key(self) -> str | None:
        """The endpoint's key. Raises UserError if the variable that should hold it does not, or holds no key."""
        if self.api_key_env is None:
            return None
        key = os.environ.get(self.api_key_env, "").strip()
        if not key:
            raise UserError(
                f"annotators: {self.name}: the environment variable {self.api_key_env} is not set; "
                f"set it to the key for {self.url}, or leave api_key_env away if that asks for none"
            )
        if not (key.isascii() and key.isprintable()):
            raise UserError(
                f"annotators: {self.name}: {self.api_key_env} holds characters that no key has; set it to the key alone"
            )
        return key

    def cost(self, input_tokens: int, output_tokens: int) -> float:
        """USD for so many tokens."""
        return (input_tokens * self.price_in + output_tokens * self.price_out) / 1e6

    def most(self, messages: Sequence[Mapping[str, str]]) -> float:
        """USD that a call can cost at most: no tokenizer makes more tokens than there are bytes."""
        size = sum(len(message["content"].encode()) for message in messages)
        return self.cost(size + OVERHEAD, self.max_tokens)
