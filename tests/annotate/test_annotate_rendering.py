"""Texts of others: they are shown well, nothing of them is hidden, and nothing of them does anything."""

from html import unescape

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from small_pages import NASTY, Seen

from skyrm_jax.annotate import mathematics, rendering
from skyrm_jax.annotate.mathematics import mathml
from skyrm_jax.annotate.rendering import MOST, MOST_RAW, raw, rendered, visible

HARMLESS = {"href", "title", "target", "rel", "dir", "class", "start"} | mathematics.ATTRIBUTES


def html(text: str) -> str:
    return "".join(segment.html for segment in rendered(text).segments)


def check(made: str) -> None:
    """Nothing in it can do anything."""
    for tag, attributes in Seen.of(made).elements:
        assert tag in rendering._TAGS | mathematics.TAGS, made
        assert set(attributes) <= HARMLESS, made
        if "href" in attributes:
            assert tag == "a" and attributes["href"].startswith(("http://", "https://", "mailto:")), made
            assert attributes["target"] == "_blank" and "noopener" in attributes["rel"]


@pytest.mark.parametrize("text", NASTY)
def test_nothing_nasty_is_left(text: str) -> None:
    check(html(text))
    check(html(f"> - {text}\n\n| {text} | b |\n|---|---|\n| {text} | [{text}](http://x) |"))


FRAGMENTS = st.sampled_from(
    [
        *NASTY,
        *"<>\"'`*_[]()!$\\|#-~&;:/=\n\t ",
        *(
            "javascript:",
            "](",
            "![",
            "<!--",
            "-->",
            "<![CDATA[",
            "</",
            "```html\n",
            "\n```\n",
            "$$",
            r"\(",
            r"\)",
            r"\[",
        ),
        *(
            r"\]",
            r"\text{",
            r"\href{",
            "}",
            "<math>",
            "<mtext>",
            "<svg>",
            "<style>",
            "&lt;",
            "&#x3c;",
            "<think>",
            "</think>",
        ),
        *("href=", "onerror=", "http://x ", r"\begin{align}", r"\end{align}", "<br>", "\u202e", "\x00", "\x1b["),
    ]
)


@settings(max_examples=300)
@given(st.lists(FRAGMENTS | st.text(max_size=5), max_size=25).map("".join))
@example(r"$\text{&lt;img src=x onerror=1&gt;}$")
def test_no_mixture_of_texts_does_anything(text: str) -> None:
    body = rendered(text)
    for segment in body.segments:
        check(segment.html)
        assert "could not be rendered" not in segment.html
    check(raw(text).segments[0].html.replace('<pre class="plain">', "<pre>"))
    assert body.characters == len(text)


def test_what_html_says_is_shown_as_text() -> None:
    assert "<script>alert(1)</script>" in Seen.of(html("Hi <script>alert(1)</script>")).text
    assert "<div onclick=x>" in Seen.of(html("<div onclick=x>\nblock\n</div>")).text


def test_links_lead_out_or_nowhere() -> None:
    made = html(
        "[a](https://x.org/?q=1) [b](/logout) [c](javascript:alert(1)) ![pic](http://x.org/p.png) <https://y.org>"
    )
    links = [attributes["href"] for tag, attributes in Seen.of(made).elements if tag == "a"]
    assert links == ["https://x.org/?q=1", "http://x.org/p.png", "https://y.org"]
    assert "[b](/logout)" in made and "[picture: pic]" in made


def test_code_is_coloured_by_its_language() -> None:
    made = html("```python\ndef f(x): return '<b>'\n```\n\n```nonsense\n<i>\n```\n")
    assert '<span class="k">def</span>' in made and '<span class="language">python</span>' in made
    assert Seen.of(made).text.count("<b>") == 1 and "&lt;i&gt;" in made


@pytest.mark.parametrize(
    "text", [r"$x^2$", r"$$x^2$$", r"\(x^2\)", r"so \[x^2\] is", "\\[\nx^2\n\\]", "> \\[\n> x^2\n> \\]"]
)
def test_formulas_are_drawn(text: str) -> None:
    assert "<msup><mi>x</mi><mn>2</mn></msup>" in html(text)


def test_formulas_of_several_lines_are_no_lists() -> None:
    made = html("\\[\na\n- b\n= c\n\\]\n\nand \\begin{align}a&=b\\\\c&=d\\end{align}")
    assert "<li>" not in made and made.count("<math") == 1
    assert "<mtable" in html("\\begin{align}\na&=b\\\\\nc&=d\n\\end{align}")


@pytest.mark.parametrize(
    "text", ["costs $5 and $10", "from 5$ to 6$", r"a \$5 note", "`$x$`", r"`\(x\)`", "```\n$x$\n\\[\nx\n\\]\n```"]
)
def test_money_and_code_are_no_formulas(text: str) -> None:
    assert "<math" not in html(text)


def test_what_is_no_formula_is_shown_as_it_was_written() -> None:
    assert html(r"$\frac{$ and $$\left( x$$").count("<code>") == 2
    assert r"\frac{" in html(r"$\frac{$")
    assert mathml("x" * 4000, False) is None and mathml("{" * 2000, False) is None
    many = html("$x$ " * (MOST // 4))
    assert 0 < many.count("<math") <= mathematics.MOST
    assert "<mtext>&lt;img&nbsp;src=x&gt;</mtext>" in html(r"$\text{<img src=x>}$").replace("\xa0", "&nbsp;")


def kinds(text: str) -> list[tuple[str, str, bool]]:
    return [(s.kind, unescape(Seen.of(s.html).text).strip(), s.open) for s in rendered(text).segments]


def test_reasoning_is_a_segment_of_its_own() -> None:
    assert kinds("<think>\nhm **b**\n</think>\n\nAnswer") == [("reasoning", "hm b", False), ("text", "Answer", False)]
    assert kinds("<think>a</think>b") == [("reasoning", "a", False), ("text", "b", False)]
    assert kinds("intro\n<Reasoning>\nx\n</Reasoning>") == [("text", "intro", False), ("reasoning", "x", False)]
    assert kinds("<think>\nnever ends") == [("reasoning", "never ends", True)]
    assert kinds("no opening tag\n</think>\nAnswer") == [
        ("reasoning", "no opening tag", False),
        ("text", "Answer", False),
    ]
    assert kinds("[THINK]a[/THINK]b") == [("reasoning", "a", False), ("text", "b", False)]
    assert kinds("```\n<think>\n</think>\n```")[0][0] == "text" and len(kinds("```\n<think>\n</think>\n```")) == 1
    assert kinds("say <think> aloud")[0][0] == "text"
    assert kinds("<think></think>x") == [("reasoning", "", False), ("text", "x", False)]


def test_terminal_codes_are_left_out_and_seen_in_the_raw_view() -> None:
    body = rendered("\x1b[1;31mred\x1b[0m \x1b]0;t\x07and \x1b")
    assert body.terminal == 3
    assert Seen.of(body.segments[0].html).text.strip() == "red and ‹ESC›"
    assert "‹ESC›[1;31mred‹ESC›[0m" in raw("\x1b[1;31mred\x1b[0m").segments[0].html


@pytest.mark.parametrize(
    "sign", ["\u202e", "\u2066", "\u200f", "\u200b", "\ufeff", "\x00", "\x7f", "\x9b", "\U000e0041"]
)
def test_what_cannot_be_seen_is_named(sign: str) -> None:
    name = {"\x00": "NUL", "\x7f": "DEL"}.get(sign, f"U+{ord(sign):04X}")
    for made in (html(f"a{sign}b `c{sign}d` [l{sign}](http://x)"), raw(f"a{sign}b").segments[0].html):
        assert sign not in made and f"a‹{name}›b" in made
    joined = "म\u200dन 👩\u200d🔬 \t"
    assert visible(joined) == joined


def test_every_block_finds_its_direction() -> None:
    made = html("שלום\n\n- אחת\n- שתיים\n\nHello\n\n> ציטוט")
    assert [t for t, a in Seen.of(made).elements if a.get("dir") == "auto"] == ["p", "ul", "p", "blockquote"]


def test_headings_stand_below_those_of_the_page() -> None:
    assert [t for t, _ in Seen.of(html("# a\n\n## b\n\n###### c")).elements] == ["h4", "h5", "h6"]


def test_long_texts_are_cut_and_say_so() -> None:
    text = "word " * 200_000
    body = rendered(text)
    assert (body.characters, body.words) == (1_000_000, 200_000)
    assert MOST * 3 // 4 <= body.shown <= MOST
    assert len(Seen.of(body.segments[0].html).text.strip()) == body.shown
    plain = raw(text)
    assert plain.shown == MOST_RAW and len(plain.segments[0].html) < MOST_RAW + 100
    paragraphs = ("x" * 99 + "\n\n") * 1000
    assert rendered(paragraphs).shown % 101 == 99  # at the end of a paragraph


UNITS = [
    "[",
    "](",
    "*a_",
    "` `` ```",
    "<a ",
    "![[](",
    "> ",
    "$x$ ",
    "\\( ",
    "$a ",
    "***a ",
    "<!--",
    "&#x",
    "<http://a",
    "~~a ",
    "[a](<b",
    "\\begin{align}",
]
LINES = ("\\[\n", "$$\n", "```py\nx\n```\n", "|a|b|\n|-|-|\n", "* a\n ", "[a]: b\n", "# a\n")


@pytest.mark.parametrize("unit", [*UNITS, *LINES])
def test_a_million_characters_do_not_hang(unit: str) -> None:
    body = rendered(unit * (1_000_000 // len(unit)))
    assert body.characters > 900_000 and body.shown <= MOST
    assert "could not be rendered" not in body.segments[0].html


def test_a_text_that_cannot_be_rendered_is_shown_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> str:
        raise RecursionError

    monkeypatch.setattr(rendering._MARKDOWN, "render", fail)
    made = html("unlike any other <b>text</b>")
    assert "could not be rendered" in made and "&lt;b&gt;text&lt;/b&gt;" in made
