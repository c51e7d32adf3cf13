"""Attacks that only see the predicted class."""
