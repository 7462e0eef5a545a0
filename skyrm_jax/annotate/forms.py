"""Posted forms -> what the store takes."""

import math
from collections.abc import Mapping
from typing import cast
from urllib.parse import parse_qsl

from starlette.exceptions import HTTPException
from starlette.requests import Request

from skyrm_jax.annotate.given import Choice, Given
from skyrm_jax.annotate.guard import LARGEST
from skyrm_jax.curate.attributes import NAMES

FIELDS = 40
"""Of a form, at most."""
UNMEASURED = 1e9
"""Seconds of a form that tells none, as without JavaScript; of these the store counts those since the item was shown."""


async def read_form(request: Request) -> dict[str, str]:
    """The fields of a posted form, the last of each name; line ends are made one kind.

    Raises:
        HTTPException: 413 if it is too large, 415 if it is no form, 400 if it has too many fields.
    """
    if request.headers.get("content-type", "").split(";")[0].strip().casefold() != "application/x-www-form-urlencoded":
        raise HTTPException(415, "Answers are posted as forms (application/x-www-form-urlencoded).")
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > LARGEST:
            raise HTTPException(413, f"A form may have {LARGEST:,} bytes.")
    try:
        fields = parse_qsl(body.decode(errors="replace"), keep_blank_values=True, max_num_fields=FIELDS)
    except ValueError:
        raise HTTPException(400, f"A form may have {FIELDS} fields.") from None
    return {name: value.replace("\r\n", "\n").replace("\r", "\n") for name, value in fields}


def given_of(form: Mapping[str, str]) -> Given:
    """What a form answers; the store says whether it makes sense, and which attributes it changes."""
    said = {name: form.get(name, "").strip() for name in NAMES}
    return Given(
        choice=cast(Choice, form.get("choice", "")),
        attributes={name: value for name, value in said.items() if value},
        tools=form.get("tools", "").strip(),
        links=tuple(dict.fromkeys(form.get("links", "").split())),
        note=form.get("note", "").strip(),
        seconds=_seconds(form.get("seconds", "")),
    )


def _seconds(said: str) -> float:
    try:
        seconds = float(said)
    except ValueError:
        return UNMEASURED
    return seconds if 0 <= seconds < math.inf else UNMEASURED
