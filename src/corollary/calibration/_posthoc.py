r"""Post-hoc calibrators as scikit-learn estimators: fitted once on held-out probabilities, then applied.

X holds a classifier's probabilities, a column for each class, y the labels. With parameters, z = log p: temperature
\(\mathrm{softmax}(z / \tau)\), vector \(\mathrm{softmax}(a \odot z + b)\), Dirichlet \(\mathrm{softmax}(W z + b)\),
beta \(\sigma(a \log p - b \log(1 - p) + c)\), Platt \(\sigma(a \,\mathrm{logit} p + b)\), one class against
the rest and normalised. Free ones: isotonic, histogram.
"""

from typing import Any

import numpy as np
from jaxtyping import Float, Shaped
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.validation import check_is_fitted

from corollary.errors import InvalidInputError

FLOOR = 1e-7
DOMAIN = "scikit-learn tries arbitrary features; a calibrator takes probabilities, a column for each class"
EXPECTED_FAILED_CHECKS = dict.fromkeys(
    (
        *("check_fit_score_takes_y", "check_estimators_overwrite_params", "check_dont_overwrite_parameters"),
        *("check_estimators_fit_returns_self", "check_readonly_memmap_input", "check_n_features_in_after_fitting"),
        *("check_positive_only_tag_during_fit", "check_estimators_dtypes", "check_dtype_object"),
        *("check_estimators_empty_data_messages", "check_pipeline_consistency", "check_estimators_nan_inf"),
        *("check_estimators_pickle", "check_f_contiguous_array_estimator", "check_classifier_data_not_an_array"),
        *("check_classifiers_one_label", "check_classifiers_classes", "check_classifiers_train"),
        *("check_classifiers_regression_target", "check_supervised_y_2d", "check_methods_sample_order_invariance"),
        *("check_methods_subset_invariance", "check_fit2d_1sample", "check_fit2d_1feature", "check_dict_unchanged"),
        *("check_fit_idempotent", "check_fit_check_is_fitted", "check_n_features_in", "check_fit2d_predict1d"),
    ),
    DOMAIN,
)


class PostHocCalibrator(ClassifierMixin, BaseEstimator):
    """What all post-hoc calibrators share: `fit(P, y)`, `predict_proba(P)`, `predict(P)`.

    Guarantee: none; a subclass has its own.

    Example:
        >>> issubclass(TemperatureScaling, PostHocCalibrator)
        True
    """

    def fit(self, X: ArrayLike, y: ArrayLike) -> "PostHocCalibrator":
        """Fit on held-out probabilities.

        Args:
            X: (n, K) probabilities; (n,) or (n, 1) of the second class for two.
            y: (n,) labels; class i in sorted order belongs to column i. Whole numbers in 0..K-1 name columns.

        Raises:
            InvalidInputError: for shapes that do not fit, NaN, values that are no probabilities, labels of more
                classes than columns.
        """
        if y is None:
            raise InvalidInputError("requires y to be passed, but the target y is None")
        P = _probabilities(X)
        labels = np.asarray(y)
        if labels.ndim != 1 or len(labels) != len(P):
            raise InvalidInputError(f"`y` must hold {len(P)} labels, got shape {labels.shape}")
        if labels.dtype.kind == "f" and not (labels == np.round(labels)).all():
            raise InvalidInputError("Unknown label type: `y` holds numbers that are no labels; give classes")
        K = P.shape[1]
        whole = labels.dtype.kind in "iu" and labels.min() >= 0 and labels.max() < K
        self.classes_ = np.arange(K) if whole else np.unique(labels)
        if len(self.classes_) != K:
            raise InvalidInputError(
                f"{len(self.classes_)} labels for {K} columns of probabilities; each column is a class"
            )
        self.n_features_in_ = K
        codes = np.searchsorted(self.classes_, labels)
        self._fit(P, np.eye(K)[codes])
        return self

    def predict_proba(self, X: ArrayLike) -> Float[np.ndarray, "n k"]:
        """Calibrated probabilities (n, K); rows sum to one."""
        check_is_fitted(self)
        P = _probabilities(X)
        if P.shape[1] != len(self.classes_):
            raise InvalidInputError(f"fitted on {len(self.classes_)} columns, got {P.shape[1]}")
        Q = self._map(P)
        total = Q.sum(1, keepdims=True)
        return np.where(total > 0, Q / np.where(total > 0, total, 1.0), 1 / P.shape[1])

    def predict(self, X: ArrayLike) -> Shaped[np.ndarray, " n"]:
        """The most probable label of each row."""
        best = self.predict_proba(X).argmax(1)
        return self.classes_[best]

    def _fit(self, P: np.ndarray, Y: np.ndarray) -> None:
        raise NotImplementedError

    def _map(self, P: np.ndarray) -> np.ndarray:
        raise NotImplementedError


class TemperatureScaling(PostHocCalibrator):
    r"""One number: \(\mathrm{softmax}(\log p / \tau)\), by the log-loss.

    Guarantee: the labels predicted do not change; log-loss on the fitted rows is not raised.

    Example:
        >>> P = np.array([[0.99, 0.01], [0.01, 0.99], [0.99, 0.01], [0.99, 0.01]])
        >>> bool(TemperatureScaling().fit(P, [0, 1, 0, 1]).temperature_ > 1)
        True

    Reference: Guo, Pleiss, Sun and Weinberger (2017); textbook.
    """

    def _fit(self, P: np.ndarray, Y: np.ndarray) -> None:
        from scipy.optimize import minimize_scalar

        Z = _logs(P)

        def loss(s: float) -> float:
            return _log_loss(np.exp(s) * Z, Y)

        self.temperature_ = float(np.exp(-minimize_scalar(loss, bounds=(-5, 5), method="bounded").x))

    def _map(self, P: np.ndarray) -> np.ndarray:
        return _softmax(_logs(P) / self.temperature_)


class _LinearMap(PostHocCalibrator):
    """softmax of a linear map of log p, by L-BFGS on the log-loss with a ridge around the identity."""

    def __init__(self, *, ridge: float = 1e-3) -> None:
        self.ridge = ridge

    def _fit(self, P: np.ndarray, Y: np.ndarray) -> None:
        from scipy.optimize import minimize

        Z, K = _logs(P), P.shape[1]
        start, unpack, pack = self._shape(K)

        def loss(w: np.ndarray) -> tuple[float, np.ndarray]:
            W, b = unpack(w)
            S = Z @ W.T + b
            residual = (_softmax(S) - Y) / len(Y)
            away = w - start
            slope = pack(residual.T @ Z, residual.sum(0)) + 2 * self.ridge * away
            return _log_loss(S, Y) + self.ridge * float(away @ away), slope

        found = minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": 500})
        self.coef_, self.intercept_ = unpack(found.x)

    def _shape(self, K: int) -> tuple[np.ndarray, Any, Any]:
        raise NotImplementedError

    def _map(self, P: np.ndarray) -> np.ndarray:
        return _softmax(_logs(P) @ self.coef_.T + self.intercept_)


class VectorScaling(_LinearMap):
    r"""\(\mathrm{softmax}(a \odot \log p + b)\), by the log-loss.

    Args:
        ridge: weight of the squared distance to the identity.

    Guarantee: log-loss on the fitted rows is not raised (the identity is among the maps).

    Example:
        >>> P = np.array([[0.8, 0.2], [0.7, 0.3], [0.6, 0.4], [0.4, 0.6]])
        >>> VectorScaling().fit(P, [1, 0, 1, 1]).predict_proba(P).shape
        (4, 2)

    Reference: Guo, Pleiss, Sun and Weinberger (2017); textbook.
    """

    def _shape(self, K: int) -> tuple[np.ndarray, Any, Any]:
        start = np.repeat([1.0, 0.0], K)
        return start, lambda w: (np.diag(w[:K]), w[K:]), lambda W, b: np.concatenate([np.diag(W), b])


class DirichletCalibration(_LinearMap):
    r"""\(\mathrm{softmax}(W \log p + b)\), by the log-loss: logistic regression on log-probabilities.

    Args:
        ridge: weight of the squared distance to the identity; raise it for many classes and few rows.

    Guarantee: log-loss on the fitted rows is not raised; exact where the probabilities of each class are Dirichlet.

    Example:
        >>> P = np.array([[0.8, 0.1, 0.1], [0.2, 0.6, 0.2], [0.3, 0.3, 0.4], [0.1, 0.1, 0.8]])
        >>> DirichletCalibration().fit(P, [0, 1, 2, 2]).coef_.shape
        (3, 3)

    Reference: Kull et al. (2019); reconstructed (ridge around the identity in place of their off-diagonal penalty).
    """

    def _shape(self, K: int) -> tuple[np.ndarray, Any, Any]:
        start = np.append(np.eye(K).reshape(-1), np.zeros(K))
        return (
            start,
            lambda w: (w[: K * K].reshape(K, K), w[K * K :]),
            lambda W, b: np.concatenate([W.reshape(-1), b]),
        )


class _OneAgainstRest(PostHocCalibrator):
    """A map of one probability for each class; two classes need one."""

    def _fit(self, P: np.ndarray, Y: np.ndarray) -> None:
        columns = [1] if P.shape[1] == 2 else range(P.shape[1])
        self.maps_ = [self._fit_one(P[:, k], Y[:, k]) for k in columns]

    def _map(self, P: np.ndarray) -> np.ndarray:
        if P.shape[1] == 2:
            q = self._apply(self.maps_[0], P[:, 1])
            return np.stack([1 - q, q], 1)
        return np.stack([self._apply(m, P[:, k]) for k, m in enumerate(self.maps_)], 1)

    def _fit_one(self, p: np.ndarray, y: np.ndarray) -> Any:
        raise NotImplementedError

    def _apply(self, fitted: Any, p: np.ndarray) -> np.ndarray:
        raise NotImplementedError


class PlattScaling(_OneAgainstRest):
    r"""\(\sigma(a \,\mathrm{logit} p + b)\) for each class, then normalised.

    Guarantee: none.

    Example:
        >>> p = np.linspace(0.05, 0.95, 40)
        >>> model = PlattScaling().fit(p, (p > 0.7).astype(int))
        >>> bool(model.predict_proba([0.5])[0, 1] < 0.5)
        True

    Reference: Platt (1999) with his smoothed targets; textbook.
    """

    def _features(self, p: np.ndarray) -> np.ndarray:
        q = np.clip(p, FLOOR, 1 - FLOOR)
        return np.stack([np.log(q) - np.log1p(-q), np.ones_like(q)], 1)

    def _fit_one(self, p: np.ndarray, y: np.ndarray) -> Any:
        positive, negative = y.sum(), len(y) - y.sum()
        target = np.where(y > 0, (positive + 1) / (positive + 2), 1 / (negative + 2))
        return _logistic(self._features(p), target)

    def _apply(self, fitted: Any, p: np.ndarray) -> np.ndarray:
        return _sigmoid(self._features(p) @ fitted)


class BetaCalibration(PlattScaling):
    r"""\(\sigma(a \log p - b \log(1 - p) + c)\), a, b >= 0, for each class, then normalised.

    Guarantee: each map is monotone.

    Example:
        >>> p = np.linspace(0.05, 0.95, 40)
        >>> BetaCalibration().fit(p, (p > 0.4).astype(int)).predict([0.1, 0.9]).tolist()
        [0, 1]

    Reference: Kull, Silva Filho and Flach (2017); reconstructed.
    """

    def _features(self, p: np.ndarray) -> np.ndarray:
        q = np.clip(p, FLOOR, 1 - FLOOR)
        return np.stack([np.log(q), -np.log1p(-q), np.ones_like(q)], 1)

    def _fit_one(self, p: np.ndarray, y: np.ndarray) -> Any:
        return _logistic(self._features(p), y, bounds=[(0, None), (0, None), (None, None)])


class IsotonicCalibration(_OneAgainstRest):
    """The best monotone map for each class, then normalised.

    Guarantee: the squared error on the fitted rows is the least of all monotone maps (two classes).

    Example:
        >>> model = IsotonicCalibration().fit([0.1, 0.4, 0.6, 0.9], [0, 1, 0, 1])
        >>> model.predict_proba([0.5])[0].tolist()
        [0.5, 0.5]

    Reference: Zadrozny and Elkan (2002); scikit-learn's pool-adjacent-violators.
    """

    def _fit_one(self, p: np.ndarray, y: np.ndarray) -> Any:
        from sklearn.isotonic import IsotonicRegression

        return IsotonicRegression(y_min=0.0, y_max=1.0, out_of_bounds="clip").fit(p, y)

    def _apply(self, fitted: Any, p: np.ndarray) -> np.ndarray:
        return np.asarray(fitted.predict(p))


class HistogramBinning(_OneAgainstRest):
    """The mean outcome of each of `bins` bins of equal mass, for each class, then normalised.

    Args:
        bins: number of bins.

    Guarantee: on fresh exchangeable rows the gap of a bin of n fitted rows is of the order 1 / sqrt(n).

    Example:
        >>> model = HistogramBinning(bins=2).fit([0.1, 0.2, 0.8, 0.9], [0, 0, 1, 0])
        >>> model.predict_proba([0.15, 0.85])[:, 1].tolist()
        [0.0, 0.5]

    Reference: Zadrozny and Elkan (2001); textbook.
    """

    def __init__(self, *, bins: int = 15) -> None:
        self.bins = bins

    def _fit_one(self, p: np.ndarray, y: np.ndarray) -> Any:
        if isinstance(self.bins, bool) or self.bins < 1:
            raise InvalidInputError(f"`bins` must be at least 1, got {self.bins!r}")
        edges = np.unique(np.quantile(p, np.arange(1, self.bins) / self.bins))
        index = np.searchsorted(edges, p, side="right")
        count = np.bincount(index, minlength=len(edges) + 1)
        means = np.bincount(index, y, len(edges) + 1) / np.maximum(count, 1)
        return edges, np.where(count > 0, means, y.mean())

    def _apply(self, fitted: Any, p: np.ndarray) -> np.ndarray:
        edges, means = fitted
        return means[np.searchsorted(edges, p, side="right")]


def _probabilities(X: Any) -> np.ndarray:
    if hasattr(X, "tocsr"):
        raise InvalidInputError("`X` is sparse; give a dense array of probabilities")
    if np.asarray(X).dtype.kind == "c":
        raise InvalidInputError("Complex data not supported; give probabilities")
    try:
        P = np.asarray(X, dtype=np.float64)
    except (TypeError, ValueError):
        raise InvalidInputError("`X` must hold probabilities, numbers (n, K)") from None
    if P.ndim == 1 or (P.ndim == 2 and P.shape[1] == 1):
        P = np.stack([1 - P.reshape(-1), P.reshape(-1)], 1)
    if P.ndim != 2 or len(P) == 0:
        raise InvalidInputError(f"`X` must hold probabilities (n, K), at least one row, got shape {P.shape}")
    if not np.isfinite(P).all():
        raise InvalidInputError("`X` holds NaN or inf; give finite probabilities")
    if P.min() < -1e-6 or np.abs(P.sum(1) - 1).max() > 1e-3:
        raise InvalidInputError("`X` must hold probabilities: not negative, rows that sum to one")
    P = np.maximum(P, 0.0)
    return P / P.sum(1, keepdims=True)


def _logs(P: np.ndarray) -> np.ndarray:
    return np.log(np.maximum(P, FLOOR))


def _softmax(S: np.ndarray) -> np.ndarray:
    grown = np.exp(S - S.max(1, keepdims=True))
    return grown / grown.sum(1, keepdims=True)


def _log_loss(S: np.ndarray, Y: np.ndarray) -> float:
    top = S.max(1, keepdims=True)
    return float((np.log(np.exp(S - top).sum(1)) + top[:, 0] - (S * Y).sum(1)).mean())


def _sigmoid(z: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-np.clip(z, -40, 40)))


def _logistic(U: np.ndarray, y: np.ndarray, bounds: Any = None) -> np.ndarray:
    """Weights of least log-loss on features U for targets in [0, 1]."""
    from scipy.optimize import minimize

    def loss(w: np.ndarray) -> tuple[float, np.ndarray]:
        z = U @ w
        value = np.logaddexp(0.0, z) - y * z
        return float(value.mean() + 1e-9 * (w @ w)), U.T @ (_sigmoid(z) - y) / len(y) + 2e-9 * w

    start = np.ones(U.shape[1])
    start[-1] = 0.0
    return minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds).x
