"""Crafted on one model, tested on another."""
