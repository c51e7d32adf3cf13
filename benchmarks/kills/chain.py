"""A command that is killed, started again, killed again, and at last left to its end."""

import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.kills.started import Started
from benchmarks.kills.watch import Look, look, unfinished

SLOW = 0.3
"""So many seconds does a command go by steps, of some 50 microseconds each, after it has changed something."""


@dataclass(frozen=True)
class Reference:
    """What an uninterrupted command leaves.

    startup  seconds before it first wrote: Python begins, and imports
    work     seconds from there to its end; kills are spread over these
    """

    folder: Path
    startup: float
    work: float

    @property
    def limit(self) -> float:
        """Seconds after which a command is held to hang."""
        return 60 + 10 * (self.startup + self.work)


@dataclass(frozen=True)
class Moment:
    """When to kill: after so many seconds of work, or, `in_write`, at the first unfinished file from then on."""

    after: float
    in_write: bool


@dataclass
class Chain:
    """What came of one.

    within   what was being written at those of the `kills` that hit a write
    work     seconds of it, in all starts
    problem  why it did not come to a good end
    """

    kills: int = 0
    within: list[str] = field(default_factory=list)
    starts: int = 0
    work: float = 0.0
    problem: str = ""


def moments(count: int, work: float, chance: random.Random, begin: bool) -> list[Moment]:
    """So many, uniform over the work; half of them, and one at least, wait for a write.

    A command goes on where it was, so each is told from the one before. With `begin` the first waits for the very first
    write.
    """
    times = sorted(chance.uniform(0, work) for _ in range(count))
    sure = chance.randrange(count)
    waits = [place == sure or chance.random() < 0.5 for place in range(count)]
    if begin:
        times[0], waits[0] = 0.0, True
    before = [0.0, *times[:-1]]
    return [Moment(at - last, wait) for at, last, wait in zip(times, before, waits, strict=True)]


def uninterrupted(command: Sequence[str], folder: Path) -> Reference:
    """Run a command to its end in a folder."""
    before, begun, first = look(folder), time.monotonic(), None
    with Started(command, folder) as started:
        while started.running:
            if first is None and look(folder) != before:
                first = time.monotonic()
            time.sleep(0.002)
        ended = time.monotonic()
    if started.code or first is None:
        raise RuntimeError(f"undisturbed, it ended with exit code {started.code}: {started.said}")
    return Reference(folder, first - begun, ended - first)


def chain(command: Sequence[str], folder: Path, reference: Reference, plan: Sequence[Moment]) -> Chain:
    """Start the command in a folder, kill it at each of the moments, and let the last start end.

    A start that ends before its moment was the last one.
    """
    found = Chain()
    for moment in (*plan, None):
        found.starts += 1
        before = look(folder)
        with Started(command, folder) as started:
            if not _reached(started, folder, before, moment, reference):
                found.problem = f"start {found.starts} had not ended after {reference.limit:.0f} s: {started.said}"
                return found
            found.work += 0.0 if started.worked is None else time.monotonic() - started.worked
            if started.running:
                started.stop()
                writing = unfinished(look(folder), before)
                if started.kill():
                    found.kills += 1
                    found.within += writing[:1]
                    continue
        if started.code:
            found.problem = f"start {found.starts} ended with exit code {started.code}: {started.said}"
        return found
    raise AssertionError("the last start is not killed")


def _reached(started: Started, folder: Path, before: Look, moment: Moment | None, reference: Reference) -> bool:
    """Wait until the moment has come, or the command has ended; False: it hangs."""
    begun = time.monotonic()
    if moment is not None and moment.in_write and not moment.after:
        started.worked = begun  # the very first write, which is soon over, is not to be missed
    while started.running:
        now = time.monotonic()
        if now - begun > reference.limit:
            return False
        if started.worked is None and (now - begun > 1.5 * reference.startup + 1 or look(folder) != before):
            started.worked = now
        if moment is None or started.worked is None or now - started.worked < moment.after:
            time.sleep(0.002)
        elif not moment.in_write or _writes(started, folder, before):
            return True
    return True


def _writes(started: Started, folder: Path, before: Look) -> bool:
    """Watch for a short time; True: all stand still, and a file is unfinished.

    A text is written in less time than it takes to stop a process. Who writes one often writes another: after any
    change, the command goes on by steps, and there is a look at each.
    """
    last, until = look(folder), time.monotonic() + 0.1
    while started.running and time.monotonic() < until:
        seen = look(folder)
        if seen == last and not unfinished(seen, before):
            time.sleep(0.0001)
            continue
        last, until = seen, time.monotonic() + SLOW
        while started.running and time.monotonic() < until:
            started.halt()
            if unfinished(look(folder), before):
                return True
            started.go_on()
    return False
