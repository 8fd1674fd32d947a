r"""The robust gate trained from scored documents: a stochastic primal-dual method.

Symbols: gate \(g_\theta\), model \(\pi_g(x) = \sum_k g(x, k) q_k(x)\), normaliser Z, mixture \(\lambda\), multiplier
\(\mu\) of Z = 1, augmentation \(\rho\); payoffs and Lagrangian as in `_game.py`. One step descends in theta, ascends in
lambda by multiplicative weights, and ascends in mu on [0, M]. Averages of the iterates are what is kept.

Experts are only ever scored, never run: (N, p) log-likelihoods are all that a step needs.

Source: arXiv:2602.17554, section 5.2 (known by its title only); algorithm and defaults derived, the authors' may
differ.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import ArrayLike
from torch import Tensor

from corollary.errors import InvalidFileError, InvalidInputError, NotFittedError
from corollary.gating._document_encoders import ENCODERS, EncodedGate, TokenRows
from corollary.gating._game import Game, make_game
from corollary.gating._gates import NetworkGate, TabularGate
from corollary.gating._normaliser import (
    Normaliser,
    estimate,
    log_density,
    per_expert_ratios,
    pooled_ratios,
)  # fmt: skip
from corollary.gating._primal_dual import PrimalDual, Settings
from corollary.gating._rows import Rows, Samples, inputs, scores
from corollary.gating._scores import ExpertScores
from corollary.runs import read_json, read_tensors, write_json, write_tensors


class RobustGate:
    r"""A gate over frozen experts, trained to be close in KL to the worst mixture of the domains.

    .. math:: \min_{g : Z(g) = 1} \max_{\lambda \in \Lambda} \sum_k \lambda_k s_k (\mathrm{CE}_k(g) - h_k)

    Args:
        gate: "network" (perceptron on features and log-likelihood differences); "ngram", "gru" or "transformer" (the
            same on an encoding of the text: `features` are then `Documents`); or "tabular" (free weights per state;
            `features` are then state numbers).
        objective: "sequence", or "token": each domain's excess divided by its mean length. The latter is another
            objective: long domains no longer dominate.
        entropy: h_k, which make cross-entropies divergences: "expert" (the own expert's cross-entropy, so the payoff is
            the excess over it), "empirical" (of the rows given), or (p,) values in nats. Moves the mixture, not the
            gate's gradient.
        normalisation: "dual" (a multiplier for Z = 1), "free" (minimise CE + log Z; for noisy Z), or "none" (no samples
            needed; the model then need not sum to one, and is no probability).
        estimator: of Z: "pooled" (less variance) or "per_expert" (needs `samples_expert`).
        hidden: widths of the perceptron.
        steps: training steps.
        batch_size: rows per domain and step; None uses all rows.
        sample_batch_size: samples a step; None uses all.
        optimizer: of a network, a name of `corollary.optim.make_optimizer`, e.g. "leon".
        rate: of a network; for a tabular gate the mirror step is `rate * states / sqrt(t)`. None: 3e-3 or
            0.5.
        rate_mixture: step of the mixture, over sqrt(t) and over the largest spread of payoffs seen (at least 1).
        rate_multiplier: step of mu, over sqrt(t).
        rho: weight of the augmentation (rho / 2)(Z - 1)^2.
        gate_floor: gamma; every weight is at least gamma / p, which bounds the losses.
        mixture_floor: c; the weight of an extreme mixture is lifted to c / m where it falls below.
        multiplier_cap: M.
        decay: of the averaged network parameters.
        mixtures: (m, p) extreme mixtures, where not all mixtures matter.
        diversity: (m,) Jensen-Shannon divergence of the domains under each extreme mixture; the weights'
            entropy where None, which is right for domains that share no sequence.
        checkpoints: how often progress is measured.

    Raises:
        InvalidInputError: for options without meaning.

    Guarantee: for a tabular gate, `history_["gap"]` bounds how far the averaged gate is from the best one on these rows
        and samples, and is at most `history_["regret"]`; both fall like 1/sqrt(steps) on full batches. None for a
        network.

    Example:
        >>> q = np.array([[0.8, 0.2], [0.2, 0.8]])
        >>> rows, samples = np.tile([0, 1], 2), np.array([0, 1])
        >>> gate = RobustGate(
        ...     gate="tabular", entropy="empirical", steps=200, batch_size=None, sample_batch_size=None)
        >>> gate = gate.fit(
        ...     np.log(q[:, rows].T), np.repeat([0, 1], 2), features=rows, weight=[0.9, 0.1, 0.1, 0.9],
        ...     samples_log_likelihoods=np.log(q[:, samples].T), samples_features=samples,
        ...     samples_weight=[0.5, 0.5])
        >>> gate.mixture_.round(2).tolist(), abs(gate.normaliser_.value - 1) < 0.05
        ([0.5, 0.5], True)

    Reference: arXiv:2602.17554, section 5 by title; derived, may differ.
    """

    def __init__(
        self,
        *,
        gate: str = "network",
        objective: str = "sequence",
        entropy: str | ArrayLike = "expert",
        normalisation: str = "dual",
        estimator: str = "pooled",
        hidden: tuple[int, ...] = (64,),
        steps: int = 2000,
        batch_size: int | None = 32,
        sample_batch_size: int | None = 256,
        rate: float | None = None,
        rate_mixture: float = 0.5,
        rate_multiplier: float = 0.5,
        rho: float = 0.0,
        gate_floor: float = 1e-3,
        mixture_floor: float = 1e-3,
        multiplier_cap: float = 10.0,
        decay: float = 0.999,
        mixtures: ArrayLike | None = None,
        diversity: ArrayLike | None = None,
        checkpoints: int = 20,
        optimizer: str = "adamw",
    ) -> None:
        for name, value, allowed in (
            ("gate", gate, ("network", "tabular", *ENCODERS)),
            ("objective", objective, ("sequence", "token")),
            ("normalisation", normalisation, ("dual", "free", "none")),
            ("estimator", estimator, ("pooled", "per_expert")),
            *([("entropy", entropy, ("expert", "empirical"))] if isinstance(entropy, str) else []),
        ):
            if value not in allowed:
                raise InvalidInputError(f"`{name}` must be one of {', '.join(map(repr, allowed))}, got {value!r}")
        if not (0 <= gate_floor < 1 and 0 <= mixture_floor < 1 and 0 <= decay < 1 and rho >= 0):
            raise InvalidInputError("floors and `decay` must lie in [0, 1), and `rho` must not be negative")
        if min(steps, checkpoints, batch_size or 1, sample_batch_size or 1) < 1 or not multiplier_cap >= 1:
            raise InvalidInputError("`steps`, `checkpoints` and batch sizes must be at least 1, `multiplier_cap` too")
        self.gate, self.entropy, self.hidden = gate, entropy, tuple(hidden)
        self.mixtures, self.diversity, self.objective = mixtures, diversity, objective
        step = rate if rate is not None else (0.5 if gate == "tabular" else 3e-3)
        self.settings = Settings(
            normalisation=normalisation, estimator=estimator, steps=steps, batch_size=batch_size,
            sample_batch_size=sample_batch_size, rate=step,
            rate_mixture=rate_mixture, rate_multiplier=rate_multiplier, rho=rho, gate_floor=gate_floor,
            mixture_floor=mixture_floor, multiplier_cap=multiplier_cap, decay=decay, checkpoints=checkpoints,
            optimizer=optimizer,
        )  # fmt: skip

    @property
    def tabular(self) -> bool:
        """Whether the gate is a table."""
        return self.gate == "tabular"

    def fit(
        self,
        log_likelihoods: Any,
        domain: Any,
        *,
        features: Any = None,
        lengths: Any = None,
        weight: Any = None,
        samples_log_likelihoods: Any = None,
        samples_features: Any = None,
        samples_expert: Any = None,
        samples_weight: Any = None,
        validation: Mapping[str, Any] | None = None,
        seed: int = 0,
        resume: bool = False,
        until: int | None = None,
        progress: Callable[[dict[str, float]], object] | None = None,
    ) -> "RobustGate":
        """Train the gate.

        Args:
            log_likelihoods: (N, p) of each document under each expert, in nats; or their `ExpertScores` or
                `ScoreCache`, which give the lengths too.
            domain: (N,) domain of each document, 0 .. p - 1.
            features: (N, d) further inputs of a network; (N,) state numbers for a tabular gate; the `Documents` for
                one that reads them.
            lengths: (N,) tokens of each document, for objective="token".
            weight: (N,) weights of the rows inside their domains.
            samples_log_likelihoods: (S, p) of sequences drawn from the experts, equally many of each; needed
                for Z.
            samples_features: (S, d) or (S,) as `features`.
            samples_expert: (S,) which expert each sample was drawn from.
            samples_weight: (S,) for a weighted census of a finite space: the proposal's mass of each point.
            validation: held-out documents for the mixture's steps and the expert entropies: a mapping with
                `log_likelihoods`, `domain`, and where used `features`, `weight`. It keeps an over-fitting
                gate from hiding a domain.
            seed: of the initial network and of the draws.
            resume: go on from where this gate stopped (after `load`, or an earlier `until`), with the same
                data.
            until: stop at this step, earlier than `steps`.
            progress: called with the numbers of each checkpoint.

        Returns:
            self, with `mixture_` (p,), `multiplier_`, `history_`, `normaliser_` (value and standard error on all
            samples).

        Raises:
            InvalidInputError: for shapes that do not fit, impossible rows, domains without rows, or absent
            samples.

        Guarantee: the same seed and data give the same gate, also over an interruption.
        """
        if lengths is None and isinstance(log_likelihoods, ExpertScores):
            lengths = getattr(log_likelihoods, "lengths", np.diff(log_likelihoods.offsets))
        rows = Rows.make(log_likelihoods, domain, features, weight, tabular=self.tabular)
        if self.gate in ENCODERS and not isinstance(rows.features, TokenRows):
            raise InvalidInputError(f"gate={self.gate!r} reads the text: pass the `Documents` as `features`")
        experts, device = rows.logq.shape[1], rows.logq.device
        held_out = None
        if validation is not None:
            held_out = Rows.make(
                validation["log_likelihoods"], validation["domain"], validation.get("features"),
                validation.get("weight"),
                tabular=self.tabular, domains=rows.domains,
            )  # fmt: skip
        samples = None
        if samples_log_likelihoods is not None:
            samples = Samples.make(
                samples_log_likelihoods, samples_features, samples_expert, samples_weight, experts=experts,
                tabular=self.tabular, device=device,
            )  # fmt: skip
        self._check_samples(samples)
        game = make_game(
            rows, held_out, lengths, entropy_rule=self.entropy, objective=self.objective,
            mixtures=self.mixtures, diversity=self.diversity, tabular=self.tabular,
        )  # fmt: skip
        if not (resume and hasattr(self, "trainer_")):
            self._start(rows, held_out, samples, game, seed)
        self.trainer_.run(rows, held_out, samples, game, until=until or self.settings.steps, progress=progress)
        return self._finish(game, samples)

    def _check_samples(self, samples: Samples | None) -> None:
        if samples is None and self.settings.normalisation != "none":
            raise InvalidInputError(
                "the normaliser cannot be estimated from documents: pass `samples_log_likelihoods` of "
                "sequences drawn from "
                "the experts, or normalisation='none'"
            )
        if samples is not None and self.settings.estimator == "per_expert" and samples.expert is None:
            raise InvalidInputError(
                "estimator='per_expert' needs `samples_expert`, the expert that each sample came from"
            )

    def _start(self, rows: Rows, held_out: Rows | None, samples: Samples | None, game: Game, seed: int) -> None:
        experts = rows.logq.shape[1]
        if self.tabular:
            parts = [r.features.max() for r in (rows, held_out, samples) if r is not None]
            self.size_ = int(torch.stack(parts).max()) + 1
        else:
            self.size_ = max(r.features.shape[1] for r in (rows, held_out, samples) if r is not None)
        self.experts_, self.domains_ = experts, rows.domains
        self.trainer_ = PrimalDual(self._module(seed), len(game.mixtures), self.settings, seed)
        if isinstance(self.trainer_.gate, NetworkGate):
            self.trainer_.gate.standardise(rows.features)
        self.trainer_.to(rows.logq.device)

    def _module(self, seed: int) -> TabularGate | NetworkGate | EncodedGate:
        floor = self.settings.gate_floor
        if self.tabular:
            return TabularGate(self.size_, self.experts_, floor=floor)
        with torch.random.fork_rng(devices=[]):  # initial weights from the seed, the caller's state untouched
            torch.manual_seed(seed)
            if self.gate in ENCODERS:
                return EncodedGate(self.gate, self.size_, self.experts_, hidden=self.hidden, floor=floor)
            return NetworkGate(self.size_, self.experts_, hidden=self.hidden, floor=floor)

    def _finish(self, game: Game, samples: Samples | None) -> "RobustGate":
        average = self.trainer_.mixture()
        self.mixture_ = (average @ game.mixtures).cpu().numpy()
        self.multiplier_ = self.trainer_.multiplier()
        self.history_ = {name: np.array(values) for name, values in self.trainer_.history.items()}
        self.normaliser_ = Normaliser(1.0, float("nan"))
        if samples is not None:
            with torch.no_grad():
                self.normaliser_ = self._estimate(samples)
        return self

    def _estimate(self, samples: Samples) -> Normaliser:
        log_gate = self._log_gate(samples.logq, samples.features)
        if self.settings.estimator == "per_expert" and samples.expert is not None:
            return estimate(per_expert_ratios(log_gate, samples.expert, samples.shares), samples.weight)
        return estimate(pooled_ratios(log_gate, samples.logq, samples.shares), samples.weight)

    def _log_gate(self, logq: Tensor, features: Any) -> Tensor:
        return self.trainer_.averaged(logq, features)

    def _inputs(self, method: str, log_likelihoods: Any, features: Any) -> tuple[Tensor, Any]:
        if not hasattr(self, "trainer_"):
            raise NotFittedError(self, method)
        logq = scores("log_likelihoods", log_likelihoods)
        x = inputs(features, len(logq), tabular=self.tabular, device=logq.device)
        width = int(x.max()) + 1 if self.tabular else x.shape[1]
        bounded = self.tabular or self.gate in ENCODERS  # states and tokens may be fewer
        if logq.shape[1] != self.experts_ or (width > self.size_ if bounded else width != self.size_):
            raise InvalidInputError(
                f"the gate was fitted on {self.experts_} experts and {self.size_} "
                f"{'states' if self.tabular else 'features'}, got {logq.shape[1]} and {width}"
            )
        return logq, x

    @torch.no_grad()
    def log_gate(self, log_likelihoods: Any, features: Any = None) -> Float[Tensor, "n p"]:
        """Log-weights of the averaged gate for each row; (N, p), rows sum to one."""
        return self._log_gate(*self._inputs("log_gate", log_likelihoods, features))

    @torch.no_grad()
    def log_density(
        self, log_likelihoods: Any, features: Any = None, *, normalised: bool = True
    ) -> Float[Tensor, " n"]:
        """Log-likelihood (N,) in nats of each row under the gated model over the Z of `normaliser_`."""
        logq, x = self._inputs("log_density", log_likelihoods, features)
        shift = float(np.log(self.normaliser_.value)) if normalised else 0.0
        return log_density(self._log_gate(logq, x), logq) - shift

    @torch.no_grad()
    def estimate_normaliser(
        self, log_likelihoods: Any, features: Any = None, *, expert: Any = None, weight: Any = None
    ) -> Normaliser:
        """Z of the averaged gate and its standard error, on fresh samples; best ten times as many."""
        logq, _ = self._inputs("estimate_normaliser", log_likelihoods, features)
        return self._estimate(
            Samples.make(
                logq, features, expert, weight, experts=self.experts_, tabular=self.tabular, device=logq.device
            )
        )

    def state_dict(self) -> dict[str, Tensor]:
        """Everything that training needs to go on, as flat tensors."""
        if not hasattr(self, "trainer_"):
            raise NotFittedError(self, "state_dict")
        return self.trainer_.state_dict()

    def save(self, folder: str | Path) -> Path:
        """Write `gate.json` and `gate.safetensors` into a folder; `load` reads them back."""
        state = self.state_dict()
        target = Path(folder)
        target.mkdir(parents=True, exist_ok=True)
        options = {name: _plain(value) for name, value in self._options().items()}
        sizes = {n: int(getattr(self, n)) for n in ("size_", "experts_", "domains_")}
        fitted = {
            "mixture_": self.mixture_.tolist(), "multiplier_": self.multiplier_, "extremes":
            len(self.trainer_.weights), "normaliser_": [repr(float(v)) for v in self.normaliser_],
        }  # fmt: skip
        write_tensors(target / "gate.safetensors", {n: t.cpu().numpy() for n, t in state.items()})
        write_json(target / "gate.json", {"format": 1, "options": options, "sizes": sizes, "fitted": fitted})
        return target

    @classmethod
    def load(cls, folder: str | Path) -> "RobustGate":
        """Read a gate that `save` wrote; `fit(..., resume=True)` goes on where it stopped."""
        path = Path(folder) / "gate.json"
        data = read_json(path)
        tensors = read_tensors(path.with_suffix(".safetensors"))
        try:
            if data["format"] != 1:
                raise InvalidFileError(path, f"written in format {data['format']!r}", "upgrade corollary")
            options: dict[str, Any] = {k: tuple(v) if k == "hidden" else v for k, v in data["options"].items()}
            gate, fitted = cls(**options), data["fitted"]
            for name in ("size_", "experts_", "domains_"):
                setattr(gate, name, int(data["sizes"][name]))
            gate.trainer_ = PrimalDual(gate._module(0), int(fitted["extremes"]), gate.settings, 0)
            gate.trainer_.load_state_dict({n: torch.from_numpy(a) for n, a in tensors.items()})
            gate.mixture_ = np.array(fitted["mixture_"], dtype=np.float64)
            gate.multiplier_ = float(fitted["multiplier_"])
            gate.normaliser_ = Normaliser(*(float(v) for v in fitted["normaliser_"]))
        except (KeyError, TypeError, IndexError, RuntimeError, AttributeError) as problem:
            raise InvalidFileError(path, f"not a saved gate ({problem!r})", "save it again") from None
        gate.history_ = {name: np.array(values) for name, values in gate.trainer_.history.items()}
        return gate

    def _options(self) -> dict[str, Any]:
        own = ("gate", "objective", "entropy", "hidden", "mixtures", "diversity")
        return {name: getattr(self, name) for name in own} | vars(self.settings)


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, str | int | float):
        return value
    return np.asarray(value).tolist()
