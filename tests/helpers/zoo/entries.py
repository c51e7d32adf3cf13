"""The list of models, with what is known of each."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from zoo import honest, masked, robust

TRUTHS = Path(__file__).with_name("truths.json")
IMAGES = 200
"""Test images whose truth is stored: Steelman's sample by class, which has every smaller one in it."""

Kind = Literal["masked", "honest", "no gradient"]


@dataclass(frozen=True)
class Entry:
    """A model and what is known of it.

    build  makes it
    norm   "Linf" or "L2"
    eps    the radius
    draws  it answers differently at each call
    """

    name: str
    kind: Kind
    build: Callable[[], Any]
    norm: str = "Linf"
    eps: float = 0.15
    draws: bool = False

    @property
    def path(self) -> str:
        """As `steelman evaluate` takes it."""
        return f"{self.build.__module__}:{self.build.__name__}"

    def right(self, count: int = IMAGES) -> list[float]:
        """Of each of so many images, as `images` gives them, whether it is robust at the radius; of a random model, how
        probably it is right at the worst point that was found. `python -m zoo.truth` measured or proved it."""
        stored = dict(zip(places(), truths()[self.name], strict=True))
        return [stored[place] for place in places(count)]

    def truth(self, count: int = IMAGES) -> float:
        """The robust accuracy at the radius on so many images."""
        return sum(self.right(count)) / count


@cache
def truths() -> dict[str, list[float]]:
    stored = json.loads(TRUTHS.read_text())
    return {name: [float(each) for each in (row.split() if " " in row else row)] for name, row in stored.items()}


def _sample(count: int) -> Any:
    from steelman.data import Digits
    from steelman.data.sample import sampled

    return sampled(Digits().load("test"), count)


@cache
def places(count: int = IMAGES) -> list[int]:
    """Where the images are in the test set."""
    return _sample(count).index.tolist()


@cache
def images(count: int = IMAGES) -> tuple[Tensor, Tensor]:
    """Test images and labels: the sample that `steelman evaluate --images` takes."""
    (batch,) = _sample(count).batches([torch.arange(count)])
    return batch.x, batch.y


def _entries() -> list[Entry]:
    m, h, r = masked, honest, robust
    hidden = [
        *(m.one_hot, m.saturated, m.second_softmax, m.rounded, m.no_grad, m.detached, m.bit_depth, m.jpeg),
        *(m.thermometer, m.kwta, m.sign, m.purified, m.wrong_sign, m.random_gradient, m.zero_gradient, m.sinusoid),
        *(m.vanishing, m.sigmoid_chain, m.exploding, m.far_constant, m.classes_alone, m.counter_attack, m.median),
        *(m.codebook, m.inference),
    ]
    noisy = [m.noise_small, m.noise_large, m.resize_pad, m.dropout]
    plain = [h.mlp, h.cnn, h.resnet, h.pgd_cnn, h.pgd_mlp, h.trades, h.gaussian, h.linear, h.bounded_relu]
    plain += [h.log_probabilities, h.probabilities, h.normalising]
    blind = [r.sealed, r.bits, r.stumps, r.nearest]
    return [
        *(Entry(build.__name__, "masked", build) for build in hidden),
        *(Entry(build.__name__, "masked", build, draws=True) for build in noisy),
        Entry("rounded_l2", "masked", m.rounded, "L2", 0.8),
        Entry("thermometer_l2", "masked", m.thermometer, "L2", 0.8),
        *(Entry(build.__name__, "honest", build) for build in plain),
        Entry("l2_trained", "honest", h.l2_trained, "L2", 0.8),
        Entry("mlp_small_radius", "honest", h.mlp, eps=0.05),
        *(Entry(build.__name__, "no gradient", build) for build in blind),
    ]


ENTRIES = {entry.name: entry for entry in _entries()}
