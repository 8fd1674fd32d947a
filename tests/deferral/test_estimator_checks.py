"""scikit-learn's own checks of the estimators of `corollary.deferral`; what cannot pass is declared with its reason."""

import numpy as np
import pytest
from sklearn.utils.estimator_checks import parametrize_with_checks

from corollary.deferral import DeferralClassifier, Rejector, TwoStageRouter
from corollary.deferral._rejector import EXPECTED_FAILED_CHECKS


class RouterOfLabels(TwoStageRouter):
    """scikit-learn gives one column of targets, a router costs: one expert is right below the median, one above."""

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.target_tags.single_output, tags.target_tags.multi_output = True, False
        return tags

    def fit(self, X, y=None):
        if y is None:
            return super().fit(X, None)
        y = np.asarray(y).ravel()
        above = np.unique(y, return_inverse=True)[1] > len(np.unique(y)) / 2 - 0.5
        return super().fit(X, np.column_stack([above, ~above]).astype(float))

    def score(self, X, y):
        return float(self.predict(X).mean())


def declared(estimator):
    calibrated = isinstance(estimator, Rejector) and estimator.loss != "cross-entropy"
    return EXPECTED_FAILED_CHECKS if calibrated and estimator.error is None and estimator.model == "linear" else {}


@pytest.mark.filterwarnings("ignore")  # scikit-learn's checks warn on purpose
@parametrize_with_checks(
    [
        Rejector(),
        Rejector(loss="cross-entropy"),
        DeferralClassifier(iterations=20),
        RouterOfLabels(),
    ],
    expected_failed_checks=declared,
)
def test_scikit_learn_checks(estimator, check, as_shipped):
    check(estimator)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@parametrize_with_checks(
    [
        Rejector(loss="hinge"),
        Rejector(loss="selective"),
        Rejector(model="mlp"),
        Rejector(error=0.2),
        DeferralClassifier(),
        DeferralClassifier(loss="log"),
        DeferralClassifier(loss="softmax"),
        RouterOfLabels(loss="value"),
        RouterOfLabels(loss="ec"),
        RouterOfLabels(model="mlp", epochs=5),
    ],
    expected_failed_checks=declared,
)
def test_scikit_learn_checks_of_further_options(estimator, check, as_shipped):
    check(estimator)
