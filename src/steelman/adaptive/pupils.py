"""A small smooth network that learns a model's answers, to craft on where the model has no useful gradients."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from steelman.attacks import PGD
from steelman.attacks.core import check_images, check_labels, check_radius, evaluation_mode
from steelman.forward import Forward, are_probabilities
from steelman.losses import Margin
from steelman.norms import L0, Norm
from steelman.randomness import Draws, combine
from steelman.types import Box, Images, Labels, Logits, Model

ROUNDS, EPOCHS, BATCH = 4, 5, 100
REACHES = (1.0, 1.5, 2.0, 3.0)
"""Radii of attacked images, in parts of eps: further out, more of the model's answers change."""
NOISE = (2.0, 3.0, 4.0)
"""Radii of noise, in parts of eps."""
SURE = 3.0
"""The median difference of the two highest logits that a pupil learns, whatever it is in the model."""


@final
class Pupil(nn.Module):
    """Two convolutions with 16 and 32 channels, or none where an image has no height and width; then two linear layers.

    SiLU lies between them: it is smooth, so that its gradient is useful everywhere.

    shape      of one image; (height, width) and (channels, height, width) from 4 pixels on have convolutions
    classes    how many logits
    mean, std  by which the numbers of an image are normalised, defaults .5 and .5
    """

    mean: Tensor
    std: Tensor

    def __init__(self, shape: Sequence[int], classes: int, mean: float = 0.5, std: float = 0.5) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean))
        self.register_buffer("std", torch.tensor(std))
        layers: list[nn.Module] = [nn.Flatten()]
        if len(shape) in (2, 3) and min(shape[-2:]) >= 4:
            channels, first = math.prod(shape[:-2]), 1 if max(shape[-2:]) <= 14 else 2
            layers += [nn.Unflatten(1, (channels, *shape[-2:])), nn.Conv2d(channels, 16, 3, first, 1), nn.SiLU()]
            layers += [nn.Conv2d(16, 32, 3, 2, 1), nn.SiLU(), nn.Flatten()]
        width = nn.Sequential(*layers)(torch.zeros(1, *shape)).shape[1]
        self.layers = nn.Sequential(*layers, nn.Linear(width, 128), nn.SiLU(), nn.Linear(128, classes))

    def forward(self, x: Images) -> Logits:
        return self.layers((x - self.mean) / self.std)


def pupil(
    model: Model,
    x: Images,
    y: Labels,
    *,
    norm: Norm,
    eps: float,
    seed: int = 0,
    draws: int = 1,
    examples: int = 4000,
    box: Box | None = (0.0, 1.0),
) -> Pupil:
    """A network that has learned a model's answers near some images: a surrogate for transfer attacks on it.

    The `Pupil` is trained in four rounds. Each adds to the images of those before: mixtures with another image (up to
    .6 of it), noise of 2 to 4 eps and, from the second round on, images that PGD has made on the pupil at 1 to 3 eps,
    which is where it has most to learn. What it learns is (softmax(a Z) + e_k) / 2, with Z the model's logits, k its
    class, and a such that the two highest logits differ by 3 (median); or e_k alone where the model answers with
    classes; of random answers the mean.

    model      any callable from images to logits, probabilities or classes; its gradient is not used
    x, y       images and labels, some hundred: best those that are to be attacked
    norm, eps  Linf, L2 or L1, and the radius
    seed       of the first weights and of all that is drawn; torch's generator is left as it was
    draws      of which a random model's answer is the mean, default 1
    examples   images that the model is asked for, in all, default 4000; at least 4 of each of x
    box        of the images

    The paper's substitute moves images along the signs of its Jacobian; ours along PGD's steps.

    Cost: `draws` times `examples` forward passes of the model and those of x. Of the pupil about 13 `examples` forward
    and gradient passes: 3 s on one core for 8x8 images, 10 s for 3x32x32.
    Reference: Nicolas Papernot, Patrick McDaniel, Ian Goodfellow, Somesh Jha, Z. Berkay Celik and Ananthram Swami,
    "Practical black-box attacks against machine learning", AsiaCCS 2017, section 4.

    Raises:
        ValueError: invalid images or labels, none of them, L0, a radius of 0 or less, draws or examples below 1.
    """
    check_images(x, box)
    check_labels("y", y, x)
    check_radius(norm, eps, box, "pupil")
    if len(x) == 0 or draws < 1 or examples < 1 or norm is L0 or not eps > 0:
        needs = "images, draws and examples from 1 up, and a radius above 0 in Linf, L2 or L1"
        raise ValueError(f"pupil needs {needs}; got {len(x)}, {draws}, {examples} and {eps} in {norm}")
    with torch.inference_mode(False), torch.random.fork_rng([x.device] if x.is_cuda else []), evaluation_mode(model):
        torch.manual_seed(seed)
        x = x.detach().clone()
        teacher = _Teacher.of(model, x, y, draws)
        net = Pupil(x.shape[1:], teacher.classes, float(x.mean()), float(x.std()) or 1.0).to(x.device, x.dtype)
        seen, answers = [x], [teacher.answer(x)]
        for turn in range(ROUNDS):
            for copy in range(max(round(examples / ROUNDS / len(x)), 1)):
                source = Draws(combine(torch.arange(len(x), device=x.device), seed, turn, copy))
                new = _attacked(net, x, y, norm, eps, box, source, copy) if turn and copy % 2 else None
                new = _moved(x, norm, eps, source, copy // 2) if new is None else new
                seen.append(new if box is None else new.clamp(*box))
                answers.append(teacher.answer(seen[-1]))
            _train(net, torch.cat(seen), torch.cat(answers))
    return net.eval().requires_grad_(False)


@dataclass(frozen=True)
class _Teacher:
    """A model whose answers are probabilities, neither lost in rounding nor all alike."""

    ask: Forward
    draws: int
    classes: int
    scale: float

    @staticmethod
    def of(model: Model, x: Images, y: Labels, draws: int) -> "_Teacher":
        ask = Forward(model)
        with torch.no_grad():
            answer = ask(x)
        if not answer.is_floating_point():
            return _Teacher(ask, draws, 1 + int(max(answer.max(), y.max())), 1.0)
        top = _logits(answer).topk(2).values
        gap = (top[:, 0] - top[:, 1]).median()
        return _Teacher(ask, draws, answer.shape[1], float(SURE / gap.clamp(min=1e-6)))

    def answer(self, x: Images) -> Tensor:
        with torch.no_grad():
            return torch.stack([self._once(self.ask(x)) for _ in range(self.draws)]).mean(0).to(x.dtype)

    def _once(self, answer: Tensor) -> Tensor:
        if not answer.is_floating_point():
            return F.one_hot(answer.long().clamp(0, self.classes - 1), self.classes).double()
        logits = _logits(answer).nan_to_num(0.0)
        return ((logits * self.scale).softmax(1) + F.one_hot(logits.argmax(1), self.classes)) / 2


def _logits(answer: Tensor) -> Logits:
    return answer.clamp(min=1e-6).log() if are_probabilities(answer) else answer


def _attacked(
    net: Pupil, x: Images, y: Labels, norm: Norm, eps: float, box: Box | None, source: Draws, copy: int
) -> Images:
    """What misleads the pupil, by few steps or more."""
    widest = math.inf if box is None else box[1] - box[0]
    reach = min(eps * REACHES[copy // 2 % len(REACHES)], widest)
    attack = PGD(reach, 2 + copy % 9, reach / 3, norm, Margin(), box=box)
    return attack(net.eval().requires_grad_(False), x, y, generator=source.seeds)


def _moved(x: Images, norm: Norm, eps: float, source: Draws, copy: int) -> Images:
    """Mixtures, or noise."""
    if copy % 2 == 0:
        other = x[(source.uniform((), torch.float64) * len(x)).long()]
        return torch.lerp(x, other, 0.6 * source.split(1).uniform((1,) * (x.ndim - 1), x.dtype))
    return x + norm.sample(x, eps * NOISE[copy // 2 % len(NOISE)], source)


def _train(net: Pupil, x: Images, wanted: Tensor) -> None:
    net.train().requires_grad_(True)
    steps = EPOCHS * math.ceil(len(x) / BATCH)
    optimiser = torch.optim.Adam(net.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 4e-3, total_steps=steps)
    with torch.enable_grad():
        for _ in range(EPOCHS):
            for part in torch.randperm(len(x)).to(x.device).split(BATCH):
                optimiser.zero_grad()
                F.cross_entropy(net(x[part]), wanted[part]).backward()
                optimiser.step()
                schedule.step()
