"""`python -m steelman`, which torchrun needs."""

from steelman.cli import main

main()
