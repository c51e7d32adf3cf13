"""Attacks that are made of other attacks."""
