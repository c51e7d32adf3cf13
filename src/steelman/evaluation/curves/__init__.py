"""Curves: what they are, pure functions of tables and logs, and how they are drawn."""
