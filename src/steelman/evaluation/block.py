"""Some images and everything that is measured of them: the piece of work that evaluation is cut into."""

import math
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from steelman.attacks.core.attack import Attack, AttackResult, check_images, check_labels
from steelman.attacks.core.mode import evaluation_mode
from steelman.evaluation.probes.probe import Probe
from steelman.forward import answer_of, check_answer, lent
from steelman.identity import image_digests
from steelman.losses import cross_entropy
from steelman.randomness import combine
from steelman.table.places import Space
from steelman.table.records import CLEAN, Record
from steelman.table.schema import ROUNDING, Met, table_of
from steelman.table.table import Evaluation
from steelman.types import Batch, Images, Labels, Model, PerImage, Seeds

if TYPE_CHECKING:
    import pyarrow


CLOSE = 1e-2
"""Losses of unattacked images that differ by less, relative or absolute, may come from another device or batch size."""


@dataclass(frozen=True)
class Task:
    """Some images, the attacks that are to meet them, and the rows that they have already.

    `work` makes the rows that are missing. It needs nothing else, so that it can be called in another process.
    """

    model: Model
    batch: Batch
    space: Space
    attacks: Mapping[str, Attack]
    records: Mapping[str, Record]
    """Of the attacks and of the unattacked images."""
    probes: tuple[Probe, ...]
    known: Evaluation | None
    at_once: int
    """Images in one call of an attack."""
    device: str | None = None
    """Where the work is done; None: where model and images are. The first of its kind, or a worker's own."""
    highest: int = -1
    """The highest label of all images of the evaluation, which must have a class before the first block is attacked."""

    def work(self, advance: Callable[[str, int], None] = lambda name, count: None) -> Evaluation:
        """The new rows, the unattacked images' among them where these are missing or lack a probe.

        The model is asked about the unattacked images in any case, and its answers are held to the rows that are there.
        """
        model, batch = self.model, self.batch
        if self.device is not None:
            batch = replace(batch, x=batch.x.to(self.device), y=batch.y.to(self.device))
        with space_of(placed(model, self.device), self.space) as (preprocess, network):
            x = preprocess(batch.x)
            check_images(x, None)
            check_labels("y", batch.y, x)
            rows = _Rows(self, image_digests(batch.x, batch.y))
            prediction = self._clean(rows, network, batch, x)
            for name, attack in self.attacks.items():
                which = torch.where(torch.from_numpy(rows.to_meet(self.records[name])))[0].to(x.device)
                for part in which.chunk(math.ceil(len(which) / self.at_once)) if len(which) else ():
                    self._attack(rows, network, batch[part], x[part], prediction[part], name, attack)
                advance(name, len(batch))
        return Evaluation.of(
            rows.table(), self.records.values(), space=self.space, probes=[str(probe) for probe in self.probes]
        )

    def _clean(self, rows: "_Rows", network: Model, batch: Batch, x: Images) -> Labels:
        """Asks about the unattacked images, and writes their rows where there are none; returns the predictions."""
        start = time.perf_counter()
        prediction, loss = self._answers(network, batch, x, 0)
        seconds = time.perf_counter() - start
        prediction = rows.of_clean(prediction, loss, lambda: self._answers(network, batch, x, 1)[0])
        new = torch.where(torch.from_numpy(~rows.met[CLEAN]))[0].to(x.device)
        if len(new):
            batch, x, loss, found = batch[new], x[new], loss[new], prediction[new]
            nothing, ones = torch.zeros_like(loss), torch.ones_like(found)
            success, seconds = found != batch.y, seconds * len(new) / len(prediction)
            sizes = dict.fromkeys(("l0", "l1", "l2", "linf"), nothing)
            cost: dict[str, Any] = {"forwards": ones, "gradients": torch.zeros_like(ones), "seconds": seconds}
            result = AttackResult(x, success, found, loss, **sizes, **cost)
            probed = self._probed(CLEAN, network, batch, x, x)
            pixels = rows.pixels[rows.places(batch)]
            rows.write(Met(self.records[CLEAN], batch, x, pixels, found, result, probed))
        return prediction

    def _answers(self, network: Model, batch: Batch, x: Images, again: int) -> tuple[Labels, PerImage]:
        """A random model answers the same in every evaluation; with another number `again`, by other chance."""
        found = []
        with torch.random.fork_rng([x.device] if x.is_cuda else []):
            for part in torch.arange(len(x), device=x.device).split(self.at_once):
                torch.manual_seed(int(combine(self._seeds(CLEAN, batch[part])[:1], again)))
                found.append(answers(network, x[part], batch.y[part], self.highest))
        prediction, loss = map(torch.cat, zip(*found, strict=True))
        return prediction, loss

    def _attack(
        self, rows: "_Rows", network: Model, batch: Batch, x: Images, prediction: Labels, name: str, attack: Attack
    ) -> None:
        result = attack.run(network, x, batch.y, generator=self._seeds(attack.noise or name, batch))
        probed = self._probed(name, network, batch, x, result.x_adv)
        pixels = rows.pixels[rows.places(batch)]
        rows.write(Met(self.records[name], batch, x, pixels, prediction, result, probed))

    def _probed(self, name: str, network: Model, batch: Batch, x: Images, x_adv: Images) -> dict[str, PerImage]:
        return {
            str(probe): probe(network, x, batch.y, x_adv, self._seeds(f"{probe} {name}", batch))
            for probe in self.probes
            if probe.of_clean == (name == CLEAN)
        }

    def _seeds(self, name: str, batch: Batch) -> Seeds:
        return seeds_of(self.records[CLEAN].seed, name, batch.index)


def seeds_of(seed: int, name: str, index: Tensor | None) -> Seeds:
    """One seed per image: a hash of the evaluation's, of the image's place in its data set and of a name."""
    assert index is not None
    return combine(torch.full((len(index),), seed, dtype=torch.int64), index.cpu(), zlib.crc32(name.encode()))


class _Rows:
    """The rows of one block: those that were there, and those that are being made."""

    def __init__(self, block: Task, pixels: np.ndarray) -> None:
        assert block.batch.index is not None
        self.block, self.pixels = block, pixels
        self.place = {image: at for at, image in enumerate(block.batch.index.tolist())}
        self.label = block.batch.y.cpu().numpy()
        self.made: list[pyarrow.Table] = []
        self.met = {name: np.zeros(len(self.label), bool) for name in block.records}
        self.right = np.ones(len(self.label), bool)
        self.fallen: list[tuple[np.ndarray, dict[str, np.ndarray]]] = []
        if block.known is not None:
            self._read(block.known)

    def _read(self, known: Evaluation) -> None:
        """Take note of the rows that are there; one without a probe that is asked for is not."""
        attack, at = known["attack"], self._at(known["image"])
        there, label = known["pixels"], known["label"]
        other = (label != self.label[at]) | ((there != 0) & (there != self.pixels[at]))
        if other.any():
            raise ValueError(
                f"the table that is to be extended is of other images: image {known['image'][other][0]} has other "
                "pixels or another label. Begin a new one (--fresh, or another --folder)"
            )
        complete = np.ones(len(attack), bool)
        for probe in self.block.probes:
            values = known[str(probe)] if str(probe) in known.probes else np.full(len(attack), np.nan)
            complete &= ~np.isnan(values) | ((attack == CLEAN) != probe.of_clean)
        for name in self.met:
            self.met[name][at[complete & (attack == name)]] = True
        self._note(at, {column: known[column] for column in ("prediction", "l0", "l1", "l2", "linf")})

    def of_clean(self, prediction: Labels, loss: PerImage, again: Callable[[], Labels]) -> Labels:
        """The predictions of the unattacked images: of the rows that are there, and else those of now.

        Raises:
            ValueError: the model answers otherwise than it did. A random one may, as far as it contradicts itself.
        """
        known = self.block.known
        now, losses = prediction.cpu().numpy(), loss.double().cpu().numpy()
        if known is not None and len(rows := known.only(CLEAN)):
            at = self._at(rows["image"])
            before, losses_before = rows["prediction"], rows["loss"]
            asked = ~np.isnan(losses_before) & ~np.isnan(losses[at])
            same = np.where(asked, np.isclose(losses[at], losses_before, CLOSE, CLOSE), now[at] == before)
            if not same.all():
                itself = int((again().cpu().numpy() != now).sum())
                apart = int((now[at] != before).sum())
                if not itself or apart > itself + 3 * math.sqrt(itself) + 3:
                    raise ValueError(
                        "the table that is to be extended is of another model: unattacked, it answered otherwise to "
                        f"{int((~same).sum())} of {len(same)} images (image {rows['image'][~same][0]}: class "
                        f"{before[~same][0]}, now {now[at][~same][0]}). Begin a new one (--fresh, or another --folder)"
                    )
            now = now.copy()
            now[at] = before
        self.right = now == self.label
        return torch.from_numpy(now).to(prediction.device)

    def places(self, batch: Batch) -> np.ndarray:
        assert batch.index is not None
        return self._at(batch.index.cpu().numpy())

    def _at(self, images: np.ndarray) -> np.ndarray:
        return np.array([self.place[image] for image in images.tolist()], int)

    def _note(self, at: np.ndarray, rows: Mapping[str, np.ndarray]) -> None:
        wrong = rows["prediction"] != self.label[at]
        sizes = {norm: rows[norm][wrong] for norm in ("l0", "l1", "l2", "linf")}
        self.fallen.append((at[wrong], sizes))

    def to_meet(self, record: Record) -> np.ndarray:
        """Which images an attack has still to meet."""
        missing = ~self.met[record.name]
        if record.asked == "every":
            return missing
        standing = self.right.copy()
        if record.norm is not None and record.eps is not None:
            for at, sizes in self.fallen:
                standing[at[sizes[record.norm.lower()] <= record.eps * ROUNDING]] = False
        return missing & standing

    def write(self, met: Met) -> None:
        table = table_of([met], [str(probe) for probe in self.block.probes])
        columns = ("prediction", "l0", "l1", "l2", "linf")
        self._note(self.places(met.batch), {name: table[name].to_numpy() for name in columns})
        self.made.append(table)

    def table(self) -> "pyarrow.Table":
        import pyarrow

        return pyarrow.concat_tables([table_of([], [str(probe) for probe in self.block.probes]), *self.made])


def placed(model: Model, device: torch.device | str | None) -> Model:
    """The model on a device, where one is named and it can be moved."""
    return model.to(device) if isinstance(model, nn.Module) and device is not None else model


def answers(model: Model, x: Images, y: Labels, highest: int = -1) -> tuple[Labels, PerImage]:
    """Predictions of unattacked images, and cross-entropy: NaN of a model that answers with classes alone.

    highest  a label that must have a class, besides those of these images

    Raises:
        ValueError: the answer can be neither logits nor classes.
    """
    with evaluation_mode(model), torch.no_grad():
        answer = answer_of(model, x)
    check_answer(answer, len(x), max(int(y.max()), highest))
    if not answer.is_floating_point():
        return answer.to(torch.int64), torch.full(y.shape, torch.nan, device=x.device)
    return answer.argmax(1), cross_entropy(answer, y)


@contextmanager
def space_of(model: Model, space: Space) -> Iterator[tuple[Callable[[Tensor], Tensor], Model]]:
    """The model in evaluation mode, as what stands before the attacked part, and that part.

    Raises:
        ValueError: the space is not known, or the model has no such part.
    """
    if space not in ("pixels", "preprocessed"):
        raise ValueError(f'space must be "pixels" or "preprocessed"; got {space!r}')
    preprocess, network = getattr(model, "preprocess", None), getattr(model, "network", None)
    if space == "preprocessed" and (preprocess is None or network is None):
        raise ValueError(
            f"{type(model).__name__} has no preprocess and network, so it has no preprocessed space; wrap it in "
            'Preprocessed(preprocess, network), or evaluate in "pixels"'
        )
    with evaluation_mode(model):
        if space == "preprocessed" and preprocess is not None and network is not None:
            yield torch.no_grad()(lambda x: preprocess(lent(x))), network
        else:
            yield (lambda x: x), model
