"""Train image classifiers that resist adversarial attack, and find out honestly whether they do."""

import gc
from typing import TYPE_CHECKING, Any

_collecting = gc.isenabled()
gc.disable()  # one collection, over all that torch has made, is a quarter of the time that the imports below take
try:
    from steelman import adversaries, attacks, defences, filters
    from steelman.adversaries import *
    from steelman.attacks import *
    from steelman.defences import *
    from steelman.filters import *
    from steelman.norms import L0, L1, L2, Linf
    from steelman.training import Crafted, NoisyCopies, SoftLabels, Training, fit
    from steelman.types import Batch
finally:
    if _collecting:
        gc.enable()

if TYPE_CHECKING:
    from steelman.evaluation import evaluate

__version__ = "0.1.0"

__all__ = ["L0", "L1", "L2", "Batch", "Crafted", "Linf", "NoisyCopies", "SoftLabels", "Training", "evaluate", "fit"]
__all__ += adversaries.__all__
__all__ += attacks.__all__
__all__ += defences.__all__
__all__ += filters.__all__


def __getattr__(name: str) -> Any:
    """Evaluation draws in curves and reports, so it is imported when it is first asked for."""
    if name == "evaluate":
        from steelman.evaluation import evaluate

        return evaluate
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
