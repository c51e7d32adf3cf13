"""Names and first lines of methods, read from their source: help is not to wait until torch is imported."""

import ast
from functools import lru_cache
from pathlib import Path

ROOMS: dict[str, tuple[str, frozenset[str]]] = {
    "adversary": ("steelman.adversaries", frozenset({"Adversary", "AttackTraining"})),
    "defence": ("steelman.defences", frozenset({"Game"})),
    "preparation": ("steelman.training.prepare", frozenset({"Preparation"})),
}
"""For each kind of method the module that exports them, and the classes that they are of."""


def summaries(kind: str) -> dict[str, str]:
    """What `steelman.methods.methods` says of a kind: each public method's name and the first line of its docstring."""
    room, bases = ROOMS[kind]
    found: dict[str, str] = {}
    for name in sorted(_exported(room)):
        place = _defined(room, name)
        if place is not None and not _abstract(*place) and not bases.isdisjoint(_lineage(*place)):
            found[name] = (ast.get_docstring(_class(*place)) or "").partition("\n")[0]
    return found


@lru_cache
def _source(module: str) -> ast.Module:
    path = Path(__file__).parents[1].joinpath(*module.split(".")[1:])
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return ast.parse(file.read_text(encoding="utf-8"))


def _exported(module: str) -> list[str]:
    for node in _source(module).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return ast.literal_eval(node.value)
    return []


def _defined(module: str, name: str) -> tuple[str, str] | None:
    """Where a class is defined that a module has under a name; None for what is no class of this package."""
    for node in _source(module).body:
        if isinstance(node, ast.ClassDef) and node.name == name:
            return module, name
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("steelman."):
            for alias in node.names:
                if (alias.asname or alias.name) == name:
                    return _defined(str(node.module), alias.name)
    return None


def _class(module: str, name: str) -> ast.ClassDef:
    return next(node for node in _source(module).body if isinstance(node, ast.ClassDef) and node.name == name)


def _parents(module: str, name: str) -> list[tuple[str, str]]:
    bases = (base.value if isinstance(base, ast.Subscript) else base for base in _class(module, name).bases)
    found = (_defined(module, ast.unparse(base)) for base in bases)
    return [place for place in found if place is not None]


def _lineage(module: str, name: str) -> set[str]:
    """The names of a class and of all that it is derived from."""
    return {name}.union(*(_lineage(*parent) for parent in _parents(module, name)))


def _order(module: str, name: str) -> list[tuple[str, str]]:
    """A class and all that it is derived from, in the order in which Python looks for attributes."""
    walked = [(module, name), *(place for parent in _parents(module, name) for place in _order(*parent))]
    return [place for at, place in enumerate(walked) if place not in walked[at + 1 :]]


def _abstract(module: str, name: str) -> set[str]:
    """The names that a class still has to define."""
    missing: dict[str, bool] = {}
    for place in _order(module, name):
        for node in _class(*place).body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                is_abstract = any("abstractmethod" in ast.unparse(each) for each in node.decorator_list)
                missing.setdefault(node.name, is_abstract)
            elif isinstance(node, ast.Assign | ast.AnnAssign):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                for target in targets:
                    missing.setdefault(ast.unparse(target), False)
    return {name for name, is_abstract in missing.items() if is_abstract}
