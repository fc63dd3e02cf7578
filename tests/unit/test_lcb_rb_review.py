"""The review page: hostile text stays text, nothing is fetched, and in a real browser a person's decisions come out."""

import html
import io
import json
import re
import shutil
import subprocess
from dataclasses import replace

import pytest
from rich.console import Console

from pgrpo_ray.errors import DataError
from pgrpo_ray.jobs import lcb_rb_review
from pgrpo_ray.reward_model.lcb_rb import schema
from pgrpo_ray.reward_model.lcb_rb.agreement import read_decisions

TEXTS = ("id", "problem_id", "prompt", "difficulty", "chosen_program", "rejected_program", "chosen_sample", "policy")
PAIR = schema.ReasoningPair(
    **dict.fromkeys(TEXTS, "text"),
    chosen="Add both.",
    rejected="Guess.",
    chosen_verdict="passed",
    rejected_verdict="wrong_answer",
    rejected_sample="0/2",
    judge="none",
    decision="accept",
    judge_answers=(),
    prompt_hash="",
    sampling_seed=0,
    selection_seed=0,
    problems_hash="",
)
HOSTILE = (
    "</script><script>document.title = 'broken out'</script><!-- <script> \"quotes\" 'more' & \u2028 \ud800 `${1}`"
)
PAIRS = [
    replace(PAIR, id="1", chosen=HOSTILE, judge_answers=(HOSTILE,), chosen_program=HOSTILE),
    replace(PAIR, id="2", prompt=f"{HOSTILE} \U0001f600", rejected=f"worse {HOSTILE}"),
    replace(PAIR, id="3", problem_id=HOSTILE.replace("\ud800", "")),
]


def data_of(page):
    (block,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    return json.loads(block)


def test_text_of_models_is_data_and_nothing_else():
    page = lcb_rb_review.render(PAIRS, "a <b>title</b> & more", 0)
    assert page.count("<script") == page.count("</script>") == 2  # the data and the page's own
    assert "broken out'</script>" not in page
    assert html.escape("a <b>title</b> & more") in page
    shown = {pair["id"]: pair for pair in data_of(page)["pairs"]}
    assert HOSTILE in (shown["1"]["left"]["text"], shown["1"]["right"]["text"])
    assert shown["1"]["answers"] == [HOSTILE]


def test_nothing_is_fetched_and_only_the_pages_own_script_may_run():
    page = lcb_rb_review.render(PAIRS, "t", 0)
    assert not re.search(r"""(?:src|href)\s*=|@import|url\(""", page.replace("link.href =", ""))
    (policy,) = re.findall(r'content="(default-src[^"]*)"', page)
    assert "default-src 'none'" in policy
    assert re.search(r"script-src 'sha256-[\w+/]{43}='", html.unescape(policy))
    assert "unsafe-inline" not in policy.split("script-src")[1]


def test_sides_are_shuffled_by_the_seed_and_known_to_the_page():
    many = [replace(PAIR, id=str(at)) for at in range(40)]
    pairs = data_of(lcb_rb_review.render(many, "t", 0))["pairs"]
    sides = [pair["chosen"] for pair in pairs]
    assert 10 < sides.count("left") < 30
    assert all(pair[pair["chosen"]]["verdict"] == "passed" for pair in pairs)
    assert sides == [pair["chosen"] for pair in data_of(lcb_rb_review.render(many, "t", 0))["pairs"]]
    assert sides != [pair["chosen"] for pair in data_of(lcb_rb_review.render(many, "t", 1))["pairs"]]
    keys = {data_of(lcb_rb_review.render(many[:count], "t", 0))["key"] for count in (39, 40)}
    assert len(keys) == 2  # decisions about one file never show up in another's


def test_a_page_of_a_sample_is_written_whole(tmp_path):
    schema.write_pairs(tmp_path / "pairs.jsonl", [replace(PAIR, id=str(at)) for at in range(9)])
    out = tmp_path / "deep" / "review.html"
    assert lcb_rb_review.write_page(tmp_path / "pairs.jsonl", out, 4, 0, Console(file=io.StringIO())) == 4
    assert len(data_of(out.read_text())["pairs"]) == 4
    assert [path.name for path in out.parent.iterdir()] == ["review.html"]
    with pytest.raises(DataError):
        lcb_rb_review.write_page(out, out, None, 0, Console(file=io.StringIO()))


DRIVER = """
<script>
localStorage.clear();
const frame = document.createElement("iframe");
frame.src = "review.html";
frame.onload = () => {
  const page = frame.contentDocument, said = [], pairs = JSON.parse(page.getElementById("data").textContent).pairs;
  const press = (key) => page.dispatchEvent(new frame.contentWindow.KeyboardEvent("keydown", { key, bubbles: true }));
  const hidden = () => page.getElementById("result").hidden;
  said.push("hidden " + hidden());
  press(pairs[0].chosen === "left" ? "1" : "2");
  said.push("revealed " + !hidden(), page.querySelector(".passed .verdict").textContent);
  said.push("problem " + (page.getElementById("left").querySelector("pre").textContent === pairs[0].left.text));
  press("n");
  page.querySelector("[data-pick=none]").click();
  press("ArrowRight");
  press("0"); press("u"); press(pairs[2].chosen === "left" ? "2" : "1");
  said.push(page.getElementById("progress").textContent, "title " + page.title);
  const before = frame.contentWindow.lcbRbReview.csv();
  frame.onload = () => {
    said.push("kept " + (frame.contentWindow.lcbRbReview.csv() === before));
    const out = document.createElement("pre");
    out.textContent = said.join("|") + "\\n" + before;
    document.body.append(out);
    document.title = "done";
  };
  frame.contentWindow.location.reload();
};
document.addEventListener("DOMContentLoaded", () => document.body.append(frame));
</script><body></body>
"""


def test_in_a_browser(tmp_path):
    browser = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chromium-browser")
    if browser is None:
        pytest.skip("no Chromium on this machine")
    page = lcb_rb_review.render(PAIRS, "t", 0).encode("utf-8", "replace")
    (tmp_path / "review.html").write_bytes(page)
    (tmp_path / "driver.html").write_text(DRIVER)
    flags = "--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking --disable-sync"
    done = subprocess.run(
        [
            browser,
            *flags.split(),
            "--allow-file-access-from-files",
            f"--user-data-dir={tmp_path}/profile",
            "--virtual-time-budget=5000",
            "--dump-dom",
            f"file://{tmp_path}/driver.html",
        ],
        capture_output=True,
        text=True,
        timeout=120,
    )
    found = re.search(r"<pre>(hidden.*?)</pre>", done.stdout, re.DOTALL)
    assert found, done.stdout[-2000:] + done.stderr[-2000:]
    said, _, table = html.unescape(found[1]).partition("\n")
    first = "hidden true|revealed true|Its program: passed|problem true"
    assert said == f"{first}|3 of 3 decided, 1 accepted|title Review: t|kept true"
    (tmp_path / "decisions.csv").write_text(table)
    assert read_decisions(tmp_path / "decisions.csv") == {"1": "accept", "2": "reject", "3": "reject"}
