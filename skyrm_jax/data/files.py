"""What a source names: files, globs, folders, URLs of any file system that fsspec knows, and Hub data sets."""

import difflib
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO
from urllib.parse import parse_qsl, urlsplit

import fsspec

from skyrm_jax.errors import UserError

KINDS = (".jsonl", ".jsonl.gz", ".jsonl.zst", ".json", ".parquet")
"""Suffixes of files of records."""

HUB = "hub://"
_REMOTE = re.compile(r"[a-z][a-z0-9+.-]+://", re.IGNORECASE)
_GLOB = re.compile(r"[*?\[]")


@dataclass(frozen=True)
class SourceFile:
    """One file of records, here or elsewhere.

    Attributes:
        given: what it was named by: itself, a glob or a folder.
        name: path or URL, for messages.
        label: the same from the root of the sources, for what is kept: it holds no place on this machine.
        path: inside the file system `fs`.
        kind: its suffix, one of KINDS.
        nbytes: as stored; 0 if nobody knows.
    """

    given: str
    name: str
    label: str
    path: str
    kind: str
    nbytes: int
    fs: Any

    @property
    def short(self) -> str:
        """The last part of the name."""
        return PurePosixPath(self.path).name

    @property
    def packed(self) -> bool:
        """Whether it is compressed as a whole."""
        return self.kind.endswith((".gz", ".zst"))

    def open(self) -> BinaryIO:
        """The bytes as stored."""
        opened: BinaryIO = self.fs.open(self.path, "rb")
        return opened


@dataclass(frozen=True)
class HubDataset:
    """A data set of the Hugging Face Hub, or a folder laid out like one.

    Attributes:
        given: how it was named.
        id, config, split, revision: what `datasets.load_dataset` is asked for.
    """

    given: str
    id: str
    config: str | None = None
    split: str = "train"
    revision: str | None = None

    @property
    def name(self) -> str:
        return self.given

    label = name
    nbytes = 0
    packed = False

    @property
    def short(self) -> str:
        return PurePosixPath(self.id).name

    def resolved(self) -> "HubDataset":
        """The same at the commit that its revision now stands for; a folder has none.

        Raises:
            UserError: the Hub knows no such data set, or cannot be reached.
        """
        if os.path.isdir(self.id):
            return self
        from huggingface_hub import HfApi  # a tenth of a second that other sources do not need

        try:
            return replace(self, revision=HfApi().dataset_info(self.id, revision=self.revision, timeout=60).sha)
        except Exception as error:  # a dozen kinds, all of them about this data set or the network
            raise UserError(f"{self.name}: cannot be found on the Hub: {type(error).__name__}: {error}") from error

    def records(self) -> Iterator[Any]:
        """Its rows, streamed; no code of the repository is run.

        Raises:
            UserError: the datasets library is not installed, or the data set cannot be read.
        """
        try:
            import datasets
        except ImportError as error:
            raise UserError(f"{self.name}: reading Hub data sets needs: pip install 'skyrm-jax[hub]'") from error
        try:
            yield from datasets.load_dataset(
                self.id, self.config, split=self.split, revision=self.revision, streaming=True
            )
        except Exception as error:  # a dozen kinds, all of them about this data set or the network
            raise UserError(
                f"{self.name}: cannot be read as a Hub data set: {type(error).__name__}: {error}"
            ) from error


Source = SourceFile | HubDataset


def expand(sources: Sequence[str], root: str | os.PathLike[str] | None = None) -> list[Source]:
    """The files and data sets that `sources` name, each once, those of a glob or folder in the order of their names.

    Args:
        sources: a file, a glob ("data/*.jsonl.zst"), a folder (all files of KINDS in it, at any depth), a URL of one of
            these ("gs://bucket/folder"), or a Hub data set "hub://owner/name?config=C&split=S&revision=R".
        root: folder or URL that relative sources start from.

    Raises:
        UserError: a source names nothing, or a file that is not of a known kind, is empty or is named twice.
    """
    if not sources:
        raise UserError("there are no sources; give at least one file of comparisons")
    found: list[Source] = []
    for source in sources:
        found += (
            [_dataset(source)] if source.startswith(HUB) else _files(source, None if root is None else os.fspath(root))
        )
    seen: set[str] = set()
    for one in found:
        place = os.path.realpath(one.path) if isinstance(one, SourceFile) and _is_local(one.fs) else one.name
        if place in seen:
            raise UserError(f"sources name a file twice: {one.name}; name each once")
        seen.add(place)
    return found


def _rooted(source: str, root: str | None) -> str:
    if root is None or _REMOTE.match(source) or os.path.isabs(source):
        return source
    return f"{root.rstrip('/')}/{source}" if _REMOTE.match(root) else os.path.join(root, source)


def _dataset(source: str) -> HubDataset:
    parts = urlsplit(source)
    options = dict(parse_qsl(parts.query))
    unknown = sorted(set(options) - {"config", "split", "revision"})
    if unknown:
        raise UserError(f"{source}: {unknown[0]!r} is not known; give config, split or revision")
    return HubDataset(source, f"{parts.netloc}{parts.path}", **options)


def _files(given: str, root: str | None) -> list[Source]:
    """The files of a path, glob, folder or URL."""
    source = _rooted(given, root)
    is_remote = _REMOTE.match(source) is not None
    known = f"of a known kind ({', '.join(KINDS)})"
    try:
        fs, path = fsspec.core.url_to_fs(source)
        if _GLOB.search(source) and not fs.exists(path):
            paths = [one for one in sorted(fs.glob(path)) if fs.isfile(one) and _kind(one)]
            if not paths:
                raise UserError(f"{source}: no file {known} matches")
        elif fs.isdir(path):
            paths = [one for one in sorted(fs.find(path)) if _kind(one)]
            if not paths:
                raise UserError(f"{source}: is a folder without files {known}; name the files, or another folder")
        elif fs.exists(path):
            return [_file(given, source, given, path, fs)]
        else:
            raise UserError(f"{source}: there is no such file{'' if is_remote else _suggestion(Path(source))}")
    except UserError:
        raise
    except Exception as error:  # each file system raises its own
        raise UserError(f"{source}: cannot be reached: {type(error).__name__}: {error}") from error
    paths = _without_stores(paths, path)
    names = [one if _is_local(fs) else fs.unstrip_protocol(one) for one in paths]
    # From the root, as `given` is, unless that is absolute.
    base = None if is_remote or os.path.isabs(given) else os.path.abspath(root or "")
    labels = [name if base is None else os.path.relpath(name, base) for name in names]
    return [_file(given, *facts, fs) for facts in zip(names, labels, paths, strict=True)]


def _without_stores(paths: Sequence[str], source: str) -> list[str]:
    """Those in no prepared store and, below the folder that `source` names, in no hidden one."""
    stores = tuple(f"{path.rpartition('/')[0]}/" for path in paths if path.endswith("/store.json"))
    above = _GLOB.split(source)[0].count("/.")
    return [path for path in paths if not (stores and path.startswith(stores)) and path.count("/.") <= above]


def _file(given: str, name: str, label: str, path: str, fs: Any) -> SourceFile:
    kind = _kind(path)
    if kind is None:
        raise UserError(f"{name}: is not of a known kind; give one of {', '.join(KINDS)}")
    nbytes = fs.size(path)  # None where a server does not say
    if nbytes == 0:
        raise UserError(f"{name}: the file is empty; give a file with records or leave it out")
    return SourceFile(given, name, label, path, kind, int(nbytes or 0), fs)


def _kind(path: str) -> str | None:
    """The longest known suffix of a path."""
    return max((kind for kind in KINDS if path.partition("?")[0].endswith(kind)), key=len, default=None)


def _is_local(fs: Any) -> bool:
    return "file" in (fs.protocol if isinstance(fs.protocol, tuple | list) else (fs.protocol,))


def _suggestion(path: Path) -> str:
    """What to do about a missing file."""
    folder = path.parent
    if not folder.is_dir():
        return f", nor a folder {folder}; check the path, and the root that relative paths start from"
    near = difflib.get_close_matches(path.name, os.listdir(folder), n=3)
    return f"; did you mean {' or '.join(near)}?" if near else f"; look for its name in {folder}"
