"""The seal of a finished checkpoint: a list of its files with sizes and checksums.

TensorStore checks only some of what it reads, so a flipped bit may come back as another number. With the seal a file
that is missing, cut short or changed is found before it is used. It is written last: a folder without one was never
finished. One line a file, `crc32 bytes name`, and at the end the checksum of these lines.
"""

import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from etils import epath

SEAL = "CHECKSUMS"
BLOCK = 1 << 22
THREADS = 16
"""Files read at once; checksums release the interpreter lock."""


def seal(folder: epath.Path) -> None:
    """Writes the seal of a folder in which nothing is going to change."""
    files = sorted(files_of(folder))
    with ThreadPoolExecutor(THREADS) as pool:
        sums = pool.map(lambda name: _sum(folder / name), files)
        lines = [f"{crc:08x} {size} {name}\n" for name, (crc, size) in zip(files, sums, strict=True)]
    text = "".join(lines)
    text += f"{zlib.crc32(text.encode()):08x}\n"
    partial = folder / (SEAL if is_remote(folder) else f"{SEAL}.partial")  # in a bucket a file appears whole
    partial.write_text(text)
    if partial.name != SEAL:
        partial.rename(folder / SEAL)


def is_remote(folder: epath.Path | str) -> bool:
    """Whether the folder is in a bucket."""
    return "://" in str(folder)


def listed(folder: epath.Path) -> list[epath.Path]:
    """What is in a folder, nothing if it is not there. A store that cannot be asked raises: it is not an empty one."""
    try:
        return list(folder.iterdir())
    except FileNotFoundError:
        return []


def is_sealed(folder: epath.Path) -> bool:
    """Whether the folder was finished; what it holds is not looked at."""
    return (folder / SEAL).exists()


def damage(folder: epath.Path, parts: tuple[str, ...] = ()) -> str | None:
    """What is wrong with a folder, naming the file; None if every file is as it was sealed.

    Args:
        parts: folders in it to look at; default all of it.

    Raises what gcsfs does if a bucket cannot be read: that says nothing about the folder.
    """
    try:
        text = (folder / SEAL).read_text()
        body, last = text[: text[:-1].rindex("\n") + 1], text[text[:-1].rindex("\n") + 1 :]
        if last != f"{zlib.crc32(body.encode()):08x}\n":
            raise ValueError("its checksum is wrong")
        sealed = [line.split(" ", 2) for line in body.splitlines()]
    except FileNotFoundError:
        return f"{folder / SEAL} is missing: it was never finished, or that file is lost"
    except ValueError as error:
        return f"{folder / SEAL} cannot be read ({error})"
    except OSError as error:
        if is_remote(folder):
            raise
        return f"{folder / SEAL} cannot be read ({error})"

    def wrong(line: list[str]) -> str | None:
        crc, size, name = line
        try:
            found, length = _sum(folder / name)
        except FileNotFoundError:
            return f"{folder / name} is missing"
        except OSError as error:
            if is_remote(folder):  # the network is at fault, not the file
                raise
            return f"{folder / name} cannot be read ({error})"
        if length != int(size):
            return f"{folder / name} has {length} bytes instead of {size}"
        return None if found == int(crc, 16) else f"{folder / name} is not what was written: its checksum is wrong"

    wanted = [line for line in sealed if not parts or line[2].startswith(tuple(f"{part}/" for part in parts))]
    with ThreadPoolExecutor(THREADS) as pool:
        return next((fault for fault in pool.map(wrong, wanted) if fault), None)


def files_of(folder: epath.Path, prefix: str = "") -> Iterator[str]:
    """Names of the files in a folder and its folders, but for a seal."""
    for path in folder.iterdir():
        if path.is_dir():
            yield from files_of(path, f"{prefix}{path.name}/")
        elif not path.name.startswith(SEAL):
            yield prefix + path.name


def _sum(path: epath.Path) -> tuple[int, int]:
    """CRC-32 and number of bytes of a file."""
    crc = size = 0
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            crc, size = zlib.crc32(block, crc), size + len(block)
    return crc, size
