"""Published files, in a folder or on the Hub, to comparisons: what all benchmarks share of it."""

import fnmatch
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from skyrm_jax.comparison import Comparison
from skyrm_jax.data.files import KINDS, Source, expand
from skyrm_jax.data.readers import chunks
from skyrm_jax.errors import RecordError, UserError

Fields = Mapping[str, type | tuple[type, ...]]
"""The fields that a record must have, and of which types."""


@dataclass(frozen=True)
class Published:
    """How a benchmark is published, and how one of its records reads.

    Attributes:
        title: of the benchmark, for people.
        files: patterns of its files in a folder, which may hold other files too: of names or, with a slash, of paths
            in that folder.
        folders: names of the folders, inside that of all benchmarks, in which its files are looked for.
        hub: its data sets on the Hub.
        home: where to get it, for messages.
        fields: of a record.
        parse: (record, source, line) -> comparison, whose id is unique. It raises RecordError.
        but: patterns of files that only look like its own, such as results that lie beside them.
    """

    title: str
    files: tuple[str, ...]
    folders: tuple[str, ...]
    hub: tuple[str, ...]
    home: str
    fields: Fields
    parse: Callable[[Mapping[str, Any], Source, int], Comparison]
    but: tuple[str, ...] = ()

    def find(self, data: Path | None, others: Collection[str] = ()) -> list[Source]:
        """The sources in `data`: a file, this benchmark's folder, or one that holds such folders; None: on the Hub.

        Folders in `data` called as `others` say are not looked into. Raises UserError if nothing is there.
        """
        if data is None:
            if not self.hub:
                raise UserError(f"{self.title} is not on the Hub: give --data, a folder with the files of {self.home}")
            return expand(list(self.hub))
        if data.is_file():
            return expand([str(data)])
        if not data.is_dir():
            raise UserError(f"--data {data}: no such file or folder")
        # By inode, since some file systems find one folder under two spellings.
        own = {one.stat().st_ino: one for name in self.folders if (one := data / name).is_dir()}
        folders = list(own.values()) or [data]
        found = [path for one in folders for path in sorted(one.rglob("*")) if path.is_file()]
        elsewhere = set(others) - set(self.folders)
        # Names of folders above mean nothing, but for that of the benchmark's own.
        top = data.absolute().name if data.absolute().name in self.folders else ""
        matching = [
            path
            for path in found
            if path.name.endswith(KINDS)
            and path.relative_to(data).parts[0] not in elsewhere
            and _matches(top / path.relative_to(data), self.files)
            and not _matches(top / path.relative_to(data), self.but)
        ]
        if not matching:
            raise UserError(
                f"{', '.join(map(str, folders))}: no {self.title} file here ({', '.join(self.files)}): "
                f"give a folder with the files of {self.home}"
            )
        return expand([str(path) for path in matching])

    def load(self, data: Path | None, others: Collection[str] = ()) -> list[Comparison]:
        """All comparisons of `data`, as `find` finds it, in the order of files and records.

        Raises UserError, naming file, line and field, for anything that is not this benchmark in order.
        """
        comparisons: list[Comparison] = []
        seen: dict[str, str] = {}
        for source in self.find(data, others):
            before = len(comparisons)
            for chunk in chunks(source):
                for line, _, value in chunk.records():
                    where = f"{source.name}, line {line}"
                    comparisons.append(self._comparison(value, source, line, where))
                    name = comparisons[-1].id
                    if seen.setdefault(name, where) != where:
                        raise UserError(f"{where}: id {name} also stands in {seen[name]}: remove one of the two")
            if len(comparisons) == before:
                raise UserError(f"{source.name}: the file is empty: download it again")
        return comparisons

    def _comparison(self, value: Any, source: Source, line: int, where: str) -> Comparison:
        if isinstance(value, RecordError):
            raise UserError(f"{where}: {value}: download the file again")
        missing = [name for name in self.fields if name not in value] if isinstance(value, dict) else list(self.fields)
        if missing:
            raise UserError(
                f"{where}: this is no {self.title} record, it lacks {_listed(missing)}: give the files of {self.home}"
            )
        for name, types in self.fields.items():
            wanted = types if isinstance(types, tuple) else (types,)
            if not isinstance(value[name], wanted) or (isinstance(value[name], bool) and bool not in wanted):
                raise UserError(
                    f"{where}: field {name} of {self.title} must be {' or '.join(SAID[one] for one in wanted)}, not "
                    f"{type(value[name]).__name__}: give the files of {self.home}"
                )
        try:
            comparison = self.parse(value, source, line)
            comparison.check(training=False)
        except RecordError as error:
            raise UserError(f"{where}: {error}") from None
        return comparison


SAID = {str: "text", list: "a list", dict: "an object", int: "a whole number"}


def _matches(path: Path, patterns: Sequence[str]) -> bool:
    return any(fnmatch.fnmatchcase(f"/{path.as_posix()}" if "/" in one else path.name, one) for one in patterns)


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")


def texts(field: str, value: Sequence[Any], count: int | None = None) -> list[str]:
    """A list of texts, of `count` if given and not empty. Raises RecordError."""
    if not value or not all(isinstance(one, str) for one in value) or count not in (None, len(value)):
        wanted = "one text or more" if count is None else f"{count} texts"
        raise RecordError(field, f"is not a list of {wanted}", "download the file again", f"{value!r:.80}")
    return list(value)


def shortfall(found: Mapping[str, int], published: Mapping[str, int], what: str) -> list[str]:
    """For each part that does not have its published size, a line that says so."""
    return [
        f"{name}: {found.get(name, 0):,} of {size:,} {what}"
        for name, size in published.items()
        if found.get(name, 0) != size
    ]
