"""What the command's options say, as values."""

from typing import get_args

from steelman.attacks.core.attack import Access
from steelman.naming import nearest
from steelman.norms import NORMS, Norm
from steelman.ranges import check_finite


def norm_of(text: str | None) -> Norm | None:
    """A norm by its name.

    Raises:
        ValueError: there is no such norm; names the nearest.
    """
    if text is None:
        return None
    if text not in NORMS:
        raise ValueError(f"--norm {text}: there is no such norm; {nearest(text, NORMS)}")
    return NORMS[text]


def access_of(text: str | None) -> Access | None:
    """What attacks may ask.

    Raises:
        ValueError: none of the three; names the nearest.
    """
    for access in get_args(Access):
        if text == access:
            return access
    if text is None:
        return None
    raise ValueError(f"--access {text}: {nearest(text, get_args(Access))}")


def numbers(option: str, text: str | None) -> list[float] | None:
    """Numbers with commas between them.

    Raises:
        ValueError: something in it is no finite number.
    """
    try:
        found = None if text is None else [float(each) for each in text.split(",")]
        check_finite(found, option)
        return found
    except ValueError as error:
        raise ValueError(f"{option} needs numbers with commas between them, such as .49,.48,.45; got {text}") from error
