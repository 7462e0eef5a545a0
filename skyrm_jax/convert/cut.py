"""Files that were cut short: which tensor is the first to be missing."""

import json
import zipfile
from collections.abc import Iterable
from pathlib import Path

_TORCH_OLD = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."
"""How a file of torch.save began before torch 1.6: a pickle of a magic number, not a zip archive."""


def first_beyond(ends: Iterable[tuple[str, int]], size: int) -> str | None:
    """The first tensor, in the order of the file, that ends beyond `size` bytes; `ends` are names and ends."""
    cut = [(end, name) for name, end in ends if end > size]
    return min(cut)[1] if cut else None


def cut_safetensors(file: Path) -> str:
    """Where a safetensors file breaks off, for a message; empty if it does not, or nothing can be said."""
    try:
        size = file.stat().st_size
        with file.open("rb") as opened:
            begin = 8 + int.from_bytes(opened.read(8), "little")
            if size < 8 or begin > size:
                return "it ends within its header, before any tensor"
            header = json.loads(opened.read(begin - 8))
        header.pop("__metadata__", None)
        name = first_beyond(((name, begin + tensor["data_offsets"][1]) for name, tensor in header.items()), size)
    except (OSError, ValueError, TypeError, KeyError, IndexError, AttributeError):
        return ""
    return f"tensor {name} is the first that is not all there" if name else ""


def why_torch_refuses(file: Path) -> str:
    """What keeps torch from mapping a `pytorch_model.bin`, with a remedy; empty if the file is whole, or unreadable."""
    try:
        with file.open("rb") as opened:
            begin = opened.read(len(_TORCH_OLD))
    except OSError:
        return ""
    if begin == _TORCH_OLD:
        return (
            "has the format of torch before 1.6, which cannot be read tensor by tensor; in Python, with enough memory "
            f"for all of it, save it anew: torch.save(torch.load({str(file)!r}, weights_only=True), {str(file)!r})"
        )
    if not begin or (begin.startswith(b"PK") and not zipfile.is_zipfile(file)):
        return (
            f"is cut short: it has {file.stat().st_size:,} bytes and lacks its end, where such a file lists what it "
            "holds, so its tensors cannot be told; fetch it again"
        )
    return ""
