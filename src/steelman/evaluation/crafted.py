"""Images that are made on one model, once, and that others meet."""

import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, final

import torch
from safetensors import safe_open
from torch import Tensor

from steelman import checkpoint, identity
from steelman.attacks.core.attack import Access, Attack, AttackWrapper
from steelman.attacks.core.oracle import Oracle
from steelman.evaluation.block import placed
from steelman.losses import Goal
from steelman.randomness import Draws, combine
from steelman.types import Images


@final
@dataclass(frozen=True)
class Crafted(AttackWrapper):
    """A transfer attack whose images are kept: what is there is read, and what is missing is made on the source.

    attack  what is run on the source, as it is
    model   the source
    source  its name
    called  the attack's name, by which its noise is seeded, so that the source itself meets what `evaluate` shows it
    knows   whether the model under attack is the source, or one of its members: a white box
    folder  where the images of this attack and source are kept, a file for each call

    Cost: the attack's on the source, once for each image; it counts for every target.
    """

    attack: Attack
    model: Any
    source: str
    called: str
    knows: bool
    folder: Path = field(compare=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "box", self.attack.box)

    @property
    def access(self) -> Access:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.attack.access if self.knows else "decisions"

    @property
    def noise(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.called

    def search(self, oracle: Oracle, x: Images, goal: Goal, draws: Draws) -> Images:
        # an image's key holds its pixels, its label and its noise
        keys = combine(draws.seeds.cpu(), torch.from_numpy(identity.image_digests(x, goal.labels)))
        parts = list(self._kept(keys))
        missing = torch.isin(keys, torch.cat([part["keys"] for part in parts]), invert=True) if parts else keys == keys
        seconds = sum(float(part["seconds"].sum()) for part in parts)
        if missing.any():
            parts.append(self._make(x, goal, draws, keys, torch.where(missing)[0]))
        whole = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
        place = {key: row for row, key in enumerate(whole["keys"].tolist())}
        rows = torch.tensor([place[key] for key in keys.tolist()])
        oracle.forwards += whole["forwards"][rows].to(x.device)
        oracle.gradients += whole["gradients"][rows].to(x.device)
        oracle.seconds += seconds
        return whole["x_adv"][rows].to(x)

    def _make(self, x: Images, goal: Goal, draws: Draws, keys: Tensor, which: Tensor) -> dict[str, Tensor]:
        """Make images, and keep them."""
        at = which.to(x.device)
        result = self.attack.run(placed(self.model, x.device), x[at], goal.labels[at], generator=draws.seeds[at])
        seconds = torch.full((len(which),), result.seconds / len(which), dtype=torch.float64)
        made = {"x_adv": result.x_adv, "forwards": result.forwards, "gradients": result.gradients}
        made = {name: value.cpu() for name, value in made.items()} | {"keys": keys[which], "seconds": seconds}
        checkpoint.save(self.folder / f"{identity.digest(made['keys'])}.safetensors", made)
        return made

    def _kept(self, keys: Tensor) -> Iterator[dict[str, Tensor]]:
        """What is there of some images."""
        own = self.folder / f"{identity.digest(keys)}.safetensors"
        for path in [own] if own.is_file() else sorted(self.folder.glob("*.safetensors")):
            try:
                which = torch.isin(_keys(path), keys)
                part = checkpoint.load(path) if which.any() else {}
            except ValueError as error:
                warnings.warn(f"{error}; its images are made anew", stacklevel=2)
                path.unlink()
                continue
            if part:
                yield {name: value[which] for name, value in part.items()}


@lru_cache(maxsize=100_000)
def _keys(path: Path) -> Tensor:
    """Which images a file has; a file is never written again."""
    try:
        with safe_open(path, "pt") as file:
            return file.get_tensor("keys")
    except Exception as error:  # of safetensors, of its own kind
        raise ValueError(f"{path} is not whole ({error})") from error
