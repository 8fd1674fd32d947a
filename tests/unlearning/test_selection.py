"""Choosing settings, and what a fitted model vouches for by itself."""

import numpy as np
import pytest
from unlearning_models import sequences, with_heads

from corollary.certificates import Status
from corollary.errors import InvalidInputError, NotFittedError, ReusedRowsError
from corollary.models import TransformerConfig, TransformerLM
from corollary.unlearning import Examples, WordTokenizer, baselines, fit_temper_tilt, select_temper_tilt, tofu


def test_the_choice_is_the_best_that_keeps_what_is_retained(tmp_path):
    made = tofu.make_questions(authors=4, forget=2, seed=2)
    tokenizer = WordTokenizer.fit(made.texts())
    config = TransformerConfig(vocab_size=tokenizer.vocab_size, width=32, layers=1, heads=2, context=64)
    lost, kept = (Examples.from_pairs(rows, tokenizer) for rows in (made.forget, made.retain))
    everything = Examples.from_pairs([*made.forget, *made.retain], tokenizer)
    options = {"epochs": 60, "learning_rate": 1e-2, "batch_size": 20}
    base = baselines.fine_tune(TransformerLM(config), everything, **options).model
    other = baselines.fine_tune(TransformerLM(config, seed=1), kept, **options).model
    choose, report = made.slices()
    reference = tofu.evaluate(other, choose, tokenizer, generate=False)
    found = select_temper_tilt(
        base,
        lost,
        kept,
        choose_on=(choose, made.retain[:10]),
        reference=reference,
        tokenizer=tokenizer,
        grid={"epochs": (60, 150)},
        temperatures=(1.0, 2.0),
        folder=tmp_path,
    )
    assert {p.name for p in tmp_path.glob("*/*")} == {"states.npy", "states.json"}
    assert len(found.trials) == 4
    (chosen,) = (t for t in found.trials if t["chosen"])
    hits = np.mean(tofu.evaluate(base, made.retain[:10], tokenizer, generate=False).extra["memorised"])
    stays = [t for t in found.trials if t["retain hits"] >= hits - 0.05]
    assert hits > 0.9
    assert not stays or chosen["forget quality"] == max(t["forget quality"] for t in stays)
    again = tofu.evaluate(found.model, choose, tokenizer, generate=False)
    measured = tofu.kolmogorov_smirnov(again.truth_ratio, reference.truth_ratio).pvalue
    assert measured == pytest.approx(chosen["forget quality"], rel=1e-6)
    after, before = (tofu.evaluate(m, report, tokenizer, generate=False).loss for m in (found.model, base))
    assert after.mean() > before.mean() + 0.2  # all authors are forgotten, those that chose nothing, too
    arguments = {"choose_on": (choose, made.retain[:3]), "reference": reference, "tokenizer": tokenizer}
    for wrong in ({"grid": {"rates": (1,)}}, {"choose_on": (report[:3], made.retain[:3])}):
        with pytest.raises(InvalidInputError):
            select_temper_tilt(base, lost, kept, **(arguments | wrong))


def test_a_fitted_model_has_its_certificate(own, rng):
    lost, kept, held = sequences(rng, 5), sequences(rng, 10), sequences(rng, 35)
    model = fit_temper_tilt(own, lost, kept, held_out=held, rank=2, epochs=3)
    certificate, evidence = model.certified()
    assert certificate.check(**evidence)
    assert model.certificate_.statement == certificate.statement
    assert [p.rule for p in certificate.parts] == ["unlearning.forgotten", "unlearning.retained"]
    hotter, arrays = model.with_settings(temperature=3.0).certified()
    assert hotter.check(**arrays).status is Status.HOLDS
    assert hotter.check(**evidence).status is Status.UNDECIDED
    with pytest.raises(NotFittedError):
        _ = with_heads(own).certificate_
    with pytest.raises(ReusedRowsError):
        fit_temper_tilt(own, lost, kept, held_out=kept, epochs=1)
