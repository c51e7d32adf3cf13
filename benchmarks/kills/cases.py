"""The commands that are killed: small enough for seconds, and with many moments at which they write."""

import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from benchmarks.kills.started import ENVIRONMENT

PREPARED = "prepared"
PLAIN, PGD = "runs/plain_digits_mlp", "runs/pgd_digits_mlp"
SMALL = ("network.hidden=[16]", "training.checkpoint_seconds=0.05")
BATTERY = """
[attacks]
FGSM = { kind = "FGSM", eps = 0.1 }
PGD = { kind = "PGD", eps = 0.1, steps = 20 }
DeepFool = { kind = "DeepFool" }
CW = { kind = "CarliniWagner", steps = 20, search_steps = 2 }
"""
QUICK = '[attacks]\nFGSM = { kind = "FGSM", eps = 0.1 }\nPGD = { kind = "PGD", eps = 0.1, steps = 10 }\n'
BEFOREHAND = "[{ kind = 'Crafted', attack = { kind = 'PGD', eps = 0.15, steps = 40 }, on = 'plain_digits_mlp' }]"


@dataclass(frozen=True)
class Case:
    """A command; all its paths are relative to the folder in which it works, so that every folder gets the same bits.

    needs      whether it needs the runs that `prepare` makes
    processes  1, or as many as torchrun starts
    """

    name: str
    words: tuple[str, ...]
    needs: bool = False
    processes: int = 1

    @property
    def command(self) -> list[str]:
        several = ("torch.distributed.run", "--standalone", f"--nproc-per-node={self.processes}", "-m")
        return [sys.executable, "-m", *(several if self.processes > 1 else ()), "steelman", *self.words]


def _train(recipe: str, *changes: str) -> tuple[str, ...]:
    return "train", recipe, *_set(*SMALL, *changes)


def _set(*changes: str) -> tuple[str, ...]:
    return tuple(word for change in changes for word in ("--set", change))


_EVALUATE = ("evaluate", PLAIN, "--battery", "battery.toml", "--batch-size", "10", "--folder", "evaluation")
_LEARNED = (
    *("training.images=200", "training.validation=50", "training.batch_size=20", "training.checkpoint_seconds=0.05"),
    "training.epochs=8",
)
CASES: dict[str, tuple[Case, ...]] = {
    "train": (
        Case("averaged", _train("plain_digits_mlp", "training.epochs=50", "training.ema=0.99", "training.patience=50")),
        Case("two processes", _train("pgd_digits_mlp", "training.epochs=6"), processes=2),
        Case("crafted", _train("pgd_digits_mlp", "training.epochs=10", f"prepare={BEFOREHAND}")),
    ),
    "evaluate": (
        Case("alone", (*_EVALUATE, "--images", "400"), needs=True),
        Case("two workers", (*_EVALUATE, "--images", "400", "--workers", "2"), needs=True),
    ),
    "sweep": (
        Case(
            "seeds",
            (
                *("sweep", "plain_digits_mlp", "--vary", "training.seed=0,1,2"),
                *("--battery", "battery.toml", "--images", "200", *_set(*SMALL, "training.epochs=12")),
            ),
            needs=True,
        ),
    ),
    "compare": (
        Case(
            "transfer",
            (
                *("compare", PLAIN, PGD, "--ensemble", "--folder", "comparison"),
                *("--transfer", "{ kind = 'PGD', eps = 0.1, steps = 100, restarts = 3 }"),
                *("--transfer", "{ kind = 'MIM', eps = 0.1, steps = 50 }"),
            ),
            needs=True,
        ),
    ),
    "attack-train": (
        Case(
            "L2LDA",
            (
                *("attack-train", PLAIN, "L2LDA"),
                *_set(*_LEARNED, "defence.adversary.width=2", "defence.adversary.steps=2"),
            ),
            needs=True,
        ),
        Case("AdvGAN", ("attack-train", PLAIN, "AdvGAN", *_set(*_LEARNED, "training.epochs=16")), needs=True),
    ),
}


def prepare(root: Path) -> Path:
    """A folder with two small evaluated runs and a battery, which is made once and copied."""
    folder = root / PREPARED
    if folder.is_dir():
        return folder
    folder.mkdir(parents=True)
    (folder / "battery.toml").write_text(BATTERY)
    (folder / "quick.toml").write_text(QUICK)
    for run, epochs in ((PLAIN, 10), (PGD, 5)):
        for words in (
            _train(Path(run).name, f"training.epochs={epochs}"),
            ("evaluate", run, "--battery", "quick.toml"),
        ):
            command = Case("", words).command
            done = subprocess.run(command, cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, check=False)
            if done.returncode:
                raise RuntimeError(f"{' '.join(words)} failed: {done.stderr}")
        results = folder / run / "evaluation"
        for path in (*results.glob("*.png"), *results.glob("*.svg"), *results.glob("report.*")):
            path.unlink()
    return folder


def fresh(case: Case, folder: Path, root: Path) -> Path:
    """A folder in which the command can begin."""
    if case.needs:
        shutil.copytree(prepare(root), folder)
    else:
        folder.mkdir(parents=True)
    return folder
