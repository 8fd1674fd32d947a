"""A network trained by a balanced loss; METRO then trains its last layer for F1, and certifies it on held-out rows."""

import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import PredefinedSplit

from corollary.losses import SurrogateClassifier
from corollary.metrics import FBeta, MetroClassifier, PlugInClassifier


def main() -> None:
    X, y = load_digits(return_X_y=True)
    rng = np.random.default_rng(0)
    y, X = y == 8, X / 16 + 0.3 * rng.normal(size=X.shape)  # one digit in ten, with noise
    order = rng.permutation(len(y))
    learn, choose, fresh = order[:700], order[700:1000], order[1000:]

    network = SurrogateClassifier(loss="gla", hidden=(32,), epochs=20).fit(X[learn], y[learn])
    hidden = network.hidden_features(X)
    known = np.concatenate([learn, choose])
    split = PredefinedSplit(np.repeat([-1, 0], [len(learn), len(choose)]))  # the level is chosen on rows it never saw
    metro = MetroClassifier("f1", validation=split, l2=1e-2).fit(hidden[known], y[known])
    metro.certify(hidden[fresh], y[fresh])

    line = PlugInClassifier("f1").fit(X[known], y[known])
    answers = {
        "a line with a tuned threshold": line.predict(X[fresh]),
        "the network as GLA decides": network.predict(X[fresh]),
        "METRO over its hidden layer": metro.predict(hidden[fresh]),
    }
    for name, answer in answers.items():
        print(f"{name:>30}  F1 {FBeta(1.0).score(y[fresh], answer):.3f}")
    print()
    print(metro.certificate_)


if __name__ == "__main__":
    main()
