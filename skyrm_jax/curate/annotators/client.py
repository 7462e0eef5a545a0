"""One call to a chat-completions endpoint, and what came of it, in one word for the ledger.

Source: https://platform.openai.com/docs/api-reference/chat, and what SGLang, vLLM, DeepSeek, Azure and OpenRouter answer
that is not in it: refusals as errors, errors with status 200, content in parts, no usage.
"""

import asyncio
import json
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from math import isfinite
from typing import Any, Literal

from skyrm_jax.curate.annotators.annotator import Annotator
from skyrm_jax.errors import UserError

CONNECT = 10.0
"""Seconds for a connection, at most."""

Status = Literal[
    "ok",  # an answer
    "refused",  # the model or a filter will not
    "timeout",  # no whole answer in time
    "rate_limited",  # too many requests
    "server_error",  # HTTP 5xx
    "unreachable",  # no connection
    "dropped",  # the connection broke
    "garbled",  # something came that is no completion
    "too_long",  # the prompt is longer than the model's context
    "rejected",  # this request, not others
    "exhausted",  # the account's money or quota
    "misconfigured",  # no request to this annotator can succeed
    "interrupted",  # this process was told to stop
]

PASSING = ("timeout", "server_error", "unreachable", "dropped", "garbled")
"""What may go better with the next try."""

UNSURE = ("timeout", "dropped", "garbled")
"""No answer, but it may have been made, and charged."""

_FILTERED = re.compile(r"content[ _-]?(filter|policy|management)|moderation|flagged", re.IGNORECASE)
_TOO_LONG = re.compile(
    r"context[ _](length|window)|max_model_len|maximum (model|context|input) length|(prompt|input) is too long"
    r"|longer than the (model|maximum)",
    re.IGNORECASE,
)
_EMPTY = re.compile(r"insufficient[ _](quota|balance|credit|funds)|payment required", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a call.

    Attributes:
        text: of the answer; may be empty.
        finish: why the answer ended, in the server's word.
        refusal: the words with which it was refused.
        input_tokens, output_tokens: as the server counted them; None: it did not say.
        message: what went wrong.
        pause: seconds that the server asks to wait.
        paid: whether there is an answer, of whatever use.
    """

    status: Status
    text: str = ""
    finish: str = ""
    refusal: str = ""
    input_tokens: int | None = None
    output_tokens: int | None = None
    message: str = ""
    pause: float | None = None
    paid: bool = False

    @property
    def said(self) -> str:
        """Status and message, in words."""
        return f"{self.status.replace('_', ' ')}{f': {self.message}' if self.message else ''}"


class Client:
    """The way to one annotator's endpoint. To be made and used in one event loop.

    Raises:
        UserError: the openai package is not installed, or the key is missing.
    """

    def __init__(self, annotator: Annotator) -> None:
        self.annotator = annotator
        openai = require_openai()
        self._openai = openai
        # A key is always given: the client would take OPENAI_API_KEY and send it to whatever server this is.
        self._client = openai.AsyncOpenAI(
            api_key=annotator.key() or "none",
            base_url=annotator.url,
            max_retries=0,
            timeout=openai.Timeout(annotator.timeout, connect=min(CONNECT, annotator.timeout)),
        )

    async def close(self) -> None:
        """Closes its connections."""
        await self._client.close()

    async def call(self, messages: Sequence[Mapping[str, str]]) -> Outcome:
        """One call; never raises for what a server does."""
        openai, annotator = self._openai, self.annotator
        try:
            async with asyncio.timeout(annotator.timeout):
                answer = await self._client.chat.completions.with_raw_response.create(
                    model=annotator.model,
                    messages=[dict(message) for message in messages],
                    extra_body=annotator.extra or None,
                    **annotator.sampling,
                )
            return completion(answer.text)
        except (TimeoutError, openai.APITimeoutError) as error:
            if _unconnected(error):
                return Outcome("unreachable", message="no connection in time")
            return Outcome("timeout", message=f"no answer in {annotator.timeout:g} s")
        except openai.APIConnectionError as error:
            cause = error.__cause__ or error
            message = f"{str(cause) or type(cause).__name__:.300}"
            return Outcome("unreachable" if _unconnected(error) else "dropped", message=message)
        except openai.APIStatusError as error:
            return failure(error.status_code, error.response.headers, error.response.text)


def require_openai() -> Any:
    """The openai package. Raises UserError if it is not installed."""
    try:
        import openai
    except ImportError:
        raise UserError(
            'annotators are asked through the openai package, which is not installed; pip install "skyrm-jax[curate]"'
        ) from None
    return openai


def _unconnected(error: Exception) -> bool:
    """Whether no request went out. The HTTP library's own classes differ from one version of openai to the next."""
    return type(error.__cause__).__name__ in ("ConnectError", "ConnectTimeout", "PoolTimeout", "UnsupportedProtocol")


def completion(body: str) -> Outcome:
    """The outcome that the body of a 200 tells."""
    try:
        data = json.loads(body)
    except (ValueError, RecursionError):
        return Outcome("garbled", message=f"no JSON but {body!r:.200}")
    usage = data.get("usage") if isinstance(data, dict) else None
    usage = usage if isinstance(usage, dict) else {}
    read, written = _count(usage.get("prompt_tokens")), _count(usage.get("completion_tokens"))
    try:
        choice = data["choices"][0]
        message = choice["message"]
        content, refusal, finish = message.get("content"), message.get("refusal"), choice.get("finish_reason")
        if isinstance(content, list):
            content = "".join(part.get("text") or "" for part in content)
        if choice.get("error") or not (content is None or isinstance(content, str)):
            raise TypeError
    except (KeyError, IndexError, TypeError, AttributeError):
        said = f"no completion but {_message(body)!r:.300}"
        return Outcome("garbled", input_tokens=read, output_tokens=written, message=said)
    text, finish = _clean(content or ""), finish if isinstance(finish, str) else ""
    if finish == "content_filter" or (isinstance(refusal, str) and refusal.strip()):
        words = _clean(refusal) if isinstance(refusal, str) and refusal.strip() else "stopped by a content filter"
        return Outcome("refused", text, finish, words, read, written, words[:300], paid=True)
    return Outcome("ok", text, finish, "", read, written, paid=True)


def failure(status: int, headers: Mapping[str, str], body: str) -> Outcome:
    """The outcome that an HTTP status of 300 or more tells."""
    message = f"HTTP {status} ({_message(body):.300})"
    pause = retry_after(headers)
    if status in (400, 403) and _FILTERED.search(body):
        return Outcome("refused", message=message)
    if status == 413 or (status in (400, 422) and _TOO_LONG.search(body)):
        return Outcome("too_long", message=message)
    if status == 402 or (status in (403, 429) and _EMPTY.search(body)):
        return Outcome("exhausted", message=message)
    if status == 429 or (status == 503 and pause is not None):
        return Outcome("rate_limited", message=message, pause=pause)
    if status in (408, 409, 425) or status >= 500:
        return Outcome("timeout" if status in (408, 504) else "server_error", message=message)
    return Outcome("rejected" if status in (400, 422) else "misconfigured", message=message)


def misconfigured(annotator: Annotator, outcome: Outcome) -> UserError:
    """The error for an annotator that no request can succeed with."""
    said = outcome.message
    if said.startswith(("HTTP 401", "HTTP 403")):
        variable = annotator.api_key_env
        remedy = (
            f"check the key in the environment variable {variable}, and its rights to this model"
            if variable
            else "give the variable that holds the key as api_key_env"
        )
    elif said.startswith(("HTTP 400", "HTTP 422")):
        remedy = "check max_tokens, length_field, temperature, top_p and extra: the endpoint does not take what is sent"
    elif said.startswith("HTTP 404"):
        remedy = "check base_url (it often ends in /v1) and that the endpoint serves this model"
    else:
        remedy = "check base_url"
    return UserError(f"annotator {annotator.name} ({annotator.model} at {annotator.url}): {said}; {remedy}")


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that a server asks to wait: `retry-after-ms`, or `retry-after` as seconds or as a date."""
    for name, unit in (("retry-after-ms", 1e-3), ("retry-after", 1.0)):
        try:
            seconds = float(headers.get(name, "")) * unit
        except ValueError:
            continue
        if isfinite(seconds):
            return max(0.0, seconds)
    try:
        until = parsedate_to_datetime(headers.get("retry-after", ""))
    except ValueError:
        return None
    try:  # by the server's own clock, if it tells
        now = parsedate_to_datetime(headers.get("date", ""))
    except ValueError:
        now = datetime.fromtimestamp(time.time(), UTC)
    zoned = [moment if moment.tzinfo else moment.replace(tzinfo=UTC) for moment in (until, now)]
    return max(0.0, (zoned[0] - zoned[1]).total_seconds())


def _message(body: str) -> str:
    """What a server says of its error: {"error": {"message": ...}}, {"message": ...}, {"detail": ...}, or its text."""
    try:
        said = json.loads(body)
        said = said.get("error") or said
        found = said if isinstance(said, str) else said.get("message") or said["detail"]
    except (ValueError, AttributeError, KeyError, TypeError, RecursionError):
        found = body
    return " ".join(_clean(str(found)).split())


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def _clean(text: str) -> str:
    """`text` without lone surrogates, which JSON can hold and a file cannot."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
