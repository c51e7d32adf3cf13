"""Feature denoising against its formula in plain loops and what is known of it, alone and put into networks."""

import math

import pytest
import torch
from torch import Tensor, nn

from steelman.networks import FeatureDenoising, ODENet, ResNet20, build, denoise
from steelman.networks.building import network_of

SIMILARITIES = ("gaussian", "dot")
MAP = torch.randn(3, 6, 4, 5, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


def block(similarity: str, channels: int = 6) -> FeatureDenoising:
    """With embeddings and scales that are not small."""
    torch.manual_seed(0)
    made = FeatureDenoising(channels, similarity).double()
    for each in made.parameters():
        nn.init.normal_(each)
    return made


@pytest.mark.parametrize("similarity", SIMILARITIES)
@torch.no_grad()
def test_it_is_its_formula_position_by_position(similarity: str) -> None:
    made, averaged = block(similarity), torch.zeros_like(MAP)
    for image in range(3):
        places = [MAP[image, :, row, column] for row in range(4) for column in range(5)]
        for i, own in enumerate(places):
            if similarity == "dot":
                weights = [float(own @ other) / 20 for other in places]
            else:
                theta, phi = made.theta.weight[:, :, 0, 0], made.phi.weight[:, :, 0, 0]
                raw = [math.exp(float((theta @ own) @ (phi @ other)) / math.sqrt(3)) for other in places]
                weights = [each / sum(raw) for each in raw]
            mean = torch.stack([w * other for w, other in zip(weights, places, strict=True)]).sum(0)
            averaged[image, :, i // 5, i % 5] = mean
    torch.testing.assert_close(made.averaged(MAP), averaged)
    mixed = torch.einsum("ij,bjhw->bihw", made.conv.weight[:, :, 0, 0], averaged)
    pairs = mixed.reshape(3, 3, -1)
    normal = (pairs - pairs.mean(2, keepdim=True)) / (pairs.var(2, correction=0, keepdim=True) + 1e-5).sqrt()
    wanted = MAP + normal.reshape(MAP.shape) * made.gn.weight[:, None, None] + made.gn.bias[:, None, None]
    torch.testing.assert_close(made(MAP), wanted)


@pytest.mark.parametrize(("similarity", "count"), [("gaussian", 8_320), ("dot", 64**2 + 128)])
def test_size_and_start(similarity: str, count: int) -> None:
    torch.manual_seed(0)
    made, x = FeatureDenoising(64, similarity), torch.randn(2, 64, 7, 7)
    assert sum(each.numel() for each in made.parameters()) == count
    assert torch.equal(made(x), x), "the identity at the start"
    made(x).square().sum().backward()
    assert bool(made.gn.weight.grad.any()), "and it learns"  # pyright: ignore
    if similarity == "gaussian":
        assert [float(each.weight.detach().std()) for each in (made.theta, made.phi)] == pytest.approx([0.01] * 2, 0.1)
        assert sum(each.numel() for each in FeatureDenoising(16).parameters()) == 544


@pytest.mark.parametrize("similarity", SIMILARITIES)
@torch.no_grad()
def test_positions_have_no_order(similarity: str) -> None:
    made, order = block(similarity), torch.randperm(20, generator=torch.Generator().manual_seed(0))

    def permuted(x: Tensor) -> Tensor:
        return x.flatten(2)[:, :, order].reshape(x.shape)

    torch.testing.assert_close(made(permuted(MAP)), permuted(made(MAP)))
    torch.testing.assert_close(torch.cat([made(each[None]) for each in MAP]), made(MAP))


@torch.no_grad()
def test_the_gaussian_average_of_a_constant_map_is_the_map() -> None:
    """Since rows of weights sum to 1, shifts of the map shift the average where the embeddings ignore them."""
    made, constant = block("gaussian"), MAP[:, :, :1, :1].expand(MAP.shape).clone()
    torch.testing.assert_close(made.averaged(constant), constant)
    for embedding in (made.theta, made.phi):
        nn.init.zeros_(embedding.weight)
    torch.testing.assert_close(made.averaged(MAP), MAP.mean((2, 3), keepdim=True).expand(MAP.shape))


@torch.no_grad()
def test_a_large_similarity_picks_the_position_itself() -> None:
    made, x = FeatureDenoising(8).double(), torch.randn(1, 8, 2, 2, dtype=torch.float64)
    x[0, :4] = torch.eye(4, dtype=torch.float64).reshape(4, 2, 2)  # embeddings of equal length, one for each position
    for embedding in (made.theta, made.phi):
        embedding.weight[:] = 100 * torch.eye(4, 8, dtype=torch.float64)[:, :, None, None]
    torch.testing.assert_close(made.averaged(x), x)


@torch.no_grad()
def test_the_dot_product_average_is_homogeneous_of_degree_three() -> None:
    made = block("dot")
    torch.testing.assert_close(made.averaged(2.5 * MAP), 2.5**3 * made.averaged(MAP))
    one = torch.zeros_like(MAP)
    one[:, :, 1, 2] = MAP[:, :, 1, 2]  # alone, x_i is multiplied by |x_i|^2 / (H W)
    torch.testing.assert_close(made.averaged(one), one * one.square().sum((1, 2, 3), keepdim=True) / 20)


@pytest.mark.parametrize(
    ("channels", "message"), [(5, "even number of them; got 5"), (0, "got 0"), (1, "FeatureDenoising .* got 1")]
)
def test_impossible_channels_are_refused(channels: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FeatureDenoising(channels)


def test_an_unknown_similarity_and_a_map_that_is_too_large_are_refused() -> None:
    with pytest.raises(ValueError, match=r"similarity is .*; got 'mean'"):
        FeatureDenoising(4, "mean")
    large = torch.rand(1, 4, 64, 65)
    with pytest.raises(ValueError, match=r"4160 positions of a map of 64x65, which are 66 MB per image"):
        FeatureDenoising(4)(large)
    assert torch.equal(FeatureDenoising(4, "dot")(large), large)
    assert FeatureDenoising(2)(torch.rand(1, 2, 64, 64)).shape == (1, 2, 64, 64)


# --- put into networks


@pytest.mark.parametrize("similarity", SIMILARITIES)
def test_a_network_with_new_blocks_answers_as_before_and_loads_its_old_weights(similarity: str) -> None:
    torch.manual_seed(0)
    shape = (3, 16, 16)
    network, x = ResNet20(shape=shape), torch.rand(4, *shape)
    network(x)  # moves running statistics
    bare = {name: value.clone() for name, value in network.state_dict().items()}
    before = network.eval()(x)
    network.train()
    network.stage1.eval()
    names = ["stage1", "stage2", "stage3", "conv1", "stage3.block2.relu"]
    assert denoise(network, names, shape=shape, similarity=similarity) is network
    assert network.training
    assert not network.stage1.layer.training
    assert torch.equal(network.eval()(x), before)
    blocks = [each for each in network.modules() if isinstance(each, FeatureDenoising)]
    assert sorted(each.channels for each in blocks) == [16, 16, 32, 64, 64]
    for each in blocks:
        nn.init.constant_(each.gn.weight, 0.5)
    moved = network(x)
    assert not torch.allclose(moved, before)

    other = denoise(ResNet20(shape=shape), names, shape=shape, similarity=similarity).eval()
    other.load_state_dict(bare)
    assert torch.equal(other(x), before)
    other.load_state_dict(network.state_dict())
    assert torch.equal(other(x), moved)
    with pytest.raises(RuntimeError, match="Unexpected"):
        other.load_state_dict({**bare, "stage4.weight": x})
    network(x).square().sum().backward()
    assert all(each.grad is not None and each.grad.any() for block in blocks for each in block.parameters())


def test_recipes_name_the_layers() -> None:
    shape = (1, 28, 28)
    settings = {"kind": "LeNet5", "denoise": ["relu1", "conv2"], "init": {"std": 0.05}}
    torch.manual_seed(0)
    network = network_of(settings, shape, 10)
    torch.manual_seed(0)
    plain = network_of({"kind": "LeNet5", "init": {"std": 0.05}}, shape, 10)
    assert torch.equal(network(torch.ones(2, *shape)), plain(torch.ones(2, *shape)))
    assert [each.similarity for each in network.modules() if isinstance(each, FeatureDenoising)] == ["gaussian"] * 2
    table = {"kind": "LeNet5", "denoise": {"after": ["relu1"], "similarity": "dot"}}
    assert [each.similarity for each in network_of(table, shape, 10).modules() if hasattr(each, "similarity")] == [
        "dot"
    ]
    option = build("ODENet", shape=shape, classes=10, variant="cnn", fdn="dot")
    surgical = denoise(ODENet(variant="cnn"), ["features"], shape=shape, similarity="dot")
    for network in (option, surgical):
        assert sum(each.numel() for each in network.parameters()) == 141_130 + 64**2 + 128


@pytest.mark.parametrize(
    ("after", "message"),
    [
        ([], r"names of layers, such as \[.conv1.\]; got \[\]"),
        ("conv1", "names of layers, .*; got 'conv1'"),
        (["conv9"], "Odd has no layer 'conv9'; did you mean conv1"),
        (["fc1"], r"cannot follow the layer 'fc1': it returns no map .* but \(1, 10\)"),
        (["conv1"], "cannot follow the layer 'conv1': .* even number of them; got 3"),
        (["idle"], "cannot follow the layer 'idle': it does not run"),
    ],
)
def test_layers_that_give_no_map_are_refused(after, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        denoise(Odd(), after, shape=(1, 28, 28))


class Odd(nn.Module):
    """With a map of three channels, and a layer that does not run."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.fc1, self.idle = nn.Conv2d(1, 3, 3), nn.Linear(3, 10), nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.fc1(self.conv1(x).mean((2, 3)))
