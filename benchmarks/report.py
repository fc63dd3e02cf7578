"""Is a report of 100,000 rollouts usable: how long does it take to write, to load and to open a group of?

    .venv/bin/python benchmarks/report.py                                 # 100 steps of 125 groups of 8
    .venv/bin/python benchmarks/report.py --screenshots docs/images      # pictures of a smaller one, nothing measured

The run is made up, in the form of a real one (`report_run.py`), with texts as a model of some billion parameters writes
them: 2.2 kB of reasoning and 0.8 kB of program on average. The page is opened from disk in a fresh Chromium, `LOADS`
times; the median counts. `list_s` lasts until groups are listed and can be filtered, `load_s` until the browser has
read the whole file, `group_s` from the click to the rollouts of a group whose texts were not decoded yet, `search_s`
for one search through all texts. Writes `report.json`. Exits with 1 when the list takes more than `--wanted-s`.
"""

import argparse
import io
import json
import resource
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Page, sync_playwright
from provenance import RESULTS, origin
from report_run import MadeUpRun
from rich.console import Console

from pgrpo_ray.data.recorded_run import RecordedRun
from pgrpo_ray.report.page import write_report

LOADS = 5
VIEWS = {"light": (1280, 960), "dark": (1280, 960), "narrow": (390, 844)}
"""Screenshot -> width and height of the window."""


def main() -> None:
    """Measure, or take pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--groups", type=int, default=125)
    parser.add_argument("--wanted-s", type=float, default=3)
    parser.add_argument("--out", type=Path, default=RESULTS / "report.json")
    parser.add_argument("--screenshots", type=Path, metavar="FOLDER")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as home, sync_playwright() as playwright:
        path = shutil.which("chromium") or shutil.which("google-chrome")
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        if arguments.screenshots:
            take_pictures(browser, Path(home), arguments.screenshots)
            return
        measured = measure(browser, Path(home), arguments.steps, arguments.groups)
    command = f"benchmarks/report.py --steps {arguments.steps} --groups {arguments.groups}"
    arguments.out.write_text(json.dumps({**origin(), "command": command, **measured}, indent=2) + "\n")
    print(arguments.out.read_text())
    if measured["list_s"] > arguments.wanted_s:
        raise SystemExit(f"the list takes {measured['list_s']:.1f} s, wanted {arguments.wanted_s:g}")


def measure(browser: Browser, home: Path, steps: int, groups: int) -> dict[str, Any]:
    """Write a run and its report, and open that."""
    folder = MadeUpRun(home / "made-up", steps=steps, groups=groups).write()
    run, out = RecordedRun(folder), home / "report.html"
    texts = run.rollouts(1, ["thinking", "program"])
    started = time.monotonic()
    write_report([folder], out, None, 10**9, Console(file=io.StringIO()))
    written = time.monotonic() - started
    loads = [load(browser, out) for _ in range(LOADS)]
    return {
        "training_rollouts": sum(run.rollouts(step, ["reward"]).num_rows for step in run.steps),
        "bytes_of_thinking_mean": round(sum(len(text or "") for text in texts["thinking"].to_pylist()) / len(texts)),
        "bytes_of_program_mean": round(sum(len(text or "") for text in texts["program"].to_pylist()) / len(texts)),
        "run_mib": round(sum(file.stat().st_size for file in folder.rglob("*.arrow")) / 2**20, 1),
        "report_mib": round(out.stat().st_size / 2**20, 1),
        "write_s": round(written, 1),
        "peak_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        "loads": LOADS,
        **{name: round(statistics.median(one[name] for one in loads), 3) for name in loads[0]},
    }


def load(browser: Browser, out: Path) -> dict[str, float]:
    """Open the report in a fresh context; return how long things took, seconds."""
    context = browser.new_context(viewport={"width": 1280, "height": 960}, offline=True)
    page = context.new_page()
    # The page's own clock, which starts with the navigation; polled every frame.
    page.add_init_script(
        "const watch = () => document.querySelector('.row') ? (window.listed = performance.now()) : "
        "requestAnimationFrame(watch); requestAnimationFrame(watch);"
    )
    page.goto(out.as_uri(), wait_until="load", timeout=120_000)
    page.wait_for_selector("html[data-ready]", timeout=120_000)
    found = {
        "list_s": page.evaluate("window.listed") / 1e3,
        "load_s": page.evaluate("performance.getEntriesByType('navigation')[0].loadEventEnd") / 1e3,
    }
    page.locator("#list").evaluate("list => { list.scrollTop = list.scrollHeight / 2; }")
    page.wait_for_timeout(300)
    found["group_s"] = seconds_until(
        page, "document.querySelectorAll('.row')[5].click()", "document.querySelector('.member')"
    )
    field = "document.getElementById('filter-text')"
    fill = f"{field}.value = 'in no text'; {field}.dispatchEvent(new Event('input'))"
    found["search_s"] = seconds_until(page, fill, "!document.getElementById('none').hidden")
    context.close()
    return found


def seconds_until(page: Page, action: str, condition: str) -> float:
    """Run `action` in the page and wait until `condition` holds."""
    return page.evaluate(
        f"new Promise((done) => {{ const began = performance.now(); {action};"
        f" const look = () => ({condition}) ? done((performance.now() - began) / 1000) : requestAnimationFrame(look);"
        " look(); })"
    )


def take_pictures(browser: Browser, home: Path, folder: Path) -> None:
    """Write a small report's pictures to `folder`."""
    run = MadeUpRun(home / "made-up", steps=40, groups=32, text_scale=0.4).write()
    write_report([run], home / "report.html", None, 10**9, Console(file=io.StringIO()))
    folder.mkdir(parents=True, exist_ok=True)
    for name, (width, height) in VIEWS.items():
        scheme = "dark" if name == "dark" else "light"
        context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme, offline=True)
        page = context.new_page()
        page.goto((home / "report.html").as_uri())
        page.wait_for_selector("html[data-ready]")
        if name == "light":
            page.wait_for_selector("#plot-2.drawn svg")
        else:
            page.locator(".row").nth(2).click()
            page.locator(".member").nth(2).wait_for()
            page.evaluate("document.getElementById('rollouts').scrollIntoView()")
        page.wait_for_timeout(1000)
        page.screenshot(path=folder / f"report-{name}.png")
        context.close()


if __name__ == "__main__":
    main()
