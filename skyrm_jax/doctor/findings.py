"""What a check says: the fact, whether it is well, and what to do if it is not."""

from dataclasses import asdict, dataclass
from typing import Any, Literal

Status = Literal["well", "note", "ill"]


@dataclass(frozen=True)
class Finding:
    """One line of the doctor's report.

    Attributes:
        name: what was looked at.
        status: `well`; `note` for what this package and transformers handle alike, but other programs may not; `ill` for
            what makes rewards wrong or different.
        value: what was found.
        remedy: what to do; empty if nothing.
    """

    name: str
    status: Status
    value: str
    remedy: str = ""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def judge(name: str, is_well: bool, value: str, remedy: str, otherwise: Status = "ill") -> Finding:
    """A finding that is well, or else `otherwise` and with a remedy."""
    return Finding(name, "well", value) if is_well else Finding(name, otherwise, value, remedy)
