"""Attacks in a latent space: on z, where the image is decode(z)."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, TypeAlias

import torch
from torch import Tensor, nn

from steelman import checkpoint
from steelman.attacks.core import Access, Attack, Draws, Goal, Oracle, check_parts, evaluation_mode
from steelman.attacks.core.oracle import OutOfTime
from steelman.attacks.minimal.carlini_wagner.descent import AdamState
from steelman.attacks.minimal.searching import Successes
from steelman.filters.defense_gan import DefenseGAN
from steelman.forward import Forward
from steelman.losses import Margin
from steelman.networks.filtered import Filtered
from steelman.norms import L2, Norm, column
from steelman.randomness import is_random
from steelman.ranges import Count, Factor, Natural, Positive
from steelman.types import Flags, Images, Indices, Model, Rows

_START = 0x1A7E

Decoder: TypeAlias = Callable[[Tensor], Images]


@dataclass(frozen=True)
class _Rest(Rows):
    """Images that are still right: those at the places `which` of the batch."""

    x: Images
    goal: Goal
    which: Indices
    draws: Draws


@dataclass(frozen=True)
class Latent(Attack):
    """Reparameterisation: an attack on z, where the image is decode(z), for defences that project onto such images.

    First z0 = encode(x), or the best inversion min_z |decode(z) - x|_2^2 of several random z, by Adam. From there
    minimise |decode(z) - x|_2^2 + c max(Z_y - max_{k != y} Z_k + confidence, 0) by Adam, Z the logits of decode(z),
    with a search over c per image: times 10 until the first success, then bisection. Or another attack is run on the
    model of z. An image succeeds only where the model that is attacked, with all that stands before it, errs on
    decode(z); the nearest in L2 in pixels is returned, and where there is none, or the model errs to begin with, the
    image itself.

    attack       what is run on z instead, such as PGD(box=None): its radius and box are those of z. None (default) is
                 the descent above
    decode       from z to images: a module or callable, or the path of a run or checkpoint; None (default): the
                 generator of the model's own `DefenseGAN`
    encode       from images to z; None (default): by inversion, from z ~ N(0, I) of `decode.latent` numbers
    starts       of the inversion, default 30 (authors' code)
    inversion_steps  default 3,000 (authors' code)
    lr           of both descents, default .1 (authors' code)
    steps        of each search step, default 30,000 (authors' code)
    search_steps  over c, default 5 (authors' code)
    c            first constant, default 1 (authors' code), with distances in widths of the box
    confidence   margin wanted in logits, default 0
    past_filter  of a `Filtered` model: descend on the network behind the filter, and ask the whole model about the
                 nearest and the last success of each search step alone (default False). The authors' code does so, but
                 for asking; with a margin of `confidence`, more of them outlast the filter
    radius       an image further away in L2 is moved back to this distance on the straight way to its original, whether
                 the model still errs there or not; default None: it stays where it is. A filter that looks for the
                 nearest decode(z) mostly errs from before the middle of that way on (ours)

    As `CarliniWagner` with tanh, where decode is that change of variable. The authors' code keeps the last success of
    all, since it compares 0 times the distance, and inverts without a graph of the defence. A constant is large enough
    only if it succeeds in the last tenth of its steps, as in `CarliniWagner`. Images are clipped to the box; a decoder
    whose first images lie outside of it is refused. For a radius take `Within(Latent(radius=eps), eps)`, which counts
    in L2.

    Cost: search_steps * steps forward and gradient passes of the model, or the attack's, and as many of decode;
    starts * inversion_steps of decode. With `past_filter` the passes are those of the network, and 2 search_steps
    forward passes of the whole.
    Reference: Anish Athalye, Nicholas Carlini and David Wagner, "Obfuscated gradients give a false sense of security:
    circumventing defenses to adversarial examples", ICML 2018, section 4.3, authors' code (Defense-GAN).

    Raises:
        ValueError: no decoder, or one without `latent` where there is no `encode`; images of another shape or outside
            of the box; `past_filter` of a model without a filter; z outside of the box of `attack`.
    """

    norm: ClassVar[Norm] = L2

    attack: Attack | None = None
    decode: Any = None
    encode: Any = None
    starts: Count = 30
    inversion_steps: Natural = 3000
    lr: Positive = 0.1
    steps: Count = 30_000
    search_steps: Count = 5
    c: Positive = 1.0
    confidence: Factor = 0.0
    past_filter: bool = False
    radius: Positive | None = None

    def __post_init__(self) -> None:
        if self.attack is not None:
            check_parts("Latent", (self.attack,))

    @property
    def access(self) -> Access:  # pyright: ignore[reportIncompatibleVariableOverride]
        return "gradients" if self.attack is None else self.attack.access

    def search(self, oracle: Oracle, x: Images, goal: Goal, draws: Draws) -> Images:
        which = torch.where(~goal.met(oracle.decisions(x)))[0]
        x_adv = x.clone()
        if len(which) == 0:
            return x_adv
        decoder, model = self._decoder(oracle.model, x), self._attacked(oracle.model)
        rest = _Rest(x[which], goal[which], which, draws[which])
        with evaluation_mode(decoder), oracle.another(model, goal) as near:
            near.samples = oracle.samples if model is oracle.model or is_random(model) else 1
            decode = self._decoding(decoder, rest.x)
            z = self._start(decoder, decode, rest, oracle.deadline)
            low, high = decode(z).aminmax()
            slack = 1e-3 * self.box_width
            if self.box is not None and (low < self.box[0] - slack or high > self.box[1] + slack):
                raise ValueError(
                    f"decode gives images from {low:.4g} to {high:.4g}, and the box is {self.box}: end it in a layer "
                    "that maps onto the box"
                )
            best = Successes.none(rest.x)
            if self.attack is not None:
                self._run(self.attack, oracle, near.samples, _Decoded(decoder, model), decode, rest, z, best)
            else:
                self._descend(oracle, near if self.past_filter else oracle, decode, rest, z, best)
        oracle.add(near, torch.arange(len(x), device=x.device))
        x_adv[which] = best.x_adv if self.radius is None else L2.contain(rest.x, best.x_adv, self.radius, self.box)
        return x_adv

    def _run(
        self,
        attack: Attack,
        oracle: Oracle,
        samples: int,
        model: nn.Module,
        decode: Decoder,
        rest: _Rest,
        z: Tensor,
        best: Successes,
    ) -> None:
        if attack.box is not None and bool((z < attack.box[0]).any() | (z > attack.box[1]).any()):
            raise ValueError(
                f"z reaches from {z.min():.4g} to {z.max():.4g}, beyond the box {attack.box} of the attack on it: give "
                f"that one box=None, or that of z"
            )
        with oracle.another(model, rest.goal) as inner:
            inner.samples = samples
            moved = attack[rest.which].search(inner, z, rest.goal, rest.draws)
        oracle.add(inner, rest.which)
        self._keep(oracle, rest, self._clipped(decode(moved)), best)

    def _descend(
        self, oracle: Oracle, near: Oracle, decode: Decoder, rest: _Rest, start: Tensor, best: Successes
    ) -> None:
        c = torch.full((len(start),), self.c * self.box_width**2, dtype=rest.x.dtype, device=start.device)
        low, high = torch.zeros_like(c), torch.full_like(c, torch.inf)
        for _ in range(self.search_steps):
            found, last, hit = self._descended(near, decode, rest, start, c)
            if near is oracle:
                best.take(found)
            else:
                some = torch.where(found.size.isfinite())[0]
                hit = torch.zeros_like(hit)
                for image in (found.x_adv, last):
                    hit[some] |= self._keep(oracle, rest[some], image[some], best, some)
            low, high = torch.where(hit, low, torch.maximum(low, c)), torch.where(hit, torch.minimum(high, c), high)
            c = torch.where(high.isfinite(), (low + high) / 2, 10 * c)

    def _descended(
        self, oracle: Oracle, decode: Decoder, rest: _Rest, start: Tensor, c: Tensor
    ) -> tuple[Successes, Images, Flags]:
        """The nearest success of one search step, the last one, and whether c is large enough."""
        z, adam, found = start.clone(), AdamState(start, self.lr), Successes.none(rest.x)
        last, hit = rest.x.clone(), torch.zeros_like(c, dtype=torch.bool)
        for step in range(self.steps):
            with torch.enable_grad():
                free = z.detach().requires_grad_()
                image = self._clipped(decode(free))
            here = image.detach()
            logits, gain, pull = oracle.gradient(here, lambda logits: Margin()(logits, rest.goal), rest.which)
            reached = rest.goal.reached(logits) & (gain >= self.confidence)
            delta = here - rest.x
            found.keep(here, delta.flatten(1).square().sum(1), reached)
            last[reached] = here[reached]
            if step >= self.steps - max(self.steps // 10, 1):
                hit |= reached
            pull = column(torch.where(gain < self.confidence, c, 0), here) * pull
            adam.step(z, torch.autograd.grad(image, free, 2 * delta - pull)[0])
        return found, last, hit

    def _keep(self, oracle: Oracle, rest: _Rest, image: Images, best: Successes, place: Indices | None = None) -> Flags:
        """Whether the whole model errs on images; the nearest of those that do are kept."""
        met = rest.goal.met(oracle.decisions(image, rest.which))
        best.keep(image, (image - rest.x).flatten(1).square().sum(1), met, place)
        return met

    def _start(self, decoder: Any, decode: Decoder, rest: _Rest, deadline: float | None) -> Tensor:
        """z0 of each image."""
        if self.encode is not None:
            with evaluation_mode(self.encode):
                z = Forward(self.encode)(rest.x)
            if z.shape[:1] != rest.x.shape[:1] or not bool(z.isfinite().all()):
                raise ValueError(f"encode gives NaN, infinities, or other than one z for each of {len(rest.x)} images")
            return z.detach().clone()
        latent = getattr(decoder, "latent", None)
        if not isinstance(latent, int):
            raise ValueError("decode has no attribute `latent`, the length of z: give one, or `encode`")
        z = rest.draws.split(_START).normal((self.starts, latent), rest.x.dtype).flatten(0, 1)
        wanted = rest.x.repeat_interleave(self.starts, 0)
        adam, best = AdamState(z, self.lr), z.clone()
        size = torch.full((len(z),), torch.inf, dtype=z.dtype, device=z.device)
        for step in range(self.inversion_steps + 1):
            if deadline is not None and time.monotonic() > deadline:
                raise OutOfTime
            with torch.enable_grad():
                free = z.detach().requires_grad_()
                error = (decode(free) - wanted).square().flatten(1).sum(1)
                total = error.sum()
            nearer = torch.where(error.detach() < size)[0]
            best[nearer], size[nearer] = z[nearer], error.detach()[nearer]
            if step < self.inversion_steps:
                adam.step(z, torch.autograd.grad(total, free)[0])
        rows = torch.arange(len(rest.x), device=z.device)
        return best[rows * self.starts + size.view(-1, self.starts).argmin(1)]

    def _decoding(self, decoder: Any, like: Images) -> Decoder:
        """The decoder, in the type of the images and checked."""
        forward = Forward(decoder)

        def decode(z: Tensor) -> Images:
            images = forward(z)
            if images.shape[1:] != like.shape[1:]:
                raise ValueError(f"decode gives images of {tuple(images.shape[1:])}; these are {tuple(like.shape[1:])}")
            return images

        return decode

    def _clipped(self, images: Images) -> Images:
        return images if self.box is None else images.clamp(*self.box)

    def _decoder(self, model: Model, x: Images) -> Any:
        if isinstance(self.decode, str | Path):
            return checkpoint.shared_network(self.decode).to(x.device)
        if self.decode is not None:
            return self.decode
        parts = model.modules() if isinstance(model, nn.Module) else ()
        found = [each.network for each in parts if isinstance(each, DefenseGAN)]
        if not found:
            raise ValueError("Latent needs decode, from z to images: this model has no DefenseGAN to take it from")
        return found[0]

    def _attacked(self, model: Model) -> Model:
        if not self.past_filter:
            return model
        if not isinstance(model, Filtered):
            raise ValueError(f"past_filter needs a Filtered model; {type(model).__name__} has no filter")
        return model.network


class _Decoded(nn.Module):
    """model(decode(z))."""

    def __init__(self, decode: Model, model: Model) -> None:
        super().__init__()
        self.decode, self.model = decode, model

    def forward(self, z: Tensor) -> Any:
        return self.model(Forward(self.decode)(z))
