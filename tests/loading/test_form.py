"""What stands before a model: sizes, channels, ranges and layouts, against Pillow and by hand."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from steelman.data import InMemory
from steelman.loading.form import Picked, adapted, guessed, picked, preprocess_of, range_of
from steelman.networks import Normalise, Preprocessed
from steelman.networks.building import network_of
from steelman.networks.input_form import Form, InputForm

COLOURS = torch.rand(2, 3, 12, 9, generator=torch.Generator().manual_seed(0))


def pillow(image: Tensor, size: tuple[int, int], how: Image.Resampling) -> Tensor:
    """Resized by Pillow in floating point, channel by channel."""
    height, width = size
    planes = [Image.fromarray(each.numpy()).resize((width, height), how) for each in image]
    return torch.from_numpy(np.stack([np.asarray(each) for each in planes])).clamp(0, 1)


@pytest.mark.parametrize("how", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size", [(5, 4), (20, 31), (6, 20)])
def test_images_are_resized_as_pillow_does(size: tuple[int, int], how):
    layer = InputForm(Form(size=size, resample=how), (3, 12, 9))
    filter = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}[how]
    expected = torch.stack([pillow(each, size, filter) for each in COLOURS])
    torch.testing.assert_close(layer(COLOURS), expected, rtol=0, atol=2e-6)
    assert layer.said == [f"resized from 12x9 to {size[0]}x{size[1]} ({how})"]


def test_the_shorter_side_is_resized_and_the_centre_cropped():
    layer = InputForm(Form(size=(4, 4), resized=6), (3, 12, 9))
    whole = torch.stack([pillow(each, (8, 6), Image.Resampling.BILINEAR) for each in COLOURS])
    torch.testing.assert_close(layer(COLOURS), whole[..., 2:6, 1:5], rtol=0, atol=2e-6)
    assert layer.said == ["resized from 12x9 to 8x6 (bilinear) and cropped to 4x4"]
    padded = InputForm(Form(size=(8, 8), resized=(4, 4)), (3, 12, 9))(COLOURS)
    assert padded[..., :2, :].abs().max() == 0
    assert padded.shape == (2, 3, 8, 8)


def test_images_of_the_right_size_are_left_as_they_are():
    layer = InputForm(Form(size=(12, 9), resized=(24, 18)), (3, 12, 9))
    assert torch.equal(layer(COLOURS), COLOURS)
    assert layer.said == []
    network = nn.Identity()
    assert adapted(network, Form(size=(12, 9)), made(3, 12, 9)) == (network, "")


def test_channels_range_and_layout_are_made_in_this_order():
    form = Form(range=(0.0, 255.0), order="BGR", layout="NHWC", mean=(1.0, 2.0, 3.0), std=(2.0, 4.0, 8.0))
    layer = InputForm(form, (3, 12, 9))
    red, green, blue = (255 * COLOURS).unbind(1)
    expected = torch.stack([(blue - 1) / 2, (green - 2) / 4, (red - 3) / 8], -1)
    torch.testing.assert_close(layer(COLOURS), expected)
    assert layer.said == [
        "channels in the order BGR",
        "in the range 0..255",
        "normalised by mean 1 2 3, std 2 4 8",
        "channels last",
    ]
    grey = InputForm(Form(channels=3, range=(-1.0, 1.0)), (1, 12, 9))
    torch.testing.assert_close(grey(COLOURS[:, :1]), (2 * COLOURS[:, :1] - 1).expand(-1, 3, -1, -1))
    assert grey.said == ["grey repeated to 3 channels", "in the range -1..1"]
    whole = InputForm(Form(range=(0.0, 255.0), whole=True), (3, 12, 9))
    assert torch.equal(whole(COLOURS), (255 * COLOURS).round())


def test_the_layer_has_a_gradient():
    form = Form(size=(5, 5), resized=6, range=(0.0, 255.0), order="BGR", mean=(1.0, 2.0, 3.0), std=(2.0, 4.0, 8.0))
    x = COLOURS[:1].double().requires_grad_()
    layer = InputForm(form, (3, 12, 9)).double()
    assert torch.autograd.gradcheck(layer, (x,))


@pytest.mark.parametrize(
    ("form", "shape", "message"),
    [
        (Form(channels=1), (3, 8, 8), r"takes images of 1 channels, and these have 3 \(.*grey = true\)"),
        (Form(channels=4), (3, 8, 8), r"takes images of 4 channels, and these have 3"),
        (Form(order="BGR"), (1, 8, 8), r"--order BGR is for three channels; the model takes 1"),
        (Form(mean=(0.5,), std=(1.0,)), (3, 8, 8), r"Normalise needs mean and std, 3 numbers"),
    ],
)
def test_images_of_other_channels_are_refused(form: Form, shape: tuple[int, ...], message: str):
    with pytest.raises(ValueError, match=message):
        InputForm(form, shape)


@pytest.mark.parametrize(
    ("shape", "like", "expected"),
    [
        ((None, 3, 32, 32), (3, 32, 32), Form(size=(32, 32), channels=3)),
        ((5, 224, 224, 3), (3, 32, 32), Form(size=(224, 224), channels=3, layout="NHWC")),
        ((None, 8, 8, 1), (1, 8, 8), Form(size=(8, 8), channels=1, layout="NHWC")),
        ((None, None, None, 3), (3, 32, 32), Form(channels=3, layout="NHWC")),
        ((None, None, None, None), (3, 32, 32), Form()),
        ((None, 3, 224, 224), (1, 28, 28), Form(size=(224, 224), channels=3)),
        ((None, 3, 3, 3), (3, 3, 3), Form(size=(3, 3), channels=3)),
        ((None, 3, 8, 3), (3, 3, 8), Form(size=(3, 8), channels=3, layout="NHWC")),
    ],
)
def test_the_layout_is_guessed_from_a_shape(shape, like, expected: Form):
    assert guessed("net", shape, like, None, False) == expected


def test_a_layout_that_is_given_is_no_guess_and_bytes_are_0_to_255():
    found = guessed("net", (None, 3, 3, 3), (3, 3, 3), "NHWC", True)
    assert found == Form(size=(3, 3), channels=3, layout="NHWC", range=(0.0, 255.0), whole=True)
    for shape, layout in (((None, 8, 8, 4), None), ((None, 64), None), ((None, 3, 8, 8), "NHWC")):
        with pytest.raises(
            ValueError, match=r"net takes images of shape \(any, .*\), and these data are \(batch, 3, 8"
        ):
            guessed("net", shape, (3, 8, 8), layout, False)


def test_what_the_user_says_goes_before_what_the_library_says():
    form = Form(size=(8, 8), mean=(0.5,), std=(0.5,))
    assert form.changed() == form
    assert form.changed(layout="NHWC", range=(0.0, 255.0)).range == (0, 255)
    assert form.changed(mean=[0.1], std=[0.2]) == Form(size=(8, 8), mean=(0.1,), std=(0.2,))


def test_mean_and_std_alone_are_the_layer_that_recipes_have():
    model, said = adapted(nn.Identity().eval(), Form(mean=(0.5,) * 3, std=(0.25,) * 3), made(3, 4, 4))
    assert isinstance(model, Preprocessed)
    assert isinstance(model.preprocess, Normalise)
    assert not model.training
    assert said == "normalised by mean 0.5 0.5 0.5, std 0.25 0.25 0.25"


def test_ranges_are_read():
    assert (range_of("0..255"), range_of("-1..1"), range_of("0...5")) == ((0, 255), (-1, 1), (0, 0.5))
    for text in ("255", "1..0", "a..b", "0..inf", "nan..1"):
        with pytest.raises(ValueError, match=r"is no range: give the numbers of black and white"):
            range_of(text)


def made(*shape: int, classes: tuple[str, ...] = ("cat", "dog")) -> InMemory:
    return InMemory("made", torch.zeros(2, *shape), torch.tensor([0, 1]), classes)


def test_classes_are_matched_by_name_or_else_in_order():
    scores, like = torch.tensor([[1.0, 2.0, 3.0]]), made(3, 4, 4)
    model, said = picked(nn.Identity(), "net", ["Dog, canine", "eel", "cat"], like)
    assert model(scores).tolist() == [[3.0, 1.0]]
    assert said == "the 2 classes of the data, of the model's 3, matched by name"
    assert picked(nn.Identity(), "net", ["DOG", "cat"], like)[1] == "matched by name"
    assert picked(nn.Identity(), "net", ["cat", "dog"], like)[1] == ""
    assert picked(nn.Identity(), "net", ["LABEL_0", "LABEL_1"], like)[1] == ""
    assert picked(nn.Identity(), "net", ["up", "down"], like)[1].startswith("in the model's order")
    with pytest.raises(
        ValueError, match=r"net has 3 classes \(a, b, c\), and the data have 2 \(cat, dog\): give other"
    ):
        picked(nn.Identity(), "net", ["a", "b", "c"], like)


def test_logits_are_unwrapped():
    class Answer(nn.Module):
        def forward(self, x: Tensor) -> object:
            return type("Output", (), {"logits": x})()

    assert torch.equal(Picked(Answer())(COLOURS), COLOURS)


def test_a_size_that_is_given_replaces_how_images_were_resized() -> None:
    form = Form(size=(12, 9), resized=(24, 18), resample="bicubic")
    assert form.changed(size=(12, 9)) == form
    assert form.changed(size=(8, 8)) == Form(size=(8, 8), resample="bicubic")


@pytest.mark.parametrize(
    "form",
    [
        Form(mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.1)),
        Form(mean=(0.5,) * 3, std=(0.2,) * 3, size=(12, 9)),
        Form(size=(6, 6), resized=8, resample="bicubic", odd="down", order="BGR", range=(-1.0, 1.0)),
        Form(layout="NHWC", range=(0.0, 255.0), whole=True),
    ],
)
def test_a_recipe_builds_the_same_layer(form: Form) -> None:
    data = InMemory("made", COLOURS, torch.tensor([0, 1]), ("a", "b"))
    settings = preprocess_of(form, data)
    assert settings is not None
    network = {"kind": "MLP", "hidden": [], "preprocess": settings}
    built = network_of(network, COLOURS.shape[1:], 2)
    expected, _ = adapted(nn.Identity(), form, data)
    assert isinstance(built, Preprocessed)
    assert isinstance(expected, Preprocessed)
    assert torch.equal(built.preprocess(COLOURS), expected.preprocess(COLOURS))


def test_nothing_stands_before_a_network_that_takes_the_images_as_they_are() -> None:
    assert preprocess_of(Form(size=(12, 9)), InMemory("made", COLOURS, torch.tensor([0, 1]), ("a", "b"))) is None
