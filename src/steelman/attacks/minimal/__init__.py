"""Attacks that minimise the perturbation."""
