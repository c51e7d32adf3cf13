"""Deliberate faults, each of which a test has to notice: `make mutants`."""
