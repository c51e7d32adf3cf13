"""What attacks and trainings take on a GPU, and whether their results are the CPU's. docs/gpu.md has the page.

`python -m benchmarks.gpu --out gpu.json --page docs/gpu.md` takes at most eight minutes on one GPU. Each part runs in a
process of its own, with a time limit, and the file keeps what is done: a part that fails is recorded with its error,
the others go on, and the same command makes the parts that are missing. Data are made, nothing is loaded.
"""
