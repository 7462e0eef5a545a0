"""A stand-in for SGLang and vLLM: a thread of this process that answers /classify, and what is asked before it.

Only token ids are accepted. Faults are injected by setting the attributes of `FakeClassify`.
"""

import json
import math
import threading
import time
from collections.abc import Callable, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

VERSION = "0.15.0"


def checksum(ids: Sequence[int]) -> float:
    """A reward that every token, its place and the number of tokens change."""
    return sum((i + 1) * token % 97 for i, token in enumerate(ids)) % 1009 / 64 - 8


class FakeClassify:
    """Serves rewards on a free port of this machine within a `with` block.

    Attributes:
        form: sglang or vllm.
        score: gives the reward of a conversation's ids.
        url: where it answers; until it is entered, connections are refused.
        failures: what happens to the next requests to /classify: an HTTP status, or "cut" for a broken connection.
        replies: what is sent instead of the next answers: text as it is, anything else as JSON.
        edit: changes the answers.
        obeys: whether vLLM knows use_activation.
        context: the longest conversation; longer ones are refused, or cut if `cuts`.
        key: the key that it asks for.
        models: what /v1/models lists.
        info: what SGLang's /model_info adds.
        retry_after: sent with every failure.
        seconds: that an answer takes.
        asked: the conversations of each answered request.
        bodies: all bodies sent to /classify; `paths`: all paths.
        most: requests to /classify that were under way at once.
    """

    def __init__(self, form: str, score: Callable[[list[int]], float] = checksum, port: int = 0) -> None:
        self.form, self.score = form, score
        self.failures: list[int | str] = []
        self.replies: list[Any] = []
        self.edit: Callable[[Any], Any] = lambda answer: answer
        self.obeys, self.cuts, self.takes_ids, self.context = True, False, True, 10**9
        self.key: str | None = None
        self.models = [{"id": "judge", "owned_by": form, "created": 0, "max_model_len": 16384}]
        self.info: dict[str, Any] = {}
        self.retry_after: str | None = None
        self.seconds = 0.0
        self.asked: list[list[list[int]]] = []
        self.bodies: list[dict[str, Any]] = []
        self.paths: list[str] = []
        self.now = self.most = 0
        self.lock = threading.Lock()
        self._server = _Server(("127.0.0.1", port), type("Bound", (_Handler,), {"fake": self}), False)
        self._server.server_bind()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        self._server.server_activate()
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """From now on connections are refused."""
        self._server.shutdown()
        self._server.server_close()

    def says(self, path: str) -> Any:
        """What GET gives, None where there is nothing."""
        if path == "/v1/models":
            return {"object": "list", "data": self.models}
        if self.form == "vllm":
            return {"version": VERSION} if path == "/version" else None
        if path == "/model_info":
            return {"model_path": "org/judge", "is_generation": False, "weight_version": "default"} | self.info
        if path == "/server_info":
            return {
                "version": "0.5.9",
                "dtype": "bfloat16",
                "api_key": "secret",
                "internal_states": [{"t": time.time()}],
            }
        return None

    def classify(self, body: dict[str, Any]) -> Any:
        """The answer to a body."""
        ids = body["input_ids" if self.form == "sglang" else "input"]
        assert ids and all(type(token) is int for one in ids for token in one)
        with self.lock:
            self.asked.append(ids)
        read = [one[: self.context] for one in ids]
        if read != ids and not self.cuts:
            return None
        rewards = [self.score(one) for one in read]
        if self.form == "sglang":
            return [
                {"embedding": [reward], "meta_info": {"id": "x", "prompt_tokens": len(one)}}
                for reward, one in zip(rewards, read, strict=True)
            ]
        if not self.obeys or body["use_activation"]:
            rewards = [1 / (1 + math.exp(-reward)) for reward in rewards]
        data = [
            {"index": i, "label": "LABEL_0", "probs": [reward], "num_classes": 1} for i, reward in enumerate(rewards)
        ]
        return {"object": "list", "data": data, "usage": {"prompt_tokens": sum(map(len, read))}}


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients hang up in tests; nothing is printed."""


class _Handler(BaseHTTPRequestHandler):
    fake: FakeClassify
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        """Nothing is printed."""

    def do_GET(self) -> None:
        self.fake.paths.append(self.path)
        if self._is_locked():
            return
        answer = self.fake.says(self.path)
        self._send(404, {"detail": "Not Found"}) if answer is None else self._send(200, answer)

    def do_POST(self) -> None:
        fake = self.fake
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with fake.lock:
            fake.paths.append(self.path)
            fake.bodies.append(body)
            fake.now += 1
            fake.most = max(fake.most, fake.now)
            failure = fake.failures.pop(0) if fake.failures else None
            reply = fake.replies.pop(0) if fake.replies else None
        time.sleep(fake.seconds)
        with fake.lock:  # before the answer: with it the client may begin the next
            fake.now -= 1
        if self._is_locked():
            return
        if failure == "cut":
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            self.end_headers()
            self.wfile.write(b'[{"embedding"')
            self.close_connection = True
        elif isinstance(failure, int):
            self._send(failure, {"object": "error", "message": f"out of luck {failure}"})
        elif reply is not None:
            self._send(200, reply)
        elif not fake.takes_ids:
            message = "[{'type': 'string_type', 'loc': ('body', 'input', 0), 'msg': 'Input should be a valid string'}]"
            self._send(400, {"error": {"message": message, "type": "Bad Request", "code": 400}})
        elif (answer := fake.classify(body)) is None:
            message = f"The input is longer than the model's context length ({fake.context} tokens)."
            self._send(400, {"error": {"message": message, "code": 400}})
        else:
            self._send(200, fake.edit(answer))

    def _is_locked(self) -> bool:
        if self.fake.key is None or self.headers.get("Authorization") == f"Bearer {self.fake.key}":
            return False
        self._send(401, {"error": "Unauthorized"})
        return True

    def _send(self, status: int, answer: Any) -> None:
        data = answer.encode() if isinstance(answer, str) else json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        if status >= 400 and self.fake.retry_after is not None:
            self.send_header("Retry-After", self.fake.retry_after)
        if status == 302:
            self.send_header("Location", "http://127.0.0.1:9/elsewhere")
        self.end_headers()
        self.wfile.write(data)
