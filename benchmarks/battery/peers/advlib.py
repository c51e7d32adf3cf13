"""adv-lib's attacks."""

import importlib
import importlib.util
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.battery.rows import CARLINI_WAGNER, Job
from torch import Tensor

DISTRIBUTION = "adv-lib"
P = {"L0": 0, "L1": 1, "L2": 2, "Linf": float("inf")}


def _ready() -> None:
    """Make its modules importable one by one where torchvision, which only its LPIPS distance needs, is missing."""
    try:
        importlib.import_module("adv_lib.attacks")
    except Exception:
        spec = importlib.util.find_spec("adv_lib")
        if spec is None or spec.submodule_search_locations is None:
            raise ImportError("adv-lib is not installed") from None
        for name in [name for name in sys.modules if name.startswith("adv_lib")]:
            del sys.modules[name]
        package = types.ModuleType("adv_lib.attacks")
        package.__path__ = [str(Path(spec.submodule_search_locations[0]) / "attacks")]
        lpips = types.ModuleType("adv_lib.distances.lpips")
        lpips.__dict__["LPIPS"] = None
        sys.modules["adv_lib.attacks"], sys.modules["adv_lib.distances.lpips"] = package, lpips


def attacks() -> dict[str, Callable[[Job], Tensor]]:
    _ready()

    def get(module: str, name: str) -> Callable[..., Tensor]:
        return getattr(importlib.import_module(f"adv_lib.attacks.{module}"), name)

    def run(module: str, name: str, **settings: Any) -> Callable[[Job], Tensor]:
        """Settings may be functions of the job."""

        def go(job: Job) -> Tensor:
            values = {key: value(job) if callable(value) else value for key, value in settings.items()}
            return get(module, name)(job.model, job.x, job.y, **values)

        return go

    def steps(job: Job) -> int:
        return job.steps

    def eps(job: Job) -> float:
        return job.eps

    def p(job: Job) -> float:
        return P[job.norm.name]

    def step_size(job: Job) -> float:
        return job.step_size

    fab = "fast_adaptive_boundary.fast_adaptive_boundary"
    carlini_wagner = {
        "initial_const": CARLINI_WAGNER["c"],
        "binary_search_steps": CARLINI_WAGNER["search_steps"],
        "learning_rate": CARLINI_WAGNER["step_size"],
        "max_iterations": steps,
    }
    descent = {"ε": eps, "steps": steps, "absolute_step_size": step_size}
    automatic = {"eps": eps, "norm": p, "n_iter": steps}
    table: dict[str, Callable[[Job], Tensor]] = {
        "PGD Linf": run("projected_gradient_descent", "pgd_linf", **descent),
        "Carlini-Wagner L2": run("carlini_wagner.l2", "carlini_wagner_l2", **carlini_wagner),
        "Carlini-Wagner Linf": run("carlini_wagner.linf", "carlini_wagner_linf", max_iterations=steps),
        "DDN L2": run("decoupled_direction_norm", "ddn", steps=steps, levels=None),
        "Sigma-zero L0": run("sigma_zero", "sigma_zero", num_steps=steps),
    }
    for norm in ("Linf", "L2", "L1", "L0"):
        table[f"FMN {norm}"] = run("fast_minimum_norm", "fmn", norm=p, steps=steps)
    for norm in ("Linf", "L2"):
        table[f"DeepFool {norm}"] = run("deepfool", "df", steps=steps, norm=p, return_unsuccessful=True)
        table[f"FAB-T {norm}"] = run(fab, "fab", norm=p, n_iter=steps, targeted_restarts=True)
        table[f"APGD-DLR {norm}"] = run("auto_pgd", "apgd", **automatic)
        table[f"APGD-T {norm}"] = run("auto_pgd", "apgd_targeted", **automatic)
    for norm in ("Linf", "L2", "L1"):
        table[f"APGD-CE {norm}"] = run("auto_pgd", "apgd", **automatic, loss_function="ce")
        table[f"FAB {norm}"] = run(fab, "fab", norm=p, n_iter=steps)
    for norm in ("L2", "L1"):
        table[f"ALMA {norm}"] = run("augmented_lagrangian", "alma", num_steps=steps, distance=norm.lower())
    return table
