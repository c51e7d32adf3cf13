"""What `pip install steelman` leaves out: a missing package is named with the extra that has it."""

from importlib.util import find_spec


def require(what: str, *modules: str, extra: str = "full") -> None:
    """Raises ImportError where a module is not installed that `what` needs."""
    missing = [module for module in modules if find_spec(module) is None]
    if missing:
        raise ImportError(f"{what} needs {' and '.join(missing)}: pip install 'steelman[{extra}]'", name=missing[0])
