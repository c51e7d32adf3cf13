"""AutoAttack's own code, which the package index has as pyautoattack."""

from collections.abc import Callable
from typing import Any

import torch
from benchmarks.battery.rows import Job
from torch import Tensor

DISTRIBUTION = "pyautoattack"


def attacks() -> dict[str, Callable[[Job], Tensor]]:
    from pyautoattack import AutoAttack  # pyright: ignore
    from pyautoattack.autopgd_base import APGDAttack, APGDAttack_targeted  # pyright: ignore
    from pyautoattack.fab_pt import FABAttack_PT  # pyright: ignore
    from pyautoattack.square import SquareAttack  # pyright: ignore

    def run(kind: Any, **more: Any) -> Callable[[Job], Tensor]:
        def go(job: Job) -> Tensor:
            settings = {"norm": job.norm.name, "eps": job.eps, "n_iter": job.steps, "seed": job.seed, "device": "cpu"}
            return kind(job.model, **settings, **more).perturb(job.x, job.y)

        return go

    def square(job: Job) -> Tensor:
        settings = {"norm": job.norm.name, "eps": job.eps, "n_queries": job.steps, "seed": job.seed, "device": "cpu"}
        return SquareAttack(job.model, **settings, resc_schedule=True).perturb(job.x, job.y)

    def fab(job: Job, targeted: bool) -> Any:
        settings = {"norm": job.norm.name, "n_iter": job.steps, "seed": job.seed, "device": "cpu"}
        return FABAttack_PT(job.model, eps=1e3, targeted=targeted, **settings)

    def fab_targeted(job: Job) -> Tensor:
        """The nearest over the targets; its own `perturb` stops at the first within eps."""
        attack, best = fab(job, True), job.x.clone()
        nearest = torch.full((len(job.x),), torch.inf)
        with torch.no_grad():
            which = torch.where(job.model(job.x).argmax(1) == job.y)[0]
            x, y = job.x[which], job.y[which]
            for target in range(2, 11):
                attack.target_class = target
                x_adv = attack.attack_single_run(x, y, use_rand_start=False, is_targeted=True)
                size = job.norm.size(x_adv - x)
                better = (size < nearest[which]) & (job.model(x_adv).argmax(1) != y)
                best[which[better]], nearest[which[better]] = x_adv[better], size[better]
        return best

    def ensemble(job: Job) -> Tensor:
        attack = AutoAttack(job.model, eps=job.eps, norm=job.norm.name, seed=job.seed)
        return attack.run_standard_evaluation(job.x, job.y, batch_size=len(job.x))[0]

    table: dict[str, Callable[[Job], Tensor]] = {}
    for norm in ("Linf", "L2", "L1"):
        table |= {
            f"APGD-CE {norm}": run(APGDAttack, use_largereps=norm == "L1"),
            f"FAB {norm}": lambda job: fab(job, False).perturb(job.x, job.y),
        }
    for norm in ("Linf", "L2"):
        table |= {
            f"APGD-DLR {norm}": run(APGDAttack, loss="dlr"),
            f"APGD-T {norm}": run(APGDAttack_targeted),
            f"Square {norm}": square,
            f"AutoAttack {norm}": ensemble,
            f"FAB-T {norm}": fab_targeted,
        }
    return table
