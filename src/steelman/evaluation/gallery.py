"""Images with their smallest perturbations, as in Deep Defense's figure 7."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from steelman.attacks.attack import Attack
from steelman.evaluation.evaluate import logits_of
from steelman.randomness import combine
from steelman.types import Flags, Images, Labels, Model, PerImage


@dataclass(frozen=True)
class Gallery:
    """A few images before and after an attack on one model: `size` is the perturbation's L2 norm."""

    x: Images
    x_adv: Images
    label: Labels
    clean_prediction: Labels
    prediction: Labels
    success: Flags
    size: PerImage
    attack: str

    @staticmethod
    def of(model: Model, x: Images, y: Labels, attack: Attack, *, seed: int = 0) -> "Gallery":
        """Attack a few images; give every model of a report the same ones.

        Cost: the attack's, and two forward passes.
        """
        clean = logits_of(model, x, y).argmax(1)
        seeds = combine(torch.full((len(x),), seed), torch.arange(len(x)))
        found = attack.run(model, x, y, generator=seeds)
        return Gallery(
            x.cpu(),
            found.x_adv.cpu(),
            y.cpu(),
            clean.cpu(),
            found.prediction.cpu(),
            found.success.cpu(),
            found.l2.cpu(),
            str(attack),
        )


def amplification(galleries: Sequence[Gallery]) -> int:
    """The whole number, one for all galleries so that differences may be compared by eye, that brings all but the
    largest hundredth of the changes within full contrast."""
    changes = np.concatenate([(each.x_adv - each.x).abs().flatten().numpy() for each in galleries])
    large = float(np.quantile(changes, 0.99)) if len(changes) else 0.0
    return max(1, int(0.5 / large)) if large else 1


def png(image: Tensor) -> bytes:
    """One image of shape (channels, height, width) in [0, 1], grey or colour, as PNG."""
    from PIL import Image

    if image.ndim != 3 or image.shape[0] not in (1, 3):
        raise ValueError(f"a picture needs 1 or 3 channels, height and width; got shape {tuple(image.shape)}")
    levels = (image.detach().cpu().clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    stream = io.BytesIO()
    Image.fromarray(np.squeeze(levels, 2) if levels.shape[2] == 1 else levels).save(stream, "PNG", optimize=True)
    return stream.getvalue()


def data_uri(image: Tensor) -> str:
    """The image itself as the address of an `<img>`."""
    return "data:image/png;base64," + base64.b64encode(png(image)).decode()
