"""All faults, in the order in which they are planted."""

from benchmarks.mutants import (
    adversaries,
    broken,
    core,
    defences,
    evaluation,
    filters,
    iterated,
    minimal,
    networks,
    papers,
    reach,
    training,
    verdicts,
)
from benchmarks.mutants.fault import Fault

FAULTS: tuple[Fault, ...] = (
    *iterated.FAULTS,
    *minimal.FAULTS,
    *core.FAULTS,
    *defences.FAULTS,
    *adversaries.FAULTS,
    *training.FAULTS,
    *evaluation.FAULTS,
    *filters.FAULTS,
    *networks.FAULTS,
    *broken.FAULTS,
    *papers.FAULTS,
    *reach.FAULTS,
    *verdicts.FAULTS,
)
