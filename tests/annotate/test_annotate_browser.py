"""The page in a real browser: work by keyboard alone, several people, nasty texts, narrow windows, no scripts."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from served import serving
from small_pages import NASTY, stored

from skyrm_jax.annotate.given import CHOICES
from skyrm_jax.annotate.pages import KEYS

playwright = pytest.importorskip("playwright.sync_api", reason="the Python package playwright is not installed")
CHROMIUM = next(
    (p for p in ("/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome") if Path(p).exists()), None
)
ARGUMENTS: dict[str, Any] = {"executable_path": CHROMIUM, "args": ["--no-sandbox"]}

pytestmark = [
    pytest.mark.full,
    pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium in /usr/bin"),
]

PAIRS = [(f"question {n}", f"GOOD {n}", f"BAD {n}") for n in range(30)]


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        yield driver.chromium


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., str]]:
    """A function that serves pairs and says where."""
    with ExitStack() as stack:

        def run(pairs: list[tuple[str, str, str]], **options: Any) -> str:
            stored(tmp_path, pairs, **options).close()
            url: str = stack.enter_context(serving(tmp_path / "store")).url
            return url

        yield run


def login(page: Any, url: str, who: str) -> None:
    """By keyboard: the field has the focus."""
    page.goto(url)
    page.keyboard.type(who)
    page.keyboard.press("Enter")
    page.wait_for_selector("#answer, #onward, .card")


def question(page: Any) -> str:
    return str(page.inner_text("#asks .said")).strip()


def press(page: Any, *keys: str) -> None:
    """Presses keys of which the last leads to another page."""
    for key in keys[:-1]:
        page.keyboard.press(key)
    before = page.evaluate("document.body.dataset.here = 'before'")
    page.keyboard.press(keys[-1])
    page.wait_for_selector(f"body:not([data-here={before}])")
    page.wait_for_selector("html.scripts")


def test_twenty_pairs_by_keyboard_one_undone_the_browser_closed_nothing_lost(
    chromium: Any, serve: Callable[..., str], tmp_path: Path
) -> None:
    url = serve(PAIRS)
    keys = [*KEYS.values()] * 3
    expected: list[str] = []
    by_key = {key: choice for choice, key in KEYS.items()}
    profile = tmp_path / "profile"
    with chromium.launch_persistent_context(profile, **ARGUMENTS) as context:
        page = context.new_page()
        login(page, url, "ann")
        for n in range(12):
            assert question(page) == f"question {n}"
            press(page, keys[n], "Enter")
            expected.append(by_key[keys[n]])
            if n == 7:
                press(page, "u")
                assert question(page) == "question 7"
                assert page.is_checked(f"#choice-{keys[7]}")
                press(page, "3", "Enter")
                expected[-1] = "about equal"
        page.keyboard.press("n")
        page.keyboard.type("1 2 g x u search")  # letters in a field are letters
        page.keyboard.press("Enter")  # and this is no slip
        page.keyboard.press("Tab")
        page.keyboard.type("https://a.example")
        page.keyboard.press("Escape")
        page.keyboard.press("5")
        page.keyboard.press("e")
        page.keyboard.press("End")
        page.keyboard.press("Escape")
    with chromium.launch_persistent_context(profile, **ARGUMENTS) as context:
        page = context.new_page()
        page.goto(url)
        assert question(page) == "question 12" and "12 answered" in page.inner_text(".top")
        assert page.input_value("[name=tools]") == "1 2 g x u search"
        assert page.is_checked("#choice-5")
        page.keyboard.press("n")
        press(page, "Control+Enter")
        expected.append("right much better")
        for n in range(13, 20):
            assert question(page) == f"question {n}"
            press(page, keys[n], "Enter")
            expected.append(by_key[keys[n]])
        assert "20 answered" in page.inner_text(".top")
        press(page, "f", *"cut off", "Control+Enter")
        assert question(page) == "question 21"
        found = page.evaluate("fetch('/agreement.json').then((answer) => answer.json())")
        assert found["people"][0]["answers"] == 20
        page.goto(f"{url}/history")
        rows = [cells.split("\t") for cells in page.inner_text("tbody").splitlines() if "question" in cells]
        assert [cells[2].casefold() for cells in reversed(rows[1:])] == expected


def test_without_a_choice_nothing_is_sent(chromium: Any, serve: Callable[..., str]) -> None:
    url = serve(PAIRS[:2])
    with chromium.launch(**ARGUMENTS) as browser:
        page = browser.new_page()
        login(page, url, "ann")
        page.keyboard.press("Enter")
        assert "Choose an answer first" in page.inner_text("#status")
        page.keyboard.press("?")
        assert page.is_visible("#keys")
        page.keyboard.press("1")  # nothing behind the box
        page.keyboard.press("Escape")
        assert not page.is_visible("#keys") and not page.is_checked("#choice-1")
        assert question(page) == "question 0" and "0 answered" in page.inner_text(".top")


def test_two_people_at_once(chromium: Any, serve: Callable[..., str], tmp_path: Path) -> None:
    url = serve(PAIRS[:11])
    seen: dict[str, list[str]] = {"ann": [], "bob": []}
    with chromium.launch(**ARGUMENTS) as browser:
        pages = {who: browser.new_context().new_page() for who in seen}
        for who, page in pages.items():
            login(page, url, who)
        for _ in range(5):
            for who, page in pages.items():
                seen[who].append(question(page))
                page.keyboard.press("2")
            for page in pages.values():
                press(page, "Enter")
    assert sorted(seen["ann"] + seen["bob"]) == sorted(f"question {n}" for n in range(10))


def test_nasty_texts_do_no_harm(chromium: Any, serve: Callable[..., str]) -> None:
    long = [("long", "word " * 200_000, "x" * 1_000_000), ("rtl", "مرحبا " * 5000, "\x1b[2J\x1b[31m" * 5000)]
    pairs = [(f"{text}\n\n{n}", f"{text} a", f"{text} b") for n, text in enumerate(NASTY)] + long
    url = serve(pairs)
    with chromium.launch(**ARGUMENTS) as browser:
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        dialogs: list[Any] = []
        errors: list[str] = []
        requests: list[str] = []
        page.on("dialog", lambda dialog: (dialogs.append(dialog.message), dialog.dismiss()))
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
        page.on("request", lambda request: requests.append(request.url))
        login(page, url, "<img src=x onerror=window.hit=1>")
        for n in range(len(pairs)):
            for key, view in (("", "rendered"), ("r", "raw"), ("d", "difference")):
                if key:
                    page.keyboard.press(key)
                page.wait_for_selector(f"#texts[data-view={view}]")
                assert page.evaluate("window.hit") is None
                assert page.evaluate("[...document.scripts].map((s) => s.getAttribute('src'))") == [
                    "/static/annotate.js"
                ]
                assert (
                    page.locator(
                        "#texts :is(img, svg, iframe, form, style, input, button, [style], [onclick], [onerror])"
                    ).count()
                    == 0
                )
                assert page.evaluate("document.documentElement.scrollWidth") <= 1280
                for side in ("left", "right"):
                    assert page.locator(f"#{side} :is(.text, .note)").count() >= 1
            press(page, "g" if n % 2 else "x", "Enter")
        assert "Nothing is left" in page.inner_text("h1")
        page.goto(f"{url}/history")
        assert page.locator("tbody tr").count() == len(pairs) and page.locator("main img").count() == 0
    assert not dialogs and not errors
    assert {request.split("?")[0].startswith(url) for request in requests} == {True}


def test_everything_works_without_scripts(chromium: Any, serve: Callable[..., str]) -> None:
    url = serve(PAIRS[:3])
    with chromium.launch(**ARGUMENTS) as browser:
        page = browser.new_context(java_script_enabled=False).new_page()
        page.goto(url)
        page.fill("#said", "ann")
        page.click("main button")
        assert not page.is_visible("#together") and not page.is_visible("#clock")
        for view in ("raw", "difference", "rendered"):
            page.click(f"[data-show={view}]")
            assert page.get_attribute("#texts", "data-view") == view
        page.click("#attributes summary")
        page.select_option("[name=task_category]", "Reasoning")
        page.fill("[name=note]", "by hand")
        page.check("#choice-4", force=True)
        page.click("#confirm")
        assert question(page) == "question 1" and "Answer kept." in page.inner_text("#status")
        page.click("#undo button")
        assert question(page) == "question 0"
        assert page.input_value("[name=note]") == "by hand" and page.is_checked("#choice-4")
        assert page.input_value("[name=task_category]") == "Reasoning"
        page.click("#confirm")
        page.click("#flagging summary")
        page.fill("[name=why]", "odd")
        page.click(".pop button")
        assert question(page) == "question 2"


def test_the_clock_stops_while_the_page_is_hidden_or_nobody_is_there(chromium: Any, serve: Callable[..., str]) -> None:
    url = serve(PAIRS[:2])
    with chromium.launch(**ARGUMENTS) as browser:
        page = browser.new_page()
        page.clock.install()
        page.add_init_script("Object.defineProperty(document, 'hidden', {get: () => window.away === true})")
        login(page, url, "ann")

        def clock() -> str:
            return str(page.inner_text("#clock"))

        def hide(away: bool) -> None:
            page.evaluate(f"window.away = {str(away).lower()}; document.dispatchEvent(new Event('visibilitychange'))")

        start = int(clock().split(":")[1])
        page.clock.run_for(30_000)
        assert start + 30 <= int(clock().split(":")[1]) <= start + 33
        hide(True)
        frozen = clock()
        page.clock.run_for(60_000)
        hide(False)
        assert clock() == frozen
        page.mouse.move(5, 5)
        page.clock.run_for(10 * 60_000)
        assert clock() in ("2:3" + str(n) for n in range(9)), "two minutes without a sign of life are the most"


def test_views_and_scrolling_together(chromium: Any, serve: Callable[..., str]) -> None:
    text = "\n\n".join(f"**line** {n}" for n in range(200))
    url = serve([("q", text, text.replace("line", "row"))])
    with chromium.launch(**ARGUMENTS) as browser:
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        login(page, url, "ann")

        def until(true: Callable[[], bool]) -> None:
            for _ in range(1000):  # the page forbids what playwright's own waiting is made of
                if true():
                    return
                page.wait_for_timeout(20)
            raise AssertionError("it never came true")

        def tops() -> list[float]:
            return [page.evaluate(f"document.getElementById('{side}').scrollTop") for side in ("left", "right")]

        page.evaluate("document.getElementById('left').scrollTop = 400")
        page.wait_for_timeout(100)
        assert tops()[1] == 0
        page.keyboard.press("s")
        assert page.get_attribute("#together", "aria-pressed") == "true"
        page.evaluate("document.getElementById('left').scrollTop = 800")
        until(lambda: tops()[1] > 700)
        page.evaluate("document.getElementById('right').scrollTop = 100")
        until(lambda: tops()[0] < 150)
        # Both in one go, so that the events of what follows and of what was asked for are one.
        page.evaluate(
            """() => {
                document.getElementById('left').scrollTop = 1200;
                requestAnimationFrame(() => document.getElementById('right').scrollTop = 300);
            }"""
        )
        until(lambda: 250 < tops()[0] < 350 and tops()[1] == 300)
        assert page.locator("#left strong").count() == 200
        page.keyboard.press("d")
        page.wait_for_selector("#texts[data-view=difference]")
        assert page.locator("#left mark").count() == 200 and page.inner_text("#left mark >> nth=0") in ("line", "row")
        page.keyboard.press("d")
        page.wait_for_selector("#texts[data-view=rendered]")
        page.keyboard.press("r")
        page.wait_for_selector("#texts[data-view=raw]")
        assert "**" in page.inner_text("#left")
        assert page.get_attribute("[data-show=raw]", "aria-current") == "true"


@pytest.mark.parametrize("width", [1280, 768])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_pages_fit_and_the_focus_is_seen(chromium: Any, serve: Callable[..., str], width: int, scheme: str) -> None:
    table = (
        "| a | b |\n|---|---|\n"
        + f"| {'x' * 300} | y |\n" * 3
        + "\n```\n"
        + "z" * 500
        + "\n```\n$$"
        + "x+" * 300
        + "x$$"
    )
    url = serve([("q " * 200, table, "short"), *PAIRS[:2]])
    with chromium.launch(**ARGUMENTS) as browser:
        page = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme).new_page()
        login(page, url, "a name of considerable length, with words")
        for path in ("/", "/?view=raw", "/help", "/history", "/agreement", "/nowhere", "/login"):
            page.goto(url + path)
            assert page.evaluate("document.documentElement.scrollWidth") <= width, path
            rings = set()
            for _ in range(6):
                page.keyboard.press("Tab")
                if page.evaluate("document.activeElement !== document.body"):  # not past the end
                    rings.add(page.evaluate("getComputedStyle(document.activeElement).outlineStyle"))
            assert rings == {"solid"}, path
        page.goto(url)
        left, right, bar = (page.locator(name).bounding_box() for name in ("#left", "#right", ".answer-bar"))
        assert abs(left["y"] - right["y"]) < 2 and left["x"] + left["width"] <= right["x"]
        assert bar["y"] + bar["height"] <= 901 and bar["height"] < (60 if width == 1280 else 110)
        for choice in CHOICES:
            box = page.locator(f"label[for=choice-{KEYS[choice]}]").bounding_box()
            assert box["x"] >= 0 and box["x"] + box["width"] <= width
        page.keyboard.press("f")
        box = page.locator(".pop").bounding_box()
        assert box["x"] >= 0 and box["x"] + box["width"] <= width and box["y"] > 0


def test_a_change_of_view_keeps_the_focus_and_shows_the_turn_to_answer(
    chromium: Any, serve: Callable[..., str]
) -> None:
    text = "\n\n".join(f"line {n}" for n in range(100))
    url = serve([("q " * 3000 + "the end", text, text + " more")])
    with chromium.launch(**ARGUMENTS) as browser:
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        login(page, url, "ann")
        for side in ("left", "right", "conversation"):
            page.focus(f"#{side}")
            for key, view in (("d", "difference"), ("d", "rendered"), ("r", "raw"), ("r", "rendered")):
                page.evaluate("document.getElementById('conversation').scrollTop = 300")
                page.keyboard.press(key)
                page.wait_for_selector(f"#texts[data-view={view}]")
                assert page.evaluate("document.activeElement.id") == side
                assert page.evaluate("document.getElementById('conversation').scrollTop") < 5
        page.focus("#confirm")
        page.keyboard.press("d")
        page.wait_for_selector("#texts[data-view=difference]")
        assert page.evaluate("document.activeElement.id") == "confirm"


def test_what_was_stopped_on_its_way_can_be_sent_again(chromium: Any, serve: Callable[..., str]) -> None:
    url = serve(PAIRS[:2])
    with chromium.launch(**ARGUMENTS) as browser:
        page = browser.new_page()
        login(page, url, "ann")
        page.evaluate("stop = (event) => event.preventDefault(); document.addEventListener('submit', stop)")
        page.keyboard.press("2")
        page.keyboard.press("Enter")
        page.keyboard.press("Enter")
        assert "being sent" in page.inner_text("#status")
        page.evaluate("document.removeEventListener('submit', stop)")
        page.wait_for_timeout(5500)
        press(page, "Enter")
        assert question(page) == "question 1"


def test_the_pair_stays_with_who_is_at_work_and_a_draft_with_who_was(chromium: Any, serve: Callable[..., str]) -> None:
    url = serve(PAIRS[:1], lease_seconds=3)
    with chromium.launch(**ARGUMENTS) as browser:
        ann, bob = (browser.new_context().new_page() for _ in range(2))
        login(ann, url, "ann")
        ann.keyboard.press("n")
        for _ in range(14):
            ann.keyboard.type("x")
            ann.wait_for_timeout(500)
        login(bob, url, "bob")
        assert "Nothing is left" in bob.inner_text("h1")
        ann.wait_for_timeout(4000)  # nobody is there
        bob.goto(url)
        assert question(bob) == "question 0"
        ann.keyboard.type("y")
        ann.wait_for_selector("#status:has-text('somebody else')")
        ann.keyboard.press("Escape")
        press(ann, "1", "Enter")
        assert "out of date" in ann.inner_text("h1") and "x" * 14 + "y" in ann.inner_text("main")
        bob.wait_for_timeout(4000)
        ann.goto(url)
        assert question(ann) == "question 0" and ann.input_value("[name=tools]") == "x" * 14 + "y"
        assert ann.is_checked("#choice-1")
        press(ann, "Enter")
        press(ann, "u")
        assert ann.evaluate("Object.keys(localStorage).filter((key) => key.startsWith('annotate:')).length") == 0
        assert ann.input_value("[name=tools]") == "x" * 14 + "y"


def test_review_by_keyboard(chromium: Any, serve: Callable[..., str]) -> None:
    url = serve(PAIRS[:6], reveal=True, review=True)
    with chromium.launch(**ARGUMENTS) as browser:
        page = browser.new_page()
        login(page, url, "ann")
        asked = 0
        for n in range(6):
            assert question(page) == f"question {n}" and "OPINION" not in page.content()
            left = "GOOD" in page.inner_text("#left")
            agree = n % 2 == 0
            press(page, "1" if left == agree else "5", "Enter")
            assert "OPINION" in page.inner_text(".revealed")
            if not agree:
                asked += 1
                page.keyboard.type("I looked it up.")
                press(page, "Control+Enter")
            else:
                press(page, "Enter")
        assert asked == 3 and "Nothing is left" in page.inner_text("h1")
