"""The training loop: order, batches, updates, validation, checkpoints, and going on after a stop."""

import json
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from steelman import checkpoint
from steelman.attacks.core.mode import evaluation_mode
from steelman.data.augment import augmented
from steelman.data.dataset import Dataset
from steelman.data.memory import as_dataset
from steelman.data.sample import split_off
from steelman.defences.batching import cut, least_batch, least_images, parts_in
from steelman.defences.game import Game, Player, players_of
from steelman.defences.objective import Objective
from steelman.files import sha256, write_text
from steelman.forward import answer_of
from steelman.progress import ProgressBar
from steelman.randomness import combine
from steelman.training.averaging import Averaging
from steelman.training.distributed import Processes, processes
from steelman.training.fingerprint import extended, fingerprint, refuse_other
from steelman.training.guards import Stop, check_model, check_unattacked, device_of, game_of, interrupts, once_per_place
from steelman.training.settings import History, Training
from steelman.training.step import Diverged, play
from steelman.training.trackers import Trackers
from steelman.training.validation import SHORT, Validation, shown
from steelman.types import CLASSIFIER, Batch, Seeds


def fit(
    model: nn.Module,
    data: Dataset | tuple[Tensor, Tensor],
    defence: Game,
    training: Training = Training(),  # noqa: B008 (frozen)
    *,
    folder: Path | str | None = None,
    test: Dataset | None = None,
    prepare: Callable[[Dataset], Dataset] | None = None,
    players: dict[str, Player] | None = None,
    progress: bool = True,
) -> History:
    """Train `model` in place by a defence; returns the history.

    data      a `Dataset`, or images and labels
    folder    where every epoch leaves `last.safetensors` (all that is needed to resume), `best.safetensors` and
              `log.jsonl`. The same call resumes a stopped training, and ends, with as many processes, in the same bits
              as if it had never stopped. Another process that trains in this folder waits
    test      test images, for `training.track_test`
    prepare   applied to the training images after the validation images are held out, so that nothing made from those
              is trained on
    players   networks and optimisers in place of those that the game makes for itself, by name
    progress  show a bar, where there is a terminal

    Under torchrun, every process calls this with the same arguments. torch's global generators are seeded before every
    batch, and restored at the end.

    Raises:
        ValueError: the folder holds a run with other settings or images; the data, the network or the defence cannot be
            trained; the game has no such player.
        Diverged: a loss is NaN or infinite; the message names the batch, and the last good checkpoint stays.
        KeyboardInterrupt: after an interrupt (or SIGTERM), once a checkpoint is written.
    """
    group = processes()
    if folder is not None and group.first:
        checkpoint.room_for(model, Path(folder))
    run = _Run(model, data, defence, training, folder, test, prepare, players or {}, group, progress)
    with group.holding(run.folder):
        return run.train()


class _Run:
    """One training: what is fixed, and what moves (epoch, batch within it, sums, log)."""

    def __init__(
        self,
        model: nn.Module,
        data: Dataset | tuple[Tensor, Tensor],
        defence: Game,
        training: Training,
        folder: Path | str | None,
        test: Dataset | None,
        prepare: Callable[[Dataset], Dataset] | None,
        players: dict[str, Player],
        group: Processes,
        progress: bool,
    ) -> None:
        self.model, self.training, self.group, self.progress = model, training, group, progress
        self.folder = None if folder is None else Path(folder)
        self.device = device_of(model)
        whole = as_dataset(data).to(self.device)
        held_out = int(training.validation if training.validation >= 1 else round(training.validation * len(whole)))
        if len(whole) - held_out < 1:
            raise ValueError(f"no images are left to train on: {len(whole)} images, {held_out} of them for validation")
        self.objective = defence if isinstance(defence, Objective) else None
        self.classifies = getattr(defence, "classifies", True)
        if self.classifies:
            check_model(model, whole)
        else:
            check_unattacked(defence, training.monitor, training.track_test)
        self.data, validation = split_off(whole, held_out, training.seed) if held_out else (whole, None)
        if training.images is not None and training.images < len(self.data):
            _, self.data = split_off(self.data, training.images, training.seed)
        if prepare is not None:
            self.data = prepare(self.data)
        if training.track_test and test is None:
            raise ValueError("training.track_test measures test images: give them to fit as test=")
        tracked = test.to(self.device) if test is not None and training.track_test else None
        self.validation = Validation(validation, training.monitor, tracked, training.track_test, training.seed)
        self.game = game_of(defence, training.micro_batch).setup(model, self.data)
        self.alone = least_images(model, self.data)
        self.least = least_batch(self.game, self.alone, training.batch_size, len(self.data), group.world)
        self.memory = self.game.memory
        self.merged = _rows(self.memory)
        with self._own_chance():
            self._seed("players")
            players = players_of(self.game, self.data, players)
        everyone = {CLASSIFIER: Player(model, training.optimiser, training.schedule), **players}
        self.nets = nn.ModuleDict({name: each.network for name, each in everyone.items()}).to(self.device)
        self.optimisers = {name: each.optimiser.build(each.network.parameters()) for name, each in everyone.items()}
        self.schedules = {name: each.schedule for name, each in everyone.items()}
        self.rates = {name: [part["lr"] for part in each.param_groups] for name, each in self.optimisers.items()}
        self.averaging = Averaging(model, training)
        if training.trackers and self.folder is None:
            raise ValueError(f"training.{training.trackers[0]} writes into the run's folder: give it to fit as folder=")
        self.trackers = Trackers(self.folder if group.first else None, training.trackers)
        more: dict[str, Any] = {name: (each.optimiser, each.schedule) for name, each in players.items()}
        more |= {} if prepare is None else {"prepare": prepare}
        self.fingerprint = fingerprint(training, defence, self.nets, whole, **more)
        self.epoch, self.batch, self.seen, self.seconds = 0, 0, 0, 0.0
        self.losses: dict[str, float] = {}
        self.best, self.log = float("-inf"), list[dict[str, Any]]()
        self.best_state: dict[str, dict[str, Tensor]] | None = None
        self.measured = ""
        self.buffers_compared = group.world == 1

    @property
    def batches(self) -> int:
        """Of a whole epoch."""
        return parts_in(len(self.data), self.training.batch_size, self.least)

    @property
    def total(self) -> int:
        """Batches in all."""
        return self.training.iterations or self.training.epochs * self.batches

    def _done(self, batches: int) -> float:
        """The share of the training that is over after so many batches, by its next end."""
        ends = (*(each * self.batches for each in self.training.ends), self.total)
        return batches / next(each for each in ends if batches < each)

    def train(self) -> History:
        for net in self.nets.values():
            self.group.agree(net)
        if self.averaging.average is not None:
            self.group.agree(self.averaging.average)
        resumed = self._resume()
        epochs = -(-self.total // self.batches)
        with ExitStack() as stack:
            stack.enter_context(evaluation_mode(self.nets, frozen=False))  # restored at the end
            stack.enter_context(once_per_place())
            stack.enter_context(self._own_chance())
            stop = stack.enter_context(interrupts())
            bar = stack.enter_context(
                ProgressBar(self.progress and self.group.first, epochs * self.batches, "training")
            )
            stack.enter_context(self.trackers)
            if resumed:
                bar.set(self.epoch * self.batches + self.batch)
            else:
                self._end_of_epoch(bar)
            while self.epoch < epochs and not self._out_of_patience():
                self._epoch(bar, stop)
                self.epoch, self.batch = self.epoch + 1, 0
                self._end_of_epoch(bar)
        for name, state in (self.best_state or self._weights()).items():
            self.nets[name].load_state_dict(state)
            self.group.agree(self.nets[name])  # the first process alone has validated
        return History(self.log, self.folder)

    def _epoch(self, bar: ProgressBar, stop: Stop) -> None:
        chance = torch.Generator().manual_seed(self._number("order", self.epoch))
        parts = cut(torch.randperm(len(self.data), generator=chance), self.training.batch_size, self.least)
        parts = parts[self.batch : self.total - self.epoch * self.batches]
        shares = parts
        if self.group.world > 1:
            shares = [part.tensor_split(self.group.world)[self.group.rank] for part in parts]
        # A process without a share still takes part, with one image of weight 0.
        mine = [share if len(share) else part[:1] for share, part in zip(shares, parts, strict=True)]
        saved, start = time.monotonic(), time.perf_counter()
        seeds, modules = self._seeds(), list(self.nets.modules())
        for part, share, here, batch in zip(parts, shares, mine, self.data.batches(mine), strict=True):
            done = self._done(self.epoch * self.batches + self.batch)
            self._set_rates(done)
            self._seed("chance", self.epoch, self.batch, self.group.rank)
            if not all(getattr(module, "training", False) for module in modules):  # to set it is slow
                self.nets.train()
            batch = self._prepare(batch, seeds[here.to(seeds.device)], done)
            weight = len(share) * self.group.world / len(part)
            try:
                losses = play(self.game, self.nets, batch, self.optimisers, self.group, weight)
            except (Diverged, ValueError) as error:
                place = f"epoch {self.epoch + 1}, batch {self.batch + 1} of {self.batches}"
                self._check_diverged(error, f"in {place} (its first images: {part[:5].tolist()})", batch.x)
                raise
            self._share_buffers()
            self.averaging.after_batch()
            self.batch += 1
            self.seen += len(part)
            for name, loss in losses.items():
                self.losses[name] = self.losses.get(name, 0.0) + loss * len(part)
            bar.advance(note=shown(self._mean_losses()) + self.measured)
            due = time.monotonic() - saved > self.training.checkpoint_seconds
            stopping, due = self.group.any(stop.requested, due)
            if stopping or due:
                self.seconds += time.perf_counter() - start
                self._save()
                saved, start = time.monotonic(), time.perf_counter()
            if stopping:
                kept = "the same call resumes it from its checkpoint" if self.folder else "without a folder it is lost"
                raise KeyboardInterrupt(f"training was interrupted; {kept}")
        self.seconds += time.perf_counter() - start

    def _set_rates(self, progress: float) -> None:
        for name, optimiser in self.optimisers.items():
            factor = self.schedules[name](progress)
            for rate, settings in zip(self.rates[name], optimiser.param_groups, strict=True):
                settings["lr"] = rate * factor

    def _seeds(self) -> Seeds:
        """Of all images in this epoch: many at once take little more time than a few."""
        index = self.data.index
        return combine(torch.full_like(index, self._number("image", self.epoch)), index)

    def _prepare(self, batch: Batch, seeds: Seeds, done: float) -> Batch:
        common = self._number("common", self.epoch, self.batch)
        batch = replace(batch, seeds=seeds.to(batch.x.device), progress=done, common=common)
        return augmented(batch, self.training.augment)

    def _own_chance(self) -> AbstractContextManager[None]:
        """While the block runs, torch's global generators are changed; then they are restored."""
        return torch.random.fork_rng([self.device] if self.device.type == "cuda" else [])

    def _seed(self, purpose: str, *place: int) -> None:
        """Seed torch's global generators. `torch.manual_seed` keeps the stack for devices that are not in use yet,
        which takes .1 ms and more: 3 % of a batch of an MLP."""
        alone = self.device.type == "cpu" and not torch.accelerator.is_available()
        (torch.default_generator.manual_seed if alone else torch.manual_seed)(self._number(purpose, *place))

    def _number(self, purpose: str, *place: int) -> int:
        """A seed for a purpose and a place in the training, from the training's own seed; nothing has to be stored."""
        return int(sha256(" ".join(map(str, (purpose, self.training.seed, *place))))[:14], 16)  # seven bytes

    def _check_diverged(self, error: Exception, where: str, x: Tensor) -> None:
        """Raise Diverged where the error comes from a network whose answers are not finite."""
        if not isinstance(error, Diverged):
            if not self.classifies:
                return
            with torch.no_grad(), evaluation_mode(self.model):
                if bool(answer_of(self.model, x).isfinite().all()):
                    return
        last = self.folder and self.folder / "last.safetensors"
        kept = f"; the last good checkpoint is {last}" if last and last.exists() else ""
        raise Diverged(f"{error} {where}{kept}. Lower the learning rate or the defence's weight") from error

    def _share_buffers(self) -> None:
        """The first process's, also without a resume; a warning where several processes do not train as one does."""
        if not self.buffers_compared:
            self.buffers_compared = True
            self.group.warn_of_differing_buffers(self.nets)
        self.group.same_buffers(self.nets)

    def _end_of_epoch(self, bar: ProgressBar) -> None:
        line: dict[str, Any] = {"epoch": self.epoch}
        self._seed("validation", self.epoch)  # from which random networks draw their answers
        if self.epoch:
            done = min(self.epoch * self.batches / self.total, 1.0)
            parts = cut(torch.arange(len(self.data)), self.training.batch_size, self.alone)
            self.averaging.after_epoch(done, (each.x for each in self.data.batches(parts)))
            self._merge_memory()
            moved = CLASSIFIER if CLASSIFIER in self.losses else next(iter(self.losses))
            rate = self.optimisers[moved].param_groups[0]["lr"]
            line |= {**self._mean_losses(), "lr": rate, "seconds": self.seconds, **self.game.report}
        if self.group.first:
            line |= self._measure()
        self.log.append(line)
        self.measured = shown({SHORT[key]: line[key] for key in SHORT if key in line})
        bar.set(title=f"epoch {min(self.epoch, -(-self.total // self.batches) - 1) + 1}")
        for tracker in self.trackers:
            tracker.line(line)
        score = self._score(line)
        if score > self.best and (self.epoch or not self.total):
            self.best = score
            if self.training.patience is not None:
                self.best_state = {
                    name: {key: value.clone() for key, value in state.items()}
                    for name, state in self._weights().items()
                }
            if self.folder and self.group.first:
                state = {"epoch": self.epoch, **self._weights()}
                checkpoint.save(self.folder / "best.safetensors", state, dict(self.nets.items()))
        self.seen, self.losses, self.seconds = 0, {}, 0.0
        self._save()

    def _weights(self) -> dict[str, dict[str, Tensor]]:
        """The weights that are validated and returned."""
        weights = {name: net.state_dict() for name, net in self.nets.items()}
        return weights | {CLASSIFIER: self.averaging.evaluated.state_dict()}

    def _mean_losses(self) -> dict[str, float]:
        """Of the epoch so far; the classifier's is called "loss"."""
        return {
            "loss" if name == CLASSIFIER else f"{name} loss": total / self.seen for name, total in self.losses.items()
        }

    def _score(self, line: dict[str, Any]) -> float:
        """What chooses the best epoch: margin or accuracy under the monitor, else clean accuracy, else its number.

        Where an attack is trained, the lowest accuracy under it; where no classifier is, the lowest loss.
        """
        if "held_out" in line:
            return -line["held_out"]
        if self.game.frozen:
            return -line["generated"] if "generated" in line else float(line["epoch"])
        return line.get("margin", line.get("robust", line.get("clean", float(line["epoch"]))))

    def _out_of_patience(self) -> bool:
        """Whether so many epochs have passed since the best one. Only the first process has measured."""
        scores = [self._score(line) for line in self.log[1:]]
        waited = len(scores) - 1 - scores.index(max(scores)) if scores else 0
        return self.group.any(self.group.first and waited >= (self.training.patience or float("inf")))[0]

    def _measure(self) -> dict[str, float]:
        try:
            if not self.classifies:
                return self.validation.held_out(self.averaging.evaluated, self.objective)
            return self.validation(self.averaging.evaluated, self.game.monitor(self.nets))
        except ValueError as error:
            sample = next(self.data.in_order(min(len(self.data), self.training.batch_size)))
            self._check_diverged(error, f"after epoch {self.epoch}", sample.x)
            raise

    def _merge_memory(self) -> None:
        if self.memory is not None:
            self.group.merge(self.memory, self.merged)
            self.merged = _rows(self.memory)

    def _save(self) -> None:
        self._merge_memory()
        if self.folder is None or not self.group.first:
            return
        state = {
            "fingerprint": self.fingerprint,
            "nets": {name: net.state_dict() for name, net in self.nets.items()},
            "optimisers": {name: optimiser.state_dict() for name, optimiser in self.optimisers.items()},
            "average": None if self.averaging.average is None else self.averaging.average.state_dict(),
            "memory": None if self.memory is None else self.memory.state_dict(),
            "position": [self.epoch, self.batch, self.seen, self.losses, self.seconds, self.best],
            "log": self.log,
        }
        checkpoint.save(self.folder / "last.safetensors", state, dict(self.nets.items()))
        self._write_log(self.folder)

    def _write_log(self, folder: Path) -> None:
        write_text(folder / "log.jsonl", "".join(json.dumps(line) + "\n" for line in self.log))

    def _resume(self) -> bool:
        last = None if self.folder is None else self.group.read(self.folder / "last.safetensors")
        if self.folder is None or last is None:
            return False
        state = checkpoint.load(self.folder / "last.safetensors", needs=checkpoint.TRAINING, raw=last)
        refuse_other(self.fingerprint, extended(state["fingerprint"], self.training), self.folder)
        for name, net in self.nets.items():
            net.load_state_dict(state["nets"][name])
            self.optimisers[name].load_state_dict(state["optimisers"][name])
        if self.averaging.average is not None:
            self.averaging.average.load_state_dict(state["average"])
        if self.memory is not None:
            self.memory.load_state_dict(state["memory"])
            self.merged = _rows(self.memory)
        best = None if self.training.patience is None else self.group.read(self.folder / "best.safetensors")
        if best is not None:
            best = checkpoint.load(self.folder / "best.safetensors", raw=best)
            self.best_state = {name: best[name] for name in self.nets}
        self.epoch, self.batch, self.seen, self.losses, self.seconds, self.best = state["position"]
        self.log = state["log"]
        if self.group.first:
            self._write_log(self.folder)  # the process may have been killed between checkpoint and log
        return True


def _rows(memory: nn.Module | None) -> dict[str, Tensor]:
    return {} if memory is None else {key: value.clone() for key, value in memory.named_buffers()}
