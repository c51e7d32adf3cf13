"""Training: one update (`play`), the loop (`fit`), and what they need of the machine."""

from steelman.checkpoint import trained_weights
from steelman.defences.game import Average, Descend, Game, Player, Step
from steelman.defences.objective import MicroBatches
from steelman.optimisers import SGD, Adam, Optimiser, UnevenSGD
from steelman.schedules import Constant, Cosine, Linear, Schedule, Stages, Steps
from steelman.training.distributed import Processes, processes
from steelman.training.loop import fit
from steelman.training.prepare import Crafted, CraftedPairs, NoisyCopies, Preparation, SoftLabels
from steelman.training.settings import History, Training
from steelman.training.step import Diverged, play

__all__ = [
    "SGD",
    "Adam",
    "Average",
    "Constant",
    "Cosine",
    "Crafted",
    "CraftedPairs",
    "Descend",
    "Diverged",
    "Game",
    "History",
    "Linear",
    "MicroBatches",
    "NoisyCopies",
    "Optimiser",
    "Player",
    "Preparation",
    "Processes",
    "Schedule",
    "SoftLabels",
    "Stages",
    "Step",
    "Steps",
    "Training",
    "UnevenSGD",
    "fit",
    "play",
    "processes",
    "trained_weights",
]
