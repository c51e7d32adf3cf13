"""`steelman` and `python -m steelman`, which torchrun needs."""

from steelman.extras import require
from steelman.failures import guarded


def main() -> None:
    """The command; an interrupt while it is being imported is one line, too."""
    with guarded():
        require("the command", "typer", "rich")
        from steelman.cli.main import main

        main()


if __name__ == "__main__":
    main()
