"""`benchmark.py report`: how large pages are, what they cost, and how soon they react."""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from lab.benchmark.recorded import WORD, drawn_picture, drawn_trace
from lab.browser import CHROMIUM, DRIVER, chromium, show
from lab.evaluation.report import check_writable, circumstances, write_json

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

CASES = {
    "77 tokens, 512²": (77, 512, 1, (64, 32, 16, 8)),
    "77 tokens, 512², 50 steps": (77, 512, 50, (64, 32, 16, 8)),
    "512 tokens, 1024², 50 steps": (512, 1024, 50, (64, 64)),
}
"""Tokens, pixels a side, steps that are each recorded, and the sides of the sites' maps. FLUX has
57 sites of 64 × 64 places at 1024²; two are drawn, since a page holds as much of any number."""

REACTION = """
const done = arguments[arguments.length - 1];
const words = [...document.querySelectorAll(".word")].slice(0, arguments[0]);
const canvas = document.querySelector("canvas");
const times = [];
const next = (n) => {
  if (n === words.length) return done(times);
  const began = performance.now();
  words[n].dispatchEvent(new PointerEvent("pointerover", { bubbles: true, pointerType: "mouse" }));
  requestAnimationFrame(() => {
    canvas.getContext("2d").getImageData(0, 0, 1, 1);  // waits until all is drawn
    times.push(performance.now() - began);
    words[n].dispatchEvent(new PointerEvent("pointerout", { bubbles: true, pointerType: "mouse" }));
    setTimeout(() => next(n + 1), 30);
  });
};
next(0);
"""
"""Points at one word after the other; milliseconds from each event until its map is drawn."""


def report_command(
    limit: Annotated[int, typer.Option(min=1, help="Words that are pointed at.")] = 40,
    json: Annotated[Path | None, typer.Option("--json", help="Write the figures here.")] = None,
) -> None:
    """Size of a page, processor time to make it, and its reaction to a word that is pointed at.

    The reaction is measured in headless Chromium, without a graphics card, and left out without
    Chromium: processor time of the page's thread to light a word and to let go of it again, and
    by the wall clock from the event until the map is drawn (median and slowest).
    """
    if json is not None:
        check_writable(json)
    from t2i_xattn.showing.report.report import report

    table = Table(title="Pages of drawn runs")
    names = ("run", "words", "page, MB", "made in, CPU s", "CPU ms a word", "wall ms", "slowest")
    for name in names:
        table.add_column(name, justify="left" if name == "run" else "right")
    rows: dict[str, dict[str, Any]] = {}
    for name, (tokens, pixels, steps, sides) in CASES.items():
        trace = drawn_trace(" ".join([WORD] * (tokens - 2)), tokens, pixels, steps, sides)
        began = time.process_time()
        with tempfile.TemporaryDirectory() as folder:
            page = Path(folder) / "run.html"
            report(trace, drawn_picture(pixels)).save(page)
            seconds, size = time.process_time() - began, page.stat().st_size
            found = reaction(page, limit)
        rows[name] = {"words": tokens - 2, "bytes": size, "seconds": seconds}
        told = ("", "", "")
        if found is not None:
            busy, wall = found
            rows[name] |= {"cpu_ms_a_word": busy, "wall_ms": wall}
            told = (f"{busy:.0f}", f"{statistics.median(wall):.0f}", f"{max(wall):.0f}")
        table.add_row(name, str(tokens - 2), f"{size / 1e6:.2f}", f"{seconds:.1f}", *told)
    Console().print(table)
    if json is not None:
        write_json(json, {"rows": rows, "circumstances": circumstances()})


def reaction(page: Path, words: int) -> tuple[float, list[float]] | None:
    """Milliseconds of the page's thread for each of so many words, and by the wall clock from each
    event to the drawn map; None without Chromium."""
    if CHROMIUM is None or DRIVER is None:
        return None
    with chromium() as driver:
        driver.execute_cdp_cmd("Performance.enable", {"timeDomain": "threadTicks"})
        show(driver, page)
        before = _busy(driver)
        wall = [float(each) for each in driver.execute_async_script(REACTION, words)]
        return 1000 * (_busy(driver) - before) / len(wall), wall


def _busy(driver: Chrome) -> float:
    """Seconds that the page's thread has had of the processor."""
    metrics = driver.execute_cdp_cmd("Performance.getMetrics", {})["metrics"]
    return next(float(each["value"]) for each in metrics if each["name"] == "TaskDuration")
