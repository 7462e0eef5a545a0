r"""LaTeX in Markdown -> MathML, which browsers draw by themselves.

Formulas are found between $ and $, $$ and $$, \( and \), \[ and \], and in environments such as \begin{align}. One that
cannot be read is shown as it was written.
"""

import html
from collections.abc import Sequence
from typing import Any
from xml.etree.ElementTree import Element, SubElement, tostring

from latex2mathml.converter import Converter
from markdown_it import MarkdownIt
from markdown_it.rules_block import StateBlock
from markdown_it.rules_inline import StateInline
from markdown_it.token import Token
from mdit_py_plugins.amsmath import amsmath_plugin
from mdit_py_plugins.dollarmath import dollarmath_plugin

TAGS = frozenset("""
    math menclose mfrac mi mn mo mover mpadded mphantom mroot mrow mspace msqrt mstyle msub msubsup msup mtable mtd mtext mtr
    munder munderover""".split())  # noqa: SIM905  # fmt: skip
ATTRIBUTES = frozenset("""
    accent columnalign columnlines columnspacing depth display displaystyle fence form height linethickness lspace
    mathvariant maxsize minsize movablelimits notation rowlines rowspacing rspace scriptlevel separator stretchy voffset
    width""".split())  # noqa: SIM905  # fmt: skip
"""What formulas may be made of. No colours: what has that of the paper cannot be seen."""

LONGEST = 3_000
"""Characters of a formula that is drawn."""
MOST = 20_000
"""Characters of all formulas of a text that are drawn."""
_ENDS = {"(": r"\)", "[": r"\]"}


def mathematics(md: MarkdownIt) -> None:
    """Adds formulas to a Markdown parser; an `env` of its own goes with each text that it renders."""
    dollarmath_plugin(md, allow_labels=False, allow_space=False, allow_digits=False, double_inline=True)
    amsmath_plugin(md)
    md.inline.ruler.before("escape", "math_brackets", _inline)
    md.block.ruler.before(
        "fence", "math_brackets_block", _block, {"alt": ["paragraph", "reference", "blockquote", "list"]}
    )
    for kind, display in {
        "math_inline": False,
        "math_inline_double": True,
        "math_block": True,
        "amsmath": True,
    }.items():
        md.add_render_rule(kind, _rule(display))


def mathml(latex: str, display: bool) -> str | None:
    """A formula as a MathML element; None if it cannot be read."""
    if len(latex) > LONGEST:
        return None
    try:
        made = Converter(display="block" if display else "inline").convert_to_element(latex)
        return tostring(_cleaned(made), encoding="unicode")
    except Exception:  # the converter raises errors of many kinds, IndexError and RecursionError among them
        return None


def _cleaned(made: Element) -> Element:
    """The element with what is allowed of it, and its text as text: the converter leaves that unescaped."""
    root = Element("math", {"display": made.get("display", "inline")})
    waiting = [(made, root)]
    while waiting:
        old, new = waiting.pop()
        new.text = html.unescape(old.text or "")
        for child in old:
            if child.tag in TAGS:
                kept = {name: value for name, value in child.attrib.items() if name in ATTRIBUTES}
                waiting.append((child, SubElement(new, child.tag, kept)))
            else:
                waiting.append((child, SubElement(new, "mrow")))
    return root


def _rule(display: bool) -> Any:
    def draw(_: Any, tokens: Sequence[Token], index: int, __: Any, env: Any) -> str:
        latex = tokens[index].content.strip()
        env["latex"] = env.get("latex", 0) + len(latex)
        made = mathml(latex, display) if env["latex"] <= MOST else None
        if made is None:
            made = f"<code>{html.escape(latex)}</code>"
        return f'<span class="formula">{made}</span>' if display else made

    return draw


def _inline(state: StateInline, silent: bool) -> bool:
    """A formula between brackets, in a line."""
    start = state.pos
    if state.src[start] != "\\" or (end := _ENDS.get(state.src[start + 1 : start + 2])) is None:
        return False
    close = state.src.find(end, start + 2, min(state.posMax, start + LONGEST))
    if close < 0 or not state.src[start + 2 : close].strip():
        return False
    if not silent:
        token = state.push("math_inline" if end == r"\)" else "math_inline_double", "math", 0)
        token.content = state.src[start + 2 : close]
    state.pos = close + 2
    return True


def _block(state: StateBlock, first: int, last: int, silent: bool) -> bool:
    r"""A formula between \[ and \] that begins a line and ends one."""
    begin = state.bMarks[first] + state.tShift[first]
    if state.is_code_block(first) or not state.src.startswith(r"\[", begin):
        return False
    close = state.src.find(r"\]", begin + 2, begin + LONGEST)
    if close < 0:
        return False
    line = first
    while line < last and state.eMarks[line] < close:
        line += 1
    if line >= last or state.src[close + 2 : state.eMarks[line]].strip():
        return False
    if not silent:
        token = state.push("math_block", "math", 0)
        token.block = True
        token.content = state.src[begin + 2 : close]
        token.map = [first, line + 1]
    state.line = line + 1
    return True
