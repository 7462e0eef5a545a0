"""Where records that cannot be used go, and how many may go there: nothing is silently dropped."""

import json
import shutil
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from skyrm_jax.errors import RecordError, UserError

EARLY = 1000
"""After every this many records the share of bad ones is looked at, so that no run fails only at its end."""

ENTRY = ("field", "reason", "remedy", "detail")
"""What an entry says of an error, as RecordError takes it."""


def entries(path: Path) -> dict[tuple[str, int], RecordError]:
    """Why records are in the file of a Quarantine, by file and line; none where there is no such file."""
    found: dict[tuple[str, int], RecordError] = {}
    if path.is_file():
        for line in path.read_text(encoding="ascii", errors="replace").splitlines():
            with suppress(ValueError, KeyError, TypeError):  # a line that a kill cut short
                one = json.loads(line)
                found[one["file"], one["line"]] = RecordError(*(one[part] for part in ENTRY))
    return found


class Quarantine:
    """Counts what becomes of every record and writes the bad ones to a JSON lines file.

    A line of the file has `file`, `line` (of text; in a JSON list or parquet file the number of the record,
    from 1), `field`, `reason`, `detail`, `remedy` and `raw`, the record itself. Every record is counted as
    read, once, and then either as bad or under an outcome that the reader names, so `counts` adds up.

    Attributes:
        counts: for each file, records by outcome; `read` is their sum. Bad records' begin with BAD.
        records, bad: records read so far, and those of them that are bad.
    """

    BAD = "bad: "

    def __init__(self, path: Path | str | None = None, max_share: float = 0.05) -> None:
        """Bad records go to `path`, made when there is one (nowhere if None).

        More than `max_share` of bad ones is an error, with 0 at once.
        """
        self.path = None if path is None else Path(path)
        self.max_share = max_share
        self.counts: dict[str, Counter[str]] = {}
        self.records = 0
        self.bad = 0
        if self.path is not None:
            self.path.unlink(missing_ok=True)

    def read(self, file: str) -> None:
        """Counts one record of `file` as read; now and then raises UserError, as `check` does."""
        self.counts.setdefault(file, Counter())["read"] += 1
        self.records += 1
        if self.records % EARLY == 0:
            self.check()

    def count(self, file: str, outcome: str) -> None:
        """Counts what became of one record of `file`."""
        self.counts[file][outcome] += 1

    def add(self, file: str, line: int, error: RecordError, raw: Any, outcome: str = "") -> None:
        """Puts aside one record; `raw` is its bytes or values.

        It counts as bad unless an `outcome` is given. Raises UserError if it is bad and none may be.
        """
        if not outcome:
            if self.max_share == 0:
                raise UserError(f"{file}:{line}: {error}") from error
            outcome = f"{self.BAD}{error.field}: {error.reason}"
            self.bad += 1
        self.count(file, outcome)
        if self.path is None:
            return
        entry = {
            "file": file,
            "line": line,
            **{part: getattr(error, part) for part in ENTRY},
            "raw": raw.decode("utf-8", "backslashreplace") if isinstance(raw, bytes) else raw,
        }
        self.path.parent.mkdir(parents=True, exist_ok=True)
        # Opened anew for each record, so that what is written is on disk whatever ends the run.
        with self.path.open("a", encoding="ascii") as out:
            out.write(json.dumps(entry, default=repr) + "\n")

    def merge(self, other: "Quarantine") -> None:
        """Takes over what another one has counted and written; its file goes."""
        for file, outcomes in other.counts.items():
            self.counts.setdefault(file, Counter()).update(outcomes)
        self.records += other.records
        self.bad += other.bad
        if self.path is not None and other.path is not None and other.path.exists():
            with self.path.open("ab") as out, other.path.open("rb") as entries:
                shutil.copyfileobj(entries, out)

    def finish(self, file: str) -> None:
        """At the end of a file: raises UserError if it had no records, or not one that can be used."""
        counts = self.counts.get(file, Counter())
        if not counts["read"]:
            raise UserError(f"{file}: there is no record in it; give a file with records or leave it out")
        if sum(self._faults([file]).values()) == counts["read"]:
            raise UserError(f"{file}: none of its {counts['read']} records can be used{self._report([file])}")

    def check(self) -> None:
        """Raises UserError if more than `max_share` of the records read so far are bad."""
        if self.bad > self.max_share * self.records:
            raise UserError(
                f"{self.bad} of {self.records} records are bad, more than max_bad_share = {self.max_share:g}"
                f"{self._report(self.counts)}; mend them, or raise --max-bad-share (prepare: --max_bad_share, "
                "train: data.max_bad_share)"
            )

    def _faults(self, files: Iterable[str]) -> Counter[str]:
        """Bad records of the files by fault."""
        faults: Counter[str] = Counter()
        for file in files:
            for outcome, n in self.counts[file].items():
                if outcome.startswith(self.BAD):
                    faults[outcome.removeprefix(self.BAD)] += n
        return faults

    def _report(self, files: Iterable[str]) -> str:
        """The most frequent faults, and where to read about them all."""
        most = "; ".join(f"{n} x {fault}" for fault, n in self._faults(files).most_common(3))
        return f" ({most}{'' if self.path is None else f'; all of them are in {self.path}'})"
