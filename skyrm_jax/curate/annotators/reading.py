"""JSON objects in what a model wrote."""

import json
import re
from collections.abc import Iterator
from typing import Any

DEEP = 500
"""Braces passed over where objects are nested too deep: a model that repeats itself would cost seconds otherwise."""

_DECODER = json.JSONDecoder()


def objects(text: str) -> Iterator[dict[str, Any]]:
    """The JSON objects in `text`, in the order in which they begin, also those inside of others.

    What a model thought before it answered, up to the last </think>, is passed over.
    """
    answer = text.rpartition("</think>")[2]
    passed_over = 0
    for brace in re.finditer(r"\{", answer):
        if passed_over:
            passed_over -= 1
            continue
        try:
            value, _ = _DECODER.raw_decode(answer, brace.start())
        except RecursionError:
            passed_over = DEEP
            continue
        except ValueError:
            continue
        yield value
