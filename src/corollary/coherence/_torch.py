r"""A torch module as a classifier that coherence can wrap and teach.

.. math:: \min_\theta \frac1n \sum_x KL(g(x) \| \operatorname{softmax} h_\theta(t x)), \quad t \text{ drawn anew}
"""

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from sklearn.base import BaseEstimator, ClassifierMixin
from torch import nn
from torch.nn import functional as F

from corollary.errors import InvalidInputError
from corollary.optim import make_optimizer

AT_ONCE = 1024


class ModuleClassifier(ClassifierMixin, BaseEstimator):
    """A torch module that gives logits (n, K), with `fit` on labels and `fit_soft` on distributions.

    Args:
        module: from a float32 batch (n, ...) to logits (n, K); copied before it is trained.
        classes: labels in the order of the logits; None for 0 to K - 1.
        epochs: passes over the data; batch_size: rows a step.
        learning_rate, weight_decay: as of AdamW, with a one-cycle schedule.
        optimizer: a name of `corollary.optim.make_optimizer`, e.g. "leon".
        seed: of the order.

    Attributes:
        classes_: (K,) labels.
        module_: the trained copy; before any training the module itself.

    Raises:
        InvalidInputError: for labels that are none of the classes.

    Guarantee: none.

    Example:
        >>> X, y = np.random.default_rng(0).normal(size=(200, 3)).astype(np.float32), np.arange(200) % 2
        >>> X[:, 0] += 4 * y
        >>> model = ModuleClassifier(nn.Linear(3, 2), classes=[0, 1], epochs=30, learning_rate=0.1).fit(X, y)
        >>> model.score(X, y) > 0.9
        True
    """

    def __init__(
        self,
        module: nn.Module,
        *,
        classes: Sequence[Any] | None = None,
        epochs: int = 10,
        batch_size: int = 128,
        learning_rate: float = 1e-3,
        weight_decay: float = 1e-2,
        optimizer: str = "adamw",
        seed: int = 0,
    ) -> None:
        self.module, self.classes, self.epochs, self.batch_size = module, classes, epochs, batch_size
        self.learning_rate, self.weight_decay, self.seed = learning_rate, weight_decay, seed
        self.optimizer = optimizer

    @property
    def module_(self) -> nn.Module:
        """The module that predicts."""
        return vars(self).get("_trained", self.module)

    @property
    def classes_(self) -> np.ndarray:
        """(K,) labels."""
        if "_classes" not in vars(self):
            self._classes = np.asarray(self.classes) if self.classes is not None else np.empty(0)
        return self._classes

    def fit(self, X: Any, y: Any) -> "ModuleClassifier":
        """Train a copy of the module on labels."""
        labels = np.asarray(y)
        self._classes = np.unique(labels) if self.classes is None else np.asarray(self.classes)
        order = np.argsort(self._classes)
        place = order[np.clip(np.searchsorted(self._classes[order], labels), 0, len(order) - 1)]
        if (self._classes[place] != labels).any():
            raise InvalidInputError(f"`y` holds a label that is none of the classes {self._classes.tolist()}")
        return self.fit_soft([X], np.eye(len(self._classes))[place], start=self.module)

    def fit_soft(self, views: Sequence[Any], probs: Any, *, start: nn.Module | None = None) -> "ModuleClassifier":
        """Train a copy on distributions (n, K), each time for one drawn view of every input.

        Args:
            views: batches of one shape (n, ...), each a view of the inputs.
            probs: (n, K) what all of them should be answered.
            start: the module to begin from; None for the one that predicts now.
        """
        net = copy.deepcopy(start if start is not None else self.module_)
        generator = torch.Generator().manual_seed(int(self.seed))
        inputs = torch.from_numpy(np.stack([np.asarray(v, dtype=np.float32) for v in views]))
        target = torch.from_numpy(np.asarray(probs, dtype=np.float32))
        rates = {"lr": self.learning_rate, "weight_decay": self.weight_decay}
        optimiser = make_optimizer(self.optimizer, net, seed=int(self.seed), **rates)
        steps = self.epochs * -(-len(target) // self.batch_size)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, max_lr=self.learning_rate, total_steps=max(steps, 2))
        net.train()
        for _ in range(self.epochs):
            for rows in torch.randperm(len(target), generator=generator).split(self.batch_size):
                which = torch.randint(len(inputs), (len(rows),), generator=generator)
                optimiser.zero_grad()
                F.cross_entropy(net(inputs[which, rows]), target[rows]).backward()
                optimiser.step()
                schedule.step()
        self._trained = net.eval()
        return self

    @torch.no_grad()
    def predict_log_proba(self, X: Any) -> Float[np.ndarray, "n k"]:
        """(n, K) log-probabilities."""
        self.module_.eval()
        parts = torch.from_numpy(np.asarray(X, dtype=np.float32)).split(AT_ONCE)
        logits = torch.cat([self.module_(part) for part in parts]).double()
        if len(self.classes_) == 0:
            self._classes = np.arange(logits.shape[1])
        return F.log_softmax(logits, dim=-1).numpy()

    def predict_proba(self, X: Any) -> Float[np.ndarray, "n k"]:
        """(n, K) probabilities."""
        return np.exp(self.predict_log_proba(X))

    def predict(self, X: Any) -> np.ndarray:
        """(n,) labels."""
        best = self.predict_log_proba(X).argmax(1)
        return self.classes_[best]
