"""What has to be trained and measured for a paper, each with a digest by which a finished one is known."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from steelman import config
from steelman.adversaries.adversary import AttackTraining
from steelman.attacks.composed.towards import every_target
from steelman.attacks.core import Attack
from steelman.evaluation.battery import Battery, written_out
from steelman.experiments.recipe import Recipe, load_recipe
from steelman.experiments.recipe_file import beside, find_recipe
from steelman.files import sha256
from steelman.papers.chosen import Part, wanted
from steelman.papers.paper import Evaluation, Learned, Network, Paper, Scale
from steelman.training.fingerprint import FREE
from steelman.training.prepare import Guided

EPS_REF = re.compile(r"([\d.]+) eps_ref")
"""A radius as a share of eps_ref, such as "0.5 eps_ref"."""


MOST_OF_A_NAME = 40


@dataclass(frozen=True)
class Trained:
    """A network to train.

    name     of its run
    recipe   with the checkpoints of the runs that it needs in place of the names of their recipes
    path     of the recipe's file
    needs    the networks that are trained first
    reduced  what of the paper's budget is left out; "" for all of it
    digest   equal for equal recipes, needs and seeds
    begin    the network among `needs` from whose generator an attack's generator goes on
    """

    name: str
    recipe: Recipe
    path: Path
    needs: tuple["Trained", ...]
    reduced: str
    digest: str
    begin: "Trained | None" = None

    @property
    def every(self) -> Iterator["Trained"]:
        """Itself after all that it needs."""
        for each in self.needs:
            yield from each.every
        yield self


@dataclass(frozen=True)
class Measured:
    """An evaluation of a network.

    needs   the networks of which it has to know: its own, its source, that of its eps_ref, generators
    learned the generators of its learned attacks, which are in the battery by their runs' paths
    wants   measures that are asked for; more are kept
    """

    name: str
    network: Trained
    evaluation: Evaluation
    battery: Battery
    source: Trained | None
    eps_ref_of: Trained | None
    reduced: str
    digest: str
    learned: tuple[Trained, ...] = ()
    wants: frozenset[str] = frozenset()

    @property
    def needs(self) -> tuple[Trained, ...]:
        every = (self.network, self.source, self.eps_ref_of, *self.learned)
        return tuple(each for each in every if each is not None)

    def attacks(self, eps_ref: float | None = None, classes: int = 10) -> dict[str, Attack]:
        """The attacks by name, at every radius and towards every target that is asked for."""
        found: dict[str, Attack] = {}
        for name, attack in self.battery.attacks.items():
            radii = self.evaluation.radii.get(name)
            if radii is not None:
                key = "confidence" if attack.budget is None else "eps"
                found |= {
                    at_radius(name, radius): replace(attack, **{key: _number(radius, eps_ref)}) for radius in radii
                }
            else:
                found[name] = attack
        return every_target(found, classes) if self.evaluation.targets else found


def at_radius(name: str, radius: float | str) -> str:
    """The name of an attack at one of its radii."""
    return f"{name} {radius}" if isinstance(radius, str) else f"{name} {radius:g}".replace(" 0.", " .")


def _number(radius: float | str, eps_ref: float | None) -> float:
    if not isinstance(radius, str):
        return radius
    share = EPS_REF.fullmatch(radius)
    if share is None or eps_ref is None:
        raise ValueError(f'a radius is a number or a share such as "0.5 eps_ref", with eps_ref_of; got {radius!r}')
    return float(share[1]) * eps_ref


@dataclass(frozen=True)
class Jobs:
    """Makes the jobs of one paper, at one scale and seed."""

    paper: Paper
    scale: Scale
    seed: int
    runs: Path
    _trained: dict[Network, Trained] = field(default_factory=dict, repr=False, compare=False)

    @cached_property
    def reduced(self) -> Any:
        return self.paper.reduced.get(self.scale)

    def trained(self, network: Network) -> Trained:
        """The job that trains a network, and those before it.

        Raises:
            FileNotFoundError, ValueError: there is no such recipe, or it has no such setting.
        """
        if network not in self._trained:
            self._trained[network] = self._train(network)
        return self._trained[network]

    def _train(self, network: Network) -> Trained:
        path = find_recipe(network.recipe)
        less = self.reduced.changes(path.stem) if self.reduced else ()
        recipe, own = _recipe(path, (*network.changes, *less)), _recipe(path)
        names = [*recipe.starts, *(each.on for each in recipe.prepare if isinstance(each, Guided) and each.on)]
        needs = {name: self.trained(Network(beside(path, name))) for name in dict.fromkeys(names)}
        small = bool(less) or any(each.reduced for each in needs.values())
        changes = [each for each in network.changes if _recipe(path, (each,)) != own]
        name = ",".join([path.stem, *map(_plain, changes)])
        name += f"-{self.scale}" if small else ""
        name += f"-seed{self.seed + 1}" if self.seed else ""
        training = replace(recipe.training, seed=recipe.training.seed + self.seed)
        digest = _digest_of(replace(recipe, training=training), {name: each.digest for name, each in needs.items()})
        recipe = self._placed(replace(recipe, training=training), needs)
        return Trained(name, recipe, path, tuple(needs.values()), self.reduced.what if small else "", digest)

    def _placed(self, recipe: Recipe, needs: dict[str, Trained]) -> Recipe:
        """With the checkpoints of runs whose names are not those of their recipes."""
        moved = {
            name: str((self.runs / each.name / "best.safetensors").absolute())
            for name, each in needs.items()
            if each.name != each.path.stem
        }
        start = tuple(moved.get(each, each) for each in recipe.starts)
        prepare = tuple(
            replace(each, on=moved[each.on])  # pyright: ignore[reportCallIssue]
            if isinstance(each, Guided) and each.on in moved
            else each
            for each in recipe.prepare
        )
        return replace(recipe, start=(start[0] if isinstance(recipe.start, str) else start or None), prepare=prepare)

    def measured(self, network: Network, evaluation: Evaluation) -> Measured:
        """The job that measures a network."""
        trained = self.trained(network)
        most = self.reduced.images if self.reduced else None
        small = most is not None and (evaluation.images is None or evaluation.images > most)
        if small:
            evaluation = replace(evaluation, images=most)
        of = self.trained(Network(evaluation.eps_ref_of)) if evaluation.eps_ref_of else None
        source = self.trained(evaluation.source) if evaluation.source else None
        battery = _battery(json.dumps(evaluation.settings), type(trained.recipe.data).__name__, evaluation.name)
        if self.reduced and self.reduced.attacks:
            less = {key: self._lessened(attack) for key, attack in battery.attacks.items()}
            small, battery = small or less != battery.attacks, replace(battery, attacks=less)
        generators = {key: self.generator(each, source or trained) for key, each in evaluation.learned.items()}
        facts = _facts(evaluation, battery, generators)
        digest = sha256(json.dumps([facts, *(each and each.digest for each in (trained, source, of))], sort_keys=True))
        learned = {key: self._attack(each, generators[key]) for key, each in evaluation.learned.items()}
        battery = replace(battery, attacks=battery.attacks | learned)
        others = any(each.reduced for each in (source, of, *generators.values()) if each is not None)
        small = small or (others and not trained.reduced)
        reduced = self.reduced.what if small else trained.reduced
        name = f"{trained.name} / {evaluation.name}" + (f"-{self.scale}" if small else "")
        every = tuple(generators.values())
        return Measured(name, trained, evaluation, battery, source, of, reduced, digest[:16], every)

    def generator(self, learned: Learned, victim: Trained) -> Trained:
        """The job that trains an attack's generator against a network, with the data and network of that.

        Raises:
            FileNotFoundError, ValueError: there is no such recipe, or it trains no attack.
        """
        path = find_recipe(learned.recipe)
        less = self.reduced.changes(path.stem) if self.reduced else ()
        recipe, begin = _recipe(path, less), self.trained(Network(learned.begin)) if learned.begin else None
        if not isinstance(recipe.defence, AttackTraining):
            raise ValueError(f"learned: {path} does not attack a classifier: its defence is {recipe.defence}")
        start = str((self.runs / victim.name / "best.safetensors").absolute())
        training = replace(recipe.training, seed=recipe.training.seed + self.seed)
        more = {"data": victim.recipe.data, "network": victim.recipe.network, "training": training}
        recipe = replace(recipe, start=start, **more)
        digest = _digest_of(recipe, {start: victim.digest})
        name, needs = path.stem + (f"-{self.scale}" if less else ""), (victim,)
        if begin is not None:
            name, needs, digest = f"{name}-from-{begin.name}", (victim, begin), sha256(digest + begin.digest)[:16]
        small = bool(less) or any(each.reduced for each in needs)
        reduced = self.reduced.what if small else ""
        return Trained(f"{name}-on-{victim.name}", recipe, path, needs, reduced, digest, begin)

    def _attack(self, learned: Learned, generator: Trained) -> Attack:
        """The adversary of a trained generator, as an attack."""
        assert isinstance(generator.recipe.defence, AttackTraining)
        folder = str((self.runs / generator.name).absolute())
        settings = config.write(generator.recipe.defence.adversary) | dict(learned.attack) | {"generator": folder}
        return config.read(Attack, settings, f"learned.{learned.recipe}")

    def _lessened(self, attack: Attack) -> Attack:
        """An attack with the settings that the scale has for its class."""
        less = self.reduced.settings(type(attack).__name__)
        where = f"scale.{self.scale}.attacks.{type(attack).__name__}"
        return config.read(Attack, config.write(attack) | less, where) if less else attack


def jobs_of(
    paper: Paper,
    scale: Scale,
    seeds: int,
    runs: Path,
    part: Part,
) -> tuple[list[Trained], list[Measured]]:
    """What a part of a paper needs, each once, in the order in which it is printed.

    Raises:
        ValueError: no such table or figure; no row or column fits its pattern.
    """
    trained: dict[str, Trained] = {}
    measured: dict[str, Measured] = {}
    for seed in range(seeds):
        made = Jobs(paper, scale, seed, runs)
        for network, evaluation, measure in wanted(paper, part):
            if evaluation is None:
                found = made.trained(network).every
            else:
                job = made.measured(network, paper.evaluations[evaluation])
                known = measured.get(job.name, job)
                measured[job.name] = replace(known, wants=known.wants | ({measure} if measure else set()))
                found = (each for need in job.needs for each in need.every)
            trained |= {each.name: each for each in found}
    return list(trained.values()), list(measured.values())


@lru_cache(maxsize=1000)
def _recipe(path: Path, changes: tuple[str, ...] = ()) -> Recipe:
    return load_recipe(path, list(changes))


@lru_cache(maxsize=1000)
def _battery(settings: str, data: str, name: str) -> Battery:
    return config.read(Battery, written_out(json.loads(settings), data), f"evaluation.{name}")


def _digest_of(recipe: Recipe, needs: dict[str, str]) -> str:
    """Of all that decides the weights; what a recipe needs counts by its own digest, not by its place."""
    facts = config.write(recipe)
    if not recipe.training.ends:  # younger than what has been measured
        del facts["training"]["ends"]
    facts.pop("evaluation", None)
    facts["training"] = {key: value for key, value in facts["training"].items() if key not in FREE}
    for name in ("start", "prepare"):
        facts.pop(name, None)
    prepare = [{**config.write(each), "on": needs.get(getattr(each, "on", None) or "", "")} for each in recipe.prepare]
    start = [needs[each] for each in recipe.starts]
    return sha256(json.dumps([facts, start, prepare], sort_keys=True))[:16]


def _facts(evaluation: Evaluation, battery: Battery, generators: dict[str, Trained]) -> dict[str, Any]:
    """All that decides a measurement, but for the networks; a setting at a default that came later is left out."""
    facts = {**vars(evaluation), "settings": config.write(battery), "source": "", "eps_ref_of": ""}
    facts["learned"] = {key: [generators[key].digest, each.attack] for key, each in evaluation.learned.items()}
    if not generators:
        del facts["learned"]
    if evaluation.batch_size == Evaluation.batch_size:  # it matters only to attacks on a whole batch
        del facts["batch_size"]
    if battery.samples == Battery.samples:  # it matters only to random models
        del facts["settings"]["samples"]
    return facts


def _plain(change: str) -> str:
    """A change as a part of a run's name."""
    plain = re.sub(r"[^\w.=+-]+", "_", change)
    return plain if len(plain) <= MOST_OF_A_NAME else f"{plain[:MOST_OF_A_NAME]}-{sha256(change)[:8]}"
