"""A small network trained by any loss of this package, as a scikit-learn classifier."""

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import nn

from corollary.errors import InvalidInputError
from corollary.losses._adjusted_modules import ClassBalancedLoss, LogitAdjustedLoss, WeightedCrossEntropyLoss
from corollary.losses._balanced_modules import GCALoss, GLALoss, IMMAXLoss
from corollary.losses._comp_sum import CompSumLoss
from corollary.losses._margin_modules import FocalLoss
from corollary.losses._module import SurrogateLoss
from corollary.optim import make_optimizer

Counts = np.ndarray
LOSSES: dict[str, Callable[[Counts], SurrogateLoss]] = {
    "comp_sum": lambda m: CompSumLoss(),
    "gla": lambda m: GLALoss(counts=m),
    "gca": lambda m: GCALoss(counts=m),
    "immax": lambda m: IMMAXLoss(counts=m),
    "logit_adjusted": lambda m: LogitAdjustedLoss(counts=m),
    "weighted": lambda m: WeightedCrossEntropyLoss(counts=m),
    "class_balanced": lambda m: ClassBalancedLoss(counts=m),
    "focal": lambda m: FocalLoss(),
}


class SurrogateClassifier(ClassifierMixin, BaseEstimator):
    r"""A linear or hidden-layer network that minimises a loss of this package plus weight decay.

    .. math:: \min_h \frac1N \sum_i \ell(h(x_i), y_i) + \text{decay}

    Args:
        loss: a name (`"comp_sum"`, `"gla"`, `"gca"`, `"immax"`, `"logit_adjusted"`, `"weighted"`, `"class_balanced"`,
            `"focal"`), a loss module, or a function from the training counts (n,) to one, for other options.
        hidden: widths of hidden layers; () for a linear model.
        epochs: passes over the data; batch_size: rows a step.
        learning_rate, weight_decay: as of AdamW, with a cosine schedule.
        optimizer: a name of `corollary.optim.make_optimizer`, e.g. "leon".
        seed: of initial weights and order.

    Attributes:
        classes_: (n,) labels.
        counts_: (n,) training counts.
        loss_: the loss module.
        module_: the network.

    Guarantee: that of the loss, as far as the network reaches the minimum.

    Example:
        >>> from sklearn.datasets import load_iris
        >>> from sklearn.pipeline import make_pipeline
        >>> from sklearn.preprocessing import StandardScaler
        >>> x, y = load_iris(return_X_y=True)
        >>> model = make_pipeline(StandardScaler(), SurrogateClassifier(loss="gla")).fit(x, y)
        >>> model.score(x, y) > 0.9
        True

    Reference: that of the loss.
    """

    def __init__(
        self,
        *,
        loss: Any = "comp_sum",
        hidden: tuple[int, ...] = (32,),
        epochs: int = 50,
        batch_size: int = 128,
        learning_rate: float = 0.01,
        weight_decay: float = 0.01,
        optimizer: str = "adamw",
        seed: int = 0,
    ) -> None:
        self.loss, self.hidden, self.epochs, self.batch_size = loss, hidden, epochs, batch_size
        self.learning_rate, self.weight_decay, self.seed = learning_rate, weight_decay, seed
        self.optimizer = optimizer

    def fit(self, X: Any, y: Any) -> "SurrogateClassifier":
        """Train on (N, d) features and (N,) labels."""
        X, y = validate_data(self, X, y, dtype=np.float32)
        check_classification_targets(y)
        self.classes_, labels = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise InvalidInputError(f"`y` holds one class only ({self.classes_[0]!r}); a classifier needs two")
        self.counts_ = np.bincount(labels)
        self.loss_ = self._make_loss()
        generator = torch.Generator().manual_seed(int(self.seed))
        self.module_: nn.Sequential = self._network(X.shape[1], generator)
        rates = {"lr": self.learning_rate, "weight_decay": self.weight_decay}
        optimiser = make_optimizer(self.optimizer, self.module_, seed=int(self.seed), **rates)
        batches = -(-len(X) // self.batch_size)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, self.epochs * batches)
        x, t = torch.from_numpy(X), torch.from_numpy(labels)
        for _ in range(self.epochs):
            for rows in torch.randperm(len(x), generator=generator).split(self.batch_size):
                optimiser.zero_grad()
                self.loss_(self.module_(x[rows]), t[rows]).backward()
                optimiser.step()
                schedule.step()
        return self

    def decision_function(self, X: Any) -> Float[np.ndarray, "..."]:
        """Scores (N, n); for two classes the difference (N,)."""
        z = self._scores(X).numpy()
        return z[:, 1] - z[:, 0] if len(self.classes_) == 2 else z

    def predict(self, X: Any) -> Any:
        """Labels by the decoding rule of the loss."""
        z = self._scores(X)
        return self.classes_[self.loss_.predict(z).numpy()]

    def predict_proba(self, X: Any) -> Float[np.ndarray, "N n"]:
        """Probabilities under the training priors, by the inverse link of the loss."""
        z = self._scores(X)
        return self.loss_.predict_proba(z).double().numpy()

    def hidden_features(self, X: Any) -> Float[np.ndarray, "N h"]:
        """Values of the last hidden layer (N, h), for another model to go on from; the rows themselves without one."""
        check_is_fitted(self)
        X = validate_data(self, X, dtype=np.float32, reset=False)
        with torch.no_grad():
            return nn.Sequential(*list(self.module_)[:-1])(torch.from_numpy(X)).double().numpy()

    def _make_loss(self) -> SurrogateLoss:
        if isinstance(self.loss, str):
            if self.loss not in LOSSES:
                raise InvalidInputError(f"`loss` must be one of {', '.join(LOSSES)}, a module or a function")
            return LOSSES[self.loss](self.counts_)
        return self.loss if isinstance(self.loss, SurrogateLoss) else self.loss(self.counts_)

    def _network(self, inputs: int, generator: torch.Generator) -> nn.Sequential:
        widths = [inputs, *self.hidden, len(self.classes_)]
        layers: list[nn.Module] = []
        for i, o in itertools.pairwise(widths):
            layer = nn.Linear(i, o)
            with torch.no_grad():  # of the seed, not of the global state
                layer.weight.copy_(torch.randn(o, i, generator=generator) / i**0.5)
                layer.bias.zero_()
            layers += [layer, nn.ReLU()]
        return nn.Sequential(*layers[:-1])

    @torch.no_grad()
    def _scores(self, X: Any) -> torch.Tensor:
        check_is_fitted(self)
        X = validate_data(self, X, dtype=np.float32, reset=False)
        return self.module_(torch.from_numpy(X))
