"""How long YOPO takes to be as robust on MNIST as PGD-40 training, both trained side by side in one run.

    make yopo DATA=folder ARGS='--seconds 3600 --hardware "one core of ..."'

From one plainly trained SmallCNN, PGD-40 training, YOPO-5-10 and YOPO-5-3 take turns of a few seconds of processor time
on one core, and after each turn held-out images are attacked with PGD-40. eps grows in a straight line over the first
batches. Every turn is kept in the run's folder, so a call goes on where the last one stopped, also with more seconds;
the page is written anew after each round of turns.
"""

import argparse
import copy
import json
import time
from collections import Counter
from dataclasses import replace
from datetime import date
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from steelman import PGD, YOPO, AdversarialTraining, Batch, Plain, checkpoint
from steelman.attacks.core.mode import evaluation_mode
from steelman.data import MNIST, split_off
from steelman.data.dataset import Dataset
from steelman.defences import Game
from steelman.files import write_text
from steelman.networks import SmallCNN
from steelman.randomness import combine
from steelman.training import play

BATCH = 50
START = 600
"""Batches of plain training before the clocks start."""
HELD_OUT = 400
SETTINGS = ("eps", "rate", "growing", "turn")
LEVELS = (0.2, 0.4, 0.6, 0.7, 0.8, 0.85, 0.9, 0.93)


def methods(eps: float) -> dict[str, Game]:
    return {
        "PGD-40": AdversarialTraining(PGD(eps, steps=40, step_size=eps / 30)),
        "YOPO-5-10": YOPO(5, 10, eps, eps / 30),
        "YOPO-5-3": YOPO(5, 3, eps, eps / 9),
    }


def grown(game: Game, share: float) -> Game:
    """The same method with a share of its radius and step."""
    if isinstance(game, AdversarialTraining) and isinstance(game.attack, PGD):
        eps = game.attack.eps * share
        return replace(game, attack=replace(game.attack, eps=eps, step_size=eps / 30))
    assert isinstance(game, YOPO)
    return replace(game, eps=game.eps * share, step_size=game.step_size * share)


class Player:
    """A method with its own network, optimiser, place in the data and clock."""

    def __init__(self, game: Game, path: Path, data: Dataset, begun: Path, options: argparse.Namespace) -> None:
        self.game, self.path, self.data, self.options = game, path, data, options
        self.net = SmallCNN()
        self.net.load_state_dict(checkpoint.load(begun))
        self.optimiser = torch.optim.Adam(self.net.parameters(), options.rate)
        self.batches, self.seconds, self.rows = 0, 0.0, list[dict[str, float]]()
        self.settings = {key: getattr(options, key) for key in SETTINGS}
        if self.path.exists():
            state = checkpoint.load(self.path)
            if state["settings"] != self.settings:
                raise ValueError(f"{path.parent} holds a run with {state['settings']}: give another --folder")
            self.net.load_state_dict(state["net"])
            self.optimiser.load_state_dict(state["optimiser"])
            self.batches, self.seconds, self.rows = state["batches"], state["seconds"], state["rows"]

    def turn(self, held_out: Batch) -> None:
        end = self.seconds + self.options.turn
        while self.seconds < end:
            batch = batch_number(self.data, self.batches)
            share = min((self.batches + 1) / self.options.growing, 1.0)
            torch.manual_seed(self.batches)
            self.net.train()
            start = time.process_time()
            play(grown(self.game, share), self.net, batch, self.optimiser)
            self.seconds += time.process_time() - start
            self.batches += 1
        self.net.eval()
        self.measure(held_out)

    def measure(self, held_out: Batch) -> None:
        eps = self.options.eps
        attack = PGD(eps, steps=40, step_size=eps / 30, stop_early=True)
        x_adv = attack(self.net, held_out.x, held_out.y, generator=held_out.seeds)
        with torch.no_grad(), evaluation_mode(self.net):
            clean, robust = ((self.net(x).argmax(1) == held_out.y).float().mean().item() for x in (held_out.x, x_adv))
        self.rows.append({"seconds": self.seconds, "batches": self.batches, "clean": clean, "robust": robust})
        state = {"net": self.net.state_dict(), "optimiser": self.optimiser.state_dict(), "batches": self.batches}
        checkpoint.save(self.path, {**state, "seconds": self.seconds, "rows": self.rows, "settings": self.settings})

    def passes(self) -> dict[str, float]:
        """Of one batch: through the whole network, through the first layer alone, and its processor seconds so far."""
        seen: Counter[str] = Counter()
        net = copy.deepcopy(self.net).train()
        net.get_submodule("conv1").register_forward_hook(lambda *_: seen.update(["first"]))
        net.get_submodule("fc3").register_forward_hook(lambda *_: seen.update(["full"]))
        play(self.game, net, batch_number(self.data, 0), torch.optim.SGD(net.parameters(), 0.0))
        return {"full": seen["full"], "alone": seen["first"] - seen["full"], "seconds": self.seconds / self.batches}


def batch_number(data: Dataset, number: int) -> Batch:
    """The same images and noise for every method."""
    epoch, place = divmod(number, len(data) // BATCH)
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(epoch))
    batch = next(data.batches([order[place * BATCH : (place + 1) * BATCH]]))
    assert batch.index is not None
    return replace(batch, seeds=combine(batch.index, number))


def beginning(data: Dataset) -> dict[str, Tensor]:
    torch.manual_seed(0)
    net = SmallCNN().train()
    optimiser = torch.optim.Adam(net.parameters(), 1e-3)
    for number in range(START):
        play(Plain(), net, batch_number(data, number), optimiser)
    return net.state_dict()


def reached(rows: list[dict[str, float]], level: float) -> float | None:
    """Seconds until this robust accuracy, on the straight line between the two turns around it."""
    for before, after in pairwise([{"seconds": 0.0, "robust": 0.0}, *rows]):
        if after["robust"] >= level:
            part = (level - before["robust"]) / (after["robust"] - before["robust"])
            return before["seconds"] + part * (after["seconds"] - before["seconds"])
    return None


def page(result: dict[str, Any]) -> str:
    curves: dict[str, list[dict[str, float]]] = result["curves"]
    names, first = list(curves), next(iter(curves))
    lines = ["| method | full passes | first-layer passes | seconds a batch | batches |", "|---|---|---|---|---|"]
    for name, found in result["passes"].items():
        batches = curves[name][-1]["batches"]
        lines.append(f"| {name} | {found['full']} | {found['alone']} | {found['seconds']:.2f} | {batches} |")
    head = f"\n| robust accuracy | {' | '.join(names)} | {' | '.join(f'{first} / {name}' for name in names[1:])} |"
    lines += [head, f"|---|{'---|' * (2 * len(names) - 1)}"]
    last = curves[first][-1]["robust"]
    for level in sorted({*LEVELS, last} - {0.0}):
        times = [reached(curves[name], level) for name in names]
        if any(times):
            cells = [f"{value:.0f} s" if value is not None else "not reached" for value in times]
            ratios = [f"{times[0] / value:.2f}" if times[0] and value else "" for value in times[1:]]
            mark = f" (where {first} ended)" if level == last else ""
            lines.append(f"| {100 * level:.1f} %{mark} | {' | '.join([*cells, *ratios])} |")
    lines += [f"\n| seconds each, about | {' | '.join(names)} |", f"|---|{'---|' * len(names)}"]
    for turns in zip(*(curves[name] for name in names), strict=False):
        cells = [f"{100 * row['robust']:.1f} ({100 * row['clean']:.1f})" for row in turns]
        lines.append(f"| {turns[0]['seconds']:.0f} | {' | '.join(cells)} |")
    told = result["told"]
    return (
        "# YOPO on MNIST: time to be as robust as PGD-40 training\n\n"
        f"SmallCNN, eps {told['eps']:g} in Linf, batches of {BATCH}, Adam at {told['rate']:g} for all, from one "
        f"network of {START} plain batches (not counted); eps grows over the first {told['growing']} batches. Turns of "
        f"{told['turn']:g} s of processor time on one core, one method after the other; seconds are of training alone. "
        f"Robust: PGD-40 on {HELD_OUT} training images that were held out; times are read off the straight line "
        "between two turns. One seed.\n\n"
        "The paper's table has 4 to 5 times on a GPU (YOPO-5-10 about 250 s, PGD-40 more than 1,250 s). What a full "
        "pass costs beside one of the first layer decides: 8 times fewer full passes are not 8 times less time.\n\n"
        + "\n".join(lines)
        + f"\n\nThe last table: robust accuracy, clean in brackets, in percent. {told['hardware']}, {told['date']}.\n\n"
        f"```\nmake yopo ARGS='--seconds {told['seconds']:g} --eps {told['eps']:g} --growing {told['growing']} "
        f"--rate {told['rate']:g} --turn {told['turn']:g}'\n```\n"
    )


def write(players: dict[str, Player], options: argparse.Namespace) -> None:
    told = {key: getattr(options, key) for key in (*SETTINGS, "seconds", "hardware")}
    result = {
        "told": {**told, "date": date.today().isoformat()},
        "passes": {name: player.passes() for name, player in players.items()},
        "curves": {name: player.rows for name, player in players.items()},
    }
    options.out.mkdir(parents=True, exist_ok=True)
    write_text(options.out / "yopo.json", json.dumps(result, indent=1) + "\n")
    write_text(options.out / "yopo.md", page(result))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--folder", type=Path, default=Path("runs/yopo"))
    parser.add_argument("--out", type=Path, default=Path("docs/results"))
    parser.add_argument("--seconds", type=float, default=3600.0, help="of processor time, for each method")
    parser.add_argument("--turn", type=float, default=90.0)
    parser.add_argument("--eps", type=float, default=0.3)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--growing", type=int, default=30, help="batches over which eps grows")
    parser.add_argument("--hardware", default="hardware not told")
    options = parser.parse_args()
    torch.set_num_threads(1)
    train, held = split_off(MNIST().load("train", options.data_dir), HELD_OUT, seed=0)
    (held_out,) = held.batches([torch.arange(HELD_OUT)])
    begun = options.folder / "start.safetensors"
    if not begun.exists():
        checkpoint.save(begun, beginning(train))
    players = {
        name: Player(game.setup(SmallCNN(), train), options.folder / f"{name}.safetensors", train, begun, options)
        for name, game in methods(options.eps).items()
    }
    while any(player.seconds < options.seconds for player in players.values()):
        for name, player in players.items():
            if player.seconds < options.seconds:
                player.turn(replace(held_out, seeds=torch.arange(HELD_OUT)))
                row = player.rows[-1]
                print(
                    f"{name}: {row['seconds']:.0f} s, {row['batches']} batches, robust {row['robust']:.3f}", flush=True
                )
        write(players, options)


if __name__ == "__main__":
    main()
