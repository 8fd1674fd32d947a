"""Nine shifted views of a digit, one answer: the drop in log-loss is predicted without labels, then measured."""

import numpy as np
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from corollary.coherence import CoherentClassifier, audit, image_shifts


def main() -> None:
    X, y = load_digits(return_X_y=True)
    rng = np.random.default_rng(0)
    order = rng.permutation(len(y))
    learn, test = order[:600], order[600:1400]
    shifts = [lambda X, t=t: t(X.reshape(-1, 8, 8)).reshape(-1, 64) for t in image_shifts(1, wrap=True)]
    drawn = np.stack([t(X / 16) for t in shifts])[rng.integers(0, 9, len(learn)), learn]
    model = CoherentClassifier(LogisticRegression(max_iter=2000), shifts).fit(drawn, y[learn])

    found, (_, views) = model.project_views(X[test] / 16), model.views(X[test] / 16)
    rows = np.arange(len(test))
    before, after = -views[:, rows, y[test]].mean(), -found.log_probs[rows, y[test]].mean()
    print(f"predicted drop in log-loss, no label used   {found.gain.mean():.4f}")
    print(f"measured drop over the nine views           {before - after:.4f}")
    print(f"accuracy over the views                     {(views.argmax(-1) == y[test]).mean():.3f}")
    print(f"accuracy of the common answer               {(found.log_probs.argmax(-1) == y[test]).mean():.3f}\n")

    flat, orbit = views.reshape(-1, 10), np.tile(rows, len(views))
    sharper = 2 * flat - np.log(np.exp(2 * flat).sum(-1, keepdims=True))
    promise = audit(flat, sharper, orbit=orbit)
    print(f"sharpening each view by itself can promise  {promise.guaranteed.mean():.3f}")
    print(f"the most that any change can promise        {promise.best.mean():.3f}\n")
    print(found.certificate)


if __name__ == "__main__":
    main()
