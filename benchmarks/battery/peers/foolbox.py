"""Foolbox's attacks."""

from collections.abc import Callable
from importlib import import_module
from typing import Any

import torch
from benchmarks.battery.rows import CARLINI_WAGNER, Job
from torch import Tensor

DISTRIBUTION = "foolbox"


def attacks() -> dict[str, Callable[[Job], Tensor]]:
    fb: Any = import_module("foolbox")  # not typed in a way that checkers understand

    def run(job: Job, attack: Any) -> Tensor:
        model = fb.PyTorchModel(job.model, bounds=(0, 1), device="cpu")
        radius = {"epsilon": job.eps} if job.eps else {}
        x_adv = attack.run(model, job.x, fb.criteria.Misclassification(job.y), **radius)
        found = x_adv.flatten(1).any(1)  # its Carlini-Wagner returns a black image where it found nothing
        return torch.where(found.reshape(-1, *[1] * (job.x.ndim - 1)), x_adv, job.x)

    def stepping(kind: str, **more: Any) -> Callable[[Job], Tensor]:
        return lambda job: run(job, getattr(kinds, kind)(abs_stepsize=job.step_size, steps=job.steps, **more))

    def steps(kind: str, **more: Any) -> Callable[[Job], Tensor]:
        return lambda job: run(job, getattr(kinds, kind)(steps=job.steps, **more))

    def plain(kind: str, **more: Any) -> Callable[[Job], Tensor]:
        return lambda job: run(job, getattr(kinds, kind)(**more))

    kinds = fb.attacks
    search = {"binary_search_steps": CARLINI_WAGNER["search_steps"], "initial_const": CARLINI_WAGNER["c"]}
    hopping = {"initial_gradient_eval_steps": 100, "max_gradient_eval_steps": 1000}
    return {
        "FGSM Linf": plain("LinfFastGradientAttack"),
        "FGSM L2": plain("L2FastGradientAttack"),
        "FGSM L1": plain("L1FastGradientAttack"),
        "Fast FGSM Linf": plain("LinfFastGradientAttack", random_start=True),
        "BIM Linf": stepping("LinfBasicIterativeAttack"),
        "PGD Linf": stepping("LinfProjectedGradientDescentAttack"),
        "PGD L2": stepping("L2ProjectedGradientDescentAttack"),
        "PGD L1": stepping("L1ProjectedGradientDescentAttack"),
        "MIM Linf": stepping("LinfMomentumIterativeFastGradientMethod"),
        "MIM L2": stepping("L2MomentumIterativeFastGradientMethod"),
        "VAT L2": steps("VirtualAdversarialAttack"),
        "Uniform noise Linf": plain("LinfAdditiveUniformNoiseAttack"),
        "Gaussian noise L2": plain("L2AdditiveGaussianNoiseAttack"),
        "DeepFool L2": steps("L2DeepFoolAttack"),
        "DeepFool Linf": steps("LinfDeepFoolAttack"),
        "Carlini-Wagner L2": steps("L2CarliniWagnerAttack", **search),
        "Salt and pepper L0": steps("SaltAndPepperNoiseAttack"),
        "DDN L2": steps("DDNAttack"),
        "FMN Linf": steps("LInfFMNAttack"),
        "FMN L2": steps("L2FMNAttack"),
        "FMN L1": steps("L1FMNAttack"),
        "FMN L0": steps("L0FMNAttack"),
        "Boundary L2": steps("BoundaryAttack"),
        "HopSkipJump L2": steps("HopSkipJumpAttack", **hopping),
        "HopSkipJump Linf": steps("HopSkipJumpAttack", constraint="linf", **hopping),
    }
