"""Attack every image with every attack, and write the results into a table."""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import nullcontext
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from steelman.attacks.core import Attack, AttackWrapper, check_images, check_labels, check_radii
from steelman.data.dataset import Data, Dataset
from steelman.data.sample import Sample
from steelman.evaluation.battery import unsupported
from steelman.evaluation.blocks import OWN, Block, Common, Unread, blocks_of, kind_of_device, work_on
from steelman.evaluation.probes.probe import Probe
from steelman.evaluation.store import EvaluationFolder, merged
from steelman.evaluation.task import Task, space_of
from steelman.extras import require
from steelman.files import writable
from steelman.identity import model_parts
from steelman.progress import ProgressBar
from steelman.randomness import answers_of, is_random
from steelman.table.places import Space
from steelman.table.records import CLEAN, Provenance, Record, record_of
from steelman.table.table import Evaluation
from steelman.types import Batch, Model
from steelman.workers import each

GATHERED = 4
"""With `survivors_only`, so many batches form one task: few images remain of each, and small batches are slow."""


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
            an executor of threads.
    """
    require("evaluate", "pyarrow")
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1; got {batch_size}")
    if isinstance(executor, ThreadPoolExecutor):
        raise ValueError("threads would change the model's mode under each other; give an executor of processes")
    if known is not None and folder is not None:
        raise ValueError("give known or folder, not both: the folder's own table is what is extended")
    named = _named(attacks, dataset, space)
    with space_of(model, space):
        pass  # refuses a model without such a space before anything is read
    if folder is not None:
        writable(Path(folder))
    gathered = GATHERED if survivors_only and executor is None else 1
    batches, count = batches_of(dataset, gathered * batch_size)
    drawn = {"draws": answers_of(model)} if is_random(model) else {}
    about = {"model": model_parts(model), **_described(dataset), **drawn}
    highest = _highest_label(dataset)
    made = Provenance.now(_device(model, dataset))
    how: dict[str, Any] = {"survivors_only": survivors_only, "channels_last": channels_last, "made": made}
    records = {CLEAN: Record(CLEAN, images=count, seed=seed, made=made)} | {
        name: record_of(name, attack, images=count, seed=seed, **how) for name, attack in named.items()
    }
    probed = tuple(probes)

    def tasks(known: Evaluation | None) -> Iterator[Task]:
        for batch in batches:
            rows = None if known is None or batch.index is None else known.of_images(batch.index.tolist())
            yield Task(model, batch, space, named, records, probed, rows, batch_size, None, highest, channels_last)

    home = None if folder is None else EvaluationFolder(Path(folder), space, fresh)
    with nullcontext() if home is None else home.held(), ProgressBar(progress, count * max(len(named), 1)) as bar:

        def advance(name: str, images: int) -> None:
            bar.advance(images, f"last: {name}")

        known = known if home is None else home.read(about["model"])
        if known is not None:
            if known.space != space:
                raise ValueError(f"the table that is to be extended is in {known.space}, and this is in {space}")
            known.refuse_other_model(about["model"])
            known.refuse_other_attacks(records.values())
        parts = []
        if executor is None:
            found = (task.work(advance) for task in tasks(known))
        else:
            sent = deepcopy(model).cpu() if isinstance(model, nn.Module) else model
            where = OWN if getattr(executor, "own_devices", False) else kind_of_device(dataset)
            like = Task(sent, Batch(torch.empty(0), torch.empty(0)), space, named, records, probed, None, batch_size)
            common = Common.of(replace(like, device=where, highest=highest, channels_last=channels_last), dataset)
            found = _elsewhere(common, dataset, batch_size, known, executor)
        for part in found:
            parts.append(part)
            if home is not None:
                home.keep(part, **about)
            if executor is not None or not named:
                advance(CLEAN, part.images * max(len(named), 1))
        evaluation = merged(known, parts, list(records)).replaced(**about)
        if known is None and evaluation.images < count:
            raise ValueError(f"the data set has {count} images but only {evaluation.images} indices: some occur twice")
        if home is not None:
            home.close(evaluation)
    return evaluation


def _elsewhere(
    common: Common, dataset: Data, size: int, known: Evaluation | None, executor: Executor
) -> Iterator[Evaluation]:
    """The new rows of every block, made by other processes; images that these cannot read are sent."""
    count = len(dataset[0]) if isinstance(dataset, tuple) else len(dataset)
    unread: list[Unread] = []

    def rows(index: Tensor) -> Evaluation | None:
        return None if known is None else known.of_images(index.tolist())

    def blocks(parts: Sequence[Tensor]) -> Iterator[Block]:
        return blocks_of(dataset, parts, rows, lambda: bool(unread) or not common.images)

    for part in each(work_on, blocks(torch.arange(count).split(size)), executor, shared=common):
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
    count = len(dataset[0]) if isinstance(dataset, tuple) else len(dataset)
    if count == 0:
        raise ValueError("there are no images to evaluate")
    indices = torch.arange(count).split(batch_size)
    if isinstance(dataset, tuple):
        x, y = dataset
        check_images(x, None)
        check_labels("y", y, x)
        return (Batch(x[i.to(x.device)], y[i.to(y.device)], i) for i in indices), count
    return dataset.batches(indices), count
