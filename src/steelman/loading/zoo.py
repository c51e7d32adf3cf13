"""Models of RobustBench, by their names there."""

from pathlib import Path

from torch import nn

from steelman.data.dataset import Source
from steelman.naming import nearest
from steelman.norms import L2, Linf, Norm

DATA = {"CIFAR10": "cifar10", "CIFAR100": "cifar100", "ImageFolder": "imagenet"}
THREATS = {Linf: "Linf", L2: "L2"}


def robustbench(name: str, source: Source, norm: Norm | None) -> nn.Module:
    """The model of `robustbench.utils.load_model`, which downloads weights that are not in the cache.

    name    in RobustBench's model zoo, such as "Standard"
    source  CIFAR10, CIFAR100, or ImageFolder for ImageNet
    norm    of its threat model, Linf or L2; default: the first of them with such a name

    Raises:
        ImportError: the package robustbench is not installed.
        ValueError: RobustBench has no such data, threat model or name; names the nearest.
        OSError: the weights are neither in the cache nor downloadable.
    """
    try:
        from robustbench.model_zoo import model_dicts  # pyright: ignore[reportMissingImports]
        from robustbench.utils import load_model  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ImportError(f"robustbench:{name} needs the package robustbench: pip install robustbench") from error
    kind = type(source).__name__
    if kind not in DATA:
        raise ValueError(f"robustbench:{name}: RobustBench is about {', '.join(DATA)}; got --data {kind}")
    if norm is not None and norm not in THREATS:
        raise ValueError(f"robustbench:{name}: RobustBench has models for --norm Linf and L2; got {norm!r}")
    by_threat = {data.value: threats for data, threats in model_dicts.items()}[DATA[kind]]
    models = {threat.value: names for threat, names in by_threat.items()}
    known = {threat: models.get(threat, {}) for each, threat in THREATS.items() if norm in (None, each)}
    threat = next((threat for threat, models in known.items() if name in models), None)
    if threat is None:
        every = {each for models in known.values() for each in models}
        raise ValueError(f"RobustBench has no {' or '.join(known)} model {name} for {kind}; {nearest(name, every)}")
    import pooch

    cache = Path(pooch.os_cache("steelman")) / "robustbench"
    return load_model(name, model_dir=cache, dataset=DATA[kind], threat_model=threat)
