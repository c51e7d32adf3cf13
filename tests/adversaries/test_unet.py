"""L2L-DA's U-Net against its table of layers: parameters, multiplications, shapes, first weights, answers."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from steelman import L2LDA, Batch
from steelman.adversaries.generators.unet import UNet
from steelman.networks import LeNet5
from steelman.training import play


def convolutions(
    channels: int, width: int, latent: int, images: int, deep: bool
) -> dict[str, tuple[int, int, int, int]]:
    """The paper's table: side of the kernel, channels in and out, and how many times smaller than the image it is
    where its kernel stands: its output, or the input of a transposed one."""
    table = {
        "down0": (3, images * channels + latent, width, 1),
        "down1": (4, width + latent, width, 2),
        "down2": (4, width + latent, 2 * width, 4),
    }
    if deep:
        table |= {"down3": (4, 2 * width, 4 * width, 8), "up3": (4, 4 * width, 2 * width, 8)}
    below = 2 * (2 * width) if deep else 2 * width  # deep: up3 with down2 beside it
    return table | {
        "up2": (4, below, width, 4),
        "up1": (4, width + width, width, 2),
        "out": (3, width + width, channels, 1),
    }


def parameters(shape: Sequence[int], classes: int | None, width: int, latent: int, images: int, deep: bool) -> int:
    table = convolutions(shape[0], width, latent, images, deep)
    weights = sum(kernel * kernel * into * out for kernel, into, out, _ in table.values())
    normal = 3 * width + (4 * width if deep else 0)  # after down1, up2 and up1; deep, also after down2 and up3
    code = 2 * (latent * latent + latent)
    return weights + normal * 2 * (1 + (classes or 0)) + code


@pytest.mark.parametrize("width", [64, 16])
@pytest.mark.parametrize(
    ("shape", "deep", "paper"),
    [((1, 28, 28), False, 495_184), ((3, 32, 32), False, None), ((3, 32, 32), True, None), ((1, 16, 24), True, None)],
)
def test_parameters_and_shapes_are_those_of_the_table(
    shape: tuple[int, ...], deep: bool, paper: int | None, width: int
) -> None:
    for classes, latent, images in ((10, 8, 3), (None, 8, 3), (10, 8, 2), (None, 0, 2)):
        network = UNet(shape, classes, width=width, latent=latent, images=images, deep=deep)
        count = parameters(shape, classes, width, latent, images, deep)
        assert sum(each.numel() for each in network.parameters()) == count
        for name, (kernel, into, out, _) in convolutions(shape[0], width, latent, images, deep).items():
            layer = network.get_submodule(name)
            order = (into, out) if name.startswith("up") else (out, into)
            assert tuple(layer.weight.shape) == (*order, kernel, kernel)
            assert layer.bias is None
        seen = torch.rand(2, images * shape[0], *shape[1:])
        answer = network(seen, torch.randn(2, latent), torch.tensor([0, 9]))
        assert answer.shape == (2, *shape)
        assert float(answer.detach().abs().max()) <= 1
    if width == 64 and paper is not None:
        assert parameters(shape, 10, 64, 8, 3, False) == paper


class Counting(TorchDispatchMode):
    """Adds up torch's own counts of operations. Its FlopCounterMode watches modules too, which fails on a gradient
    with respect to a module's input."""

    total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        answer = func(*args, **(kwargs or {}))
        count = flop_registry.get(func._overloadpacket)
        self.total += count(*args, **(kwargs or {}), out_val=answer) if count else 0
        return answer


def test_multiplications_are_those_of_the_table_and_make_0_7_teraflop_an_iteration() -> None:
    """One iteration of the paper's setting, but on one image, counted by torch, against the tables of both networks."""
    torch.manual_seed(0)
    adversary, steps = L2LDA(), 10
    nets = nn.ModuleDict({"classifier": LeNet5(), "generator": adversary.network((1, 28, 28), 10)})
    optimisers = {name: torch.optim.SGD(net.parameters(), lr=0.01) for name, net in nets.items()}
    batch = Batch(torch.rand(1, 1, 28, 28), torch.tensor([3]), seeds=torch.arange(1))
    with Counting() as counted:
        play(adversary, nets, batch, optimisers)

    table = convolutions(1, 64, 8, 3, False)
    generator = sum(kernel**2 * into * out * (28 // scale) ** 2 for kernel, into, out, scale in table.values())
    code = 8 * 8
    # Forwards, gradient of the weights, gradient of the input, which z does not have.
    generator = 3 * (generator + 2 * code) - code
    first = 5**2 * 1 * 6 * 28**2
    whole = first + 5**2 * 6 * 16 * 10**2 + 5**2 * 16 * 120 * 1 + 120 * 84 + 84 * 10
    slope, learning = 2 * whole, 3 * whole - first  # forwards and backwards without weights; with, but for the images
    multiplications = 2 * steps * generator + (2 * steps + 1) * slope + 3 * learning
    assert counted.total == 2 * multiplications
    assert 2 * 100 * multiplications == pytest.approx(0.720e12, rel=1e-3)  # at the paper's batches of 100


def by_hand(net: UNet, seen: Tensor, z: Tensor, y: Tensor, training: bool) -> Tensor:
    """The forward pass, layer by layer, from the weights alone."""
    at = dict(net.state_dict())

    def beside(images: Tensor, code: Tensor) -> Tensor:
        return torch.cat([images, code[:, :, None, None].repeat(1, 1, *images.shape[2:])], 1)

    def normal(name: str, x: Tensor) -> Tensor:
        mean, var = at[f"{name}.running_mean"], at[f"{name}.running_var"]
        if training:
            mean = x.mean((0, 2, 3))
            var = (x - mean[:, None, None]).square().mean((0, 2, 3))
        x = (x - mean[:, None, None]) / (var[:, None, None] + 1e-10).sqrt()
        scales, shifts = at[f"{name}.class_scale"][y] + at[f"{name}.scale"], at[f"{name}.class_shift"][y]
        return x * scales[:, :, None, None] + (shifts + at[f"{name}.shift"])[:, :, None, None]

    def up(name: str, x: Tensor) -> Tensor:
        return normal(f"{name}_norm", F.conv_transpose2d(x, at[f"{name}.weight"], stride=2, padding=1)).relu()

    code = F.linear(z, at["encode.0.weight"], at["encode.0.bias"]).relu()
    code = F.linear(code, at["encode.2.weight"], at["encode.2.bias"]).relu()
    down0 = F.leaky_relu(F.conv2d(beside(seen, code), at["down0.weight"], padding=1), 0.2)
    down1 = F.conv2d(beside(down0, code), at["down1.weight"], stride=2, padding=1)
    down1 = F.leaky_relu(normal("down1_norm", down1), 0.2)
    down2 = F.conv2d(beside(down1, code), at["down2.weight"], stride=2, padding=1)
    if net.deep:
        down2 = F.leaky_relu(normal("down2_norm", down2), 0.2)
        down3 = F.leaky_relu(F.conv2d(down2, at["down3.weight"], stride=2, padding=1), 0.2)
        lowest = torch.cat([up("up3", down3), down2], 1)
    else:
        lowest = F.leaky_relu(down2, 0.2)
    up1 = torch.cat([up("up1", torch.cat([up("up2", lowest), down1], 1)), down0], 1)
    return F.conv2d(up1, at["out.weight"], padding=1).tanh()


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("deep", [False, True])
def test_it_computes_what_its_layers_say(deep: bool, training: bool) -> None:
    torch.manual_seed(0)
    network = UNet((2, 8, 16), 4, width=3, latent=5, deep=deep).double().train(training)
    for name, value in network.named_parameters():
        if "shift" in name or "class_scale" in name:
            nn.init.normal_(value)
    for value in network.buffers():
        nn.init.uniform_(value, 0.5, 2)
    seen, z, y = torch.rand(6, 6, 8, 16).double(), torch.randn(6, 5).double(), torch.tensor([0, 1, 2, 3, 3, 1])
    expected = by_hand(network, seen, z, y, training)
    torch.testing.assert_close(network(seen, z, y), expected, rtol=1e-9, atol=1e-12)
    others = network(seen, z, (y + 1) % 4)
    assert bool(((others - expected).flatten(1).abs().amax(1) > 1e-3).all()), "the label makes no difference"


@torch.no_grad()
def test_weights_begin_as_the_authors_have_them() -> None:
    torch.manual_seed(0)
    for width in (64, 16):
        network = UNet((3, 32, 32), 10, width=width, deep=True)
        spread = 0.02 * (64 / width) ** 0.5
        for module in network.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                count = module.weight.numel()
                assert float(module.weight.std()) == pytest.approx(spread, rel=4 / (2 * count) ** 0.5)
                assert float(module.weight.mean()) == pytest.approx(0, abs=4 * spread / count**0.5)
    first, _, second, _ = network.encode
    for layer in (first, second):
        assert float(layer.weight.std()) == pytest.approx((2 / (8 + 8)) ** 0.5, rel=0.35)
        assert not bool(layer.bias.any())
    norm = UNet((3, 32, 32), 10).down1_norm
    assert float(norm.scale.mean()) == pytest.approx(1, abs=0.01)
    assert float(norm.scale.std()) == pytest.approx(0.02, rel=0.4)
    assert float(norm.class_scale.mean()) == pytest.approx(0, abs=0.004)
    assert float(norm.class_scale.std()) == pytest.approx(0.02, rel=0.15)
    assert not bool(norm.shift.any() | norm.class_shift.any())
    assert norm.eps == 1e-10


@pytest.mark.parametrize(
    ("shape", "options", "message"),
    [
        ((1, 30, 28), {}, "halves images 2 times, so sides are multiples of 4; got 30x28"),
        ((1, 28, 27), {}, "got 28x27"),
        ((1, 28, 28), {"deep": True}, "halves images 3 times, so sides are multiples of 8; got 28x28"),
        ((1, 28, 28), {"width": 0}, "width >= 1, latent >= 0 and images >= 1; got 0, 8 and 3"),
        ((1, 28, 28), {"latent": -1}, "got 64, -1 and 3"),
        ((1, 28, 28), {"images": 0}, "got 64, 8 and 0"),
    ],
)
def test_what_cannot_be_built_is_refused(shape: tuple[int, ...], options: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        UNet(shape, **options)
