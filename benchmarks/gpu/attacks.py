"""Attacks beside others: the step of PGD in several forms, four attacks, `standard`, bfloat16."""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from functools import partial
from typing import Any, TypeAlias

import torch
from benchmarks.gpu.ground import Ground, Setting, ground
from benchmarks.gpu.loops import Counting, GraphedPGD, compiled_pgd, plain_pgd
from benchmarks.gpu.peers import Job, Run, peers, runs
from benchmarks.gpu.timing import Measured, Work, in_turns, peak_of
from torch import Tensor, nn

from steelman import APGD, PGD, Attack, DeepFool, Square
from steelman.data import InMemory
from steelman.evaluation import evaluate
from steelman.evaluation.battery import named_battery
from steelman.measures.accuracies import still_correct
from steelman.norms import Linf

Row: TypeAlias = dict[str, Any]

SECONDS = 12.0
"""For a comparison; what is under way is finished."""
LOOP, OURS = "plain loop", "Steelman"
GRAPHS = "reduce-overhead"
APART = 1e-4
"""Perturbed pixels that differ by more are counted as another result."""


def step(setting: Setting, name: str) -> Iterator[Row]:
    """PGD from the images themselves: is the time of its step that of the launches, and what would save them?"""
    here, (found, missing) = ground(name, setting), peers(setting.peers)
    yield from _missing(missing)
    steps = setting.of(3, 40 if name == "LeNet" else 10)
    for batch in (setting.of(4, 100), setting.of(8, 1000 if name == "LeNet" else 500)):
        forms = _forms(here, *here.images(batch), steps, runs(found, "PGD"))
        yield from _of_forms(setting, here, batch, steps, forms)
    batch = setting.of(4, 100)
    for form, make in _compiled(here, *here.images(batch), steps).items():  # one at a time: a compiler may take long
        loop = _forms(here, *here.images(batch), steps, {})[LOOP]
        yield from list(_of_forms(setting, here, batch, steps, {LOOP: loop, form: make}))[1:]


def _of_forms(
    setting: Setting, here: Ground, batch: int, steps: int, makes: Mapping[str, Callable[[], Work]]
) -> Iterator[Row]:
    works = {form: _Kept(_later(make)) for form, make in makes.items()}
    measured = in_turns(works, setting.device, setting.of(1, 9), SECONDS)
    for form, work in works.items():
        apart = _apart(work.last, works[LOOP].last)
        about = {"network": here.name, "images": batch, "steps": steps, "form": form, "apart": apart}
        yield {"table": "step", **about, **_plain(measured[form])}


def _forms(here: Ground, x: Tensor, y: Tensor, steps: int, others: Mapping[str, Run]) -> dict[str, Callable[[], Work]]:
    """By name, what makes each form of the attack; all give the same images."""
    model, eps, length = here.model, here.eps, here.eps / 4
    return {
        LOOP: lambda: partial(plain_pgd, model, x, y, eps, length, steps),
        **{library: lambda run=run: partial(run, Job(model, x, y, eps, steps)) for library, run in others.items()},
        OURS: lambda: partial(PGD(eps, steps=steps, step_size=length, random_start=False), model, x, y),
        "the step as one CUDA graph": lambda: partial(GraphedPGD(model, x, y, eps, length), x, y, steps),
    }


def _compiled(here: Ground, x: Tensor, y: Tensor, steps: int) -> dict[str, Callable[[], Work]]:
    """Those that a compiler makes."""
    model, eps, length = here.model, here.eps, here.eps / 4
    attack = PGD(eps, steps=steps, step_size=length, random_start=False)

    def compiled(**how: Any) -> Work:
        return partial(compiled_pgd(model, eps, length, **how), x, y, steps)

    return {
        "Steelman, compiled=True": lambda: lambda: attack.run(model, x, y, compiled=True).x_adv,
        "the step compiled to graphs": lambda: compiled(mode=GRAPHS),
        "Steelman on a model compiled to graphs": lambda: partial(attack, torch.compile(model, mode=GRAPHS), x, y),
        "the step compiled": compiled,
    }


def side_by_side(setting: Setting, name: str) -> Iterator[Row]:
    """PGD, APGD, Square and DeepFool beside the libraries, and beside the model's passes of ours alone."""
    here, (found, missing) = ground(name, setting), peers(setting.peers)
    yield from _missing(missing)
    large, few = setting.of(6, 250), setting.of(3, 50 if name == "LeNet" else 20)
    entries: list[tuple[str, Attack, int, int]] = [
        ("PGD", PGD(here.eps, steps=setting.of(3, 10), step_size=here.eps / 4, random_start=False), large, 10),
        ("APGD", APGD(here.eps, steps=setting.of(4, 100)), large, 100),
        ("Square", Square(here.eps, queries=setting.of(6, 500)), large, 500),
        ("DeepFool", DeepFool(), few, 50),
    ]
    for kind, attack, count, steps in entries:
        x, y = here.images(count)
        steps = getattr(attack, "queries", getattr(attack, "steps", steps))
        seeds = torch.arange(len(x))
        counting = Counting(here.model)
        attack(counting.eval(), x, y, generator=seeds)
        job = Job(here.model, x, y, here.eps, steps)
        works = {OURS: _Kept(partial(attack, here.model, x, y, generator=seeds))}
        works |= {library: _Kept(partial(run, job)) for library, run in runs(found, kind).items()}
        works["its passes alone"] = _Kept(partial(counting.again, x))
        measured = in_turns(works, setting.device, setting.of(1, 5), SECONDS)
        for side, work in works.items():
            wrong = None if work.last is None else _wrong(here.model, work.last, y)
            about = {"network": name, "attack": kind, "images": len(x), "side": side, "success": wrong}
            yield {"table": "attacks", **about, **_plain(measured[side])}


def standard(setting: Setting, name: str) -> Iterator[Row]:
    """The battery `standard` (small: `quick`) and AutoAttack's own code, once each."""
    here, (found, missing) = ground(name, setting), peers(setting.peers)
    yield from _missing(missing)
    count = setting.of(6, 500 if name == "LeNet" else 250)
    x, y = here.images(count)
    data = InMemory("made", x, y, tuple("0123456789"))
    battery = named_battery("quick" if setting.small else "standard", eps=here.eps)
    tables = []
    quick = named_battery("quick", eps=here.eps).attacks
    evaluate(here.model, data.subset(torch.arange(min(20, count))), quick, progress=False)  # loads the kernels

    def ours() -> None:
        how: Any = {"survivors_only": True, "progress": False} | battery.afterwards
        tables.append(evaluate(here.model, data, battery.attacks, **how))

    yield _once("standard", here, OURS, setting, ours, lambda: int(still_correct(tables[0], Linf, here.eps).sum()), x)
    for library, run in runs(found, "standard").items() if not setting.small else ():
        made = []
        job = Job(here.model, x, y, here.eps, 100)
        work = partial(_append, made, run, job)
        standing = partial(_standing, here.model, made, y)
        yield _once("standard", here, library, setting, work, standing, x)


def bf16(setting: Setting, name: str = "ResNet-18") -> Iterator[Row]:
    """The forms of a float: float32 without TF32, with it (torch's default for convolutions), bfloat16."""
    here = ground(name, setting)
    x, y = here.images(setting.of(6, 500))
    before = torch.backends.cudnn.allow_tf32

    def run(tf32: bool, attack: Attack) -> Tensor:
        torch.backends.cudnn.allow_tf32 = tf32
        try:
            return attack(here.model, x, y)
        finally:
            torch.backends.cudnn.allow_tf32 = before

    full = PGD(here.eps, steps=setting.of(2, 10), step_size=here.eps / 4, random_start=False)
    half = PGD(here.eps, steps=full.steps, step_size=here.eps / 4, random_start=False, precision="bf16")
    forms = {"float32, no TF32": (False, full), "float32, TF32": (True, full), "bfloat16": (True, half)}
    works = {form: _Kept(partial(run, *how)) for form, how in forms.items()}
    measured = in_turns(works, setting.device, setting.of(1, 9), SECONDS)
    for form, work in works.items():
        apart = _apart(work.last, works["float32, no TF32"].last)
        wrong = None if work.last is None else _wrong(here.model, work.last, y)
        about = {"network": name, "images": len(x), "form": form, "success": wrong, "apart": apart}
        yield {"table": "bf16", **about, **_plain(measured[form])}


class _Kept:
    """A call that keeps its last result."""

    def __init__(self, work: Work) -> None:
        self.work, self.last = work, None

    def __call__(self) -> None:
        self.last = self.work()


def _later(make: Callable[[], Work]) -> Work:
    """A call that is made when it is first asked for, so that a form that cannot be made fails alone."""
    made: list[Work] = []

    def work() -> Any:
        if not made:
            made.append(make())
        return made[0]()

    return work


def _once(
    table: str, here: Ground, side: str, setting: Setting, work: Work, standing: Callable[[], int], x: Tensor
) -> Row:
    about = {"table": table, "network": here.name, "images": len(x), "side": side}
    start = time.perf_counter()
    peak = peak_of(work, setting.device)
    return {**about, "seconds": time.perf_counter() - start, "peak": peak, "standing": standing()}


def _append(made: list[Tensor], run: Callable[[Job], Tensor], job: Job) -> None:
    made.append(run(job))


def _standing(model: nn.Module, made: list[Tensor], y: Tensor) -> int:
    return round((1 - _wrong(model, made[0], y)) * len(y))


def _apart(image: Tensor | None, other: Tensor | None) -> float | None:
    """The share of pixels that are apart."""
    return None if image is None or other is None else float(((image - other).abs() > APART).double().mean())


def _wrong(model: nn.Module, x: Tensor, y: Tensor) -> float:
    with torch.no_grad():
        return float((model(x).argmax(1) != y).double().mean())


def _plain(found: Measured | str) -> Row:
    return {"error": found} if isinstance(found, str) else asdict(found)


def _missing(missing: Mapping[str, str]) -> Iterator[Row]:
    for library, why in missing.items():
        yield {"table": "missing", "library": library, "error": why}
