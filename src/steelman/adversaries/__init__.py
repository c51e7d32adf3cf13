"""Learned adversaries: networks that learn to attack, one file per paper. Each is an attack, and the game that trains
it."""

from steelman.adversaries.adversary import Adversary, AttackTraining
from steelman.adversaries.advgan import AdvGAN
from steelman.adversaries.gap import GAP
from steelman.adversaries.l2lda import L2LDA
from steelman.adversaries.pgn import PGN

__all__ = ["GAP", "L2LDA", "PGN", "AdvGAN", "Adversary", "AttackTraining"]
