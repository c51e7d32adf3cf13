"""Networks in files of torch.export and TorchScript: like the network itself, with its gradient."""

import io
import json
import pickle
import shutil
import warnings
import zipfile
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from steelman.data import Digits
from steelman.experiments.opening import open_subject
from steelman.identity import model_parts
from steelman.loading.programs import Program, is_script


@pytest.fixture(scope="module")
def images() -> Tensor:
    return next(Digits().load("test").in_order(7)).x


@pytest.fixture(scope="module")
def network() -> nn.Module:
    torch.manual_seed(0)
    layers = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10)
    return nn.Sequential(*layers).eval()


@pytest.fixture(scope="module")
def files(network: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The network in each form: any batch, a fixed one, channels last, TorchScript."""
    home, example = tmp_path_factory.mktemp("programs"), torch.rand(4, 1, 8, 8)
    any_batch = {"input": {0: torch.export.Dim("batch")}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.export.save(torch.export.export(network, (example,), dynamic_shapes=any_batch), home / "any.pt2")
        torch.export.save(torch.export.export(network, (example,)), home / "four.pt2")
        torch.export.save(torch.export.export(Last(network), (example.permute(0, 2, 3, 1),)), home / "last.pt2")
        torch.jit.trace(network, example).save(home / "net.ts")
    return home


class Last(nn.Module):
    """A network of bytes, channels last."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x.permute(0, 3, 1, 2) / 255)


@pytest.mark.parametrize("name", ["any.pt2", "four.pt2", "net.ts"])
def test_a_program_answers_like_its_network(name: str, files: Path, network: nn.Module, images: Tensor):
    subject = open_subject(str(files / name), data="Digits")
    assert not subject.model.training
    assert "input" not in subject.info
    for count in (7, 4, 1):
        torch.testing.assert_close(subject.model(images[:count]), network(images[:count]))
    ours, theirs = (images.clone().requires_grad_() for _ in range(2))
    subject.model(ours)[:, 3].sum().backward()
    network(theirs)[:, 3].sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad)


@pytest.mark.parametrize("name", ["any.pt2", "net.ts"])
def test_a_program_goes_to_another_process_by_its_file(name: str, files: Path, images: Tensor, tmp_path: Path):
    model = Program(Path(shutil.copy(files / name, tmp_path / name))).eval()
    sent = pickle.dumps(model)
    again = pickle.loads(sent)
    assert torch.equal(again(images), model(images))
    assert model_parts(again) == model_parts(model) != model_parts(Program(files / "four.pt2"))
    shutil.copy(files / "last.pt2", tmp_path / name)
    with pytest.raises(ValueError, match=r"has changed since it was opened|is not a readable TorchScript"):
        pickle.loads(sent)


def test_layout_and_range_are_guessed_or_given(files: Path, network: nn.Module, images: Tensor):
    guessed = open_subject(str(files / "last.pt2"), data="Digits", range=(0.0, 255.0))
    assert guessed.info["input"] == "in the range 0..255, channels last"
    torch.testing.assert_close(guessed.model(images), network(images))
    script = open_subject(str(files / "net.ts"), data="Digits", range=(-1.0, 1.0), mean=[-1.0], std=[2.0])
    assert script.info["input"] == "in the range -1..1, normalised by mean -1, std 2"
    torch.testing.assert_close(script.model(images), network(images))
    with pytest.raises(ValueError, match=r"last\.pt2 takes images of shape \(4, 8, 8, 1\), and these data are"):
        open_subject(str(files / "last.pt2"), data="Digits", layout="NCHW")


def test_torchscript_in_a_pt_file_is_not_run_unasked(files: Path, tmp_path: Path):
    shutil.copy(files / "net.ts", tmp_path / "net.pt")
    assert is_script(tmp_path / "net.pt")
    assert not is_script(files / "any.pt2")
    with pytest.raises(ValueError, match=r"net\.pt is TorchScript, a program: .* rename it to net\.ts\. Or save model"):
        open_subject(str(tmp_path / "net.pt"), data="Digits", network="LeNet")


class Evil:
    """Leaves a file where it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self):
        return Path.touch, (self.trace,)


def test_files_that_would_have_to_be_unpickled_or_are_damaged_are_refused(files: Path, tmp_path: Path):
    trace = tmp_path / "trace"
    evil = io.BytesIO()
    torch.save(Evil(trace), evil)
    whole = zipfile.ZipFile(files / "any.pt2")
    inputs = next(name for name in whole.namelist() if "sample_inputs" in name)
    weights = next(name for name in whole.namelist() if name.endswith("model_weights_config.json"))
    pickled = json.loads(whole.read(weights))
    next(iter(pickled["config"].values()))["use_pickle"] = True
    for name, changed, content in (
        ("inputs", inputs, evil.getvalue()),
        ("weights", weights, json.dumps(pickled).encode()),
    ):
        path = tmp_path / f"{name}.pt2"
        with zipfile.ZipFile(path, "w") as archive:
            for member in whole.namelist():
                archive.writestr(member, content if member == changed else whole.read(member))
        with pytest.raises(ValueError, match=rf"{name}\.pt2 is not a readable file of torch\.export"):
            Program(path)
    assert not trace.exists()
    for name, kind in (("any.pt2", r"torch\.export"), ("net.ts", "TorchScript")):
        (tmp_path / name).write_bytes((files / name).read_bytes()[:900])
        with pytest.raises(ValueError, match=rf"{name} is not a readable .*{kind}"):
            Program(tmp_path / name)
    with pytest.raises(FileNotFoundError, match=r"there is no file .*gone\.pt2"):
        Program(tmp_path / "gone.pt2")


def test_a_program_that_fails_on_the_images_says_so(files: Path):
    for name in ("any.pt2", "net.ts"):
        with pytest.raises(ValueError, match=rf"{name} fails on images of shape \(2, 1, 9, 9\): "):
            Program(files / name)(torch.rand(2, 1, 9, 9))


def test_a_program_of_other_inputs_is_refused(tmp_path: Path):
    class Two(nn.Module):
        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return (x * y).flatten(1)

    example = torch.rand(4, 1, 8, 8)
    torch.export.save(torch.export.export(Two(), (example, example)), tmp_path / "two.pt2")
    with pytest.raises(ValueError, match=r"two\.pt2 must have one input, of images \(batch"):
        Program(tmp_path / "two.pt2")
