"""Steelman's attacks with the settings of the rows."""

from collections.abc import Callable
from typing import Any

import torch
from benchmarks.battery.rows import CARLINI_WAGNER, GAMMA, THETA, Job
from torch import Tensor

from steelman import attacks as battery
from steelman.norms import L2

DISTRIBUTION = "steelman"


def attacks() -> dict[str, Callable[[Job], Tensor]]:
    def run(job: Job, kind: str, **settings: Any) -> Tensor:
        if not hasattr(battery, kind):
            raise NotImplementedError(f"steelman.attacks has no {kind}")
        target = settings.pop("target", None)
        attack = getattr(battery, kind)(**settings)
        return attack(job.model, job.x, job.y, target=target, generator=torch.Generator().manual_seed(job.seed))

    def bounded(kind: str, **more: Any) -> Callable[[Job], Tensor]:
        return lambda job: run(job, kind, eps=job.eps, norm=job.norm, **more)

    def climbing(kind: str, **more: Any) -> Callable[[Job], Tensor]:
        return lambda job: bounded(kind, steps=job.steps, **more)(job)

    def stepping(kind: str, **more: Any) -> Callable[[Job], Tensor]:
        return lambda job: climbing(kind, step_size=job.step_size, **more)(job)

    def minimal(kind: str, **more: Any) -> Callable[[Job], Tensor]:
        return lambda job: run(job, kind, norm=job.norm, steps=job.steps, **more)

    def norms(name: str, which: str, run: Callable[[Job], Tensor]) -> dict[str, Callable[[Job], Tensor]]:
        return {f"{name} {norm}": run for norm in which.split()}

    from steelman.losses import DLR

    def best(job: Job) -> Tensor:
        small = (battery.DeepFool(), battery.DDN(steps=job.steps), battery.FMN(norm=L2, steps=job.steps))
        return run(job, "BestOf", attacks=small)

    def worst(job: Job) -> Tensor:
        eps = job.eps
        climbs = battery.PGD(eps, job.steps, stop_early=True), battery.APGD(eps, steps=job.steps, stop_early=True)
        return run(job, "WorstOf", attacks=(battery.FGSM(eps), *climbs))

    return {
        **norms("FGSM", "Linf L2 L1", bounded("FGSM")),
        **norms("R+FGSM", "Linf", lambda job: bounded("RandomFGSM", alpha=job.eps / 2)(job)),
        **norms("Fast FGSM", "Linf", lambda job: bounded("PGD", steps=1, step_size=job.eps)(job)),
        **norms("BIM", "Linf", stepping("PGD", random_start=False)),
        **norms("PGD", "Linf L2 L1", stepping("PGD")),
        **norms("MIM", "Linf L2", stepping("MIM")),
        **norms("VAT", "L2", bounded("VirtualAdversarial")),
        **norms("APGD-CE", "Linf L2 L1", climbing("APGD")),
        **norms("APGD-DLR", "Linf L2", climbing("APGD", loss=DLR())),
        **norms("APGD-T", "Linf L2", climbing("APGD", loss=DLR(), targets=9, stop_early=True)),
        **norms("Square", "Linf L2", lambda job: run(job, "Square", eps=job.eps, norm=job.norm, queries=job.steps)),
        **norms("AutoAttack", "Linf L2", bounded("AutoAttack")),
        **norms("Uniform noise", "Linf", lambda job: run(job, "UniformNoise", eps=job.eps)),
        **norms("Gaussian noise", "L2", lambda job: run(job, "GaussianNoise", eps=job.eps)),
        **norms("Universal", "Linf", lambda job: bounded("UniversalPerturbation", epochs=job.steps)(job)),
        **norms("Minimal FGSM", "Linf", lambda job: run(job, "MinimalFGSM")),
        **norms("DeepFool", "L2 Linf", minimal("DeepFool")),
        **norms("Carlini-Wagner", "L2", minimal("CarliniWagner", **CARLINI_WAGNER)),
        "Carlini-Wagner Linf": lambda job: run(job, "CarliniWagnerLinf", steps=job.steps, step_size=0.01),
        "Carlini-Wagner L0": lambda job: run(job, "CarliniWagnerL0", steps=job.steps, c=CARLINI_WAGNER["c"]),
        **norms("JSMA", "L0", lambda job: run(job, "JSMA", theta=THETA, gamma=GAMMA, target=job.target)),
        **norms("L-BFGS", "L2", lambda job: run(job, "LBFGS", steps=job.steps, search_steps=5)),
        **norms("Salt and pepper", "L0", lambda job: run(job, "SaltAndPepper")),
        **norms("FAB", "Linf L2 L1", minimal("FAB")),
        **norms("FAB-T", "Linf L2", minimal("FAB", targets=9)),
        **norms("DDN", "L2", lambda job: run(job, "DDN", steps=job.steps)),
        **norms("FMN", "Linf L2 L1 L0", minimal("FMN")),
        **norms("ALMA", "L2 L1", minimal("ALMA")),
        **norms("Sigma-zero", "L0", lambda job: run(job, "SigmaZero", steps=job.steps)),
        **norms("Boundary", "L2", lambda job: run(job, "BoundaryAttack", steps=job.steps)),
        **norms("AN-PGD", "Linf", lambda job: run(job, "ANPGD", steps=job.steps)),
        **norms("Best of", "L2", best),
        **norms("Worst of", "Linf", worst),
        **norms("EOT", "Linf", lambda job: run(job, "EOT", attack=battery.PGD(job.eps, job.steps), samples=4)),
        **norms("HopSkipJump", "L2 Linf", minimal("HopSkipJump", evaluations=100, max_evaluations=1000)),
    }
