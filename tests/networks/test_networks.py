"""Networks: sizes, and every layer against torch's functions."""

import importlib
import sys
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from steelman.networks import (
    CNN,
    MLP,
    NIN,
    AlexNet,
    CarliniNet,
    ConvNet,
    ConvPoolCNN,
    ConvResNet,
    LeNet,
    LeNet5,
    MadryNet,
    Rescale,
    ResNet18,
    SmallCNN,
)

NETWORKS = [MLP, LeNet, ConvNet, NIN, CarliniNet, CNN, MadryNet, SmallCNN, ConvResNet, LeNet5, ConvPoolCNN]


def weight(network: nn.Module, layer: str) -> tuple[Tensor, Tensor]:
    return network.get_parameter(f"{layer}.weight"), network.get_parameter(f"{layer}.bias")


@pytest.mark.parametrize(
    ("network", "count"),
    [
        *((MLP, 469_160), (LeNet, 431_080), (ConvNet, 145_578), (NIN, 966_986), (CarliniNet, 312_202)),
        *((CNN, 710_218), (MadryNet, 3_274_634), (SmallCNN, 312_202), (ConvResNet, 321_226), (LeNet5, 61_706)),
    ],
)
def test_parameter_counts_of_the_paper(network, count: int) -> None:
    assert sum(each.numel() for each in network().parameters()) == count


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("shape", [(3, 32, 32), (2, 29, 34)])
def test_any_shape_and_number_of_classes(network, shape) -> None:
    torch.manual_seed(0)
    model = network(shape=shape, classes=7).eval()
    if network is SmallCNN:
        nn.init.normal_(model.fc3.weight)
    logits = model(2 * torch.rand(4, *shape) - 1)
    assert logits.shape == (4, 7)
    assert (logits < 0).any()  # no ReLU at the end


def test_mlp_layer_by_layer() -> None:
    model, x = MLP(shape=(1, 2, 2), classes=3, hidden=(5, 4)), torch.rand(6, 1, 2, 2)
    first = functional.linear(x.reshape(6, 4), *weight(model, "fc1")).clamp(min=0)
    second = functional.linear(first, *weight(model, "fc2")).clamp(min=0)
    assert torch.allclose(model(x), functional.linear(second, *weight(model, "fc3")))
    assert [name for name, _ in model.named_parameters()][::2] == ["fc1.weight", "fc2.weight", "fc3.weight"]
    louder = MLP(shape=(1, 2, 2), classes=3, hidden=(5, 4), gain=3.0)
    louder.load_state_dict(model.state_dict())
    assert torch.equal(louder(x), model(3.0 * x))
    assert model(-x).shape == MLP(shape=(1, 2, 2), classes=3, hidden=())(x).shape


def test_lenet_has_no_relu_after_its_convolutions() -> None:
    model, x = LeNet(), torch.rand(3, 1, 28, 28)
    first = functional.conv2d(x, *weight(model, "conv1")).unfold(2, 2, 2).unfold(3, 2, 2).amax((4, 5))
    second = functional.conv2d(first, *weight(model, "conv2")).unfold(2, 2, 2).unfold(3, 2, 2).amax((4, 5))
    assert (first < 0).any()
    hidden = functional.linear(second.flatten(1), *weight(model, "fc1")).clamp(min=0)
    assert torch.allclose(model(x), functional.linear(hidden, *weight(model, "fc2")), atol=1e-6)
    assert [name for name, _ in model.named_parameters()][::2] == [
        f"{layer}.weight" for layer in ("conv1", "conv2", "fc1", "fc2")
    ]


def test_convnet_layer_by_layer() -> None:
    model, x = ConvNet(), torch.rand(2, 3, 32, 32)
    maps = functional.conv2d(x, *weight(model, "conv1"), padding=2).unfold(2, 2, 2).unfold(3, 2, 2).amax((4, 5))
    for layer in ("conv2", "conv3"):
        maps = functional.conv2d(maps.clamp(min=0), *weight(model, layer), padding=2).clamp(min=0)
        maps = maps.unfold(2, 2, 2).unfold(3, 2, 2).mean((4, 5))
    fourth = functional.conv2d(maps, *weight(model, "conv4")).clamp(min=0)
    assert fourth.shape == (2, 64, 1, 1)
    assert torch.allclose(model(x), functional.conv2d(fourth, *weight(model, "conv5"))[:, :, 0, 0], atol=1e-6)


def test_carlini_net_layer_by_layer_and_dropout() -> None:
    model, x = CarliniNet(dropout=0.0), torch.rand(2, 1, 28, 28)
    maps = x - 0.5
    for layer in (1, 2, 3, 4):
        maps = functional.conv2d(maps, *weight(model, f"conv{layer}")).clamp(min=0)
        maps = maps if layer % 2 else maps.unfold(2, 2, 2).unfold(3, 2, 2).amax((4, 5))
    hidden = maps.flatten(1)
    for layer in ("fc1", "fc2"):
        hidden = functional.linear(hidden, *weight(model, layer)).clamp(min=0)
    assert torch.allclose(model(x), functional.linear(hidden, *weight(model, "fc3")), atol=1e-6)
    cifar = CarliniNet(shape=(3, 32, 32), width=64, hidden=256)
    assert sum(each.numel() for each in cifar.parameters()) == 1_147_978
    assert cifar.dropout.p == 0.5
    assert not torch.equal(CarliniNet().train()(x), CarliniNet().train()(x))


def test_cnn_layer_by_layer() -> None:
    model = CNN(shape=(3, 32, 32))
    x = torch.rand(2, 3, 32, 32)
    maps = functional.pad(x, (3, 3, 3, 3))
    for layer, stride in (("conv1", 2), ("conv2", 2), ("conv3", 1)):
        maps = functional.conv2d(maps, *weight(model, layer), stride=stride).clamp(min=0)
    assert maps.shape == (2, 128, 2, 2)
    assert torch.allclose(model(x), functional.linear(maps.flatten(1), *weight(model, "fc1")), atol=1e-6)


def test_cnn_of_the_code_layer_by_layer() -> None:
    model, x = CNN(shape=(3, 32, 32), variant="code").eval(), torch.rand(2, 3, 32, 32)
    assert sum(each.numel() for each in model.parameters()) == 1_592_902
    maps = x
    for layer, pad in (("conv1", 1), ("conv2", 0)):
        maps = functional.conv2d(maps, *weight(model, layer), padding=pad).clamp(min=0)
        maps = maps.unfold(2, 2, 2).unfold(3, 2, 2).amax((4, 5))
    hidden = functional.linear(maps.flatten(1), *weight(model, "fc1")).clamp(min=0)
    assert torch.allclose(model(x), functional.linear(hidden, *weight(model, "fc2")), atol=1e-6)
    assert [each.p for each in model.modules() if isinstance(each, nn.Dropout)] == [0.5] * 3
    assert CNN(shape=(1, 8, 8), variant="code")(torch.rand(1, 1, 8, 8)).shape == (1, 10)
    with pytest.raises(ValueError, match="at least 8x8"):
        CNN(shape=(1, 7, 8), variant="code")
    with pytest.raises(ValueError, match=r"variant is .*; got 'papers'"):
        CNN(variant="papers")


def test_madry_net_layer_by_layer() -> None:
    model, x = MadryNet(), torch.rand(2, 1, 28, 28)
    maps = x
    for layer in ("conv1", "conv2"):
        maps = functional.conv2d(maps, *weight(model, layer), padding=2).clamp(min=0)
        maps = maps.unfold(2, 2, 2).unfold(3, 2, 2).amax((4, 5))
    hidden = functional.linear(maps.flatten(1), *weight(model, "fc1")).clamp(min=0)
    assert torch.allclose(model(x), functional.linear(hidden, *weight(model, "fc2")), atol=1e-6)


def test_small_cnn_is_carlini_and_wagners_but_for_its_start() -> None:
    model, other, x = SmallCNN(dropout=0.0), CarliniNet(dropout=0.0), torch.rand(3, 1, 28, 28)
    assert not model(x).any()
    spread = model.conv3.weight.std().item()
    assert spread == pytest.approx((2 / (32 * 9)) ** 0.5, rel=0.05)
    assert not any(model.get_parameter(f"conv{place}.bias").any() for place in (1, 2, 3, 4))
    nn.init.normal_(model.fc3.weight)
    other.load_state_dict(model.state_dict())
    assert torch.allclose(model(x), other(x + 0.5), atol=1e-5)
    assert SmallCNN().dropout.p == 0.5


def test_lenet5_layer_by_layer() -> None:
    model, x = LeNet5(), torch.rand(2, 1, 28, 28)
    maps = x
    for place, pad in ((1, 2), (2, 0), (3, 0)):
        maps = functional.conv2d(maps, *weight(model, f"conv{place}"), padding=pad).clamp(min=0)
        maps = maps if place == 3 else maps.unfold(2, 2, 2).unfold(3, 2, 2).amax((4, 5))
    assert maps.shape == (2, 120, 1, 1)
    hidden = functional.linear(maps.flatten(1), *weight(model, "fc1")).clamp(min=0)
    assert torch.allclose(model(x), functional.linear(hidden, *weight(model, "fc2")), atol=1e-6)


@pytest.mark.parametrize("middle", [1, 3])
def test_conv_resnet_layer_by_layer(middle: int) -> None:
    model, x = ConvResNet(middle=middle), torch.rand(2, 1, 28, 28)
    assert sum(each.numel() for each in model.parameters()) == (321_226 if middle == 1 else 353_994)
    maps = functional.conv2d(x, *weight(model, "conv1"), stride=2, padding=3).clamp(min=0)
    second = functional.conv2d(maps, *weight(model, "conv2"), stride=2).clamp(min=0)
    maps = functional.conv2d(second, *weight(model, "block.body.conv1")).clamp(min=0)
    maps = functional.conv2d(maps, *weight(model, "block.body.conv2"), padding=middle // 2).clamp(min=0)
    maps = (functional.conv2d(maps, *weight(model, "block.body.conv3")) + second).clamp(min=0)
    pooled = maps[:, :, :3, :3].amax((2, 3))
    assert torch.allclose(model(x), functional.linear(pooled, *weight(model, "fc1")), atol=1e-6)
    with pytest.raises(ValueError, match=r"middle is a kernel of 1 .* or 3 .*; got 5"):
        ConvResNet(middle=5)


def test_rescale() -> None:
    x = torch.rand(2, 3)
    assert torch.equal(Rescale(shift=0.5, scale=2.0)(x), 2 * x - 1)


def test_nin_layer_by_layer_and_dropout() -> None:
    model, x = NIN(dropout=0.0), torch.rand(2, 3, 32, 32)
    maps = x
    for block, kernel in ((1, 5), (2, 5), (3, 3)):
        for layer in (1, 2, 3):
            pad = kernel // 2 if layer == 1 else 0
            maps = functional.conv2d(maps, *weight(model, f"block{block}.conv{layer}"), padding=pad)
            maps = maps if (block, layer) == (3, 3) else maps.clamp(min=0)
        windows = maps.unfold(2, 2, 2).unfold(3, 2, 2)
        maps = (windows.amax((4, 5)), windows.mean((4, 5)), maps)[block - 1]
    assert torch.allclose(model(x), functional.avg_pool2d(maps, 8)[:, :, 0, 0], atol=1e-6)
    assert NIN().dropout1.p == NIN().dropout2.p == 0.5
    assert not torch.equal(NIN().train()(x), NIN().train()(x))


@pytest.mark.parametrize(
    ("network", "shape"),
    [
        (LeNet, (1, 8, 8)),
        (LeNet, (1, 28, 15)),
        (ConvNet, (3, 7, 32)),
        (NIN, (3, 3, 3)),
        (CarliniNet, (1, 15, 28)),
        (CNN, (1, 27, 28)),
        (MadryNet, (1, 3, 9)),
        (SmallCNN, (1, 15, 28)),
        (ConvResNet, (1, 19, 28)),
        (LeNet5, (1, 27, 28)),
        (ConvPoolCNN, (1, 7, 9)),
    ],
)
def test_images_that_are_too_small_are_refused(network, shape) -> None:
    least = {
        LeNet: 16,
        ConvNet: 8,
        NIN: 4,
        CarliniNet: 16,
        CNN: 28,
        MadryNet: 4,
        SmallCNN: 16,
        ConvResNet: 20,
        LeNet5: 28,
        ConvPoolCNN: 8,
    }[network]
    with pytest.raises(
        ValueError, match=f"{network.__name__} needs images of at least {least}x{least}.* got {shape[1]}x"
    ):
        network(shape=shape)
    assert network(shape=(1, least, least)).eval()(torch.rand(1, 1, least, least)).shape == (1, 10)


def test_shapes_that_are_none_are_refused() -> None:
    with pytest.raises(ValueError, match=r"needs an image shape .* got \(784,\)"):
        MLP(shape=(784,))


def test_nin_begins_with_hes_weights_and_a_tenth_of_them() -> None:
    convolutions = [each for each in NIN().modules() if isinstance(each, nn.Conv2d)]
    for convolution in convolutions:
        wanted = (2 / convolution.weight[0].numel()) ** 0.5 * (0.1 if convolution is convolutions[-1] else 1)
        assert float(convolution.weight.detach().std()) == pytest.approx(wanted, rel=0.05)
        assert not convolution.bias.any()


def test_alexnet_is_caffes() -> None:
    with torch.device("meta"):
        assert sum(each.numel() for each in AlexNet().parameters()) == 60_965_224
        assert AlexNet()(torch.rand(1, 3, 227, 227)).shape == (1, 1000)
    torch.manual_seed(0)
    model, maps = AlexNet(shape=(3, 67, 75), classes=7).eval(), torch.rand(2, 3, 67, 75)
    x = maps
    for place, (stride, pad, groups) in enumerate([(4, 0, 1), (1, 2, 2), (1, 1, 1), (1, 1, 2), (1, 1, 2)], start=1):
        kernel, bias = weight(model, f"conv{place}")
        halves = [
            functional.conv2d(part, rows, stride=stride, padding=pad)
            for part, rows in zip(maps.chunk(groups, 1), kernel.chunk(groups), strict=True)
        ]
        maps = (torch.cat(halves, 1) + bias[:, None, None]).clamp(min=0)
        if place < 3:
            squares = functional.pad(maps.square(), (0, 0, 0, 0, 2, 2)).unfold(1, 5, 1).sum(-1)
            maps = maps / (1 + 1e-4 / 5 * squares) ** 0.75
        if place in (1, 2, 5):
            maps = maps.unfold(2, 3, 2).unfold(3, 3, 2).amax((4, 5))
    hidden = maps.flatten(1)
    for layer in ("fc6", "fc7"):
        assert torch.equal(model.get_parameter(f"{layer}.bias"), torch.full((4096,), 0.1))
        assert float(model.get_parameter(f"{layer}.weight").detach().std()) == pytest.approx(0.005, rel=0.01)
        hidden = functional.linear(hidden, *weight(model, layer)).clamp(min=0)
    torch.testing.assert_close(model(x), functional.linear(hidden, *weight(model, "fc8")))
    assert not torch.equal(model.train()(x), model(x))
    with pytest.raises(ValueError, match="at least 67x67"):
        AlexNet(shape=(3, 66, 227))


def test_resnet18_layer_by_layer() -> None:
    torch.manual_seed(0)
    assert sum(each.numel() for each in ResNet18().parameters()) == 11_689_512
    model, x = ResNet18(shape=(3, 64, 33), classes=7), torch.rand(4, 3, 64, 33)
    model(x)  # moves the statistics
    state = model.eval().state_dict()

    def normal(maps: Tensor, name: str) -> Tensor:
        mean, variance = state[f"{name}.running_mean"], state[f"{name}.running_var"]
        scale = state[f"{name}.weight"] / (variance + 1e-5).sqrt()
        return (maps - mean[:, None, None]) * scale[:, None, None] + state[f"{name}.bias"][:, None, None]

    def convolved(maps: Tensor, name: str, stride: int) -> Tensor:
        kernel = state[f"{name}.weight"]
        return functional.conv2d(maps, kernel, stride=stride, padding=kernel.shape[-1] // 2)

    maps = normal(convolved(x, "conv1", 2), "bn1").clamp(min=0)
    maps = functional.pad(maps, (1, 1, 1, 1)).unfold(2, 3, 2).unfold(3, 3, 2).amax((4, 5))
    for stage in (1, 2, 3, 4):
        for block in (0, 1):
            name, stride = f"layer{stage}.{block}", 2 if stage > 1 and block == 0 else 1
            shortcut = (
                maps if stride == 1 else normal(convolved(maps, f"{name}.downsample.0", 2), f"{name}.downsample.1")
            )
            first = normal(convolved(maps, f"{name}.conv1", stride), f"{name}.bn1").clamp(min=0)
            maps = (normal(convolved(first, f"{name}.conv2", 1), f"{name}.bn2") + shortcut).clamp(min=0)
    wanted = functional.linear(maps.mean((2, 3)), state["fc.weight"], state["fc.bias"])
    torch.testing.assert_close(model(x), wanted, rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match="at least 32x32"):
        ResNet18(shape=(3, 31, 32))


def test_trained_weights_of_resnet18_are_torchvisions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchvision", None)
    monkeypatch.setitem(sys.modules, "torchvision.models", None)
    with pytest.raises(ImportError, match=r"pip install 'steelman\[vision\]'"):
        ResNet18(weights="IMAGENET1K_V1")
    with pytest.raises(ValueError, match="3 channels"):
        ResNet18(shape=(1, 224, 224), weights="IMAGENET1K_V1")
    with pytest.raises(ValueError, match="1000 classes"):
        ResNet18(classes=10, weights="IMAGENET1K_V1")
    theirs = ResNet18()
    models = SimpleNamespace(get_model=lambda name, weights: {("resnet18", "IMAGENET1K_V1"): theirs}[name, weights])
    monkeypatch.setitem(sys.modules, "torchvision.models", models)
    x = torch.rand(1, 3, 64, 64)
    assert torch.equal(ResNet18(weights="IMAGENET1K_V1").eval()(x), theirs.eval()(x))


def test_resnet18_answers_as_torchvisions() -> None:
    try:
        models = importlib.import_module("torchvision.models")
    except (ImportError, RuntimeError) as error:
        pytest.skip(str(error))
    theirs, ours, x = models.resnet18().eval(), ResNet18().eval(), torch.rand(2, 3, 64, 64)
    ours.load_state_dict(theirs.state_dict())
    assert torch.equal(ours(x), theirs(x))
