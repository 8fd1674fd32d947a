"""The page in headless Chromium: a quiet console, nothing from elsewhere, numbers that match the ledger."""

import html
import re
import shutil
import subprocess

import pytest
from running_gateway import ask, running, settled, tables

from corollary.serving._page import POLICY, page

CHROMIUM = shutil.which("chromium")
QUIET = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--hide-scrollbars",
    "--enable-logging=stderr",
]  # fmt: skip
in_a_browser = pytest.mark.skipif(CHROMIUM is None, reason="no `chromium` on the path")


def visit(base, tmp_path, *, width=1280, wait=6000):
    """The document as the browser made it, and what its console said."""
    command = [CHROMIUM, *QUIET, f"--user-data-dir={tmp_path}/profile", f"--window-size={width},1200",
               f"--virtual-time-budget={wait}", "--dump-dom", base + "/"]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


def rows(dom, name):
    """The cells of a table, row by row."""
    inside = re.search(rf'<table id="{name}">(.*?)</table>', dom, re.DOTALL)[1]
    lines = re.findall(r"<tr>(.*?)</tr>", inside, re.DOTALL)
    return [[html.unescape(c) for c in re.findall(r"<t[hd]>(.*?)</t[hd]>", line, re.DOTALL)] for line in lines]


@in_a_browser
def test_the_page_shows_the_ledgers_numbers_and_says_nothing_on_the_console(mock, router_folder, tmp_path):
    config = {"upstreams": tables(mock.url), "budgets": [{"money": 1.0, "window": "1d"}]}
    with running(config, router_folder, path=tmp_path) as (base, gateway):
        for _ in range(3):
            ask(base, model="corollary/auto")
        ask(base, model="large")
        mock.mode = "reset"
        ask(base, model="large")
        found = settled(gateway, 5)
        dom, console = visit(base, tmp_path)
    assert console == []
    assert 'data-shown="yes"' in dom
    by_model = {r[0]: r for r in rows(dom, "models")[1:]}
    for name, told in found["models"].items():
        assert by_model[name][1:3] == [str(told.get("requests", 0)), str(told["calls"])]
        assert float(by_model[name][3]) == pytest.approx(told["money"], rel=1e-5)
        assert by_model[name][4:6] == [str(told["tokens_in"]), str(told["tokens_out"])]
    charged, flying = re.search(
        r"<dt>charged</dt><dd>([\d.e-]+) money</dd><dt>of it.*?</dt><dd>([\d.e-]+)</dd>", dom
    ).groups()
    assert float(charged) == pytest.approx(found["charged"], rel=1e-5)
    assert float(flying) == pytest.approx(found["in_flight"], rel=1e-5)
    [budget] = rows(dom, "budgets")[1:]
    assert float(budget[1].split()[0]) == pytest.approx(1.0 - found["charged"], rel=1e-5)
    assert rows(dom, "keys")[1][:2] == ["local", "5"]
    assert "none: no certificate is served" in dom
    assert [r[2] for r in rows(dom, "latest")[1:]].count("502") == 1


@in_a_browser
@pytest.mark.parametrize("width", [500, 1280])
def test_the_page_fits(mock, tmp_path, width):
    with running({"upstreams": tables(mock.url)}, path=tmp_path) as (base, _):
        ask(base)
        place = base.removeprefix("http://")
        shot = tmp_path / "page.png"
        command = [CHROMIUM, *QUIET, f"--user-data-dir={tmp_path}/profile", f"--window-size={width},1200",
                   "--virtual-time-budget=4000", f"--screenshot={shot}", f"http://{place}/"]  # fmt: skip
        subprocess.run(command, capture_output=True, timeout=120, check=True)
        assert shot.stat().st_size > 5000


@in_a_browser
def test_behind_keys_the_page_asks_for_one_before_it_asks_the_gateway(mock, tmp_path):
    from corollary.serving import GatewayLedger
    from corollary.serving._keys import add_key

    book = GatewayLedger(f"sqlite:///{tmp_path}/gateway.sqlite")
    add_key(book.engine, "ann")
    book.close()
    with running({"upstreams": tables(mock.url)}, path=tmp_path) as (base, _):
        dom, console = visit(base, tmp_path)
    assert console == []
    assert "data-shown" not in dom
    assert not re.search(r'<section id="door" hidden', dom)


def test_the_page_needs_nothing_from_elsewhere():
    text = page(locked=False)
    assert not re.search(r"(src|href)=\"(https?:)?//", text)
    assert "innerHTML" not in text  # what the ledger says is text, never markup
    assert "unsafe" not in POLICY
    assert "default-src 'none'" in POLICY
