"""A local stand-in for Google Cloud Storage: the folders under `root` are its buckets.

It answers what array_record, tensorstore and gcsfs ask of the JSON API: an object's metadata, its bytes, a
range of them, a listing in pages, uploads, copies and deletions. No credentials, no checksums, no TLS; an object's
generation is its time of writing, and conditions on it hold for uploads, downloads and deletions. Faults are injected by setting the attributes of `FakeGcs`.
"""

import json
import re
import shutil
import threading
import uuid
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qs, unquote, urlsplit


@dataclass
class Request:
    """A request, and what was sent of the bytes it asked for before the client hung up."""

    path: str
    range: str
    status: int = 0
    sent: int = 0


class FakeGcs:
    """Serves `root` on a free port of this machine within a `with` block.

    Attributes:
        fail: how many of the next requests are answered with 503; -1 is every one.
        cut: how many of the next downloads break off halfway.
        page: the most names in one answer to a listing.
        requests: those so far.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.fail = self.cut = 0
        self.page = 1000
        self.requests: list[Request] = []
        self.uploads: dict[str, tuple[str, bytes]] = {}
        self.writing = threading.Lock()
        self._lock = threading.Lock()
        self._server = _Server(("127.0.0.1", 0), type("Bound", (_Handler,), {"gcs": self}))

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    @property
    def environment(self) -> dict[str, str]:
        """The variables that lead each client here, and away from the credentials of the machine."""
        return {
            "CLOUD_STORAGE_EMULATOR_ENDPOINT": self.endpoint,  # array_record
            "TENSORSTORE_GCS_HTTP_URL": self.endpoint,
            "GOOGLE_AUTH_TOKEN_FOR_TESTING": "nobody",  # tensorstore
            "STORAGE_EMULATOR_HOST": self.endpoint,  # gcsfs
            "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",  # it would ask over gRPC what kind of bucket this is
        }

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()

    def take(self, fault: str) -> bool:
        """Whether this request has the fault `fail` or `cut`, one fewer of which is left then."""
        with self._lock:
            left: int = getattr(self, fault)
            setattr(self, fault, left - (left > 0))
            return left != 0


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up in the middle of a body is no error: array_record does at every record."""


class _Handler(BaseHTTPRequestHandler):
    gcs: FakeGcs
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        self.seen = Request(self.path, self.headers.get("Range", ""))
        self.gcs.requests.append(self.seen)
        _, api, rest = url.path.partition("/storage/v1/b/")
        bucket, _, name = rest.partition("/o/")
        path = self.gcs.root / bucket / unquote(name)
        if self.gcs.take("fail"):
            self._answer(HTTPStatus.SERVICE_UNAVAILABLE, b"{}")
        elif api and rest.endswith("/o"):
            self._answer_json(self._listing(rest.removesuffix("/o"), **query))
        elif not api or not name or not path.is_file():
            self._answer(HTTPStatus.NOT_FOUND, b'{"error": {"code": 404, "message": "No such object"}}')
        elif query.get("alt") != "media":
            self._answer_json(self._metadata(bucket, path))
        elif query.get("ifGenerationNotMatch") == _generation(path):
            self._answer(HTTPStatus.NOT_MODIFIED, b"")
        elif query.get("ifGenerationMatch", _generation(path)) != _generation(path):
            self._answer(HTTPStatus.PRECONDITION_FAILED, b"{}")
        else:
            self._download(path)

    def do_POST(self) -> None:
        url = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.seen = Request(self.path, "")
        self.gcs.requests.append(self.seen)
        _, _, rest = url.path.partition("/storage/v1/b/")
        if self.gcs.take("fail"):
            self._answer(HTTPStatus.SERVICE_UNAVAILABLE, b"{}")
        elif not url.path.startswith("/batch/") and not (self.gcs.root / rest.split("/")[0]).is_dir():
            self._answer(HTTPStatus.NOT_FOUND, b'{"error": {"code": 404, "message": "No such bucket"}}')
        elif url.path.startswith("/batch/"):
            self._batch(body)
        elif copied := re.fullmatch(r"(.*)/o/(.*?)/(rewriteTo/b/(.*)|moveTo)/o/(.*)", rest):
            bucket, name, how, other, target = copied.groups()
            self._copy(f"{bucket}/o/{name}", f"{other or bucket}/o/{target}", moves=how == "moveTo")
        elif query.get("uploadType") == "multipart":
            # Two parts: what the object is called, and its bytes.
            boundary = re.search(r'boundary="?([^";]+)', self.headers["Content-Type"])
            assert boundary is not None
            _, about, content, _ = body.split(b"--" + boundary[1].encode())
            name = json.loads(about.split(b"\r\n\r\n" if b"\r\n\r\n" in about else b"\n\n", 1)[1])["name"]
            blank = b"\r\n\r\n" if b"\r\n\r\n" in content else b"\n\n"
            content = content.split(blank, 1)[1].removesuffix(b"\r\n").removesuffix(b"\n")
            self._store(rest.removesuffix("/o"), name, content, query.get("ifGenerationMatch"))
        elif query.get("uploadType") == "resumable":
            self._resumable(rest.removesuffix("/o"), body, query)
        else:
            assert query.get("uploadType") == "media", self.path
            self._store(rest.removesuffix("/o"), query["name"], body, query.get("ifGenerationMatch"))

    do_PUT = do_POST  # of the pieces of a resumable upload

    def _resumable(self, bucket: str, body: bytes, query: dict[str, str]) -> None:
        """First the object's name, for which there is an id; then pieces, of which the last says how long it all is."""
        upload, condition = query.get("upload_id"), query.get("ifGenerationMatch")
        if upload is None:
            upload = uuid.uuid4().hex
            self.gcs.uploads[upload] = json.loads(body)["name"], b""
            place = f"{self.gcs.endpoint}/upload/storage/v1/b/{bucket}/o?uploadType=resumable&upload_id={upload}"
            place += "" if condition is None else f"&ifGenerationMatch={condition}"
            return self._answer(HTTPStatus.OK, b"", {"Location": place})
        name, before = self.gcs.uploads[upload]
        self.gcs.uploads[upload] = name, before + body
        if self.headers.get("Content-Range", "/1").endswith("/*"):
            return self._answer(HTTPStatus.PERMANENT_REDIRECT, b"", {"Range": f"bytes=0-{len(before + body) - 1}"})
        self._store(bucket, name, before + body, condition)

    def do_DELETE(self) -> None:
        self.seen = Request(self.path, "")
        self.gcs.requests.append(self.seen)
        url = urlsplit(self.path)
        place, condition = url.path.partition("/storage/v1/b/")[2], parse_qs(url.query).get("ifGenerationMatch")
        if self.gcs.take("fail"):
            self._answer(HTTPStatus.SERVICE_UNAVAILABLE, b"{}")
        elif condition and self._path(place).is_file() and condition != [_generation(self._path(place))]:
            self._answer(HTTPStatus.PRECONDITION_FAILED, b"{}")
        else:
            self._answer(HTTPStatus.NO_CONTENT if self._delete(place) else HTTPStatus.NOT_FOUND, b"")

    def _path(self, place: str) -> Path:
        """The file of BUCKET/o/NAME, its name quoted."""
        bucket, _, name = place.partition("/o/")
        return self.gcs.root / bucket / unquote(name)

    def _store(self, bucket: str, name: str, body: bytes, generation: str | None = None) -> None:
        path = self.gcs.root / bucket / name
        with self.gcs.writing:
            if generation is not None and generation != (_generation(path) if path.is_file() else "0"):
                return self._answer(HTTPStatus.PRECONDITION_FAILED, b"{}")
            path.parent.mkdir(parents=True, exist_ok=True)
            partial = path.with_name(f"{path.name}.partial-{threading.get_ident()}")
            partial.write_bytes(body)
            partial.replace(path)
            about = self._metadata(bucket, path)
        self._answer_json(about)

    def _copy(self, source: str, target: str, moves: bool) -> None:
        if not self._path(source).is_file():
            return self._answer(HTTPStatus.NOT_FOUND, b"{}")
        path = self._path(target)
        with self.gcs.writing:
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(self._path(source), path)
        if moves:
            self._delete(source)
        about = self._metadata(target.split("/o/")[0], path)
        self._answer_json(about if moves else {"done": True, "resource": about})

    def _delete(self, place: str) -> bool:
        path = self._path(place)
        with self.gcs.writing:
            if not path.is_file():
                return False
            path.unlink()
            for folder in path.parents:  # a bucket has no empty folders
                if folder.parent == self.gcs.root or any(folder.iterdir()):
                    break
                folder.rmdir()
            return True

    def _batch(self, body: bytes) -> None:
        """Many deletions in one request."""
        places = [match.decode() for match in re.findall(rb"DELETE \S*?/storage/v1/b/(\S+)", body)]
        parts = [
            f"--end\r\nContent-Type: application/http\r\n\r\nHTTP/1.1 {204 if self._delete(place) else 404} .\r\n\r\n\r\n"
            for place in places
        ]
        self._answer(
            HTTPStatus.OK, f"{''.join(parts)}--end--".encode(), {"Content-Type": "multipart/mixed; boundary=end"}
        )

    def _metadata(self, bucket: str, path: Path) -> dict[str, str]:
        name, size = str(path.relative_to(self.gcs.root / bucket)), path.stat().st_size
        generation = _generation(path)
        return {"kind": "storage#object", "bucket": bucket, "name": name, "size": str(size), "generation": generation}

    def _listing(
        self, bucket: str, prefix: str = "", delimiter: str = "", pageToken: str = "", **_: str
    ) -> dict[str, Any]:
        """Objects and folders whose names begin with the prefix, in the order of their names; a token names the last."""
        found: dict[str, Path | None] = {}
        with self.gcs.writing:
            for path in (self.gcs.root / bucket).rglob("*"):
                name = str(path.relative_to(self.gcs.root / bucket))
                if path.is_file() and ".partial-" not in path.name and name.startswith(prefix):
                    first, slash, _rest = name[len(prefix) :].partition(delimiter or "\0")
                    found[prefix + first + slash] = None if slash else path
            names = sorted(name for name in found if name > pageToken)
            page = {name: found[name] for name in names[: self.gcs.page]}
            items = [self._metadata(bucket, path) for path in page.values() if path]
        more = {"nextPageToken": list(page)[-1]} if len(page) < len(names) else {}
        return {"kind": "storage#objects", "items": items, "prefixes": [n for n in page if not page[n]], **more}

    def _download(self, path: Path) -> None:
        body = path.read_bytes()
        size, headers, status = (
            len(body),
            {"x-goog-generation": (generation := _generation(path)), "ETag": f'"{generation}"'},
            HTTPStatus.OK,
        )
        if self.seen.range:
            first, last = self.seen.range.removeprefix("bytes=").split("-")
            start = int(first) if first else max(0, size - int(last))
            if start >= size:
                return self._answer(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE, b"")
            body = body[start : int(last) + 1 if first and last else size]
            headers["Content-Range"] = f"bytes {start}-{start + len(body) - 1}/{size}"
            status = HTTPStatus.PARTIAL_CONTENT
        self._answer(status, body, headers)

    def _answer_json(self, value: dict[str, Any]) -> None:
        self._answer(HTTPStatus.OK, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _answer(self, status: HTTPStatus, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.seen.status = status
        self.send_response(status)
        for name, value in {**(headers or {}), "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if "alt=media" in self.path and status < 300 and self.gcs.take("cut"):
            body, self.close_connection = body[: len(body) // 2], True
        for block in (body[start : start + 65536] for start in range(0, len(body), 65536)):
            self.wfile.write(block)
            self.seen.sent += len(block)


def _generation(path: Path) -> str:
    """An object that is written anew has another one."""
    return str(path.stat().st_mtime_ns)
