"""What the networks ask of an image's shape."""

from collections.abc import Sequence


def check_shape(network: str, shape: Sequence[int], least: int) -> tuple[int, int, int]:
    """(channels, height, width), after a look whether the network can take them.

    Raises:
        ValueError: not three positive sizes, or a side below `least` pixels.
    """
    if len(shape) != 3 or min(shape) < 1:
        raise ValueError(f"{network} needs an image shape (channels, height, width); got {tuple(shape)}")
    channels, height, width = shape
    if min(height, width) < least:
        raise ValueError(
            f"{network} needs images of at least {least}x{least} pixels; got {height}x{width}: "
            "choose a smaller network (MLP takes any size)"
        )
    return channels, height, width
