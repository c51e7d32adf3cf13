"""What every attack is: called for perturbed images, or run for a result that has been verified."""

import time
from abc import ABC, abstractmethod
from dataclasses import dataclass, field, fields, replace
from typing import Any, ClassVar, Literal, TypeAlias, get_args

from torch import Tensor

from steelman.attacks.core.crafting import Execution, check_images, check_labels, craft
from steelman.attacks.core.oracle import Oracle
from steelman.losses import Goal
from steelman.naming import call
from steelman.norms import L0, L1, L2, Linf, Norm
from steelman.randomness import Draws
from steelman.ranges import Checked
from steelman.types import Box, Flags, Images, Indices, Labels, Model, PerImage, Radius, Randomness, Share

__all__ = ["Attack", "AttackResult", "check_images", "check_labels"]

Access: TypeAlias = Literal["gradients", "scores", "decisions"]
"""What an attack needs of a model: its gradients, its logits, or its predicted classes alone."""

Reference: TypeAlias = Literal["label", "prediction"]
"""The class that an untargeted attack leaves: the true one, or the one that the model predicts."""


@dataclass(frozen=True)
class AttackResult:
    """What an attack found, image by image.

    `success` is re-verified on the returned images in a fresh forward pass. Distances are in the units of the images;
    `loss` is the cross-entropy with the true label, or NaN where the model answers with classes alone. `forwards` and
    `gradients` count the passes that each image cost, the verification not included; `seconds` is the whole batch's
    time.
    """

    x_adv: Images
    success: Flags
    prediction: Labels
    loss: PerImage
    l0: PerImage
    l1: PerImage
    l2: PerImage
    linf: PerImage
    forwards: Tensor
    gradients: Tensor
    seconds: float

    def __repr__(self) -> str:
        count = len(self.success)
        won = int(self.success.sum())
        middle = float(self.l2[self.success].median()) if won else float("nan")
        passes = float(self.gradients.double().mean()) if count else 0.0
        return (
            f"AttackResult({won} of {count} succeeded, median L2 of these {middle:.4g}, "
            f"{passes:.1f} gradient passes per image, {self.seconds:.3g} s)"
        )


@dataclass(frozen=True)
class Attack(Checked, ABC):
    """A method that perturbs images so that a model misclassifies them.

    `attack(model, x, y)` returns the perturbed images; `attack.run(model, x, y)` also verifies and measures them.
    `model` is an `nn.Module` or any callable from images to logits; modules are attacked in evaluation mode with
    their parameters frozen, and found as they were. With `target`, the goal is that class instead of any wrong one.
    `generator` is a `torch.Generator`, or one int64 seed per image; the same seed gives the same bits, whatever else is
    in the batch.

    box        the valid range of the images; None leaves them unbounded, as papers do whose images are preprocessed.
               Default lengths (`Share`) are those of its width: 8/255 is 8 in the box (0, 255)
    uint8      return images whose values are k / 255 of the box, what a file of bytes holds, and still adversarial
               where that can be: rounded to the nearest, or else away from the clean image. Balls are then counted in
               whole levels, to within the rounding of floats (default False)
    precision  "full" (default), or "bf16": craft under bfloat16 autocast. Successes are verified in full precision, and
               minimal-norm attacks try again in full precision where that fails. An autocast that is on where the
               attack is called has no effect

    Images of float16 or bfloat16 are searched in float32 and returned in their own type. `steelman.forward.Forward`
    says how the model is called.

    Raises:
        ValueError: images, labels, targets or logits that cannot be right; the message names the value and the remedy.
    """

    access: ClassVar[Access] = "gradients"
    shared: ClassVar[bool] = False
    """Whether all images of a call share one answer, so that a call cannot be cut into parts."""
    reference: ClassVar[Reference] = "label"
    """What success means: `run` judges it, and `search` is given it as its goal."""
    chance: ClassVar[bool] = False
    """Whether images are random draws, and the model's answers decide only which draw is returned."""
    noise: ClassVar[str | None] = None
    """The name by which an evaluation seeds the noise; None: the one under which the attack stands in the table."""

    box: Box | None = field(default=(0.0, 1.0), kw_only=True)
    uint8: bool = field(default=False, kw_only=True)
    precision: Literal["full", "bf16"] = field(default="full", kw_only=True)

    def _prepare(self) -> None:
        """Default lengths are in units of the box before the settings are checked."""
        for item in fields(self):
            value = getattr(self, item.name)
            counts = item.name == "eps" and getattr(self, "norm", None) is L0
            if isinstance(value, Share) and not counts:
                object.__setattr__(self, item.name, value.of(self.box_width))

    @property
    def budget(self) -> tuple[Norm, Radius] | None:
        """The norm and radius of the ball in which a bounded attack searches; None of a minimal attack."""
        norm, eps = getattr(self, "norm", None), getattr(self, "eps", None)
        return None if norm is None or eps is None else (norm, eps)

    @property
    def box_width(self) -> float:
        """Of the box, in which default lengths are counted; 1 without a box."""
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
    ) -> AttackResult:
        """Attack, then verify on the returned images: one more forward pass.

        batch_size  images at once; it does not change what is found. "auto" begins with all and halves when memory runs
                    out, with a warning that says so; None (default) takes all
        time_limit  seconds after which crafting stops: every image has the nearest success until then, or comes back
                    clean, and a warning says how many were cut short
        compiled    craft on `torch.compile(model)`: worth it for large models on a GPU and many steps
        progress    show a bar, where there is a terminal
        """
        start = time.perf_counter()
        x_adv, oracle = craft(
            self, model, x, y, target, generator, Execution(batch_size, time_limit, compiled, progress)
        )
        seconds = time.perf_counter() - start + oracle.seconds
        with oracle:
            prediction, loss = oracle.verdict(x_adv)
        delta = x_adv.double() - x.detach().double()
        return AttackResult(
            x_adv=x_adv,
            success=oracle.goal.met(prediction),
            prediction=prediction,
            loss=loss,
            l0=L0.size(delta),
            l1=L1.size(delta),
            l2=L2.size(delta),
            linf=Linf.size(delta),
            forwards=oracle.forwards,
            gradients=oracle.gradients,
            seconds=seconds,
        )

    def check_input(self, x: Images, targeted: bool, classes: int | None) -> None:
        """Refuse images, a target or a number of classes that this attack, its loss or its parts cannot take.

        Called before any work is done, with `classes` None, and once more when the model has answered for the first
        time with logits of so many classes.
        """
        if (loss := getattr(self, "loss", None)) is not None:
            loss.check_input(targeted, classes)
        inner = getattr(self, "attack", None)
        for part in (*getattr(self, "attacks", ()), *(() if inner is None else (inner,))):
            part.check_input(x, targeted, classes)

    @abstractmethod
    def search(self, oracle: Oracle, x: Images, goal: Goal, draws: Draws) -> Images:
        """The method itself, on checked input; gradients are off, `oracle` turns them on where it needs them."""

    def __getitem__(self, which: Indices) -> "Attack":
        """The attack for some of a batch's images: settings with one number per image, its parts' too, are cut down."""
        return replace(self, **{item.name: _cut(getattr(self, item.name), which) for item in fields(self)})

    def __str__(self) -> str:
        return call(self)


class AttackWrapper(Attack):
    """An attack that is made of another one, whose access, norm and radius, where it has them, are its own."""

    attack: Attack

    @property
    def access(self) -> Access:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.attack.access

    @property
    def norm(self) -> Norm | None:
        return getattr(self.attack, "norm", None)

    @property
    def eps(self) -> Radius | None:
        return getattr(self.attack, "eps", None)


def check_parts(name: str, attacks: tuple[Attack, ...]) -> None:
    """Raises ValueError where attacks cannot be parts of another, which may run them on some of the images only."""
    if not attacks:
        raise ValueError(f"{name} needs at least one attack")
    for attack in attacks:
        if attack.shared:
            raise ValueError(f"{type(attack).__name__} finds one answer for all images, so it cannot be run in {name}")
        if attack.reference != "label":
            raise ValueError(f"{type(attack).__name__} decides what success is: put it around {name}, not into it")
        if attack.uint8 or attack.precision != "full":
            raise ValueError(f"give uint8 and precision to {name} itself, not to {type(attack).__name__} in it")


def strongest(attacks: tuple[Attack, ...]) -> Access:
    """The most that any of the attacks needs of a model."""
    needed = {attack.access for attack in attacks}
    return next(access for access in get_args(Access) if access in needed)


def _cut(value: Any, which: Indices) -> Any:
    if isinstance(value, Attack) or (isinstance(value, Tensor) and value.ndim == 1):
        return value[which]
    return tuple(_cut(each, which) for each in value) if isinstance(value, tuple) else value
