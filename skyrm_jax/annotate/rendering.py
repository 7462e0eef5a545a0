"""Texts of others -> HTML that can do no harm: Markdown, code in colours, formulas; or the text as it is.

Nothing is hidden from who reads: HTML in a text is shown as text, pictures as links, and characters that would turn the
direction of writing round, move a terminal's cursor or stand for nothing at all as their names. All that is made
of a text goes through a sanitiser before it leaves this module.
"""

import re
from collections.abc import MutableMapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from html import escape
from typing import Any, Literal
from urllib.parse import urlsplit

import nh3
from markdown_it import MarkdownIt
from markdown_it.rules_core import StateCore
from markdown_it.token import Token
from markupsafe import Markup
from pygments import highlight
from pygments.formatters.html import HtmlFormatter
from pygments.lexers import get_lexer_by_name
from pygments.token import STANDARD_TYPES
from pygments.util import ClassNotFound

from skyrm_jax.annotate import mathematics

MOST = 30_000
"""Characters of a text that are rendered; what follows them is seen in the raw view."""
MOST_RAW = 300_000
"""Characters of a text that the raw view shows."""
MOST_CODE = 20_000
"""Characters of a block of code that are coloured."""

_BIDI = (0x061C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A))
_UNSEEN = (0x200B, 0x2028, 0x2029, 0x2060, 0xFEFF, *range(0x80, 0xA0), *range(0xE0000, 0xE0080))
_CONTROLS = (
    "NUL SOH STX ETX EOT ENQ ACK BEL BS HT LF VT FF CR SO SI DLE DC1 DC2 DC3 DC4 NAK SYN ETB CAN EM SUB ESC FS GS RS US"
)
_SIGNS = (
    {code: f"‹{name}›" for code, name in enumerate(_CONTROLS.split()) if chr(code) not in "\t\n"}
    | {0x7F: "‹DEL›"}
    | {code: f"‹U+{code:04X}›" for code in (*_BIDI, *_UNSEEN)}
)
_TERMINAL = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]{0,2000}(?:\x07|\x1b\\)|[@-Z\\^_])")
_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})")
_OPEN = re.compile(
    r"[ \t]*(?:<(think|thinking|thought|reasoning|reflection|scratchpad)>|(<\|begin_of_thought\|>)|(\[THINK\]))", re.I
)
_CLOSE = re.compile(
    r"</(?:think|thinking|thought|reasoning|reflection|scratchpad)>|<\|end_of_thought\|>|\[/THINK\]", re.I
)


@dataclass(frozen=True, slots=True)
class Segment:
    """A part of a text.

    Attributes:
        kind: "reasoning": what a model wrote to itself before it answered.
        words: of the part.
        open: reasoning that never ends.
    """

    kind: Literal["text", "reasoning"]
    html: Markup
    words: int
    open: bool = False


@dataclass(frozen=True, slots=True)
class Body:
    """A text, ready to be shown.

    Attributes:
        segments: in order.
        characters, words: of the whole text.
        shown: characters of it that the segments hold; fewer than `characters` where it is very long.
        terminal: codes for terminals that were left out.
    """

    segments: tuple[Segment, ...]
    characters: int
    words: int
    shown: int
    terminal: int = 0


@lru_cache(maxsize=256)
def rendered(text: str) -> Body:
    """The text with its Markdown, code and formulas drawn, reasoning in segments of its own."""
    part = _beginning(text)
    part, terminal = _TERMINAL.subn("", part)
    segments = tuple(
        Segment("reasoning" if reasoning else "text", _html(piece), len(piece.split()), is_open)
        for reasoning, piece, is_open in _split(part.replace("\r\n", "\n").replace("\r", "\n"))
        if piece.strip() or reasoning
    )
    shown = len(text) if len(text) <= MOST else len(_beginning(text))
    return Body(segments, len(text), len(text.split()), shown, terminal)


def raw(text: str) -> Body:
    """The text as it is; only line ends are made one kind, and what cannot be seen is shown by its name."""
    part = text[:MOST_RAW]
    html = Markup('<pre class="plain">{}</pre>').format(visible(part))
    return Body((Segment("text", html, len(part.split())),), len(text), len(text.split()), len(part))


def visible(text: str) -> str:
    """The text with names, or code points, for characters that would not be seen or would do things."""
    return text.replace("\r\n", "\n").translate(_SIGNS)


def _beginning(text: str) -> str:
    """What is rendered of a text, up to the end of a paragraph or line if there is one near the limit."""
    if len(text) <= MOST:
        return text
    for end in ("\n\n", "\n", " "):
        if (place := text.rfind(end, MOST * 3 // 4, MOST)) > 0:
            return text[:place]
    return text[:MOST]


def _split(text: str) -> list[tuple[bool, str, bool]]:
    """(is it reasoning, the piece, does it never end), in order. Tags in blocks of code are code."""
    pieces: list[tuple[bool, str, bool]] = []
    lines: list[str] = []
    reasoning, fence = False, ""

    def end(kind: bool, unclosed: bool = False) -> None:
        pieces.append((kind, "".join(lines), unclosed))
        lines.clear()

    for line in text.splitlines(keepends=True):
        mark = _FENCE.match(line)
        if not reasoning and mark and (not fence or line.strip().startswith(fence)):
            fence = "" if fence else mark[1]
        if not reasoning and not fence and (opening := _OPEN.match(line)):
            end(False)
            reasoning, line = True, line[opening.end() :]
        if not fence and (closing := _CLOSE.search(line)) and (reasoning or not pieces):
            # Some chat templates hold the opening tag themselves: what comes before a lone closing one is reasoning.
            lines.append(line[: closing.start()])
            end(True)
            reasoning, line = False, line[closing.end() :]
        lines.append(line)
    end(reasoning, reasoning)
    return pieces


def _html(text: str) -> Markup:
    """Markdown as safe HTML; as plain text if that fails."""
    text = visible(text)
    try:
        return Markup(_CLEANER.clean(_MARKDOWN.render(text, {})))
    except Exception:  # whatever is wrong with a text or with a library, who reads must see the text
        return Markup('<p class="note">This text could not be rendered.</p><pre class="plain">{}</pre>').format(text)


def _is_link(url: str) -> bool:
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    return (parts.scheme in ("http", "https") and bool(parts.netloc)) or (parts.scheme == "mailto" and bool(parts.path))


def _code(text: str, language: str) -> str:
    """Code in the classes of its tokens; as it is if the language is not known or the code is long."""
    words = language.split()
    if not words or len(text) > MOST_CODE:
        return escape(text)
    try:
        return str(highlight(text, _lexer(words[0].strip("{}.").casefold()), _FORMATTER))
    except ClassNotFound:
        return escape(text)


@lru_cache(maxsize=64)
def _lexer(language: str) -> Any:
    return get_lexer_by_name(language, stripnl=False, ensurenl=False)


def _draw_code(_: Any, tokens: Sequence[Token], index: int, __: Any, ___: MutableMapping[str, Any]) -> str:
    token = tokens[index]
    name = escape(token.info.split()[0][:30]) if token.info.split() else ""
    label = f'<span class="language">{name}</span>' if name else ""
    return f'<div class="code">{label}<pre><code>{_code(token.content, token.info)}</code></pre></div>\n'


def _draw_image(_: Any, tokens: Sequence[Token], index: int, __: Any, ___: MutableMapping[str, Any]) -> str:
    token = tokens[index]
    url = str(token.attrs.get("src", ""))
    return f'<a href="{escape(url)}">[picture: {escape(token.content or url)}]</a>'


def _adjust(state: StateCore) -> None:
    """Every block finds its own direction of writing, and headings stand below those of the page."""
    for token in state.tokens:
        # Browsers find it in what has no `dir` of its own: within a list or a quote nothing may have one.
        if token.nesting == 1 and token.level == 0:
            token.attrSet("dir", "auto")
        if token.type in ("heading_open", "heading_close"):
            token.tag = f"h{min(6, int(token.tag[1]) + 3)}"


def _markdown() -> MarkdownIt:
    md = MarkdownIt("commonmark", {"html": False, "breaks": True, "maxNesting": 40})
    md.enable(["table", "strikethrough"]).use(mathematics.mathematics)
    md.validateLink = _is_link  # type: ignore[method-assign]
    for kind, rule in {"fence": _draw_code, "code_block": _draw_code, "image": _draw_image}.items():
        md.add_render_rule(kind, rule)
    md.core.ruler.push("adjust", _adjust)
    return md


def _attribute(tag: str, name: str, value: str) -> str | None:
    return None if name == "href" and not (tag == "a" and _is_link(value)) else value


_CLASSES = frozenset(name for name in STANDARD_TYPES.values() if name)
_FORMATTER: Any = HtmlFormatter(nowrap=True)
_MARKDOWN = _markdown()
_BLOCKS = frozenset("blockquote li ol p table td th tr ul h4 h5 h6".split())  # noqa: SIM905
_TAGS = _BLOCKS | frozenset("a br code del div em hr pre s span strong tbody thead".split())  # noqa: SIM905
_CLEANER = nh3.Cleaner(
    tags=set(_TAGS | mathematics.TAGS),
    clean_content_tags=set(),
    attributes={
        "a": {"href", "title"},
        "ol": {"start"},
        **{tag: {"dir"} for tag in _BLOCKS - {"ol"}},
        **{tag: set(mathematics.ATTRIBUTES) for tag in mathematics.TAGS},
    },
    attribute_filter=_attribute,
    allowed_classes={"span": set(_CLASSES | {"formula", "language"}), "div": {"code"}},
    set_tag_attribute_values={"a": {"target": "_blank"}},
    link_rel="noopener noreferrer nofollow",
    url_schemes={"http", "https", "mailto"},
)
