"""Filters whose network is trained by a recipe that they name."""

import shutil
from pathlib import Path

import pytest
import torch

from steelman.data import Digits
from steelman.experiments.recipe import load_recipe
from steelman.experiments.run import Run, train
from steelman.filters import PixelDefend, Reformer
from steelman.networks import Filtered

PIXELS = """
data = "Digits"
network = { kind = "PixelCNN", width = 2, depth = 1 }
defence = "PixelLikelihood"
training = { epochs = 1, images = 50 }
"""
PLAIN = """
data = "Digits"
network = { kind = "MLP", hidden = [8] }
defence = "Plain"
training = { epochs = 1, images = 50, seed = 1 }
"""
FILTER = '{ kind = "PixelDefend", on = "pixels.toml", network = { kind = "PixelCNN", width = 2, depth = 1 } }'
DEFENDED = f"""
start = "plain.toml"
data = "Digits"
network = {{ kind = "MLP", hidden = [8], filter = {FILTER} }}
defence = "Plain"
training = {{ epochs = 0 }}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, text in (("pixels", PIXELS), ("plain", PLAIN), ("defended", DEFENDED)):
        (tmp_path / f"{name}.toml").write_text(text)
    return tmp_path


def test_it_has_their_weights_and_needs_them_no_longer(folder: Path) -> None:
    runs, test = folder / "runs", Digits().load("test")
    run = train(str(folder / "defended.toml"), runs, None)
    model = run.network(test)
    assert isinstance(model, Filtered)
    assert isinstance(model.filter.filter, PixelDefend)
    for name, part in (("pixels", model.filter.filter.network), ("plain", model.network)):
        for key, value in Run.open(runs / name).network(test).state_dict().items():
            assert torch.equal(part.state_dict()[key], value)
    x = next(test.in_order(8)).x
    answer = model(x)
    for name in ("pixels", "plain"):
        shutil.rmtree(runs / name)
        (folder / f"{name}.toml").unlink()
    assert torch.equal(Run.open(runs / "defended").network(test)(x), answer)


def test_a_network_that_is_trained_behind_a_filter_leaves_it_as_it_is(folder: Path) -> None:
    changes = ["training.epochs=1", "training.images=20", "training.ema=0.9"]
    run = train(str(folder / "defended.toml"), folder / "runs", None, changes, "learnt")
    test = Digits().load("test")
    model, start = run.network(test), Run.open(folder / "runs" / "plain").network(test)
    pixels = Run.open(folder / "runs" / "pixels").network(test)
    kept = model.filter.filter.network.state_dict()
    assert all(torch.equal(kept[key], value) for key, value in pixels.state_dict().items())
    assert not torch.equal(model.network.fc1.weight, start.fc1.weight)
    later = folder / "later.toml"  # begins from the whole, or from what is behind its filter
    later.write_text(DEFENDED.replace("plain.toml", str(run.checkpoint)).replace('on = "pixels.toml", ', ""))
    with pytest.raises(ValueError, match=r"network\.filter: PixelDefend needs a trained network: name the recipe"):
        train(str(later), folder / "runs", None)
    later.write_text(DEFENDED.replace("plain.toml", str(run.checkpoint)))
    again = train(str(later), folder / "runs", None).network(test)
    assert all(torch.equal(model.state_dict()[key], value) for key, value in again.state_dict().items())
    other = '{ kind = "Reformer", on = "autoencoder.toml", network = "DenoisingAutoencoder" }'
    (folder / "autoencoder.toml").write_text(
        PIXELS.replace('{ kind = "PixelCNN", width = 2, depth = 1 }', '{ kind = "DenoisingAutoencoder" }').replace(
            "PixelLikelihood", "Denoising"
        )
    )
    later.write_text(DEFENDED.replace("plain.toml", str(run.checkpoint)).replace(FILTER, other))
    changed = train(str(later), folder / "runs", None, None, "changed").network(test)
    assert isinstance(changed.filter, Reformer)
    assert torch.equal(changed.network.fc1.weight, model.network.fc1.weight)


def test_what_does_not_fit_is_named(folder: Path) -> None:
    defended, runs = folder / "defended.toml", folder / "runs"
    train(str(folder / "pixels.toml"), runs, None)
    with pytest.raises(ValueError, match=r"trained a PixelCNN, which classifies nothing: evaluate a run whose filter"):
        Run.open(runs / "pixels").subject(None)
    for old, new, message in (
        ('on = "pixels.toml", ', "", r"PixelDefend needs a trained network: name the recipe that trains it by `on`"),
        ("pixels.toml", "pixel.toml", r"there is no recipe .*pixel"),
        ("pixels.toml", "defended.toml", r"needs .*defended.toml first, which needs"),
        ('on = "pixels.toml"', 'on = "plain.toml"', r"this recipe's filter is not that of .*plain"),
        ("width = 2", "width = 3", r"this recipe's filter is not that of .*pixels"),
        (FILTER, '{ kind = "PixelDefend", on = "pixels.toml" }', "network: PixelDefend has no option 'on'"),
        (FILTER, '{ kind = "BitDepth", network = "PixelCNN" }', "network: BitDepth has no option 'network'"),
        ('"PixelDefend"', '"Reformr"', r"did you mean Reformer\?"),
        ('network = { kind = "PixelCNN"', 'network = { kind = "PixlCNN"', r"did you mean PixelCNN\?"),
        ('network = { kind = "PixelCNN", width = 2, depth = 1 }', 'network = "MLP"', "needs a trained network such as"),
    ):
        defended.write_text(DEFENDED.replace(old, new))
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            train(str(defended), runs, None)


def test_a_base_in_another_folder_names_the_same_recipes(folder: Path) -> None:
    (folder / "below").mkdir()
    (folder / "below" / "mine.toml").write_text('base = "../defended.toml"\ntraining.seed = 5\n')
    settings = load_recipe(folder / "below" / "mine.toml").network["filter"]
    assert settings["on"] == "../pixels.toml"
    both = f"network = {{ kind = 'Ensemble', members = [{{ kind = 'MLP', filter = {FILTER} }}] }}"
    (folder / "both.toml").write_text(f'data = "Digits"\ndefence = "Plain"\n{both}\n')
    (folder / "below" / "mine.toml").write_text('base = "../both.toml"\n')
    (member,) = load_recipe(folder / "below" / "mine.toml").network["members"]
    assert member["filter"]["on"] == "../pixels.toml"
