"""The frame of all matrix optimizers: groups, statistics, batches of equal shape, the rest by AdamW.

A parameter is read as blocks: a matrix is one block, a convolution is flattened to (out, rest), a stack of experts
(k, m, n) is k blocks, a fused projection is as many blocks as its declared splits. Blocks of one shape are stepped
together where they are small. The rule of a method is one function from the statistics of a batch to directions.
"""

from collections.abc import Callable, Iterable, Mapping
from difflib import get_close_matches
from typing import Any

import torch
from torch import Tensor, nn

from corollary.errors import InvalidInputError
from corollary.optim import _distributed as distributed
from corollary.optim._blocks import Entry, blocks_of, read_entry
from corollary.optim._split import Split, split_module

SCALES: dict[str | None, Callable[[int, int], float]] = {
    None: lambda rows, columns: 1.0,
    "original": lambda rows, columns: max(1.0, rows / columns) ** 0.5,
    "match_rms_adamw": lambda rows, columns: 0.2 * max(rows, columns) ** 0.5,
}
SIDE = 96  # on a CPU, a product of matrices with a longer smaller side keeps it busy by itself: measured
BATCHED = 1 << 26  # numbers in a batch
KNOWN = {
    *("betas", "eta", "weight_decay", "precision", "method", "steps", "damping", "grad_bound", "nesterov", "scale"),
    *("adamw_lr", "adamw_betas", "adamw_eps", "adamw_weight_decay", "samples", "seed", "normalise", "rms"),
    *("shampoo_beta", "frequency", "soap_eps", "form", "splits"),
}
COMMON = {"betas", "weight_decay", "precision", "nesterov", "scale", "form", "splits"} | {
    k for k in KNOWN if "adamw" in k
}
_ADAMW = ("adamw_lr", "adamw_betas", "adamw_eps", "adamw_weight_decay")
_OF_GROUPS = {"params", "param_names", "rule", "lr", "eps", "initial_lr", "max_lr", "min_lr"}


class MatrixOptimizer(torch.optim.Optimizer):
    """What `Leon`, `Pion`, `Muon`, `OneSidedShampoo` and `SOAP` share; see `Leon` for the arguments.

    A method is `directions(group, entries, S, M)`: from momenta (B, m, n) and second moments (B, s, s) or None to
    directions (B, m, n).

    Guarantee: none of its own.

    Example:
        >>> class Sign(MatrixOptimizer):
        ...     second = False
        ...     def directions(self, group, entries, S, M):
        ...         return S.sign()
        >>> p = torch.nn.Parameter(torch.ones(2, 2))
        >>> p.grad = torch.tensor([[1.0, -1.0], [0.0, 2.0]])
        >>> Sign([p], lr=0.5).step(); p.data
        tensor([[0.5000, 1.5000],
                [1.0000, 0.5000]])
    """

    second = True  # whether the rule reads a second moment
    options = frozenset(KNOWN)  # beside the common ones

    def __init__(self, params: Any, lr: Any = 0.02, *, distributed_mode: str = "replicate", **settings: Any) -> None:
        defaults = {
            "lr": lr,
            "betas": (0.95, 0.95),
            "weight_decay": 0.0,
            "nesterov": False,
            "scale": None,
            "precision": "float32",
            "form": "matrix",
            "splits": None,
            "rule": None,
            "adamw_lr": 3e-4,
            "adamw_betas": (0.9, 0.95),
            "adamw_eps": 1e-8,
            "adamw_weight_decay": 0.0,
            **settings,
        }
        if unknown := settings.keys() - (COMMON | self.options):
            raise TypeError(f"{type(self).__name__} has no option {', '.join(sorted(unknown))}")
        if distributed_mode not in distributed.MODES:
            raise InvalidInputError(
                f"`distributed` must be one of {', '.join(distributed.MODES)}, got {distributed_mode!r}"
            )
        self.distributed_mode = distributed_mode
        self.split: Split | None = None
        super().__init__(params, defaults)

    @classmethod
    def from_module(
        cls,
        model: nn.Module,
        lr: Any = None,
        *,
        splits: Mapping[str, Any] | None = None,
        matrix: Iterable[str] = (),
        adamw: Iterable[str] = (),
        head: str | None = "auto",
        verbose: bool = False,
        **options: Any,
    ) -> Any:
        """Read the module graph: hidden matrices by this rule, embeddings, heads, norms and biases by AdamW.

        Args:
            model: the network, after sharding if it is sharded.
            lr: of the matrices; None for the default.
            splits: end of a parameter's or module's name -> number of equal row blocks, or their sizes, for fused
                projections, e.g. `{"qkv": 3, "gate_up": 2}`.
            matrix, adamw: parts of names whose parameters go to that rule, whatever the graph says.
            head: name of the output layer; "auto" finds it, None says there is none.
            verbose: print the table of what went where and why.
            **options: of the optimizer.

        Returns:
            The optimizer; `optimizer.split` is the table.

        Raises:
            InvalidInputError: where no matrix would be touched (the optimizer would silently be AdamW), or a name in
                `splits`, `matrix`, `adamw` or `head` matches nothing.
        """
        found = split_module(model, splits=splits, matrix=matrix, adamw=adamw, head=head)
        found.require_matrices(cls.__name__)
        if verbose:
            print(found)
        if lr is not None:
            options["lr"] = lr
        optimizer = cls(found.groups(), **options)
        optimizer.split = found
        return optimizer

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group; one without a `rule` is divided: 2-D parameters by the matrix rule, the rest by AdamW."""
        check_settings({**self.defaults, **param_group})
        for key in param_group.keys() - KNOWN - _OF_GROUPS:  # a name of the user's own is kept, one misspelt is not
            if near := get_close_matches(key, KNOWN | _OF_GROUPS, 1, 0.8):
                raise InvalidInputError(f"a group has no option {key!r}; did you mean {near[0]!r}?")
        listed = param_group["params"]
        items = [listed] if isinstance(listed, Tensor) else list(listed)
        given = {k: v for k, v in param_group.items() if k != "params"}
        parts: dict[str, list[Any]] = {"matrix": [], "adamw": []}
        for item in items:
            p = item[1] if isinstance(item, tuple) else item
            if not isinstance(p, Tensor) or p.is_complex() or p.is_sparse:
                raise InvalidInputError(f"parameters must be dense real tensors, got {_kind(p)}; leave it out")
            if isinstance(p, nn.UninitializedParameter):
                raise InvalidInputError("a lazy layer has no weights yet; run the model once on an example first")
            parts[given.get("rule") or ("matrix" if p.ndim == 2 else "adamw")].append(item)
        for rule, params in parts.items():
            if not params and (items or rule == "adamw"):
                continue
            group = {**given, "params": params, "rule": rule}
            if rule == "adamw":
                own = {k.removeprefix("adamw_"): given.get(k, self.defaults[k]) for k in _ADAMW}
                if given.get("rule") == "adamw":  # in a group that is AdamW's by name, plain names are AdamW's
                    own |= {k: given[k] for k in own if k in given}
                group |= own
            super().add_param_group(group)
            for p in self.param_groups[-1]["params"]:
                if rule == "matrix":
                    shape = torch.empty(p.shape, device="meta")  # also of a sharded parameter
                    blocks_of(shape, group.get("form", "matrix"), group.get("splits"))  # refuses what does not fit

    def directions(self, group: dict[str, Any], entries: list[Entry], S: Tensor, M: Tensor | None) -> Tensor:
        """(B, m, n) directions of a batch of blocks; a subclass is this function."""
        raise NotImplementedError

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One update; parameters without a gradient, or with one that is not finite, keep weights and state."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        first = 0
        for group in self.param_groups:
            if group["rule"] == "adamw":
                _adamw(group, self.state)
            else:
                self._matrix_step(group, first)
            first += len(group["params"])
        return loss

    def _matrix_step(self, group: dict[str, Any], first: int) -> None:
        numbered = [(first + i, p) for i, p in enumerate(group["params"]) if p.grad is not None]
        if not numbered:
            return
        grads = [distributed.full(_dense(p.grad)) for _, p in numbered]
        peaks = _peaks(grads)
        entries: list[Entry] = []
        for (number, p), grad, peak in zip(numbered, grads, peaks, strict=True):
            if not peak < float("inf"):  # NaN too: nothing of it may reach the statistics
                self.state[p]["skipped"] = self.state[p].get("skipped", 0) + 1
                continue
            entries += read_entry(p, grad, peak, number, self.state[p], group, second=self.second)
        batches = _batches(entries)
        for batch in batches:
            self._accumulate(group, batch)
        found = distributed.shared(
            batches, lambda batch: self._batch_directions(group, batch), mode=self.distributed_mode
        )
        rate, decay = float(group["lr"]), float(group["weight_decay"])
        for batch, P in zip(batches, found, strict=True):
            start = 0
            for e in batch:
                e.apply(P[start : start + e.count], rate * SCALES[group["scale"]](*e.shape), 1 - rate * decay)
                start += e.count

    def _accumulate(self, group: dict[str, Any], batch: list[Entry]) -> None:
        """M <- beta2 M + g g^T on the smaller side; S <- beta1 S + g was done on whole parameters."""
        if not self.second:
            return
        beta = group["betas"][1]
        low = torch.bfloat16 if group["precision"] == "bfloat16" else None
        G = _joined([e.gradient for e in batch])
        G = (G.mT if batch[0].tall else G).to(low or G.dtype)
        M = _joined([e.second for e in batch])
        if len(G) == 1:  # products of batches of one are slower
            G, M = G[0], M[0]
        if low is None:
            (M.addmm_ if M.ndim == 2 else M.baddbmm_)(G, G.mT, beta=beta)
        else:
            M.mul_(beta).add_(G @ G.mT)
        if len(batch) > 1:
            torch._foreach_copy_([e.second for e in batch], list(M.split([e.count for e in batch])))

    def _batch_directions(self, group: dict[str, Any], batch: list[Entry]) -> Tensor:
        S = _joined([e.momentum() for e in batch])
        if group["nesterov"]:
            S = _joined([e.gradient for e in batch]).add(S, alpha=group["betas"][0])
        return self.directions(group, batch, S, _joined([e.second for e in batch]) if self.second else None)

    def __getstate__(self) -> dict[str, Any]:
        """What copies and pickles keep: torch's own part, and ours."""
        return {**super().__getstate__(), "distributed_mode": self.distributed_mode, "split": self.split}

    def load_state_dict(self, state_dict: Any) -> None:
        """Take up a state, each tensor in the type it was saved in (torch would cast it to the weight's).

        Raises:
            InvalidInputError: for the state of an optimizer of another kind.
        """
        saved = state_dict["param_groups"]
        if [g.get("rule") for g in saved] != [g["rule"] for g in self.param_groups]:
            raise InvalidInputError(
                f"the state is not of a {type(self).__name__} of these groups; build it as the saved one was built"
            )
        for group in saved:
            check_settings({**self.defaults, **group})
        super().load_state_dict(state_dict)
        numbers = [n for g in state_dict["param_groups"] for n in g["params"]]
        ours = [p for g in self.param_groups for p in g["params"]]
        for number, p in zip(numbers, ours, strict=True):
            for key, value in state_dict["state"].get(number, {}).items():
                if isinstance(value, Tensor) and not distributed.is_sharded(value):
                    device = "cpu" if key == "step" else p.device
                    self.state[p][key] = value.detach().to(device).clone()

    def save(self, path: Any) -> None:
        """Write the state as `path` (JSON) and safetensors beside it; see `save_optimizer`."""
        from corollary.optim._state import save_optimizer

        save_optimizer(self, path)

    def load(self, path: Any) -> None:
        """Read what `save` wrote; the next step is bit for bit the one that would have followed."""
        from corollary.optim._state import load_optimizer

        load_optimizer(self, path)

    def diagnose(self) -> list[Any]:
        """Operator norm, residual and shrinkage of each block's present direction; see `Diagnosis`."""
        from corollary.optim._diagnostics import diagnose

        return diagnose(self)


def check_settings(s: Mapping[str, Any]) -> None:
    """Refuse numbers out of range, in words."""
    rules: dict[str, Callable[[Any], bool]] = {
        **dict.fromkeys(
            ("lr", "adamw_lr", "weight_decay", "adamw_weight_decay"), lambda x: 0 <= float(x) < float("inf")
        ),
        **dict.fromkeys(("betas", "adamw_betas"), lambda x: len(x) == 2 and all(0 <= b < 1 for b in x)),
        **dict.fromkeys(("samples", "frequency"), lambda x: isinstance(x, int) and x >= 1),
        **dict.fromkeys(("eta", "rms"), lambda x: 0 < x < float("inf")),
        **dict.fromkeys(("eps", "adamw_eps", "soap_eps"), lambda x: 0 <= x < float("inf")),
        "shampoo_beta": lambda x: 0 <= x < 1,
        "steps": lambda x: x is None or (isinstance(x, int) and x >= 1),
        "damping": lambda x: x is None or 0 <= x < float("inf"),
        "grad_bound": lambda x: x is None or (0 < x < float("inf") and s["betas"][0] > 0),
        "scale": lambda x: x in SCALES,
        "precision": lambda x: x in ("float32", "bfloat16"),
        "rule": lambda x: x in (None, "matrix", "adamw"),
    }
    for name in rules.keys() & s.keys():
        try:
            good = rules[name](s[name])
        except (TypeError, ValueError):
            good = False
        if not good:
            raise InvalidInputError(f"`{name}` is out of range, got {s[name]!r}; see the docstring for what it may be")


def _kind(p: Any) -> str:
    return f"{p.dtype}, {p.layout}" if isinstance(p, Tensor) else type(p).__name__


def _dense(grad: Tensor) -> Tensor:
    if grad.layout != torch.strided:
        raise InvalidInputError(
            "a gradient is sparse; make its layer with sparse=False, or leave it to another optimizer"
        )
    return grad


def _peaks(grads: list[Tensor]) -> list[float]:
    """Largest absolute entry of each; NaN where one is. One synchronisation for all."""
    ends = [torch.aminmax(g) if g.numel() else (g.sum(), g.sum()) for g in grads]
    return torch.stack([torch.maximum(-low, high).double() for low, high in ends]).tolist()


def _joined(parts: list[Any]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _batches(entries: list[Entry]) -> list[list[Entry]]:
    """Entries of equal shape, type and device together, as long as they are small."""
    found: list[list[Entry]] = []
    open_batches: dict[Any, list[Entry]] = {}
    for e in entries:
        key = (e.shape, e.gradient.dtype, e.gradient.device)
        batch = open_batches.get(key)
        numbers = (sum(o.count for o in batch or ()) + e.count) * e.shape[0] * e.shape[1]
        if batch is None or numbers > BATCHED or (e.gradient.device.type == "cpu" and min(e.shape) > SIDE):
            open_batches[key] = batch = []
            found.append(batch)
        batch.append(e)
    return found


def _adamw(group: dict[str, Any], state: Any) -> None:
    """Torch's own AdamW on the parameters that are no matrices."""
    from torch.optim.adamw import adamw

    params = [p for p in group["params"] if p.grad is not None]
    if not params:
        return
    locals_ = [distributed.local(_dense(p.grad)) for p in params]
    finite = distributed.agree([peak < float("inf") for peak in _peaks(locals_)], params)
    params = [p for p, good in zip(params, finite, strict=True) if good]
    for p in params:
        if not state[p]:
            state[p]["step"] = torch.zeros((), dtype=torch.float32)
            state[p]["exp_avg"], state[p]["exp_avg_sq"] = torch.zeros_like(p), torch.zeros_like(p)
    if params:
        beta1, beta2 = group["betas"]
        adamw(
            params,
            [p.grad for p in params],
            [state[p]["exp_avg"] for p in params],
            [state[p]["exp_avg_sq"] for p in params],
            [],
            [state[p]["step"] for p in params],
            amsgrad=False,
            beta1=beta1,
            beta2=beta2,
            lr=float(group["lr"]),
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=False,
        )
