"""A store's files on Google Cloud Storage: small ones are read whole, the index is copied to this machine once.

A place is a local path or `gs://bucket/name`, the one remote scheme that array_record reads. The shards are its
business; everything else goes through tensorstore, which checkpoints need anyway. Both find the application
default credentials by themselves. They are led to another server by CLOUD_STORAGE_EMULATOR_ENDPOINT
(array_record) and TENSORSTORE_GCS_HTTP_URL. tensorstore aborts in a forked process: spawn workers.
"""

import fcntl
import os
import sys
import zlib
from collections import deque
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import tensorstore as ts

from skyrm_jax.errors import UserError

REMOTE = "gs://"
# Of a request that meets no server or a busy one: about a minute in all.
RETRIES = {"max_retries": 6, "initial_delay": "1s", "max_delay": "16s"}
# A copy is made by reads of so many bytes, so many of them at once.
BLOCK, AT_ONCE = 16 << 20, 8


def is_remote(place: str) -> bool:
    """Whether it is on Google Cloud Storage. Raises UserError for any other `scheme://`."""
    if "://" in place and not place.startswith(REMOTE):
        raise UserError(f"{place}: only local folders and {REMOTE} can be read; copy it to one of those")
    return place.startswith(REMOTE)


def join(directory: str, name: str) -> str:
    """The place of the file `name` of a folder."""
    return f"{directory.rstrip('/')}/{name}" if is_remote(directory) else os.path.join(directory, name)


def read_bytes(place: str) -> bytes:
    """A whole file. Raises UserError if it is missing or cannot be read."""
    if is_remote(place):
        folder, name = _open(place)
        return _result(place, folder.read(name)) or b""
    try:
        return Path(place).read_bytes()
    except OSError as error:
        raise UserError(f"{place}: cannot be read ({error.strerror}); check the path") from error


def check_sizes(directory: str, sizes: Mapping[str, int]) -> None:
    """Checks that the files of a folder are there, with these numbers of bytes. Raises UserError naming the first not.

    A remote file costs two reads of a byte, its last and the one after it; the reads of all files go out together.
    """
    if not is_remote(directory):
        for name, size in sizes.items():
            path = Path(directory, name)
            if not path.is_file() or path.stat().st_size != size:
                raise _damaged(str(path), f"it does not have {size} bytes" if path.exists() else "it is missing")
        return
    folder, _ = _open(join(directory, ""))
    ends = [(name, at) for name, size in sizes.items() for at in (size - 1, size) if at >= 0]
    reads = [folder.read(name, byte_range=slice(at, at + 1)) for name, at in ends]
    for (name, at), read in zip(ends, reads, strict=True):
        if (_result(join(directory, name), read) is None) != (at == sizes[name]):
            raise _damaged(join(directory, name), f"it does not have {sizes[name]} bytes")


def local_copy(place: str, size: int, crc32: int) -> Path:
    """A copy of a remote file in the cache folder, $SKYRM_CACHE or else ~/.cache/skyrm_jax; a local file itself.

    One process makes the copy while others wait. It gets its name, which holds the checksum, once the checksum is
    found right, and is trusted from then on. The cache may be deleted at any time. A local file is not checked.

    Raises UserError if the remote file is missing, cannot be read or is another, or if the cache cannot be written.
    """
    if not is_remote(place):
        return Path(place)
    directory, _, name = place.rpartition("/")
    cache = cache_folder()
    copy, partial, lock = (cache / f"{crc32:08x}-{size}-{name}{end}" for end in ("", ".partial", ".lock"))
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with lock.open("w") as held:
            fcntl.flock(held, fcntl.LOCK_EX)
            if not copy.is_file():
                check_sizes(directory, {name: size})
                print(f"copying {place} ({size / 1e6:.1f} MB) to {cache}", file=sys.stderr)
                try:
                    with partial.open("wb") as file:
                        _download(place, size, crc32, file)
                    partial.rename(copy)
                finally:
                    partial.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"{cache}: cannot hold {place} ({error.strerror}); set SKYRM_CACHE to a folder") from error
    return copy


def cache_folder() -> Path:
    """$SKYRM_CACHE, or else ~/.cache/skyrm_jax; it need not exist."""
    return Path(os.environ.get("SKYRM_CACHE") or Path.home() / ".cache" / "skyrm_jax")


def gcs_folder(place: str) -> dict[str, Any]:
    """A folder gs://bucket/folder/ as TensorStore is told; it ends in a slash, or is the whole bucket."""
    bucket, _, path = place.removeprefix(REMOTE).partition("/")
    return {"driver": "gcs", "bucket": bucket, "path": path}


def _download(place: str, size: int, crc32: int, file: BinaryIO) -> None:
    folder, name = _open(place)
    reads = (folder.read(name, byte_range=slice(at, min(at + BLOCK, size))) for at in range(0, size, BLOCK))
    under_way, found = deque(islice(reads, AT_ONCE)), 0
    while under_way:
        block = _result(place, under_way.popleft()) or b""
        under_way.extend(islice(reads, 1))
        file.write(block)
        found = zlib.crc32(block, found)
    if found != crc32:
        raise _damaged(place, "its checksum is wrong")
    file.flush()
    os.fsync(file.fileno())


def _open(place: str) -> tuple[ts.KvStore, str]:
    """The folder of a remote file, and the file's name in it."""
    bucket, slash, path = place.removeprefix(REMOTE).partition("/")
    name = path.rpartition("/")[2]
    folder = f"{bucket}{slash}{path.removesuffix(name)}"
    spec = {**gcs_folder(folder), "context": {"gcs_request_retries": RETRIES}}
    try:
        return ts.KvStore.open(spec).result(), name
    except ValueError as error:
        raise UserError(f"{place}: is no address ({error}); write {REMOTE}bucket/folder") from error


def _result(place: str, read: Any) -> bytes | None:
    """What a read of tensorstore found, None if the file ends before. Raises UserError if there is no answer."""
    try:
        found = read.result()
    except ValueError as error:
        if "OUT_OF_RANGE" in str(error):
            return None
        remedy = "check the address, the network and your credentials (gcloud auth application-default login)"
        raise UserError(f"{place}: cannot be read ({error}); {remedy}") from error
    if found.state == "missing":
        raise UserError(f"{place}: is missing; check the address, or fetch the store again")
    return bytes(found.value)


def _damaged(place: str, how: str) -> UserError:
    return UserError(f"{place}: is damaged ({how}); prepare the store again, or fetch it again")
