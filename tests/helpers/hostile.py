"""Recipes, runs and sweeps from somebody else, which name a module of theirs."""

import json
from pathlib import Path

MODULE = """
import os, subprocess, functools, pathlib
from torchvision_like import foreign
from steelman.data import Digits
from steelman.filters import BitDepth
from steelman.networks import MLP, Normalise

pathlib.Path(__file__).with_name("RAN").touch()
shell = functools.partial(os.system)

def net(shape, classes, hidden=()):
    return MLP(shape=shape, classes=classes, hidden=hidden)

def data(split):
    return Digits().load(split)

def part(shape):
    return Normalise(shape=shape)
"""
RECIPE = """
data = "Digits"
network = { kind = "MLP", hidden = [8] }
defence = "Plain"
training = { epochs = 1, images = 100, optimiser = { kind = "Adam", lr = 0.02 } }
[evaluation]
images = 20
[evaluation.attacks]
"FGSM .1" = { kind = "FGSM", eps = 0.1 }
"""
NET, HOSTILE = 'network = { kind = "MLP", hidden = [8] }', 'network = { kind = "theirs:net", hidden = [8] }'
DATA = 'data = { kind = "External", function = "theirs:data" }'


def ran(place: Path) -> bool:
    return (place / "RAN").exists()


def written(place: Path, text: str, name: str = "theirs.toml") -> str:
    (place / name).write_text(text)
    return name


def swept(place: Path) -> None:
    """A sweep from somebody else."""
    (place / "runs" / "plain-sweep").mkdir()
    networks = [{"run": f"{k}", "values": {"network.kind": k}, "measures": {}} for k in ("MLP", "theirs:net")]
    told = {"recipe": "plain", "evaluation": {}, "measure": "", "networks": networks}
    (place / "runs" / "plain-sweep" / "sweep.json").write_text(json.dumps(told))


SURROGATE = '[attacks]\nS = { kind = "Surrogate", attack = "FGSM", model = "runs/hostile" }'
GENERATOR = '[attacks]\nG = { kind = "L2LDA", generator = "runs/hostile" }'
ENSEMBLE = 'network = { kind = "Ensemble", members = [{ kind = "MLP" }, { kind = "theirs:net" }] }'
GENERATING = """
data = "Digits"
network = { kind = "MLP" }
start = "x"
defence = { kind = "AttackTraining", adversary = { kind = "L2LDA", steps = 1, width = 2 } }
training = { epochs = 1, images = 100, validation = 50 }
"""
GUIDED = 'prepare = [{ kind = "Crafted", attack = "FGSM", on = "theirs.toml" }]\n' + RECIPE
