"""Folders of evaluations: tables that are read, checked against the model, extended and saved."""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from steelman.files import PARTIAL, working_in
from steelman.table.places import Space, table_path
from steelman.table.records import CLEAN, Record
from steelman.table.table import Evaluation, read_spaces

PARTS = "parts"
"""The subfolder for the finished blocks of an evaluation that is not complete."""


class EvaluationFolder:
    """An evaluation's folder: the table of one space, and the finished blocks of an unfinished evaluation.

    fresh  do not read the table that is there; it is replaced when the new one is whole
    """

    def __init__(self, folder: Path, space: Space, fresh: bool = False) -> None:
        self.folder, self.space, self.fresh = folder, space, fresh
        self.parts = folder / (f"{PARTS}-fresh" if fresh else PARTS)
        self.kept = 0

    @contextmanager
    def held(self) -> Iterator[None]:
        """Other processes wait for the folder during the block."""
        with working_in(self.folder):
            yield

    def read(self, model: Mapping[str, str]) -> Evaluation | None:
        """The table and the blocks; blocks that are damaged, or of another model, are removed with a warning."""
        if self.fresh:
            self._remove(self.parts)
            return None
        known, others = self._table(), False
        for path in self._files(self.parts):
            try:
                part = Evaluation.load(path)
            except ValueError as error:
                warnings.warn(f"{error}; its images are attacked again", stacklevel=4)
                path.unlink()
                continue
            if part.space != self.space:
                continue
            try:
                part.refuse_other_model(model)
            except ValueError:
                if not others:
                    warnings.warn(f"{self.parts} has blocks of another model: they are removed", stacklevel=4)
                others = True
                path.unlink()
                continue
            known = part if known is None else over(known, part)
            self.kept = max(self.kept, int(path.stem.rpartition("-")[2]))
        return known

    def _table(self) -> Evaluation | None:
        """The folder's table; one of an older version, with two spaces in one file, is split first."""
        path = table_path(self.folder)
        found = read_spaces(path) if path.is_file() else {}
        for space, table in found.items():
            if space != "pixels" and not table_path(self.folder, space).is_file():
                table.save(table_path(self.folder, space))
        own = table_path(self.folder, self.space)
        return Evaluation.load(own) if own.is_file() and self.space != "pixels" else found.get(self.space)

    def keep(self, part: Evaluation, **about: object) -> None:
        if len(part):
            self.kept += 1
            part.replaced(**about).save(self.parts / f"{self.space}-{self.kept:06}.parquet")

    def close(self, evaluation: Evaluation) -> None:
        evaluation.save(table_path(self.folder, self.space))
        for parts in (self.folder / PARTS, self.folder / f"{PARTS}-fresh"):
            self._remove(parts)

    def _remove(self, parts: Path) -> None:
        for path in (*self._files(parts), *parts.glob(f"*{PARTIAL}")):
            path.unlink()
        if parts.is_dir() and not any(parts.iterdir()):
            parts.rmdir()

    def _files(self, parts: Path) -> list[Path]:
        """Blocks of this space; older versions named them by a number alone."""
        return sorted([*parts.glob(f"{self.space}-*.parquet"), *parts.glob("[0-9]*.parquet")])


def merged(known: Evaluation | None, made: Sequence[Evaluation], names: Sequence[str]) -> Evaluation:
    """All rows, by attack in the order of names, then by image."""
    new = Evaluation.joined(made)
    whole = new if known is None else over(known, new)
    order = {name: place for place, name in enumerate(dict.fromkeys([CLEAN, *whole.attacks, *names]))}
    places = np.array([order[name] for name in whole["attack"]])
    rows = whole.table.take(np.lexsort((whole["image"], places)))
    return whole.replaced(rows, records=sorted(_with_rows(whole), key=lambda record: order[record.name]))


def _with_rows(evaluation: Evaluation) -> list[Record]:
    """The records with rows; of an attack without rows, the first."""
    used, by_name = set(evaluation.table["record"].unique().to_pylist()), dict[str, list[Record]]()
    for record in evaluation.records:
        by_name.setdefault(record.name, []).append(record)
    return [each for records in by_name.values() for each in [one for one in records if one.id in used] or records[:1]]


def over(known: Evaluation, new: Evaluation) -> Evaluation:
    """The rows of both; of a row in both, the new one.

    Raises:
        ValueError: they disagree about an image's label or its prediction before any attack, or about an attack.
    """
    known.refuse_other_attacks(new.records)
    known.refuse_other_images(new)
    made = new.cells().keys()
    kept = np.array([cell not in made for cell in known.cells()], bool)
    return Evaluation.joined([known.replaced(known.table.filter(kept)), new])
