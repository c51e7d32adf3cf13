"""Training: one update (`play`), the loop (`fit`), and what they need of the machine."""

from steelman.training.fit import fit, trained_weights
from steelman.training.game import Descend, Game, Minimise, Step
from steelman.training.optimisers import SGD, Adam, Constant, Cosine, Optimiser, Schedule, Steps
from steelman.training.play import Diverged, play
from steelman.training.processes import Processes, processes
from steelman.training.settings import History, Training

__all__ = [
    "SGD",
    "Adam",
    "Constant",
    "Cosine",
    "Descend",
    "Diverged",
    "Game",
    "History",
    "Minimise",
    "Optimiser",
    "Processes",
    "Schedule",
    "Step",
    "Steps",
    "Training",
    "fit",
    "play",
    "processes",
    "trained_weights",
]
