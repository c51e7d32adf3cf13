"""The piece of work that an evaluation is cut into: some images, and everything that is measured of them."""

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

from steelman.attacks.core import Attack, AttackResult, check_images, check_labels, evaluation_mode
from steelman.evaluation.probes.probe import Probe
from steelman.forward import Forward, Verdict, check_answer, classes_of, lent, reject_class
from steelman.identity import image_digests
from steelman.randomness import answers_of, combine
from steelman.table.places import Space
from steelman.table.records import CLEAN, Record
from steelman.table.schema import ROUNDING, AttackedImages, misclassified, never_right, table_of
from steelman.table.table import Evaluation
from steelman.types import Batch, Images, Labels, Model, Seeds

if TYPE_CHECKING:
    import pyarrow

CLOSE = 1e-2
"""Losses of unattacked images that differ by less, relative or absolute, may come from another device or batch size."""
NORMS = ("l0", "l1", "l2", "linf")


@dataclass(frozen=True)
class Task:
    """Some images, the attacks to run on them, and the rows that they have already.

    `work` makes the missing rows. It needs nothing else, so that it can be called in another process.

    records  of the attacks and of the unattacked images
    at_once  images in one call of an attack
    device   where the work is done; None: where model and images are. The first of its kind, or a worker's own
    highest  the highest label of all images of the evaluation, which must have a class before the first attack
    channels_last  as for `Attack.run`
    """

    model: Model
    batch: Batch
    space: Space
    attacks: Mapping[str, Attack]
    records: Mapping[str, Record]
    probes: tuple[Probe, ...]
    known: Evaluation | None
    at_once: int
    device: str | None = None
    highest: int = -1
    channels_last: bool = False

    def work(self, advance: Callable[[str, int], None] = lambda name, count: None) -> Evaluation:
        """The new rows, the unattacked images' among them where these are missing or lack a probe.

        The model is asked about the unattacked images in any case, and its answers are compared with those in the rows.
        """
        model, batch = self.model, self.batch
        where = batch.x.device if self.device is None else torch.device(self.device)
        index = None if batch.index is None else batch.index.to(where)  # images are chosen by places on their device
        batch = replace(batch, x=batch.x.to(where), y=batch.y.to(where), index=index)
        with space_of(placed(model, self.device), self.space) as (preprocess, network):
            x = preprocess(batch.x)
            check_images(x, None)
            check_labels("y", batch.y, x)
            rows = _Rows(self, image_digests(batch.x, batch.y))
            clean, rejected = self._clean(rows, network, batch, x), reject_class(network)
            for name, attack in self.attacks.items():
                which = torch.where(torch.from_numpy(rows.missing(self.records[name])))[0].to(x.device)
                for part in which.chunk(math.ceil(len(which) / self.at_once)) if len(which) else ():
                    images, seeds = batch[part], self._seeds(attack.noise or name, batch[part])
                    fast = self.channels_last
                    result = attack.run(network, x[part], images.y, generator=seeds, channels_last=fast)
                    if rejected is not None:
                        result = replace(result, prediction=classes_of(result.prediction, rejected))
                    self._write(rows, name, network, images, x[part], clean[part], result)
                advance(name, len(batch))
        return Evaluation.of(rows.table(), self.records.values(), space=self.space, probes=rows.probes)

    def _clean(self, rows: "_Rows", network: Model, batch: Batch, x: Images) -> Labels:
        """The predictions of the unattacked images, and their rows where there are none."""
        start = time.perf_counter()
        verdict = self._answers(network, batch, x, 0)
        seconds = time.perf_counter() - start
        prediction = rows.compared(verdict, lambda: self._answers(network, batch, x, 1).prediction)
        new = torch.where(torch.from_numpy(~rows.done[CLEAN]))[0].to(x.device)
        if len(new):
            batch, x, found = batch[new], x[new], prediction[new]
            loss, right, again = verdict.loss[new], verdict.right[new], verdict.again[new]
            sizes, passes = dict.fromkeys(NORMS, torch.zeros_like(loss)), torch.ones_like(found)
            seconds *= len(new) / len(prediction)
            cost: dict[str, Any] = {"forwards": passes, "gradients": 0 * passes, "flat": 0 * passes, "seconds": seconds}
            margin = verdict.margin[new]
            result = AttackResult(x, found != batch.y, found, loss, right, again, margin, **sizes, **cost)
            self._write(rows, CLEAN, network, batch, x, found, result)
        return prediction

    def _answers(self, network: Model, batch: Batch, x: Images, again: int) -> Verdict:
        """A random model answers the same in every evaluation; with another number `again`, by other random draws."""
        found = []
        with torch.random.fork_rng([x.device] if x.is_cuda else []):
            for part in torch.arange(len(x), device=x.device).split(self.at_once):
                torch.manual_seed(int(combine(self._seeds(CLEAN, batch[part])[:1], again)))
                found.append(answers(network, x[part], batch.y[part], self.highest))
        return Verdict.together(found)

    def _write(
        self, rows: "_Rows", name: str, network: Model, batch: Batch, x: Images, clean: Labels, result: AttackResult
    ) -> None:
        probed = {
            str(probe): probe(network, x, batch.y, result.x_adv, self._seeds(f"{probe} {name}", batch))
            for probe in self.probes
            if probe.of_clean == (name == CLEAN)
        }
        pixels = rows.pixels[rows.places(batch)]
        rows.write(AttackedImages(self.records[name], batch, x, pixels, clean, result, probed))

    def _seeds(self, name: str, batch: Batch) -> Seeds:
        return seeds_of(self.records[CLEAN].seed, name, batch.index)


def seeds_of(seed: int, name: str, index: Tensor | None) -> Seeds:
    """One seed per image: a hash of the evaluation's seed, of the image's place in its data set and of a name."""
    assert index is not None
    return combine(torch.full((len(index),), seed, dtype=torch.int64), index.cpu(), zlib.crc32(name.encode()))


class _Rows:
    """The rows of one task: those that were there, and the new ones.

    done     by attack, which images have a row
    correct  which images are classified correctly without an attack, of a random model in one answer at least
    broken   places of images that an attack broke, with the sizes of their perturbations by norm: those that are wrong
             in every answer, so that no other attack can lower their share of right answers
    """

    def __init__(self, task: Task, pixels: np.ndarray) -> None:
        assert task.batch.index is not None
        self.known, self.pixels, self.label = task.known, pixels, task.batch.y.cpu().numpy()
        self.probes = [str(probe) for probe in task.probes]
        self.place = {image: place for place, image in enumerate(task.batch.index.tolist())}
        self.done = {name: np.zeros(len(self.label), bool) for name in task.records}
        self.correct = np.ones(len(self.label), bool)
        self.broken: list[tuple[np.ndarray, dict[str, np.ndarray]]] = []
        self.tables = [table_of([], self.probes)]
        if self.known is not None:
            self._read(self.known, task.probes)

    def _read(self, known: Evaluation, probes: tuple[Probe, ...]) -> None:
        """Take the rows that are there; one that lacks a probe is made again."""
        attack, at = known["attack"], self._at(known["image"])
        pixels = known["pixels"]
        other = (known["label"] != self.label[at]) | ((pixels != 0) & (pixels != self.pixels[at]))
        if other.any():
            raise ValueError(
                f"the table that is to be extended is of other images: image {known['image'][other][0]} has other "
                "pixels or another label. Begin a new one (--fresh, or another --folder)"
            )
        complete = np.ones(len(attack), bool)
        for probe in probes:
            values = known[str(probe)] if str(probe) in known.probes else np.full(len(attack), np.nan)
            complete &= ~np.isnan(values) | ((attack == CLEAN) != probe.of_clean)
        for name in self.done:
            self.done[name][at[complete & (attack == name)]] = True
        self._add_broken(known.table, at)

    def compared(self, verdict: Verdict, again: Callable[[], Labels]) -> Labels:
        """The predictions of the unattacked images: of the rows that are there, and of now where there are none.

        Raises:
            ValueError: the model answers otherwise than it did. A random one may, as far as it contradicts itself.
        """
        now, losses = verdict.prediction.cpu().numpy(), verdict.loss.double().cpu().numpy()
        right, further = verdict.right.cpu().numpy(), verdict.again.cpu().numpy()
        if self.known is not None and len(rows := self.known.only(CLEAN)):
            at = self._at(rows["image"])
            before, losses_before = rows["prediction"], rows["loss"]
            both = ~np.isnan(losses_before) & ~np.isnan(losses[at])
            same = np.where(both, np.isclose(losses[at], losses_before, CLOSE, CLOSE), now[at] == before)
            if not same.all():
                itself = int((again().cpu().numpy() != now).sum())
                apart = int((now[at] != before).sum())
                if not itself or apart > itself + 3 * math.sqrt(itself) + 3:
                    raise ValueError(
                        "the table that is to be extended is of another model: unattacked, it answered otherwise to "
                        f"{int((~same).sum())} of {len(same)} images (image {rows['image'][~same][0]}: class "
                        f"{before[~same][0]}, now {now[at][~same][0]}). Begin a new one (--fresh, or another --folder)"
                    )
            now, right, further = now.copy(), right.copy(), further.copy()
            now[at], right[at], further[at] = before, rows["right"], rows["again"]
        self.correct = ~never_right(now != self.label, right, further)
        return torch.from_numpy(now).to(verdict.prediction.device)

    def places(self, batch: Batch) -> np.ndarray:
        assert batch.index is not None
        return self._at(batch.index.cpu().numpy())

    def _at(self, images: np.ndarray) -> np.ndarray:
        return np.array([self.place[image] for image in images.tolist()], int)

    def _add_broken(self, table: "pyarrow.Table", at: np.ndarray) -> None:
        prediction, right, again = (table[name].to_numpy() for name in ("prediction", "right", "again"))
        wrong = never_right(misclassified(prediction, self.label[at]), right, again)
        self.broken.append((at[wrong], {norm: table[norm].to_numpy()[wrong] for norm in NORMS}))

    def missing(self, record: Record) -> np.ndarray:
        """The images that an attack has yet to be run on."""
        missing = ~self.done[record.name]
        if record.asked == "every":
            return missing
        correct = self.correct.copy()
        if record.norm is not None and record.eps is not None:
            for at, sizes in self.broken:
                correct[at[sizes[record.norm.lower()] <= record.eps * ROUNDING]] = False
        return missing & correct

    def write(self, attacked: AttackedImages) -> None:
        table = table_of([attacked], self.probes)
        self._add_broken(table, self.places(attacked.batch))
        self.tables.append(table)

    def table(self) -> "pyarrow.Table":
        import pyarrow

        return pyarrow.concat_tables(self.tables)


def placed(model: Model, device: torch.device | str | None) -> Model:
    """The model on a device, where one is named and it can be moved."""
    return model.to(device) if isinstance(model, nn.Module) and device is not None else model


def answers(model: Model, x: Images, y: Labels, highest: int = -1) -> Verdict:
    """What a model makes of unattacked images, in several answers of a random one (`answers_of`).

    highest  a label that must have a class, besides those of these images

    Raises:
        ValueError: the answer can be neither logits nor classes.
    """
    ask = Forward(model)
    with evaluation_mode(model), torch.no_grad():
        found = [ask(x) for _ in range(answers_of(model))]
    check_answer(found[0], len(x), max(int(y.max()), highest))
    return Verdict.of(found, y, reject_class(model))


@contextmanager
def space_of(model: Model, space: Space) -> Iterator[tuple[Callable[[Tensor], Tensor], Model]]:
    """The model in evaluation mode, as its preprocessing (the identity for pixels) and the part that is attacked.

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
