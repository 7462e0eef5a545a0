"""A stand-in for an OpenAI-compatible server: a thread of this process that answers POST /v1/chat/completions.

What it says is up to `reply`; faults are injected by setting the attributes of `FakeOpenAI`.
"""

import hashlib
import json
import socket
import struct
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

from skyrm_jax.curate.annotators import Annotator, Request

Body = dict[str, Any]


def annotator(server: "FakeOpenAI", name: str = "a", **options: Any) -> Annotator:
    """An annotator of this server, whose model has its name."""
    return Annotator(**{"name": name, "model": name, "base_url": server.url, "concurrency": 4, **options})


def questions(count: int, *names: str, size: int = 0) -> list[Request]:
    """So many different requests, each for every one of the annotators, of `size` bytes more than needed."""
    return [
        Request((name,), "test", ({"role": "user", "content": f"question {i} {'x' * size}"},), "test@1")
        for i in range(count)
        for name in names or ("a",)
    ]


def preferred(value: str) -> str:
    """An answer of a judge."""
    return f'I looked at both. {{"preferred": "{value}"}}'


def always(text: str) -> Callable[[Body], str]:
    """A model that says one thing only."""
    return lambda body: text


def echo(body: Body) -> str:
    """A model whose answer every part of the request changes."""
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


class FakeOpenAI:
    """Serves completions on a free port of this machine within a `with` block.

    Attributes:
        reply: gives the answer to a request's body: text, or a whole JSON answer, or bytes to send as they are.
        url: what clients take as base_url; until it is entered, connections are refused.
        failures: what happens to the next requests: an HTTP status, or "cut" (the answer breaks off), "reset" (no
            answer, the connection breaks), "hang" (no answer at all).
        always_fails: what happens to every request.
        error: the body of failures; {model} is filled in.
        headers: sent with every failure.
        key: the key that it asks for.
        models: the models that it serves; None: any.
        seconds: that an answer to a body takes.
        usage: whether answers tell their tokens.
        dies_after: answers after which connections are refused.
        bodies: all bodies received, `times` when; `answered` those that got an answer.
        keys: the keys received.
        most: requests that were under way at once.
    """

    def __init__(self, reply: Callable[[Body], Any] = echo, port: int = 0) -> None:
        self.reply = reply
        self.failures: list[int | str] = []
        self.always_fails: int | str | None = None
        self.error: Any = {"error": {"message": "out of luck with {model}", "code": None}}
        self.headers: dict[str, str] = {}
        self.key: str | None = None
        self.models: list[str] | None = None
        self.seconds: Callable[[Body], float] = lambda body: 0.0
        self.usage = True
        self.dies_after: int | None = None
        self.bodies: list[Body] = []
        self.times: list[float] = []
        self.answered: list[Body] = []
        self.keys: set[str | None] = set()
        self.now = self.most = 0
        self.lock, self.closed = threading.Lock(), threading.Event()
        self._server = _Server(("127.0.0.1", port), type("Bound", (_Handler,), {"fake": self}), False)
        self._server.server_bind()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    def __enter__(self) -> Self:
        self._server.server_activate()
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """From now on connections are refused, and requests under way get no answer."""
        if not self.closed.is_set():
            self.closed.set()
            self._server.shutdown()
            self._server.server_close()

    def tokens(self, body: Body, text: str) -> tuple[int, int]:
        """What it counts for a body and its answer."""
        return sum(len(message["content"].encode()) for message in body["messages"]) // 4 + 9, len(text) // 4 + 1

    def complete(self, body: Body) -> Any:
        """The answer to a body."""
        text = self.reply(body)
        if not isinstance(text, str):
            return text
        read, written = self.tokens(body, text)
        answer = {
            "id": "x",
            "object": "chat.completion",
            "created": 0,
            "model": body["model"],
            "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}],
        }
        if self.usage:
            answer["usage"] = {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}
        return answer


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients hang up in tests; nothing is printed."""


class _Handler(BaseHTTPRequestHandler):
    fake: FakeOpenAI
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # headers and body in one packet, or Nagle and delayed ACKs cost 40 ms an answer

    def log_message(self, *_: Any) -> None:
        """Nothing is printed."""

    def do_POST(self) -> None:
        fake = self.fake
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        key = self.headers.get("Authorization")
        with fake.lock:
            fake.bodies.append(body)
            fake.times.append(time.monotonic())
            fake.keys.add(key)
            fake.now += 1
            fake.most = max(fake.most, fake.now)
            failure = fake.failures.pop(0) if fake.failures else fake.always_fails
        fake.closed.wait(fake.seconds(body))
        answer = None if failure is not None else fake.complete(body)
        with fake.lock:  # before the answer: with it the client may begin the next
            fake.now -= 1
        if fake.closed.is_set():
            self._reset()
        elif self.path != "/v1/chat/completions":
            self._send(404, {"detail": "Not Found"})
        elif fake.key is not None and key != f"Bearer {fake.key}":
            self._send(401, {"error": {"message": "Incorrect API key provided"}})
        elif fake.models is not None and body["model"] not in fake.models:
            self._send(404, {"error": {"message": f"The model `{body['model']}` does not exist"}})
        elif failure == "hang":
            fake.closed.wait(60)
        elif failure == "reset":
            self._reset()
        elif failure == "cut":
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            self.end_headers()
            self.wfile.write(b'{"choices": [')
            self.close_connection = True
        elif failure is not None:
            said = json.dumps(fake.error).replace("{model}", body["model"])
            self._send(failure, json.loads(said), fake.headers)
        else:
            self._answer(body, answer)

    def _answer(self, body: Body, answer: Any) -> None:
        fake = self.fake
        with fake.lock:
            fake.answered.append(body)
            last = fake.dies_after is not None and len(fake.answered) >= fake.dies_after
        self._send(200, answer)
        if last:
            self.close_connection = True
            threading.Thread(target=fake.close, daemon=True).start()

    def _reset(self) -> None:
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    def _send(self, status: int | str, answer: Any, headers: dict[str, str] | None = None) -> None:
        data = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        self.send_response(int(status))
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)
