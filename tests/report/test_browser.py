"""The page in a real browser: quiet console, no request beyond the file, no sideways scrolling on wide and narrow."""

import json
import re
import shutil
import subprocess

import pytest
from report_runs import composed_run

from corollary.report import write_report
from corollary.runs import RunFolder, write_json

CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no `chromium` on the path")
QUIET = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--enable-logging=stderr",
    "--virtual-time-budget=4000",
]
MEASURE = """<script>addEventListener("load", () => {
  const wide = [...document.querySelectorAll("body *")].filter(e => !e.closest(".scroll, pre, svg")
    && e.getBoundingClientRect().right > innerWidth + 0.5).map(e => e.tagName + "." + e.className);
  const shrunk = svg => svg.getBoundingClientRect().width / svg.viewBox.baseVal.width;
  const small = [...document.querySelectorAll("svg.plot text")].map(
    e => parseFloat(getComputedStyle(e).fontSize) * shrunk(e.ownerSVGElement));
  const told = {width: innerWidth, scroll: document.documentElement.scrollWidth, body: document.body.scrollWidth, wide,
    text: small.length ? Math.min(...small) : null,
    requests: performance.getEntriesByType("resource").map(r => r.name)};
  document.body.insertAdjacentHTML("beforeend", `<pre id="told">${JSON.stringify(told)}</pre>`);
});</script>"""


def open_page(path, width, profile, *options):
    """The DOM after loading, and what the console said."""
    command = [CHROMIUM, *QUIET, f"--user-data-dir={profile}", f"--window-size={width},900", *options, "--dump-dom"]
    done = subprocess.run([*command, path.as_uri()], capture_output=True, text=True, timeout=120, check=True)
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    plain = {
        "accuracy": 0.5,
        "table": {f"row {i}": {f"a long column name {j}": j / 7 for j in range(14)} for i in range(3)},
    }
    with RunFolder(folder / "plain", {"verb": "fit", "data": "x" * 300}) as run:
        write_json(run.inside("metrics.json"), plain)
    names = ("code", "prose", "numpydoc", "c", "json", "a-rather-long-name-without-any-space-in-it")
    return {
        "plain": folder / "plain",
        "composed": composed_run(folder / "composed", domains=names, separable=True, text="long" * 400),
    }


@pytest.mark.parametrize("width", [1280, 400])
@pytest.mark.parametrize("name", ["plain", "composed"])
def test_fits_and_stays_quiet(runs, name, width, tmp_path):
    page = write_report(runs[name]).read_text(encoding="utf-8")
    measured = tmp_path / "measured.html"
    policy = re.search(r'<meta http-equiv="Content-Security-Policy"[^>]*>', page)[
        0
    ]  # it forbids the script that measures
    # a frame of the asked width: headless windows are never narrower than 500 pixels
    measured.write_text(page.replace(policy, "").replace("</body>", MEASURE + "</body>"), encoding="utf-8")
    frame = tmp_path / "frame.html"
    frame.write_text(f'<iframe src="measured.html" style="width:{width}px;height:900px;border:0"></iframe>')
    told = measure(frame, width, tmp_path)
    assert told["width"] == width
    assert max(told["scroll"], told["body"]) <= width
    assert told["wide"] == []
    assert told["requests"] == []
    if name == "composed":
        assert told["text"] >= 8  # pixels of the smallest letter in a plot


def measure(frame, width, tmp_path):
    options = ("--allow-file-access-from-files", "--disable-web-security")
    lift = """<script>addEventListener("load", () => setTimeout(() => {
      document.title = frames[0].document.getElementById("told").textContent; }, 200));</script>"""
    frame.write_text(frame.read_text() + lift)
    dom, console = open_page(frame, max(width, 500) + 40, tmp_path / "profile", *options)
    assert console == []
    return json.loads(re.search(r"<title>(.*?)</title>", dom)[1].replace("&amp;", "&"))


@pytest.mark.parametrize("name", ["plain", "composed"])
def test_untouched_page_has_no_console_message(runs, name, tmp_path):
    dom, console = open_page(write_report(runs[name]), 1280, tmp_path / "profile")
    assert console == []
    assert "Settings and provenance" in dom
