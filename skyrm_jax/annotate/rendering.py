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
from typing import Any, Literal, get_args
from unicodedata import category
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
"""Characters of a text that are rendered, of each kind of segment; what follows them is seen in the raw view."""
MOST_RAW = 300_000
"""Characters of a text that the raw view shows."""
MOST_CODE = 20_000
"""Characters of a block of code that are coloured."""

MOST_SEGMENTS = 40
"""Segments of a text; what follows them is one more."""

_CONTROLS = (
    "NUL SOH STX ETX EOT ENQ ACK BEL BS HT LF VT FF CR SO SI DLE DC1 DC2 DC3 DC4 NAK SYN ETB CAN EM SUB ESC FS GS RS US"
)
_ORDINARY = {*map(ord, "\t\n\u200c\u200d\ufe0e\ufe0f"), *range(0x180B, 0x180E), 0x180F}
"""Ends of lines; and joiners and selectors of forms, without which scripts and emoji cannot be written."""
_DRAWN = {*range(0x0600, 0x0606), 0x06DD, 0x070F, 0x0890, 0x0891, 0x08E2, 0x110BD, 0x110CD, *range(0x13430, 0x13440)}
"""Formats by their category that are seen nevertheless: Unicode's Prepended_Concatenation_Mark, and hieroglyphs'."""
_IGNORABLE = {
    0x034F,
    0x115F,
    0x1160,
    0x17B4,
    0x17B5,
    0x3164,
    0xFFA0,
    *range(0x180B, 0x1810),
    *range(0xFFF0, 0xFFF9),
    *range(0xFE00, 0xFE10),
    *range(0xE0000, 0xE1000),
}
"""Unicode's Default_Ignorable_Code_Point, those of the category Cf apart."""
_UNSEEN = (
    {code for code in range(0x20000) if category(chr(code)) in ("Cc", "Cf", "Cs", "Zl", "Zp")} - _DRAWN | _IGNORABLE
) - _ORDINARY
_SIGNS = (
    {code: f"‹U+{code:04X}›" for code in _UNSEEN}
    | {code: f"‹{name}›" for code, name in enumerate(_CONTROLS.split()) if code not in _ORDINARY}
    | {0x7F: "‹DEL›"}
)
_TERMINAL = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]{0,2000}(?:\x07|\x1b\\)|[@-Z\\^_])")
_OPEN = r"<(?:think|thinking|thought|reasoning|reflection|scratchpad)>|<\|begin_of_thought\|>|\[THINK\]"
_CLOSE = r"</(?:think|thinking|thought|reasoning|reflection|scratchpad)>|<\|end_of_thought\|>|\[/THINK\]"
_MARK = re.compile(
    rf"^ {{0,3}}(?P<fence>`{{3,}}(?=[^`\n]*$)|~{{3,}})|^[ \t]*(?P<open>{_OPEN})|(?<!`)(?P<close>{_CLOSE})(?!`)"
    r"|^[ \t]*<(?P<tool>tool_call|tool_response)>",
    re.IGNORECASE | re.MULTILINE,
)
_OPENING = re.compile(_OPEN, re.IGNORECASE)

Kind = Literal["text", "reasoning", "tool_call", "tool_response"]


@dataclass(frozen=True, slots=True)
class Segment:
    """A part of a text.

    Attributes:
        kind: "reasoning": what a model wrote to itself before it answered; "tool_call" and "tool_response": what stands
            between such tags.
        words, characters: of the part.
        shown: characters of it that the HTML holds; fewer than `characters` where it is very long.
        open: reasoning, or a call, that never ends.
    """

    kind: Kind
    html: Markup
    words: int
    characters: int
    shown: int
    open: bool = False


@dataclass(frozen=True, slots=True)
class Body:
    """A text, ready to be shown.

    Attributes:
        segments: in order.
        characters, words: of the whole text.
        terminal: codes for terminals that were left out.
    """

    segments: tuple[Segment, ...]
    characters: int
    words: int
    terminal: int = 0


@dataclass(frozen=True, slots=True)
class _Piece:
    kind: Kind
    text: str
    open: bool = False


@lru_cache(maxsize=256)
def rendered(text: str, role: str = "assistant") -> Body:
    """The text of a message of this role: its Markdown, code and formulas drawn, an assistant's reasoning and what goes
    to tools and comes from them in segments of their own."""
    plain, terminal = _TERMINAL.subn("", text)
    plain = plain.replace("\r\n", "\n").replace("\r", "\n")
    draw = _preformatted if role == "tool" else _html
    segments: list[Segment] = []
    # The limit is for each kind of its own, lest long reasoning hides the answer.
    left: dict[Kind, int] = dict.fromkeys(get_args(Kind), MOST)
    for piece in [_Piece("text", plain)] if role == "tool" else _split(plain, role == "assistant"):
        if piece.kind == "text" and not piece.text.strip():
            continue
        part = _beginning(piece.text, left[piece.kind])
        left[piece.kind] -= len(part)
        html = _preformatted(part) if piece.kind.startswith("tool") else draw(part)
        segments.append(Segment(piece.kind, html, len(piece.text.split()), len(piece.text), len(part), piece.open))
    return Body(tuple(segments), len(text), len(text.split()), terminal)


def raw(text: str) -> Body:
    """The text as it is; only line ends are made one kind, and what cannot be seen is shown by its name."""
    part = text[:MOST_RAW]
    words = len(text.split())
    return Body((Segment("text", _preformatted(part), words, len(text), len(part)),), len(text), words)


def visible(text: str) -> str:
    """The text with names, or code points, for characters that would not be seen or would do things."""
    return text.replace("\r\n", "\n").translate(_SIGNS)


def _beginning(text: str, most: int) -> str:
    """As much of a text as may be rendered, up to the end of a paragraph or line if there is one near the limit."""
    if len(text) <= most:
        return text
    for end in ("\n\n", "\n", " "):
        if (place := text.rfind(end, most * 3 // 4, most)) > 0:
            return text[:place]
    return text[:most]


def _split(text: str, reasons: bool) -> list[_Piece]:
    """The pieces of a text, in order; whoever does not reason has tags of reasoning as text. Tags in code are code."""
    pieces: list[_Piece] = []
    start = place = 0
    thinking, closed, fence = False, False, ""
    while (thinking or len(pieces) < MOST_SEGMENTS) and (mark := _MARK.search(text, place)):
        place = mark.end()
        if mark["fence"]:
            if not thinking and (not fence or mark["fence"].startswith(fence)):
                fence = "" if fence else mark["fence"]
        elif fence:
            continue
        elif mark["tool"]:
            if thinking:
                continue
            end = text.find(f"</{mark['tool']}>", place)
            inside = text[place:] if end < 0 else text[place:end]
            kind: Kind = "tool_call" if mark["tool"].casefold() == "tool_call" else "tool_response"
            pieces += [_Piece("text", text[start : mark.start()]), _Piece(kind, inside, end < 0)]
            start = place = place + len(inside) + (0 if end < 0 else len(f"</{mark['tool']}>"))
        elif mark["open"]:
            if reasons and not thinking:
                pieces.append(_Piece("text", text[start : mark.start()]))
                thinking, start = True, place
        else:
            # Some chat templates hold the opening tag themselves: what comes before a lone closing one is reasoning.
            if thinking or (reasons and not closed and not pieces and _is_lone(text, mark.start(), place)):
                pieces.append(_Piece("reasoning", text[start : mark.start()]))
                thinking, start = False, place
            closed = True
    pieces.append(_Piece("reasoning" if thinking else "text", text[start:], thinking))
    return pieces


def _is_lone(text: str, start: int, end: int) -> bool:
    """Whether a closing tag begins a line or ends one, and nothing before has opened what it closes."""
    before = text[text.rfind("\n", 0, start) + 1 : start]
    after = text[end:].split("\n", 1)[0]
    return not (before.strip() and after.strip()) and not _OPENING.search(text, 0, start)


def _preformatted(text: str) -> Markup:
    return Markup('<pre class="plain">{}</pre>').format(visible(text))


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
