"""A router's probabilities calibrated as they stream, while the model behind it gets worse; then a certificate."""

import numpy as np

from corollary.calibration import (
    Calibrator,
    KuleshovErmon,
    Simplex,
    brier_decomposition,
    certify_stream,
    expected_calibration_error,
)
from corollary.deferral import TwoStageRouter


def requests(n: int, rng: np.random.Generator, *, shift: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Features of requests, and whether a cheap and a dear model answer rightly."""
    X = rng.normal(size=(n, 3))
    easy = 1 / (1 + np.exp(-(2 * X[:, 0] - X[:, 1] + 0.5 - shift)))
    return X, np.stack([rng.random(n) < easy, rng.random(n) < 0.9], 1)


def main() -> None:
    rng = np.random.default_rng(0)
    X, right = requests(3000, rng)
    router = TwoStageRouter(loss="value").fit(X, 1.0 - right)

    # traffic: after a third of it the cheap model is replaced by a worse one, and nobody tells the router
    parts = [requests(n, rng, shift=s) for n, s in ((1500, 0.0), (3000, 1.5))]
    X, right = (np.concatenate(p) for p in zip(*parts, strict=True))
    q = router.values(X)[:, 0].astype(np.float64)
    told = np.stack([1 - q, q], 1)  # the router's word: the cheap model fails, is right
    outcomes = np.eye(2)[right[:, 0].astype(int)]

    auto = Calibrator("auto", dim=Simplex(2), base=True, horizon=len(q))
    print(f"{auto.method}: {'; '.join(auto.reasons)}\n")
    methods = {"auto": auto, "Kuleshov-Ermon": KuleshovErmon(Simplex(2), bins=10, resolution=15)}
    print(f"{'':>16}   Brier     ECE")
    print(f"{'the router':>16}  {np.square(told - outcomes).sum(1).mean():.4f}  {ece(told, outcomes):.4f}")
    for name, method in methods.items():
        forecasts, weights = [], []
        for base, y in zip(told, outcomes, strict=True):
            points, w = method.predict(base)
            forecasts.append(np.resize(points, (2, 2)))  # one forecast or two: told twice where there is one
            weights.append(w if len(w) == 2 else [0.5, 0.5])
            method.update(y)
        mean = np.einsum("tl,tld->td", weights, forecasts)
        brier = brier_decomposition(forecasts, weights, outcomes).brier
        print(f"{name:>16}  {brier:.4f}  {ece(mean, outcomes):.4f}")

    # the last method announced finitely many forecasts: its calibration error is certified
    certificate, evidence = certify_stream(forecasts, weights, outcomes, domain=Simplex(2), norms=[1])
    print(f"\n{certificate}\n{certificate.check(**evidence)}")


def ece(p: np.ndarray, y: np.ndarray) -> float:
    return expected_calibration_error(p, y, kind="classwise")


if __name__ == "__main__":
    main()
