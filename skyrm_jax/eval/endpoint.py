"""A reward model behind HTTP in a scorer's place: /classify of SGLang or vLLM, which is sent token ids.

Ids, not text, so that template, BOS and truncation are those of the checkpoint's scorer. Both servers read a reward at the
last token they are given: a conversation is sent up to the token at which its reward is read (`chat.pooled_index`).

Sources: SGLang's srt/entrypoints/http_server.py and srt/managers/tokenizer_manager.py; vLLM's
entrypoints/pooling/classify/protocol.py and model_executor/layers/pooler/activations.py.
"""

import json
import os
import random
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from http.client import HTTPException
from itertools import count
from typing import Any, Literal
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

import numpy as np
from jaxtyping import Float, Int32

from skyrm_jax.chat import Chat, Tree
from skyrm_jax.comparison import number
from skyrm_jax.errors import UserError
from skyrm_jax.tree_scorer import TreeScorer

Form = Literal["sglang", "vllm"]

KEY = "SKYRM_ENDPOINT_KEY"
"""Environment variable with the server's key, if it asks for one."""

PATIENCE = 300.0
"""Seconds for which a request is repeated after its first failure."""

LONGEST_PAUSE, BETWEEN_WARNINGS = 30.0, 15.0
"""Seconds from one try to the next, at most, and from one warning to the next, at least."""

VARIED = 8
"""Conversations whose rewards do not all lie in 0 to 1, unless something has put them there."""

STEADY = {
    "/model_info": ("model_path", "weight_version", "architectures"),
    "/server_info": ("version", "dtype", "quantization", "kv_cache_dtype", "attention_backend"),
    "/version": ("version",),
}
"""What servers say of themselves that is the same at every start, and no secret: SGLang's /server_info holds its keys."""


class Endpoint(TreeScorer):
    """A served reward model.

    Args:
        url: where SGLang or vLLM answers, such as http://localhost:30000.
        chat: the served model's tokenizer and template.
        form: whose /classify it is; auto: ask.
        model: its name there; None: the only one.
        max_tokens: longest conversation; longer ones lose the same prompt tokens in all responses.
        batch: conversations in a request.
        parallel: requests at once.
        timeout: seconds without a sign of life, after which a request counts as failed.
    """

    pinned = False

    def __init__(
        self,
        url: str,
        chat: Chat,
        *,
        form: Literal["auto", "sglang", "vllm"] = "auto",
        model: str | None = None,
        max_tokens: int = 16384,
        batch: int = 32,
        parallel: int = 8,
        timeout: float = 600.0,
    ):
        """Raises UserError if nothing answers at `url`, or what answers is no reward model's server."""
        super().__init__(chat, max_tokens)
        if batch < 1 or parallel < 1 or not timeout > 0:
            raise UserError(f"batch ({batch}), parallel ({parallel}) and timeout ({timeout}) must be above 0")
        self._server = _Server(url, timeout)
        self._batch, self._parallel = batch, parallel
        said = {"/model_info": self._server.says("/model_info") or self._server.says("/get_model_info")}
        said["/version"] = {} if said["/model_info"] else self._server.says("/version")
        self.form: Form = _form(self._server.url, said) if form == "auto" else form
        if self.form == "sglang":
            if said["/model_info"].get("is_generation"):
                raise UserError(f"{self._server.url} serves a model that writes text: start SGLang with --is-embedding")
            said["/server_info"] = self._server.says("/server_info") or self._server.says("/get_server_info")
        self.model, card = _model(self._server.url, self._server.says("/v1/models").get("data"), model)
        most = card.get("max_model_len")
        if isinstance(most, int) and max_tokens > most:
            raise UserError(
                f"{self._server.url} reads {most} tokens at most, and --max-tokens is {max_tokens}: give --max-tokens {most}, "
                "or start the server with a longer context"
            )
        self._facts = {name: said[path][name] for path in said for name in STEADY[path] if said[path].get(name)} | card
        self._raw = self.form == "sglang"

    @property
    def manifest(self) -> dict[str, Any]:
        """Everything known of the served model that could change a number, and what has been counted so far."""
        return {
            "endpoint": self._server.url,
            "form": self.form,
            "model": self.model,
            "server": self._facts,
            "sent": "token ids up to the token at which the reward is read",
            "max_tokens": self.max_tokens,
            "template_hash": self.chat.template_hash,
            "tokenizer_hash": self.chat.tokenizer_hash,
            "pad_token_id": self.chat.pad_token_id,
            "bos_token_id": self.chat.bos,
            **self.counts,
        }

    def score_trees(
        self, trees: Sequence[Tree], progress: Callable[[int], None] | None = None
    ) -> list[Float[np.ndarray, "K"]]:
        """Rewards of trees made by this scorer's `chat`, in order, counted. Equal conversations of a tree are sent once.

        Raises UserError if the server fails for longer than `PATIENCE`, refuses a request, or gives anything but one
        finite number, of which no sigmoid was taken, for each whole conversation.
        """
        if not trees:
            return []
        self.count(trees)
        parts = [conversations(tree) for tree in trees]
        flat = [conversation for part, _ in parts for conversation in part]
        tree_of = np.repeat(np.arange(len(trees)), [len(part) for part, _ in parts])
        self._require_raw(flat[:VARIED])
        values, missing = np.empty(len(flat), np.float32), np.bincount(tree_of, minlength=len(trees))
        for where, rewards in self._answers(flat):
            values[where] = rewards
            touched, times = np.unique(tree_of[where], return_counts=True)
            missing[touched] -= times
            if progress is not None:
                progress(int(np.count_nonzero(missing[touched] == 0)))
        of_trees = np.split(values, np.cumsum([len(part) for part, _ in parts])[:-1])
        return [of_tree[which] for of_tree, (_, which) in zip(of_trees, parts, strict=True)]

    def _answers(
        self, conversations: Sequence[Int32[np.ndarray, "_"]]
    ) -> Iterator[tuple[slice, Float[np.ndarray, "_"]]]:
        """The rewards of each batch as they come; at most `parallel` requests are under way."""
        stop = threading.Event()
        batches = [slice(start, start + self._batch) for start in range(0, len(conversations), self._batch)]
        pool = ThreadPoolExecutor(self._parallel)
        try:
            futures = {pool.submit(self._ask, conversations[one], stop): one for one in batches}
            for future in as_completed(futures):
                yield futures[future], future.result()
        finally:  # an error is told at once, not after the requests that nobody needs any more
            stop.set()
            pool.shutdown(wait=False, cancel_futures=True)

    def _ask(
        self, conversations: Sequence[Int32[np.ndarray, "_"]], stop: threading.Event, use_activation: bool = False
    ) -> Float[np.ndarray, "_"]:
        """The rewards of one request."""
        ids = [conversation.tolist() for conversation in conversations]
        # vLLM's older names for use_activation are not sent: from 0.11.1 to 0.14 "activation": false switches it on.
        body: dict[str, Any] = {"input": ids, "use_activation": use_activation}
        if self.form == "sglang":
            body = {"input_ids": ids}
        if self.model is not None:
            body["model"] = self.model
        answer = self._server.post("/classify", body, stop)
        try:
            read = _sglang_rewards if self.form == "sglang" else _vllm_rewards
            rewards = np.array(read(answer, [len(one) for one in ids]), np.float32)
            if not np.isfinite(rewards).all():
                raise _Unusable(f"rewards that are not finite ({rewards[~np.isfinite(rewards)][0]}): see its log")
        except _Unusable as error:
            raise UserError(f"{self._server.url}/classify gave {error}") from None
        return rewards

    def _require_raw(self, conversations: Sequence[Int32[np.ndarray, "_"]]) -> None:
        """Raises UserError if vLLM takes the sigmoid of every reward, as it does where it does not know `use_activation`.

        Of that the sign is that asking for the sigmoid changes nothing. Fewer conversations than `VARIED` are not judged.
        """
        if self._raw or len(conversations) < VARIED:
            return
        stop = threading.Event()
        raw = self._ask(conversations, stop)
        if ((raw >= 0) & (raw <= 1)).all():
            squashed = self._ask(conversations, stop, use_activation=True)
            if np.abs(raw - squashed).max() < 0.02:  # bfloat16 in another batch differs by as much
                raise UserError(
                    f"{self._server.url}: all rewards lie between 0 and 1, and use_activation makes no difference: "
                    "vLLM takes their sigmoid, which spoils their scale and makes ties; start it with "
                    """--pooler-config '{"use_activation": false}', or serve the model with SGLang"""
                )
        self._raw = True


def conversations(tree: Tree) -> tuple[list[Int32[np.ndarray, "_"]], Int32[np.ndarray, "K"]]:
    """The different conversations of a tree, each up to the token at which its reward is read, and which is whose."""
    read, which = np.unique(tree.reward_index[tree.leaf], return_inverse=True)
    return [tree.tokens[: i + 1][tree.end[: i + 1] > i] for i in read.tolist()], which.astype(np.int32)


def _form(url: str, said: dict[str, dict[str, Any]]) -> Form:
    if "model_path" in said["/model_info"]:
        return "sglang"
    if "version" in said["/version"]:
        return "vllm"
    raise UserError(
        f"{url}: neither /model_info (SGLang) nor /version (vLLM) answers there; check the URL, or give --endpoint-form"
    )


def _model(url: str, cards: Any, asked: str | None) -> tuple[str | None, dict[str, Any]]:
    """The model's name there, and what /v1/models says of it."""
    found = {one["id"]: one for one in cards or () if isinstance(one, dict) and isinstance(one.get("id"), str)}
    bases = [name for name, one in found.items() if not one.get("parent")]  # the others are its LoRA adapters
    if asked is None and len(bases) > 1:
        raise UserError(f"{url} serves several models: choose one with --endpoint-model: {', '.join(found)}")
    if asked is not None and found and asked not in found:
        raise UserError(f"{url} serves no {asked}: set --endpoint-model to one of {', '.join(found)}")
    name = asked if asked is not None else next(iter(bases), None)
    card = found.get(name, {}) if name is not None else {}
    return name, {fact: card[fact] for fact in ("root", "max_model_len") if card.get(fact)}


class _Unusable(Exception):
    """What a server gave instead of rewards, in words that go on after "gave"."""


def _sglang_rewards(answer: Any, lengths: Sequence[int]) -> list[float]:
    """Of [{"embedding": [reward], "meta_info": {"prompt_tokens": ...}}, ...], in the order of the conversations."""
    if not isinstance(answer, list) or not all(isinstance(one, dict) for one in answer):
        raise _Unusable(f"no list of results but {answer!r:.200}: check --endpoint-form")
    _require_all(len(answer), len(lengths))
    for one, length in zip(answer, lengths, strict=True):
        meta = one.get("meta_info")
        _require_whole(meta.get("prompt_tokens") if isinstance(meta, dict) else None, length)
    return [_reward(one.get("embedding")) for one in answer]


def _vllm_rewards(answer: Any, lengths: Sequence[int]) -> list[float]:
    """Of {"data": [{"index": i, "probs": [reward]}, ...], "usage": {"prompt_tokens": ...}}."""
    data = answer.get("data") if isinstance(answer, dict) else None
    if not isinstance(data, list) or not all(isinstance(one, dict) for one in data):
        raise _Unusable(f"no results but {answer!r:.200}: check --endpoint-form")
    _require_all(len(data), len(lengths))
    index = [one.get("index") for one in data]
    if not all(isinstance(i, int) for i in index) or sorted(index) != list(range(len(lengths))):
        raise _Unusable(f"results with the indices {index!r:.200} instead of 0, 1, 2, ...")
    usage = answer.get("usage")
    _require_whole(usage.get("prompt_tokens") if isinstance(usage, dict) else None, sum(lengths))
    return [_reward(one.get("probs")) for one in sorted(data, key=lambda one: one["index"])]


def _require_all(given: int, wanted: int) -> None:
    if given != wanted:
        raise _Unusable(f"{given} results for {wanted} conversations: see its log")


def _require_whole(read: Any, sent: int) -> None:
    """Raises _Unusable if the server says that it read more or fewer tokens than it was sent."""
    if number(read) and read != sent:
        raise _Unusable(
            f"rewards of {read} tokens where {sent} were sent: lower --max-tokens to its context length, "
            "and let it neither truncate nor add tokens"
        )


def _reward(values: Any) -> float:
    if not isinstance(values, list) or not values:
        raise _Unusable(f"no reward but {values!r:.80}: check --endpoint-form")
    if len(values) > 1:
        raise _Unusable(
            f"{len(values)} numbers for one conversation: that is no reward model with one label; "
            "serve a ...ForSequenceClassification model with num_labels 1"
        )
    # JSON has no NaN: SGLang writes null.
    if not number(values[0]) and values[0] is not None:
        raise _Unusable(f"no reward but {values!r:.80}")
    return float("nan") if values[0] is None else float(values[0])


class _Failure(Exception):
    """A request without result: `status` is HTTP's, None if there was no answer; `pause` what the server asks for."""

    def __init__(self, status: int | None, message: str, pause: float | None = None) -> None:
        super().__init__(message if status is None else f"HTTP {status} ({message})")
        self.status, self.pause = status, pause

    @property
    def passing(self) -> bool:
        """Whether the same request may succeed later."""
        return self.status is None or self.status in (408, 429) or self.status >= 500


class _NoRedirect(HTTPRedirectHandler):
    """A redirect is an error: it would turn POST into GET, and carry the key elsewhere."""

    def redirect_request(self, *_: Any) -> None:
        return None


class _Server:
    """JSON over HTTP, through the proxy that the environment names, if any. May be used by several threads."""

    def __init__(self, url: str, timeout: float) -> None:
        """Raises UserError if `url` is none."""
        try:
            parts = urlsplit(url)
        except ValueError:
            parts = urlsplit("")
        if parts.scheme not in ("http", "https") or not parts.hostname or not url.isascii():
            raise UserError(f"endpoint {url}: give the server's URL, such as http://localhost:30000")
        if parts.username is not None or parts.query or parts.fragment:
            raise UserError(f"endpoint {parts.hostname}: give its URL alone, and its key in {KEY}")
        self.url = re.sub(r"(/v1)?(/classify)?/*$", "", url.rstrip("/"))
        self._timeout = timeout
        self._opener = build_opener(_NoRedirect)
        self._headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if key := os.environ.get(KEY, "").strip():
            if not (key.isascii() and key.isprintable()):
                raise UserError(f"{KEY} holds characters that no key has: set it to the server's key alone")
            self._headers["Authorization"] = f"Bearer {key}"
        self._lock, self._warned = threading.Lock(), -BETWEEN_WARNINGS

    def says(self, path: str) -> dict[str, Any]:
        """What GET gives there, {} if there is no such thing. Raises UserError if no server answers, or it wants a key."""
        try:
            answer = json.loads(self._once(path, None))
        except _Failure as failure:
            if failure.status in (None, 401, 403, 502, 503, 504):
                raise self._error(path, failure) from None
            return {}
        except ValueError:
            return {}
        return answer if isinstance(answer, dict) else {}

    def post(self, path: str, body: Any, stop: threading.Event) -> Any:
        """The answer to `body`. Repeats what may pass for up to `PATIENCE`, and says so, unless `stop` is set.

        Raises UserError if it does not pass, or is the request's fault.
        """
        data = json.dumps(body).encode()
        deadline = None
        for attempt in count():
            try:
                answer = self._once(path, data)
                break
            except _Failure as failure:
                deadline = time.monotonic() + PATIENCE if deadline is None else deadline
                pause = failure.pause or random.uniform(0.5, 1) * min(LONGEST_PAUSE, 2.0**attempt)
                if not failure.passing or stop.is_set() or time.monotonic() + pause > deadline:
                    raise self._error(path, failure) from None
                self._warn(f"{self.url}{path}: {failure}; trying again, for at most {PATIENCE / 60:.0f} minutes")
                stop.wait(pause)
        try:
            return json.loads(answer)
        except ValueError:
            raise UserError(f"{self.url}{path} gave no JSON but {answer!r:.200}: check the URL") from None

    def _once(self, path: str, data: bytes | None) -> bytes:
        request = Request(self.url + path, data, self._headers)
        timeout = self._timeout if data is not None else min(self._timeout, 30.0)
        try:
            with self._opener.open(request, timeout=timeout) as response:
                return bytes(response.read())
        except HTTPError as error:
            pause = error.headers.get("Retry-After", "") if error.headers else ""
            raise _Failure(error.code, _message(error), float(pause) if pause.isdecimal() else None) from None
        except (OSError, HTTPException) as error:
            reason = error.reason if isinstance(error, URLError) else error
            if isinstance(reason, TimeoutError):
                reason = f"no answer for {timeout:.0f} s"
            raise _Failure(None, str(reason) or type(reason).__name__) from None

    def _warn(self, message: str) -> None:
        with self._lock:
            if time.monotonic() - self._warned < BETWEEN_WARNINGS:
                return
            self._warned = time.monotonic()
        print(f"warning: {message}", file=sys.stderr, flush=True)

    def _error(self, path: str, failure: _Failure) -> UserError:
        text = str(failure)
        if failure.status in (401, 403):
            remedy = f"put the server's key into the environment variable {KEY}"
        elif failure.passing:
            remedy = "is the server running there, and ready? Its log may say more"
        elif re.search(r"context length|longer than|maximum model length|max_model_len", text):
            remedy = "lower --max-tokens to the server's context length"
        elif "valid string" in text:
            remedy = "this server takes no token ids there, as older vLLMs do not: use a newer one (0.15 has them), or SGLang"
        elif failure.status is not None and (failure.status in (404, 405) or failure.status < 400):
            remedy = (
                "check the URL and --endpoint-model, and that a reward model is served "
                "(SGLang: --is-embedding; vLLM: --runner pooling)"
            )
        else:
            remedy = "check --endpoint-form and the server's log"
        return UserError(f"{self.url}{path}: {text}: {remedy}")


def _message(error: HTTPError) -> str:
    """What the server says of its error: {"error": {"message": ...}}, {"message": ...}, {"detail": ...}, or its text."""
    try:
        text = error.read().decode(errors="replace")
    except (OSError, HTTPException):
        text = ""
    try:
        said = json.loads(text)
        said = said.get("error", said)
        found = said if isinstance(said, str) else said.get("message") or said["detail"]
    except (ValueError, AttributeError, KeyError, TypeError):
        found = text or error.reason
    return f"{found:.500}" if isinstance(found, str) else f"{found!r:.500}"
