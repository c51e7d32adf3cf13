"""Any model in: runs, functions, state dicts, ONNX files, black boxes, RobustBench's models."""

import pickle
import shutil
import sys
from collections import OrderedDict
from enum import Enum
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor, nn
from typer import BadParameter

from steelman import FGSM, Surrogate, checkpoint
from steelman.cli.options import radius
from steelman.data import Arrays, Digits, External, ImageFolder
from steelman.experiments.opening import open_subject
from steelman.identity import digest, model_parts
from steelman.loading import Onnx, fill, read_state, source
from steelman.loading.subject import Subject
from steelman.networks import MLP, BlackBox, LogOfProbabilities, Normalise, Preprocessed
from steelman.norms import L1, L2

TABLE = '{ kind = "MLP", hidden = [] }'

MODULE = """
import torch
from steelman.networks import MLP

network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
number = 3

def plain():
    return network

def for_the_data(classes, shape, scale=1.0):
    return MLP(shape=shape, classes=classes, hidden=[])

def closure():
    return lambda x: network(x).softmax(1)

def nothing():
    return 3

def needs(width, depth):
    return network

class Needs(torch.nn.Module):
    def __init__(self, width):
        super().__init__()

def classes(images):
    return network(images).argmax(1).tolist()

def scores(images):
    return network(images).detach().double().numpy()

def words(images):
    return ["no"] * len(images)
"""


@pytest.fixture(scope="module")
def images() -> Tensor:
    return next(Digits().load("test").in_order(12)).x


@pytest.fixture(scope="module")
def network() -> MLP:
    torch.manual_seed(0)
    return MLP(shape=(1, 8, 8), hidden=[])


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module of the user's, by its name."""
    name = f"theirs_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    return name


def opened(what: object, **options: object) -> Subject:
    return open_subject(str(what), **({"data": "Digits"} | options))  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("wrapped", "said"),
    [
        (lambda state: state, ""),
        (
            lambda state: {"state_dict": {f"module.{name}": value for name, value in state.items()}, "epoch": 3},
            "without the prefix module.",
        ),
        (
            lambda state: {"last": {f"model.{name}": value for name, value in state.items()}, "best": {}},
            "without the prefix model.",
        ),
        (
            lambda state: {"model": {f"_orig_mod.module.{name}": value for name, value in state.items()}},
            "without the prefix _orig_mod.module.",
        ),
        (
            lambda state: {"n_averaged": torch.tensor(3)} | {f"module.{name}": value for name, value in state.items()},
            "without the prefix module.",
        ),
    ],
)
def test_a_state_dict_is_found_in_what_it_is_wrapped_in(
    wrapped, said: str, network: MLP, images: Tensor, tmp_path: Path
):
    torch.save(wrapped(network.state_dict()), tmp_path / "net.pt")
    subject = opened(tmp_path / "net.pt", network=TABLE)
    assert torch.equal(subject.model(images), network(images))
    assert not subject.model.training
    assert (subject.name, subject.results, subject.battery) == ("net", Path("evaluations/net"), None)
    removed = subject.info.get("weights", "")
    assert removed == said
    assert {**subject.info, "weights": ""} == {
        "model": str(tmp_path / "net.pt"),
        "data": "Digits()",
        "network": TABLE,
        "weights": "",
    }
    assert len(subject.training()) > len(subject.test) > len(subject.sample(7)) == 7


def test_safetensors_and_our_own_checkpoints_too(network: MLP, images: Tensor, tmp_path: Path):
    safetensors.torch.save_file(network.state_dict(), tmp_path / "theirs.safetensors")
    checkpoint.save(tmp_path / "ours.safetensors", {"epoch": 1, "nets": {"classifier": network.state_dict()}})
    checkpoint.save(tmp_path / "best.safetensors", {"epoch": 1, "classifier": network.state_dict()})
    for name in ("theirs", "ours", "best"):
        assert torch.equal(opened(tmp_path / f"{name}.safetensors", network=TABLE).model(images), network(images))


def test_weights_that_do_not_fit_are_named(network: MLP):
    state = network.state_dict()
    short = {"fc1.weight": state["fc1.weight"][:, :60], "fc1.bais": state["fc1.bias"]}
    with pytest.raises(
        ValueError, match=r"file does not fit MLP: it lacks fc1\.bias \(nearest: fc1\.bais\); it has "
    ) as told:
        fill(MLP(shape=(1, 8, 8), hidden=[]), short, "file")
    assert "fc1.bais, for which there is no place (nearest: fc1.bias)" in str(told.value)
    assert "fc1.weight is (10, 60) and should be (10, 64)" in str(told.value)
    many = {f"x{place}": state["fc1.bias"] for place in range(9)}
    with pytest.raises(ValueError, match=r"it has x0, x1, x2 and 6 more, for which there is no place \(there are "):
        fill(MLP(shape=(1, 8, 8), hidden=[]), state | many, "file")


def test_a_name_is_only_shortened_to_one_of_the_networks(images: Tensor):
    inner = nn.Sequential(OrderedDict(model=nn.Sequential(nn.Flatten(), nn.Linear(64, 10))))
    other = nn.Sequential(OrderedDict(model=nn.Sequential(nn.Flatten(), nn.Linear(64, 10))))
    fill(other, {f"module.{name}": value for name, value in inner.state_dict().items()}, "file")
    assert torch.equal(other(images), inner(images))


def test_files_that_hold_no_weights_are_refused(network: MLP, tmp_path: Path):
    torch.save(network.state_dict(), tmp_path / "whole.pt")
    content = (tmp_path / "whole.pt").read_bytes()
    (tmp_path / "cut.pt").write_bytes(content[: len(content) // 2])
    torch.save(network, tmp_path / "pickled.pt")
    torch.save(Path("/"), tmp_path / "evil.pth")
    torch.save({"epoch": 3}, tmp_path / "none.pt")
    torch.save(7, tmp_path / "seven.pt")
    (tmp_path / "cut.safetensors").write_bytes(b"\x40" + bytes(7) + b'{"a":')
    for name, message in {
        "cut.pt": r"cut\.pt is not a readable file of torch\.save",
        "pickled.pt": r"pickled\.pt holds more than tensors and plain values.*save model\.state_dict\(\) alone",
        "evil.pth": r"evil\.pth holds more than tensors",
        "none.pt": r"none\.pt holds no state dict: it is a dict with epoch; tensors by name are needed",
        "seven.pt": r"seven\.pt holds no state dict: it is a int;",
        "cut.safetensors": r"cut\.safetensors is not a readable safetensors file",
    }.items():
        with pytest.raises(ValueError, match=message):
            read_state(tmp_path / name)
    with pytest.raises(FileNotFoundError, match=r"there is no file .*gone\.pt"):
        read_state(tmp_path / "gone.pt")
    with pytest.raises(
        ValueError, match=r"whole\.pt holds weights \(fc1\.weight, fc1\.bias, \.\.\.\).* give --network"
    ):
        opened(tmp_path / "whole.pt")
    for wrong, message in {"LeNat": r"--network: .*did you mean LeNet\?", "{ kind =": r"not a table of TOML"}.items():
        with pytest.raises(ValueError, match=message):
            opened(tmp_path / "whole.pt", network=wrong)


def test_a_module_is_taken_and_a_function_called_for_one(module: str, images: Tensor):
    theirs = opened(f"{module}:network")
    assert isinstance(theirs.model, nn.Sequential)
    assert theirs.name == "network"
    assert opened(f"{module}:plain").model is theirs.model
    assert opened(f"{module}:for_the_data").model(images).shape == (12, 10)


def test_a_function_of_images_is_a_black_box(module: str, images: Tensor):
    model = opened(f"{module}:network").model
    scores, classes, closure = (opened(f"{module}:{name}").model for name in ("scores", "classes", "closure"))
    assert isinstance(scores, BlackBox)
    torch.testing.assert_close(scores(images), model(images))
    assert scores(images).dtype == torch.float32
    assert not scores(images.clone().requires_grad_()).requires_grad
    assert torch.equal(classes(images), model(images).argmax(1))
    assert classes(images).dtype == torch.int64
    torch.testing.assert_close(closure(images), model(images).softmax(1))
    with pytest.raises(ValueError, match=r":words must answer with scores or classes; got \['no'"):
        opened(f"{module}:words").model(images)


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("number", r"number is a int, neither a model nor a function that returns one"),
        ("nothing", r"nothing made a int, neither a model nor a function of images"),
        ("needs", r"needs needs width, depth: give a function without such arguments"),
        ("Needs", r"Needs needs width: "),
        ("plane", r"'plane' is not there; did you mean plain\?"),
    ],
)
def test_what_is_no_model_is_refused(what: str, message: str, module: str):
    with pytest.raises(ValueError, match=message):
        opened(f"{module}:{what}")


def test_normalisation_is_put_before(module: str, images: Tensor):
    bare, whole = opened(f"{module}:network"), opened(f"{module}:network", mean=[0.5], std=[0.25])
    assert isinstance(whole.model, Preprocessed)
    assert isinstance(whole.model.preprocess, Normalise)
    assert (bare.space, whole.space) == ("pixels", "preprocessed")
    torch.testing.assert_close(whole.model(images), bare.model((images - 0.5) / 0.25))
    assert whole.info["input"] == "normalised by mean 0.5, std 0.25"
    for mean, std in (([0.5], None), ([0.5, 0.5], [1.0, 1.0]), ([0.5], [0.0])):
        with pytest.raises(ValueError, match=r"Normalise needs (mean and std, 1|finite) numbers"):
            opened(f"{module}:network", mean=mean, std=std)


@pytest.mark.parametrize(
    ("what", "options", "error", "message"),
    [
        ("NOWHERE", {}, FileNotFoundError, r"NOWHERE is no run: there is no NOWHERE/recipe\.toml"),
        (
            "some:thing",
            {"network": "LeNet"},
            ValueError,
            r"--network is for state dicts \(\.safetensors, \.pt, \.pth\)",
        ),
        ("some:thing", {"data": None}, ValueError, r"some:thing needs images: give --data, such as MNIST"),
        ("no_such_module:thing", {}, ValueError, r"no module named 'no_such_module'"),
        ("gone.onnx", {}, FileNotFoundError, r"there is no file gone\.onnx"),
        (".", {}, FileNotFoundError, r"\. is no run: there is no recipe\.toml"),
    ],
)
def test_options_that_are_missing_or_idle_are_named(what: str, options: dict, error: type[Exception], message: str):
    with pytest.raises(error, match=message):
        opened(what, **options)


def test_images_by_what_they_are_called(tmp_path: Path):
    (tmp_path / "train").mkdir()
    assert source("Digits") == Digits()
    assert source("some.npz") == Arrays("some.npz")
    assert source(str(tmp_path)) == ImageFolder(str(tmp_path))
    assert source("my:data") == External("my:data")
    assert source('{ kind = "Arrays", file = "a.npz", channels_last = true }') == Arrays("a.npz", channels_last=True)
    with pytest.raises(
        ValueError, match=r"--data Digit: there is no such data set, file or folder; did you mean Digits"
    ):
        source("Digit")
    with pytest.raises(ValueError, match=r"--data\.fil: Arrays has no such setting; did you mean file\?"):
        source('{ kind = "Arrays", fil = "a.npz" }')


def test_radii_are_told_as_numbers_or_as_fractions():
    assert (radius("8/255"), radius(".3")) == (8 / 255, 0.3)
    for wrong in ("8/x", "1/0", "much"):
        with pytest.raises(BadParameter, match=r"is not a number such as \.3 or 8/255"):
            radius(wrong)


def test_logs_of_probabilities_are_their_logits(images: Tensor, network: MLP):
    certain = nn.Sequential(network, nn.Softmax(1))
    torch.testing.assert_close(LogOfProbabilities(certain)(images).softmax(1), certain(images))
    never = LogOfProbabilities(nn.Hardtanh(0, 1))(torch.tensor([[0.0, 1.0]]))
    assert bool(never.isfinite().all())
    torch.testing.assert_close(never.softmax(1), torch.tensor([[0.0, 1.0]]), rtol=0, atol=2e-38)


def test_a_black_box_of_a_module_says_no_more_than_it_is_asked(images: Tensor, network: MLP):
    scores, classes = BlackBox(network), BlackBox(network, "decisions")
    assert torch.equal(scores(images), network(images))
    assert not scores(images).requires_grad
    assert torch.equal(classes(images), network(images).argmax(1))
    assert len({digest(model_parts(each)) for each in (network, scores, classes)}) == 3
    assert len({digest(model_parts(BlackBox(each))) for each in (network.forward, len)}) == 2


@pytest.mark.parametrize("batch", ["batch", 5])
def test_an_onnx_file_answers_with_scores(batch: str | int, images: Tensor, network: MLP, tmp_path: Path):
    pytest.importorskip("onnxruntime")
    path = exported(network, tmp_path / "net.onnx", [batch, 1, 8, 8])
    subject = opened(path)
    for count in (12, 5, 1):
        torch.testing.assert_close(subject.model(images[:count]), network(images[:count]), rtol=1e-4, atol=1e-5)
    assert not subject.model(images.clone().requires_grad_()).requires_grad
    again = pickle.loads(pickle.dumps(subject.model))
    assert torch.equal(again(images), subject.model(images))
    assert model_parts(again) == model_parts(subject.model)


def test_an_onnx_file_is_known_by_its_bytes(images: Tensor, network: MLP, tmp_path: Path):
    pytest.importorskip("onnxruntime")
    path = exported(network, tmp_path / "net.onnx", ["batch", 1, 8, 8])
    model = Onnx(path)
    there = Onnx(Path(shutil.copy(path, tmp_path / "copy.onnx")))
    assert digest(Surrogate(FGSM(), model)) == digest(Surrogate(FGSM(), there))
    assert model_parts(model) == model_parts(there) == model_parts(pickle.loads(pickle.dumps(model)))
    before, known = model_parts(model), digest(model)
    torch.manual_seed(1)
    other = Onnx(exported(MLP(shape=(1, 8, 8), hidden=[]), path, ["batch", 1, 8, 8]))
    assert not torch.equal(other(images), model(images))
    assert model_parts(other) != before
    assert digest(other) != known


def test_onnx_files_with_channels_last_or_bytes_are_recognised(images: Tensor, network: MLP, tmp_path: Path):
    pytest.importorskip("onnxruntime")
    last = opened(exported(network, tmp_path / "last.onnx", ["n", 8, 8, 1]))
    torch.testing.assert_close(last.model(images), network(images), rtol=1e-4, atol=1e-5)
    assert last.info["input"] == "channels last"
    bytes_ = opened(exported(network, tmp_path / "bytes.onnx", ["n", 1, 8, 8], bytes_=True))
    expected = network((255 * images).round())
    torch.testing.assert_close(bytes_.model(images), expected, rtol=1e-4, atol=1e-3)
    assert bytes_.info["input"] == "in the range 0..255, rounded"


def test_onnx_files_for_other_images_are_refused(network: MLP, tmp_path: Path):
    pytest.importorskip("onnxruntime")
    path = exported(network, tmp_path / "net.onnx", ["n", 2, 8, 4])
    with pytest.raises(
        ValueError, match=r"takes images of shape \(any, 2, 8, 4\), and these data are \(batch, 1, 8, 8\)"
    ):
        opened(path)
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(ValueError, match=r"net\.onnx is not a readable ONNX model"):
        opened(path)


def exported(network: MLP, path: Path, shape: list[str | int], bytes_: bool = False) -> Path:
    onnx = pytest.importorskip("onnx")
    make, kind, given = onnx.helper, onnx.TensorProto.FLOAT, onnx.TensorProto.UINT8 if bytes_ else 1
    weights = [
        onnx.numpy_helper.from_array(value.detach().numpy(), name)
        for name, value in (("weight", network.fc1.weight), ("bias", network.fc1.bias))
    ]
    nodes = [
        make.make_node("Cast", ["x"], ["numbers"], to=kind),
        make.make_node("Flatten", ["numbers"], ["flat"]),
        make.make_node("Gemm", ["flat", "weight", "bias"], ["y"], transB=1),
    ]
    ends = [make.make_tensor_value_info("x", given, shape)], [make.make_tensor_value_info("y", kind, [shape[0], 10])]
    graph = make.make_graph(nodes, "net", *ends, weights)
    onnx.save(make.make_model(graph, opset_imports=[make.make_opsetid("", 17)], ir_version=9), path)
    return path


def test_without_onnx_runtime_the_remedy_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    (tmp_path / "net.onnx").write_bytes(b"")
    with pytest.raises(ImportError, match=r"pip install steelman\[onnx\]"):
        Onnx(tmp_path / "net.onnx")


class Zoo(Enum):
    cifar_10 = "cifar10"
    Linf = "Linf"
    L2 = "L2"


@pytest.fixture
def zoo(monkeypatch: pytest.MonkeyPatch, network: MLP) -> list[tuple]:
    """A stand-in for robustbench, with its signatures; what was asked of it."""
    asked = []
    modules = {name: ModuleType(name) for name in ("robustbench", "robustbench.model_zoo", "robustbench.utils")}
    models = {Zoo.cifar_10: {Zoo.Linf: OrderedDict(Standard={}), Zoo.L2: OrderedDict(Rice2020={}, Standard={})}}

    def load_model(model_name, model_dir="./models", dataset=Zoo.cifar_10, threat_model=Zoo.Linf, norm=None):
        asked.append((model_name, dataset, threat_model))
        return network

    modules["robustbench.model_zoo"].model_dicts = models  # pyright: ignore[reportAttributeAccessIssue]
    modules["robustbench.utils"].load_model = load_model  # pyright: ignore[reportAttributeAccessIssue]
    for name, each in modules.items():
        monkeypatch.setitem(sys.modules, name, each)
    return asked


def test_robustbench_is_asked_for_its_models(zoo: list[tuple], network: MLP, tmp_path: Path, monkeypatch):
    pixels, labels = np.zeros((4, 1, 8, 8), np.uint8), np.arange(4) % 2
    np.savez(tmp_path / "few.npz", x_train=pixels, y_train=labels, x_test=pixels, y_test=labels)
    few = Arrays(str(tmp_path / "few.npz"))
    monkeypatch.setattr("steelman.data.CIFAR10.load", lambda self, split, folder=None: few.load(split))
    assert opened("robustbench:Standard", data="CIFAR10").model is network
    assert opened("robustbench:Rice2020", data="CIFAR10").name == "Rice2020"
    assert opened("robustbench:Standard", data="CIFAR10", norm=L2).data == "CIFAR10"
    assert zoo == [("Standard", "cifar10", "Linf"), ("Rice2020", "cifar10", "L2"), ("Standard", "cifar10", "L2")]
    for name, options, message in (
        (
            "Standart",
            {"data": "CIFAR10"},
            r"RobustBench has no Linf or L2 model Standart for CIFAR10; did you mean Standard\?",
        ),
        ("Standard", {"data": "Digits"}, r"RobustBench is about CIFAR10, CIFAR100, ImageFolder; got --data Digits"),
        ("Standard", {"data": "CIFAR10", "norm": L1}, r"RobustBench has models for --norm Linf and L2; got L1"),
    ):
        with pytest.raises(ValueError, match=message):
            opened(f"robustbench:{name}", **options)
    monkeypatch.setitem(sys.modules, "robustbench.model_zoo", None)
    with pytest.raises(ImportError, match="pip install robustbench"):
        opened("robustbench:Standard", data="CIFAR10")
