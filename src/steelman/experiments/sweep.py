"""A recipe trained once for each value of a setting: `steelman sweep`."""

import hashlib
import json
import re
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

from torch import nn

from steelman import config
from steelman.checkpoint import room_for
from steelman.data.dataset import Dataset
from steelman.evaluation.battery import Battery
from steelman.experiments.assess import attacked, battery_of
from steelman.experiments.recipe import Recipe, build, load_recipe
from steelman.experiments.recipe_file import find_recipe, parts_of
from steelman.experiments.run import folder_in, refuse_other, train_named, train_recipe
from steelman.experiments.swept import Judging, Outcome, Swept
from steelman.failures import described
from steelman.files import REPORT, parse_toml, working_in, writable
from steelman.loading.subject import Subject
from steelman.measures import default_measure, measures, named_measure
from steelman.measures.robustness import CLEAN_ACCURACY
from steelman.table.places import TABLE
from steelman.training.distributed import processes
from steelman.trust import named_in, written
from steelman.workers import each as worked
from steelman.workers import workers


@dataclass(frozen=True)
class Variant:
    """A recipe with one value for each of the settings that vary; `changes` make it of the recipe at `path`."""

    path: Path
    changes: tuple[str, ...]
    values: dict[str, str]
    recipe: Recipe

    @property
    def folder(self) -> str:
        told = ",".join(f"{path}={value}" for path, value in self.values.items())
        plain = re.sub(r"[^\w.=,+-]+", "_", told)[:100]
        return plain if plain == told else f"{plain}-{hashlib.sha256(told.encode()).hexdigest()[:8]}"


def sweep(
    name: str,
    vary: Sequence[str],
    runs: Path,
    data: Path | None = None,
    *,
    changes: Sequence[str] = (),
    called: str | None = None,
    judging: Judging | None = None,
    measure: str = "",
    count: int = 1,
    say: Callable[[str], None] = print,
) -> Swept:
    """Train a recipe for every value, attack each network with one battery, and draw its robustness curve.

    name     the recipe
    vary     settings and their values, such as "defence.c=5,10,20"; a network is trained for each combination. Along
             the first setting goes a curve, and there is one for each combination of the others. Values are TOML, or
             bare words, with commas between them: "network.hidden=[32],[64, 64]"
    runs     the sweep's folder is `runs`/`called` (default: the recipe's name and "-sweep"), in which each has its run
    changes  of the recipe, common to all, such as "training.epochs=5"
    judging  how each is evaluated; default: as in the call before, at first by the recipe's own attacks
    measure  of robustness, by its name or beginning; default: that of the call before, at first `default_measure`
    count    how many are trained at once, each by a process of its own
    say      is told of each network that is done

    Called again, it goes on: what is trained and attacked is left as it is, and other values are added. A training that
    diverges is told, costs no other one, and goes on from its last checkpoint in the next call. While a sweep works,
    another one in its folder waits.

    Cost: that of training and attacking each network.

    Raises:
        FileNotFoundError, ValueError: before any training, for: no such recipe, setting or battery; values with which
            the recipe cannot be; a single value; a folder in which other settings vary, or were other. After the first
            network, for: no such measure. At the end, where not one could be trained.
    """
    if processes().world > 1:
        raise ValueError("a sweep starts processes of its own (workers): call it without torchrun")
    with written(*vary, *changes):
        return _sweep(name, vary, runs, data, changes, called, judging, measure, count, say)


def _sweep(
    name: str,
    vary: Sequence[str],
    runs: Path,
    data: Path | None,
    changes: Sequence[str],
    called: str | None,
    judging: Judging | None,
    measure: str,
    count: int,
    say: Callable[[str], None],
) -> Swept:
    path = find_recipe(name)
    folder = folder_in(runs, called or f"{path.stem}-sweep")
    _, variants, judged = _asked(path, folder, vary, changes, judging)
    _check(variants, folder, data, judged)  # before the folder is touched
    with working_in(folder):
        before, variants, judging = _asked(path, folder, vary, changes, judging)
        same = before is not None and before.judging == judging and not (judging.battery or "").endswith(".toml")
        known = {each.run: each for each in before.outcomes} if before is not None and same else {}
        outcomes = {
            each.folder: known[each.folder]
            if each.folder in known and _finished(each, known[each.folder], folder)
            else Outcome(each.folder, each.values)
            for each in variants
        }
        swept = _with(Swept(folder, path.stem, judging, before.measure if before else "", ()), outcomes, measure)
        swept.save()
        left = [each for each in variants if not outcomes[each.folder].measures]
        for variant in left:  # here, and once: two of the others could begin to train the same one
            train_named(variant.recipe, path, runs, data)
        place, alone = folder.relative_to(runs), count == 1  # several bars in one terminal would be none
        jobs = [_Job(each, runs, f"{place}/{each.folder}", data, judging, alone) for each in left]
        with workers(max(1, min(count, len(jobs)))) or nullcontext() as executor:
            for outcome in worked(_done, jobs, executor):
                outcomes[outcome.run] = outcome
                swept = _with(swept, outcomes, measure)
                swept.save()
                say(_told(outcome, swept.measure))
        swept.write()
        if not any(outcome.measures for outcome in swept.outcomes):
            raise ValueError(f"not one network of {folder} could be trained and evaluated: {swept.outcomes[0].failed}")
        return swept


def _asked(
    path: Path, folder: Path, vary: Sequence[str], changes: Sequence[str], judging: Judging | None
) -> tuple[Swept | None, list[Variant], Judging]:
    """The sweep that is there, the variants that are asked for or were there, and how they are evaluated."""
    before = Swept.load(folder) if (folder / Swept.FILE).is_file() else None
    judging = judging or (before.judging if before else Judging())
    return before, _variants(path, list(vary), list(changes), before), judging


def _with(swept: Swept, outcomes: dict[str, Outcome], measure: str) -> Swept:
    """With these outcomes, and with a measure once one of them has some."""
    ordered = tuple(sorted(outcomes.values(), key=lambda outcome: outcome.order))
    measured = {outcome.run: outcome.measures for outcome in ordered if outcome.measures}
    chosen = measure or swept.measure
    if measured:
        some = dict([next(iter(measured.items()))])
        chosen = named_measure(some, chosen) if chosen else default_measure(some) or ""
    return replace(swept, measure=chosen, outcomes=ordered)


def _finished(variant: Variant, outcome: Outcome, folder: Path) -> bool:
    """Whether a variant is trained and evaluated, both as its recipe has it now."""
    run = folder / variant.folder
    there = (run / name for name in ("recipe.toml", "best.safetensors", f"evaluation/{TABLE}"))
    if not outcome.measures or not all(path.is_file() for path in there):
        return False
    return config.write(load_recipe(run / "recipe.toml")) == config.write(variant.recipe)


@dataclass(frozen=True)
class _Job:
    variant: Variant
    runs: Path
    called: str
    data: Path | None
    judging: Judging
    progress: bool


def _done(job: _Job) -> Outcome:
    """Train and evaluate one variant."""
    variant, judging = job.variant, job.judging
    outcome = Outcome(variant.folder, variant.values)
    try:
        run = train_recipe(variant.recipe, variant.path, job.runs, job.called, job.data, job.progress)
        outcome = replace(outcome, seconds=sum(line.get("seconds", 0.0) for line in run.log))
        subject = run.subject(job.data)
        battery = battery_of(subject, judging.battery, judging.norm, judging.eps, judging.survivors_only)
        tables = attacked(subject, battery, folder=run.results, images=judging.images, progress=job.progress)
        found = measures(*tables.values())
    except Exception as error:  # whatever it is, the other networks are trained
        return replace(outcome, failed=described(error)[1])
    return replace(outcome, measures=found)


def _told(outcome: Outcome, measure: str) -> str:
    values = ", ".join(f"{path}={value}" for path, value in outcome.values.items())
    if not outcome.measures:
        return f"{values} failed: {outcome.failed}"
    shown = (f"{name} {outcome.measures.get(name, 'not measured')}" for name in (CLEAN_ACCURACY, measure) if name)
    return f"{values}: {', '.join(shown)}"


def _variants(path: Path, vary: list[str], changes: list[str], before: Swept | None) -> list[Variant]:
    """Those that are asked for, and those that were there before."""
    asked = [_values(text) for text in vary]
    paths = [setting for setting, _ in asked]
    for setting in paths:
        if paths.count(setting) > 1:
            raise ValueError(f"--vary {setting}: it is given twice; put all of its values into one")
        if any(change.partition("=")[0].strip() == setting for change in changes):
            raise ValueError(f"{setting} is given by --vary and by --set: leave one out")
        if parts_of(setting)[0] == "evaluation":
            raise ValueError(f"--vary {setting}: a sweep varies what is trained, and this is how it is evaluated")
    if before is not None and list(before.varied) != paths:
        there, here = ", ".join(before.varied), ", ".join(paths)
        raise ValueError(f"{before.folder} is a sweep over {there}: give one over {here} another --name")
    found: dict[str, Variant] = {}
    for texts in product(*(values for _, values in asked)):
        variant = _variant(path, changes, dict(zip(paths, texts, strict=True)))
        if variant.folder in found:
            raise ValueError(f"{variant.folder} is given twice")
        found[variant.folder] = variant
    for outcome in before.outcomes if before else ():
        variant = _variant(path, changes, dict(outcome.values))
        found.setdefault(variant.folder, variant)
    if len(found) < 2:
        raise ValueError(f"--vary {vary[0]}: a sweep needs two values at least, with commas between them")
    return list(found.values())


def _values(vary: str) -> tuple[str, list[str]]:
    """A setting and the texts of its values.

    Commas inside of a TOML value (a list, a table, a string) do not part it: of the pieces between commas, so many are
    put together again as it takes to be TOML. What is no TOML however many are taken is a bare word.
    """
    path, _, text = vary.partition("=")
    path = path.strip()
    if not parts_of(path) or not text.strip():
        raise ValueError(f"--vary needs path=value,value, such as defence.c=5,10,20; got {vary!r}")
    pieces, values = text.split(","), []
    while pieces:
        taken = next((n for n in range(1, len(pieces) + 1) if _is_toml(",".join(pieces[:n]))), 1)
        values.append(",".join(pieces[:taken]).strip())
        pieces = pieces[taken:]
    if "" in values:
        raise ValueError(f"--vary {vary}: there is nothing between two of the commas")
    return path, values


def _is_toml(text: str) -> bool:
    try:
        parse_toml(f"value = {text}")
    except ValueError:
        return False
    return True


def _variant(path: Path, changes: list[str], texts: dict[str, str]) -> Variant:
    """The recipe with these values, each as the recipe spells it, so that 5 and 5.0 are one."""
    all_changes = (*changes, *(f"{each}={text}" for each, text in texts.items()))
    recipe = load_recipe(path, list(all_changes))
    written = config.write(recipe)
    values = {each: _spelt(written, parts_of(each)) or text for each, text in texts.items()}
    return Variant(path, all_changes, values, recipe)


def _spelt(written: Any, parts: list[str]) -> str:
    """A setting's value in a recipe as written; "" for a table, which can be written in many ways."""
    for part in parts:
        written = written.get(part) if isinstance(written, dict) else None
    match written:
        case str():
            return json.dumps(written) if _is_toml(written) else written
        case float():
            return repr(written).removesuffix(".0")
        case bool() | int() | list():
            return json.dumps(written)
    return ""


def _check(variants: list[Variant], folder: Path, data: Path | None, judging: Judging) -> None:
    """Raises what would be wrong with any of them, before the first is trained."""
    images: dict[str, Any] = {}
    batteries: dict[str, Variant] = {}
    largest: nn.Module | None = None
    new = 0
    for variant in variants:
        recipe = variant.recipe
        refuse_other(recipe, folder / variant.folder)
        source = str(recipe.data)
        if source not in images:
            with named_in(variant.path):
                images[source] = recipe.data.load("train", data)
            batteries[source] = variant
        try:
            with named_in(variant.path):
                network = build(recipe, images[source], fitted=False)
        except ValueError as error:
            raise ValueError(f"{variant.folder}: {error}") from error
        if not (folder / variant.folder / "last.safetensors").is_file():
            new += 1
            largest = network if largest is None else max(largest, network, key=_size)
    for source, variant in batteries.items():
        _battery(variant, images[source], folder, judging)
    if largest is not None:
        room_for(largest, folder, new)
    writable(folder, REPORT)


def _battery(variant: Variant, like: Dataset, folder: Path, judging: Judging) -> Battery:
    """What a variant will be evaluated with, as far as that can be told before it is trained."""
    recipe = variant.recipe
    subject = Subject(
        variant.folder,
        nn.Identity(),
        like,
        lambda: like,
        folder,
        battery=recipe.evaluation if recipe.evaluation.attacks or recipe.evaluation.deep_defense else None,
        generator=lambda adversary: nn.Identity(),
        data=type(recipe.data).__name__,
    )
    return battery_of(subject, judging.battery, judging.norm, judging.eps, judging.survivors_only)


def _size(network: nn.Module) -> int:
    return sum(value.numel() for value in network.state_dict().values())
