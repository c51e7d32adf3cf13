"""Attacks that maximise a loss within a perturbation budget."""
