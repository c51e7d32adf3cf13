"""Batteries: the attacks of an evaluation, ordered from cheap to strong, and what else is measured."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, get_args

import torch
from torch import nn

from steelman import config
from steelman.adversaries.adversary import Adversary
from steelman.attacks import CascadeAttack, SaltAndPepper, Square
from steelman.attacks.bounded.targets import NEAREST_OF
from steelman.attacks.composed.eot import averaged
from steelman.attacks.core import Access, Attack, check_radii, check_radius
from steelman.evaluation import lists
from steelman.evaluation.lists import sign_attacks as sign_attacks
from steelman.evaluation.probes.probe import Probe
from steelman.forward import reject_class
from steelman.naming import LATER, nearest
from steelman.networks.mean_of_draws import MeanOfDraws
from steelman.norms import L0, L1, L2, Linf, Norm
from steelman.randomness import is_random
from steelman.ranges import Checked, Count

PAPER = "paper:"
PAPERS = Path(__file__).parent / "batteries"
"""A file PAPER_DATA.toml for each paper and data set, with the keys of `[evaluation]`."""

BUILT = ("quick", "standard", "thorough", "signs")
_ACCESS: tuple[Access, ...] = get_args(Access)
_LIKE_CIFAR = {Linf: 8 / 255, L2: 0.5, L1: 12.0}
RADII: dict[str, dict[Norm, float]] = {
    "MNIST": {Linf: 0.3, L2: 2.0, L1: 10.0},
    "CIFAR10": _LIKE_CIFAR,
    "CIFAR100": _LIKE_CIFAR,
    "Digits": {Linf: 0.15},
}


@dataclass(frozen=True)
class Battery(Checked):
    """What to evaluate with; the `[evaluation]` section of a recipe, or a TOML file of its own.

    attacks       in pixels, inside the box: a table of names and attacks, which are run in this order
    black_box     attacks that are run after these, but only on models that do not give gradients
    images        so many test images, a sample by class that is the same for every model; default all
    deep_defense  also the Deep Defense paper's measures, in the preprocessed space where there is one: rho_2 and l_2 of
                  DeepFool with 5 and 50 steps and rho_inf of the minimal FGSM, unclipped, and accuracies at .2, .5 and
                  1 of eps_ref. Default False
    survivors_only  False (default): every attack is run on every image, so that each has an accuracy of its own. True:
                  a bounded attack is run only on the images that are still correct after the attacks before it in its
                  norm and radius. The worst case is the same, and costs less
    probes        what else is measured of every image (default nothing)
    samples       draws of a random model (`is_random`) that each answer is the mean of, by `EOT`; default 10. Success
                  is judged over twenty fresh ones
    audit         attacks that are run at the end on a sample of the images that are still correct, or on all of these
                  where a sampled one falls (see `evaluate`)
    suspicion     attacks that are run at the end on all images that are still correct where gradients may mislead. On
                  models for which the thresholds of a `CascadeAttack` in `attacks` are not known to hold they take its
                  place (`without_cascade`)

    In TOML, `battery` names another one (see `named_battery`) to begin with, with its `norm` and `eps` where needed;
    attacks, and single settings of its attacks, are then added to it.
    """

    attacks: dict[str, Attack] = field(default_factory=dict)
    black_box: dict[str, Attack] = field(default_factory=dict)
    images: Count | None = None
    deep_defense: bool = False
    survivors_only: bool = False
    probes: tuple[Probe, ...] = ()
    samples: Count = 10
    audit: dict[str, Attack] = field(default_factory=dict, metadata=LATER)
    suspicion: dict[str, Attack] = field(default_factory=dict, metadata=LATER)

    def __post_init__(self) -> None:
        if both := self.attacks.keys() & (self.black_box.keys() | self.audit.keys()):
            table = "black_box" if both & self.black_box.keys() else "audit"
            raise ValueError(f"two attacks are called {min(both)}: give the one in {table} another name")
        known = self.attacks | self.audit
        for name, attack in self.suspicion.items():
            if known.get(name, attack) != attack:
                raise ValueError(f"two attacks are called {name}: give the one in suspicion another name")
        for name, attack in self.every_attack.items():
            check_radii(attack, name)

    @property
    def every_attack(self) -> dict[str, Attack]:
        """All attacks that it may run."""
        return self.suspicion | self.attacks | self.audit | self.black_box

    @property
    def afterwards(self) -> dict[str, dict[str, Attack]]:
        """What `evaluate` runs after the attacks: its `audit` and `suspicion`."""
        return {"audit": self.audit, "suspicion": self.suspicion}

    def without_cascade(self, why: str = "") -> "Battery":
        """With all attacks of `suspicion` from the start, in place of the cascade, of shorter forms and of the audit.

        why  a clause on the model or its data, for a warning (default: none)
        """
        if not self.suspicion:
            return self
        cascades = [name for name, attack in self.attacks.items() if isinstance(attack, CascadeAttack)]
        if why and cascades:
            warnings.warn(
                f"the thresholds of {', '.join(cascades)} are not known to hold where {why}: the attacks that would "
                "follow a suspicion are run instead",
                stacklevel=3,
            )
        shorter = {replace(each, queries=1) for each in self.suspicion.values() if isinstance(each, Square)}
        own = {
            name: attack
            for name, attack in self.attacks.items()
            if name not in cascades and not (isinstance(attack, Square) and replace(attack, queries=1) in shorter)
        }
        return replace(self, attacks=self.suspicion | own, audit={}, suspicion={})

    def against(self, model: nn.Module) -> "Battery":
        """The battery for a model; one that is random is attacked through the mean over `samples` draws, to the end.

        A `MeanOfDraws` answers with such a mean already. Attacks that draw at random, have one answer for all images,
        are naive, or are or have an `EOT` themselves stay as they are. On such a model, and on one that may reject
        images, there is no cascade.
        """
        if reject_class(model) is not None:
            return self.without_cascade("a model may reject images")
        if not is_random(model):
            return self
        if self.suspicion:
            return self.without_cascade("a model answers at random").against(model)
        samples = 1 if isinstance(model, MeanOfDraws) else self.samples
        attacks, black_box = (
            {name: averaged(attack, samples) for name, attack in each.items()}
            for each in (self.attacks, self.black_box)
        )
        return replace(self, attacks=attacks, black_box=black_box)

    def within(self, access: Access) -> "Battery":
        """The attacks and probes that need no more of a model than this access.

        Raises:
            ValueError: every attack needs more.
        """
        if access == "gradients":
            return self
        if self.suspicion:
            return self.without_cascade().within(access)
        allowed = _ACCESS[_ACCESS.index(access) :]
        attacks = {name: attack for name, attack in (self.attacks | self.black_box).items() if attack.access in allowed}
        if not attacks:
            raise ValueError(
                f"every attack of this battery needs more than the {access} that the model gives: take the battery "
                '"quick" or "thorough", or add Square (scores) or HopSkipJump (decisions)'
            )
        probes = tuple(probe for probe in self.probes if probe.access in allowed)
        return replace(self, attacks=attacks, black_box={}, deep_defense=False, probes=probes)

    def taking(self, shape: Sequence[int], classes: int | None = None) -> "Battery":
        """The attacks that can be run on images of this shape; a warning names those left out, and why.

        Where images cannot be audited, or there are more than 21 classes, there is no cascade.

        Raises:
            ValueError: no attack can.
        """
        if self.suspicion and unsupported(self.audit, shape):
            return self.without_cascade("images have no height and width").taking(shape, classes)
        if self.suspicion and classes is not None and classes > NEAREST_OF + 1:
            return self.without_cascade(f"there are more than {NEAREST_OF + 1} classes").taking(shape, classes)
        skipped = unsupported(self.attacks, shape)
        if not skipped:
            return self
        reasons = "; ".join(f"{name} ({reason})" for name, reason in skipped.items())
        if len(skipped) == len(self.attacks):
            raise ValueError(f"no attack of this battery can be run on these images: {reasons}")
        warnings.warn(f"left out, since they cannot be run on these images: {reasons}", stacklevel=3)
        return replace(self, attacks={name: each for name, each in self.attacks.items() if name not in skipped})

    def with_generators(self, find: Callable[[Adversary], nn.Module] | None = None) -> "Battery":
        """The battery with a generator for each learned adversary that has none; a warning names those left out.

        find  returns the generator; raises ValueError, with the reason, where there is none. Default: there are none

        Raises:
            ValueError: no other attack is in the battery.
        """
        attacks, missing = {}, {}
        for name, attack in self.attacks.items():
            if isinstance(attack, Adversary) and attack.generator is None:
                try:
                    if find is None:
                        raise ValueError("no generator was trained against this model: give the folder of its run")
                    attack = attack.with_generator(find(attack))
                except ValueError as error:
                    missing[name] = str(error)
                    continue
            attacks[name] = attack
        reasons = "; ".join(dict.fromkeys(missing.values()))
        if missing and not (attacks or self.deep_defense):
            raise ValueError(reasons)
        if missing:
            warnings.warn(f"left out: {', '.join(missing)}, since {reasons}", stacklevel=2)
        return replace(self, attacks=attacks)


def unsupported(attacks: Mapping[str, Attack], shape: Sequence[int]) -> dict[str, str]:
    """The names of the attacks that cannot be run on images of this shape, with the reasons."""
    reasons = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # an attack that leaves a part of it out warns when it runs
        for name, attack in attacks.items():
            try:
                attack.check_input(torch.zeros(1, *shape), False, None)
            except ValueError as error:
                reasons[name] = str(error)
    return reasons


def named_battery(name: str, *, norm: Norm | None = None, eps: float | None = None, data: str | None = None) -> Battery:
    """A battery by its name, with the attacks ordered from cheap to strong, and simple ones after the gradients'.

    "quick"     the minimal-norm attack with ten steps, APGD with twenty, FGSM, Square with 100 queries
    "standard"  the best minimal-norm attack of 30 steps (Linf) or 50, `CascadeAttack`, FGSM, Square with 200 queries;
                Square with 5,000 on a sample of the images that are still correct; where gradients may mislead,
                "thorough" on all of these. In L1 and L0 as "thorough"
    "thorough"  the same minimal-norm attack, AutoAttack's four, each with rows of its own, and among them APGD on the
                margin with three restarts; FGSM and 100 draws of noise; in L0 minimal-norm attacks only
    "signs"     what the signs of masked gradients are read from (`sign_attacks`), Square with 1,000 queries and a short
                HopSkipJump; every attack is run on every image
    "paper:..." a source's own list and settings; docs/batteries.md lists them
    a path      a TOML file with the keys of `[evaluation]`

    All but the signs ask for the worst case (`survivors_only`). The minimal-norm attack is run on every image that is
    classified correctly; it comes first, so that costlier attacks skip the images that it has broken within the radius.
    FGSM and the noise are for the signs of masked gradients: they should find nothing that gradients have left.
    A table that one battery has made is extended by another: the same name is the same attack in all of them.

    name  one of these
    norm  of those that are no paper's: Linf (default), L2, L1; also L0, but for "signs"
    eps   radius; default that of `default_radius`. Of a paper's battery with a single radius: replaces it, with step
          sizes in proportion, as on data that the source does not have
    data  the data set's class, such as "MNIST", which decides radii and a paper's list

    Raises:
        ValueError: no such battery (names the nearest), no radius that fits, a norm or radius where there is no choice.
    """
    if name in BUILT:
        return _built(name, norm or Linf, eps, data)
    if norm is not None:
        raise ValueError(f"{name} has the norms of its source: leave the norm {norm} out")
    known = True
    if name.startswith(PAPER):
        path, known = _of_paper(name, data)
    elif name.endswith(".toml") or Path(name).is_file():
        path = Path(name)
    else:
        raise ValueError(f"there is no battery {name}; {nearest(name, battery_names())}, or give a TOML file")
    battery = load_battery(path, data)
    if eps is not None:
        return _at_radius(battery, eps, name)
    if not known and _radii(battery):
        raise ValueError(
            f"{name} has radii of {path.stem.partition('_')[2]}, which mean nothing for {data or 'unnamed data'}: give "
            "eps, or the data set"
        )
    return battery


def battery_names() -> tuple[str, ...]:
    """The named batteries."""
    return *BUILT, *sorted({PAPER + path.stem.rpartition("_")[0] for path in PAPERS.glob("*.toml")})


def default_radius(data: str | None, norm: Norm) -> float:
    """The radius at which a data set is usually compared.

    MNIST .3 in Linf, 2 in L2, 10 in L1; CIFAR-10 8/255, .5, 12, and CIFAR-100 the same; the 8 by 8 digits .15 in Linf,
    which is ours.

    Reference: Aleksander Madry, Aleksandar Makelov, Ludwig Schmidt, Dimitris Tsipras and Adrian Vladu, "Towards deep
    learning models resistant to adversarial attacks", ICLR 2018 (Linf); Pratyush Maini, Eric Wong and J. Zico Kolter,
    "Adversarial robustness against the union of multiple perturbation models", ICML 2020, and its code (L2, L1).

    Raises:
        ValueError: none is known.
    """
    radii = RADII.get(data or "", {})
    if norm not in radii:
        of = "without a data set" if data is None else f"for {data}"
        raise ValueError(
            f"there is no usual radius in {norm} {of}: give eps (--eps), such as .3 of MNIST or 8/255 of CIFAR-10"
        )
    return radii[norm]


def load_battery(path: Path, data: str | None = None) -> Battery:
    """A battery from TOML: the keys of `[evaluation]`, at the top or in a table of that name.

    Raises:
        FileNotFoundError, ValueError: no such file, not TOML, an unknown key or name (and the nearest right one).
    """

    def read(settings: dict[str, Any]) -> Battery:
        return config.read(Battery, written_out(settings.get("evaluation", settings), data))

    return config.read_file(path, "battery", read)


def written_out(settings: dict[str, Any], data: str | None) -> dict[str, Any]:
    """The settings of a battery, with the one that `battery` names written out in them."""
    if "battery" not in settings:
        return settings
    own = dict(settings)
    norm = config.read(Norm, own.pop("norm"), "norm") if "norm" in own else None
    eps = config.read(float, own.pop("eps"), "eps") if "eps" in own else None
    base = config.write(named_battery(config.read(str, own.pop("battery"), "battery"), norm=norm, eps=eps, data=data))
    for table in ("attacks", "black_box", "audit", "suspicion"):
        for name, attack in own.pop(table, {}).items():
            before = base.setdefault(table, {}).get(name, {})
            # Another kind of attack is another attack, of which no setting is kept.
            same = isinstance(attack, dict) and attack.get("kind", before.get("kind")) == before.get("kind")
            base[table][name] = before | attack if same else attack
    return base | own


def _built(name: str, norm: Norm, eps: float | None, data: str | None) -> Battery:
    quick = name == "quick"
    if norm is L0 and name == "signs":
        raise ValueError("the signs are read in Linf, L2 and L1, where attacks are bounded; got L0")
    if norm is L0:
        if eps is not None:
            raise ValueError(f"in L0, {name} has minimal-norm attacks only, which have no radius: leave eps out")
        return Battery(lists.without_radius(quick=quick), {"Salt and pepper L0": SaltAndPepper()}, survivors_only=True)
    eps = default_radius(data, norm) if eps is None else eps
    if not 0 < eps < float("inf"):
        raise ValueError(f"eps is a radius above 0; got {eps}")
    check_radius(norm, eps, (0.0, 1.0), name)
    if name == "signs":
        return Battery(*lists.signs(norm, eps))
    black_box = lists.decisions(norm, eps, quick=quick)
    if name == "standard" and norm is not L1:
        more: dict[str, Any] = {"audit": lists.audit(norm, eps), "suspicion": lists.thorough(norm, eps)}
        return Battery(lists.standard(norm, eps), black_box, survivors_only=True, **more)
    return Battery((lists.quick if quick else lists.thorough)(norm, eps), black_box, survivors_only=True)


def _of_paper(name: str, data: str | None) -> tuple[Path, bool]:
    """The file for a data set, and whether it is of that data set; others have that of CIFAR-10, or else of MNIST."""
    if name not in battery_names():
        raise ValueError(f"there is no battery {name}; {nearest(name, battery_names())}")
    paths = {path.stem.rpartition("_")[2]: path for path in PAPERS.glob(f"{name.removeprefix(PAPER)}_*.toml")}
    known = {each: path for of, path in paths.items() for each in of.split("-")}
    if data is not None and data.lower() in known:
        return known[data.lower()], True
    return known["cifar10" if "cifar10" in known else "mnist"], False


def _radii(battery: Battery) -> set[Any]:
    return {attack.budget[1] for attack in battery.attacks.values() if attack.budget is not None}


def _at_radius(battery: Battery, eps: float, name: str) -> Battery:
    """The battery at another radius, with step sizes in proportion; attacks are named by the calls that make them."""
    radii = _radii(battery)
    if len(radii) != 1:
        held = f"several radii, {', '.join(map(lists.written, sorted(radii)))}" if radii else "no radius"
        raise ValueError(f"{name} has {held}, so that eps cannot replace one: write a TOML file of your own")
    (radius,) = radii
    attacks = {}
    for before, attack in battery.attacks.items():
        if attack.budget is None:
            attacks[before] = attack
            continue
        settings: dict[str, Any] = {"eps": eps}
        if (step := getattr(attack, "step_size", None)) is not None:
            settings["step_size"] = step * eps / radius
        moved = replace(attack, **settings)
        attacks[str(moved)] = moved
    return replace(battery, attacks=attacks)
