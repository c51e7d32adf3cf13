"""What surrounds every attack's search: checks, parts of a batch, memory, time, precision and grid."""

import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from steelman.attacks.core.grid import check_grid, onto_grid, onto_type
from steelman.attacks.core.mode import warn_if_mode_matters
from steelman.attacks.core.oracle import NearestSuccess, Oracle, OutOfTime
from steelman.attacks.core.radius import check_radius
from steelman.forward import Verdict
from steelman.layout import channels_last
from steelman.losses import Goal
from steelman.norms import L2, per_image
from steelman.progress import ProgressBar
from steelman.randomness import Draws
from steelman.ranges import check_box
from steelman.types import Box, Images, Labels, Model, Randomness, check_tensor

if TYPE_CHECKING:
    from steelman.attacks.core.attack import Attack


@dataclass(frozen=True)
class Execution:
    """How a search is carried out; only a time limit can change its answer. `Attack.run` describes the fields."""

    batch_size: int | Literal["auto"] | None = None
    time_limit: float | None = None
    compiled: bool = False
    progress: bool = False
    channels_last: bool = False

    def __post_init__(self) -> None:
        if self.batch_size not in (None, "auto") and not (isinstance(self.batch_size, int) and self.batch_size >= 1):
            raise ValueError(f'batch_size is a number from 1 up, "auto" or None; got {self.batch_size!r}')
        if self.time_limit is not None and not self.time_limit > 0:
            raise ValueError(f"time_limit is a positive number of seconds; got {self.time_limit}")


def craft(
    attack: "Attack",
    model: Model,
    x: Images,
    y: Labels,
    target: Labels | None,
    generator: Randomness,
    how: Execution,
) -> tuple[Images, Oracle]:
    """The perturbed images, and the oracle that has counted the passes.

    Images of half precision, in which small steps vanish and squares overflow, are searched in float32.
    """
    target = _checked_target(attack, x, y, target, how)
    warn_if_mode_matters(model, x)
    deadline = None if how.time_limit is None else time.monotonic() + how.time_limit
    given = x.dtype
    with torch.inference_mode(False), ProgressBar(how.progress, len(x)) as bar:
        x, goal = x.detach().clone(), Goal(y.clone(), None if target is None else target.clone())
        x = x if given.itemsize >= 4 else x.float()
        oracle = Oracle(
            model,
            goal,
            half=attack.precision == "bf16",
            compiled=how.compiled,
            deadline=deadline,
            on_query=_counted(bar, len(x)) if how.progress else None,
            given=given,
            check_classes=lambda classes: attack.check_input(x, target is not None, classes),
        )
        if len(x) == 0:
            return x.to(given), oracle
        if deadline is not None:
            oracle.nearest = NearestSuccess.nothing(x, attack.measured_in or L2)
        draws = Draws.start(generator, len(x), x.device)
        with oracle, channels_last(model, x, how.channels_last) as oracle.relaid, oracle.seeded(draws):
            x_adv = _in_parts(attack, oracle, x, goal, draws, how, bar)
            if not getattr(getattr(attack, "loss", None), "needs_reference", False):  # KL is flat at x itself
                _warn_of_flat(oracle, x_adv, goal)
    return x_adv.to(given), oracle


def judged(
    attack: "Attack", oracle: Oracle, x_adv: Images, x: Images, y: Labels, target: Labels | None, how: Execution
) -> Verdict:
    """The model's verdict on the images that `craft` returned.

    Images that rounding took back from an attack with the channel last are written anew, crafted as the model is.
    """
    with oracle:
        found = oracle.verdict(x_adv, y)
    lost = torch.where(~oracle.met(found.prediction) & oracle.tight)[0]
    if not oracle.relaid or attack.shared or oracle.seeds is None or len(lost) == 0:
        return found
    target = None if target is None else target[lost]
    how = replace(how, channels_last=False, progress=False)
    x_adv[lost], again = craft(attack[lost], oracle.model, x[lost], y[lost], target, oracle.seeds[lost], how)
    oracle.add(again, lost)
    with again:  # in the batch in which they were found, since that decides the rounding too
        better = again.verdict(x_adv[lost], y[lost])
    return Verdict(*(whole.index_copy(0, lost, part) for whole, part in zip(found, better, strict=True)))


def _in_parts(
    attack: "Attack",
    oracle: Oracle,
    x: Images,
    goal: Goal,
    draws: Draws,
    how: Execution,
    bar: ProgressBar,
) -> Images:
    oracle.fits = how.batch_size if isinstance(how.batch_size, int) else len(x)
    x_adv, begin, cut_short = x, 0, 0
    while begin < len(x):
        which = torch.arange(begin, min(begin + oracle.fits, len(x)), device=x.device)
        try:
            if len(which) == len(x):  # no copies: they are slow
                x_adv, in_time = _one_part(attack, oracle, x, goal, draws)
            else:
                x_adv = x.clone() if x_adv is x else x_adv
                with oracle.part(which, goal[which]) as part:
                    x_adv[which], in_time = _one_part(attack[which], part, x[which], part.goal, draws[which])
                goal.labels[which] = part.goal.labels
        except RuntimeError as error:
            if how.batch_size != "auto" or oracle.fits == 1 or attack.shared or not _out_of_memory(error):
                raise
            oracle.fits = (oracle.fits + 1) // 2
            warnings.warn(f"memory ran out: going on with {oracle.fits} images at once", stacklevel=5)
            if x.is_cuda:
                torch.cuda.empty_cache()
            continue
        begin, cut_short = begin + len(which), cut_short + (0 if in_time else len(which))
        bar.advance(len(which))
    if cut_short:
        warnings.warn(
            f"the time limit was reached: the attack on {cut_short} of {len(x)} images was cut short. They have the "
            "nearest success until then, or come back as they were",
            stacklevel=5,
        )
    return x_adv


def _counted(bar: ProgressBar, images: int) -> Callable[[int], None]:
    """Shows on the bar how many forward passes there were for each image."""
    passes = 0

    def on_query(more: int) -> None:
        nonlocal passes
        passes += more
        bar.advance(0, f"{passes / max(images, 1):.1f} forward passes per image")

    return on_query


def _one_part(attack: "Attack", oracle: Oracle, x: Images, goal: Goal, draws: Draws) -> tuple[Images, bool]:
    """The perturbed images, and whether the search ended in time."""
    ball = attack.budget
    try:
        if attack.reference == "prediction":
            goal.labels[:] = oracle.decisions(x)
        x_adv, in_time = attack.search(oracle, x, goal, draws), True
    except OutOfTime:
        assert oracle.nearest is not None
        x_adv, in_time = oracle.nearest.image, False
        if ball is not None:
            x_adv = ball[0].contain(x, x_adv, ball[1], attack.box)
    oracle.deadline = oracle.nearest = None
    if oracle.half:
        oracle.half = False
        lost = torch.where(~goal.met(oracle.decisions(x_adv)))[0]
        if ball is None and in_time and len(lost) > 0:  # a minimal-norm attack tries again in full precision
            with oracle.part(lost, goal[lost]) as part:
                x_adv[lost] = attack[lost].search(part, x[lost], goal[lost], draws[lost])
    if attack.uint8 and attack.box is not None:
        x_adv = onto_grid(oracle, x, x_adv, goal, attack.box, ball)
    if oracle.given not in (None, x.dtype):
        sure = getattr(attack, "confidence", 0) > 0
        x_adv = onto_type(oracle, x, x_adv, goal, oracle.given, ball, shorten=not sure)
    return x_adv, in_time


def _out_of_memory(error: RuntimeError) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def _warn_of_flat(oracle: Oracle, x_adv: Images, goal: Goal) -> None:
    """Warn of images on which every gradient was zero and that have not reached the goal."""
    flat = torch.where((oracle.gradients > 0) & (oracle.flat >= oracle.gradients))[0]
    if len(flat):
        flat = flat[~oracle.met(oracle.verdict(x_adv).prediction)[flat]]
    if len(flat) == 0:
        return
    images = len(oracle.flat)
    named = ", ".join(str(row) for row in flat[:5].tolist()) + (", ..." if len(flat) > 5 else "")
    warnings.warn(
        f"the model's gradient is zero on {len(flat)} of {images} images ({len(flat) / images:.0%}; {named}), so that "
        "no gradient attack can move them: their robustness is not shown. Try Square, HopSkipJump or a transfer attack",
        stacklevel=5,
    )


# --- checks


def _checked_target(attack: "Attack", x: Images, y: Labels, target: Labels | None, how: Execution) -> Labels | None:
    """The target, given or the attack's own, where all can be attacked."""
    check_images(x, attack.box)
    check_labels("y", y, x)
    if (own := attack.aim(y)) is not None:
        if target is not None:
            raise ValueError(f"{type(attack).__name__} has targets of its own: leave target out")
        target = own
    attack.check_input(x, target is not None, None)
    if target is not None and attack.reference == "prediction":
        raise ValueError(f'{type(attack).__name__} with reference="prediction" leaves that class, and has no target')
    if target is not None:
        check_labels("target", target, x)
        same = torch.where(target == y)[0].tolist()
        if same:
            raise ValueError(
                f"the target is the label itself for {len(same)} of {len(y)} images (the first is image {same[0]}, "
                f"class {int(y[same[0]])}); give another class, or leave these images out"
            )
    if attack.budget:
        per_image(attack.budget[1], x)
        check_radius(*attack.budget, attack.box)
    _check_lengths(attack, len(x))
    if attack.uint8:
        check_grid(x, attack.box, bounded=attack.budget is not None)
    if attack.shared and isinstance(how.batch_size, int) and how.batch_size < len(x):
        raise ValueError(f"{type(attack).__name__} finds one answer for all images, so it has no batch_size")
    return target


def _check_lengths(attack: "Attack", images: int) -> None:
    """Raises ValueError where a setting of the attack, or of a part, has one number per image, but of another batch."""
    for item in fields(attack):
        value = getattr(attack, item.name)
        if isinstance(value, Tensor) and value.ndim == 1 and len(value) != images:
            raise ValueError(
                f"{item.name} is one number or one per image, of shape ({images},); got shape {tuple(value.shape)}"
            )
    for part in attack.parts:
        _check_lengths(part, images)


def check_images(x: Images, box: Box | None) -> None:
    """Raises ValueError unless `x` is a finite float batch within `box`."""
    check_tensor("images", x)
    if not x.is_floating_point():
        raise ValueError(f"images must be floats in [0, 1]; got {x.dtype}. For bytes, use x.float() / 255")
    if x.ndim < 2:
        raise ValueError(f"images must be a batch, of shape (batch, channels, height, width); got {tuple(x.shape)}")
    if x.numel() == 0:
        return
    low, high = x.detach().aminmax()
    if not bool(low.isfinite() & high.isfinite()):
        raise ValueError("images hold NaN or infinite values")
    check_box(box)
    if box is not None and bool((low < box[0]) | (high > box[1])):
        raise ValueError(
            f"images must lie in [{box[0]:g}, {box[1]:g}]; these reach from {low:.4g} to {high:.4g}. Scale bytes by "
            "1/255, make normalisation a layer of the model, or pass box=None for an unbounded attack"
        )


def check_labels(name: str, labels: Labels, x: Images) -> None:
    """Raises ValueError unless `labels` is int64, one class from 0 up per image."""
    check_tensor(name, labels)
    if labels.dtype != torch.int64 or labels.shape != (len(x),):
        raise ValueError(
            f"{name} must be int64 of shape ({len(x)},), one class per image; got {labels.dtype} {tuple(labels.shape)}"
        )
    if len(labels) and int(labels.min()) < 0:
        raise ValueError(f"{name} must be classes from 0 up; got {int(labels.min())}")
