"""A balanced loss inside a scikit-learn pipeline, and a certificate of every class's error.

Run: python examples/in_depth/losses_pipeline.py
"""

import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from corollary import losses


def main() -> None:
    x, y = load_digits(return_X_y=True)
    train = losses.make_imbalance(y, ratio=40, largest=100, seed=0)
    held = np.setdiff1d(np.arange(len(y)), train)
    print("rows a class:", np.bincount(y[train]).tolist())
    pipeline = make_pipeline(StandardScaler(), losses.SurrogateClassifier(hidden=(), epochs=30))
    for loss in ("comp_sum", "weighted", "gla", "gca"):
        pipeline.set_params(surrogateclassifier__loss=loss).fit(x[train], y[train])
        error = losses.balanced_error(y[held], pipeline.predict(x[held]))
        print(f"{loss:10} balanced error {error:.3f}")
    enough = np.isin(y[train], np.flatnonzero(np.bincount(y[train]) >= 6))
    grid = {"surrogateclassifier__loss": [lambda m, q=q: losses.GLALoss(counts=m, q=q) for q in (-0.3, 0.1, 0.3)]}
    search = GridSearchCV(pipeline, grid, scoring="balanced_accuracy", cv=2)
    search.fit(x[train][enough], y[train][enough])
    print("q chosen by cross-validation on the larger classes:", search.best_estimator_[-1].loss_.q)
    pipeline.set_params(surrogateclassifier__loss="gla").fit(x[train], y[train])
    print(losses.class_error_certificate(y[held], pipeline.predict(x[held]), classes=10))


if __name__ == "__main__":
    main()
