"""A balanced loss inside a Hugging Face `Trainer`: a tiny model with random weights, nothing downloaded.

Run: python examples/in_depth/losses_trainer.py
"""

import tempfile

import numpy as np
import torch
import transformers

from corollary import losses


def draw(rng: np.random.Generator, count: int, share: list[float]) -> list[dict]:
    rows = []
    for k in rng.choice(3, count, p=share):  # the label is the token that prevails
        tokens = np.where(rng.random(8) < 0.5, k + 1, rng.integers(1, 20, 8))
        rows.append({"input_ids": tokens.tolist(), "attention_mask": [1] * 8, "labels": int(k)})
    return rows


def main() -> None:
    rng = np.random.default_rng(0)
    rows, held = draw(rng, 1000, [0.9, 0.07, 0.03]), draw(rng, 600, [1 / 3] * 3)
    counts = np.bincount([row["labels"] for row in rows], minlength=3)
    print("rows a class:", counts.tolist())
    for name, loss in {"cross-entropy": losses.CompSumLoss(), "GLA": losses.GLALoss(counts=counts, q=0.1)}.items():
        config = transformers.BertConfig(
            vocab_size=20,
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=16,
            num_labels=3,
        )
        torch.manual_seed(0)
        model = transformers.BertForSequenceClassification(config)
        with tempfile.TemporaryDirectory() as folder:
            arguments = transformers.TrainingArguments(
                folder,
                num_train_epochs=6,
                learning_rate=1e-2,
                use_cpu=True,
                disable_tqdm=True,
                save_strategy="no",
                report_to=[],
            )
            trainer = transformers.Trainer(
                model,
                arguments,
                train_dataset=rows,
                compute_loss_func=lambda out, y, num_items_in_batch=None, loss=loss: loss(out.logits, y),
            )
            trainer.train()
        with torch.no_grad():
            guess = loss.predict(model(torch.tensor([row["input_ids"] for row in held])).logits).numpy()
        print(
            name, "balanced error on new rows", round(losses.balanced_error([row["labels"] for row in held], guess), 3)
        )


if __name__ == "__main__":
    main()
