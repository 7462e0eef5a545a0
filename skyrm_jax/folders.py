"""Output folders: never in the way of another, never half there under their own name."""

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from skyrm_jax.errors import UserError


def require_vacant(folder: Path) -> None:
    """Raises UserError unless `folder` does not exist or is an empty folder."""
    if folder.is_symlink() or (folder.exists() and (not folder.is_dir() or any(folder.iterdir()))):
        raise UserError(f"{folder} exists and is not empty; choose another folder or remove it")


@contextmanager
def made_whole(folder: Path) -> Iterator[Path]:
    """A new folder to fill, beside `folder`, that takes its name when the block ends well.

    What a killed run left there is removed; after an error nothing is left.

    Raises:
        UserError: `folder` is in the way, another process is making it, or it cannot be written.
    """
    folder = folder.absolute()
    partial = folder.parent / f".{folder.name}.partial"
    with locked(folder):
        require_vacant(folder)
        shutil.rmtree(partial, ignore_errors=True)
        try:
            partial.mkdir()
            yield partial
            os.replace(partial, folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """For the time of the block no other process may make `folder`, whose parents are made.

    Raises:
        UserError: another one is making it, or the block cannot write.
    """
    lock = folder.parent / f".{folder.name}.lock"
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _held(lock, folder):
            try:
                yield
            finally:
                lock.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"{folder} cannot be written: {error}") from error


def _held(lock: Path, folder: Path) -> TextIO:
    """The file `lock`, open and locked."""
    while True:
        file = lock.open("w")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Who held it may have removed it after it was opened here: then this is not what others lock.
            if os.path.samestat(os.fstat(file.fileno()), lock.stat()):
                return file
        except BlockingIOError:
            file.close()
            raise UserError(f"{folder} is being written by another process; wait for it, or stop it") from None
        except FileNotFoundError:
            pass
        file.close()


def sync(path: Path) -> None:
    """Has what a file holds, or the names in a folder, survive a crash of the machine."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
