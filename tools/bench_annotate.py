"""The page on which people verify pairs, with many pairs in its store: how long it takes, and whether it loses anything.

    python tools/bench_annotate.py [--items N] [--answers N] [--scratch DIR] [--json FILE]

A store is made by `skyrm annotate import`, and served by `skyrm annotate` on a loopback address. Of its items the first
`--answers` are answered already, and a hundred more are hidden checks.

import_*     seconds, items a second, and peak GiB of memory of that command
page_*       of one annotator: from posting an answer until the page of the next item is there (median, 95th percentile,
             and spread between the quartiles, in ms)
limit_*      the same for a program on the same server (Starlette, uvicorn) that answers a post with the same redirection
             and then a page of the same bytes, without looking at either
disk_ms      a write of 4 KiB until it is on the disk; an answer and the next item wait for one each
             (these three take turns)
load_*       of `--people` annotators at once: seconds, requests a second, and page_* as they have it
lost, doubled  answers that were acknowledged and are not in the database, and those there more than once or to an item
             that somebody else had; the run fails unless both are 0
"""

import argparse
import asyncio
import json
import os
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from rich.console import Console
from rich.table import Table

from skyrm_jax.annotate.given import CHOICES
from skyrm_jax.annotate.store import Store
from skyrm_jax.curate.attributes import CATEGORIES, Attributes

CHECKS = 100
COMMAND = [sys.executable, "-m", "skyrm_jax.annotate", "--store"]
FORM = re.compile(r'<form[^>]* action="/answer".*?</form>', re.DOTALL)
FIELD = re.compile(r'name="(csrf|lease)" value="([^"]+)"')


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=1_000_000, help="that wait for an answer")
    parser.add_argument("--answers", type=int, default=100_000, help="items that are answered already")
    parser.add_argument("--turns", type=int, default=200, help="answers of the one annotator who is timed")
    parser.add_argument("--people", type=int, default=50, help="annotators at once")
    parser.add_argument("--each", type=int, default=20, help="answers of each of them")
    parser.add_argument("--scratch", type=Path, help="where a temporary folder of about 9 KB an item may be made")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--limit", type=Path, help=argparse.SUPPRESS)  # the page that the other program serves
    args = parser.parse_args(arguments)
    if args.limit:
        serve_limit(args.limit.read_bytes())
        return
    if args.items < args.turns + args.people * args.each:
        parser.error(f"--items must be at least {args.turns + args.people * args.each}, which are going to be answered")
    with tempfile.TemporaryDirectory(dir=args.scratch) as scratch:
        folder = Path(scratch)
        figures: dict[str, Any] = {"cores": len(os.sched_getaffinity(0)), "items": args.items, "answers": args.answers}
        figures |= filled(folder, args.items, args.answers)
        with serving([*COMMAND, str(folder / "store"), "--port", "0"]) as url:
            timed, acknowledged = alone(url, folder, args.turns)
            figures |= timed
            load, more = asyncio.run(together(url, args.people, args.each))
            figures |= load
        figures |= account(folder / "store", acknowledged + more)
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    table = Table("figure", "value")
    for name, value in figures.items():
        table.add_row(name, f"{value:,.2f}" if isinstance(value, float) else f"{value:,}")
    Console().print(table)
    if figures["lost"] or figures["doubled"]:
        raise SystemExit("answers were lost, or doubled")


# The store


def filled(folder: Path, items: int, answers: int) -> dict[str, float]:
    """Makes the store `folder`/store; figures of the import."""
    for name, count, answered in (("checks", CHECKS, CHECKS), ("many", answers + items, answers)):
        with (folder / f"{name}.jsonl").open("w") as file:
            file.writelines(json.dumps(row) + "\n" for row in lines(name, count, answered))
    environment = os.environ | {"TMPDIR": str(folder), "SQLITE_TMPDIR": str(folder)}
    began = time.perf_counter()
    for arguments in (["checks.jsonl", "--gold"], ["many.jsonl"]):
        command = [*COMMAND, "store", "import", *arguments]
        subprocess.run(command, cwd=folder, env=environment, check=True, stdout=subprocess.DEVNULL)
    seconds = time.perf_counter() - began
    size = (folder / "many.jsonl").stat().st_size
    for name in ("checks", "many"):
        (folder / f"{name}.jsonl").unlink()
    return {
        "source_gib": size / 2**30,
        "store_gib": sum(path.stat().st_size for path in (folder / "store").iterdir()) / 2**30,
        "import_seconds": seconds,
        "import_items_per_second": (answers + items) / seconds,
        "import_peak_gib": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20,
    }


def lines(batch: str, count: int, answered: int) -> Iterator[dict[str, Any]]:
    """The lines of a batch, of which the first are answered."""
    words = "".join(np.random.default_rng(0).choice(list("abcdefghijklmnop    "), 100_000))
    for n in range(count):
        start = n * 37 % 90_000
        attributes = Attributes(CATEGORIES[n % len(CATEGORIES)], "Objective", "Low", "correctness", "Work it out.")
        yield {
            "item": f"{batch}-{n:032x}",
            "batch": batch,
            "prompt": [{"role": "user", "content": f"Question {n}: {words[start : start + 400]}"}],
            "candidates": [
                [{"role": "assistant", "content": words[start + shift : start + shift + 500]}] for shift in (500, 1100)
            ],
            "attributes": attributes.row(),
            "verdict": "candidate 1" if n < answered else None,
            "annotator": "earlier" if n < answered else None,
        }


def account(store: Path, acknowledged: list[tuple[str, str]]) -> dict[str, int]:
    """What became of the answers that were acknowledged (annotator and lease); the server must have ended."""
    with Store(store) as opened:
        kept = Counter((event.who, event.lease) for event in opened.events() if event.kind == "answered")
        # With an overlap of 1 nobody gets an item that another one has; hidden checks are for everybody.
        people = Counter(row.item for row in opened.answers() if row.gold is None)
    lost = sum(kept[one] == 0 for one in acknowledged)
    doubled = sum(n - 1 for n in kept.values()) + sum(n - 1 for n in people.values())
    return {"acknowledged": len(acknowledged), "lost": lost, "doubled": doubled}


# Servers


@contextmanager
def serving(command: list[str]) -> Iterator[str]:
    """A server that writes its address in its first line; the address."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            found = re.search(r"http://\S+:\d+", process.stdout.readline())
            if found is None:
                raise SystemExit(f"{' '.join(command)} did not start")
            yield found[0]
        finally:
            process.terminate()


def serve_limit(page: bytes) -> None:
    """Serves a page without a store."""
    import socket

    import uvicorn
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import HTMLResponse, RedirectResponse, Response
    from starlette.routing import Route

    async def post(request: Request) -> Response:
        await request.body()
        return RedirectResponse("/?did=answered", 303)

    routes = [Route("/", lambda request: HTMLResponse(page)), Route("/answer", post, methods=["POST"])]
    with socket.create_server(("127.0.0.1", 0)) as listener:
        print(f"http://127.0.0.1:{listener.getsockname()[1]}", flush=True)
        config = uvicorn.Config(Starlette(routes=routes), log_level="warning", lifespan="off")
        uvicorn.Server(config).run(sockets=[listener])


# People


class Person:
    """One annotator in a browser that shows nothing.

    Attributes:
        acknowledged: the annotator and the lease of each answer that was.
        seconds: from posting each answer until the next page was there.
        requests: made so far.
        page: the last one.
    """

    def __init__(self, url: str, name: str) -> None:
        self.name = name
        self.client = httpx.AsyncClient(base_url=url, headers={"Origin": url}, timeout=120)
        self.acknowledged: list[tuple[str, str]] = []
        self.seconds: list[float] = []
        self.requests = 0
        self.page = ""

    async def begin(self) -> None:
        """Logs in, and gets the first item."""
        await self._get(_redirected(await self.client.post("/login", data={"said": self.name})))

    async def answer(self) -> None:
        """Answers the item on the page, and gets the next."""
        found = FORM.search(self.page)
        if found is None:
            raise SystemExit(f"there is no form for an answer on {self.name}'s page: {self.page[:500]}")
        form = {
            **dict(FIELD.findall(found[0])),
            "choice": CHOICES[len(self.acknowledged) % len(CHOICES)],
            "seconds": "1",
        }
        began = time.perf_counter()
        place = _redirected(await self.client.post("/answer", data=form))
        self.requests += 1
        self.acknowledged.append((self.name, form["lease"]))
        await self._get(place)
        self.seconds.append(time.perf_counter() - began)

    async def _get(self, place: str) -> None:
        response = await self.client.get(place)
        self.requests += 1
        response.raise_for_status()
        self.page = response.text


def _redirected(response: httpx.Response) -> str:
    """Where a post that was accepted leads to, which is the next item; anything else ends the tool."""
    place = response.headers.get("location", "")
    if response.status_code != 303 or place.partition("?")[0] != "/":
        said = f"{response.status_code} {place} {response.text[:500]}"
        raise SystemExit(f"{response.request.method} {response.request.url}: {said}")
    return str(place)


def alone(url: str, folder: Path, turns: int) -> tuple[dict[str, float], list[tuple[str, str]]]:
    """Figures of one annotator, and of what bounds them, in turns; and what was acknowledged."""

    async def run() -> tuple[dict[str, float], list[tuple[str, str]]]:
        person = Person(url, "alone")
        await person.begin()
        page = folder / "page.html"
        page.write_text(person.page, encoding="utf-8")
        disk = []
        with serving([sys.executable, __file__, "--limit", str(page)]) as other, (folder / "disk").open("wb") as file:
            limit = Person(other, "limit")
            limit.page = person.page
            for _ in range(turns):
                await person.answer()
                await limit.answer()
                disk.append(written(file.fileno()))
            await limit.client.aclose()
        await person.client.aclose()
        figures = spread("page", person.seconds) | spread("limit", limit.seconds)
        figures |= {"page_bytes": len(page.read_bytes()), "disk_ms": 1e3 * statistics.median(disk)}
        return figures, person.acknowledged

    return asyncio.run(run())


async def together(url: str, people: int, each: int) -> tuple[dict[str, float], list[tuple[str, str]]]:
    """Figures of many annotators at once, and what was acknowledged."""
    persons = [Person(url, f"person {n}") for n in range(people)]

    async def work(person: Person) -> None:
        await person.begin()
        for _ in range(each):
            await person.answer()
        await person.client.aclose()

    began = time.perf_counter()
    await asyncio.gather(*map(work, persons))
    seconds = time.perf_counter() - began
    figures = {"load_people": people, "load_seconds": seconds}
    figures |= {"load_requests_per_second": sum(person.requests for person in persons) / seconds}
    figures |= spread("load_page", [one for person in persons for one in person.seconds])
    return figures, [one for person in persons for one in person.acknowledged]


def written(file: int) -> float:
    """Seconds until 4 KiB are on the disk."""
    began = time.perf_counter()
    os.write(file, bytes(4096))
    os.fsync(file)
    return time.perf_counter() - began


def spread(name: str, seconds: list[float]) -> dict[str, float]:
    """Median, 95th percentile and the distance between the quartiles, in ms."""
    low, middle, high, late = (1e3 * float(one) for one in np.quantile(seconds, (0.25, 0.5, 0.75, 0.95)))
    return {f"{name}_ms": middle, f"{name}_p95_ms": late, f"{name}_spread_ms": high - low}


if __name__ == "__main__":
    main()
