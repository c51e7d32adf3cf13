"""torchattacks and AutoAttack's own code, from plain checkouts in a folder or as installed."""

import importlib
import io
import sys
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, TypeAlias

from benchmarks.gpu.timing import problem
from torch import Tensor, nn

PACKAGES = {"torchattacks": ("torchattacks",), "AutoAttack": ("autoattack", "pyautoattack")}


@dataclass(frozen=True)
class Job:
    """What a peer is to do."""

    model: nn.Module
    x: Tensor
    y: Tensor
    eps: float
    steps: int

    @property
    def device(self) -> str:
        return str(self.x.device)


Run: TypeAlias = Callable[[Job], Tensor]


def peers(folder: Path | None) -> tuple[dict[str, ModuleType], dict[str, str]]:
    """The libraries that are there, and why the others are not. A checkout is a folder with the package in it."""
    for place in () if folder is None else (folder, *sorted(folder.iterdir())):
        names = [name for names in PACKAGES.values() for name in names]
        if str(place) not in sys.path and any((place / name / "__init__.py").is_file() for name in names):
            sys.path.append(str(place))
    found, missing = dict[str, ModuleType](), dict[str, str]()
    for library, names in PACKAGES.items():
        for name in names:
            try:
                found[library] = importlib.import_module(name)
                break
            except Exception as error:  # a peer's import may fail in any way
                missing.setdefault(library, problem(error))
    return found, {library: why for library, why in missing.items() if library not in found}


def runs(found: Mapping[str, ModuleType], attack: str) -> dict[str, Run]:
    """By library: a function that runs an attack of ours there."""
    return {
        library: _quiet(_CALLS[library][attack], module)
        for library, module in found.items()
        if attack in _CALLS[library]
    }


def _quiet(call: Callable[[Any, Job], Any], module: ModuleType) -> Run:
    def run(job: Job) -> Tensor:
        with redirect_stdout(io.StringIO()):
            return call(module, job)

    return run


def _part(module: Any, file: str, kind: str) -> Any:
    return getattr(importlib.import_module(f"{module.__name__}.{file}"), kind)


def _apgd(aa: Any, job: Job) -> Tensor:
    kind = _part(aa, "autopgd_base", "APGDAttack")
    made = kind(job.model, norm="Linf", eps=job.eps, n_iter=job.steps, device=job.device)
    return made.perturb(job.x, job.y)


def _square(aa: Any, job: Job) -> Tensor:
    kind = _part(aa, "square", "SquareAttack")
    made = kind(job.model, norm="Linf", eps=job.eps, n_queries=job.steps, device=job.device)
    return made.perturb(job.x, job.y)


def _standard(aa: Any, job: Job) -> Tensor:
    attack = aa.AutoAttack(job.model, norm="Linf", eps=job.eps, seed=0, device=job.device)
    found = attack.run_standard_evaluation(job.x, job.y)
    return found[0] if isinstance(found, tuple) else found


_CALLS: dict[str, dict[str, Callable[[Any, Job], Any]]] = {
    "torchattacks": {
        "PGD": lambda ta, job: ta.PGD(job.model, job.eps, job.eps / 4, job.steps, random_start=False)(job.x, job.y),
        "APGD": lambda ta, job: ta.APGD(job.model, eps=job.eps, steps=job.steps)(job.x, job.y),
        "Square": lambda ta, job: ta.Square(job.model, eps=job.eps, n_queries=job.steps)(job.x, job.y),
        "DeepFool": lambda ta, job: ta.DeepFool(job.model, steps=job.steps)(job.x, job.y),
        "standard": lambda ta, job: ta.AutoAttack(job.model, eps=job.eps)(job.x, job.y),
    },
    "AutoAttack": {"APGD": _apgd, "Square": _square, "standard": _standard},
}
