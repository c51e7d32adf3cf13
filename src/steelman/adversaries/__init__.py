"""Learned adversaries: networks that learn to attack, one file per paper. Each is an attack, and the game that trains
it."""

from steelman.adversaries.adversary import Adversary, AttackTraining
from steelman.adversaries.l2lda import L2LDA
from steelman.adversaries.pgn import PGN

__all__ = ["L2LDA", "PGN", "Adversary", "AttackTraining"]
