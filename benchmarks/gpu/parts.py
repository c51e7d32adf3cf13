"""The parts, most wanted first, each with the seconds that it may take at most."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from benchmarks.gpu.ground import NETWORKS, Setting

SMALL, LARGE = NETWORKS


@dataclass(frozen=True)
class Part:
    """What yields its rows, as "module:function", with the network if it takes one; imported where it is run."""

    place: str
    network: str | None
    limit: float

    def rows(self, setting: Setting) -> Iterator[dict]:
        from importlib import import_module

        module, _, name = self.place.partition(":")
        work: Callable[..., Iterator[dict]] = getattr(import_module(f"benchmarks.gpu.{module}"), name)
        return (work if self.network is None else partial(work, name=self.network))(setting)


PARTS: dict[str, Part] = {
    "machine": Part("machine:machine", None, 40),
    "step, LeNet": Part("attacks:step", SMALL, 90),
    "attacks, LeNet": Part("attacks:side_by_side", SMALL, 70),
    "standard, LeNet": Part("attacks:standard", SMALL, 90),
    "agreement, LeNet": Part("agreement:agreement", SMALL, 60),
    "training, LeNet": Part("training:epochs", SMALL, 60),
    "training, ResNet-18": Part("training:epochs", LARGE, 80),
    "agreement, ResNet-18": Part("agreement:agreement", LARGE, 60),
    "attacks, ResNet-18": Part("attacks:side_by_side", LARGE, 80),
    "bf16": Part("attacks:bf16", LARGE, 40),
    "two workers": Part("training:two_workers", SMALL, 70),
    "launches, LeNet": Part("machine:launches", SMALL, 30),
    "launches, ResNet-18": Part("machine:launches", LARGE, 30),
    "standard, ResNet-18": Part("attacks:standard", LARGE, 120),
    "step, ResNet-18": Part("attacks:step", LARGE, 150),
    "waits": Part("waits:waits", SMALL, 60),
}
