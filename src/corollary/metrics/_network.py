r"""METRO over a network that another loss has trained: its last hidden layer becomes the features of a linear METRO.

.. math:: \phi = \operatorname{relu}(W \cdot + b) \text{ trained by any loss of } \texttt{corollary.losses}, \qquad
    \min_w \sum_i c_{y_i}(M) \Phi(y_i\, w \cdot \phi(x_i))

Why the last layer is trained anew: a balanced loss (GLA, GCA, logit adjustment) aims its scores at balanced error, so
the costs of another metric cannot simply be multiplied in; its features carry over, its thresholds do not. [derived]

The network sees the learning share of the rows only; the level is chosen on the rest, then the last layer is refitted
on all of them.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from corollary.metrics._certify import hold_out
from corollary.metrics._encoder import TableEncoder
from corollary.metrics._table import Table

EPOCHS = 30
CHOOSING = 0.25  # share of the training rows that the network does not see


@dataclass
class NetworkFeatures:
    """A `TableEncoder`, then the hidden layers of a network.

    Args:
        encoder: columns to standardised numbers.
        layers: (weights (o, i), bias (o,)) of every hidden layer, in order.
        loss: the loss that trained them.
    """

    encoder: TableEncoder
    layers: list[tuple[np.ndarray, np.ndarray]]
    loss: str

    @property
    def features(self) -> list[str]:
        """A name for each column of the table that is used, before the network."""
        return self.encoder.features

    @property
    def dropped(self) -> dict[str, str]:
        """Columns that are not used, and why."""
        return self.encoder.dropped

    def transform(self, table: Table) -> Float[np.ndarray, "n h"]:
        """(n, h) values of the last hidden layer."""
        return self.of(self.encoder.transform(table))

    def of(self, X: np.ndarray) -> Float[np.ndarray, "n h"]:
        """(n, h) values of the last hidden layer for encoded rows (n, p)."""
        for weight, bias in self.layers:
            X = np.maximum(X @ weight.T + bias, 0.0)
        return X


def fit_network(
    encoder: TableEncoder, table: Table, labels: np.ndarray, *, loss: str, hidden: int, seed: int
) -> tuple[NetworkFeatures, Any]:
    """Train a network by `loss` on a share of the rows; returns its features and the split that METRO is to choose by.

    Args:
        encoder: fitted on the table.
        table, labels: rows and their labels.
        loss: a name that `corollary.losses.SurrogateClassifier` knows.
        hidden: units of the hidden layer.
        seed: of the split, the weights and the batches.

    Raises:
        InvalidInputError: for an unknown loss, or one class in the learning share.
    """
    from sklearn.model_selection import PredefinedSplit

    from corollary.losses import SurrogateClassifier

    X = encoder.transform(table)
    learn, choose = hold_out(len(X), CHOOSING, seed=seed)
    network = SurrogateClassifier(loss=loss, hidden=(hidden,), epochs=EPOCHS, seed=seed).fit(X[learn], labels[learn])
    linear = [layer for layer in network.module_ if hasattr(layer, "weight")][:-1]
    layers = [(one.weight.detach().double().numpy(), one.bias.detach().double().numpy()) for one in linear]
    fold = np.full(len(X), -1)
    fold[choose] = 0
    return NetworkFeatures(encoder, layers, loss), PredefinedSplit(fold)
