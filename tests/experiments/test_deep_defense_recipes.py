"""Deep Defense's recipes of CIFAR-10 and ImageNet take a batch, on made images."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import shipped
from steelman.data import cifar
from steelman.experiments.recipe import build, load_recipe
from steelman.experiments.run import train
from steelman.networks import batchnorm_layers
from steelman.training import Stages, UnevenSGD, fit

RANDOM = np.random.default_rng(0)
CIFAR = [path.stem for path in shipped.ALL if "_cifar10_convnet" in path.stem or "_cifar10_nin" in path.stem]
IMAGENET = [path.stem for path in shipped.ALL if "_imagenet_" in path.stem]


def path_of(name: str) -> Path:
    return next(path for path in shipped.ALL if path.stem == name)


def small_cifar(folder: Path) -> None:
    for name, count in {**{f"data_batch_{place}": 2 for place in range(1, 6)}, "test_batch": 4}.items():
        records = RANDOM.integers(0, 256, (count, 3073), np.uint8)
        records[:, 0] %= 10
        (folder / f"{name}.bin").write_bytes(records.tobytes())
    (folder / "batches.meta.txt").write_text("\n".join(f"class{label}" for label in range(10)))


@pytest.mark.parametrize("name", CIFAR)
def test_cifar_recipes_begin(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """With what they start from and prepare. Whitening is tested elsewhere: its decomposition takes a minute."""
    monkeypatch.setattr(cifar, "_COUNTS", {"train": 10, "test": 4})
    (tmp_path / "cifar-10-batches-bin").mkdir()
    small_cifar(tmp_path / "cifar-10-batches-bin")
    changes = ["network.preprocess=SubtractMean", "training.batch_size=2", "training.images=2"]
    for start in shipped.shipped(path_of(name)).starts:
        train(Path(start).stem, tmp_path, tmp_path, [*changes, "training.epochs=0"])
        checkpoint = tmp_path / Path(start).stem / "last.safetensors"
        changes += [f"start={checkpoint}", "training.track_test=2"]
    log = train(name, tmp_path, tmp_path, [*changes, "training.iterations=1"]).log
    assert [line["epoch"] for line in log] == [0, 1]
    assert all(np.isfinite(value) for line in log for value in line.values())


@pytest.mark.parametrize("name", IMAGENET)
def test_imagenet_recipes_begin(name: str, tmp_path: Path):
    """On a folder of pictures of 12 classes, more than compete; a batch in two parts where a part is set."""
    for place in (tmp_path / "imagenet" / "train" / f"n{label:02}" for label in range(12)):
        place.mkdir(parents=True)
        Image.fromarray(RANDOM.integers(0, 256, (70, 80, 3), np.uint8)).save(place / "one.png")
    changes = ["data.size=[67, 67]", "data.workers=0", "training.iterations=1", "training.batch_size=2"]
    recipe = load_recipe(path_of(name), changes)
    training = replace(recipe.training, micro_batch=recipe.training.micro_batch and 1)
    images = recipe.data.load("train", tmp_path)
    model = build(recipe, images)
    before = [each.detach().clone() for each in model.parameters()]
    log = fit(model, images, recipe.defence, training).log
    assert np.isfinite(log[1]["loss"])
    frozen = {id(each) for layer in batchnorm_layers(model) for each in layer.parameters()}
    for old, new in zip(before, model.parameters(), strict=True):
        assert torch.equal(old, new) == (id(new) in frozen and name.startswith("deep-defense"))


def test_their_schedules_are_those_of_matconvnet():
    """Rates of MatConvNet's examples, epoch by epoch, of weights, biases and the last layer's weights."""
    for name, rates, factors in (
        ("reference_cifar10_convnet", [0.05] * 30 + [0.005] * 10 + [0.0005] * 5, (0.1, 2, 0.01)),
        ("reference_cifar10_nin", [0.002, 0.01, 0.02, *[0.04] * 80, *[0.004] * 10, *[0.0004] * 10], (1, 10, 0.001)),
    ):
        training = shipped.shipped(path_of(name)).training
        optimiser, epochs = training.optimiser, training.epochs
        assert isinstance(optimiser, UnevenSGD)
        assert epochs == len(rates)
        found = [optimiser.lr * training.schedule(batch / (500 * epochs)) for batch in range(500 * epochs)]
        wanted = [rate * factors[0] for rate in rates for _ in range(500)]
        assert found == pytest.approx(wanted)
        assert optimiser.bias == pytest.approx(factors[1] / factors[0])
        assert optimiser.last == pytest.approx(factors[2] / factors[0])
    assert isinstance(training.schedule, Stages)
