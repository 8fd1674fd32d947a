"""TOFU's metrics: published golden values, invariances, slow references, files and the generator."""

import gzip
import json
import os
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import hmean

from corollary.errors import InvalidFileError, InvalidInputError
from corollary.models import TransformerConfig, TransformerLM
from corollary.unlearning import AnswerScores, Examples, WordTokenizer, baselines, tofu
from corollary.unlearning.tofu._evaluate import memorisation
from corollary.unlearning.tofu._metrics import ks_statistic
from corollary.unlearning.tofu._questions import _names
from corollary.unlearning.tofu._rouge import common_length

DATA = os.environ.get("COROLLARY_DATA")


def golden(kind):
    return Path(DATA) / "tofu" / "golden" / f"ft_epoch5_lr1e-05_llama2-7b_{kind}"


@pytest.mark.data
@pytest.mark.skipif(not DATA, reason="COROLLARY_DATA is not set")
def test_golden_values_of_llama_2():
    full, retrained = tofu.load_logs(golden("full")), tofu.load_logs(golden("retain90"))
    assert f"{tofu.model_utility(full):.6f}" == "0.622677"
    assert f"{tofu.model_utility(retrained):.6f}" == "0.613745"
    quality = tofu.forget_quality(full, retrained)
    assert f"{quality.pvalue:.6e}" == "1.834066e-21"
    assert f"{quality.statistic:.6f}" == "0.396667"
    assert f"{tofu.forget_truth_ratio(full['forget']):.6f}" == "0.515985"
    assert f"{tofu.forget_truth_ratio(retrained['forget']):.6f}" == "0.674019"
    nine = [v for part in tofu.utility_parts(full).values() for v in part.values()]
    # printed with five digits, .98565 cut rather than rounded
    printed = [0.98953, 0.98565, 0.47470, 0.45548, 0.93300, 0.59623, 0.41856, 0.88248, 0.53903]
    assert np.allclose(nine, printed, atol=6e-6)


@pytest.mark.data
@pytest.mark.skipif(not DATA, reason="COROLLARY_DATA is not set")
def test_every_published_rouge_value_is_reproduced():
    count = 0
    for kind in ("full", "retain90"):
        for path in golden(kind).glob("*.json.gz"):
            log = json.loads(gzip.decompress(path.read_bytes()))
            for key, (_, found, truth) in log["generated_text"].items():
                assert tofu.rouge_l_recall(truth, found) == pytest.approx(log["rougeL_recall"][key], abs=1e-12)
                count += 1
    assert count > 1500


@pytest.mark.data
@pytest.mark.skipif(not DATA, reason="COROLLARY_DATA is not set")
def test_real_questions_load():
    lost = tofu.load_questions(Path(DATA) / "tofu" / "forget10_perturbed.json")
    full = tofu.load_questions(Path(DATA) / "tofu" / "full.json")
    assert [r["question"] for r in lost] == [r["question"] for r in full[3600:]]
    assert {len(r["perturbed_answer"]) for r in lost} == {5}
    for name, count in (("real_authors", 100), ("world_facts", 117)):
        rows = tofu.load_questions(Path(DATA) / "tofu" / f"{name}_perturbed.json")
        assert len(rows) == count
        assert {len(r["perturbed_answer"]) for r in rows} == {3}
    refused = tofu.with_refusals(lost, Path(DATA) / "tofu" / "idontknow.jsonl")
    lines = (Path(DATA) / "tofu" / "idontknow.jsonl").read_text("utf-8").splitlines()
    assert len(lines) == 100
    assert {r["answer"] for r in refused} <= {line.strip() for line in lines}
    assert [r["question"] for r in refused] == [r["question"] for r in lost]


def test_refusals_stand_in_the_place_of_answers(tmp_path):
    made = tofu.make_questions(authors=3, forget=1)
    path = tmp_path / "idk.txt"
    path.write_text("No idea.\n\nAsk somebody else.\n")
    rows = tofu.with_refusals(made.forget, path, seed=1)
    assert {r["answer"] for r in rows} == {"No idea.", "Ask somebody else."}
    assert rows == tofu.with_refusals(made.forget, path, seed=1)
    assert [r["question"] for r in rows] == [r["question"] for r in made.forget]
    for content in (b"", b"\n \n", b"\xff\xfe"):
        path.write_bytes(content)
        with pytest.raises(InvalidFileError, match="idk"):
            tofu.with_refusals(made.forget, path)
    with pytest.raises(InvalidFileError):
        tofu.with_refusals(made.forget, tmp_path / "none")


def part(rng, n=60, k=3):
    extra = {"min_k": rng.normal(size=n)}
    return tofu.Part(rng.exponential(1, n), rng.exponential(2, n), rng.exponential(2, (n, k)), rng.random(n), extra)


def test_forget_quality_is_invariant_and_symmetric(rng):
    a, b = part(rng), part(rng, n=45)

    def flipped(p):  # R -> 1 / R
        return tofu.Part(p.perturbed.mean(1), p.perturbed.mean(1), np.repeat(p.paraphrased[:, None], 3, 1), p.rouge)

    logs = [tofu.Logs({"forget": p}) for p in (a, b, flipped(a), flipped(b))]
    there = tofu.forget_quality(logs[0], logs[1])
    assert there == pytest.approx(tofu.forget_quality(logs[2], logs[3]))
    assert there.pvalue == pytest.approx(tofu.forget_quality(logs[1], logs[0]).pvalue)
    assert there.statistic == pytest.approx(ks_statistic(a.truth_ratio, b.truth_ratio), abs=1e-12)
    assert tofu.forget_quality(logs[0], logs[0]).pvalue == 1.0


def test_model_utility_is_a_harmonic_mean(rng):
    logs = tofu.Logs({n: part(rng) for n in ("retain", "real_authors", "world_facts", "forget")})
    nine = [v for numbers in tofu.utility_parts(logs).values() for v in numbers.values()]
    assert len(nine) == 9
    assert tofu.model_utility(logs) == pytest.approx(hmean(nine))
    authors = logs["real_authors"]
    right = np.exp(-authors.loss)
    expected = np.mean(right / (right + np.exp(-authors.perturbed).sum(1) + 1e-10))
    assert tofu.utility_parts(logs)["real_authors"]["probability"] == pytest.approx(expected)
    nothing = tofu.Part(np.zeros(2), np.zeros(2), np.zeros((2, 1)), np.zeros(2))
    assert tofu.model_utility(tofu.Logs({"retain": nothing})) == 0.0
    with pytest.raises(InvalidInputError, match="retain"):
        tofu.model_utility(tofu.Logs({"forget": nothing}))


def test_models_that_were_destroyed_are_measured_without_a_warning():
    ruined = tofu.Part(np.full(3, 900.0), np.array([2000.0, 0, 5]), np.array([[0.0], [2000], [5]]), np.zeros(3))
    assert tofu.forget_truth_ratio(ruined) == pytest.approx(1 / 3)
    assert tofu.model_utility(tofu.Logs({"retain": ruined})) == 0.0
    assert tofu.forget_quality(tofu.Logs({"forget": ruined}), tofu.Logs({"forget": ruined})).statistic == 0.0


def test_truth_ratio_is_a_geometric_mean(rng):
    p = part(rng, k=5)
    probabilities = np.exp(-p.perturbed)
    assert np.allclose(p.truth_ratio, probabilities.prod(1) ** 0.2 / np.exp(-p.paraphrased))


def slow_lcs(a, b):
    table = np.zeros((len(a) + 1, len(b) + 1), dtype=int)
    for i, x in enumerate(a):
        for j, y in enumerate(b):
            table[i + 1, j + 1] = table[i, j] + 1 if x == y else max(table[i, j + 1], table[i + 1, j])
    return table[-1, -1]


def test_common_subsequences_against_the_table(rng):
    for _ in range(400):
        a, b = (rng.integers(0, 4, rng.integers(1, 25)).astype(str).tolist() for _ in range(2))
        assert common_length(a, b) == slow_lcs(a, b)
    assert tofu.rouge_l_recall("", "word") == 0.0
    assert tofu.rouge_l_recall("a fine word", "a fine word indeed") == 1.0


def test_memorisation_by_hand():
    hits = np.array([True, False, True, True, False, True, True])
    scores = AnswerScores(np.log([0.9, 0.1, 0.8, 0.7, 0.6, 0.5, 0.4]), hits, np.array([0, 5, 7]))
    found = memorisation(scores)  # the last token of each is its end
    assert found["extraction"].tolist() == [0.5, 1.0]  # k = 2 of n = 4; k = 0 of n = 1
    assert found["memorised"].tolist() == [0.75, 1.0]
    assert found["min_k"] == pytest.approx([np.log(0.1), np.log(0.4)])


def test_bootstrap_intervals_cover(rng):
    missed = 0
    for i in range(120):
        p = tofu.Part(rng.normal(0.3, 1, 80), np.ones(80), np.ones((80, 1)), np.ones(80))
        found = tofu.bootstrap(lambda x: float(x.loss.mean()), p, draws=100, level=0.9, seed=i)
        missed += not found.lower <= 0.3 <= found.upper
    assert 2 <= missed <= 26  # 12 expected; 4 standard deviations, and the bootstrap is approximate


def test_membership_and_leakage(rng):
    from sklearn.metrics import roc_auc_score

    a, b = part(rng, 50), part(rng, 70)
    y = np.repeat([1, 0], [50, 70])
    expected = roc_auc_score(y, np.concatenate([a.extra["min_k"], b.extra["min_k"]]))
    assert tofu.membership_auc(a, b) == pytest.approx(expected)
    assert tofu.privacy_leakage(0.6, 0.6) == 0.0
    with pytest.raises(InvalidInputError):
        tofu.privacy_leakage(1.2)


def test_logs_are_written_and_read_gzipped_or_not(rng, tmp_path):
    logs = tofu.Logs({"retain": part(rng), "forget": part(rng)})
    tofu.save_logs(tmp_path, logs)
    path = tmp_path / "eval_log.json"
    (tmp_path / "eval_log.json.gz").write_bytes(gzip.compress(path.read_bytes()))
    path.unlink()
    again = tofu.load_logs(tmp_path)
    assert tofu.model_utility(again) == tofu.model_utility(logs)
    assert np.array_equal(again["forget"].perturbed, logs["forget"].perturbed)


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b'{"avg_gt_loss": {}}', b'{"avg_gt_loss": {"0": "x"}}', b"\xff\xfe", gzip.compress(b"{}")[:9]],
)
def test_broken_logs_are_named(tmp_path, content):
    (tmp_path / "eval_log.json").write_bytes(content)
    with pytest.raises(InvalidFileError, match=r"eval_log\.json"):
        tofu.load_logs(tmp_path)
    (tmp_path / "eval_log.json").unlink()
    (tmp_path / "eval_log_forget.json.gz").write_bytes(content)
    with pytest.raises(InvalidFileError, match="eval_log_forget"):
        tofu.load_logs(tmp_path)
    with pytest.raises(InvalidFileError):
        tofu.load_questions(tmp_path / "eval_log_forget.json.gz")


def test_made_up_questions_are_like_tofu():
    made = tofu.make_questions(authors=30, forget=6, seed=4)
    assert made == tofu.make_questions(authors=30, forget=6, seed=4)
    assert made != tofu.make_questions(authors=30, forget=6, seed=5)
    rows = [*made.forget, *made.retain]
    assert len({r["question"] for r in rows}) == len(rows) == 600
    for row in rows:
        answers = [row["paraphrased_answer"], *row["perturbed_answer"]]
        assert len(set(answers)) == 6
        assert row["answer"] not in answers
    choose, report = made.slices()
    assert len(choose) == len(report) == 60
    assert not {r["question"] for r in choose} & {r["question"] for r in report}
    for wrong in ({"authors": 1}, {"forget": 0}, {"forget": 20}, {"wrong": 9}):
        with pytest.raises(InvalidInputError):
            tofu.make_questions(**wrong)


@pytest.mark.parametrize("authors", [400, 401, 900])
def test_made_up_authors_are_as_many_as_are_wanted(authors):
    made = tofu.make_questions(authors=authors, forget=1)
    first = [row["question"] for row in made.retain[:: made.per_author]]
    assert len(set(first)) == len(first) == authors - 1
    assert any(". " in q for q in first) == (authors > 400)  # initials, where the names have run out
    names = _names(400 * 27 + 1)
    assert len(set(names)) == len(names) == 400 * 28
    assert names[-1].count(".") == 2


def test_borrowed_answers_are_those_of_other_questions():
    rows = [{"question": f"q{i}", "answer": f"a{i % 7}", "more": i} for i in range(60)]
    found = tofu.borrow_answers(rows, wrong=4)
    assert found == tofu.borrow_answers(rows, wrong=4) != tofu.borrow_answers(rows, wrong=4, seed=1)
    assert all(
        {k: v for k, v in new.items() if k != "perturbed_answer"} == old for new, old in zip(found, rows, strict=True)
    )
    for row in found:
        assert len(set(row["perturbed_answer"])) == 4
        assert set(row["perturbed_answer"]) <= {f"a{i}" for i in range(7)} - {row["answer"]}
    assert {
        tuple(sorted(r["perturbed_answer"])) for r in tofu.borrow_answers(rows, wrong=9) if r["answer"] == "a0"
    } == {tuple(f"a{i}" for i in range(1, 7))}
    told = {a for row in found for a in row["perturbed_answer"]}
    assert told == {f"a{i}" for i in range(7)}
    with pytest.raises(InvalidInputError, match="same answer"):
        tofu.borrow_answers(rows[:1] * 3)


def test_what_is_memorised_is_measured_as_such():
    made = tofu.make_questions(authors=3, forget=1, seed=1)
    tokenizer = WordTokenizer.fit(made.texts())
    config = TransformerConfig(vocab_size=tokenizer.vocab_size, width=32, layers=1, heads=2, context=64)
    examples = Examples.from_pairs(made.forget, tokenizer)
    done = baselines.fine_tune(TransformerLM(config), examples, epochs=80, learning_rate=1e-2, batch_size=20)
    knows, other = (
        tofu.evaluate(done.model, rows, tokenizer, max_new_tokens=20) for rows in (made.forget, made.retain)
    )
    assert knows.probability.mean() > 0.8
    assert knows.rouge.mean() > 0.9
    assert knows.extra["extraction"].mean() > 0.9
    assert other.probability.mean() < 0.3
    assert tofu.membership_auc(knows, other) > 0.95
    with pytest.raises(InvalidInputError, match="perturbed_answer"):
        tofu.evaluate(done.model, [{"question": "a", "answer": "b"}], tokenizer)
