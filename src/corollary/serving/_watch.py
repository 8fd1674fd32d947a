"""The certificate while it is served: checked at the start, watched by monitors, revoked when one of them is convinced.

A drift monitor sees every prompt that the policy routes, a mean monitor its costs, another the feedback. Each raises a
false alarm with probability at most alpha from the start of the gateway on; the drift monitor, whose memory grows with
what it has seen, is begun again after `EPOCH` prompts at the level 6 alpha / (pi^2 k^2) of the k-th epoch; these sum to
alpha.
A revocation is kept in the ledger and holds for this router until another is fitted.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from corollary.certificates import Certificate, Report, Status, load_certificate
from corollary.deferral.routing import DriftMonitor, MeanMonitor, PromptRouter
from corollary.errors import CorollaryError
from corollary.runs import read_tensors
from corollary.serving._certificate import explore

EPOCH = 20_000


class Watch:
    """Certificate, monitors, status.

    Args:
        folder: the router's run; None: no certificate.
        router: as served; its price must be the certified one.
        exploration: share of uniform draws.
        alpha: level of each monitor.
        served: run folders of local models, whose certificates join in.
        unit: of the gateway's money: where the router's costs are in it, true costs are watched.
    """

    def __init__(
        self, folder: Path | None, router: PromptRouter | None, *, exploration: float, alpha: float,
        served: Sequence[Path] = (), unit: str = "money",
    ) -> None:  # fmt: skip
        self.certificate: Certificate | None = None
        self.report: Report | None = None
        self.revoked = ""  # why; empty while it stands
        self.alpha, self.epoch, self.seen = alpha, 1, 0
        self.drift: DriftMonitor | None = None
        self.cost: MeanMonitor | None = None
        self.quality: MeanMonitor | None = None
        self.true_costs = router is not None and router.unit == unit
        self._scores: np.ndarray | None = None
        parts: list[Certificate] = []
        evidence: dict[str, np.ndarray] = {}
        if folder is not None and router is not None and (folder / "certificate.json").is_file():
            own, arrays = load_certificate(folder)
            if own.digest.get("router") == router.fingerprint(price=router.price):
                own = explore(own, arrays, exploration)
                parts.append(own)
                evidence |= {f"{own.key}/{n}": a for n, a in arrays.items()}
                self._monitors(folder, own, alpha)
        for place in served:
            if (place / "certificate.json").is_file():
                other, arrays = load_certificate(place)
                parts.append(other)
                for part in other.parts or (other,):
                    names = {n: a for n, a in arrays.items() if "/" not in n or n.startswith(f"{part.key}/")}
                    evidence |= {n if "/" in n else f"{part.key}/{n}": a for n, a in names.items()}
        for part in parts:
            self.certificate = part if self.certificate is None else self.certificate & part
        if self.certificate is not None:
            self.report = self.certificate.check(**evidence)

    def _monitors(self, folder: Path, own: Certificate, alpha: float) -> None:
        stored = next((p for p in (folder / "router", folder) if (p / "drift.safetensors").is_file()), None)
        if stored is not None:
            self._scores = read_tensors(stored / "drift.safetensors")["scores"]
            self._begin()
        claims = {c.name.split(",")[0]: c.rhs for c in own.claims}
        top = float(own.witness.get("ranges", {"cost": [0, 1]})["cost"][1])
        cost, quality = claims.get("mean cost per request"), claims.get("mean quality")
        if cost is not None and 0 < cost < top:
            self.cost = MeanMonitor(cost, top=top, alpha=alpha)
        if quality is not None and 0 < quality < 1:
            self.quality = MeanMonitor(quality, alpha=alpha, side="at least")

    def _begin(self) -> None:
        level = 6 * self.alpha / (math.pi**2 * self.epoch**2)
        self.drift = DriftMonitor(self._scores, alpha=level, seed=self.epoch)

    # what happened

    def saw(self, gap: float) -> None:
        """A prompt of the certified policy."""
        if self.drift is None:
            return
        self.seen += 1
        if self.drift.update(gap):
            self._revoke("prompts no longer look like those of the calibration")
        elif self.seen % EPOCH == 0:
            self.epoch += 1
            self._begin()

    def paid(self, cost: float) -> None:
        """What a request of the certified policy cost."""
        if self.cost is not None and self.cost.update(min(max(cost, 0.0), self.cost.top)):
            self._revoke("requests cost more than was certified")

    def judged(self, score: float) -> None:
        """Feedback on a request of the certified policy."""
        if self.quality is not None and self.quality.update(score):
            self._revoke("answers are worth less than was certified")

    def _revoke(self, why: str) -> None:
        self.revoked = self.revoked or why

    # what stands

    @property
    def status(self) -> str:
        """none, holds, violated, undecided, revoked."""
        if self.certificate is None or self.report is None:
            return "none"
        return "revoked" if self.revoked else self.report.status.name.lower()

    @property
    def confidence(self) -> float | None:
        """Of the statement while it stands; None otherwise."""
        return self.certificate.confidence if self.certificate is not None and self.status == "holds" else None

    def document(self) -> dict[str, Any]:
        """What `GET /v1/certificate` shows."""
        shown: dict[str, Any] = {"status": self.status, "confidence": self.confidence, "revoked": self.revoked or None}
        shown["monitors"] = {
            name: {"log_capital": round(m.log_capital, 6), "level": m.alpha, "revoked": m.revoked}
            for name, m in (("drift", self.drift), ("cost", self.cost), ("quality", self.quality))
            if m is not None
        }
        c = self.certificate
        if c is None or self.report is None:
            return shown | {"statement": None, "reason": "no certificate is served", "claims": [], "assumptions": []}
        return shown | {
            "statement": c.statement,
            "reason": self.revoked or self.report.reason,
            "claims": [
                {"name": x.name, "lhs": x.lhs, "relation": x.relation, "rhs": x.rhs, "holds": bool(x.holds)}
                for x in self.report.claims
            ],
            "assumptions": [{"text": a.text, "checked": a.checked or None} for a in c.assumptions],
            "parts": [p.rule for p in c.parts or (c,)],
        }


def status_names() -> tuple[str, ...]:
    """All that `Watch.status` can say."""
    return ("none", *(s.name.lower() for s in Status), "revoked")


def try_watch(*given: Any, **options: Any) -> tuple[Watch, str]:
    """A watch, and what was wrong with the certificate's files (then it watches nothing)."""
    try:
        return Watch(*given, **options), ""
    except CorollaryError as problem:
        empty = {k: v for k, v in options.items() if k != "served"}
        return Watch(None, given[1], **empty), str(problem)
