"""What one process does of the survey."""

from pathlib import Path

import torch
from benchmarks.survey.battery import battery, besides

from steelman.evaluation import evaluate
from steelman.experiments.run import Run, train


def do(name: str, start: str, runs: Path, data: Path | None, images: int) -> str:
    """Train and attack one recipe, unless that is done."""
    torch.set_num_threads(1)
    run = train(name, runs, data)
    table = run.folder / "survey.parquet"
    if not table.exists():
        test = run.data("test", data).subset(torch.arange(images))
        model = run.network(test)
        attacks = battery(Run.open(runs / start).network(test)) | besides(model)
        evaluate(model, test, attacks, batch_size=100, progress=False).save(table)
    return name
