"""The cells in one JSON file, written as each row finishes, so that a second call fills in what is missing."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.battery.measure import Cell
from benchmarks.battery.peers import OURS


@dataclass(frozen=True)
class Store:
    """`about` says how the figures came about; `cells` are by attack, network and library, and so are `probes`, the
    seconds that an image takes."""

    path: Path
    about: dict[str, Any]
    cells: dict[str, Cell]
    probes: dict[str, float]

    @staticmethod
    def open(path: Path) -> "Store":
        kept = json.loads(path.read_text()) if path.exists() else {"about": {}, "cells": {}, "probes": {}}
        return Store(path, kept["about"], kept["cells"], kept["probes"])

    def get(self, attack: str, network: str, library: str) -> Cell | None:
        return self.cells.get(f"{attack}|{network}|{library}")

    def put(self, attack: str, network: str, found: dict[str, Cell]) -> None:
        for library, cell in found.items():
            if library == OURS and "error" in cell:
                continue  # to be tried again once it is mended
            self.cells[f"{attack}|{network}|{library}"] = cell
        self.save()

    def save(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        part = self.path.with_suffix(".part")
        part.write_text(json.dumps({"about": self.about, "cells": self.cells, "probes": self.probes}))
        os.replace(part, self.path)
