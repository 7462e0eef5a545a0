"""Colours: whoever sees little contrast can read every page, in light and dark."""

import re
from pathlib import Path

import pytest

import skyrm_jax.annotate
from skyrm_jax.annotate import rendering

FOLDER = Path(skyrm_jax.annotate.__file__).parent
STYLE = (FOLDER / "static" / "style.css").read_text()

TEXTS = [
    *((ink, paper) for ink in ("ink", "soft", "link") for paper in ("paper", "card", "inset")),
    *(
        (f"code-{name}", paper)
        for name in ("key", "text", "note", "number", "name")
        for paper in ("inset", "card", "tint")
    ),
    *((ink, "card") for ink in ("bad", "good")),
    *((ink, "tint") for ink in ("ink", "link", "on-tint")),
    *(("on-accent", "accent"), ("on-mark", "mark"), ("bad", "bad-tint"), ("soft", "inset")),
]
"""Text on a ground: 4.5 to 1 (WCAG 2.2, success criterion 1.4.3)."""

EDGES = [(edge, ground) for edge in ("edge", "accent") for ground in ("card", "paper")]
"""Edges of what can be pressed, and the ring of the focus: 3 to 1 (1.4.11)."""


def palettes() -> dict[str, dict[str, str]]:
    dark_at = [m.start() for m in re.finditer(r"@media \(prefers-color-scheme: dark\) \{\n  :root \{", STYLE)]
    found: dict[str, dict[str, str]] = {"light": {}, "dark": {}}
    for block in re.finditer(r":root \{(.*?)\}", STYLE, re.DOTALL):
        dark = any(at < block.start() < at + 60 for at in dark_at)
        found["dark" if dark else "light"] |= dict(re.findall(r"--([\w-]+): (#\w{6});", block[1]))
    return found


def luminance(color: str) -> float:
    parts = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    r, g, b = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * r + 0.7152 * g + 0.0722 * b


def contrast(one: str, other: str) -> float:
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def test_the_formula() -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#767676", "#ffffff") == pytest.approx(4.54, abs=0.005)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_contrast(scheme: str) -> None:
    colors = palettes()[scheme]
    low = {
        (one, other): round(contrast(colors[one], colors[other]), 2)
        for pairs, least in ((TEXTS, 4.5), (EDGES, 3.0))
        for one, other in pairs
        if contrast(colors[one], colors[other]) < least
    }
    assert not low


def test_both_schemes_have_all_colours_and_rules_have_no_others() -> None:
    light, dark = palettes().values()
    assert set(light) == set(dark)
    used = set(re.findall(r"var\(--([\w-]+)\)", STYLE))
    own, drawings = STYLE.split("/* Drawings")
    assert used <= set(light) and set(re.findall(r"--([\w-]+):", own)) <= set(re.findall(r"var\(--([\w-]+)\)", own))
    assert drawings
    rules = re.sub(r":root \{.*?\}", "", STYLE, flags=re.DOTALL)
    assert not re.search(r"#[0-9a-f]{3,8}\b(?![^{]*\{)", re.sub(r"(?m)^[^{]*\{", "", rules))


def test_the_rules_and_the_pages_know_the_same_classes() -> None:
    pages = "".join(path.read_text() for path in (FOLDER / "templates").iterdir())
    said = re.findall(r'class="([^"]*)"', pages)
    plain = {name for names in said for name in re.sub(r"\{\{.*?(\}\}|$)|\{%.*?%\}", " ", names).split()}
    plain |= {"plain-page", "item-page", "wide-page", "plain", "code", "language", "formula"}
    ruled = set(re.findall(r"\.([a-zA-Z][\w-]*)", re.sub(r"\{[^}]*\}", "{}", STYLE))) - rendering._CLASSES - {"scripts"}
    made = {"asks", "due", "correct", "incorrect", "scale", "rest", "tool"}  # by the values of templates
    assert ruled - plain - made == set()
    assert plain - ruled == {"item-page"}


def test_code_has_its_colours_on_its_own_ground() -> None:
    """A block of code, and code in a line, set ground and ink, wherever they stand."""
    assert re.search(r"\.code pre \{[^}]*background: var\(--inset\); color: var\(--ink\)", STYLE)
    assert re.search(r"code \{[^}]*background: var\(--inset\); color: var\(--ink\)", STYLE)
