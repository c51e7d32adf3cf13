"""The commands of docs/any-model.md, on files like those that their names say."""

import io
import re
import shlex
import tarfile
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import typer
from PIL import Image
from torch import nn

from steelman.networks import MLP
from steelman.networks.building import DEVICE

PAGE = Path(__file__).parents[2] / "docs/any-model.md"
COMMANDS = re.search(r"^```sh\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.S | re.M)[1].splitlines()  # pyright: ignore

MODULE = """
import torch
from steelman.networks import MLP

def small(shape, classes):
    return MLP(shape=shape, classes=classes, hidden=[24])

def normalised(shape, classes):
    return small(shape, classes)

def predict(images):
    return images.flatten(1)[:, :10]
"""

SAID = {
    "my_models:small": "weights: without the prefix module.",
    "my_models:normalised": "input: normalised by mean 0.3, std 0.38",
    "model.onnx": "input: resized from 8x8 to 16x16 (bilinear), channels last",
    "model.pt2": "input: resized from 8x8 to 16x16 (bilinear)",
    "caffe.ts": "input: channels in the order BGR, in the range 0..255, normalised by mean 104 117 123, std 1 1 1",
    "pets.parquet": "input: resized from 8x8 to 16x16 (bilinear), normalised by mean 0.5 0.5 0.5, std 0.5 0.5 0.5",
    "--data shards": "classes: matched by name",
}


@pytest.fixture(scope="module")
def there(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with everything that the commands name; what needs a library that is not here is left out."""
    home = tmp_path_factory.mktemp("there")
    torch.manual_seed(0)
    (home / "my_models.py").write_text(MODULE)
    weights = MLP(shape=(1, 8, 8), classes=10, hidden=[24]).state_dict()
    torch.save({f"module.{name}": value for name, value in weights.items()}, home / "weights.pt")
    pixels = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 3), np.uint8)
    labels = np.arange(6) % 2
    np.savez(home / "test.npz", x_train=pixels[..., 0], y_train=labels, x_test=pixels[..., 0], y_test=labels)
    encoded = [png(each) for each in pixels]
    for split in ("train", "test"):
        for place, picture in enumerate(encoded):
            folder = home / "pictures" / split / ("cat", "dog")[place % 2]
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{place}.png").write_bytes(picture)
    write_shards(home / "shards", encoded)
    write_parquet(home / "pets.parquet", encoded)
    write_programs(home)
    write_onnx(home / "model.onnx")
    write_vit(home / "vit-pets")
    return home


def png(image: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "PNG")
    return stream.getvalue()


def write_shards(folder: Path, encoded: list[bytes]) -> None:
    folder.mkdir()
    (folder / "classes.txt").write_text("Dog\nCat\n")
    with tarfile.open(folder / "test-000000.tar", "w") as archive:
        for place, picture in enumerate(encoded):
            for ending, content in (("png", picture), ("cls", b"%d" % (place % 2))):
                member = tarfile.TarInfo(f"{place:06}.{ending}")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))


def write_parquet(path: Path, encoded: list[bytes]) -> None:
    import pyarrow
    from pyarrow import parquet

    words = [("cat", "dog")[place % 2] for place in range(len(encoded))]
    parquet.write_table(pyarrow.table({"image": [{"bytes": each} for each in encoded], "label": words}), path)


def write_programs(home: Path) -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 2)).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.export.save(torch.export.export(net, (torch.rand(4, 3, 16, 16),)), home / "model.pt2")
        small = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 2)).eval()
        torch.jit.trace(small, torch.rand(2, 3, 8, 8)).save(home / "caffe.ts")


def write_onnx(path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    make, kind = onnx.helper, onnx.TensorProto.FLOAT
    weight = onnx.numpy_helper.from_array(np.random.default_rng(0).normal(size=(2, 768)).astype(np.float32), "weight")
    nodes = [
        make.make_node("Flatten", ["x"], ["flat"]),
        make.make_node("Gemm", ["flat", "weight"], ["y"], transB=1),
    ]
    ends = (
        [make.make_tensor_value_info("x", kind, ["batch", 16, 16, 3])],
        [make.make_tensor_value_info("y", kind, ["batch", 2])],
    )
    graph = make.make_graph(nodes, "net", *ends, [weight])
    onnx.save(make.make_model(graph, opset_imports=[make.make_opsetid("", 17)], ir_version=9), path)


def write_vit(folder: Path) -> None:
    try:
        import transformers
    except ImportError:
        return
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    config = transformers.ViTConfig(image_size=16, patch_size=8, id2label={0: "cat", 1: "dog"}, **sizes)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    transformers.ViTForImageClassification(config).save_pretrained(folder)
    transformers.ViTImageProcessorPil(size={"height": 16, "width": 16}).save_pretrained(folder)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_of_the_page(command: str, there: Path, call: Callable, monkeypatch: pytest.MonkeyPatch):
    """As far as the check-up, which asks the model."""
    if "hf:" in command:
        pytest.importorskip("transformers")
    if ".onnx" in command:
        pytest.importorskip("onnxruntime")

    def end(*_: object, **__: object) -> None:
        raise typer.Exit(0)

    monkeypatch.setattr("steelman.experiments.assess.assess", end)
    monkeypatch.setenv(DEVICE, "cpu")  # so that what the command sets is taken back
    monkeypatch.chdir(there)
    monkeypatch.syspath_prepend(there)
    words = shlex.split(command)
    assert words[:2] == ["steelman", "evaluate"]
    code, out, err = call(*words[1:])
    assert (code, err) == (0, ""), out + err
    for part, line in SAID.items():
        if part in command:
            assert line in out.splitlines()
    assert re.search(r"^fine +images .* from 0 to ", out, re.M)
    blind = "predict" in command or ".onnx" in command
    assert ("no gradient" in " ".join(out.split())) is blind


def test_every_line_is_there():
    assert len(COMMANDS) == 9
    assert all(any(part in command for command in COMMANDS) for part in SAID)


def test_a_model_of_transformers_goes_to_the_report(there: Path, call: Callable, monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("transformers")
    monkeypatch.chdir(there)
    code, out, err = call("evaluate", "hf:vit-pets", "--data", "pictures", "--adaptive", "never", "--eps", "8/255")
    assert code == 0, out + err
    assert "report: evaluations/vit-pets/report.html" in out
    report = (there / "evaluations/vit-pets/report.md").read_text()
    assert "resized from 8x8 to 16x16 (bilinear), normalised by mean 0.5 0.5 0.5, std 0.5 0.5 0.5" in report


def test_devices(call: Callable, monkeypatch: pytest.MonkeyPatch):
    from steelman.networks.building import device, idle_gpu

    monkeypatch.setenv(DEVICE, "cpu")
    assert device().type == "cpu"
    for name, message in (("gpu", r"there is no device 'gpu': give cpu, cuda"), ("cuda:99", r"'cuda:99' is not here")):
        monkeypatch.setenv(DEVICE, name)
        with pytest.raises(ValueError, match=message):
            device()
    cpu = torch.device("cpu")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setattr("shutil.which", lambda name: None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert idle_gpu(cpu) == ""
    monkeypatch.setattr("shutil.which", lambda name: "/usr/bin/nvidia-smi")
    monkeypatch.setattr(torch.version, "cuda", None)
    assert "is built without CUDA: install one with it" in idle_gpu(cpu)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert idle_gpu(cpu) == "A GPU is here and is not used: --device cuda"
    assert idle_gpu(torch.device("cuda")) == ""
