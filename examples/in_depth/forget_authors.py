"""A small model learns made-up authors, then forgets some of them by a switch; what is certified of it."""

from corollary.models import TransformerConfig, TransformerLM
from corollary.unlearning import (
    Examples,
    WordTokenizer,
    baselines,
    certify_forgotten,
    certify_retained,
    fit_temper_tilt,
    tofu,
)


def main() -> None:
    made = tofu.make_questions(authors=6, forget=2)
    tokenizer = WordTokenizer.fit(made.texts())
    lost, kept = (Examples.from_pairs(rows, tokenizer) for rows in (made.forget, made.retain))

    config = TransformerConfig(vocab_size=tokenizer.vocab_size, width=48, layers=2, heads=2, context=64)
    everything = Examples.from_pairs([*made.forget, *made.retain], tokenizer)
    base = baselines.fine_tune(TransformerLM(config), everything, epochs=50, learning_rate=6e-3).model
    before = base.fingerprint()

    trained_on, held_out = kept.select(range(40)), kept.select(range(40, 80))
    model = fit_temper_tilt(base, lost, trained_on, name="two authors", temperature=1.25, epochs=60)
    fit = model.fits["two authors"]
    trained, all_of_it = (sum(p.numel() for p in m.parameters()) for m in (fit.head, base))
    print(f"{trained} parameters trained, the base has {all_of_it}, all of them as before")

    question = lost.prompt(5).tolist()
    print("asked:  ", tokenizer.decode(question))
    print("base:   ", tokenizer.decode(model.generate([question], max_new_tokens=20, heads=[])[0]))
    print("tilted: ", tokenizer.decode(model.generate([question], max_new_tokens=20)[0]))

    census, evidence = certify_forgotten(model, lost, base_before=before)
    moved, more = certify_retained(model, held_out, trained_on=trained_on)
    certificate = census & moved
    print(certificate)
    print(certificate.check(**evidence, **more))


if __name__ == "__main__":
    main()
