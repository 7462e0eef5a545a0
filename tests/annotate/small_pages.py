"""Stores of a few pairs with given texts, and somebody who reads and fills in their pages as a browser without scripts does."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from small_batches import ATTRIBUTES
from starlette.testclient import TestClient

from skyrm_jax.annotate.app import create_app
from skyrm_jax.annotate.exchange import import_batch
from skyrm_jax.annotate.guard import LOOPBACK, Hosts
from skyrm_jax.annotate.store import Options, Store
from skyrm_jax.comparison import Message
from skyrm_jax.curate.humans.batch import write_batch
from skyrm_jax.curate.humans.queue import Opinion, Waiting
from skyrm_jax.curate.pair import Pair

SECRET = b"s" * 32
ORIGIN = "http://localhost"

NASTY = (
    "<script>window.hit = 1</script>",
    "<img src=x onerror='window.hit = 1'>",
    "<svg onload=window.hit=1><style>*{display:none}</style></svg>",
    "<a href=\"javascript:window.hit=1\" onclick='window.hit=1'>x</a>",
    "[x](javascript:window.hit=1) [y](JaVaScRiPt:window.hit=1) [z](java\tscript:window.hit=1) [&#106;avascript:x](&#106;avascript:window.hit=1)",
    "[d](data:text/html,<script>parent.hit=1</script>) ![i](data:image/svg+xml,<svg/onload=window.hit=1>)",
    "![p](http://127.0.0.1:1/track.png) [out](/logout) [rel](../login) [r](//evil.example)",
    "<math><mtext><table><mglyph><style><!--</style><img title='--&gt;&lt;img src=1 onerror=window.hit=1&gt;'>",
    r"$\text{</math><img src=x onerror=window.hit=1>}$ $\href{javascript:window.hit=1}{x}$ $\style{display:none}{y}$",
    r"$$\frac{ $$ \[ \begin{x} \] \( \) \(\left( \)",
    '```"><script>window.hit=1</script>\n</code></pre><script>window.hit=1</script>\n```',
    "**unclosed *markdown [link](http://x `code\n\n> q\n> > r\n\n````\nnever closed <b>",
    "<form action=/logout method=post><button>x</button></form><base href=//evil><meta http-equiv=refresh content=0>",
    "\x1b[31mred\x1b[0m \x1b]0;title\x07 \x1b[2J \x00 \x08 \x9b31m",
    "\u202eabc\u202c \u2066x\u2069 שלום עולם مرحبا zero\u200bwidth",
    "</textarea></template></title></noscript><script>window.hit=1</script>",
    "{{ 7 * 7 }} {% raw %} ${7*7}",
    "<think>\nnever <b>closed",
)
"""Texts that would do harm, or break the page, where they are not handled with care."""


def stored(folder: Path, pairs: Sequence[tuple[str, str, str]], reveal: bool = False, **options: Any) -> Store:
    """A store with a batch of these (prompt, chosen, rejected), and its labels."""
    opinion = Opinion("judge", "original", "OPINION: Candidate 1 is right.")
    waiting = [
        Waiting(
            Pair.of((Message("user", prompt),), (Message("assistant", chosen),), (Message("assistant", rejected),)),
            ATTRIBUTES,
            0.3,
            (opinion,),
        )
        for prompt, chosen, rejected in pairs
    ]
    store = Store(folder / "store", Options(**{"gold_share": 0.0, **options}))
    import_batch(store, write_batch(folder, "b", waiting, 0, reveal))
    return store


def checked(
    folder: Path,
    checks: Sequence[Mapping[str, Any]],
    one: Sequence[Mapping[str, str]] = ({"role": "assistant", "content": "one"},),
    **options: Any,
) -> Store:
    """A store with one pair, "one" and "two", with pre-verification verdicts."""
    row = {
        "item": "i",
        "batch": "b",
        "prompt": [{"role": "user", "content": "?"}],
        "candidates": [list(one), [{"role": "assistant", "content": "two"}]],
        "attributes": None,
        "checks": list(checks),
        "verdict": None,
    }
    (folder / "b.jsonl").write_text(json.dumps(row) + "\n")
    store = Store(folder / "store", Options(**{"gold_share": 0.0, **options}))
    import_batch(store, folder / "b.jsonl")
    return store


@dataclass
class Seen(HTMLParser):
    """A page: its elements with their attributes, text and forms (action to fields)."""

    text: str = ""
    elements: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    forms: dict[str, dict[str, str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__init__()
        self._form: str | None = None
        self._ids: dict[str, str] = {}
        self._area: tuple[str, str] | None = None

    @classmethod
    def of(cls, html: str) -> "Seen":
        """What the page holds."""
        seen = cls()
        for pass_ in range(2):  # fields may stand before the form that they belong to
            if pass_:
                seen.text, seen.elements = "", []
            seen.feed(html)
            seen.close()
            seen.reset()
        return seen

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.elements.append((tag, given))
        if tag == "form":
            self._form = given.get("action", "")
            self.forms.setdefault(self._form, {})
            self._ids[given.get("id", "")] = self._form
        form = self._ids.get(given["form"]) if "form" in given else self._form
        if form is None or "name" not in given:
            return
        if tag == "input" and (given.get("type") != "radio" or "checked" in given):
            self.forms[form][given["name"]] = given.get("value", "")
        elif tag == "textarea":
            self._area = form, given["name"]
            self.forms[form][given["name"]] = ""
        elif tag == "select":
            self._select = form, given["name"]

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)

    def handle_endtag(self, tag: str) -> None:
        if tag == "form":
            self._form = None
        elif tag == "textarea":
            self._area = None

    def handle_data(self, data: str) -> None:
        self.text += data
        if self._area:
            form, name = self._area
            self.forms[form][name] += data.removeprefix("\n")


class Reader:
    """Somebody at the pages of a store."""

    def __init__(self, store: Store, tokens: bool = False) -> None:
        self.store = store
        self.name = ""
        app = create_app(store, SECRET, Hosts(LOOPBACK), tokens)
        self.client = TestClient(app, base_url=ORIGIN, follow_redirects=False, raise_server_exceptions=False)

    def login(self, said: str) -> "Reader":
        """Logs in with a name or token."""
        answer = self.client.post("/login", data={"said": said}, headers={"origin": ORIGIN})
        assert answer.status_code == 303, answer.text
        self.name = said
        return self

    def page(self, path: str = "/", status: int = 200) -> Seen:
        """A page."""
        answer = self.client.get(path)
        assert answer.status_code == status, answer.text
        return Seen.of(answer.text)

    def post(self, path: str, fields: Mapping[str, str], **headers: str) -> Any:
        """Posts fields."""
        return self.client.post(path, data=dict(fields), headers={"origin": ORIGIN, **headers})

    def answer(self, choice: str, **fields: str) -> Any:
        """Answers the item that comes next, with the page's own form."""
        return self.post("/answer", self.page().forms["/answer"] | {"choice": choice} | fields)


@contextmanager
def reading(store: Store, *people: str) -> Iterator[tuple[Reader, ...]]:
    """People, logged in by their names."""
    with store:
        yield tuple(Reader(store).login(who) for who in people)
