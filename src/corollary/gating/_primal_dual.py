r"""The loop of the primal-dual trainer: steps, averages, regrets, checkpoints, and a state to store.

Symbols: at step t the gate \(g_t\), weights \(\lambda_t\) over the extreme mixtures, multiplier \(\mu_t\). Averages and
regrets run over
a window that starts anew at a half, a quarter, an eighth ... of the steps, so that it ends as the last half.

.. math:: \max_{\lambda, \mu} L(\bar g, \lambda, \mu) - \min_g L(g, \bar\lambda, \bar\mu)
          \le \tfrac1T (\mathrm{Reg}_\lambda + \mathrm{Reg}_\mu + \mathrm{Reg}_g)

for a gate in which L is convex (a tabular one) and exact payoffs. Standard; derived here.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from corollary.errors import InvalidInputError
from corollary.gating._distributed import add_gradients, part, ranks, total
from corollary.gating._game import Game, TabularDual
from corollary.gating._gates import NetworkGate, TabularGate
from corollary.gating._normaliser import estimate, log_density, per_expert_ratios, pooled_ratios
from corollary.gating._rows import Rows, Samples
from corollary.optim import make_optimizer

CHUNK, CHUNK_DOCUMENTS = 65536, 512  # rows whose hidden layers are held at once
COLUMNS = (
    *("step", "worst", "at_mixture", "normaliser", "normaliser_error", "multiplier", "primal", "dual", "gap"),
    *("regret", "regret_mixture", "regret_multiplier", "regret_gate"),
)


@dataclass(frozen=True)
class Settings:
    """The options of the loop; see `RobustGate`."""

    normalisation: str
    estimator: str
    steps: int
    batch_size: int | None
    sample_batch_size: int | None
    rate: float
    rate_mixture: float
    rate_multiplier: float
    rho: float
    gate_floor: float
    mixture_floor: float
    multiplier_cap: float
    decay: float
    checkpoints: int
    optimizer: str = "adamw"


class PrimalDual:
    """The state of training, and its step."""

    def __init__(self, gate: TabularGate | nn.Module, extremes: int, settings: Settings, seed: int) -> None:
        self.gate, self.settings = gate, settings
        self.generator = torch.Generator().manual_seed(seed)
        self.step = 0
        self.weights = torch.full((extremes,), 1 / extremes, dtype=torch.float64)
        self.mu = 1.0 if settings.normalisation == "dual" else 0.0
        self.spread = 1e-3  # the largest spread of payoffs seen
        self.history: dict[str, list[float]] = {name: [] for name in COLUMNS}
        self.average = {name: p.detach().clone() for name, p in gate.named_parameters()}
        if isinstance(gate, TabularGate):
            self.average["log_weights"].exp_()
        else:
            decay = {"weight_decay": 0.01} if settings.optimizer == "adamw" else {}  # torch's own default
            self.optimizer = make_optimizer(settings.optimizer, gate, lr=settings.rate, seed=seed, **decay)
        self._restart()

    def _restart(self) -> None:
        """Begin a window: sums of weights, multiplier, payoffs, Z - 1, and of the terms of the Lagrangian."""
        zeros = torch.zeros_like(self.weights)
        self.sums: dict[str, Tensor] = {"weights": zeros.clone(), "payoffs": zeros.clone()}
        for name in ("count", "multiplier", "excess", "played_mixture", "played_multiplier"):
            self.sums[name] = torch.zeros((), dtype=torch.float64, device=zeros.device)

    def to(self, device: torch.device) -> None:
        """Move everything but the generator."""
        self.gate.to(device)
        self.weights = self.weights.to(device)
        self.average = {n: a.to(device) for n, a in self.average.items()}
        self._restart()

    def mixture(self) -> Float[Tensor, " m"]:
        """Averaged weights over the extreme mixtures."""
        return self.sums["weights"] / self.sums["count"] if self.sums["count"] > 0 else self.weights

    def multiplier(self) -> float:
        """Averaged multiplier."""
        return float(self.sums["multiplier"] / self.sums["count"]) if self.sums["count"] > 0 else self.mu

    def averaged(self, logq: Tensor, features: Any) -> Float[Tensor, "n p"]:
        """Log-weights of the averaged gate."""
        if isinstance(self.gate, TabularGate):
            return self.gate.log_gate(self.average["log_weights"].log(), features)
        size = CHUNK if isinstance(self.gate, NetworkGate) else CHUNK_DOCUMENTS
        parts = zip(logq.split(size), features.split(size), strict=True)
        return torch.cat([torch.func.functional_call(self.gate, self.average, (q, f)) for q, f in parts])

    def run(
        self, rows: Rows, held_out: Rows | None, samples: Samples | None, game: Game, *, until: int,
        progress: Callable[[dict[str, float]], object] | None,
    ) -> None:  # fmt: skip
        """Train up to step `until`."""
        dual = None
        if isinstance(self.gate, TabularGate) and samples is not None and self.settings.normalisation == "dual":
            states = len(self.gate.log_weights)
            dual = TabularDual(rows, samples, game, states=states, floor=self.settings.gate_floor)
        total = self.settings.steps
        every = max(1, total // self.settings.checkpoints)
        restarts = {total >> i for i in range(1, total.bit_length())}
        while self.step < min(until, total):
            self._step(rows, held_out, samples, game)
            if self.step % every == 0 or self.step == total:
                record = self._measure(held_out or rows, rows, samples, game, dual)
                for name in COLUMNS:
                    self.history[name].append(record[name])
                if progress is not None:
                    progress(record)
            if self.step in restarts:
                self._restart()

    def _step(self, rows: Rows, held_out: Rows | None, samples: Samples | None, game: Game) -> None:
        s, t = self.settings, self.step + 1
        table = None
        if isinstance(self.gate, TabularGate):
            table = self.gate.log_weights.detach().exp().requires_grad_()
        ce = self._cross_entropies(rows, table)
        z = self._normaliser(samples, table)
        if not torch.isfinite(ce).all():
            raise InvalidInputError(
                f"a loss is infinite at step {t}: the gate puts all weight on experts that exclude a row; "
                f"raise `gate_floor`"
            )
        loss = game.weights(self.weights) @ ce
        if z is not None and s.normalisation == "dual":
            loss = loss + game.unit * (self.mu + s.rho * (z.detach() - 1)) * z
        elif z is not None:
            loss = loss + game.weights(self.weights).sum() * z.log()
        if table is not None:
            loss.backward()
            add_gradients([table])
            assert table.grad is not None
            self._mirror_step(table.grad, t)
        else:
            self.optimizer.zero_grad()
            loss.backward()
            add_gradients(self.gate.parameters())
            self.optimizer.step()
        with torch.no_grad():
            seen = ce.detach() if held_out is None else self._cross_entropies(held_out, table)
            if z is not None and s.normalisation == "free":
                seen = seen + z.detach().log()
            self._ascend(game.payoffs(seen), None if z is None else z.detach(), game.unit, t)
            self._average(table)
        self.step = t

    def _mirror_step(self, gradient: Tensor, t: int) -> None:
        """Multiplicative weights at every state, on the gradient in the weights themselves."""
        assert isinstance(self.gate, TabularGate)
        with torch.no_grad():
            logits = self.gate.log_weights - self.settings.rate * len(gradient) / t**0.5 * gradient
            self.gate.log_weights.copy_(torch.log_softmax(logits, -1))

    def _ascend(self, payoffs: Tensor, z: Tensor | None, unit: float, t: int) -> None:
        """Count what was played, then move the mixture and the multiplier."""
        s, sums = self.settings, self.sums
        excess = torch.zeros_like(sums["excess"]) if z is None else unit * (z - 1)
        sums["count"] += 1
        sums["weights"] += self.weights
        sums["payoffs"] += payoffs
        sums["multiplier"] += self.mu
        sums["excess"] += excess
        sums["played_mixture"] += self.weights @ payoffs
        sums["played_multiplier"] += self.mu * excess
        self.spread = max(self.spread, float(payoffs.max() - payoffs.min()))
        logits = self.weights.log() + s.rate_mixture / (self.spread * t**0.5) * payoffs
        # A floor that only acts below it: mixing in the uniform weights at every step would, once the steps
        # are small,
        # pull harder than the payoffs and leave a bias (1 to 2 % of the value in our worlds).
        floored = torch.softmax(logits, -1).clamp_min(s.mixture_floor / len(payoffs))
        self.weights = floored / floored.sum()
        if z is not None and s.normalisation == "dual":
            self.mu = min(max(self.mu + s.rate_multiplier / t**0.5 * float(z - 1), 0.0), s.multiplier_cap)

    def _average(self, table: Tensor | None) -> None:
        if table is not None:
            mean = self.average["log_weights"]
            mean += (table.detach() - mean) / self.sums["count"]
            return
        rate = 1 - min(self.settings.decay, (1 + self.step) / (10 + self.step))
        for name, parameter in self.gate.named_parameters():
            self.average[name].lerp_(parameter.detach(), rate)

    def _gate(self, logq: Tensor, features: Any, table: Tensor | None) -> Tensor:
        if isinstance(self.gate, TabularGate) and table is not None:
            return self.gate.log_gate(table.log(), features)
        return self.gate(logq, features)

    def _cross_entropies(self, rows: Rows, table: Tensor | None) -> Float[Tensor, " p"]:
        size = self.settings.batch_size
        if size is None:
            if ranks()[1] > 1:
                rows = rows.some(part(len(rows)))
            return total(rows.means(-log_density(self._gate(rows.logq, rows.features, table), rows.logq)))
        drawn = rows.draw(size, self.generator)[:, part(size)]
        logq = rows.logq[drawn.reshape(-1)]
        log_g = self._gate(logq, rows.features[drawn.reshape(-1)], table)
        return total(-log_density(log_g, logq).reshape(drawn.shape).sum(1)) / size

    def _normaliser(self, samples: Samples | None, table: Tensor | None) -> Tensor | None:
        s = self.settings
        if samples is None or s.normalisation == "none":
            return None
        logq, features, expert, weight = samples.logq, samples.features, samples.expert, samples.weight
        if s.sample_batch_size is not None:
            drawn = samples.draw(s.sample_batch_size, self.generator)
            logq, features, weight = logq[drawn], features[drawn], None
            expert = None if expert is None else expert[drawn]
        mass = len(logq) if weight is None else weight.sum()
        if ranks()[1] > 1:
            here = part(len(logq))
            logq, features = logq[here], features[here]
            expert, weight = (None if v is None else v[here] for v in (expert, weight))
        log_g = self._gate(logq, features, table)
        if s.estimator == "per_expert" and expert is not None:
            ratios = per_expert_ratios(log_g, expert, samples.shares)
        else:
            ratios = pooled_ratios(log_g, logq, samples.shares)
        return total(ratios.sum() if weight is None else weight @ ratios) / mass

    @torch.no_grad()
    def _measure(
        self, judged: Rows, rows: Rows, samples: Samples | None, game: Game, dual: TabularDual | None
    ) -> dict[str, float]:
        """The averaged gate on all rows: worst payoff of its normalised model, Z, the gap and its parts."""
        nan, sums = float("nan"), self.sums
        record = dict.fromkeys(COLUMNS, nan) | {"step": float(self.step), "multiplier": self.multiplier()}
        z, error = 1.0, nan
        if samples is not None:
            log_g = self.averaged(samples.logq, samples.features)
            z, error = estimate(pooled_ratios(log_g, samples.logq, samples.shares), samples.weight)
        record |= {"normaliser": z, "normaliser_error": error}

        def payoffs(of: Rows) -> Tensor:
            return game.payoffs(of.means(-log_density(self.averaged(of.logq, of.features), of.logq)))

        shift = game.mixtures @ game.scale * torch.tensor(z, dtype=torch.float64).log()
        values = payoffs(judged) + shift
        record["worst"], record["at_mixture"] = float(values.max()), float(self.mixture() @ values)
        count, cap = float(sums["count"]), self.settings.multiplier_cap
        record["regret_mixture"] = float(sums["payoffs"].max() - sums["played_mixture"]) / count
        over = max(cap * float(sums["excess"]), 0.0) - float(sums["played_multiplier"])
        record["regret_multiplier"] = over / count
        if dual is not None:
            record["primal"] = float(payoffs(rows).max()) + game.unit * cap * max(z - 1, 0.0)
            record["dual"] = dual.value(self.mixture(), self.multiplier())
            record["gap"] = record["primal"] - record["dual"]
            played = float(sums["played_mixture"] + sums["played_multiplier"]) / count
            record["regret_gate"] = played - record["dual"]
            record["regret"] = record["regret_gate"] + record["regret_mixture"] + record["regret_multiplier"]
        return record

    def state_dict(self) -> dict[str, Tensor]:
        """Everything that the next step depends on, and the history, as flat tensors."""
        numbers = torch.tensor([self.step, self.mu, self.spread], dtype=torch.float64)
        state = {"numbers": numbers, "weights": self.weights, "generator": self.generator.get_state()}
        state |= {f"gate.{n}": t.detach() for n, t in self.gate.state_dict().items()}
        state |= {f"average.{n}": t for n, t in self.average.items()}
        state |= {f"sums.{n}": t for n, t in self.sums.items()}
        state |= {f"history.{n}": torch.tensor(v, dtype=torch.float64) for n, v in self.history.items()}
        if not isinstance(self.gate, TabularGate):
            for i, slots in self.optimizer.state_dict()["state"].items():
                state |= {f"optimizer.{i}.{n}": torch.as_tensor(t) for n, t in slots.items()}
        return {n: t.clone() for n, t in state.items()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Take up a state that `state_dict` gave."""

        def part(prefix: str) -> dict[str, Tensor]:
            return {n.removeprefix(prefix): t.clone() for n, t in state.items() if n.startswith(prefix)}

        step, mu, spread = state["numbers"].tolist()
        self.step, self.mu, self.spread = int(step), mu, spread
        self.weights, self.average, self.sums = state["weights"].clone(), part("average."), part("sums.")
        for name in self.sums.keys() - {"weights", "payoffs"}:
            self.sums[name] = self.sums[name].reshape(())  # files hold scalars as vectors of one
        self.generator.set_state(state["generator"].to(torch.uint8))
        self.gate.load_state_dict(part("gate."))
        self.history = {n: state[f"history.{n}"].tolist() for n in COLUMNS}
        if not isinstance(self.gate, TabularGate):
            slots: dict[int, dict[str, Any]] = {}
            for name, value in part("optimizer.").items():
                index, slot = name.split(".", 1)
                plain = value.reshape(()) if slot == "step" else float(value) if slot in ("unit", "skipped") else value
                slots.setdefault(int(index), {})[slot] = plain
            groups = self.optimizer.state_dict()["param_groups"]
            self.optimizer.load_state_dict({"state": slots, "param_groups": groups})
