"""The Adversarial Robustness Toolbox's attacks."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from benchmarks.battery.rows import CARLINI_WAGNER, GAMMA, THETA, Job
from torch import Tensor, nn

DISTRIBUTION = "adversarial-robustness-toolbox"
P = {"L1": 1, "L2": 2, "Linf": np.inf}


def attacks() -> dict[str, Callable[[Job], Tensor]]:
    import art.attacks.evasion as kinds  # pyright: ignore
    from art.estimators.classification import PyTorchClassifier  # pyright: ignore

    def run(job: Job, kind: str, *, softmax: bool = False, target: bool = False, **settings: Any) -> Tensor:
        model = nn.Sequential(job.model, nn.Softmax(1)).eval() if softmax else job.model
        shape: Any = tuple(job.x.shape[1:])
        estimator = PyTorchClassifier(
            model, nn.CrossEntropyLoss(), shape, 10, clip_values=(0.0, 1.0), device_type="cpu"
        )
        attack = getattr(kinds, kind)(estimator, **settings)
        labels = np.eye(10, dtype=np.float32)[(job.target if target else job.y).numpy()]
        return torch.from_numpy(attack.generate(job.x.numpy(), labels)).to(job.x.dtype)

    def quiet(job: Job, **settings: Any) -> dict[str, Any]:
        return {"batch_size": len(job.x), "verbose": False, **settings}

    def one_step(job: Job, **more: Any) -> Tensor:
        radius = {"eps": job.eps, "norm": P[job.norm.name]}
        return run(job, "FastGradientMethod", batch_size=len(job.x), **radius, **more)

    def descend(job: Job, kind: str = "ProjectedGradientDescentPyTorch", **more: Any) -> Tensor:
        settings: dict[str, Any] = {"eps": job.eps, "eps_step": job.step_size, "max_iter": job.steps}
        return run(job, kind, **quiet(job), **settings, **more)

    def with_norm(job: Job, **more: Any) -> Tensor:
        return descend(job, norm=P[job.norm.name], num_random_init=1, **more)

    def automatic(job: Job, loss: str) -> Tensor:
        settings: dict[str, Any] = {
            "eps": job.eps,
            "eps_step": 2 * job.eps,
            "norm": P[job.norm.name],
            "max_iter": job.steps,
        }
        return run(job, "AutoProjectedGradientDescent", nb_random_init=1, loss_type=loss, **quiet(job), **settings)

    def carlini_wagner(job: Job, kind: str) -> Tensor:
        settings: dict[str, Any] = {
            "learning_rate": CARLINI_WAGNER["step_size"],
            "initial_const": CARLINI_WAGNER["c"],
            "binary_search_steps": CARLINI_WAGNER["search_steps"],
            "max_iter": job.steps,
        }
        return run(job, kind, **quiet(job), **settings)

    def hop_skip_jump(job: Job) -> Tensor:
        queries: dict[str, Any] = {"max_iter": job.steps, "max_eval": 1000, "init_eval": 100}
        return run(job, "HopSkipJump", norm=P[job.norm.name], **quiet(job), **queries)

    def square(job: Job) -> Tensor:
        return run(job, "SquareAttack", norm=P[job.norm.name], eps=job.eps, max_iter=job.steps, **quiet(job))

    def auto_attack(job: Job) -> Tensor:
        settings: dict[str, Any] = {
            "norm": P[job.norm.name],
            "eps": job.eps,
            "eps_step": 2 * job.eps,
            "batch_size": len(job.x),
        }
        return run(job, "AutoAttack", **settings)

    def universal(job: Job) -> Tensor:
        settings: dict[str, Any] = {"eps": job.eps, "max_iter": job.steps, "delta": 0.2, "norm": P[job.norm.name]}
        return run(job, "UniversalPerturbation", attacker_params={"verbose": False}, **quiet(job), **settings)

    table: dict[str, Callable[[Job], Tensor]] = {
        "BIM Linf": lambda job: descend(job, "BasicIterativeMethod"),
        "MIM Linf": lambda job: descend(job, "MomentumIterativeMethod", decay=1.0),
        "MIM L2": lambda job: descend(job, "MomentumIterativeMethod", decay=1.0, norm=2),
        "VAT L2": lambda job: run(
            job, "VirtualAdversarialMethod", softmax=True, eps=job.eps, max_iter=job.steps, **quiet(job)
        ),
        "Minimal FGSM Linf": lambda job: run(
            job, "FastGradientMethod", minimal=True, eps=1.0, eps_step=0.01, batch_size=len(job.x)
        ),
        "Universal Linf": universal,
        "DeepFool L2": lambda job: run(job, "DeepFool", max_iter=job.steps, epsilon=0.02, **quiet(job)),
        "Carlini-Wagner L2": lambda job: carlini_wagner(job, "CarliniL2Method"),
        "Carlini-Wagner L0": lambda job: carlini_wagner(job, "CarliniL0Method"),
        "Carlini-Wagner Linf": lambda job: run(job, "CarliniLInfMethod", max_iter=job.steps, **quiet(job)),
        "JSMA L0": lambda job: run(job, "SaliencyMapMethod", target=True, theta=THETA, gamma=GAMMA, **quiet(job)),
        "Boundary L2": lambda job: run(job, "BoundaryAttack", targeted=False, max_iter=job.steps // 10, **quiet(job)),
    }
    for norm in ("Linf", "L2", "L1"):
        table |= {f"FGSM {norm}": one_step, f"PGD {norm}": with_norm}
    table["Fast FGSM Linf"] = lambda job: one_step(job, num_random_init=1)
    for norm in ("Linf", "L2"):
        table |= {
            f"APGD-CE {norm}": lambda job: automatic(job, "cross_entropy"),
            f"APGD-DLR {norm}": lambda job: automatic(job, "difference_logits_ratio"),
            f"Square {norm}": square,
            f"AutoAttack {norm}": auto_attack,
            f"HopSkipJump {norm}": hop_skip_jump,
        }
    return table
