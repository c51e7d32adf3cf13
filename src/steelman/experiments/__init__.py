"""Recipes, runs, sweeps and comparisons: what the command works with."""
