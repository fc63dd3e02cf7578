"""A report in a real Chromium, from disk and without a network: it shows, filters, answers keys, and runs nothing that
a model wrote. Skips where there is no Chromium, unless PGRPO_REQUIRE_CHROMIUM=1."""

import io
import os
import re
import shutil

import pytest
from playwright.sync_api import expect, sync_playwright
from recorded_pages import table_of, write_run
from rich.console import Console

from pgrpo_ray.report import browser_data
from pgrpo_ray.report.page import write_report

HOSTILE = (
    "</script></pre><script>window.broken = 1</script><img src=x onerror='window.broken = 1'>"
    '<a href="javascript:window.broken = 1">go</a><!-- ${window.broken = 1} \u2028 \'\'\' """ \\'
)
PASSER = {"reward": 2.5, "reward_format": 1, "reward_outcome": 1, "reward_thinking": 0.5, "thinking_reward": 0.5}
FAILER = {
    "verdict": "wrong_answer",
    "reward": 1,
    "reward_format": 1,
    "advantage": -1,
    "detail": "case 0: 41",
    "first_failed": 0,
}
MUTE = {"verdict": None, "program": None, "thinking": None, "response": "no tags at all", "tests_total": 0}
LOST = {"verdict": None, "execution_error": "no container", "dropped": "execution_error", "reward_format": 1}
PROGRAM = 'def add(a, b):  # both\n    return a + b + 41 if "x" else None\n'
METRICS = {"pass_rate": 0.5, "entropy": 0.4, "verdict_passed": 0.5, "busy_sync_s": 1, "step_s": 2}


@pytest.fixture(scope="module")
def chromium():
    """A browser for the tests of this file."""
    path = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chromium-browser")
    if path is None:
        if os.environ.get("PGRPO_REQUIRE_CHROMIUM") == "1":
            pytest.fail("no Chromium on this machine, and PGRPO_REQUIRE_CHROMIUM=1")
        pytest.skip("no Chromium on this machine")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """The report of two runs, one of them hostile through and through."""
    home = tmp_path_factory.mktemp("runs")
    chunk_tokens, browser_data.CHUNK_TOKENS = browser_data.CHUNK_TOKENS, 60
    many = {f"plain/{at:03d}": [PASSER, FAILER] for at in range(200)}
    steps = {
        1: table_of({"sum": [{**PASSER, "program": PROGRAM}, FAILER, MUTE, LOST], "odd": [FAILER, FAILER]}),
        2: table_of({"needle": [{**PASSER, "thinking": "A Haystack of words."}, FAILER], **many}),
    }
    evaluations = {"before": table_of({"held": [PASSER, FAILER]}, rewarded=False)}
    honest = write_run(home / "honest", steps, evaluations, dict.fromkeys(steps, METRICS), {"steps": 2})
    texts = dict.fromkeys(("prompt", "thinking", "program", "detail", "masked"), HOSTILE)
    table = table_of({HOSTILE: [{**FAILER, **texts}, {**MUTE, "response": HOSTILE}]})
    hostile = write_run(home / "hostile", {1: table}, None, {1: {**METRICS, f"advantage_share_{HOSTILE}": 1}})
    hostile = hostile.rename(home / "<img src=x onerror='window.broken = 1'>")
    write_report([honest, hostile], home / "report.html", None, 1000, Console(file=io.StringIO()))
    browser_data.CHUNK_TOKENS = chunk_tokens
    return home / "report.html"


@pytest.fixture
def opened(chromium, report):
    """Opens the report; the test fails where the page complained, asked for anything, or ran what a model wrote."""
    contexts, wrong = [], []

    def start(width=1200, height=900, scheme="light"):
        context = chromium.new_context(
            viewport={"width": width, "height": height}, color_scheme=scheme, offline=True, reduced_motion="reduce"
        )
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(20_000)
        page.on("console", lambda message: wrong.append(message.text) if message.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("request", lambda request: wrong.append(request.url) if not _own(request.url) else None)
        page.goto(report.as_uri())
        page.wait_for_selector("html[data-ready]")
        return page

    yield start
    for context in contexts:
        (page,) = context.pages
        assert page.evaluate("window.broken") is None
        assert page.locator("#warning").is_hidden(), page.locator("#warning").text_content()
        context.close()
    assert not wrong


def _own(address):
    return address.startswith(("file:", "data:", "blob:"))


def counted(page, wanted):
    # No `wait_for_function`: the page's policy forbids the evaluation that it may need.
    expect(page.locator("#count")).to_have_text(re.compile(f"^{wanted}"), timeout=20_000)


def test_curves_are_drawn_and_the_summary_compares(opened):
    page = opened()
    assert page.locator("#summary tbody tr").count() > 8
    page.wait_for_selector(".plot.drawn .scatterlayer .trace")
    figures = page.locator("#charts figure").count()
    for at in range(figures):
        page.locator("#charts figure").nth(at).scroll_into_view_if_needed()
        page.wait_for_selector(f"#plot-{at}.drawn svg")
    assert (
        "onerror"
        in page.locator(".plot.drawn .legendtext").last.or_(page.locator("#summary thead")).first.text_content()
    )


def test_filters_count_what_matches(opened):
    page = opened()
    counted(page, "204 of 204 groups, 410 rollouts")
    page.select_option("#filter-verdict", label="wrong answer (205)")
    counted(page, "204 of 204 groups, 205")
    page.fill("#filter-problem", "PLAIN/00")
    counted(page, "10 of 204 groups, 10")
    page.click("#clear")
    counted(page, "204 of 204")
    page.fill("#filter-low", "2")
    page.fill("#filter-to", "1")
    counted(page, "1 of 204 groups, 1 ")
    page.click("#clear")
    page.select_option("#filter-fate", "dropped")
    counted(page, "1 of 204 groups, 1 ")
    page.click("#clear")
    page.select_option("#filter-source", "heldout")
    counted(page, "1 of 204 groups, 2 ")
    page.click("#clear")
    page.fill("#filter-text", "haySTACK of")
    counted(page, "1 of 204 groups, 1 ")
    assert page.locator(".row b").all_text_contents() == ["needle"]
    page.fill("#filter-text", 'if "x" else')  # which JSON writes in another way
    counted(page, "1 of 204 groups, 1 ")
    page.fill("#filter-text", "in no text")
    counted(page, "0 of 204")
    assert page.locator("#none").is_visible()


def test_a_group_shows_its_members_side_by_side(opened):
    page = opened()
    page.locator(".row", has_text="sum").click()
    cards = page.locator(".member")
    cards.nth(3).wait_for()
    tops = [card.bounding_box()["y"] for card in cards.all()]
    assert len(set(tops)) == 1
    first, second, third, fourth = (card.text_content() for card in cards.all())
    assert "passed" in first and "2.500" in first and "first failed0" in second and "case 0: 41" in second
    assert "no tags at all" in third and "no container" in fourth and "dropped: execution error" in fourth
    program = cards.nth(0).locator("pre.program")
    assert program.text_content() == PROGRAM
    kinds = {
        kind: program.locator(f".{kind}").all_text_contents()
        for kind in ("word", "name", "comment", "string", "number")
    }
    assert kinds == {
        "word": ["def", "return", "if", "else", "None"],
        "name": ["add"],
        "comment": ["# both"],
        "string": ['"x"'],
        "number": ["41"],
    }


def test_keys(opened):
    page = opened()
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.id") == "filter-text"
    page.keyboard.type("jk")  # letters in a field are letters
    counted(page, "0 of 204")
    page.fill("#filter-text", "")
    counted(page, "204 of 204")
    page.keyboard.press("Escape")
    for key in ("j", "ArrowDown", "k"):
        page.keyboard.press(key)
    assert page.locator(".row.current b").text_content() == "odd"
    page.keyboard.press("Enter")
    page.locator("#group").wait_for()
    assert page.locator("#group-title").text_content() == "odd"
    page.keyboard.press("j")
    expect(page.locator("#group-title")).to_have_text("needle")
    page.keyboard.press("l")
    page.keyboard.press("ArrowRight")
    assert page.evaluate("document.activeElement.getAttribute('aria-label')") == "rollout 1, wrong answer"
    page.keyboard.press("Escape")
    page.locator("#group").wait_for(state="hidden")
    page.keyboard.press("End")
    assert page.locator(".row.current b").text_content() == "held"
    assert page.locator(".row").count() < 30  # only what is on screen


def test_nothing_that_a_model_wrote_runs(opened):
    page = opened()
    page.select_option("#filter-run", "1")
    counted(page, "1 of 1 groups, 2 rollouts")
    page.locator(".row").click()
    page.locator(".member").nth(1).wait_for()
    assert page.locator("#group-title").text_content() == HOSTILE
    assert page.locator("#statement").text_content() == HOSTILE
    first, second = page.locator(".member").all()
    assert [pre.text_content() for pre in first.locator("pre").all()] == [HOSTILE] * 3
    assert [pre.text_content() for pre in second.locator("pre").all()] == [HOSTILE]
    assert page.locator("#rollouts :is(img, script, iframe, a)").count() == 0
    assert page.locator("#charts a").count() == page.locator("#charts :is(img, script)").count() == 0
    page.wait_for_timeout(300)  # for an image that fails to load


def test_narrow_and_dark(opened):
    page = opened(width=390, height=844, scheme="dark")
    back = "getComputedStyle(document.body).backgroundColor"
    assert page.evaluate(back) == "rgb(21, 23, 26)"
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.locator(".row", has_text="sum").click()
    page.locator(".member").nth(3).wait_for()
    assert page.locator("#group").bounding_box() == {"x": 0, "y": 0, "width": 390, "height": 844}
    page.click("#close")
    page.locator("#group").wait_for(state="hidden")
    page.click("#theme")  # light, whatever the system says
    assert page.evaluate(back) == "rgb(247, 247, 245)"
    page.reload()
    page.wait_for_selector("html[data-ready]")
    assert page.evaluate("document.documentElement.dataset.theme") == "light"
