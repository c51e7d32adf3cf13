"""From somebody's weights to a trained run and back: the file has the names that came, and gives the run's logits."""

import re
from pathlib import Path

import pytest
import safetensors.torch
import torch
from safetensors import safe_open
from torch import nn

from steelman.experiments.export import export
from steelman.experiments.run import Run, train
from steelman.loading.onnx import Onnx
from steelman.loading.weights import fill, read_state
from steelman.networks import MLP

RECIPE = """
data = "Digits"
defence = {{ kind = "PGDTraining", attack = {{ kind = "PGD", eps = 0.1, steps = 2 }} }}
network = {{ kind = "MLP", hidden = [8]{more} }}
training = {{ epochs = 1, images = 100 }}
{start}
"""


def own() -> nn.Module:
    torch.manual_seed(3)
    return MLP(hidden=(8,), shape=(1, 8, 8), classes=10)


def trained(folder: Path, start: str = "", more: str = "") -> Run:
    path = folder / "mine.toml"
    path.write_text(RECIPE.format(start=start, more=more).replace("PGDTraining", "AdversarialTraining"))
    return train(str(path), folder / "runs", None)


@pytest.mark.parametrize(("prefix", "suffix"), [("", ".pt"), ("module.", ".safetensors"), ("module.model.", ".pth")])
def test_weights_go_back_under_the_names_that_they_came_with(tmp_path: Path, prefix: str, suffix: str) -> None:
    came = {prefix + name: value for name, value in own().state_dict().items()}
    came = dict(reversed(came.items()))  # an order of their own
    torch.save({"state_dict": came, "epoch": 3}, tmp_path / "mine.pt")
    run = trained(tmp_path, f'start = "{tmp_path}/mine.pt"')
    said = export(run, tmp_path / f"hardened{suffix}")
    assert said.endswith(": 4 tensors of MLP, with the names of mine.pt")
    found = read_state(tmp_path / f"hardened{suffix}")
    assert sorted(found) == sorted(came)
    if suffix == ".safetensors":  # which sorts them
        with safe_open(tmp_path / "hardened.safetensors", "pt") as file:
            assert file.metadata() == {"format": "pt"}
    else:
        assert list(found) == list(came)
    network = own()
    assert any(not torch.equal(found[prefix + name], value) for name, value in network.state_dict().items())
    network.load_state_dict({name.removeprefix(prefix): value for name, value in found.items()})
    x = torch.rand(5, 1, 8, 8)
    expected = run.network(run.data("test", None))(x)
    torch.testing.assert_close(network.eval()(x), expected, rtol=0, atol=0)


def test_a_run_without_a_file_writes_the_names_of_the_network_behind_its_preprocessing(tmp_path: Path) -> None:
    run = trained(tmp_path, more=', preprocess = "Normalise"')
    said = export(run, tmp_path / "out.safetensors")
    assert re.search(r"Before it stands Normalise\(mean 0\.\d+, std 0\.\d+\), which the file does not have", said)
    found = safetensors.torch.load_file(tmp_path / "out.safetensors")
    assert set(found) == set(own().state_dict())
    whole = run.network(run.data("test", None))
    bare = own().eval()
    assert fill(bare, found, "out") == ""
    x = torch.rand(5, 1, 8, 8)
    assert torch.equal(bare(whole.preprocess(x)), whole(x))


def test_onnx_has_the_whole(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    run = trained(tmp_path, more=', preprocess = "Normalise"')
    said = export(run, tmp_path / "out.onnx")
    assert "images (batch, 1, 8, 8) to logits" in said
    x = torch.rand(5, 1, 8, 8)
    expected = run.network(run.data("test", None))(x).detach()
    torch.testing.assert_close(Onnx(tmp_path / "out.onnx")(x), expected, rtol=1e-4, atol=1e-4)


def test_random_networks_and_what_cannot_be_written(tmp_path: Path) -> None:
    run = trained(tmp_path, more=', filter = { kind = "RandomCrop", share = 0.75 }')
    assert "tensors of MLP" in export(run, tmp_path / "out.pt")
    with pytest.raises(ValueError, match=r"has to end in one of \.pt, \.pth, \.safetensors, \.onnx"):
        export(run, tmp_path / "out.bin")
    with pytest.raises(ValueError, match=r"out\.onnx was not kept|cannot express"):
        export(run, tmp_path / "out.onnx")
    assert not (tmp_path / "out.onnx").exists()
