"""Stopping between two batches, when the user or the system asks for it."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager


class Stop:
    asked = False


@contextmanager
def interrupts() -> Iterator[Stop]:
    """Turn the first interrupt or SIGTERM into a wish to stop; a second interrupt acts at once."""
    stop = Stop()

    def ask(number: int, frame: object) -> None:
        stop.asked = True
        signal.signal(signal.SIGINT, signal.default_int_handler)

    try:
        before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not the main thread, which alone may handle signals
        yield stop
        return
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
