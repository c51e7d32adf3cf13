"""CleverHans' attacks for PyTorch."""

from collections.abc import Callable
from typing import Any

import numpy as np
from benchmarks.battery.rows import CARLINI_WAGNER, Job
from torch import Tensor

DISTRIBUTION = "cleverhans"
P = {"L1": 1, "L2": 2, "Linf": np.inf}
BOX = {"clip_min": 0, "clip_max": 1}


def attacks() -> dict[str, Callable[[Job], Tensor]]:
    from cleverhans.torch.attacks.carlini_wagner_l2 import carlini_wagner_l2  # pyright: ignore
    from cleverhans.torch.attacks.fast_gradient_method import fast_gradient_method  # pyright: ignore
    from cleverhans.torch.attacks.hop_skip_jump_attack import hop_skip_jump_attack  # pyright: ignore
    from cleverhans.torch.attacks.noise import noise  # pyright: ignore
    from cleverhans.torch.attacks.projected_gradient_descent import projected_gradient_descent  # pyright: ignore
    from cleverhans.torch.attacks.sparse_l1_descent import sparse_l1_descent  # pyright: ignore

    def one_step(job: Job) -> Tensor:
        return fast_gradient_method(job.model, job.x, job.eps, P[job.norm.name], y=job.y, **BOX)

    def descend(job: Job, start: bool) -> Tensor:
        more: dict[str, Any] = {"rand_init": start, "rand_minmax": job.eps, "sanity_checks": False}
        norm = P[job.norm.name]
        return projected_gradient_descent(
            job.model, job.x, job.eps, job.step_size, job.steps, norm, y=job.y, **more, **BOX
        )

    def sparse(job: Job) -> Tensor:
        more: dict[str, Any] = {"rand_init": True, "sanity_checks": False}
        return sparse_l1_descent(job.model, job.x, job.eps, job.step_size, job.steps, y=job.y, **more, **BOX)

    def carlini_wagner(job: Job) -> Tensor:
        more = {"initial_const": CARLINI_WAGNER["c"], "binary_search_steps": CARLINI_WAGNER["search_steps"]}
        return carlini_wagner_l2(
            job.model, job.x, 10, y=job.y, lr=CARLINI_WAGNER["step_size"], max_iterations=job.steps, **more, **BOX
        )

    def hop_skip_jump(job: Job) -> Tensor:
        norm = P[job.norm.name]
        queries = {"initial_num_evals": 100, "max_num_evals": 1000, "num_iterations": job.steps}
        return hop_skip_jump_attack(job.model, job.x, norm, constraint=norm, verbose=False, **queries, **BOX)

    return {
        "FGSM Linf": one_step,
        "FGSM L2": one_step,
        "FGSM L1": one_step,
        "BIM Linf": lambda job: descend(job, False),
        "PGD Linf": lambda job: descend(job, True),
        "PGD L2": lambda job: descend(job, True),
        "PGD L1": sparse,
        "Carlini-Wagner L2": carlini_wagner,
        "Uniform noise Linf": lambda job: noise(job.x, job.eps, **BOX),
        "HopSkipJump L2": hop_skip_jump,
        "HopSkipJump Linf": hop_skip_jump,
    }
