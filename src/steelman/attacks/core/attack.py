"""What every attack is: called for perturbed images, or run for a result that has been verified."""

import time
from abc import ABC, abstractmethod
from dataclasses import dataclass, field, fields, replace
from typing import Any, ClassVar, Literal, TypeAlias, get_args

import torch
from torch import Tensor

from steelman.attacks.core.crafting import Execution, craft, judged
from steelman.attacks.core.oracle import Oracle
from steelman.losses import Goal
from steelman.naming import call
from steelman.norms import L0, L1, L2, Linf, Norm
from steelman.randomness import Draws
from steelman.ranges import Checked
from steelman.types import Box, Flags, Images, Indices, Labels, Model, PerImage, Radius, Randomness, Share

Access: TypeAlias = Literal["gradients", "scores", "decisions"]
"""What an attack needs of a model: its gradients, its logits, or its predicted classes alone."""

Reference: TypeAlias = Literal["label", "prediction"]
"""The class that an untargeted attack leaves: the true one, or the one that the model predicts."""


_ROUNDING = 1e-5
"""How far beyond radius or box, as a share of it, a returned image may be."""


@dataclass(frozen=True)
class AttackResult:
    """The perturbed images of a batch, and what was measured on them.

    `success` is verified on the returned images in a fresh forward pass. A random model (`is_random`) is asked twenty
    times: `prediction` is then the most frequent class, `right` the share of the first ten answers that are the label
    or a rejection, and `again` that of the other ten. Distances are in the units of the images; `loss` is the
    cross-entropy with the class to leave, and `margin` the highest other logit less its own, or NaN where the model
    answers with classes alone. `forwards` and `gradients` count the passes that each image cost, without the
    verification, and `flat` the gradients that were 0 everywhere; `seconds` is the time of the whole batch.
    """

    x_adv: Images
    success: Flags
    prediction: Labels
    loss: PerImage
    right: PerImage
    again: PerImage
    margin: PerImage
    l0: PerImage
    l1: PerImage
    l2: PerImage
    linf: PerImage
    forwards: Tensor
    gradients: Tensor
    flat: Tensor
    seconds: float

    def __repr__(self) -> str:
        count = len(self.success)
        broken = int(self.success.sum())
        median = float(self.l2[self.success].median()) if broken else float("nan")
        passes = float(self.gradients.double().mean()) if count else 0.0
        return (
            f"AttackResult({broken} of {count} succeeded, median L2 of these {median:.4g}, "
            f"{passes:.1f} gradient passes per image, {self.seconds:.3g} s)"
        )


@dataclass(frozen=True)
class Attack(Checked, ABC):
    """A method that perturbs images so that a model misclassifies them.

    `attack(model, x, y)` returns the perturbed images; `attack.run(model, x, y)` also verifies and measures them.
    `model` is an `nn.Module` or any callable from images to logits; modules are attacked in evaluation mode with
    their parameters frozen, and get their modes and flags back. With `target`, the goal is that class instead of any
    wrong one. `generator` is a `torch.Generator`, or one int64 seed per image; the same seed gives the same bits,
    whatever else is in the batch.

    reference  the class that an untargeted attack has to leave: the true "label" (default), or the model's own
               "prediction", right or wrong, for one forward pass more. Deep Defense measures rho_2 so (Ziang Yan, Yiwen
               Guo and Changshui Zhang, "Deep Defense: training DNNs with improved adversarial robustness", NeurIPS
               2018, section 4): images that the model gets wrong have a distance to their boundary too
    box        the valid range of the images; None leaves them unbounded, as in papers whose images are preprocessed.
               Default lengths (`Share`) are those of its width: 8/255 is 8 in the box (0, 255)
    uint8      return images whose values are k / 255 of the box, as a file of bytes has them, and still adversarial
               where that can be: rounded to the nearest, or else away from the clean image. Balls are then counted in
               whole levels, to within the rounding of floats (default False)
    precision  "full" (default), or "bf16": craft under bfloat16 autocast. Successes are verified in full precision, and
               minimal-norm attacks try again in full precision where that fails. An autocast that is on where the
               attack is called has no effect

    Images of float16 or bfloat16 are searched in float32 and returned in their own type. `steelman.forward.Forward`
    says how the model is called.

    Raises:
        ValueError: invalid images, labels, targets or logits; the message names the value and the remedy.
    """

    access: ClassVar[Access] = "gradients"
    shared: ClassVar[bool] = False
    """Whether all images of a call share one perturbation, so that a call cannot be cut into parts."""
    chance: ClassVar[bool] = False
    """Whether images are random draws, and the model's answers decide only which draw is returned."""
    noise: ClassVar[str | None] = None
    """The name by which an evaluation seeds the noise; None: the attack's name in the table."""

    reference: Reference = field(default="label", kw_only=True)
    box: Box | None = field(default=(0.0, 1.0), kw_only=True)
    uint8: bool = field(default=False, kw_only=True)
    precision: Literal["full", "bf16"] = field(default="full", kw_only=True)

    def _prepare(self) -> None:
        """Default lengths are in units of the box before the settings are checked."""
        for item in fields(self):
            value = getattr(self, item.name)
            counts = item.name == "eps" and self.measured_in is L0
            if isinstance(value, Share) and not counts:
                object.__setattr__(self, item.name, value.of(self.box_width))

    @property
    def measured_in(self) -> Norm | None:
        """The norm that bounds or measures the perturbation, where the attack has one."""
        return getattr(self, "norm", None)

    @property
    def budget(self) -> tuple[Norm, Radius] | None:
        """The norm (Linf where the attack names none) and radius of a bounded attack; None of a minimal attack."""
        eps = getattr(self, "eps", None)
        return None if eps is None else (self.measured_in or Linf, eps)

    def aim(self, y: Labels) -> Labels | None:
        """The target of each image, of an attack that has targets of its own: `Towards`."""
        return None

    @property
    def parts(self) -> tuple["Attack", ...]:
        """The attacks in its settings."""
        values = [getattr(self, item.name) for item in fields(self)]
        flat = [part for value in values for part in (value if isinstance(value, tuple) else (value,))]
        return tuple(part for part in flat if isinstance(part, Attack))

    @property
    def box_width(self) -> float:
        """The unit of default lengths: the width of the box, or 1 without one."""
        return 1.0 if self.box is None else self.box[1] - self.box[0]

    def __call__(
        self, model: Model, x: Images, y: Labels, *, target: Labels | None = None, generator: Randomness = None
    ) -> Images:
        return craft(self, model, x, y, target, generator, Execution())[0]

    def run(
        self,
        model: Model,
        x: Images,
        y: Labels,
        *,
        target: Labels | None = None,
        generator: Randomness = None,
        batch_size: int | Literal["auto"] | None = None,
        time_limit: float | None = None,
        compiled: bool = False,
        progress: bool = False,
        channels_last: bool = False,
    ) -> AttackResult:
        """Attack, then verify on the returned images: one more forward pass.

        batch_size  images at once; it does not change the answer. "auto" begins with all and halves when memory runs
                    out, with a warning; None (default) takes all
        time_limit  seconds after which crafting stops: every image has the nearest success until then, or comes back
                    clean, and a warning says how many were cut short
        compiled    craft on `torch.compile(model)`: worth it for large models on a GPU and many steps
        progress    show a bar, where there is a terminal
        channels_last  craft with convolutions in that layout, where the model allows it (`steelman.layout`): faster on
                    a CPU, and other images by rounding. Default False, in an evaluation True

        Raises:
            ValueError: also where `search` returned a success outside of the radius or box, by more than rounding.
        """
        start = time.perf_counter()
        how = Execution(batch_size, time_limit, compiled, progress, channels_last)
        x_adv, oracle = craft(self, model, x, y, target, generator, how)
        seconds = time.perf_counter() - start + oracle.seconds
        found = judged(self, oracle, x_adv, x, y, target, how)
        delta, success = x_adv.double() - x.detach().double(), oracle.met(found.prediction)
        _check_kept(self, x_adv, delta, success)
        return AttackResult(
            x_adv=x_adv,
            success=success,
            prediction=found.prediction,
            loss=found.loss,
            right=found.right,
            again=found.again,
            margin=found.margin,
            l0=L0.size(delta),
            l1=L1.size(delta),
            l2=L2.size(delta),
            linf=Linf.size(delta),
            forwards=oracle.forwards,
            gradients=oracle.gradients,
            flat=oracle.flat,
            seconds=seconds,
        )

    def check_input(self, x: Images, targeted: bool, classes: int | None) -> None:
        """Raises ValueError for images, a target or a number of classes that the attack, its loss or parts cannot take.

        Called before any work, with `classes` None, and again at the model's first answer, with its number of logits.
        """
        if (loss := getattr(self, "loss", None)) is not None:
            loss.check_input(targeted, classes)
        for part in self.parts:
            part.check_input(x, targeted, classes)

    @abstractmethod
    def search(self, oracle: Oracle, x: Images, goal: Goal, draws: Draws) -> Images:
        """The method itself, on checked input. Gradients are off; `oracle` turns them on where it needs them."""

    def __getitem__(self, which: Indices) -> "Attack":
        """The attack for some images of a batch: settings with one number per image are cut down, in parts too."""
        return replace(self, **{item.name: _cut(getattr(self, item.name), which) for item in fields(self)})

    def __str__(self) -> str:
        return call(self)


class AttackWrapper(Attack):
    """An attack made of another one, whose access, norm and radius it has."""

    attack: Attack

    @property
    def access(self) -> Access:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.attack.access

    @property
    def norm(self) -> Norm | None:
        return self.attack.measured_in

    @property
    def eps(self) -> Radius | None:
        return self.attack.budget and self.attack.budget[1]

    def aim(self, y: Labels) -> Labels | None:
        return self.attack.aim(y)

    @property
    def inner(self) -> Attack:
        """The attack in the box of this one."""
        return replace(self.attack, box=self.box)


def _check_kept(attack: Attack, x_adv: Images, delta: Tensor, success: Flags) -> None:
    """Raises ValueError where a success lies outside of the attack's own radius or box, by more than rounding."""
    whose, remedy = type(attack).__name__, "end `search` with `Ball.contain`"
    if attack.budget is not None:
        norm, eps = attack.budget
        size, radius = norm.size(delta), torch.as_tensor(eps).to(delta)
        rounding = 0.0 if norm is L0 else norm.size(x_adv.double().abs() * torch.finfo(x_adv.dtype).eps)
        beyond = torch.where(success & (size > radius * (1 + _ROUNDING) + rounding))[0]
        if len(beyond):
            raise ValueError(
                f"{whose} returned {len(beyond)} images outside of its radius, the first at {norm} "
                f"{float(size[beyond[0]]):.4g} from the clean image where eps is "
                f"{float(radius.expand_as(size)[beyond[0]]):.4g}: {remedy}"
            )
    if attack.box is not None and bool(success.any()):
        low, high = (float(end) for end in x_adv[success].aminmax())
        slack = _ROUNDING * attack.box_width
        if low < attack.box[0] - slack or high > attack.box[1] + slack:
            raise ValueError(
                f"{whose} returned images from {low:.4g} to {high:.4g} where its box is {attack.box}: {remedy}"
            )


def check_parts(name: str, attacks: tuple[Attack, ...]) -> None:
    """Raises ValueError where attacks cannot be parts of another, which may run them on some of the images only."""
    if not attacks:
        raise ValueError(f"{name} needs at least one attack")
    for attack in attacks:
        part = type(attack).__name__
        if attack.shared:
            raise ValueError(f"{part} finds one answer for all images, so it cannot be run in {name}")
        if attack.reference != "label" or attack.uint8 or attack.precision != "full":
            raise ValueError(f"give reference, uint8 and precision to {name} itself, not to {part} in it")


def strongest(attacks: tuple[Attack, ...]) -> Access:
    """The most that any of the attacks needs of a model."""
    needed = {attack.access for attack in attacks}
    return next(access for access in get_args(Access) if access in needed)


def _cut(value: Any, which: Indices) -> Any:
    if isinstance(value, Attack) or (isinstance(value, Tensor) and value.ndim == 1):
        return value[which]
    return tuple(_cut(each, which) for each in value) if isinstance(value, tuple) else value
