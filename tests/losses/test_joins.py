"""Losses inside scikit-learn and inside a Hugging Face Trainer."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_estimator

from corollary import losses
from corollary.errors import InvalidInputError


def long_tailed():
    x, y = load_digits(return_X_y=True)
    rows = losses.make_imbalance(y, ratio=40, largest=100, seed=0)
    held = np.setdiff1d(np.arange(len(y)), rows)
    return x[rows], y[rows], x[held], y[held]


def test_a_balanced_loss_in_a_pipeline_lowers_the_balanced_error():
    x, y, held, truth = long_tailed()
    errors = {}
    for loss in ("comp_sum", "gla", "gca"):
        model = make_pipeline(StandardScaler(), losses.SurrogateClassifier(loss=loss, hidden=()))
        errors[loss] = losses.balanced_error(truth, model.fit(x, y).predict(held))
    assert errors["gla"] < errors["comp_sum"]
    assert errors["gca"] < errors["comp_sum"]


def test_the_loss_is_a_hyper_parameter():
    x, y, _, _ = long_tailed()
    model = make_pipeline(StandardScaler(), losses.SurrogateClassifier(hidden=(), epochs=5))
    grid = {"surrogateclassifier__loss": ["comp_sum", lambda m: losses.GLALoss(counts=m, q=0.2)]}
    keep = np.isin(y, [0, 1, 2])
    search = GridSearchCV(model, grid, scoring="balanced_accuracy", cv=3).fit(x[keep], y[keep])
    assert search.predict_proba(x[:3]).shape == (3, 3)


# What cannot pass, with the reason; empty so far.
DECLARED: dict[str, str] = {}


@pytest.mark.filterwarnings("ignore")  # scikit-learn's checks warn on purpose
def test_scikit_learns_own_checks(as_shipped):
    results = check_estimator(
        losses.SurrogateClassifier(epochs=15, learning_rate=0.03), expected_failed_checks=DECLARED, on_fail=None
    )
    failed = {r["check_name"]: str(r["exception"])[:200] for r in results if r["status"] == "failed"}
    assert failed == {}


def test_wrong_inputs(as_shipped):
    with pytest.raises(InvalidInputError, match="one class"):
        losses.SurrogateClassifier().fit([[0.0], [1.0]], [1, 1])
    with pytest.raises(InvalidInputError, match="`loss`"):
        losses.SurrogateClassifier(loss="x").fit([[0.0], [1.0]], [0, 1])


@pytest.mark.filterwarnings("ignore")  # the Trainer's and its dependencies' own
def test_a_comp_sum_loss_in_a_trainer(tmp_path):
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=20, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, num_labels=3
    )
    model = transformers.BertForSequenceClassification(config)
    rng = np.random.default_rng(0)
    rows = []
    for k in rng.choice(3, 240, p=[0.7, 0.2, 0.1]):  # the label is the token that prevails
        tokens = np.where(rng.random(8) < 0.7, k + 1, rng.integers(4, 20, 8))
        rows.append({"input_ids": tokens.tolist(), "attention_mask": [1] * 8, "labels": int(k)})
    counts = np.bincount([r["labels"] for r in rows], minlength=3)
    loss = losses.GLALoss(counts=counts, q=0.1)

    def compute(outputs, labels, num_items_in_batch=None):
        return loss(outputs.logits, labels)

    options = {"num_train_epochs": 8, "learning_rate": 1e-2, "per_device_train_batch_size": 8, "report_to": []}
    arguments = transformers.TrainingArguments(
        str(tmp_path), use_cpu=True, save_strategy="no", disable_tqdm=True, **options
    )
    trainer = transformers.Trainer(model, arguments, train_dataset=rows, compute_loss_func=compute)
    trainer.train()
    with torch.no_grad():
        z = model(torch.tensor([r["input_ids"] for r in rows])).logits
    assert losses.balanced_error([r["labels"] for r in rows], loss.predict(z).numpy()) < 0.2
