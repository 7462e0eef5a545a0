"""Errors a user can mend, and how a command ends on one."""

import os
import sys
from collections.abc import Callable

RESTART = 75
"""Exit code of a run that is to be started again with the same command (EX_TEMPFAIL of sysexits.h)."""


class UserError(Exception):
    """Something the user can mend; `str()` is one clear message: what, where, remedy."""


class Interrupted(Exception):
    """A run was told to stop, and has saved; `str()` says so. The command ends with RESTART."""


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
    SKYRM_TRACEBACK=1 is set. An Interrupted becomes a line and RESTART.
    """
    try:
        main(None)
    except Interrupted as interrupted:
        print(interrupted, file=sys.stderr)
        return RESTART
    except (UserError, OSError) as error:
        message = user_message(error)
        if message is None or os.environ.get("SKYRM_TRACEBACK") == "1":
            raise
        print(f"error: {message}", file=sys.stderr)
        return 2
    return 0


def user_message(error: BaseException) -> str | None:
    """One line for an error that the user can mend: a UserError, or an OSError about a file; None for others."""
    if isinstance(error, OSError) and error.filename is not None and error.strerror is not None:
        return f"{os.fsdecode(error.filename)}: {error.strerror}; check the path and the rights to it"
    return str(error) if isinstance(error, UserError) else None
