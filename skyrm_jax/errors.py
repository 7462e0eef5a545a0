"""Errors a user can mend, and how a command ends on one."""

import os
import sys
from collections.abc import Callable


class UserError(Exception):
    """Something the user can mend; `str()` is one clear message: what, where, remedy."""


class RecordError(UserError):
    """One record of a data file that cannot be used.

    Attributes:
        field: the field at fault, such as `chosen[2].role`; `record` for the record as a whole.
        reason: what is wrong with it, the same words for every record with this fault, to count by.
        detail: what this record holds, in words.
        remedy: what the user can do.
    """

    def __init__(self, field: str, reason: str, remedy: str, detail: str = "") -> None:
        self.field, self.reason, self.remedy, self.detail = field, reason, remedy, detail
        super().__init__(f"{field}: {reason}{f' ({detail})' if detail else ''}; {remedy}")


def run_command(main: Callable[[list[str] | None], None]) -> int:
    """Runs a command on `sys.argv`; the exit code.

    A UserError, or an OSError about a file, becomes one line on stderr and exit code 2, with a traceback only if
    SKYRM_TRACEBACK=1 is set.
    """
    try:
        main(None)
    except (UserError, OSError) as error:
        message = str(error)
        if isinstance(error, OSError):
            if error.filename is None or error.strerror is None:
                raise
            message = f"{os.fsdecode(error.filename)}: {error.strerror}; check the path and the rights to it"
        if os.environ.get("SKYRM_TRACEBACK") == "1":
            raise
        print(f"error: {message}", file=sys.stderr)
        return 2
    return 0
