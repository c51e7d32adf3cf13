"""Crafted on one model, tested on another: every pair at once."""

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeAlias, final

import torch
from torch import nn

from steelman import identity
from steelman.attacks.core.attack import Attack
from steelman.attacks.core.mode import evaluation_mode
from steelman.data.dataset import Data, Dataset
from steelman.evaluation.crafted import Crafted
from steelman.evaluation.evaluation import batches_of, evaluate
from steelman.files import PARTIAL, working_in
from steelman.forward import answer_of, check_answer
from steelman.identity import model_parts
from steelman.measures.transfer import Transfer, _folder, from_source
from steelman.table.records import CLEAN
from steelman.types import Batch, Images, Logits, Model


@final
class MeanLogits(nn.Module):
    """Several models as one surrogate: the mean of their logits.

    Reference: Yinpeng Dong, Fangzhou Liao, Tianyu Pang, Hang Su, Jun Zhu, Xiaolin Hu and Jianguo Li, "Boosting
    adversarial attacks with momentum", CVPR 2018, section 3.2 (in logits, with equal weights).
    """

    def __init__(self, models: Sequence[Model]) -> None:
        super().__init__()
        if not models:
            raise ValueError("an ensemble surrogate needs at least one model")
        self.models = tuple(models)
        self.members = nn.ModuleList(model for model in models if isinstance(model, nn.Module))

    def forward(self, x: Images) -> Logits:
        return torch.stack([answer_of(model, x) for model in self.models]).mean(0)


Source: TypeAlias = Model | Sequence[Model]


def transfer(
    sources: Mapping[str, Source],
    targets: Mapping[str, Model],
    dataset: Data,
    attack: Attack | Mapping[str, Attack],
    *,
    name: str = "",
    batch_size: int = 250,
    seed: int = 0,
    executor: Executor | None = None,
    folder: str | Path | None = None,
    known: Transfer | None = None,
    progress: bool = True,
) -> Transfer:
    """Craft on every source once, and test what came of it on every target.

    sources     on which images are crafted. Several models are one surrogate, by the mean of their logits
    targets     which are tested. One that is also a source, under the same name, is a white box there: its numbers are
                those of `evaluate`, to the last image
    dataset     a `Dataset`, or images and labels as a pair of tensors; models are attacked in pixels
    attack      any attack. One that stops at its first success on the source (`stop_early`, and every minimal attack)
                transfers less than it could. A mapping has one for each source: learned adversaries have a generator
                that was trained on it
    name        what the attack is called, which seeds its noise; default: the call that makes it
    batch_size, seed   as for `evaluate`
    executor    where blocks of images are worked on; default: here
    folder      where the crafted images (4 bytes a pixel) and the targets' tables are kept, so that a transfer that was
                killed goes on, and targets that come later are tested on the same images
    known       an earlier transfer of the same attack and images, in place of a folder: a pair of models that stands in
                it is not made again

    Cost: the attack's on each source; one forward pass on every target for each source, and one unattacked.

    Raises:
        ValueError: no sources or targets, two different models under one name, models that cannot take the images or
            answer for other classes, a known transfer of another attack, model or data.
    """
    if not sources or not targets:
        raise ValueError("a transfer needs at least one source and one target")
    attacks = attack if isinstance(attack, Mapping) else dict.fromkeys(sources, attack)
    if lacking := [source for source in sources if source not in attacks]:
        raise ValueError(f"there is no attack for the source {lacking[0]}; a mapping has one for each")
    name = name or str(attacks[next(iter(sources))])
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1; got {batch_size}")
    models = {source: one if callable(one) else MeanLogits(one) for source, one in sources.items()}
    _check(models, targets, next(batches_of(dataset, 2)[0]))
    digests = {source: identity.digest((attacks[source], model)) for source, model in models.items()}
    sent = models if executor is None else _on_cpu(models)
    index = dataset.index.tolist() if isinstance(dataset, Dataset) else range(len(dataset[0]))
    tables = {}
    with TemporaryDirectory() if folder is None else _held(Path(folder)) as place:
        for target, model in targets.items():
            met = {
                from_source(name, source): Crafted(
                    attacks[source],
                    sent[source],
                    source,
                    name,
                    _knows(models[source], model),
                    Path(place) / "crafted" / digests[source],
                )
                for source in sources
            }
            table = evaluate(
                model,
                dataset,
                met,
                batch_size=batch_size,
                seed=seed,
                executor=executor,
                progress=progress,
                known=None if known is None else known.tables.get(target),
                folder=None if folder is None else Path(folder) / _folder(target),
            )
            table, names = table.only([CLEAN, *met]).of_images(index), [CLEAN, *met]
            tables[target] = table.replaced(records=sorted(table.records, key=lambda each: names.index(each.name)))
    found = Transfer(name, tables)
    if folder is not None:
        found._write_index(Path(folder))
    return found


@contextmanager
def _held(folder: Path) -> Iterator[Path]:
    """A transfer's folder, for one process at a time; what dead ones have left half written is removed."""
    with working_in(folder):
        for left in (folder / "crafted").glob(f"*/*{PARTIAL}"):
            left.unlink()
        yield folder


def _on_cpu(models: Mapping[str, Model]) -> dict[str, Model]:
    return {name: deepcopy(one).cpu() if isinstance(one, nn.Module) else one for name, one in models.items()}


def _knows(source: Model, target: Model) -> bool:
    parts = source.models if isinstance(source, MeanLogits) else (source,)
    return any(part is target or _same(part, target) for part in parts)


def _same(one: Model, other: Model) -> bool:
    return type(one) is type(other) and model_parts(one) == model_parts(other)


def _check(sources: Mapping[str, Model], targets: Mapping[str, Model], batch: Batch) -> None:
    """Raises ValueError where a name means two models, or where models are not of the same data."""
    for name in sources:
        if name in targets and sources[name] is not targets[name] and not _same(sources[name], targets[name]):
            raise ValueError(f"the source and the target called {name} are different models: give one another name")
    classes: dict[int, str] = {}
    for name, model in {**sources, **targets}.items():
        try:
            with evaluation_mode(model), torch.no_grad():
                said = answer_of(model, batch.x)
        except RuntimeError as error:
            raise ValueError(
                f"{name} cannot take images of shape {tuple(batch.x.shape[1:])}, so it is of other data: {error}"
            ) from error
        check_answer(said, len(batch), int(batch.y.max()))
        if said.is_floating_point():
            classes.setdefault(said.shape[1], name)
    if len(classes) > 1:
        (one, first), (two, second), *_ = classes.items()
        raise ValueError(
            f"{first} answers for {one} classes and {second} for {two}: only models of the same data can be compared"
        )
