"""The best images of an attack so far."""

from dataclasses import dataclass

import torch
from torch import Tensor

from steelman.types import Flags, Images, Indices, PerImage, Rows


@dataclass(frozen=True)
class Best(Rows):
    """Images, whether they reach the goal, and a score by which two that both do, or both do not, are compared."""

    x: Images
    success: Flags
    score: PerImage

    @staticmethod
    def nothing(x: Images) -> "Best":
        score = torch.full((len(x),), -torch.inf, dtype=x.dtype, device=x.device)
        return Best(x.clone(), torch.zeros_like(score, dtype=torch.bool), score)

    def unfinished(self, stop_early: bool) -> Indices:
        """The images that go on: all, or with `stop_early` those without a success."""
        return torch.where(~(self.success & stop_early))[0]

    def take_turns(self, place: Indices, other: "Best", images: int, stop_early: bool) -> None:
        """`take` of turns that ran side by side, each of so many images, as if they had run in sequence."""
        for turn in torch.arange(len(place), device=place.device).split(images):
            rows = turn[~(self.success[place[turn]] & stop_early)]
            self.take(place[rows], other[rows])

    def take(self, place: Indices, other: "Best") -> Tensor:
        """Take over those of `other`, whose images belong at `place`, that are better: success first, then score.

        Returns their rows in `other`.
        """
        higher = other.score > self.score[place]
        rows = torch.where(torch.where(other.success == self.success[place], higher, other.success))[0]
        if len(rows) == 0:
            return rows
        place = place[rows]
        self.x[place], self.success[place], self.score[place] = other.x[rows], other.success[rows], other.score[rows]
        return rows
