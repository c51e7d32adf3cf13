"""Models of other libraries, made on the spot: transformers, timm, torchvision. Nothing is downloaded."""

import sys
from enum import Enum
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from steelman.data import Digits
from steelman.experiments.adopting import adopt
from steelman.experiments.opening import open_subject
from steelman.experiments.starting import filled
from steelman.loading.hugging_face import form_of
from steelman.networks import Preprocessed
from steelman.networks.building import network_of
from steelman.networks.input_form import Form, InputForm

CLASSES = ("cat", "dog", "eel")
COARSE = torch.rand(6, 3, 4, 3, generator=torch.Generator().manual_seed(0))
# Smooth, and neither black nor white: Pillow rounds and cuts bytes between its two passes.
PIXELS = F.interpolate(60 + 130 * COARSE, (20, 12), mode="bilinear").round().byte().numpy()


@pytest.fixture
def data(tmp_path: Path) -> str:
    """Six coloured images of three classes, as --data."""
    labels = np.arange(6) % 3
    np.savez(tmp_path / "few.npz", x_train=PIXELS, y_train=labels, x_test=PIXELS, y_test=labels)
    return f'{{ kind = "Arrays", file = "{tmp_path / "few.npz"}", classes = ["cat", "dog", "eel"] }}'


def images(data: str) -> Tensor:
    return torch.from_numpy(PIXELS / np.float32(255))


@pytest.fixture
def transformers(monkeypatch: pytest.MonkeyPatch) -> Any:
    found = pytest.importorskip("transformers")
    found.logging.set_verbosity_error()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return found


def saved(transformers: Any, folder: Path, names: tuple[str, ...] = CLASSES, **processor: Any) -> Any:
    """A tiny ViT with its processor."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    config = transformers.ViTConfig(image_size=16, patch_size=8, id2label=dict(enumerate(names)), **sizes)
    model = transformers.ViTForImageClassification(config).eval()
    model.save_pretrained(folder)
    settings = {"size": {"height": 16, "width": 16}} | processor
    transformers.ViTImageProcessorPil(**settings).save_pretrained(folder)
    return model


def test_a_transformer_from_a_folder_with_its_processor(transformers: Any, data: str, tmp_path: Path):
    model = saved(transformers, tmp_path / "vit")
    subject = open_subject(f"hf:{tmp_path / 'vit'}", data=data)
    assert subject.name == "vit"
    assert subject.info["input"] == (
        "resized from 20x12 to 16x16 (bilinear), normalised by mean 0.5 0.5 0.5, std 0.5 0.5 0.5"
    )
    assert "classes" not in subject.info
    assert isinstance(subject.model, Preprocessed)
    assert not subject.model.training
    given = subject.model.preprocess(images(data))
    torch.testing.assert_close(subject.model(images(data)), model(given).logits)
    x = images(data).requires_grad_()
    subject.model(x)[:, 0].sum().backward()
    assert x.grad is not None
    assert bool((x.grad.abs().sum((1, 2, 3)) > 0).all())


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("ViT", {"size": {"height": 16, "width": 10}}),
        ("ViT", {"size": {"height": 9, "width": 9}, "resample": 3, "image_mean": [0.1, 0.2, 0.3]}),
        (
            "ViT",
            {"size": {"height": 9, "width": 9}, "do_rescale": False, "image_mean": [99.0] * 3, "image_std": [9.0] * 3},
        ),
        ("ViT", {"size": {"height": 9, "width": 9}, "do_normalize": False}),
        ("DeiT", {"size": {"height": 18, "width": 18}, "crop_size": {"height": 16, "width": 16}}),
        ("Bit", {"size": {"shortest_edge": 10}, "crop_size": {"height": 8, "width": 8}}),
        ("Bit", {"size": {"shortest_edge": 11}, "crop_size": {"height": 8, "width": 6}}),
        ("CLIP", {"size": {"shortest_edge": 11}, "crop_size": {"height": 8, "width": 7}}),
        ("Siglip", {"size": {"height": 16, "width": 9}}),
        ("MobileNetV2", {"size": {"shortest_edge": 10}, "crop_size": {"height": 8, "width": 8}}),
        ("ConvNext", {"size": {"shortest_edge": 14}}),
        ("ConvNext", {"size": {"shortest_edge": 384}}),
        ("MobileViT", {"size": {"shortest_edge": 10}, "crop_size": {"height": 8, "width": 8}}),
    ],
)
def test_a_processor_is_copied(transformers: Any, name: str, settings: dict[str, Any]):
    """To within the byte to which Pillow rounds in each of its two passes."""
    processor = getattr(transformers, f"{name}ImageProcessorPil")(**settings)
    form = form_of(processor.to_dict(), "hf:it", 3)
    ours = InputForm(form, (3, 20, 12))(images(""))
    theirs = processor(list(PIXELS), return_tensors="pt", input_data_format="channels_first")["pixel_values"]
    assert ours.shape == theirs.shape
    byte = (form.range[1] - form.range[0]) / 255 / min(form.std or (1.0,))
    assert (ours - theirs).abs().max() <= 1.2 * byte
    assert (ours - theirs).abs().mean() <= 0.4 * byte


def test_older_settings_are_understood():
    old = {"do_resize": True, "size": 224, "do_normalize": True, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    assert form_of(old, "hf:it", 3) == Form(
        size=(224, 224), channels=3, resized=(224, 224), odd="down", range=(0.0, 1.0), mean=(0.5,) * 3, std=(0.5,) * 3
    )
    older = form_of(old | {"feature_extractor_type": "ConvNextFeatureExtractor", "crop_pct": 0.875}, "hf:it", 3)
    assert (older.size, older.resized) == ((224, 224), 256)


def test_its_classes_are_put_in_the_order_of_the_data(transformers: Any, data: str, tmp_path: Path):
    model = saved(transformers, tmp_path / "vit", ("eel", "Cat", "cow", "DOG"))
    subject = open_subject(f"hf:{tmp_path / 'vit'}", data=data)
    assert subject.info["classes"] == "the 3 classes of the data, of the model's 4, matched by name"
    assert isinstance(subject.model, Preprocessed)
    logits = model(subject.model.preprocess(images(data))).logits
    torch.testing.assert_close(subject.model(images(data)), logits[:, [1, 3, 0]])
    saved(transformers, tmp_path / "four", ("a", "b", "c", "d"))
    with pytest.raises(
        ValueError, match=r"hf:.*four has 4 classes \(a, b, c, \.\.\.\), and the data have 3 \(cat, dog, ee"
    ):
        open_subject(f"hf:{tmp_path / 'four'}", data=data)


def test_the_user_s_mean_goes_before_the_processor_s(transformers: Any, data: str, tmp_path: Path):
    saved(transformers, tmp_path / "vit")
    subject = open_subject(f"hf:{tmp_path / 'vit'}", data=data, mean=[0.1, 0.2, 0.3], std=[1.0, 1.0, 1.0])
    assert subject.info["input"].endswith("normalised by mean 0.1 0.2 0.3, std 1 1 1")


def test_what_is_no_model_of_transformers_is_refused(transformers: Any, data: str, tmp_path: Path):
    with pytest.raises(
        FileNotFoundError, match=r"hf:no/such: there is no folder no/such, and no such model was fetched"
    ):
        open_subject("hf:no/such", data=data)
    with pytest.raises(
        FileNotFoundError, match=r"hf:vitt: there is no folder vitt; names on huggingface\.co are OWNER"
    ):
        open_subject("hf:vitt", data=data)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"hf:.*empty is no image classifier of transformers"):
        open_subject(f"hf:{tmp_path / 'empty'}", data=data)
    model = saved(transformers, tmp_path / "bare")
    (tmp_path / "bare/preprocessor_config.json").unlink()
    with pytest.raises(ValueError, match=r"bare has no preprocessor_config\.json, so how its images are normalised is"):
        open_subject(f"hf:{tmp_path / 'bare'}", data=data)
    model.vit.save_pretrained(tmp_path / "headless")
    with pytest.raises(ValueError, match=r"headless has no trained classifier: its weights lack classifier\.bias"):
        open_subject(f"hf:{tmp_path / 'headless'}", data=data)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"image_processor_type": "LevitImageProcessor"}, r"its processor has Levit, which is not copied here: load"),
        ({"image_processor_type": "TimmWrapperImageProcessor"}, r"not copied here: name it timm:hf-hub:NAME"),
        ({"do_pad": True}, r"its processor has do_pad, which is not copied here"),
        ({"size": {"shortest_edge": 8}}, r"scales the shorter side to 8 and crops nothing, so that no one size"),
        ({"size": {"longest_edge": 8}}, r"its processor resizes to \{'longest_edge': 8\}, which is not offered"),
        ({"size": {"height": 8, "width": 8}, "resample": 1}, r"resizes by Pillow's filter 1"),
    ],
)
def test_a_processor_that_does_more_is_refused(settings: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        form_of(settings, "hf:it", 3)


def test_without_the_library_the_extra_is_named(data: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("steelman.extras.find_spec", lambda name: None if name == "transformers" else find_spec(name))
    for name in ("timm", "timm.data", "torchvision.models"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match=r"hf:a/b needs transformers: pip install 'steelman\[hf\]'"):
        open_subject("hf:a/b", data=data)
    with pytest.raises(ImportError, match=r"timm:it needs timm \(.*\): pip install 'steelman\[timm\]'"):
        open_subject("timm:it", data=data)
    with pytest.raises(ImportError, match=r"torchvision:it needs torchvision \(.*\): pip install 'steelman\[vision\]'"):
        open_subject("torchvision:it", data=data)


def test_a_pipeline_of_scikit_learn_is_a_black_box(monkeypatch: pytest.MonkeyPatch):
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    digits = Digits().load("train")
    flat, labels = digits.images.float().flatten(1) / 16, digits.labels
    pipeline = make_pipeline(StandardScaler(), LogisticRegression(max_iter=200)).fit(flat.numpy(), labels.numpy())
    module = ModuleType("their_pipeline")
    module.scores = lambda images: pipeline.predict_proba(images.flatten(1).numpy())  # pyright: ignore
    monkeypatch.setitem(sys.modules, "their_pipeline", module)
    subject = open_subject("their_pipeline:scores", data="Digits")
    batch = next(subject.test.in_order(200))
    assert (subject.model(batch.x).argmax(1) == batch.y).float().mean() > 0.85
    assert not subject.model(batch.x.requires_grad_()).requires_grad


def net(classes: int) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, classes))


def fresh(channels: int, classes: int) -> nn.Module:
    """The same network without its weights."""
    return nn.Sequential(nn.Conv2d(channels, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, classes))


@pytest.fixture
def timm(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A stand-in for timm with its signatures; its configuration may be changed."""
    library, data = ModuleType("timm"), ModuleType("timm.data")
    config = {
        "input_size": (3, 8, 8),
        "interpolation": "bicubic",
        "crop_pct": 0.8,
        "mean": (0.5,) * 3,
        "std": (0.2,) * 3,
    }

    def create_model(model_name: str, pretrained: bool = False, **options: Any) -> nn.Module:
        if not pretrained:
            return fresh(options["in_chans"], options["num_classes"])
        if model_name == "two_layers.none":
            raise RuntimeError("No pretrained weights exist for two_layers.")
        model = net(3)
        model.num_classes, model.pretrained_cfg = 3, {"label_names": config.get("label_names")}  # pyright: ignore
        return model

    library.create_model, library.list_models = create_model, lambda: ["two_layers", "three_layers"]  # pyright: ignore
    data.resolve_model_data_config = lambda model: config  # pyright: ignore[reportAttributeAccessIssue]
    monkeypatch.setitem(sys.modules, "timm", library)
    monkeypatch.setitem(sys.modules, "timm.data", data)
    return config


def test_a_model_of_timm_with_its_configuration(timm: dict[str, Any], data: str):
    subject = open_subject("timm:two_layers.some_weights", data=data)
    assert subject.info["input"] == (
        "resized from 20x12 to 16x10 (bicubic) and cropped to 8x8, normalised by mean 0.5 0.5 0.5, std 0.2 0.2 0.2"
    )
    assert isinstance(subject.model, Preprocessed)
    assert not subject.model.training
    torch.testing.assert_close(subject.model(images(data)), net(3).eval()(subject.model.preprocess(images(data))))
    assert open_subject("timm:local-dir:some/folder", data=data).name == "folder"
    timm |= {"crop_mode": "squash", "label_names": ["eel", "dog", "cat"]}
    turned = open_subject("timm:two_layers", data=data)
    assert turned.info["input"].startswith("resized from 20x12 to 10x10 (bicubic) and cropped to 8x8")
    assert turned.info["classes"] == "matched by name"
    timm |= {"interpolation": "nearest"}
    with pytest.raises(ValueError, match=r"images are resized by 'nearest', which is not offered here"):
        open_subject("timm:two_layers", data=data)
    timm |= {"crop_mode": "border"}
    for name, message in {
        "two_layers": r"images are cropped by 'border' to 8x8, which is not offered here",
        "two_layer": r"timm has no such model; did you mean two_layers\?",
        "two_layers.none": r"timm:two_layers\.none: No pretrained weights exist",
    }.items():
        with pytest.raises(ValueError, match=message):
            open_subject(f"timm:{name}", data=data)


@pytest.fixture
def torchvision(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for torchvision.models, with its signatures."""

    class Weights(Enum):
        FIRST = "first"
        DEFAULT = "second"

        @property
        def meta(self) -> dict[str, Any]:
            return {"categories": ["dog", "cat", "eel"]}

        def transforms(self) -> Any:
            side = 8 if self.name == "FIRST" else 6
            settings = {"crop_size": [side], "resize_size": [10], "mean": [0.5] * 3, "std": [0.2] * 3}
            return SimpleNamespace(**settings, interpolation=SimpleNamespace(value="bilinear"))

    def get_model(name: str, weights: Any = None, num_classes: int = 3) -> nn.Module:
        if weights is Weights.FIRST:
            raise OSError("no network")
        return net(3) if weights else fresh(3, num_classes)

    package, models = ModuleType("torchvision"), ModuleType("torchvision.models")
    models.list_models = lambda module=None: ["small"]  # pyright: ignore[reportAttributeAccessIssue]
    models.get_model, models.get_model_weights = get_model, lambda name: Weights  # pyright: ignore
    monkeypatch.setitem(sys.modules, "torchvision", package)
    monkeypatch.setitem(sys.modules, "torchvision.models", models)


def test_a_model_of_torchvision_with_its_transforms(torchvision: None, data: str):
    subject = open_subject("torchvision:small", data=data)
    assert subject.info["input"] == (
        "resized from 20x12 to 16x10 (bilinear) and cropped to 6x6, normalised by mean 0.5 0.5 0.5, std 0.2 0.2 0.2"
    )
    assert subject.info["classes"] == "matched by name"
    assert isinstance(subject.model, Preprocessed)
    expected = net(3).eval()(subject.model.preprocess(images(data)))[:, [1, 0, 2]]
    torch.testing.assert_close(subject.model(images(data)), expected)
    for name, error, message in (
        ("smal", ValueError, r"torchvision has no such classifier; did you mean small\?"),
        ("small:FURST", ValueError, r"small has no such weights; did you mean FIRST\?"),
        ("small:FIRST", OSError, r"its weights are neither in the cache nor could they be fetched: no network"),
    ):
        with pytest.raises(error, match=message):
            open_subject(f"torchvision:{name}", data=data)


def retrained(what: str, data: str) -> tuple[nn.Module, nn.Module, dict[str, Any]]:
    """A library's model as it is evaluated; as a recipe builds it again, with the same weights; its [network]."""
    found = adopt(what, data=data)
    assert found.state is not None
    torch.manual_seed(1)
    model = network_of(found.network, (3, 20, 12), 3)
    filled(model, found.state, what)
    return open_subject(what, data=data).model, model.eval(), found.network


@pytest.mark.parametrize("names", [CLASSES, ("eel", "cat", "dog"), ("ant", "dog", "eel", "cat")])
def test_a_recipe_builds_a_transformer_again(transformers: Any, data: str, tmp_path: Path, names: tuple[str, ...]):
    saved(transformers, tmp_path / "vit", names)
    evaluated, again, network = retrained(f"hf:{tmp_path / 'vit'}", data)
    assert torch.equal(evaluated(images(data)), again(images(data)))
    assert network.get("places") == (None if names == CLASSES else [names.index(each) for each in CLASSES])


def test_a_recipe_builds_models_of_timm_and_torchvision_again(timm: dict[str, Any], torchvision: None, data: str):
    for what in ("timm:two_layers.some_weights", "torchvision:small"):
        evaluated, again, network = retrained(what, data)
        assert torch.equal(evaluated(images(data)), again(images(data)))
        assert network["preprocess"]["kind"] == "InputForm"
    with pytest.raises(ValueError, match=r"timm has no such model; did you mean two_layers\?"):
        network_of({"kind": "timm:two_layer"}, (3, 8, 8), 5)
    with pytest.raises(ValueError, match=r"torchvision's networks take three channels, and these images have 1"):
        network_of({"kind": "torchvision:small"}, (1, 8, 8), 5)


def test_a_state_dict_of_a_network_of_timm(timm: dict[str, Any], data: str, tmp_path: Path):
    torch.save(net(3).state_dict(), tmp_path / "own.pt")
    subject = open_subject(str(tmp_path / "own.pt"), network="timm:two_layers", data=data, size=(8, 8))
    assert subject.info["input"] == "resized from 20x12 to 8x8 (bilinear)"
    assert isinstance(subject.model, Preprocessed)
    few = images(data)
    torch.testing.assert_close(subject.model(few), net(3)(subject.model.preprocess(few)))


def test_the_real_timm_and_torchvision_agree_with_our_layer(data: str):
    """Where both can be imported beside this torch."""
    timm = pytest.importorskip("timm", exc_type=ImportError)
    models = pytest.importorskip("torchvision.models", exc_type=ImportError)
    from PIL import Image
    from timm.data import create_transform, resolve_model_data_config

    from steelman.loading.model_zoos import _before_crop

    pictures = [Image.fromarray(each.transpose(1, 2, 0)) for each in PIXELS]
    config = resolve_model_data_config(timm.create_model("test_vit", num_classes=3))
    sides = config["input_size"][1:]
    resized = _before_crop(sides, config["crop_pct"], config["crop_mode"], "it")
    preset = models.get_model_weights("resnet18").DEFAULT.transforms()
    for transform, first, size, how, mean, std in (
        (create_transform(**config), resized, sides, config["interpolation"], config["mean"], config["std"]),
        (preset, preset.resize_size[0], (224, 224), "bilinear", preset.mean, preset.std),
    ):
        form = Form(size=tuple(size), resized=first, resample=how, mean=tuple(mean), std=tuple(std))
        theirs = torch.stack([transform(each) for each in pictures])
        ours = InputForm(form, (3, 20, 12))(images(data))
        assert (ours - theirs).abs().max() <= 1.5 / 255 / min(std)
