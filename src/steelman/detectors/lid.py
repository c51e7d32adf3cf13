"""Local intrinsic dimensionality of a network's activations."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from steelman.detectors.detector import Detector
from steelman.forward import logits_of
from steelman.losses import cross_entropy
from steelman.types import Batch, Images, Logits, PerImage

SMALLEST = 1e-12
"""A distance of 0, to a copy of the image, counts as this."""
SQUARED = 1e-9
"""Added to squared distances, for their root has no slope at 0."""


class LID(Detector):
    """In how many directions an image's neighbours lie, at every layer; adversarial images have more of them.

    Of each layer's output, with r_1 <= ... <= r_k the distances of an image's to those of its k nearest among
    `references` clean training images: LID = -k / sum_i log(r_i / r_k). Logistic regression on these numbers, one per
    layer, tells adversarial images from clean and from noisy ones; its logit is the score.

    neighbours  k, default 20 (paper)
    references  default 100, the size of the authors' mini-batches
    eps         the adversarial images of `fit` are x + a sign(dCE/dx) with the smallest a at which the network errs, of
                twenty up to eps, default .3; see `attacks`
    layers      of the network, by the names of its modules; default all that have no parts. The images are a layer too
    attacks     that make them in place of that; the paper fits a detector for each of FGSM, BIM, JSMA and
                Carlini-Wagner
    shape       of the images; a recipe's network gives it

    Paper and code: the authors take an image's neighbours from a mini-batch of clean images in which its own unattacked
    twin is, and drop the nearest. An image of unknown origin has no twin among the references, so none is dropped here.
    The last term of the sum is log 1 = 0, and k still counts it, as in the code.

    Broken by: an attack with a confidence that does not know of LID (`Naive` of PGD on the margin), whose
    images look normal; and one that sees the score, as every attack on `Rejecting` does.
    Cost: a forward pass of the references besides that of the images, and the distances; `fit` runs the attacks.
    Reference: Xingjun Ma, Bo Li, Yisen Wang, Sarah M. Erfani, Sudanthi Wijewickrema, Grant Schoenebeck, Dawn Song,
    Michael E. Houle and James Bailey, "Characterizing adversarial subspaces using local intrinsic dimensionality", ICLR
    2018, sections 3 and 4; broken in Anish Athalye, Nicholas Carlini and David Wagner, "Obfuscated gradients give a
    false sense of security", ICML 2018, section 5.1.

    Raises:
        ValueError: not 2 <= neighbours < references; a layer that the network does not have; too few images to be
            fitted.
    """

    def __init__(
        self,
        neighbours: int = 20,
        references: int = 100,
        eps: float = 0.3,
        layers: Sequence[str] | None = None,
        attacks: Sequence[Any] = (),
        *,
        shape: Sequence[int] = (1, 28, 28),
    ) -> None:
        super().__init__()
        if not 2 <= neighbours < references:
            raise ValueError(f"LID needs 2 <= neighbours < references; got {neighbours} and {references}")
        self.neighbours, self.layers = neighbours, None if layers is None else tuple(layers)
        self.attacks, self.eps = tuple(attacks), eps
        self.register_buffer("references", torch.full((references, *shape), torch.nan))
        self.register_buffer("weight", torch.zeros(0))
        self.register_buffer("bias", torch.zeros(()))
        self.register_load_state_dict_pre_hook(_resize)

    def score(self, network: nn.Module, x: Images) -> tuple[Logits, PerImage]:
        if not len(self.get_buffer("weight")):
            raise ValueError("LID is not fitted: call Rejecting(network, LID()).fit(dataset)")
        logits, features = self.features(network, x)
        return logits, (features @ self.get_buffer("weight").to(features) + self.get_buffer("bias").to(features))

    def features(self, network: nn.Module, x: Images) -> tuple[Logits, Tensor]:
        """The network's logits, and the LID of each image at each layer, (batch, layers)."""
        with torch.no_grad(), self._outputs(network) as there:
            logits_of(network, self.get_buffer("references").to(x))
        with self._outputs(network) as here:
            logits = logits_of(network, x)
        pairs = [(self.get_buffer("references").to(x), x), *zip(there, here, strict=True)]
        return logits, torch.stack([lid(each, reference, self.neighbours) for reference, each in pairs], 1)

    @contextmanager
    def _outputs(self, network: nn.Module) -> Iterator[list[Tensor]]:
        """The outputs of the layers in the passes inside."""
        modules = dict(network.named_modules())
        names = (
            [name for name, each in modules.items() if not any(each.children())] if self.layers is None else self.layers
        )
        if unknown := [name for name in names if name not in modules]:
            raise ValueError(f"the network has no module {unknown[0]!r}; it has {', '.join(filter(None, modules))}")
        found: list[Any] = []
        hooks = [modules[name].register_forward_hook(lambda *seen: found.append(seen[2])) for name in names]
        try:
            yield found
        finally:
            for hook in hooks:
                hook.remove()

    def measure(self, network: nn.Module, batch: Batch) -> None:
        from sklearn.linear_model import LogisticRegression

        references = self.get_buffer("references")
        if len(batch) < len(references) + 20:
            raise ValueError(f"LID needs {len(references)} references and 20 images more; got {len(batch)} images")
        references.copy_(batch.x[: len(references)])
        rest = batch[torch.arange(len(references), len(batch))]
        with torch.no_grad():
            rest = rest[torch.where(logits_of(network, rest.x).argmax(1) == rest.y)[0]]
        noise = torch.Generator().manual_seed(0)
        moved, drawn = [], []
        crafted = [attack(network, rest.x, rest.y, generator=noise) for attack in self.attacks]
        for x_adv in crafted or [_nearest_error(network, rest, self.eps)]:
            with torch.no_grad():
                fooled = logits_of(network, x_adv).argmax(1) != rest.y
            images, origin = x_adv[fooled], rest.x[fooled]
            step = torch.randn(images.shape, generator=noise).to(images)
            step *= ((images - origin).flatten(1).norm(dim=1) / step.flatten(1).norm(dim=1))[:, None, None, None]
            moved.append(images)
            drawn.append((origin + step).clamp(0, 1))
        positive, negative = torch.cat(moved), torch.cat([rest.x, *drawn])
        if len(positive) < 10:
            raise ValueError(f"the attacks moved {len(positive)} images, too few to fit LID: give stronger ones")
        with torch.no_grad():
            parts = [
                torch.cat([self.features(network, part)[1] for part in each.split(250)])
                for each in (positive, negative)
            ]
        values = torch.cat(parts).double().numpy()
        label = np.repeat([1, 0], [len(positive), len(negative)])
        low, span = values.min(0), np.maximum(values.max(0) - values.min(0), SMALLEST)
        found = LogisticRegression(max_iter=1000).fit((values - low) / span, label)
        weight = found.coef_[0] / span
        self.weight = torch.from_numpy(weight).float()
        self.bias = torch.tensor(float(found.intercept_[0] - weight @ low))

    def extra_repr(self) -> str:
        return f"neighbours={self.neighbours}, references={len(self.get_buffer('references'))}"


def _nearest_error(network: nn.Module, batch: Batch, eps: float) -> Images:
    """The first of twenty gradient sign steps up to eps at which the network errs; the last where none does."""
    with torch.enable_grad():
        x = batch.x.detach().requires_grad_()
        (slope,) = torch.autograd.grad(cross_entropy(logits_of(network, x), batch.y).sum(), x)
    found, open_ = batch.x.clone(), torch.ones(len(batch), dtype=torch.bool, device=x.device)
    for step in range(1, 21):
        moved = (batch.x + eps * step / 20 * slope.sign()).clamp(0, 1)
        found[open_] = moved[open_]
        with torch.no_grad():
            open_ &= logits_of(network, found).argmax(1) == batch.y
    return found


def lid(x: Tensor, references: Tensor, neighbours: int) -> PerImage:
    """-k / sum_i log(r_i / r_k) of each row of `x`, with its k nearest rows of `references`."""
    apart = torch.cdist(x.flatten(1), references.flatten(1), compute_mode="donot_use_mm_for_euclid_dist")
    nearest = apart.topk(neighbours, largest=False).values.square().add(SQUARED).sqrt()
    return -neighbours / (nearest / nearest[:, -1:]).clamp(min=SMALLEST).log().sum(1).clamp(max=-SMALLEST)


def _resize(layer: nn.Module, state: dict[str, Tensor], prefix: str, *_: object) -> None:
    """As many weights as the checkpoint has; how many layers there are is known once it is fitted."""
    if (found := state.get(f"{prefix}weight")) is not None:
        layer.weight = torch.zeros_like(found)
