"""One optimizer by its name: what every trainer of this library calls."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from corollary.errors import InvalidInputError

NAMES = ("adam", "adamw", "leon", "muon", "one_sided_shampoo", "pion", "soap")


def make_optimizer(
    name: str | Callable[..., torch.optim.Optimizer],
    module: Any,
    *,
    lr: float,
    weight_decay: float = 0.0,
    betas: tuple[float, float] | None = None,
    seed: int = 0,
    **options: Any,
) -> torch.optim.Optimizer:
    """An optimizer for all parameters of a module, at a rate tuned for AdamW.

    Matrix rules take `scale="match_rms_adamw"`, so that one `lr` and one schedule serve all names.

    Args:
        name: "adamw", "adam", "leon", "pion", "muon", "soap", "one_sided_shampoo"; or a function
            (parameters, lr=) -> optimizer, which gets nothing else.
        module: the network, or a list of parameters or groups.
        lr: step size as AdamW would have it.
        weight_decay: decoupled, of all parameters.
        betas: of Adam, and of the parameters that a matrix rule leaves to AdamW; None for the optimizer's own.
        seed: of Pion's noise.
        **options: of the optimizer.

    Returns:
        The optimizer.

    Raises:
        InvalidInputError: for an unknown name, or a module without matrices where a matrix rule is asked for.

    Guarantee: that of the optimizer.

    Example:
        >>> module = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2))
        >>> type(make_optimizer("leon", module, lr=1e-3)).__name__
        'Leon'
    """
    from corollary.optim._leon import Leon, Pion
    from corollary.optim._peers import Muon, OneSidedShampoo
    from corollary.optim._soap import SOAP

    params = module.parameters() if isinstance(module, nn.Module) else module
    if callable(name):
        return name(params, lr=lr)
    if name in ("adam", "adamw"):
        own: dict[str, Any] = {} if betas is None else {"betas": betas}
        plain = torch.optim.AdamW if name == "adamw" else torch.optim.Adam
        return plain(params, lr=lr, weight_decay=weight_decay, **own, **options)
    classes: dict[str, Any] = {"leon": Leon, "pion": Pion, "muon": Muon, "soap": SOAP}
    classes["one_sided_shampoo"] = OneSidedShampoo
    if name not in classes:
        raise InvalidInputError(f"`optimizer` must be one of {', '.join(NAMES)} or a function, got {name!r}")
    options = {"adamw_lr": lr, "weight_decay": weight_decay, "adamw_weight_decay": weight_decay, **options}
    if name in ("leon", "pion", "muon"):
        options = {"scale": "match_rms_adamw", **options}
    if name == "one_sided_shampoo":
        options = {"rms": 0.2, **options}
    if name == "pion":
        options = {"seed": seed, **options}
    if betas is not None:
        options["adamw_betas"] = betas
    build = classes[name].from_module if isinstance(module, nn.Module) else classes[name]
    return build(module, lr, **options)
