"""Sources of records -> comparisons, each with its place, and an account of every record."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from skyrm_jax.comparison import Comparison, IdenticalResponses
from skyrm_jax.data.files import Source, expand
from skyrm_jax.data.quarantine import Quarantine
from skyrm_jax.data.readers import Chunk, chunks
from skyrm_jax.errors import RecordError, UserError
from skyrm_jax.forms import FORMS, parse

UNDECIDED = "undecided (tie or no label)"
"""Outcome of a training record without a preference: counted and passed over, not bad."""

IDENTICAL = "identical responses, dropped"
"""Outcome of a training record of nothing but pairs whose two sides are the same: put aside and counted, not bad."""


@dataclass(frozen=True, slots=True)
class Located:
    """A comparison and where it stands.

    Attributes:
        file: the path as it was given.
        line: number of the line, or of the record in a JSON list or parquet file, from 1.
        raw: the line's bytes, or the record's values.
    """

    comparison: Comparison
    file: str
    line: int
    raw: Any


def read_comparisons(
    paths: Sequence[str | os.PathLike[str]], form: str, training: bool, quarantine: Quarantine
) -> Iterator[Comparison]:
    """The comparisons of the files, in order; see `read_located`."""
    return (located.comparison for located in read_located(paths, form, training, quarantine))


def read_located(
    paths: Sequence[str | os.PathLike[str]], form: str, training: bool, quarantine: Quarantine
) -> Iterator[Located]:
    """The comparisons of the sources (see `files.expand`), in order, with their places.

    A record without names gets its file's as `source`, and file:line as `id`. Bad records go to the
    quarantine; with `training`, so do those that prefer no response to another one, and undecided records are
    counted and passed over.

    Raises:
        UserError: a file is missing, empty, damaged as a whole or of an unknown kind (all are looked at
            before the first is read); the form is unknown; too many records are bad.
    """
    require_form(form)
    return _read(expand([os.fspath(path) for path in paths]), form, training, quarantine)


def require_form(form: str) -> None:
    """Raises UserError unless `form` is one of FORMS, or `auto`."""
    if form != "auto" and form not in FORMS:
        raise UserError(f"form {form!r} is not known; choose from auto, {', '.join(FORMS)}")


def _read(sources: list[Source], form: str, training: bool, quarantine: Quarantine) -> Iterator[Located]:
    for source in sources:
        for chunk in chunks(source):
            yield from comparisons_of(chunk, source.name, source.short, form, training, quarantine)
        quarantine.finish(source.name)
    quarantine.check()


def comparisons_of(
    chunk: Chunk, file: str, short: str, form: str, training: bool, quarantine: Quarantine
) -> Iterator[Located]:
    """The comparisons of one chunk of `file`, whose short name goes into their names."""
    for line, raw, value in chunk.records():
        quarantine.read(file)
        try:
            if isinstance(value, RecordError):
                raise value
            comparison = parse(value, form)
            comparison.check(training)
        except RecordError as error:
            quarantine.add(file, line, error, raw, IDENTICAL if isinstance(error, IdenticalResponses) else "")
            continue
        if training and not comparison.preferences:
            quarantine.count(file, UNDECIDED)
            continue
        id, origin = comparison.id or f"{short}:{line}", comparison.source or short
        yield Located(replace(comparison, id=id, source=origin), file, line, raw)
