"""Small models on Digits whose robustness is known: masked, honest, and without gradients but robust.

    from zoo import ENTRIES, images
    entry = ENTRIES["one_hot"]
    model, truth = entry.build(), entry.truth(50)

Each is written as a stranger would: nothing of Steelman's is in it, and no attribute that Steelman knows. `steelman
evaluate zoo.masked:one_hot --data digits` takes it too, with `tests/helpers` on the path.
"""

from zoo.entries import ENTRIES, Entry, images

__all__ = ["ENTRIES", "Entry", "images"]
