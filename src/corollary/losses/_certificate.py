r"""What losses certify, and how it is derived again; imports no solver and no trainer.

(i) `losses.excess_error` [confidence 1 - delta]: \(R_{01} - R^*_{01} + M_{01} \le \Gamma_\tau(U)\), with U an upper
confidence bound on the comp-sum risk, since conditional optima are not negative. The softmax is mixed with a little of
the uniform distribution, which keeps every prediction and bounds the loss. Counting errors on the same rows bounds the
same quantity, and in the population never by more: \(\Gamma_\tau(R_\tau) \ge R_{01}\), or the bound would fail where
labels are deterministic. So that number stands as `trivial`, and the status says that nothing was gained.

(ii) `losses.per_class_error` [confidence 1 - delta]: Clopper-Pearson limits on every class's error, jointly.

(iii) `losses.finite_world` [deterministic]: the excess form where every risk is exact.
"""

import contextlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from corollary.certificates import (
    Assumption,
    Certificate,
    Claim,
    Reference,
    Rule,
    Undecided,
    betting,
    clopper_pearson,
    digest,
    order_from_digest,
    register_rule,
    require_units,
)
from corollary.errors import InvalidInputError
from corollary.losses._comp_sum import comp_sum_optimum
from corollary.losses._softmax_rows import psi
from corollary.losses.consistency._transforms import comp_sum_inverse

EXACT = 1e-9  # round-off of sums over a world
PAPER = "Mao, Mohri, Zhong (ICML 2023)"


def excess_error(witness: Mapping[str, Any], evidence: Mapping[str, np.ndarray]) -> list[Claim]:
    """Derive (i) from `log_s` (N,), log-softmax of the true label, and `wrong` (N,), 1 where the prediction errs."""
    log_s, wrong = evidence["log_s"], evidence["wrong"]
    tau, n, mix, delta = (witness[k] for k in ("tau", "classes", "mix", "delta"))
    if not (log_s <= 1e-6).all() or not np.isin(wrong, (0, 1)).all() or len(log_s) != len(wrong):
        raise Undecided("`log_s` must be logarithms of probabilities, and `wrong` zeros and ones, one a row")
    require_units(len(log_s), "rows")
    if tau <= 1 and not mix > 0:
        raise Undecided(f"the loss at tau = {tau:g} is unbounded without mixing; set `mix` above zero")
    mixed = torch.from_numpy((1 - mix) * np.exp(np.minimum(log_s, 0.0)) + mix / n)
    high = float(psi(torch.log(torch.tensor(mix / n, dtype=torch.float64)), tau - 1)) if tau <= 1 else 1 / (tau - 1)
    losses = np.clip(psi(mixed.log(), tau - 1).numpy(), 0.0, high)
    order = order_from_digest(digest(log_s=log_s, wrong=wrong), len(losses))  # betting depends on it: nobody chose it
    upper = float(betting(losses[order], delta=delta, low=0.0, high=high, side="upper").upper)
    counted = float(clopper_pearson(int(wrong.sum()), len(wrong), delta=delta, side="upper").upper)
    excess = float(comp_sum_inverse(upper, tau=tau, classes=n))
    return [Claim("error above the least conditional error", excess, "<=", witness["limit"], EXACT, counted)]


def per_class_error(witness: Mapping[str, Any], evidence: Mapping[str, np.ndarray]) -> list[Claim]:
    """Derive (ii) from `target` and `predicted`, both (N,)."""
    y, guess, n = evidence["target"], evidence["predicted"], witness["classes"]
    if y.shape != guess.shape or y.ndim != 1 or not ((y >= 0) & (y < n)).all():
        raise Undecided(f"`target` and `predicted` must be (N,) labels from 0 to {n - 1}")
    claims = []
    for k in range(n):
        here = y == k
        require_units(int(here.sum()), f"rows of class {k}")
        wrong = int((guess[here] != k).sum())
        upper = float(clopper_pearson(wrong, int(here.sum()), delta=witness["delta"] / n, side="upper").upper)
        claims.append(Claim(f"error of class {k}", upper, "<=", witness["limits"][k], EXACT, 1.0))
    mean = float(np.mean([c.lhs for c in claims]))
    claims.append(Claim("balanced error", mean, "<=", float(np.mean(witness["limits"])), EXACT, 1 - 1 / n))
    return claims


def finite_world(witness: Mapping[str, Any], evidence: Mapping[str, np.ndarray]) -> list[Claim]:
    """Derive (iii) from `point` (m,), `eta` (m, n), `scores` (m, n)."""
    point, eta, scores, tau = evidence["point"], evidence["eta"], evidence["scores"], witness["tau"]
    n = eta.shape[1]
    regret = float(point @ (eta.max(1) - np.take_along_axis(eta, scores.argmax(1)[:, None], 1)[:, 0]))
    losses = psi(torch.log_softmax(torch.from_numpy(scores), -1), tau - 1).numpy()
    least = comp_sum_optimum(torch.from_numpy(eta), tau=tau).numpy()
    excess = float(point @ ((eta * losses).sum(1) - least))
    bound = float(comp_sum_inverse(max(0.0, excess), tau=tau, classes=n))
    return [Claim("error above the Bayes error", regret, "<=", bound, EXACT, 1.0)]


register_rule(Rule("losses.excess_error", needs=("log_s", "wrong"), derive=excess_error, tolerances={"log_s": 1e-4}))
register_rule(Rule("losses.per_class_error", needs=("target", "predicted"), derive=per_class_error))
register_rule(Rule("losses.finite_world", needs=("point", "eta", "scores"), derive=finite_world))


def excess_evidence(logits: Any, target: Any) -> dict[str, np.ndarray]:
    """The evidence of `losses.excess_error`: log-softmax of the true label and errors, one a row.

    Guarantee: none; see the functions that use it.

    Example:
        >>> excess_evidence(torch.zeros(2, 2), torch.tensor([0, 1]))["wrong"].tolist()
        [0, 1]
    """
    z, y = torch.as_tensor(logits).detach().double(), torch.as_tensor(target)
    if z.ndim != 2 or y.shape != z.shape[:1] or not len(y) or not bool(torch.isfinite(z).all()):
        raise InvalidInputError(
            f"need finite logits (N, n) and labels (N,), N at least 1; got shapes {tuple(z.shape)} and {tuple(y.shape)}"
        )
    log_s = torch.log_softmax(z, -1).gather(1, y[:, None].long())[:, 0]
    return {"log_s": log_s.numpy(), "wrong": (z.argmax(1) != y).long().numpy()}


def excess_certificate(
    logits: Any,
    target: Any,
    *,
    tau: float = 1.0,
    delta: float = 0.05,
    mix: float | None = None,
    attempts: int = 1,
) -> Certificate:
    r"""Certify the error above the least conditional error from held-out scores.

    .. math:: R_{01} - R^*_{01} + M_{01} \le \Gamma_\tau(\overline{R_\tau})

    Args:
        logits: (N, n) held-out scores.
        target: (N,) labels.
        tau: index of the comp-sum loss it is derived from.
        delta: probability of failure.
        mix: share of the uniform distribution mixed in, which bounds the loss and keeps every prediction; default .01
            for tau <= 1, else 0.
        attempts: how often statements were drawn from these rows.

    Returns:
        A `Certificate` of the rule `losses.excess_error`; its evidence is `excess_evidence(logits, target)`.

    Guarantee: holds with probability 1 - delta for independent rows that nothing was trained or chosen on. Counting
        errors on the same rows is tighter (`trivial` in the claim, and in the statement), and the status says so: it
        shows what the loss alone implies, and is no way to certify a model.

    Example:
        >>> z = torch.tensor([[6.0, 0.0]]).repeat(400, 1)
        >>> certificate = excess_certificate(z, torch.zeros(400, dtype=torch.long), tau=2.0)
        >>> certificate.check(**excess_evidence(z, torch.zeros(400, dtype=torch.long))).status.name
        'HOLDS'

    Reference: Mao, Mohri, Zhong (ICML 2023); the certificate on data is ours.
    """
    evidence, n = excess_evidence(logits, target), int(torch.as_tensor(logits).shape[1])
    mix = (0.01 if tau <= 1 else 0.0) if mix is None else mix
    witness = {"tau": float(tau), "classes": n, "mix": float(mix), "delta": float(delta), "limit": 1.0}
    counted = 1.0
    with contextlib.suppress(Undecided):  # `issue` records the reason
        claim = excess_error(witness, evidence)[0]
        witness["limit"], counted = claim.lhs, float(claim.trivial or 0.0)
    return Certificate.issue(
        "losses.excess_error",
        statement=f"The error exceeds the least conditional error by at most {witness['limit']:.4g}, says the loss; "
        f"counting errors on the same rows says {counted:.4g}.",
        evidence=evidence,
        witness=witness,
        reference=Reference(PAPER, "comp-sum consistency bound", "from notes; certificate ours"),
        assumptions=[Assumption("rows are drawn independently from the distribution of use"), _fresh()],
        confidence=1 - delta,
        attempts=attempts,
    )


def class_error_certificate(
    target: Any, predicted: Any, *, classes: int, delta: float = 0.05, attempts: int = 1
) -> Certificate:
    r"""Certify the error of every class, and the balanced error, from held-out predictions.

    .. math:: P(h(x) \ne k \mid y = k) \le U_k \text{ for all } k, \text{ each at level } \delta/n

    Args:
        target: (N,) labels, at least 30 of every class.
        predicted: (N,) predictions.
        classes: n.
        delta: probability that any limit fails.
        attempts: how often statements were drawn from these rows.

    Returns:
        A `Certificate` of the rule `losses.per_class_error`; its evidence is `target` and `predicted`.

    Guarantee: exact binomial limits, for rows independent given their class.

    Example:
        >>> y = [0] * 40 + [1] * 40
        >>> certificate = class_error_certificate(y, y, classes=2)
        >>> certificate.check(target=y, predicted=y).status.name
        'HOLDS'

    Reference: Clopper and Pearson (1934).
    """
    evidence = {"target": np.asarray(target), "predicted": np.asarray(predicted)}
    witness: dict[str, Any] = {"classes": int(classes), "delta": float(delta), "limits": [1.0] * int(classes)}
    with contextlib.suppress(Undecided):  # `issue` records the reason
        witness["limits"] = [c.lhs for c in per_class_error(witness, evidence)[:-1]]
    worst = max(witness["limits"])
    return Certificate.issue(
        "losses.per_class_error",
        statement=f"No class has an error above {worst:.4g}, and the balanced error is at most "
        f"{float(np.mean(witness['limits'])):.4g}.",
        evidence=evidence,
        witness=witness,
        reference=Reference("Clopper and Pearson (1934)", "exact binomial limits, Bonferroni over classes", "textbook"),
        assumptions=[Assumption("rows are drawn independently given their class"), _fresh()],
        confidence=1 - delta,
        attempts=attempts,
    )


def _fresh() -> Assumption:
    return Assumption("nothing was trained or chosen on these rows")
