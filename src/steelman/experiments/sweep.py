"""A recipe trained once for each value of a setting: `steelman sweep`."""

import json
import re
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

from torch import nn

from steelman import config
from steelman.checkpoint import room_for
from steelman.clusters.cluster import Cluster, executor_of
from steelman.data.dataset import Dataset
from steelman.evaluation.battery import Battery
from steelman.experiments.assess import attacked, battery_of
from steelman.experiments.continuing import refuse_other
from steelman.experiments.recipe import Recipe, build, load_recipe
from steelman.experiments.recipe_file import find_recipe, parts_of
from steelman.experiments.run import folder_in, train_named, train_recipe
from steelman.experiments.sweep_results import EvaluationOptions, SweepResults, SweptNetwork
from steelman.failures import described
from steelman.files import REPORT, parse_toml, sha256, working_in, writable
from steelman.loading.subject import Subject
from steelman.measures import default_measure, measures, named_measure
from steelman.measures.robustness import CLEAN_ACCURACY
from steelman.table.places import TABLE
from steelman.training.distributed import processes
from steelman.trust import named_in, written
from steelman.workers import check_shared
from steelman.workers import each as each_result


@dataclass(frozen=True)
class Variant:
    """A recipe with one value for each of the settings that vary: the recipe at `path` with these `changes`."""

    path: Path
    changes: tuple[str, ...]
    values: dict[str, str]
    recipe: Recipe

    @property
    def folder(self) -> str:
        text = ",".join(f"{path}={value}" for path, value in self.values.items())
        plain = re.sub(r"[^\w.=,+-]+", "_", text)[:100]
        return plain if plain == text else f"{plain}-{sha256(text)[:8]}"


def sweep(
    name: str,
    vary: Sequence[str],
    runs: Path,
    data: Path | None = None,
    *,
    changes: Sequence[str] = (),
    called: str | None = None,
    options: EvaluationOptions | None = None,
    measure: str = "",
    count: int = 1,
    cluster: Cluster | None = None,
    say: Callable[[str], None] = print,
) -> SweepResults:
    """Train a recipe for every value, attack each network with one battery, and draw its robustness curve.

    name     the recipe
    vary     settings and their values, such as "defence.c=5,10,20"; a network is trained for each combination. There is
             a curve along the first setting for each combination of the others. Values are TOML, or bare words, with
             commas between them: "network.hidden=[32],[64, 64]"
    runs     the sweep's folder is `runs`/`called` (default: the recipe's name and "-sweep"), in which each has its run
    changes  of the recipe, common to all, such as "training.epochs=5"
    options  of the evaluation; default: those of the call before, at first the recipe's own attacks
    measure  of robustness, by its name or beginning; default: that of the call before, at first `default_measure`
    count    how many are trained at once, each by a process of its own
    cluster  an executor, or what `steelman.clusters.connected` takes, in place of processes of this machine; its
             processes must see the same folders
    say      is called with a line of text for each network that is done

    The same call resumes: what is trained and attacked stays, and other values are added. A training that diverges is
    reported; the others continue, and the next call resumes it from its last checkpoint. While a sweep works, another
    one in its folder waits.

    Cost: that of training and attacking each network.

    Raises:
        FileNotFoundError, ValueError: before any training, for: no such recipe, setting or battery; invalid values; a
            single value; a folder in which other settings vary, or had other values. After the first network, for: no
            such measure. At the end, where no network could be trained.
    """
    if processes().world > 1:
        raise ValueError("a sweep starts processes of its own (workers): call it without torchrun")
    with ExitStack() as stack:
        stack.enter_context(written(*vary, *changes))
        path = find_recipe(name)
        folder = folder_in(runs, called or f"{path.stem}-sweep")
        _, variants, wanted = _planned(path, folder, vary, changes, options)
        _check(variants, folder, data, wanted)  # before the folder is touched
        stack.enter_context(working_in(folder))
        before, variants, options = _planned(path, folder, vary, changes, options)
        same = before is not None and before.options == options and not (options.battery or "").endswith(".toml")
        known = {each.run: each for each in before.networks} if before is not None and same else {}
        networks = {
            each.folder: known[each.folder]
            if each.folder in known and _is_finished(each, known[each.folder], folder)
            else SweptNetwork(each.folder, each.values)
            for each in variants
        }
        results = _with(
            SweepResults(folder, path.stem, options, before.measure if before else "", ()), networks, measure
        )
        results.save()
        left = [each for each in variants if not networks[each.folder].measures]
        for variant in left:  # here, and once: two workers could begin to train the same one
            train_named(variant.recipe, path, runs, data)
        place = folder.relative_to(runs)
        alone = count == 1 and cluster is None  # several bars in one terminal would be unreadable
        jobs = [_Job(each, runs, f"{place}/{each.folder}", data, options, alone) for each in left]
        executor = stack.enter_context(executor_of(max(1, min(count, len(jobs))), cluster if jobs else None))
        for network in each_result(_train_and_evaluate, jobs, executor):
            networks[network.run] = network
            results = _with(results, networks, measure)
            results.save()
            say(_line(network, results.measure))
        results.write()
    if not any(network.measures for network in results.networks):
        raise ValueError(f"no network of {folder} could be trained and evaluated: {results.networks[0].failed}")
    return results


def _planned(
    path: Path, folder: Path, vary: Sequence[str], changes: Sequence[str], options: EvaluationOptions | None
) -> tuple[SweepResults | None, list[Variant], EvaluationOptions]:
    """The sweep in the folder, the variants of this call and of that sweep, and the options of the evaluation."""
    before = SweepResults.load(folder) if (folder / SweepResults.FILE).is_file() else None
    options = options or (before.options if before else EvaluationOptions())
    return before, _variants(path, list(vary), list(changes), before), options


def _with(results: SweepResults, networks: dict[str, SweptNetwork], measure: str) -> SweepResults:
    """With these networks, and with a measure once one of them has some."""
    ordered = tuple(sorted(networks.values(), key=lambda network: network.order))
    measured = {network.run: network.measures for network in ordered if network.measures}
    chosen = measure or results.measure
    if measured:
        some = dict([next(iter(measured.items()))])
        chosen = named_measure(some, chosen) if chosen else default_measure(some) or ""
    return replace(results, measure=chosen, networks=ordered)


def _is_finished(variant: Variant, network: SweptNetwork, folder: Path) -> bool:
    """Whether a variant is trained and evaluated, both as its recipe has it now."""
    run = folder / variant.folder
    there = (run / name for name in ("recipe.toml", "best.safetensors", f"evaluation/{TABLE}"))
    if not network.measures or not all(path.is_file() for path in there):
        return False
    return config.write(load_recipe(run / "recipe.toml", resolve=False)) == config.write(variant.recipe)


@dataclass(frozen=True)
class _Job:
    variant: Variant
    runs: Path
    called: str
    data: Path | None
    options: EvaluationOptions
    progress: bool


def _train_and_evaluate(job: _Job) -> SweptNetwork:
    variant, options = job.variant, job.options
    network = SweptNetwork(variant.folder, variant.values)
    try:
        check_shared((job.runs / job.called).parent)
        run = train_recipe(variant.recipe, variant.path, job.runs, job.called, job.data, job.progress)
        network = replace(network, seconds=sum(line.get("seconds", 0.0) for line in run.log))
        subject = run.subject(job.data)
        battery = _battery_of(subject, options)
        tables = attacked(subject, battery, folder=run.results, images=options.images, progress=job.progress)
        return replace(network, measures=measures(*tables.values()))
    except Exception as error:  # whatever it is, the other networks are trained
        return replace(network, failed=described(error)[1])


def _battery_of(subject: Subject, options: EvaluationOptions) -> Battery:
    return battery_of(subject, options.battery, options.norm, options.eps, options.survivors_only)


def _line(network: SweptNetwork, measure: str) -> str:
    if not network.measures:
        return f"{network} failed: {network.failed}"
    shown = (f"{name} {network.measures.get(name, 'not measured')}" for name in (CLEAN_ACCURACY, measure) if name)
    return f"{network}: {', '.join(shown)}"


def _variants(path: Path, vary: list[str], changes: list[str], before: SweepResults | None) -> list[Variant]:
    """Those of this call, and those of the sweep in the folder."""
    asked = [_values(text) for text in vary]
    paths = [setting for setting, _ in asked]
    for setting in paths:
        if paths.count(setting) > 1:
            raise ValueError(f"--vary {setting}: it is given twice; put all of its values into one")
        if any(change.partition("=")[0].strip() == setting for change in changes):
            raise ValueError(f"{setting} is given by --vary and by --set: leave one out")
        if parts_of(setting)[0] == "evaluation":
            raise ValueError(
                f"--vary {setting}: a sweep varies what is trained, and this is how it is evaluated. For the settings "
                "of an attack, evaluate one model with a --battery that has the attack once for each value"
            )
    if before is not None and list(before.varied) != paths:
        there, here = ", ".join(before.varied), ", ".join(paths)
        raise ValueError(f"{before.folder} is a sweep over {there}: give one over {here} another --name")
    found: dict[str, Variant] = {}
    for texts in product(*(values for _, values in asked)):
        variant = _variant(path, changes, dict(zip(paths, texts, strict=True)))
        if variant.folder in found:
            raise ValueError(f"{variant.folder} is given twice")
        found[variant.folder] = variant
    for network in before.networks if before else ():
        variant = _variant(path, changes, dict(network.values))
        found.setdefault(variant.folder, variant)
    if len(found) < 2:
        raise ValueError(f"--vary {vary[0]}: a sweep needs two values at least, with commas between them")
    return list(found.values())


def _values(vary: str) -> tuple[str, list[str]]:
    """A setting and the texts of its values.

    A comma inside a TOML value (a list, a table, a string) does not end the value: as many of the pieces between commas
    are joined as make TOML. A piece that makes none is a bare word.
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


def _check(variants: list[Variant], folder: Path, data: Path | None, options: EvaluationOptions) -> None:
    """Raises the error of any variant before the first one is trained."""
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
        _battery_of(_untrained(variant, images[source], folder), options)
    if largest is not None:
        room_for(largest, folder, new)
    writable(folder, REPORT)


def _untrained(variant: Variant, like: Dataset, folder: Path) -> Subject:
    """What decides a variant's battery, as far as it is known before it is trained."""
    about: dict[str, Any] = {"battery": variant.recipe.battery, "data": type(variant.recipe.data).__name__}
    return Subject(
        variant.folder, nn.Identity(), like, lambda: like, folder, generator=lambda adversary: nn.Identity(), **about
    )


def _size(network: nn.Module) -> int:
    return sum(value.numel() for value in network.state_dict().values())
