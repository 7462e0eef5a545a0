"""JSON objects in what a model wrote."""

import json
import re
from collections.abc import Iterator
from typing import Any

_DECODER = json.JSONDecoder()


def objects(text: str) -> Iterator[dict[str, Any]]:
    """The JSON objects in `text`, in the order in which they begin, also those inside of others.

    What a model thought before it answered, up to the last </think>, is passed over.
    """
    answer = text.rpartition("</think>")[2]
    for brace in re.finditer(r"\{", answer):
        try:
            value, _ = _DECODER.raw_decode(answer, brace.start())
        except (ValueError, RecursionError):
            continue
        yield value
