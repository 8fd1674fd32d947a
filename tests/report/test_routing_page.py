"""The page of a router: figures of metrics.json, the three plots, and what is left out."""

import json
import re

import numpy as np
import pytest

from corollary.deferral.routing import RoutingLog
from corollary.deferral.routing._fit import fit_run
from corollary.errors import InvalidFileError
from corollary.report import write_report
from corollary.runs import RunFolder, write_json


def log(n=600, *, models=("small", "large"), gaps=False, seed=0):
    rng = np.random.default_rng(seed)
    hard = rng.random(n) < 0.4
    quality = np.stack([rng.random(n) < 0.9 - 0.7 * hard * (k == 0) for k in range(len(models))], 1).astype(float)
    if gaps:
        quality[np.arange(n), rng.integers(len(models), size=n)] = np.nan
    prompts = tuple(f"{'prove it' if h else 'say hello'} <b>{i}</b>" for i, h in enumerate(hard))
    return RoutingLog(prompts, models, quality, np.tile(np.linspace(0.1, 1.0, len(models)), (n, 1)))


def page_of(folder, data, **options):
    with RunFolder(folder, {"verb": "route", "seed": 0}) as run:
        fit_run(run, data, repeats=10, **options)
    return write_report(folder).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "router"
    return folder, page_of(folder, log(1600), budget=0.6)


def headings(page):
    return re.findall(r"<h2[^>]*>([^<]*)</h2>", page)


def test_sections_and_figures(made):
    folder, page = made
    expected = ["Certificate", "Against floors and ceilings", "Who gets what", "Plots", "Settings and provenance"]
    assert headings(page) == expected
    metrics = json.loads((folder / "metrics.json").read_text())
    for name, found in metrics["routers"].items():
        assert f'<th scope="row">{name}</th>' in page
        assert f"{found['aiq']:.4g}" in page
    for share in metrics["policy"]["share"].values():
        assert f"{100 * share:.1f} %" in page
    for title in ("Cost and quality", "Calibration"):
        assert f'<title id="{re.sub("[^a-z]+", "-", title.lower())}-t">{title}</title>' in page
    for name in ("this policy", "single models", "oracle", "perfectly calibrated"):
        assert name in page


def test_the_policy_shown_is_the_certified_one(made):
    folder, _ = made
    policy = json.loads((folder / "metrics.json").read_text())["policy"]
    price = json.loads((folder / "router" / "router.json").read_text())["price"]
    assert policy["price"] == price
    assert policy["cost"] <= 0.6


def test_estimates_are_calibrated_in_this_world(made):
    found = json.loads((made[0] / "metrics.json").read_text())["calibration"]
    for model in ("small", "large"):
        gap = np.abs(np.array(found[model]["worth"]) - found[model]["quality"])
        assert gap.mean() < 0.12  # bins of 64 rows: a standard error of .05


def test_many_models_without_targets(tmp_path):
    page = page_of(tmp_path / "run", log(400, models=("a", "b", "c")))
    assert "no certificate" in page.lower()
    assert "APGR" not in page


def test_a_log_with_gaps_leaves_out_what_was_not_measured(tmp_path):
    page = page_of(tmp_path / "run", log(800, gaps=True), budget=0.6)
    assert "Who gets what" not in headings(page)
    assert "Settings and provenance" in headings(page)


def test_files_that_do_not_fit(tmp_path):
    folder = tmp_path / "run"
    page_of(folder, log(400))
    metrics = json.loads((folder / "metrics.json").read_text())
    metrics["routers"]["router"]["frontier"] = [{"cost": 1.0}]
    write_json(folder / "metrics.json", metrics)
    with pytest.raises(InvalidFileError, match="do not fit"):
        write_report(folder)
