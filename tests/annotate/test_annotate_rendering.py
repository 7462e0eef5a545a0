"""Texts of others: they are shown well, nothing of them is hidden, and nothing of them does anything."""

from html import unescape

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from small_pages import NASTY, Seen

from skyrm_jax.annotate import mathematics, rendering
from skyrm_jax.annotate.mathematics import mathml
from skyrm_jax.annotate.rendering import MOST, MOST_RAW, MOST_SEGMENTS, raw, rendered, visible

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


def test_reasoning_of_any_length_leaves_the_answer_where_it_is() -> None:
    thoughts = "hm. " * 11_500
    for text in (f"<think>{thoughts}</think>The answer.", f"{thoughts}\n</think>\nThe answer."):
        thought, said = rendered(text).segments
        assert (thought.kind, thought.words, thought.open) == ("reasoning", 11_500, False)
        assert thought.shown <= MOST < thought.characters <= 46_001
        assert Seen.of(said.html).text.strip() == "The answer." and said.shown == said.characters
    two = rendered(f"<think>{thoughts}</think>A\n<think>{thoughts}</think>B").segments
    assert [segment.kind for segment in two] == ["reasoning", "text", "reasoning", "text"]
    assert sum(len(segment.html) for segment in two) < 2 * MOST
    many = rendered("<think>\nx\n</think>\ny\n" * 10_000).segments
    assert len(many) <= MOST_SEGMENTS + 1 and many[-1].kind == "text"


@pytest.mark.parametrize(
    "text",
    [
        "Put it between `<think>` and `</think>`: then it is hidden.",
        "The end is `</think>`\nand so on",
        "`</think>` begins a line",
        "A </think> in a line",
        "First <think> and then </think>\nthe answer",
        "```\nx\n</think>\n```",
    ],
)
def test_words_about_a_tag_are_no_reasoning(text: str) -> None:
    assert [segment.kind for segment in rendered(text).segments] == ["text"]


def test_only_assistants_reason() -> None:
    for text in ("before\n</think>\nafter", "<think>\nhm\n</think>\nx", "<think>\nnever ends"):
        for role in ("user", "system", "tool"):
            (segment,) = rendered(text, role).segments
            assert segment.kind == "text" and "think>" in unescape(Seen.of(segment.html).text)
        assert rendered(text).segments[0].kind == "reasoning"


def test_a_tag_within_reasoning_does_not_end_it() -> None:
    assert kinds("<think>\nI write `</think>` later\n</think>\nx")[-1] == ("text", "x", False)


def test_what_goes_to_tools_and_comes_back_is_shown_as_it_is() -> None:
    call = '{"name": "f",\n "x": "*a*"}'
    made = kinds(f"Let me see.\n<tool_call>\n{call}\n</tool_call>\n**done**")
    assert made == [("text", "Let me see.", False), ("tool_call", call, False), ("text", "done", False)]
    (segment,) = rendered(call, "tool").segments
    assert "<pre" in segment.html and unescape(Seen.of(segment.html).text) == call
    assert kinds("<tool_call>never ends") == [("tool_call", "never ends", True)]
    (told,) = (s for s in rendered(f"<tool_response>{call}</tool_response>", "user").segments)
    assert told.kind == "tool_response" and "<pre" in told.html
    assert kinds("```\n<tool_call>\n```")[0][0] == "text"


def test_terminal_codes_are_left_out_and_seen_in_the_raw_view() -> None:
    body = rendered("\x1b[1;31mred\x1b[0m \x1b]0;t\x07and \x1b")
    assert body.terminal == 3
    assert Seen.of(body.segments[0].html).text.strip() == "red and ‹ESC›"
    assert "‹ESC›[1;31mred‹ESC›[0m" in raw("\x1b[1;31mred\x1b[0m").segments[0].html


@pytest.mark.parametrize(
    "sign",
    [
        *("\u202e", "\u2066", "\u200f", "\u200b", "\ufeff", "\x00", "\x7f", "\x9b", "\U000e0041", "\u00ad", "\u2062"),
        *("\u3164", "\u115f", "\u180e", "\u206a", "\ufff9", "\U000e0100", "\u034f", "\ufe00", "\u2028", "\ud800"),
    ],
)
def test_what_cannot_be_seen_is_named(sign: str) -> None:
    name = {"\x00": "NUL", "\x7f": "DEL"}.get(sign, f"U+{ord(sign):04X}")
    for made in (html(f"a{sign}b `c{sign}d` [l{sign}](http://x)"), raw(f"a{sign}b").segments[0].html):
        assert sign not in made and f"a‹{name}›b" in made


def test_what_ordinary_text_needs_stays() -> None:
    for text in (
        "म\u200dन 👩\u200d🔬 \t\n",
        "می\u200cخواهم",
        "❤\ufe0f ☎\ufe0e",
        "ᠠ\u180b",
        "\u06dd١ \u00a0",
        "e\u0301 שָׁלוֹם",
    ):
        assert visible(text) == text


def test_every_block_finds_its_direction() -> None:
    made = html("שלום\n\n- אחת\n- שתיים\n\nHello\n\n> ציטוט")
    assert [t for t, a in Seen.of(made).elements if a.get("dir") == "auto"] == ["p", "ul", "p", "blockquote"]


def test_headings_stand_below_those_of_the_page() -> None:
    assert [t for t, _ in Seen.of(html("# a\n\n## b\n\n###### c")).elements] == ["h4", "h5", "h6"]


def test_long_texts_are_cut_and_say_so() -> None:
    text = "word " * 200_000
    body = rendered(text)
    assert (body.characters, body.words) == (1_000_000, 200_000)
    (segment,) = body.segments
    assert MOST * 3 // 4 <= segment.shown <= MOST < segment.characters == 1_000_000
    assert len(Seen.of(segment.html).text.strip()) == segment.shown
    (plain,) = raw(text).segments
    assert plain.shown == MOST_RAW and plain.characters == 1_000_000 and len(plain.html) < MOST_RAW + 100
    paragraphs = ("x" * 99 + "\n\n") * 1000
    assert rendered(paragraphs).segments[0].shown % 101 == 99  # at the end of a paragraph


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
LINES = (
    "\n",
    "<think>\nx\n",
    "<think>\n</think>\n",
    "</think> x\n",
    "<tool_call>\n",
    "<tool_call></tool_call>\n",
    "\\[\n",
    "$$\n",
    "```py\nx\n```\n",
    "|a|b|\n|-|-|\n",
    "* a\n ",
    "[a]: b\n",
    "# a\n",
)


@pytest.mark.parametrize("unit", [*UNITS, *LINES])
def test_a_million_characters_do_not_hang(unit: str) -> None:
    body = rendered(unit * (1_000_000 // len(unit)))
    assert body.characters > 900_000 and sum(segment.shown for segment in body.segments) <= 4 * MOST
    assert not any("could not be rendered" in segment.html for segment in body.segments)


def test_a_text_that_cannot_be_rendered_is_shown_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> str:
        raise RecursionError

    monkeypatch.setattr(rendering._MARKDOWN, "render", fail)
    made = html("unlike any other <b>text</b>")
    assert "could not be rendered" in made and "&lt;b&gt;text&lt;/b&gt;" in made
