"""Leon inside of Hugging Face's Trainer, Lightning and Accelerate: each trains, and each state is Leon's."""

import warnings

import pytest
import torch
from torch import nn

from corollary.errors import InvalidInputError
from corollary.integrations import HuggingFaceOptimizer, configure_optimizers, prepare
from corollary.optim import Leon


def rows(n=64):
    x = torch.randn(n, 6, generator=torch.Generator().manual_seed(0))
    return x, (x[:, 0] * x[:, 1] > 0).long()


def network(seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 2))


def loss_of(model):
    x, y = rows()
    with torch.no_grad():
        return float(nn.functional.cross_entropy(model(x), y))


def test_hugging_face_trainer(tmp_path):
    transformers = pytest.importorskip("transformers")

    class Wrapped(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = network()

        def forward(self, x, labels):
            z = self.net(x)
            return {"loss": nn.functional.cross_entropy(z, labels), "logits": z}

    x, y = rows()
    data = [{"x": a, "labels": b} for a, b in zip(x, y, strict=True)]
    model = Wrapped()
    before = loss_of(model.net)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its own and its tools' deprecations
        arguments = transformers.TrainingArguments(
            output_dir=str(tmp_path), max_steps=40, per_device_train_batch_size=32, report_to=[], use_cpu=True,
            learning_rate=5e-2, save_steps=20, disable_tqdm=True, logging_strategy="no", seed=0,
        )  # fmt: skip
        kwargs = {"name": "leon", "lr": 5e-2}
        trainer = transformers.Trainer(
            model=model, args=arguments, train_dataset=data, optimizer_cls_and_kwargs=(HuggingFaceOptimizer, kwargs)
        )
        trainer.train()
    inner = getattr(trainer.optimizer, "optimizer", trainer.optimizer)
    assert isinstance(inner, Leon)
    assert {row.rule for row in inner.split.rows} == {"matrix", "adamw"}
    assert loss_of(model.net) < 0.9 * before
    assert inner.param_groups[0]["lr"] < 5e-2  # the Trainer's schedule reaches all groups
    saved = next(tmp_path.glob("checkpoint-*/optimizer.pt"))
    assert "momentum" in torch.load(saved, weights_only=True)["state"][0]


def test_lightning(tmp_path):
    lightning = pytest.importorskip("lightning")

    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = network()

        def training_step(self, batch, index):
            return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

        def configure_optimizers(self):
            return configure_optimizers(self, "leon", lr=5e-2, steps=40)

    module = Module()
    before = loss_of(module.net)
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(*rows()), batch_size=32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Lightning's advice on workers and its tools' deprecations
        trainer = lightning.Trainer(
            max_steps=40, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
            enable_model_summary=False, default_root_dir=str(tmp_path),
        )  # fmt: skip
        trainer.fit(module, loader)
        trainer.save_checkpoint(tmp_path / "all.ckpt")
    assert isinstance(trainer.optimizers[0], Leon)
    assert trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(0, abs=1e-4)
    assert loss_of(module.net) < 0.9 * before
    assert (tmp_path / "all.ckpt").exists()


def test_accelerate():
    accelerate = pytest.importorskip("accelerate")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        accelerator = accelerate.Accelerator(cpu=True, gradient_accumulation_steps=2)
        loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(*rows()), batch_size=16)
        model, optimizer, loader = prepare(accelerator, network(), loader, name="leon", lr=5e-2)
        before = loss_of(model)
        for _ in range(20):
            for x, y in loader:
                with accelerator.accumulate(model):
                    accelerator.backward(nn.functional.cross_entropy(model(x), y))
                    accelerator.clip_grad_norm_(model.parameters(), 1.0)
                    optimizer.step()
                    optimizer.zero_grad()
    assert isinstance(optimizer.optimizer, Leon)
    assert int(next(iter(optimizer.optimizer.state.values()))["step"]) == 40  # one step for two batches
    assert loss_of(model) < 0.9 * before


def test_nonsense_is_refused():
    with pytest.raises(InvalidInputError, match="Accelerator"):
        prepare(object(), network())
    with pytest.raises(InvalidInputError, match="magic"):
        HuggingFaceOptimizer()(network(), name="magic")
    with pytest.raises(InvalidInputError, match="no matrix"):
        HuggingFaceOptimizer()(nn.LayerNorm(3), name="leon")
