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
