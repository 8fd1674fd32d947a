"""What the page of a run says, what it leaves out, and what it refuses."""

import importlib.util
import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from itertools import pairwise

import numpy as np
import pytest
from report_runs import DOMAINS, composed_run

from corollary.certificates import load_certificate
from corollary.errors import InvalidFileError, InvalidInputError, MissingExtraError
from corollary.report import Run, Section, register_section, write_report
from corollary.report._trust import readable
from corollary.runs import RunFolder, read_tensors, write_json, write_tensors


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return composed_run(tmp_path_factory.mktemp("runs") / "demo")


@pytest.fixture(scope="module")
def page(run):
    return write_report(run).read_text(encoding="utf-8")


def headings(page):
    return re.findall(r"<h2[^>]*>([^<]*)</h2>", page)


def text(page):
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", page.split("</style>", 1)[1]))


def test_sections_in_order(page):
    assert headings(page) == [
        "Certificate",
        "Bits per byte",
        "Plots",
        "Which expert is trusted, byte by byte",
        "Least favourable mixture",
        "Settings and provenance",
    ]


def test_separable_domains_are_told_first(tmp_path):
    page = write_report(composed_run(tmp_path / "run", separable=True)).read_text()
    assert headings(page)[0] == "Before you use this"
    assert "nearly separable" in text(page)
    assert "within 0.012 bits per byte of" in text(page)


def test_where_the_posterior_wins_the_page_says_so(tmp_path):
    run = composed_run(tmp_path / "run")
    metrics = json.loads((run / "metrics.json").read_text())
    metrics["separable"]["bayes_wins"] = True
    metrics["bits_per_byte"]["Bayes posterior"]["prose"] = metrics["bits_per_byte"]["composed"]["prose"] - 0.1
    write_json(run / "metrics.json", metrics)
    assert "On prose it is at least as good as the composed model: use it there" in text(write_report(run).read_text())


def test_every_figure_of_the_table_is_there(run, page):
    metrics = json.loads((run / "metrics.json").read_text())
    for method, row in metrics["bits_per_byte"].items():
        for value in row.values():
            assert f"{value:.3f}" in page, method
    for drawn in (d for m, d in metrics["random_mixtures"].items() if m not in DOMAINS):
        assert f"{drawn['mean']:.3f}" in page


def test_best_of_each_column_is_marked_and_the_oracle_is_not(page):
    rows = re.findall(r"<tr( class=\"\w+\")?><th scope=\"row\">([^<]*)</th>\s*((?:<td[^>]*>[^<]*</td>\s*)+)", page)
    cells = {name: re.findall(r"<td class=\"([^\"]*)\">([^<]*)</td>", tail) for _, name, tail in rows}
    oracle = cells.pop("own expert (needs the label)")
    assert not any("best" in kind for kind, _ in oracle)
    methods = [c for n, c in cells.items() if n not in DOMAINS and len(c) == len(oracle)]
    assert len(methods) == 9
    for column in zip(*methods, strict=True):
        least = min(float(v) for _, v in column)
        assert [float(v) == least for _, v in column] == ["best" in kind for kind, _ in column]


def test_certificate_is_checked_while_writing(run, page):
    certificate, evidence = load_certificate(run)
    report = certificate.check(**evidence)
    assert report.reason in text(page)
    assert page.count('class="status HOLDS"') == 1 + len(certificate.parts)
    for claim in certificate.claims:
        assert claim.name in page
    assert certificate.parts[0].digest["evidence"] in page
    assert "corollary verify ." in page


def test_unchecked_assumptions_come_before_checked_ones_and_claims(page):
    card = page[page.index("gating.every_mixture") :]
    where = [card.index(s) for s in ("not checked", "was checked", "from the evidence")]
    assert where == sorted(where)


def test_vacuous_claims_are_greyed(page):
    greyed = re.findall(r'<tr class="vacuous">(.*?)</tr>', page, flags=re.DOTALL)
    assert len(greyed) == 1
    assert "holds, but says nothing" in greyed[0]


def test_edited_certificate_shows_as_violated(tmp_path):
    run = composed_run(tmp_path / "run")
    path = run / "certificate.json"
    path.write_text(path.read_text().replace('"rhs": 0.01', '"rhs": 0.02'))
    page = write_report(run).read_text()
    assert 'class="status VIOLATED"' in page
    assert 'class="status HOLDS"' not in page


def test_missing_evidence_shows_as_undecided(tmp_path):
    run = composed_run(tmp_path / "run")
    (run / "certificate.safetensors").unlink()
    assert 'class="status UNDECIDED"' in write_report(run).read_text()


def test_four_plots_with_titles_and_descriptions(page):
    plots = re.findall(r'<svg class="plot" role="img" aria-labelledby="([^"]*)"', page)
    assert len(plots) == 4
    for name in " ".join(plots).split():
        assert len(re.findall(rf'id="{name}"', page)) == 1


def test_curves_end_at_the_worst_domain(run, page):
    metrics = json.loads((run / "metrics.json").read_text())
    said = re.search(r"composed model: worst mixture ([\d.]+)", page)[1]
    assert float(said) == pytest.approx(metrics["worst_domain"]["composed"], abs=5e-4)


def test_no_duplicate_ids(page):
    found = re.findall(r'\bid="([^"]*)"', page)
    assert len(found) == len(set(found))
    assert set(re.findall(r'href="#([^"]*)"', page)) | set(re.findall(r"url\(#([^)]*)\)", page)) <= set(found)


class Wellformed(HTMLParser):
    """Opening and closing tags match."""

    void = frozenset(("meta", "link", "br", "line"))

    def __init__(self):
        super().__init__()
        self.open, self.external = [], []

    def handle_starttag(self, tag, attrs):
        self.external += [
            v for n, v in attrs if n in ("src", "href", "xlink:href") and not v.startswith(("#", "data:"))
        ]
        if tag not in self.void:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in self.void:
            assert self.open.pop() == tag, (tag, self.getpos())


def test_well_formed_and_self_contained(page):
    parser = Wellformed()
    parser.feed(page)
    assert not parser.open
    assert not parser.external
    assert "<script" not in page
    assert "@import" not in page
    assert not re.search(r"url\((?!#)", page)


def test_accessible(page):
    assert '<html lang="en">' in page
    levels = [int(level) for level in re.findall(r"<h([1-6])", page)]
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    assert page.count("<table>") == len(
        re.findall(r'<div class="scroll" role="region" aria-label="[^"]+" tabindex="0">', page)
    )
    assert page.count("<svg") == page.count('role="img"') + page.count('aria-hidden="true"><line')


def luminance(colour):
    parts = [float(c) / 255 for c in colour.split()]
    return np.dot(
        [0.2126, 0.7152, 0.0722], [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    )


def contrast(one, other):
    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_contrast_of_text_and_lines(page, scheme):
    style = page.split("<style>")[1].split("</style>")[0]
    variables = [dict(re.findall(r"--(\w+): ([\d ]+);", block)) for block in re.findall(r":root \{([^}]*)\}", style)]
    palette, words = [v for v in variables if "c0" in v][scheme], [v for v in variables if "ink" in v][scheme]
    for name in ("ink", "soft", "link", "good", "bad", "open"):
        assert min(contrast(words[name], words[ground]) for ground in ("paper", "panel")) >= 4.5, name
    for name, colour in palette.items():
        assert contrast(colour, words["paper"]) >= 3, name  # lines and bars
        ground = [
            0.42 * float(c) + 0.58 * float(p) for c, p in zip(colour.split(), words["paper"].split(), strict=True)
        ]
        assert contrast(" ".join(map(str, ground)), words["ink"]) >= 4.5, name  # the coloured text at its strongest


def test_same_run_same_bytes(run, tmp_path):
    # a second process: nothing may depend on hash seeds, dates or the order of what was drawn before
    code = "import sys, pathlib, corollary.report as r; r.write_report(sys.argv[1], pathlib.Path(sys.argv[2]))"
    subprocess.run([sys.executable, "-c", code, str(run), str(tmp_path / "second.html")], check=True)
    write_report(run, tmp_path / "first.html")
    assert (tmp_path / "first.html").read_bytes() == (tmp_path / "second.html").read_bytes()


def test_page_holds_no_path_of_the_machine(page, tmp_path_factory):
    assert str(tmp_path_factory.getbasetemp()) not in page


NASTY = ('<script>alert("1")</script>', "a & b'\"", "$x^{$")


def test_names_and_text_from_outside_are_escaped(tmp_path):
    run = composed_run(tmp_path / "<b>run", domains=NASTY, text="</pre><script>alert(2)</script>\x00\x1b é" * 4)
    page = write_report(run).read_text(encoding="utf-8")
    assert "<script" not in page
    assert "<b>" not in page
    assert page.count("</pre>") == 2
    assert "&lt;script&gt;" in page
    assert "\x00" not in page
    assert "\x1b" not in page
    parser = Wellformed()
    parser.feed(page)
    assert not parser.open


@pytest.mark.parametrize(
    ("gone", "heading", "said"),
    [
        ("stages/trust.safetensors", "Which expert is trusted, byte by byte", None),
        ("stages/robust.safetensors", None, "The robust gate converges"),
        ("stages/evaluation.safetensors", None, "Worst case over all mixtures"),
        ("model/gate/history.safetensors", None, "Training of the causal gate"),
    ],
)
def test_what_is_missing_is_left_out(tmp_path, page, gone, heading, said):
    run = composed_run(tmp_path / "run")
    (run / gone).unlink()
    without = write_report(run).read_text()
    if heading:
        assert heading in headings(page)
        assert heading not in headings(without)
    if said:
        assert said in page
        assert said not in without


def test_histories_may_be_absent(tmp_path):
    run = composed_run(tmp_path / "run")
    write_tensors(run / "stages/robust.safetensors", {"mixture": np.full(3, 1 / 3)})
    assert "The robust gate converges" not in write_report(run).read_text()


def test_a_gate_without_dual_value_shows_its_worst_domain(tmp_path):
    run = composed_run(tmp_path / "run")
    path = run / "stages/robust.safetensors"
    kept, unknown = read_tensors(path), np.full(40, np.nan)
    worst = np.linspace(0.002, -0.001, 40)
    write_tensors(path, kept | {"history_primal": unknown, "history_dual": unknown, "history_worst": worst})
    assert "from 2.000 to -1.000 thousandths of a nat per byte" in write_report(run).read_text()


def test_no_mixed_document(tmp_path):
    run = composed_run(tmp_path / "run")
    empty = {"tokens": np.zeros(0, np.uint8), "weights": np.zeros((0, 3), np.float32)}
    write_tensors(run / "stages/trust.safetensors", empty)
    assert "Which expert" not in write_report(run).read_text()


def test_labels_may_be_absent(tmp_path):
    run = composed_run(tmp_path / "run")
    kept = read_tensors(run / "stages/trust.safetensors")
    write_tensors(run / "stages/trust.safetensors", {n: kept[n] for n in ("tokens", "weights")})
    page = write_report(run).read_text()
    assert "Underline" not in page
    assert 'class="trust"' in page


def test_coloured_text_is_the_document(run, page):
    body = re.search(r'<pre class="trust"[^>]*>(.*?)</pre>', page, flags=re.DOTALL)[1]
    pieces = re.findall(
        r'<span class="c(\d+)[^"]*" style="--w:([\d.]+)" title="[^"]*">(.*?)</span>', body, flags=re.DOTALL
    )
    stored = read_tensors(run / "stages/trust.safetensors")
    assert "".join(p[2] for p in pieces) == stored["tokens"].tobytes().decode()
    first = stored["weights"][0]
    assert int(pieces[0][0]) == first.argmax()
    assert float(pieces[0][1]) == pytest.approx(first.max(), abs=0.051)  # strengths are told in tenths


@pytest.mark.parametrize(
    "raw", [b"", b"plain", "é€😀\n\t".encode(), bytes(range(256)), b"\xe2\x82a\xf0\x9f", b"\xff" * 5]
)
def test_readable_keeps_places(raw):
    texts, starts = readable(raw)
    assert len(texts) == len(starts)
    assert starts == sorted(starts)
    assert all(0 <= s < len(raw) for s in starts)
    visible = raw.decode("utf-8", "replace")
    assert len(texts) == len(visible)
    assert all(a == b for a, b in zip(texts, visible, strict=True) if b.isprintable() or b in "\n\t")


@pytest.mark.parametrize("verb", ["fit", "demo", ""])
def test_any_run_folder_gets_a_page(tmp_path, verb):
    config = {"seed": 3, "budget": 0.25} | ({"verb": verb} if verb else {})
    with RunFolder(tmp_path / "run", config) as folder:
        nested = {
            "accuracy": 0.75,
            "per class": {"a": {"f1": 0.5, "n": 3}, "b": {"f1": 0.25}},
            "path": [1.5, 2.5],
            "flag": True,
        }
        write_json(folder.inside("metrics.json"), nested)
    page = write_report(tmp_path / "run").read_text()
    assert headings(page) == ["Certificate", "Figures", "Settings and provenance"]
    for said in ("no certificate", "0.75", "per class", "f1", "0.25", "2.5", "yes"):
        assert said in page


def test_config_alone_is_enough(tmp_path):
    RunFolder(tmp_path / "run", {"verb": "fit"}).close()
    assert headings(write_report(tmp_path / "run").read_text()) == ["Certificate", "Settings and provenance"]


def test_other_place(run, tmp_path):
    target = write_report(run, tmp_path / "deep" / "page.html")
    assert target == tmp_path / "deep" / "page.html"
    assert target.read_bytes() == write_report(run).read_bytes()


def break_metrics_shape(run):
    write_json(run / "metrics.json", {"bits_per_byte": {"composed": 3}})


def break_trust_shape(run):
    write_tensors(
        run / "stages/trust.safetensors", {"tokens": np.zeros(5, np.uint8), "weights": np.zeros((4, 3), np.float32)}
    )


def break_trust_nan(run):
    weights = np.full((5, 3), np.nan, np.float32)
    write_tensors(run / "stages/trust.safetensors", {"tokens": np.zeros(5, np.uint8), "weights": weights})


def break_labels(run):
    kept = read_tensors(run / "stages/trust.safetensors")
    write_tensors(run / "stages/trust.safetensors", kept | {"label": kept["label"] + np.int8(9)})


def break_evaluation(run):
    kept = read_tensors(run / "stages/evaluation.safetensors")
    write_tensors(run / "stages/evaluation.safetensors", kept | {"bits": kept["bits"][:, :4]})


BREAK = {
    "no run": lambda run: (run / "config.toml").unlink(),
    "config": lambda run: (run / "config.toml").write_text("seed = = 3"),
    "binary config": lambda run: (run / "config.toml").write_bytes(b"\xff\xfe"),
    "metrics": lambda run: (run / "metrics.json").write_text("{"),
    "metrics, a list": lambda run: (run / "metrics.json").write_text("[1]"),
    "metrics, other shape": break_metrics_shape,
    "certificate": lambda run: (run / "certificate.json").write_text('{"a": 1}'),
    "evidence": lambda run: (run / "certificate.safetensors").write_bytes(b"x" * 20),
    "evaluation, cut": lambda run: (run / "stages/evaluation.safetensors").write_bytes(b"\0" * 9),
    "evaluation, other methods": break_evaluation,
    "trust, other shape": break_trust_shape,
    "trust, NaN": break_trust_nan,
    "trust, labels": break_labels,
}


@pytest.mark.parametrize("name", BREAK)
def test_broken_runs_end_with_one_sentence_and_no_page(tmp_path, name):
    run = composed_run(tmp_path / "run")
    BREAK[name](run)
    with pytest.raises(InvalidFileError) as caught:
        write_report(run)
    assert "\n" not in str(caught.value)
    assert str(run) in str(caught.value)
    assert not (run / "report.html").exists()


def test_foreign_folder(tmp_path):
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(InvalidFileError, match="not a run folder"):
        write_report(tmp_path)
    with pytest.raises(InvalidFileError, match="not a run folder"):
        write_report(tmp_path / "absent")


@pytest.mark.parametrize("absent", ["jinja2", "matplotlib"])
def test_without_the_extra(run, monkeypatch, absent):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == absent else find(name, *a))
    with pytest.raises(MissingExtraError, match=rf"`{absent}`.*corollary\[report\]"):
        write_report(run)


def test_sections_can_be_added_for_a_verb(tmp_path):
    section = register_section(Section("Queue", lambda run: f"<p>{len(run.config)} settings</p>", verbs=("test-verb",)))
    assert register_section(section) is section
    RunFolder(tmp_path / "run", {"verb": "test-verb"}).close()
    page = write_report(tmp_path / "run").read_text()
    assert headings(page) == ["Certificate", "Queue", "Settings and provenance"]
    assert "<p>1 settings</p>" in page
    with pytest.raises(InvalidInputError, match="Queue"):
        register_section(Section("Queue", lambda run: None, verbs=("test-verb",)))


def test_run_reads_files_only_when_asked(run):
    found = Run(run)
    assert (found.verb, found.config["seed"]) == ("demo", 0)
    assert found.arrays("stages/robust.safetensors", mixture=1)["mixture"].shape == (3,)
    assert found.arrays("stages/robust.safetensors", nothing=1) is None
    assert found.arrays("stages/absent.safetensors", mixture=1) is None
