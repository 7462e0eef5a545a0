"""What is asked, what comes of it, and the key under which an answer is kept."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from skyrm_jax.curate.annotators.annotator import Annotator

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Request:
    """One question.

    Attributes:
        annotators: names of those who may answer, asked in this order until one gives a valid answer.
        purpose: what the answer is for, to account by; it does not change the answer.
        messages: {"role", "content"} each.
        prompt: name and hash of the template that the messages were made of (`Prompt.version`).
        sample: which of several answers to the same question.
        tag: anything; comes back with the answer.
    """

    annotators: tuple[str, ...]
    purpose: str
    messages: tuple[Mapping[str, str], ...]
    prompt: str
    sample: int = 0
    tag: Any = None


@dataclass(frozen=True, slots=True)
class Answer(Generic[T]):
    """What came of a request.

    Attributes:
        value: the valid answer as `parse` read it; None: there is none.
        error: why there is none; empty if there is.
        annotator: whose answer it is, or who was asked last.
        attempts: answers got, the last included.
        call: key of the call that gave the last one; empty if none did. `Calls.text` has its words.
    """

    request: Request
    value: T | None
    error: str
    annotator: str
    attempts: int
    call: str


def call_key(annotator: Annotator, request: Request, attempt: int) -> str:
    """The key of an answer: a hash of all that it depends on.

    `attempt` counts, from 0, the answers to this request that could not be used.
    """
    depends = {
        **annotator.identity,
        "messages": [[message["role"], message["content"]] for message in request.messages],
        "prompt": request.prompt,
        "sample": request.sample,
        "attempt": attempt,
    }
    return hashlib.sha256(json.dumps(depends, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
