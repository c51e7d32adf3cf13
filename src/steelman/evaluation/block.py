"""Some images and everything that is measured of them: the piece of work that evaluation is cut into."""

import math
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from steelman.attacks.attack import Attack, check_images, check_labels
from steelman.attacks.from_prediction import FromPrediction
from steelman.attacks.mode import evaluation_mode
from steelman.attacks.oracle import check_answer
from steelman.evaluation.probes.probe import Probe
from steelman.evaluation.table import CLEAN, COLUMNS, ROUNDING, Evaluation
from steelman.losses import cross_entropy
from steelman.norms import L2, Linf
from steelman.randomness import combine
from steelman.types import Batch, Images, Labels, Model, PerImage, Seeds

if TYPE_CHECKING:
    import pyarrow

Space: TypeAlias = Literal["pixels", "preprocessed"]


def method_of(attack: Attack) -> Attack:
    return attack.attack if isinstance(attack, FromPrediction) else attack


@dataclass(frozen=True)
class Block:
    """Some images, the attacks that are to meet them, and the rows that they have already.

    `work` makes the rows that are missing. It needs nothing else, so that it can be called in another process.
    """

    model: Model
    batch: Batch
    space: Space
    attacks: Mapping[str, Attack]
    probes: tuple[Probe, ...]
    columns: bool
    seed: int
    known: Evaluation | None
    at_once: int
    """Images in one call of an attack."""
    device: str | None = None
    """Where the work is done; None: where model and images are. The first of its kind, or a worker's own."""

    def work(self, advance: Callable[[str, int], None] = lambda name, count: None) -> "pyarrow.Table":
        """The new rows, the unattacked images' among them where these are missing or lack a probe."""
        rows = _Rows(self)
        model, batch = self.model, self.batch
        if self.device is not None:
            batch = replace(batch, x=batch.x.to(self.device), y=batch.y.to(self.device))
        with space_of(placed(model, self.device), self.space) as (preprocess, network):
            x = preprocess(batch.x)
            check_images(x, None)
            check_labels("y", batch.y, x)
            prediction = self._clean(rows, network, batch, x)
            for name, attack in self.attacks.items():
                which = torch.where(torch.from_numpy(rows.to_meet(name, attack)))[0].to(x.device)
                for part in which.chunk(math.ceil(len(which) / self.at_once)) if len(which) else ():
                    self._attack(rows, network, batch[part], x[part], prediction[part], name, attack)
                advance(name, len(batch))
        return rows.table()

    def _clean(self, rows: "_Rows", network: Model, batch: Batch, x: Images) -> Labels:
        """Writes the rows of the unattacked images, where there are none; returns their predictions."""
        if rows.first is not None:
            rows.check(x)
            return torch.from_numpy(rows.first).to(x.device)
        start = time.perf_counter()
        cut = (each.split(self.at_once) for each in (x, batch.y))
        prediction, loss = map(
            torch.cat, zip(*(answers(network, *part) for part in zip(*cut, strict=True)), strict=True)
        )
        kind = {"attack": CLEAN, "parameters": "", "away_from": "label", "norm": None, "eps": 0.0}
        cost = {"gradients": 0, "forwards": 1, "seconds": (time.perf_counter() - start) / len(batch)}
        sizes = dict.fromkeys(("l0", "l1", "l2", "linf"), 0.0)
        columns = {"prediction": prediction, "success": prediction != batch.y, "loss": loss}
        probed = self._probed(CLEAN, network, batch, x, x)
        rows.write(batch, x, prediction, kind | cost | sizes, columns | probed)
        return prediction

    def _attack(
        self, rows: "_Rows", network: Model, batch: Batch, x: Images, prediction: Labels, name: str, attack: Attack
    ) -> None:
        method: Any = method_of(attack)
        away = isinstance(attack, FromPrediction)
        result = method.run(network, x, prediction if away else batch.y, generator=self._seeds(name, batch))
        norm, eps = getattr(method, "norm", None), getattr(method, "eps", None)
        kind = {
            "attack": name,
            "parameters": repr(method),
            "away_from": "prediction" if away else "label",
            "norm": None if norm is None else repr(norm),
            "eps": float("nan") if eps is None else float(eps),
            "seconds": result.seconds / len(batch),
        }
        found = ("prediction", "success", "loss", "l0", "l1", "l2", "linf", "forwards", "gradients")
        columns = {column: getattr(result, column) for column in found}
        probed = self._probed(name, network, batch, x, result.x_adv)
        rows.write(batch, x, prediction, kind, columns | probed)

    def _probed(self, name: str, network: Model, batch: Batch, x: Images, x_adv: Images) -> dict[str, PerImage]:
        return {
            str(probe): probe(network, x, batch.y, x_adv, self._seeds(f"{probe} {name}", batch))
            for probe in self.probes
            if probe.of_clean == (name == CLEAN)
        }

    def _seeds(self, name: str, batch: Batch) -> Seeds:
        return seeds_of(self.seed, name, batch.index)


def seeds_of(seed: int, name: str, index: Tensor | None) -> Seeds:
    """One seed per image: a hash of the evaluation's, of the image's place in its data set and of a name."""
    assert index is not None
    return combine(torch.full((len(index),), seed, dtype=torch.int64), index.cpu(), zlib.crc32(name.encode()))


class _Rows:
    """The rows of one block: those that were there, and those that are being made."""

    def __init__(self, block: Block) -> None:
        assert block.batch.index is not None
        self.block = block
        self.images = block.batch.index.cpu().numpy()
        self.place = {image: at for at, image in enumerate(self.images.tolist())}
        self.label = block.batch.y.cpu().numpy()
        self.names = [*COLUMNS, *map(str, block.probes)]
        self.made: dict[str, list[np.ndarray]] = {name: [] for name in self.names}
        self.met = {name: np.zeros(len(self.images), bool) for name in (CLEAN, *block.attacks)}
        self.right = np.ones(len(self.images), bool)
        self.fallen: list[tuple[np.ndarray, dict[str, np.ndarray]]] = []
        self.first: np.ndarray | None = None
        self._read()

    def _read(self) -> None:
        """Take note of the rows that are there; one without a probe that is asked for is not."""
        known = self.block.known
        if known is None:
            return
        attack = known["attack"]
        complete = np.ones(len(attack), bool)
        for probe in self.block.probes:
            values = known[str(probe)] if str(probe) in known.probes else np.full(len(attack), np.nan)
            complete &= ~np.isnan(values) | ((attack == CLEAN) != probe.of_clean)
        at = self._places(known["image"])
        for name in self.met:
            here = complete & (attack == name)
            self.met[name][at[here]] = True
        clean = attack == CLEAN
        if self.met[CLEAN].all() and known.about.get("model"):
            self.first = np.empty(len(self.images), np.int64)
            self.first[at[clean]] = known["prediction"][clean]
            self.right = self.first == self.label
        rows = {column: known[column] for column in ("prediction", "l0", "l1", "l2", "linf")}
        self._note(at, rows)

    def _places(self, images: np.ndarray) -> np.ndarray:
        return np.array([self.place[image] for image in images.tolist()], int)

    def _note(self, at: np.ndarray, rows: Mapping[str, np.ndarray]) -> None:
        wrong = rows["prediction"] != self.label[at]
        sizes = {norm: rows[norm][wrong] for norm in ("l0", "l1", "l2", "linf")}
        self.fallen.append((at[wrong], sizes))

    def check(self, x: Images) -> None:
        """Raises ValueError where the rows that are there are of other images."""
        known = self.block.known
        assert known is not None
        clean = known.only(CLEAN)
        at = self._places(clean["image"])
        size = L2.size(x.double()).cpu().numpy()[at]
        if (clean["label"] != self.label[at]).any() or not np.allclose(clean["x_l2"], size, rtol=1e-5):
            raise ValueError("the table that is to be extended is of other images or labels: begin a new one")

    def to_meet(self, name: str, attack: Attack) -> np.ndarray:
        """Which images an attack has still to meet."""
        missing = ~self.met[name]
        if self.block.columns or isinstance(attack, FromPrediction):
            return missing
        standing = self.right.copy()
        norm, eps = getattr(method_of(attack), "norm", None), getattr(method_of(attack), "eps", None)
        if norm is not None and eps is not None:
            for at, sizes in self.fallen:
                standing[at[sizes[repr(norm).lower()] <= float(eps) * ROUNDING]] = False
        return missing & standing

    def write(
        self, batch: Batch, x: Images, clean: Labels, kind: dict[str, Any], columns: Mapping[str, Tensor]
    ) -> None:
        """One attack's rows: what is the same for all images, and one tensor per other column."""
        assert batch.index is not None
        values: dict[str, Any] = {name: np.full(len(batch), value) for name, value in kind.items()}
        values["space"] = np.full(len(batch), self.block.space)
        tensors = {
            **columns,
            "x_l2": L2.size(x.double()),
            "x_linf": Linf.size(x.double()),
            "image": batch.index,
            "label": batch.y,
            "clean_prediction": clean,
        }
        values |= {name: value.detach().cpu().numpy() for name, value in tensors.items()}
        for name in self.names:
            self.made[name].append(values[name] if name in values else np.full(len(batch), np.nan))
        at = self._places(values["image"])
        if kind["attack"] == CLEAN:
            self.right = values["prediction"] == values["label"]
        self._note(at, values)

    def table(self) -> "pyarrow.Table":
        made = {name: np.concatenate(parts) if parts else [] for name, parts in self.made.items()}
        return Evaluation.from_columns(made).table


def placed(model: Model, device: str | None) -> Model:
    """The model on a device, where one is named and it can be moved."""
    return model.to(device) if isinstance(model, nn.Module) and device is not None else model


def answers(model: Model, x: Images, y: Labels) -> tuple[Labels, PerImage]:
    """Predictions of unattacked images, and cross-entropy: NaN of a model that answers with classes alone.

    Raises:
        ValueError: the answer can be neither logits nor classes.
    """
    with evaluation_mode(model), torch.no_grad():
        answer = model(x)
    check_answer(answer, len(x), int(y.max()))
    if not answer.is_floating_point():
        return answer.to(torch.int64), torch.full_like(x.flatten(1)[:, 0], torch.nan)
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
            yield torch.no_grad()(preprocess), network
        else:
            yield (lambda x: x), model
