"""Whether an attack on the GPU gives the CPU's results: the same predictions, and images that are as near as rounding.

In float64, where rounding is small beside what decides (the sign of a slope, which boundary is nearer), predictions are
equal and no pixel differs by more than `NEAR`. In float32 a slope of nearly 0 may have another sign, after which the
images part: predictions have to be equal on all but `FEW` of the images, and the rest is reported.
"""

from collections.abc import Iterator
from copy import deepcopy
from typing import Any

import torch
from benchmarks.gpu.attacks import Row
from benchmarks.gpu.ground import Setting, ground
from benchmarks.gpu.timing import problem
from torch import Tensor, nn

from steelman import APGD, DDN, FAB, FGSM, FMN, MIM, PGD, Attack, CarliniWagner, DeepFool, HopSkipJump, Square
from steelman.norms import L1, L2, Linf

NEAR = 1e-6
FEW = 0.02
APART = 1e-4


def cases(eps: float, steps: int, queries: int) -> dict[str, Attack]:
    return {
        "FGSM": FGSM(eps),
        "PGD Linf": PGD(eps, steps=steps),
        "PGD L2": PGD(5 * eps, norm=L2, steps=steps),
        "PGD L1": PGD(50 * eps, norm=L1, steps=steps),
        "MIM": MIM(eps, steps=steps),
        "APGD Linf": APGD(eps, steps=steps),
        "APGD L1": APGD(50 * eps, norm=L1, steps=steps),
        "Square Linf": Square(eps, queries=queries),
        "Square L2": Square(5 * eps, norm=L2, queries=queries),
        "DeepFool": DeepFool(steps=steps),
        "DDN": DDN(steps=steps),
        "FMN Linf": FMN(Linf, steps=steps),
        "FAB": FAB(steps=steps),
        "Carlini-Wagner": CarliniWagner(steps=steps, search_steps=2),
        "HopSkipJump": HopSkipJump(steps=2, evaluations=20),
    }


def agreement(setting: Setting, name: str) -> Iterator[Row]:
    """Every attack on both devices, in float64 and in float32 (convolutions without TF32, then with it)."""
    here = ground(name, setting)
    large = name != "LeNet"  # which takes a processor long
    x, y = here.images(setting.of(3, 8 if large else 100))
    attacks = cases(here.eps, setting.of(2, 5 if large else 20), setting.of(4, 30 if large else 200))
    before = torch.backends.cudnn.allow_tf32
    for attack_name, attack in attacks.items():
        for kind, tf32 in (("float64", False), ("float32", False), ("float32, TF32", True)):
            if tf32 and setting.device.type != "cuda":
                continue
            dtype = torch.float64 if kind == "float64" else torch.float32
            model = deepcopy(here.model).to(dtype)
            torch.backends.cudnn.allow_tf32 = tf32
            try:
                found = compared(attack, deepcopy(model).cpu(), model, x.to(dtype), y)
            except Exception as error:  # an attack that fails on one device is what is looked for
                found = {"error": problem(error), "holds": False}
            finally:
                torch.backends.cudnn.allow_tf32 = before
            yield {
                "table": "agreement",
                "network": name,
                "attack": attack_name,
                "floats": kind,
                "images": len(x),
                **found,
            }


def compared(attack: Attack, on_cpu: nn.Module, on_device: nn.Module, x: Tensor, y: Tensor) -> dict[str, Any]:
    """One attack by two copies of a network, with the same noise; and by the second once more."""
    seeds = torch.arange(len(x))
    first = attack.run(on_cpu, x.cpu(), y.cpu(), generator=seeds)
    second, again = (attack.run(on_device, x, y, generator=seeds) for _ in range(2))
    same = (first.prediction == second.prediction.cpu()).double().mean()
    distance = (first.x_adv - second.x_adv.cpu()).abs()
    exact = x.dtype == torch.float64
    furthest = float(distance.max())
    holds = bool(same == 1 and furthest <= NEAR) if exact else bool(same >= 1 - FEW)
    return {
        "predictions": float(same),
        "furthest": furthest,
        "apart": float((distance > APART).double().mean()),
        "successes": [int(first.success.sum()), int(second.success.sum())],
        "twice": torch.equal(second.x_adv, again.x_adv),
        "holds": holds,
    }
