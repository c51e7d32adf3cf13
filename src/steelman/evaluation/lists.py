"""The attacks of the built-in batteries, in the order in which they are run."""

from dataclasses import replace

from steelman.attacks import (
    APGD,
    DDN,
    FGSM,
    FMN,
    PGD,
    AutoAttack,
    CascadeAttack,
    HopSkipJump,
    SaltAndPepper,
    SigmaZero,
    Square,
    UniformNoise,
)
from steelman.attacks.core import Attack
from steelman.losses import DLR, Margin
from steelman.measures.audits import SHORT
from steelman.norms import L0, L1, L2, Linf, Norm

Attacks = dict[str, Attack]


def quick(norm: Norm, eps: float) -> Attacks:
    at = _at(norm, eps)
    attacks: Attacks = {
        f"FMN {norm}, 10 steps": FMN(norm, steps=10),
        f"APGD {at}, 20 steps": APGD(eps, norm, steps=20, loss=DLR(or_margin=True), stop_early=True),
        f"FGSM {at}": FGSM(eps, norm),
    }
    if norm is not L1:
        attacks[f"Square {at}, 100 queries"] = Square(eps, norm, queries=100, rescale=False)
    return attacks


def standard(norm: Norm, eps: float) -> Attacks:
    """In Linf and L2; what follows on them is `thorough`, or a Square of it on a sample."""
    at = _at(norm, eps)
    short = Square(eps, norm, queries=SHORT, rescale=False)
    return _nearest(norm) | {
        f"Cascade {at}": CascadeAttack(eps, norm),
        f"FGSM {at}": FGSM(eps, norm),
        f"Square {at}, {SHORT} queries": short,
    }


def with_all_stages(attacks: Attacks) -> Attacks:
    """The cascades among the attacks, with every stage on every image, under names of their own."""
    every = (1.0, 1.0, 1.0)
    cascades = {name: each for name, each in attacks.items() if isinstance(each, CascadeAttack)}
    return {f"{name}, all stages": replace(each, shares=every) for name, each in cascades.items()}


def audit(norm: Norm, eps: float) -> Attacks:
    """AutoAttack's Square, under the name that it has in `thorough`."""
    return {name: attack for name, attack in thorough(norm, eps).items() if isinstance(attack, Square)}


def thorough(norm: Norm, eps: float) -> Attacks:
    at = _at(norm, eps)
    parts = zip(("APGD-CE", "APGD-T", "FAB-T", "Square"), AutoAttack(eps, norm).attacks, strict=False)
    first, *ensemble = ((f"{part} {at}", attack) for part, attack in parts)
    margin = APGD(eps, norm, loss=Margin(), restarts=5 if norm is L1 else 3, multi_eps=norm is L1, stop_early=True)
    gradients = dict(each for each in ensemble if not isinstance(each[1], Square))
    attacks = _nearest(norm) | dict([first]) | {f"APGD-margin {at}": margin} | gradients
    noise = {f"Uniform noise {at}, 100 draws": UniformNoise(eps, norm, samples=100)}
    return attacks | {f"FGSM {at}": FGSM(eps, norm)} | dict(ensemble) | noise


def _nearest(norm: Norm) -> Attacks:
    minimal = DDN(steps=50) if norm is L2 else FMN(norm, steps=30 if norm is Linf else 50)
    return {f"{type(minimal).__name__} {norm}": minimal}


def without_radius(*, quick: bool) -> Attacks:
    """In L0."""
    steps = 20 if quick else 50
    attacks: Attacks = {f"Sigma-zero L0{', 20 steps' if quick else ''}": SigmaZero(steps=steps)}
    return attacks if quick else attacks | {"FMN L0": FMN(norm=L0, steps=steps)}


def signs(norm: Norm, eps: float) -> tuple[Attacks, Attacks]:
    """The attacks, and those for a black box alone."""
    at = _at(norm, eps)
    attacks, black_box = sign_attacks(norm, eps), decisions(norm, eps, quick=True)
    if norm is not L1:
        attacks[f"Square {at}, 1000 queries"] = Square(eps, norm, queries=1000, rescale=False)
        attacks |= {each: black_box.pop(each) for each in list(black_box) if each.startswith("HopSkipJump")}
    return attacks, black_box


def decisions(norm: Norm, eps: float, *, quick: bool) -> Attacks:
    """Attacks that need classes alone, with about as many passes as Square."""
    draws, pictures = (100, 20) if quick else (1000, 1000)
    at = _at(norm, eps)
    found: Attacks = {f"Uniform noise {at}, {draws} draws": UniformNoise(eps, norm, samples=draws)}
    if norm is L1:
        return found | {f"Salt and pepper L0, {pictures} draws": SaltAndPepper(samples=pictures)}
    steps, evaluations = (3, 30) if quick else (17, HopSkipJump().evaluations)
    return found | {f"HopSkipJump {norm}, {steps} steps": HopSkipJump(norm, steps=steps, evaluations=evaluations)}


def sign_attacks(norm: Norm = Linf, eps: float = 8 / 255, *, steps: int = 20, draws: int = 1000) -> Attacks:
    """The attacks that the signs of masked gradients need, but a black box: add Square, HopSkipJump or a Surrogate.

    FGSM; PGD from the image itself at 1/2, 1, 2 and 4 times the radius, and without bound: 1 in Linf, 8 and 16 times
    the radius elsewhere; and uniform noise.

    steps  of PGD, default 20
    draws  of uniform noise, default 1,000 for the time; 10^4 and more are more thorough

    Cost: 5 `steps` gradient passes in Linf, 7 elsewhere, and at most `draws` forward passes on the correct images.
    """
    factors = (0.5, 1, 2, 4) if norm is Linf else (0.5, 1, 2, 4, 8, 16)
    radii = [eps * factor for factor in factors if norm is not Linf or eps * factor < 1]
    family = [PGD(eps=radius, norm=norm, steps=steps, random_start=False) for radius in radii]
    unbounded = PGD(eps=1.0, steps=steps, random_start=False)
    found = (FGSM(eps=eps, norm=norm), *family, unbounded, UniformNoise(eps=eps, norm=norm, samples=draws))
    return {str(attack): attack for attack in found}


def written(eps: float) -> str:
    """A radius as names have it."""
    levels = eps * 255
    whole = eps < 0.2 and abs(levels - round(levels)) < 1e-4 and round(levels) > 0
    return f"{round(levels)}/255" if whole else f"{eps:.4g}"


def _at(norm: Norm, eps: float) -> str:
    return f"{norm} {written(eps)}"
