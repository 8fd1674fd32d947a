r"""Temper-then-tilt for densities: \(\hat p_r^{(T)} \propto p^{1/T} \hat f\), its errors, and bounds on them.

Symbols: base \(p = (1-\gamma) p_r + \gamma p_f\), Bayes classifier \(f^* = (1-\gamma) p_r / p\), learned \(\hat f\),
excess risk \(\delta = E_p\,\mathrm{KL}(\mathrm{Ber}(f^*) \| \mathrm{Ber}(\hat f))\), \(Z = E_p \hat f\).

Retain error \(\mathrm{KL}(p_r \| \hat p_r)\), forget error \(E_{p_f} |\hat p_r - p_r|\). The statements G1 to G5 are
derived in the notes (the paper, arXiv:2602.10217, names the same quantities; its theorem's constants were not seen):

G1  \(\delta = kl(1-\gamma \| Z) + (1-\gamma) KL(p_r \| \hat p_r) + \gamma KL(p_f \| \hat p_f)\) at T = 1;
G2  retain error at T = 1 \(\le \delta / (1-\gamma)\);
G3  forget error at T = 1 \(\le \|p_f\|_\infty \sqrt{2\delta} / (1-\gamma)\);
G4  \(\int p_f p^{1/T} |\hat f - f^*| \le \|p\|_\infty^{1/T} \sqrt{\delta/2} / \gamma\);
G5  the spike: peak errors grow like \((\gamma/w)^{1/T}\), so that narrow spikes need T > 1.
"""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from corollary.errors import InvalidInputError, NotFittedError

PINSKER = 2.0  # |p - q|_1 <= sqrt(2 KL)
RETAIN_SHARE = 1.0  # in G2: delta counts the retained data with weight 1 - gamma


class FiniteWorld:
    r"""Densities with respect to a measure on finitely many atoms: every quantity of the theory as a sum.

    Args:
        retain: (n,) density p_r at each atom.
        forget: (n,) density p_f.
        share: gamma.
        classifier: (n,) f-hat, in (0, 1]; the Bayes classifier by default.
        measure: (n,) mass of the atoms under the dominating measure; 1 each by default.

    Raises:
        InvalidInputError: for densities that do not integrate to one, or numbers out of range.

    Guarantee: G1 to G4 hold in every such world (tested on random ones).

    Example:
        >>> world = FiniteWorld([0.5, 0.5], [1.0, 0.0], share=0.2, classifier=[0.5, 0.9])
        >>> world.retain_error() <= world.excess_risk / 0.8
        True
    """

    def __init__(
        self,
        retain: ArrayLike,
        forget: ArrayLike,
        *,
        share: float,
        classifier: ArrayLike | None = None,
        measure: ArrayLike | None = None,
    ) -> None:
        self.p_r, self.p_f = (np.asarray(d, dtype=np.float64) for d in (retain, forget))
        self.share = float(share)
        self.mass = np.ones(self.p_r.shape) if measure is None else np.asarray(measure, dtype=np.float64)
        if not 0 < self.share < 1:
            raise InvalidInputError(f"`share` must lie between 0 and 1, got {share}")
        if self.p_r.ndim != 1 or not self.p_r.shape == self.p_f.shape == self.mass.shape:
            raise InvalidInputError("densities and measure must be flat arrays of one length")
        for name, density in (("retain", self.p_r), ("forget", self.p_f)):
            total = float((density * self.mass).sum())
            if not (density >= 0).all() or not abs(total - 1) < 1e-9:
                raise InvalidInputError(f"`{name}` must be a density: not negative, of integral one, got {total}")
        self.p = (1 - self.share) * self.p_r + self.share * self.p_f
        with np.errstate(invalid="ignore"):
            self.bayes = np.where(self.p > 0, (1 - self.share) * self.p_r / np.where(self.p > 0, self.p, 1), 1.0)
        self.f = self.bayes if classifier is None else np.asarray(classifier, dtype=np.float64)
        if self.f.shape != self.p.shape or not ((self.f >= 0) & (self.f <= 1)).all():
            raise InvalidInputError("`classifier` must give a probability for every atom")

    def integral(self, values: Float[np.ndarray, " n"]) -> float:
        """The integral of a function of the atoms."""
        return float((values * self.mass).sum())

    def density(self, temperature: float = 1.0) -> Float[np.ndarray, " n"]:
        r"""\(\hat p_r^{(T)}\), normalised."""
        unnormalised = self.p ** (1 / temperature) * self.f
        return unnormalised / self.integral(unnormalised)

    @property
    def excess_risk(self) -> float:
        r"""\(\delta\), in nats."""
        return self.integral(self.p * bernoulli_kl(self.bayes, self.f))

    def retain_error(self, temperature: float = 1.0) -> float:
        r"""\(\mathrm{KL}(p_r \| \hat p_r^{(T)})\)."""
        return self.integral(_kl_terms(self.p_r, self.density(temperature)))

    def forget_error(self, temperature: float = 1.0) -> float:
        r"""\(E_{p_f} |\hat p_r^{(T)} - p_r|\)."""
        return self.integral(self.p_f * np.abs(self.density(temperature) - self.p_r))

    def bounds(self, temperature: float = 1.0) -> "Bounds":
        """Both sides of G1 to G4."""
        delta, g = self.excess_risk, self.share
        z = self.integral(self.p * self.f)
        lost = self.p * (1 - self.f)
        p_f_hat = lost / self.integral(lost) if lost.any() else np.zeros_like(lost)
        identity = float(bernoulli_kl(1 - g, z))
        identity += (1 - g) * self.retain_error() + g * self.integral(_kl_terms(self.p_f, p_f_hat))
        peak = float(self.p_f.max())
        tempered = self.integral(self.p_f * self.p ** (1 / temperature) * np.abs(self.f - self.bayes))
        return Bounds(
            delta,
            identity,
            self.retain_error(),
            RETAIN_SHARE * delta / (1 - g),
            self.forget_error(),
            peak * np.sqrt(PINSKER * delta) / (1 - g),
            tempered,
            float(self.p.max()) ** (1 / temperature) * np.sqrt(delta / 2) / g,
        )


class Bounds(NamedTuple):
    """Both sides of the statements G1 to G4.

    Guarantee: `identity == excess_risk`, and each bounded quantity is at most its bound.

    Example:
        >>> Bounds._fields[:2]
        ('excess_risk', 'identity')
    """

    excess_risk: float
    identity: float
    retain_error: float
    retain_bound: float
    forget_error: float
    forget_bound: float
    tempered_error: float
    tempered_bound: float


def bernoulli_kl(p: ArrayLike, q: ArrayLike) -> Float[np.ndarray, "..."]:
    """KL(Ber(p) || Ber(q)), in nats.

    Guarantee: zero exactly where p = q.

    Example:
        >>> bernoulli_kl(0.5, 0.5).item()
        0.0
    """
    a, b = np.asarray(p, dtype=np.float64), np.asarray(q, dtype=np.float64)
    return np.asarray(_kl_terms(a, b) + _kl_terms(1 - a, 1 - b))


def _kl_terms(p: Any, q: Any) -> Any:
    """Terms p log(p / q), zero where p is."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(p > 0, p * (np.log(p) - np.log(q)), 0.0)


def spike_world(width: float, *, share: float = 0.1, floor: float = 0.05) -> FiniteWorld:
    r"""G5: \(p_r\) uniform on [0, 1], \(p_f\) uniform on a spike of this width, \(\hat f = \max(floor, f^*)\) on it.

    Args:
        width: w, of the spike.
        share: gamma.
        floor: the least that the classifier says.

    Returns:
        The world: two atoms, spike and rest.

    Guarantee: exact; both densities are constant on each atom.

    Example:
        >>> world = spike_world(1e-3)
        >>> [round(world.forget_error(t), 3) for t in (1, 1.5, 2, 2.5)]
        [4.58, 0.162, 0.47, 0.67]
    """
    if not 0 < width < 1 or not 0 <= floor <= 1:
        raise InvalidInputError(f"`width` must lie in (0, 1) and `floor` in [0, 1], got {width} and {floor}")
    measure = np.array([width, 1 - width])
    world = FiniteWorld([1.0, 1.0], [1 / width, 0.0], share=share, measure=measure)
    classifier = np.array([max(floor, world.bayes[0]), 1.0])
    return FiniteWorld([1.0, 1.0], [1 / width, 0.0], share=share, classifier=classifier, measure=measure)


class TemperTiltDensity:
    r"""\(\log p(x) / T + s \log \hat f(x) - \log Z_T\) for any model of log-densities and scikit-learn classifier.

    Args:
        density: has `score_samples(X)` (a kernel density, a Gaussian mixture), or a function X -> (n,) log-densities.
        classifier: fitted, with `predict_proba`.
        retained: the class that means retained.
        temperature: T.
        guidance: s.

    Raises:
        InvalidInputError: for a classifier without that class, or a density without log-densities.

    Guarantee: with the Bayes classifier and T = s = 1 it is the retained density; see `FiniteWorld` for what errors
        cost.

    Example:
        >>> from sklearn.linear_model import LogisticRegression
        >>> from sklearn.mixture import GaussianMixture
        >>> rng = np.random.default_rng(0)
        >>> X = np.concatenate([rng.normal(0, 1, (900, 1)), rng.normal(6, 0.1, (100, 1))])
        >>> y = np.repeat([1, 0], [900, 100])
        >>> base = GaussianMixture(2, random_state=0).fit(X)
        >>> model = TemperTiltDensity(base, LogisticRegression().fit(X, y)).normalise(base.sample(4000)[0])
        >>> bool(model.score_samples([[6.0]])[0] < base.score_samples([[6.0]])[0] - 2)
        True

    Reference: arXiv:2602.10217 (abstract read).
    """

    def __init__(
        self,
        density: Any,
        classifier: Any,
        *,
        retained: Any = 1,
        temperature: float = 1.0,
        guidance: float = 1.0,
    ) -> None:
        self._log_density = getattr(density, "score_samples", density)
        if not callable(self._log_density):
            raise InvalidInputError(f"`density` must have score_samples or be a function, got {type(density).__name__}")
        classes = list(getattr(classifier, "classes_", ()))
        if retained not in classes:
            raise InvalidInputError(
                f"the classifier knows the classes {classes}, not {retained!r}; fit it on both sets"
            )
        if not hasattr(classifier, "predict_proba"):
            raise InvalidInputError(
                f"a {type(classifier).__name__} gives no probabilities; put it into a CalibratedClassifierCV"
            )
        if not temperature > 0 or not guidance >= 0:
            raise InvalidInputError(
                f"`temperature` must be positive, `guidance` not negative, got {temperature}, {guidance}"
            )
        self.classifier, self.column = classifier, classes.index(retained)
        self.temperature, self.guidance = float(temperature), float(guidance)
        self.log_z_: float | None = None

    def unnormalised(self, X: ArrayLike) -> Float[np.ndarray, " n"]:
        """The log-density up to its constant."""
        with np.errstate(divide="ignore"):
            tilt = np.log(np.asarray(self.classifier.predict_proba(X), dtype=np.float64)[:, self.column])
        base = np.asarray(self._log_density(X), dtype=np.float64) / self.temperature
        return base + self.guidance * tilt if self.guidance else base

    def normalise(self, draws: ArrayLike) -> "TemperTiltDensity":
        r"""Estimate \(Z_T = E_p[p^{1/T - 1} \hat f^s]\) from draws of the base."""
        weights = self.unnormalised(draws) - np.asarray(self._log_density(draws), dtype=np.float64)
        top = weights.max()
        self.log_z_ = float(top + np.log(np.exp(weights - top).mean()))
        return self

    def score_samples(self, X: ArrayLike) -> Float[np.ndarray, " n"]:
        """(n,) log-densities."""
        if self.log_z_ is None:
            raise NotFittedError(self, "score_samples")
        return self.unnormalised(X) - self.log_z_

    def resample(self, draws: ArrayLike, count: int, *, seed: int | np.random.Generator) -> np.ndarray:
        """Approximate draws: those of the base, drawn again with weights (sampling by importance)."""
        X = np.asarray(draws)
        weights = self.unnormalised(X) - np.asarray(self._log_density(X), dtype=np.float64)
        p = np.exp(weights - weights.max())
        return X[np.random.default_rng(seed).choice(len(X), count, p=p / p.sum())]
