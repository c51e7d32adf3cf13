"""torchattacks' attacks."""

from collections.abc import Callable
from typing import Any

from benchmarks.battery.rows import CARLINI_WAGNER, GAMMA, THETA, Job
from torch import Tensor

DISTRIBUTION = "torchattacks"


def attacks() -> dict[str, Callable[[Job], Tensor]]:
    import torchattacks as ta  # pyright: ignore

    def run(kind: str, **settings: Any) -> Callable[[Job], Tensor]:
        """Settings may be functions of the job."""

        def go(job: Job) -> Tensor:
            values = {name: value(job) if callable(value) else value for name, value in settings.items()}
            return getattr(ta, kind)(job.model, **values)(job.x, job.y)

        return go

    def eps(job: Job) -> float:
        return job.eps

    def steps(job: Job) -> int:
        return job.steps

    def norm(job: Job) -> str:
        return job.norm.name

    def alpha(job: Job) -> float:
        return job.step_size

    stepping = {"eps": eps, "alpha": alpha, "steps": steps}
    automatic = {"norm": norm, "eps": eps, "steps": steps, "n_restarts": 1}
    far = {"norm": norm, "steps": steps, "eps": 1e3}
    carlini_wagner = {
        "c": 1,
        "lr": CARLINI_WAGNER["step_size"],
        "steps": lambda job: int(job.steps * CARLINI_WAGNER["search_steps"]),
    }
    table: dict[str, Callable[[Job], Tensor]] = {
        "FGSM Linf": run("FGSM", eps=eps),
        "R+FGSM Linf": run("RFGSM", eps=eps, alpha=lambda job: job.eps / 2, steps=1),
        "Fast FGSM Linf": run("FFGSM", eps=eps, alpha=eps),
        "BIM Linf": run("BIM", **stepping),
        "PGD Linf": run("PGD", **stepping),
        "PGD L2": run("PGDL2", **stepping),
        "MIM Linf": run("MIFGSM", **stepping),
        "DeepFool L2": run("DeepFool", steps=steps),
        "Carlini-Wagner L2": run("CW", **carlini_wagner),  # no search over c, so one run of as many passes
        "JSMA L0": run("JSMA", theta=THETA, gamma=GAMMA),  # its target is label + 1
        "Gaussian noise L2": run("GN", std=lambda job: job.eps / job.x[0].numel() ** 0.5),
    }
    for name in ("Linf", "L2"):
        table |= {
            f"APGD-CE {name}": run("APGD", **automatic),
            f"APGD-DLR {name}": run("APGD", **automatic, loss="dlr"),
            f"APGD-T {name}": run("APGDT", **automatic),
            f"Square {name}": run("Square", norm=norm, eps=eps, n_queries=steps),
            f"AutoAttack {name}": run("AutoAttack", norm=norm, eps=eps),
            f"FAB {name}": run("FAB", **far),
            f"FAB-T {name}": run("FAB", **far, multi_targeted=True),
        }
    table["FAB L1"] = run("FAB", **far)
    return table
