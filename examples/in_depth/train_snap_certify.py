"""A head is trained on words of up to 40 symbols, drifts on longer ones, is snapped, and is right at all lengths."""

from corollary.automata import (
    RationalHead,
    RationalTransductor,
    TransductorConfig,
    certify,
    certify_float,
    eigen_angles,
    learn,
    length_accuracy,
    task,
)


def main() -> None:
    problem = task("parity")
    config = TransductorConfig(vocab_size=2, classes=2, layers=1, attention=False)
    model = RationalTransductor(config, RationalHead(2, 4, family="signed", seed=0), seed=0)
    learn(model, problem, steps=200, seed=0)
    lengths = (40, 1000, 5000)
    print("trained", {n: v["last"] for n, v in length_accuracy(model, problem, lengths, count=32).items()})
    for symbol, told in enumerate(eigen_angles(model.head, q_max=12)):
        print(
            f"symbol {symbol} turns by",
            [f"{t:.4f} (near {f})" for t, f in zip(told["turns"], told["fractions"], strict=True)],
        )

    snapped = model.snap()
    print("snapped", {n: v["last"] for n, v in length_accuracy(snapped, problem, lengths, count=32).items()})
    certificate, evidence = certify(snapped, problem.automaton)
    print(certificate.statement)
    print(certificate.check(**evidence))

    bound, _ = certify_float(model.head, snapped.head, length=40)
    print("without snapping, after 40 symbols:", bound.statement)


if __name__ == "__main__":
    main()
