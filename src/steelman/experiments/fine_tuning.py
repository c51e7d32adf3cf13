"""How a trained network is trained on: its defence at a radius, the rate, and how long."""

import math
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

from torch import nn

from steelman import config
from steelman.attacks.bounded.pgd import PGD
from steelman.attacks.core.attack import Attack
from steelman.data.dataset import Dataset
from steelman.defences.adversarial_training import AdversarialTraining
from steelman.defences.game import Game
from steelman.defences.trades import TRADES
from steelman.loading.images import table
from steelman.norms import Norm
from steelman.optimisers import SGD, Adam, Optimiser
from steelman.schedules import Cosine
from steelman.training.loop import fit
from steelman.training.settings import Training
from steelman.trust import written

FAST = "fast"
"""What `AdversarialTraining` on one step of 1.25 eps from a random start is called here.

Reference: Eric Wong, Leslie Rice and J. Zico Kolter, "Fast is better than free: revisiting adversarial training", ICLR
2020.
"""

RATES: dict[type[Optimiser], tuple[float, ...]] = {SGD: (0.003, 0.01, 0.03, 0.1), Adam: (3e-5, 1e-4, 3e-4, 1e-3)}
"""Rates that are tried, by optimiser, in order."""
RATE_COUNT = 4

EPOCHS, LEAST = 10, 500
"""Epochs by default, and batches where so many epochs have fewer."""

SHORT = 3
"""Where fewer epochs of TRADES fit into the given time, `fast` is taken."""

TRIALS, TIMED, SHORTEST = 0.1, 4, 5
"""Batches of all trials as a share of the training's; batches by which the time is measured; least of a trial."""

HELD_OUT, TRIED_ON = 1000, 200
"""At most so many images, and at most a tenth, are held out in the training, and in a trial."""

LEAST_IMAGES = 20


def defence_of(text: str, norm: Norm, eps: float) -> Game:
    """A defence by its name, at a radius; a TOML table is taken as it stands.

    Of a name, attacks and the defence itself get the norm and the radius, with step sizes in proportion; MMA's d_max is
    1.5 eps, as the 12/255 of its paper to the 8/255 of the attack. A defence that has none of these has no radius.

    Raises:
        ValueError: there is no such defence, or invalid settings.
    """
    if text == FAST:
        return AdversarialTraining(PGD(eps=eps, norm=norm, steps=1, step_size=1.25 * eps), crafting="train")
    with written(text):
        if text.startswith("{"):
            return config.read(Game, table(text, "--defence"), "--defence")
        made = config.read(Game, text, "--defence")
        return within(made, norm, eps) if is_dataclass(made) else made  # a class of the user's own need be none


def within(method: Any, norm: Norm, eps: float) -> Any:
    """A method with this norm and radius wherever it, or an attack or defence in it, has one."""
    own = {item.name: getattr(method, item.name) for item in fields(method) if item.init}
    new: dict[str, Any] = {
        name: within(value, norm, eps)
        for name, value in own.items()
        if is_dataclass(value) and isinstance(value, Attack | Game)
    }
    before, step = own.get("eps"), own.get("step_size")
    if isinstance(before, float):
        new["eps"] = eps
        new |= {"step_size": float(step) * eps / before} if isinstance(step, float) else {}
    if "d_max" in own:
        new["d_max"] = 1.5 * eps
    if new and "norm" in own:
        new["norm"] = norm
    return replace(method, **new)


@dataclass(frozen=True)
class Plan:
    """What `planned` has chosen, and why, a line each."""

    defence: Game
    training: Training
    reasons: tuple[str, ...]


def planned(
    model: nn.Module,
    data: Dataset,
    norm: Norm,
    eps: float,
    *,
    defence: Game | None = None,
    epochs: int | None = None,
    minutes: float | None = None,
    seed: int = 0,
    say: Callable[[str], None] = lambda _: None,
) -> Plan:
    """Choose the optimiser, its rate and the number of epochs for a network that is trained already.

    defence  default TRADES; where fewer than 3 epochs of it fit into `minutes`, `fast`
    epochs   default 10, or as many as have 500 batches
    minutes  the training takes no longer, by the time that a few batches take here

    The optimiser is Adam where a network has layer normalisation, as transformers do, else SGD with momentum .9 and
    weight decay 5e-4. Each of four rates is tried from the network's own weights, on a short training whose rate falls
    as a cosine, as the long one's does; that with the highest mean of clean and robust accuracy on held-out images is
    taken. (A loss would favour rates that make all predictions alike.) All trials together have a tenth of the
    training's batches, and 20 at least; before and after each, up to 200 held-out images are attacked, which in a
    short training may take as long as the training.

    Raises:
        ValueError: `data` has too few images; less time than a batch takes.
    """
    trials = _Trials.of(model, data, PGD(eps=eps, norm=norm, steps=10, stop_early=True), seed)
    in_epoch = trials.in_epoch
    wanted = epochs * in_epoch if epochs is not None else max(EPOCHS * in_epoch, LEAST)
    chosen, reasons = defence or within(TRADES(), norm, eps), []
    seconds = trials.seconds(chosen)
    if defence is None and minutes is not None and minutes * 60 < SHORT * in_epoch * seconds:
        reasons.append(f"defence: {FAST}, since fewer than {SHORT} epochs of TRADES fit into {minutes:g} min")
        chosen = defence_of(FAST, norm, eps)
        seconds = trials.seconds(chosen)
    total = wanted if minutes is None else min(wanted, int(minutes * 60 / seconds))
    if total < 1:
        raise ValueError(f"a batch takes {seconds:.1f} s here, so that none fits into {minutes:g} min")
    epochs_of, length = divmod(total, in_epoch)
    words = f"{epochs_of} epochs of {in_epoch} batches" if epochs_of else f"{length} of an epoch's {in_epoch} batches"
    given = "" if minutes is None else f"; {minutes:g} min were given"
    batches = epochs_of * in_epoch or length
    reasons.append(f"length: {words}, about {_time(batches * seconds)} here{given}")
    rate, why = trials.best_rate(chosen, min(in_epoch, max(SHORTEST, int(TRIALS * total / RATE_COUNT))), say)
    how: dict[str, Any] = {"epochs": epochs_of} if epochs_of else {"iterations": length}
    training = replace(trials.training, validation=min(HELD_OUT, len(data) // 10), optimiser=trials.optimiser(rate))
    return Plan(chosen, replace(training, **how), (*reasons, trials.why, why))


@dataclass(frozen=True)
class _Trials:
    """Short trainings of copies of a network.

    training  of each; its rate and length are set
    in_epoch  batches in an epoch
    """

    model: nn.Module
    data: Dataset
    training: Training
    in_epoch: int
    kind: type[Optimiser]

    @staticmethod
    def of(model: nn.Module, data: Dataset, monitor: Attack, seed: int) -> "_Trials":
        if len(data) < LEAST_IMAGES:
            raise ValueError(f"there are {len(data)} training images, and at least {LEAST_IMAGES} are needed")
        batch, held_out = min(128, max(8, len(data) // 8)), min(HELD_OUT, len(data) // 10)
        training = Training(
            batch_size=batch, schedule=Cosine(), seed=seed, validation=min(TRIED_ON, held_out), monitor=monitor
        )
        kind = Adam if any(isinstance(each, nn.LayerNorm) for each in model.modules()) else SGD
        return _Trials(model, data, training, math.ceil((len(data) - held_out) / batch), kind)

    @property
    def why(self) -> str:
        """Why this optimiser is taken."""
        has = "" if self.kind is Adam else "no "
        return f"optimiser: {self.kind.__name__}, since the network has {has}layer normalisation"

    def optimiser(self, rate: float) -> Optimiser:
        return Adam(lr=rate) if self.kind is Adam else SGD(lr=rate, momentum=0.9, weight_decay=5e-4)

    def seconds(self, defence: Game) -> float:
        """What a batch takes."""
        return self._log(defence, RATES[self.kind][0], TIMED)[-1]["seconds"] / TIMED

    def best_rate(self, defence: Game, batches: int, say: Callable[[str], None]) -> tuple[float, str]:
        """The rate with the highest mean of clean and robust accuracy after so many batches, and why it is taken."""
        scores, before = {}, 0.0
        for rate in RATES[self.kind]:
            first, last = self._log(defence, rate, batches)
            say(f"  rate {rate:g}: {100 * last['clean']:.1f} % clean, {100 * last['robust']:.1f} % robust")
            scores[rate], before = last["clean"] + last["robust"], first["clean"] + first["robust"]
        rate = max(scores, key=lambda each: scores[each])
        return rate, (
            f"rate: {rate:g}, the best of {RATE_COUNT} after {batches} batches each, by the mean of clean and robust "
            f"accuracy on {self.training.validation:g} held-out images: {50 * before:.1f} % before, "
            f"{50 * scores[rate]:.1f} % then"
        )

    def _log(self, defence: Game, rate: float, batches: int) -> list[dict[str, Any]]:
        how = replace(self.training, optimiser=self.optimiser(rate), iterations=batches)
        return fit(deepcopy(self.model), self.data, defence, how, progress=False).log


def _time(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
