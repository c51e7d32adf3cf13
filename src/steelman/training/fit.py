"""The training loop: order, batches, updates, validation, checkpoints, and going on after a stop."""

import hashlib
import json
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from steelman.attacks.attack import Attack
from steelman.data.augment import Augmentation
from steelman.data.dataset import Dataset
from steelman.data.split import split_off
from steelman.defences.objective import Objective
from steelman.randomness import combine
from steelman.training import checkpoint
from steelman.training.game import CLASSIFIER, Game, Minimise
from steelman.training.optimisers import SGD, Constant, Optimiser, Schedule
from steelman.training.play import Diverged, play
from steelman.training.processes import Processes, processes
from steelman.training.progress import TrainingBar
from steelman.training.watch import Watch
from steelman.types import Batch


@dataclass(frozen=True)
class Training:
    """How to train; the `[training]` section of a recipe.

    epochs, batch_size  default 10 and 128; the batch is the global one, shared out over the processes
    optimiser, schedule default SGD(lr=.1, momentum=.9), Constant(); the schedule is asked before every batch
    augment             default none; applied to whole batches, in order
    ema                 decay of an exponential moving average of the weights, such as .998; validated and handed out in
                        place of the raw weights. Default none
    seed                decides order, noise and validation split; the network's first weights are the caller's
    micro_batch         images per descent, to save memory; the update is that of the whole batch. Default the whole
    validation          images held out of the training set, a count or a fraction; default none. The best checkpoint is
                        that of the highest accuracy there: under `monitor` if given, otherwise clean
    monitor             attack on the held-out images after every epoch
    track_test          so many test images are measured after every epoch (accuracy, rho_2) for convergence curves; they
                        never choose anything. Default 0
    checkpoint_seconds  a checkpoint is written after every epoch and at least this often; default 300
    """

    epochs: int = 10
    batch_size: int = 128
    optimiser: Optimiser = SGD()
    schedule: Schedule = Constant()
    augment: tuple[Augmentation, ...] = ()
    ema: float | None = None
    seed: int = 0
    micro_batch: int | None = None
    validation: float = 0.0
    monitor: Attack | None = None
    track_test: int = 0
    checkpoint_seconds: float = 300.0

    def __post_init__(self) -> None:
        if self.epochs < 0 or self.batch_size < 1 or self.validation < 0 or self.track_test < 0:
            raise ValueError(
                "training needs epochs >= 0, batch_size >= 1, validation >= 0 and track_test >= 0; got "
                f"{self.epochs}, {self.batch_size}, {self.validation} and {self.track_test}"
            )
        if self.micro_batch is not None and self.micro_batch < 1:
            raise ValueError(f"micro_batch is a number of images, at least 1; got {self.micro_batch}")
        if self.ema is not None and not 0 < self.ema < 1:
            raise ValueError(f"ema is a decay between 0 and 1, such as .998; got {self.ema}")


@dataclass(frozen=True)
class History:
    """What training left: a line per epoch (0 is before training), and the folder with its checkpoints."""

    log: list[dict[str, Any]] = field(default_factory=list)
    folder: Path | None = None

    @property
    def last(self) -> dict[str, Any]:
        return self.log[-1]

    def __repr__(self) -> str:
        line = {key: round(value, 5) if isinstance(value, float) else value for key, value in self.last.items()}
        return f"History({len(self.log)} lines, last {line})"


def fit(
    model: nn.Module,
    data: Dataset | tuple[Tensor, Tensor],
    defence: Objective | Game,
    training: Training = Training(),  # noqa: B008 (frozen)
    *,
    folder: Path | str | None = None,
    test: Dataset | None = None,
    networks: dict[str, nn.Module] | None = None,
    optimisers: dict[str, Optimiser] | None = None,
    progress: bool = True,
) -> History:
    """Train `model` in place by a defence; returns the history.

    `data` is a `Dataset`, or images and labels. With a `folder`, every epoch leaves `last.safetensors` (everything needed
    to go on), `best.safetensors` and `log.jsonl`; called again with the same arguments, training goes on where it was and
    ends, in one process, in the same bits as if it had never stopped. `networks` and `optimisers` are those of a game's
    other players. Under torchrun, every process calls this with the same arguments.

    Raises:
        ValueError: the folder holds a run with other settings, or the data cannot be trained on.
        Diverged: the loss is NaN or infinite; the message names the batch, the last good checkpoint stays.
        KeyboardInterrupt: after an interrupt (or SIGTERM), once a checkpoint is written.
    """
    with processes() as group:
        return _Run(
            model, data, defence, training, folder, test, networks or {}, optimisers or {}, group, progress
        ).go()


class _Run:
    """One training: what is fixed, and what moves (epoch, batch within it, sums, log)."""

    def __init__(
        self,
        model: nn.Module,
        data: Dataset | tuple[Tensor, Tensor],
        defence: Objective | Game,
        training: Training,
        folder: Path | str | None,
        test: Dataset | None,
        networks: dict[str, nn.Module],
        optimisers: dict[str, Optimiser],
        group: Processes,
        progress: bool,
    ) -> None:
        self.model, self.training, self.group, self.progress = model, training, group, progress
        self.folder = None if folder is None else Path(folder)
        self.device = next(model.parameters()).device
        whole = as_dataset(data).to(self.device)
        held = int(training.validation if training.validation >= 1 else round(training.validation * len(whole)))
        if len(whole) - held < 1:
            raise ValueError(f"nothing is left to train on: {len(whole)} images, {held} of them for validation")
        self.data, validation = split_off(whole, held, training.seed) if held else (whole, None)
        if training.monitor is not None and validation is None:
            raise ValueError("training.monitor attacks held-out images: set training.validation, such as 0.1")
        self.watch = Watch(
            validation,
            training.monitor,
            None if test is None else test.to(self.device),
            training.track_test,
            training.seed,
        )
        self.game: Game = Minimise(defence, training.micro_batch) if isinstance(defence, Objective) else defence
        self.nets = nn.ModuleDict({CLASSIFIER: model, **networks})
        builders = {CLASSIFIER: training.optimiser, **optimisers}
        missing = set(networks) - set(builders)
        if missing:
            raise ValueError(f"no optimiser for {', '.join(sorted(missing))}")
        self.optimisers = {name: builders[name].build(self.nets[name].parameters()) for name in self.nets}
        self.rates = {name: [part["lr"] for part in each.param_groups] for name, each in self.optimisers.items()}
        self.average = None
        if training.ema is not None:
            self.average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(training.ema), use_buffers=True)
        self.fingerprint = fingerprint(training, defence, self.nets, len(whole))
        self.epoch, self.batch, self.seen, self.loss, self.seconds = 0, 0, 0, 0.0, 0.0
        self.best, self.log = float("-inf"), list[dict[str, Any]]()

    @property
    def judged(self) -> nn.Module:
        """The network that is validated and handed out."""
        return self.model if self.average is None else self.average.module

    def go(self) -> History:
        for net in self.nets.values():
            self.group.agree(net)
        if self.average is not None:
            self.group.agree(self.average)
        resumed = self._resume()
        with ExitStack() as stack:
            stack.enter_context(_mode_kept(self.nets))
            stop = stack.enter_context(_interrupts())
            batches = -(-len(self.data) // self.training.batch_size)
            bar = stack.enter_context(TrainingBar(self.progress and self.group.first, self.training.epochs, batches))
            if resumed:
                bar.at(self.epoch, self.batch)
            else:
                self._end_of_epoch(bar)
            while self.epoch < self.training.epochs:
                self._epoch(batches, bar, stop)
                self.epoch, self.batch = self.epoch + 1, 0
                self._end_of_epoch(bar)
        if self.average is not None:
            self.model.load_state_dict(self.average.module.state_dict())
        return History(self.log, self.folder)

    def _epoch(self, batches: int, bar: TrainingBar, stop: "_Stop") -> None:
        order = torch.randperm(
            len(self.data), generator=torch.Generator().manual_seed(self._number("order", self.epoch))
        )
        parts = order.split(self.training.batch_size)
        shares = [part.tensor_split(self.group.world)[self.group.rank] for part in parts[self.batch :]]
        mine = [share if len(share) else part[:1] for share, part in zip(shares, parts[self.batch :], strict=True)]
        saved = time.monotonic()
        start = time.perf_counter()
        for part, share, batch in zip(parts[self.batch :], shares, self.data.batches(mine), strict=True):
            progress = (self.epoch + self.batch / batches) / self.training.epochs
            factor = self.training.schedule(progress)
            for name, optimiser in self.optimisers.items():
                for place, settings in enumerate(optimiser.param_groups):
                    settings["lr"] = self.rates[name][place] * factor
            self.nets.train()
            try:
                losses = play(
                    self.game,
                    self.nets,
                    self._prepare(batch),
                    self.optimisers,
                    self.group,
                    len(share) * self.group.world / len(part),
                )
            except Diverged as error:
                kept = f"; the last good checkpoint is {self.folder / 'last.safetensors'}" if self.folder else ""
                raise Diverged(
                    f"{error} in epoch {self.epoch + 1}, batch {self.batch + 1} of {batches} (its first images: "
                    f"{part[:5].tolist()}){kept}. Lower the learning rate or the defence's weight"
                ) from None
            if self.average is not None:
                self.average.update_parameters(self.model)
            self.batch += 1
            self.seen += len(part)
            self.loss += losses.get(CLASSIFIER, 0.0) * len(part)
            bar.step(self.loss / self.seen)
            stopping = self.group.any(stop.asked)
            if stopping or (
                self.folder and self.group.any(time.monotonic() - saved > self.training.checkpoint_seconds)
            ):
                self.seconds += time.perf_counter() - start
                self._save()
                saved, start = time.monotonic(), time.perf_counter()
            if stopping:
                raise KeyboardInterrupt("training was interrupted; the same call goes on from its checkpoint")
        self.seconds += time.perf_counter() - start

    def _prepare(self, batch: Batch) -> Batch:
        assert batch.index is not None
        base = torch.full_like(batch.index, self._number("image", self.epoch))
        batch = Batch(batch.x, batch.y, batch.index, combine(base, batch.index))
        for augment in self.training.augment:
            batch = augment(batch)
        return batch

    def _number(self, purpose: str, epoch: int) -> int:
        digest = hashlib.sha256(f"{purpose} {self.training.seed} {epoch}".encode()).digest()
        return int.from_bytes(digest[:7], "big")

    def _end_of_epoch(self, bar: TrainingBar) -> None:
        line: dict[str, Any] = {"epoch": self.epoch}
        if self.epoch:
            line |= {
                "loss": self.loss / max(self.seen, 1),
                "lr": self.optimisers[CLASSIFIER].param_groups[0]["lr"],
                "seconds": self.seconds,
            }
        if self.group.first:
            line |= self.watch(self.judged)
        self.log.append(line)
        bar.line(line)
        score = line.get("robust", line.get("clean", float(self.epoch)))
        better = self.epoch > 0 and score > self.best
        self.best = max(self.best, score) if self.epoch else self.best
        self.seen, self.loss, self.seconds = 0, 0.0, 0.0
        if better and self.folder and self.group.first:
            checkpoint.save(
                self.folder / "best.safetensors", {"epoch": self.epoch, CLASSIFIER: self.judged.state_dict()}
            )
        self._save()

    def _save(self) -> None:
        if self.folder is None:
            return
        generators = self.group.gather(torch.get_rng_state())
        cuda = self.group.gather(torch.cuda.get_rng_state()) if self.device.type == "cuda" else []
        if not self.group.first:
            return
        checkpoint.save(
            self.folder / "last.safetensors",
            {
                "fingerprint": self.fingerprint,
                "nets": {name: net.state_dict() for name, net in self.nets.items()},
                "optimisers": {name: optimiser.state_dict() for name, optimiser in self.optimisers.items()},
                "average": None if self.average is None else self.average.state_dict(),
                "random": {"cpu": generators, "cuda": cuda},
                "position": [self.epoch, self.batch, self.seen, self.loss, self.seconds, self.best],
                "log": self.log,
            },
        )
        (self.folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in self.log))

    def _resume(self) -> bool:
        if self.folder is None or not (self.folder / "last.safetensors").exists():
            return False
        state = checkpoint.load(self.folder / "last.safetensors", self.device)
        if state["fingerprint"] != self.fingerprint:
            changed = [key for key, value in self.fingerprint.items() if state["fingerprint"].get(key) != value]
            raise ValueError(
                f"{self.folder} holds a run with another {' and '.join(changed)}: use another folder, or delete this one"
            )
        for name, net in self.nets.items():
            net.load_state_dict(state["nets"][name])
            self.optimisers[name].load_state_dict(state["optimisers"][name])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        generators = state["random"]
        if self.group.rank < len(generators["cpu"]):
            torch.set_rng_state(generators["cpu"][self.group.rank].cpu())
        if self.device.type == "cuda" and self.group.rank < len(generators["cuda"]):
            torch.cuda.set_rng_state(generators["cuda"][self.group.rank].cpu())
        self.epoch, self.batch, self.seen, self.loss, self.seconds, self.best = state["position"]
        self.log = state["log"]
        return True


def as_dataset(data: Dataset | tuple[Tensor, Tensor]) -> Dataset:
    """A pair of images and labels as a data set; a data set as it is."""
    from steelman.data.memory import InMemory

    return data if isinstance(data, Dataset) else InMemory(*data)


def fingerprint(training: Training, defence: Objective | Game, nets: nn.ModuleDict, images: int) -> dict[str, str]:
    """What must be the same for a run to go on; the length of checkpoint intervals need not be."""
    shapes = {name: list(value.shape) for name, value in nets.state_dict().items()}
    return {
        "training": repr(replace(training, checkpoint_seconds=0.0)),
        "defence": repr(defence),
        "network": hashlib.sha256(json.dumps(shapes).encode()).hexdigest()[:16],
        "number of images": str(images),
    }


def trained_weights(folder: Path, name: str = "best") -> dict[str, Tensor]:
    """The weights of a finished or running training: "best" by validation (the last epoch when there is none)."""
    return checkpoint.load(folder / f"{name}.safetensors")[CLASSIFIER]


@contextmanager
def _mode_kept(nets: nn.ModuleDict) -> Iterator[None]:
    modes = [(module, module.training) for module in nets.modules()]
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


class _Stop:
    asked = False


@contextmanager
def _interrupts() -> Iterator[_Stop]:
    """Turn the first interrupt or SIGTERM into a wish to stop after this batch; a second interrupt acts at once."""
    stop = _Stop()

    def ask(number: int, frame: object) -> None:
        stop.asked = True
        signal.signal(signal.SIGINT, signal.default_int_handler)

    try:
        before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not the main thread, which alone may handle signals
        yield stop
        return
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
