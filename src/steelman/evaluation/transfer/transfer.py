"""Crafted on one model, tested on another: every pair at once."""

import json
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from copy import deepcopy
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias, final

import numpy as np
import torch
from torch import nn

from steelman.attacks.attack import Attack
from steelman.attacks.mode import evaluation_mode
from steelman.attacks.oracle import check_answer
from steelman.evaluation.evaluate import Data, batches_of, evaluate
from steelman.evaluation.evaluate import bar as bar
from steelman.evaluation.measures import Measure, accuracy, clean_accuracy, worst_case
from steelman.evaluation.store import fingerprint, merged
from steelman.evaluation.table import CLEAN, Evaluation
from steelman.evaluation.transfer.crafted import Crafted, Kept, Piece, hashed
from steelman.types import Batch, Images, Logits, Model
from steelman.workers import each

if TYPE_CHECKING:
    import pyarrow

KEY = b"steelman-transfer"
"""Where a saved transfer says what it is of, in its Parquet metadata."""


@dataclass(frozen=True)
class Transfer:
    """What images that one attack made on `sources` (rows) do to `targets` (columns), image by image.

    attack   the attack's name
    sources  on which the images were crafted; an ensemble stands under a name of its own
    tables   per target, a table with the unattacked images and the attack `from_source(source)` of every source. Its
             forwards, gradients and seconds are what crafting cost on the source, the same for every target
    white    the pairs of source and target that are one model, or of which the source is an ensemble with the target in
             it: white boxes, which no black-box summary counts

    A natural error counts as an error, as everywhere.
    """

    attack: str
    sources: tuple[str, ...]
    tables: Mapping[str, Evaluation] = field(repr=False)
    white: frozenset[tuple[str, str]] = frozenset()

    def from_source(self, source: str) -> str:
        """The name under which images crafted on `source` stand in the tables."""
        return f"{self.attack} from {source}"

    @property
    def targets(self) -> tuple[str, ...]:
        return tuple(self.tables)

    @cached_property
    def clean(self) -> tuple[Measure, ...]:
        """Each target's accuracy on the unattacked images."""
        return tuple(map(clean_accuracy, self.tables.values()))

    @cached_property
    def accuracy(self) -> tuple[tuple[Measure, ...], ...]:
        """`accuracy[i][j]` is of target j on the images made on source i."""
        return tuple(
            tuple(accuracy(table, self.from_source(source)) for table in self.tables.values())
            for source in self.sources
        )

    @cached_property
    def worst(self) -> tuple[Measure | None, ...]:
        """Each target's worst case over the black boxes, image by image; None where there is none."""
        black = {name: [self.from_source(each) for each in self.black(name)] for name in self.targets}
        return tuple(worst_case(table, black[name]) if black[name] else None for name, table in self.tables.items())

    def black(self, target: str) -> tuple[str, ...]:
        """The sources that do not know a target."""
        return tuple(source for source in self.sources if (source, target) not in self.white)

    def _repr_markdown_(self) -> str:
        """The matrix, for notebooks."""
        from steelman.evaluation.black_box import transfer_table

        return transfer_table(self).markdown()

    def save(self, path: str | Path) -> None:
        """Write one Parquet file: the tables one under the other, with a column `target`; whole or not at all."""
        import pyarrow

        parts = [
            table.table.replace_schema_metadata().append_column("target", pyarrow.array([name] * len(table)))
            for name, table in self.tables.items()
        ]
        said = {"attack": self.attack, "sources": self.sources, "white": sorted(self.white)}
        about = {name: table.about for name, table in self.tables.items()}
        whole = pyarrow.concat_tables(parts).replace_schema_metadata({KEY: json.dumps(said | {"targets": about})})
        Evaluation(whole).save(path)

    @staticmethod
    def load(path: str | Path) -> "Transfer":
        """Read what `save` wrote.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: the file is not whole, or not of a transfer.
        """
        table = Evaluation.load(path).table
        said = (table.schema.metadata or {}).get(KEY)
        if said is None:
            raise ValueError(f"{path} is not a saved Transfer: it does not say what it is of")
        found = json.loads(said)
        names = table["target"].to_numpy()
        plain = table.drop_columns("target").replace_schema_metadata()
        tables = {
            name: Evaluation(plain.filter(names == name)).with_about(about) for name, about in found["targets"].items()
        }
        return Transfer(found["attack"], tuple(found["sources"]), tables, frozenset(map(tuple, found["white"])))


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
        return torch.stack([model(x) for model in self.models]).mean(0)


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
    attack      any attack. One that stops at its first success on the source (`early_leave`, and every minimal attack)
                transfers less than it could. A mapping has one for each source: learned adversaries have a generator
                that was trained on it
    name        what the attack is called, which seeds its noise; default: the call that makes it
    batch_size, seed   as for `evaluate`
    executor    where batches are worked on; default: here
    folder      where crafted images are kept, one file for each source and attack of 4 bytes a pixel, so that targets
                that come later are tested on the same ones. Those of surrogates that are no modules are not kept, for
                they cannot be told from others
    known       an earlier transfer of the same attack and images: a pair of models that stands in it is not made again

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
    if isinstance(executor, ThreadPoolExecutor):
        raise ValueError("threads would change the models' modes under each other; give an executor of processes")
    models = {source: one if callable(one) else MeanLogits(one) for source, one in sources.items()}
    _check(models, targets, next(batches_of(dataset, 2)[0]))
    there = {} if known is None else known.tables
    begun = {
        target: evaluate(model, dataset, {}, batch_size=batch_size, seed=seed, known=there.get(target), progress=False)
        for target, model in targets.items()
    }
    hashes = {source: _told(model) for source, model in models.items()}
    white = {(s, t) for s, model in models.items() for t, other in targets.items() if _knows(model, other)}
    found = Transfer(name, tuple(sources), begun, frozenset(white))
    said = {source: f"{attacks[source]!r} from {source} {hashes[source]}".strip() for source in sources}
    missing = {source: _missing(found, source, said[source], targets) for source in sources}
    clean = {target: _predictions(table) for target, table in begun.items()}
    kept = None if folder is None else Kept(Path(folder))
    data = "" if kept is None else hashed(batches_of(dataset, batch_size)[0])
    keys = {
        source: (hashes[source], repr(attacks[source]), name, str(seed), data) for source in sources if hashes[source]
    }

    sent, away = (models, targets) if executor is None else (_on_cpu(models), _on_cpu(targets))

    def pieces() -> Iterator[Piece]:
        for source in (source for source in sources if missing[source]):
            there = kept.read(keys[source]) if kept and source in keys and kept.has(keys[source]) else None
            rows = (found.from_source(source), said[source])
            for place, batch in enumerate(batches_of(dataset, batch_size)[0]):
                assert batch.index is not None
                which = slice(place * batch_size, (place + 1) * batch_size)
                crafted = None if there is None else {each: value[which] for each, value in there.items()}
                before = {t: np.array([clean[t][image] for image in batch.index.tolist()]) for t in missing[source]}
                method, device, tested = (sent[source], attacks[source], name, seed), None, missing[source]
                if executor is not None:  # memory of a GPU is not sent
                    device, batch = batch.x.device.type, replace(batch, x=batch.x.cpu(), y=batch.y.cpu())
                    tested = {target: away[target] for target in tested}
                yield Piece(source, place, *method, batch, tested, rows, before, crafted, device)

    made: dict[str, list[pyarrow.Table]] = {target: [] for target in targets}
    images: dict[str, dict[int, Crafted]] = {source: {} for source in sources}
    count = batches_of(dataset, batch_size)[1]
    with bar(progress, count * sum(map(bool, missing.values()))) as advance:
        for (source, place), crafted, tables in each(Piece.work, pieces(), executor):
            for target, table in tables.items():
                made[target].append(table)
            if kept and source in keys and not kept.has(keys[source]):
                images[source][place] = crafted
                if sum(len(part["x_adv"]) for part in images[source].values()) == count:
                    kept.write(keys[source], [images[source][place] for place in sorted(images[source])])
                    del images[source]
            advance(found.from_source(source), len(crafted["x_adv"]))
    names = [CLEAN, *map(found.from_source, sources)]
    whole = {target: merged(None, [table.table, *made[target]], names, "pixels") for target, table in begun.items()}
    return replace(found, tables={target: table.only(names) for target, table in whole.items()})


def _on_cpu(models: Mapping[str, Model]) -> dict[str, Model]:
    return {name: deepcopy(one).cpu() if isinstance(one, nn.Module) else one for name, one in models.items()}


def _told(model: Model) -> str:
    """A hash that tells a source from others; empty where something in it is no module."""
    parts = model.models if isinstance(model, MeanLogits) else (model,)
    hashes = [fingerprint(part) for part in parts]
    return "+".join(hashes) if all(hashes) else ""


def _knows(source: Model, target: Model) -> bool:
    parts = source.models if isinstance(source, MeanLogits) else (source,)
    there = fingerprint(target)
    return any(part is target or fingerprint(part) == there != "" for part in parts)


def _predictions(table: Evaluation) -> dict[int, int]:
    """By image, what a model says of it unattacked."""
    clean = table.only(CLEAN)
    return dict(zip(clean["image"].tolist(), clean["prediction"].tolist(), strict=True))


def _missing(found: Transfer, source: str, said: str, targets: Mapping[str, Model]) -> dict[str, Model]:
    """The targets that the images of a source have still to meet."""
    name, missing = found.from_source(source), {}
    for target, table in found.tables.items():
        there = table.parameters.get((name, "pixels"))
        if there is None:
            missing[target] = targets[target]
        elif not table.whole(name):
            raise ValueError(f"the transfer that is to be extended has {name} of fewer images: begin a new one")
        elif there != said:
            raise ValueError(
                f"the transfer that is to be extended has {name} of another attack or model ({there}, now {said}): "
                "give the attack another name, or begin a new one"
            )
    return missing


def _check(sources: Mapping[str, Model], targets: Mapping[str, Model], batch: Batch) -> None:
    """Raises ValueError where a name means two models, or where models are not of the same data."""
    for name in sources:
        if name in targets and sources[name] is not targets[name]:
            here, there = fingerprint(sources[name]), fingerprint(targets[name])
            if here != there or not here:
                raise ValueError(f"the source and the target called {name} are different models: give one another name")
    classes: dict[int, str] = {}
    for name, model in {**sources, **targets}.items():
        try:
            with evaluation_mode(model), torch.no_grad():
                answer = model(batch.x)
        except RuntimeError as error:
            raise ValueError(
                f"{name} cannot take images of shape {tuple(batch.x.shape[1:])}, so it is of other data: {error}"
            ) from error
        check_answer(answer, len(batch), int(batch.y.max()))
        if answer.is_floating_point():
            classes.setdefault(answer.shape[1], name)
    if len(classes) > 1:
        (one, first), (two, second), *_ = classes.items()
        raise ValueError(
            f"{first} answers for {one} classes and {second} for {two}: only models of the same data can be compared"
        )
