"""Damaged files, by chance, for every reader: each has to be refused in one line, or to be read as it was."""
