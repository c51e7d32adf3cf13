"""Evaluated models side by side, and transfer attacks between them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch

from steelman import config
from steelman.adversaries.adversary import Adversary
from steelman.attacks.core.attack import Attack
from steelman.checkup.findings import Checkup
from steelman.classes import concrete
from steelman.clusters.cluster import Cluster, executor_of
from steelman.data.dataset import Dataset
from steelman.evaluation.transferability import Source, transfer
from steelman.experiments.run import Run, check_same_data, entries
from steelman.files import REPORT, decoding, parse_json, writable
from steelman.identity import model_parts
from steelman.loading.images import table
from steelman.measures.paper_table import PaperTable
from steelman.measures.transfer import Transfer
from steelman.naming import nearest
from steelman.networks.building import device
from steelman.report.document import Document
from steelman.report.entry import Entry, comparable
from steelman.report.export import slug, write_document
from steelman.report.papers import Shape
from steelman.table.places import TABLE, tables_in
from steelman.table.table import Evaluation
from steelman.trust import written
from steelman.types import Model

RESULTS = "results.json"


@dataclass(frozen=True)
class Compared:
    """What a report on several models says, and the files that were written; the last is report.html."""

    document: Document
    written: list[Path]

    @property
    def shown(self) -> list[PaperTable | str]:
        """What a terminal shows: tables, and the first model against the others in sentences."""
        about, verdict = self.document, self.document.verdict
        found = [verdict.finding, *verdict.cautions, about.table, *map(str, about.main_pairs), *about.transfer_tables]
        return [*found, about.black_box] if about.black_box else found


def compare(
    folders: Sequence[Path],
    data: Path | None,
    into: Path,
    *,
    shape: Shape = "auto",
    attacks: Sequence[str] = (),
    surrogates: Sequence[Path] = (),
    ensemble: bool = False,
    count: int = 1,
    cluster: Cluster | None = None,
) -> Compared:
    """One report over several evaluated models.

    folders     of evaluated runs, or of evaluations of other models
    data        the folder of the data sets
    into        the folder of the report. Transfers are kept there with their images, and extended by the next call
    shape       of the table: see `paper_table`
    attacks     of transfers: the name of an attack of one of the runs' batteries, a kind, or a TOML table
    surrogates  runs on which images are crafted, instead of the runs that are compared
    ensemble    also craft on the mean of all sources' logits
    count       number of processes that craft
    cluster     an executor, or what `steelman.clusters.connected` takes, in place of processes of this machine

    Only transfers need networks and images. A 'module:function' in a recipe is imported only if it is trusted
    (`steelman.trust`).

    Raises:
        FileNotFoundError: a model has not been evaluated.
        ValueError: a folder is given twice; models of different data, images or names; a transfer where a folder is no
            run, or its network is not trusted.
    """
    for folder in folders:
        if folders.count(folder) > 1:
            raise ValueError(f"{folder} is given twice")
    runs = {folder: Run.open(folder) for folder in folders if _is_run(folder)}
    of_runs = dict(zip(runs, entries(list(runs.values())), strict=True)) if runs else {}
    shown = comparable([_with_checkup(of_runs[each], runs[each]) if each in runs else _left(each) for each in folders])
    writable(into, REPORT)
    transfers: list[Transfer] = []
    if attacks:
        if len(runs) < len(folders):
            other = next(folder for folder in folders if folder not in runs)
            raise ValueError(f"{other} is no run, so it has no model for a transfer: leave it or --transfer out")
        transfers = _transfers(list(runs.values()), shown, data, into, attacks, surrogates, ensemble, count, cluster)
    elif surrogates or ensemble:
        raise ValueError("surrogates are for a transfer: name its attack too, such as --transfer PGD")
    document = Document(shown, transfers, shape=shape)
    return Compared(document, write_document(into, document))


def _is_run(folder: Path) -> bool:
    return not (folder / TABLE).is_file() or (folder / "recipe.toml").is_file()


def _left(folder: Path) -> Entry:
    """One model, from the files of its evaluation."""
    tables = tables_in(folder)
    path = folder / RESULTS
    if not path.is_file():
        raise FileNotFoundError(f"{folder} has a table and no {RESULTS}: `steelman evaluate` writes both")
    with decoding(path, "what `steelman evaluate` writes", "Evaluate the model again"):
        models = parse_json(path.read_bytes())["models"]
        found = [_from_json(name, each, tables) for name, each in models.items()]
    if len(found) != 1:
        raise ValueError(f"{folder} is of {len(found)} models: give the folder of each one")
    return found[0]


def _from_json(name: str, model: Mapping[str, Any], tables: Mapping[str, Evaluation]) -> Entry:
    checkup, recipe = model["checkup"], model["recipe"] or ""
    asked, explained = model.get("asked"), model.get("explained") or ""  # older documents lack them
    if not all(isinstance(each, str) for each in (name, recipe, explained, *model["info"].values())):
        raise TypeError("names, recipe and info are texts")
    return Entry(
        name=name,
        evaluation=tables["pixels"],
        log=[dict(line) for line in model["training"]],
        info=model["info"],
        checkup=None if checkup is None else Checkup.of(checkup),
        recipe=recipe,
        preprocessed=tables.get("preprocessed"),
        asked=None if asked is None else (asked["norm"], float(asked["eps"])),
        explained=explained,
    )


def _with_checkup(entry: Entry, run: Run) -> Entry:
    """With the check-up of the evaluation, and the radius that it was asked for."""
    if not (run.results / RESULTS).is_file():
        return entry
    left = _left(run.results)
    return replace(entry, checkup=left.checkup, asked=left.asked, explained=left.explained)


def _transfers(
    runs: list[Run],
    shown: Sequence[Entry],
    data: Path | None,
    into: Path,
    attacks: Sequence[str],
    surrogates: Sequence[Path],
    ensemble: bool,
    count: int,
    cluster: Cluster | None,
) -> list[Transfer]:
    """One for each attack, on the images on which the models were evaluated."""
    named = dict(zip((entry.name for entry in shown), runs, strict=True))
    crafted_on = _sources(named, surrogates)
    whole = runs[0].data("test", data).to(device())
    evaluated = torch.from_numpy(np.unique(shown[0].evaluation["image"]))
    images = whole.subset(torch.where(torch.isin(whole.index.cpu(), evaluated))[0])
    models = {name: run.network(whole) for name, run in (named | crafted_on).items()}
    members = [models[name] for name in crafted_on]
    sources: dict[str, Source] = dict(zip(crafted_on, members, strict=True))
    if ensemble:
        if len(sources) < 2:
            raise ValueError("an ensemble needs two sources and more: give more --surrogate")
        sources[f"mean of {len(members)}"] = members
    targets = {name: models[name] for name in named}
    for entry in shown:
        _refuse_newer(entry, models[entry.name])
    found = []
    writable(into, REPORT + 4 * prod(images.shape) * len(images) * len(sources) * len(attacks))
    with executor_of(count, cluster) as executor:
        for text in attacks:
            name, attack = _attack(text, {**named, **crafted_on})
            of_each = _of_each(attack, sources, crafted_on, whole)
            place = into / f"transfer-{slug(name)}"
            found.append(transfer(sources, targets, images, of_each, name=name, executor=executor, folder=place))
    return found


def _sources(named: Mapping[str, Run], surrogates: Sequence[Path]) -> dict[str, Run]:
    """The runs on which images are crafted; a run that is also compared keeps its name."""
    if not surrogates:
        return dict(named)
    found: dict[str, Run] = {}
    first = next(iter(named.values()))
    for run in map(Run.open, surrogates):
        check_same_data(run, first)
        same = [name for name, other in named.items() if other.checkpoint.resolve() == run.checkpoint.resolve()]
        name = same[0] if same else run.name if run.name not in {**named, **found} else str(run.checkpoint)
        found[name] = run
    return found


def _attack(text: str, runs: Mapping[str, Run]) -> tuple[str, Attack]:
    """What `--transfer` names: an attack of the first battery with this name, a kind, or a table."""
    for run in runs.values():
        if text in run.recipe.evaluation.attacks:
            return text, run.recipe.evaluation.attacks[text]
    known = {name for run in runs.values() for name in run.recipe.evaluation.attacks}
    if text.startswith("{") or ":" in text or text in concrete(Attack):
        with written(text):
            settings = table(text, "--transfer") if text.startswith("{") else text
            attack = config.read(Attack, settings, "--transfer")
    else:
        raise ValueError(
            f"--transfer {text}: no run has an attack of this name, and there is no such kind; "
            f"{nearest(text, {*known, *concrete(Attack)})}"
        )
    return str(attack), attack


def _of_each(
    attack: Attack, sources: Mapping[str, Source], runs: Mapping[str, Run], like: Dataset
) -> Attack | dict[str, Attack]:
    """A learned adversary attacks each source with the generator that was trained on it."""
    if not isinstance(attack, Adversary) or attack.generator is not None:
        return attack
    if mean := [name for name in sources if name not in runs]:
        raise ValueError(f"{attack} needs a generator that was trained on {mean[0]}, and there is none")
    return {name: attack.with_generator(run.generator(attack, like)) for name, run in runs.items()}


def _refuse_newer(entry: Entry, model: Model) -> None:
    """Raises ValueError where a model has changed since it was evaluated."""
    try:
        entry.evaluation.refuse_other_model(model_parts(model))
    except ValueError as error:
        raise ValueError(
            f"{entry.name} is not the model that was evaluated ({error}): `steelman evaluate` it again, --fresh"
        ) from error
