"""Feature denoising: a block that averages over a map, and a layer with one after it."""

from typing import Any, final

from torch import Tensor, nn

_PLACES = 4096
"""The largest map, in positions, for which all pairs of them are compared."""


@final
class FeatureDenoising(nn.Module):
    """Non-local means of a map, through a 1x1 convolution and a normalisation, added to the map; at first the identity.

    out = x + GroupNorm(W NL(x)), NL(x)_i = sum_j w_ij x_j over all H W positions j.

    channels    C of the map, even
    similarity  "gaussian" (default; the paper's ResNet-152): w_ij = softmax_j(<theta x_i, phi x_j> / sqrt(C/2)), where
                theta and phi are 1x1 convolutions to C/2 channels that begin as N(0, .01^2); the value is x_j itself.
                2 C^2 + 2 C parameters.
                "dot" (the paper's ResNeXt-101): w_ij = <x_i, x_j> / (H W), neither embedded nor a softmax.
                C^2 + 2 C parameters

    No convolution has a bias. The scale of the normalisation begins as 0, so that a network with new blocks is the
    network without them. Its authors' code has batch normalisation there; ours is GroupNorm with pairs of channels, so
    that an image's answer does not depend on its batch.

    Cost: "gaussian" holds (H W)^2 numbers per image; "dot" is x (x^T x) / (H W), which holds C^2.
    Broken by: plain PGD; it is differentiable and draws nothing.
    Layers: theta, phi (gaussian), conv, gn.
    Reference: Cihang Xie, Yuxin Wu, Laurens van der Maaten, Alan Yuille and Kaiming He, "Feature denoising for
    improving adversarial robustness", CVPR 2019, section 4.

    Raises:
        ValueError: an odd number of channels; an unknown similarity; a map of more than 4,096 positions with
            "gaussian".
    """

    def __init__(self, channels: int, similarity: str = "gaussian") -> None:
        super().__init__()
        if similarity not in ("gaussian", "dot"):
            raise ValueError(f'similarity is "gaussian" or "dot"; got {similarity!r}')
        self.channels, self.similarity = channels, similarity
        self.gn = pairs_normalised(channels, "FeatureDenoising")
        self.conv = _conv1x1(channels, channels)
        if similarity == "gaussian":
            self.theta, self.phi = (_conv1x1(channels, channels // 2) for _ in range(2))
            for embedding in (self.theta, self.phi):
                nn.init.normal_(embedding.weight, std=0.01)
        nn.init.zeros_(self.gn.weight)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.gn(self.conv(self.averaged(x)))

    def averaged(self, x: Tensor) -> Tensor:
        """NL(x)."""
        places = x.flatten(2)  # (batch, C, H W)
        count = places.shape[2]
        if self.similarity == "dot":
            return (places @ places.transpose(1, 2) @ places / count).reshape(x.shape)
        if count > _PLACES:
            height, width = x.shape[2:]
            raise ValueError(
                f"FeatureDenoising compares all pairs of the {count} positions of a map of {height}x{width}, which are "
                f"{4 * count**2 / 2**20:.0f} MB per image: put it after a later layer, with at most {_PLACES} "
                'positions, or take similarity "dot"'
            )
        queries, keys = self.theta(x).flatten(2), self.phi(x).flatten(2)
        likeness = queries.transpose(1, 2) @ keys / (self.channels // 2) ** 0.5
        return (places @ likeness.softmax(2).transpose(1, 2)).reshape(x.shape)

    def extra_repr(self) -> str:
        return f"{self.channels}, similarity={self.similarity!r}"


def pairs_normalised(channels: int, of: str) -> nn.GroupNorm:
    """Group normalisation of pairs of channels; one channel alone would be instance normalisation."""
    if channels < 2 or channels % 2:
        raise ValueError(f"{of} normalises pairs of channels, so it needs an even number of them; got {channels}")
    return nn.GroupNorm(channels // 2, channels)


def _conv1x1(fan_in: int, fan_out: int) -> nn.Conv2d:
    return nn.Conv2d(fan_in, fan_out, 1, bias=False)


@final
class Denoised(nn.Module):
    """A layer and a block after it (`surgery.denoise`). A state dict of the layer alone leaves the block as it is."""

    def __init__(self, layer: nn.Module, block: FeatureDenoising) -> None:
        super().__init__()
        self.layer, self.block = layer, block
        self.register_load_state_dict_pre_hook(_accept_bare)

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        return self.block(self.layer(*args, **kwargs))


def _accept_bare(module: nn.Module, state: dict[str, Any], prefix: str, *_: object) -> None:
    """Gives the weights of a layer without a block the names that they have here, and adds the block's own."""
    assert isinstance(module, Denoised)
    block = {f"{prefix}block.{name}": value for name, value in module.block.state_dict().items()}
    if not block.keys() & state.keys():
        for name in list(module.layer.state_dict()):
            if prefix + name in state:
                state[f"{prefix}layer.{name}"] = state.pop(prefix + name)
        state.update(block)
