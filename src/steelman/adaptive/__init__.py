"""Attacks made for one model: what is suspected is attacked around."""
