"""Attack every image with every attack, and write the results into a table."""

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import nullcontext
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from steelman.attacks.core import Attack, AttackWrapper, check_images, check_labels, check_radii
from steelman.data.dataset import Data, Dataset
from steelman.data.sample import Sample
from steelman.evaluation.battery import unsupported
from steelman.evaluation.blocks import OWN, Block, Common, Unread, blocks_of, kind_of_device, work_on
from steelman.evaluation.lists import with_all_stages
from steelman.evaluation.probes.probe import Probe
from steelman.evaluation.store import EvaluationFolder, merged
from steelman.evaluation.task import Task, space_of
from steelman.extras import require
from steelman.files import writable
from steelman.identity import model_parts
from steelman.measures.audits import overtaken, sample_of, suspicions
from steelman.progress import ProgressBar
from steelman.randomness import answers_of, is_random
from steelman.table.places import Space
from steelman.table.records import CLEAN, Provenance, Record, record_of
from steelman.table.schema import misclassified
from steelman.table.table import Evaluation
from steelman.types import Batch, Model
from steelman.workers import each

GATHERED = 4
"""With `survivors_only`, so many batches form one task: few images remain of each, and small batches are slow."""

NO_IMAGES = Batch(torch.empty(0), torch.empty(0))
"""Of a task that is to get its images later."""


def evaluate(
    model: Model,
    dataset: Data,
    attacks: Sequence[Attack] | Mapping[str, Attack],
    *,
    batch_size: int = 250,
    seed: int = 0,
    space: Space = "pixels",
    progress: bool = True,
    survivors_only: bool = False,
    probes: Sequence[Probe] = (),
    audit: Mapping[str, Attack] | None = None,
    suspicion: Mapping[str, Attack] | None = None,
    suspected: bool = False,
    known: Evaluation | None = None,
    folder: str | Path | None = None,
    fresh: bool = False,
    executor: Executor | None = None,
    channels_last: bool = True,
) -> Evaluation:
    """Attack every image with every attack, and write a table with a row per image and attack.

    model       an `nn.Module` or any callable from images to logits, or to classes alone where attacks ask for no more.
                A module is evaluated in evaluation mode with its parameters frozen, and found as it was
    dataset     a `Dataset`, or images and labels as a pair of tensors; of `sampled(dataset, 1000)` the table records
                how it was drawn
    attacks     attacks, named by the call that makes them, or a mapping from names to attacks; they are run in this
                order. One with `reference="prediction"` leaves the model's prediction, not the label
    batch_size  images at once; it does not change the table, but for rounding inside the model
    seed        an image's noise is a hash of this, of its index and of the attack's name
    space       "pixels": attacks act on the images, inside their box. "preprocessed": for a model with `preprocess` and
                `network`, attacks act on `model.network` without a box, and distances are in that space, as in the
                papers whose data are preprocessed files
    progress    show a bar, where there is a terminal
    survivors_only  False: every attack is run on every image, so that it has an accuracy of its own. True: only images
                that are classified correctly are attacked, and a bounded attack is run only on those that nothing
                before it, in this call or in `known`, has broken within its norm and radius: the worst case is the
                same, and costs less. An attack that leaves the prediction is run on all images either way
    probes      what else is measured of every image; of those that need the training set, what `setup` returns
    audit       attacks for a second pass, once all images had the others: on a sample of the images that no attack has
                broken within their norm and radius, those with the lowest hashes of their indices. All where there are
                at most 60; else 30, and from 350 on 60. Where one of the sample is broken, all these images are
                attacked. Without `survivors_only` they are attacks like the others. `steelman.measures.audits.audits`
                says what a sample shows
    suspicion   attacks for the second pass on all images that are still correct, where one of the sample was broken,
                where the table gives reason to doubt the gradients (`steelman.measures.audits.suspicions`), or where
                `suspected`. They are run with the audit's, in their own order, and without a sample. If the only reason
                is that Square reached a higher margin than a `CascadeAttack` on few images, the cascade is first run on
                these with all its stages, and there is none if its margins are higher then
    suspected   whether there is a reason from elsewhere, as of a check-up (default False)
    known       a table of the same model, images and space to extend: its rows are not made again, unless they lack a
                probe that is asked for. The model is asked about the unattacked images again, and its answers, its
                weights, buffers, attributes and code, the images' pixels and the attacks must be those of the table
    folder      of `table.parquet` (`table-preprocessed.parquet` for that space): as `known`, and saved at the end.
                Finished blocks of images are kept in it, so that an evaluation that was killed goes on. Meanwhile,
                another process that uses the folder waits
    fresh       begin a new table in the folder; the old one stays until the new one is whole
    executor    where blocks are worked on, such as `steelman.workers.workers(4)` or `steelman.clusters.connected(...)`;
                default: in this process. Model and attacks are sent to a process once, images as the data set has them;
                a data set of files is read by the processes, where they find it
    channels_last  craft with convolutions in that layout, where the model allows it: 1.0 to 1.9 times as fast on a CPU,
                other by rounding (`steelman.layout`). Clean predictions and successes are of the model as it is. The
                attacks' records have this

    Cost: each attack's own, and one forward pass per attack to verify and one for the unattacked images.

    Raises:
        ValueError: no images, a label that has no class, two attacks of one name, one of them called "clean", a radius
            per image, a batch size below 1; for "preprocessed" a model without those parts, or an attack that needs a
            box; a known table of another model, space or other images, or with another attack under one of the names;
            an attack without a radius in `audit`; an executor of threads.
    """
    require("evaluate", "pyarrow")
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1; got {batch_size}")
    if isinstance(executor, ThreadPoolExecutor):
        raise ValueError("threads would change the model's mode under each other; give an executor of processes")
    if known is not None and folder is not None:
        raise ValueError("give known or folder, not both: the folder's own table is what is extended")
    named, sampled, suspicious = (_named(each or {}, dataset, space) for each in (attacks, audit, suspicion))
    for name, attack in sampled.items():
        if attack.budget is None or attack.reference != "label":
            raise ValueError(f"{name} cannot be run on a sample: an audit needs a radius, and leaves the label")
        if name in named:
            raise ValueError(f"two attacks are called {name}; give the one in audit another name")
    for name, attack in suspicious.items():
        if name in (known_as := named | sampled) and record_of(name, known_as[name]).differs(record_of(name, attack)):
            raise ValueError(f"two attacks are called {name}; give the one in suspicion another name")
    if not survivors_only:
        named, sampled = named | sampled, {}
    with space_of(model, space):
        pass  # refuses a model without such a space before anything is read
    if folder is not None:
        writable(Path(folder))
    every, count = _places(dataset)
    drawn = {"draws": answers_of(model)} if is_random(model) else {}
    about = {"model": model_parts(model), **_described(dataset), **drawn}
    highest = _highest_label(dataset)
    made = Provenance.now(_device(model, dataset))

    def records_of(attacks: Mapping[str, Attack], *, sample: bool = False) -> dict[str, Record]:
        how: dict[str, Any] = {"images": count, "seed": seed, "made": made}
        some = {"survivors_only": survivors_only, "sample": sample, "channels_last": channels_last}
        return {CLEAN: Record(CLEAN, **how)} | {
            name: record_of(name, attack, **some, **how) for name, attack in attacks.items()
        }

    like = Task(model, NO_IMAGES, space, named, records_of(named), tuple(probes), None, batch_size)
    like = replace(like, highest=highest, channels_last=channels_last)
    home = None if folder is None else EvaluationFolder(Path(folder), space, fresh)
    with nullcontext() if home is None else home.held(), ProgressBar(progress, count * max(len(named), 1)) as bar:

        def advance(name: str, images: int) -> None:
            bar.advance(images, f"last: {name}")

        def extended(known: Evaluation | None, task: Task, places: Tensor) -> Evaluation:
            """The table with the rows of a task's attacks on the images at these places; where there are none, with the
            attacks' records."""
            if known is not None and len(places) == 0:
                return known.replaced(records=[*known.records, *task.records.values()])
            parts, attacks = [], max(len(task.attacks), 1)
            for part in _rows(task, dataset, places, known, executor, advance, gather=survivors_only):
                parts.append(part)
                if home is not None:
                    home.keep(part, **about)
                if executor is not None or not task.attacks:
                    advance(CLEAN, part.images * attacks)
            return merged(known, parts, list(task.records)).replaced(**about)

        known = known if home is None else home.read(about["model"])
        if known is not None:
            if known.space != space:
                raise ValueError(f"the table that is to be extended is in {known.space}, and this is in {space}")
            known.refuse_other_model(about["model"])
            known.refuse_other_attacks(records_of(named | with_all_stages(named) | sampled | suspicious).values())
        evaluation = extended(known, like, every)
        if known is None and evaluation.images < count:
            raise ValueError(f"the data set has {count} images but only {evaluation.images} indices: some occur twice")
        if (sampled or suspicious) and not suspected:
            first, deeper = [CLEAN, *named], with_all_stages(named) if survivors_only else {}
            images = overtaken(evaluation.only(first))
            if deeper and len(images):
                one = replace(like, attacks=deeper, records=records_of(deeper, sample=True))
                evaluation = extended(evaluation, one, _at(dataset, every, images))
            there = [name for name in deeper if name in evaluation.attacks]
            suspected = bool(suspicions(evaluation.only([*first, *there])))
        for name, attack in () if suspected else sampled.items():
            images = sample_of(evaluation, attack, named, seed)
            one = replace(like, attacks={name: attack}, records=records_of({name: attack}, sample=True))
            evaluation = extended(evaluation, one, _at(dataset, every, images))
            suspected = suspected or _broke(evaluation.of_images(images.tolist()), name)
        if suspected and (sampled or suspicious):
            more = suspicious | {name: each for name, each in sampled.items() if name not in suspicious}
            evaluation = extended(evaluation, replace(like, attacks=more, records=records_of(more)), every)
        if home is not None:
            home.close(evaluation)
    return evaluation


def _rows(
    task: Task,
    dataset: Data,
    places: Tensor,
    known: Evaluation | None,
    executor: Executor | None,
    advance: Callable[[str, int], None],
    *,
    gather: bool,
) -> Iterator[Evaluation]:
    """The new rows of the images at some places, block by block; the task is without images.

    gather  in this process, so many batches form one block
    """
    if executor is not None:
        sent = deepcopy(task.model).cpu() if isinstance(task.model, nn.Module) else task.model
        where = OWN if getattr(executor, "own_devices", False) else kind_of_device(dataset)
        common = Common.of(replace(task, model=sent, device=where), dataset)
        yield from _elsewhere(common, dataset, places.split(task.at_once), known, executor)
        return
    for batch in _batches(dataset, places.split((GATHERED if gather else 1) * task.at_once)):
        rows = None if known is None or batch.index is None else known.of_images(batch.index.tolist())
        yield replace(task, batch=batch, known=rows).work(advance)


def _elsewhere(
    common: Common, dataset: Data, parts: Sequence[Tensor], known: Evaluation | None, executor: Executor
) -> Iterator[Evaluation]:
    """The new rows of the images at some places, made by other processes; images that these cannot read are sent."""
    unread: list[Unread] = []

    def rows(index: Tensor) -> Evaluation | None:
        return None if known is None else known.of_images(index.tolist())

    def blocks(parts: Sequence[Tensor]) -> Iterator[Block]:
        return blocks_of(dataset, parts, rows, lambda: bool(unread) or not common.images)

    for part in each(work_on, blocks(parts), executor, shared=common):
        if isinstance(part, Evaluation):
            yield part
            continue
        if not unread:
            warnings.warn(f"a worker cannot read the images itself, so they are sent: {part.why}", stacklevel=3)
        unread.append(part)
    if unread:
        again = blocks([part.places for part in unread])
        yield from (part for part in each(work_on, again, executor, shared=common) if isinstance(part, Evaluation))


def _described(dataset: Data) -> dict[str, Any]:
    """A table's entry on its images: the data set's name and classes, and how they were drawn from it."""
    if not isinstance(dataset, Dataset):
        return {"data": "", "classes": None, "sample": None}
    drawn = dataset.drawn.plain() if isinstance(dataset, Sample) else None
    return {"data": dataset.name, "classes": list(dataset.classes), "sample": drawn}


def _highest_label(dataset: Data) -> int:
    """Of all images, so that a label without a class is refused before the first attack; -1 where there are none."""
    labels = dataset.labels if isinstance(dataset, Dataset) else dataset[1]
    if labels is None:
        assert isinstance(dataset, Dataset)
        return len(dataset.classes) - 1
    return int(labels.max()) if len(labels) else -1


def _device(model: Model, dataset: Data) -> torch.device:
    """Where the model's parameters are, or else the images."""
    parameter = next(model.parameters(), None) if isinstance(model, nn.Module) else None
    if parameter is not None:
        return parameter.device
    return dataset[0].device if isinstance(dataset, tuple) else dataset.index.device


def _named(attacks: Sequence[Attack] | Mapping[str, Attack], dataset: Data, space: Space) -> dict[str, Attack]:
    """The attacks by name, as they are run in a space; all of them are checked before the first is run.

    Raises:
        ValueError: a name that occurs twice or is "clean", a radius per image or wider than the box, an attack that
            cannot be run on such images or in this space.
    """
    pairs = list(attacks.items()) if isinstance(attacks, Mapping) else [(str(attack), attack) for attack in attacks]
    named = dict(pairs)
    if len(named) < len(pairs):
        twice = next(name for name in named if sum(name == other for other, _ in pairs) > 1)
        raise ValueError(f"two attacks are called {twice}; give a mapping from names to attacks")
    if CLEAN in named:
        raise ValueError('"clean" is the name of the unattacked images; give the attack another one')
    for name, attack in named.items():
        if attack.budget is not None and isinstance(eps := attack.budget[1], Tensor) and eps.ndim:
            raise ValueError(f"{name} has a radius per image, which a whole data set cannot share; give it one number")
    if space == "preprocessed":
        named = {name: _unboxed(name, attack) for name, attack in named.items()}
    shape = dataset.shape if isinstance(dataset, Dataset) else dataset[0].shape[1:]
    for name, reason in unsupported(named, shape).items():
        raise ValueError(f"{name} cannot be run on these images: {reason}")
    for name, attack in named.items() if space == "pixels" else ():
        check_radii(attack, name)
    return named


def _unboxed(name: str, attack: Attack) -> Attack:
    try:
        inner = {"attack": _unboxed(name, attack.attack)} if isinstance(attack, AttackWrapper) else {}
        return replace(attack, box=None, **inner)
    except ValueError as error:
        raise ValueError(
            f"{name} cannot be run in the preprocessed space, which has no box ({error}); run it in pixels"
        ) from error


def batches_of(dataset: Data, batch_size: int) -> tuple[Iterator[Batch], int]:
    """The whole data set, in order, and how many images it has."""
    places, count = _places(dataset)
    return _batches(dataset, places.split(batch_size)), count


def _places(dataset: Data) -> tuple[Tensor, int]:
    """The places of all images, and how many there are.

    Raises:
        ValueError: none; invalid ones of a pair.
    """
    count = len(dataset[0]) if isinstance(dataset, tuple) else len(dataset)
    if count == 0:
        raise ValueError("there are no images to evaluate")
    if isinstance(dataset, tuple):
        check_images(dataset[0], None)
        check_labels("y", dataset[1], dataset[0])
    return torch.arange(count), count


def _batches(dataset: Data, places: Sequence[Tensor]) -> Iterator[Batch]:
    if not isinstance(dataset, tuple):
        return dataset.batches(places)
    x, y = dataset
    return (Batch(x[i.to(x.device)], y[i.to(y.device)], i) for i in places)


def _at(dataset: Data, every: Tensor, images: np.ndarray) -> Tensor:
    """The places of images in the data set, by their indices, in order."""
    index = every if isinstance(dataset, tuple) else dataset.index.cpu()
    return torch.where(torch.isin(index, torch.from_numpy(images)))[0]


def _broke(evaluation: Evaluation, name: str) -> bool:
    """Whether an attack broke an image that was right."""
    rows = evaluation.only(name)
    right = rows["clean_prediction"] == rows["label"]
    return bool((right & misclassified(rows["prediction"], rows["label"])).any())
