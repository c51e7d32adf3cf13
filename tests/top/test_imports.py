"""The rooms: each imports only what is above it in docs/architecture.md, and no circle goes through two of them."""

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import steelman

ROOT = Path(steelman.__file__).parent


def statements(node: ast.AST) -> Iterator[ast.Import | ast.ImportFrom]:
    """All imports, also those in functions, but not those that are for type checkers alone."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import | ast.ImportFrom):
            yield child
        elif not (isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING"):
            yield from statements(child)


def imports(root: Path) -> dict[str, set[str]]:
    """The modules of a package, and which of them each names. A package stands for its `__init__`."""
    files = {path: path.relative_to(root.parent).with_suffix("") for path in root.rglob("*.py")}
    names = {path: ".".join(name.parts).removesuffix(".__init__") for path, name in files.items()}
    known, graph = set(names.values()), dict[str, set[str]]()
    for path, name in names.items():
        meant: set[str] = set()
        for each in statements(ast.parse(path.read_text())):
            if isinstance(each, ast.Import):
                meant |= {alias.name for alias in each.names}
            else:
                assert each.level == 0, f"{path} has a relative import"
                named = (f"{each.module}.{alias.name}" for alias in each.names)
                meant |= {name if name in known else str(each.module) for name in named}
        graph[name] = meant & known
    return graph


def reached(graph: dict[str, set[str]], start: str) -> set[str]:
    found, left = set[str](), list(graph[start])
    while left:
        name = left.pop()
        if name not in found:
            found.add(name)
            left += graph[name]
    return found


def circles(graph: dict[str, set[str]]) -> set[frozenset[str]]:
    """The sets of modules that reach one another."""
    reach = {name: reached(graph, name) for name in graph}
    return {
        frozenset({other for other in reach[name] if name in reach[other]}) for name in graph if name in reach[name]
    }


def room(name: str) -> str:
    """The file or folder of the package in which a module lies."""
    return name.split(".")[1] if "." in name else ""


def floors() -> list[str]:
    """The rooms in the order of the table in docs/architecture.md."""
    page = (Path(__file__).parents[2] / "docs" / "architecture.md").read_text(encoding="utf-8")
    return re.findall(r"^\| `(\w+)` \|", page, re.M)


def upwards(graph: dict[str, set[str]], order: list[str]) -> list[str]:
    """The imports of a room that is below, or of none that is listed."""
    place = {name: number for number, name in enumerate(order)}
    inside = {name: {other for other in found if room(other)} for name, found in graph.items() if room(name) in place}
    return sorted(
        f"{name} imports {other}"
        for name, found in inside.items()
        for other in found
        if room(other) != room(name) and place.get(room(other), len(order)) > place[room(name)]
    )


def test_rooms_import_only_what_is_above_them_in_the_table_of_the_architecture():
    graph, order = imports(ROOT), floors()
    assert {room(name) for name in graph} - {"", "__main__"} == set(order)
    assert len(order) == len(set(order)) > 25
    assert order.index("attacks") < order.index("table") < order.index("evaluation") < order.index("report")
    assert upwards(graph, order) == []


def test_an_import_that_runs_upwards_is_found():
    graph = {"house.attic.one": {"house.cellar"}, "house.cellar": {"house.attic.one", "house.shed"}}
    assert upwards(graph, ["cellar", "attic"]) == [
        "house.cellar imports house.attic.one",
        "house.cellar imports house.shed",
    ]


def test_no_circle_of_imports_goes_through_two_rooms():
    graph = imports(ROOT)
    assert len(graph) > 150
    for circle in circles(graph):
        assert len({room(name) for name in circle}) == 1, sorted(circle)


def test_a_circle_is_found(tmp_path: Path):
    """Through a function, three rooms long; and not through what is for type checkers alone."""
    for name, text in {
        "a/__init__.py": "",
        "a/one.py": "import house.b",
        "b.py": "def late():\n    from house import c\n    return c",
        "c.py": "from house.a.one import x\nfrom typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import house.d",
        "d.py": "from house.c import x",
        "__init__.py": "from house import d",
    }.items():
        path = tmp_path / "house" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    graph = imports(tmp_path / "house")
    assert circles(graph) == {frozenset({"house.a.one", "house.b", "house.c"})}
    assert {room(name) for name in next(iter(circles(graph)))} == {"a", "b", "c"}


def fresh(program: str) -> str:
    """What a program prints in a process of its own."""
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert found.returncode == 0, found.stderr
    return found.stdout.strip()


def test_the_package_is_imported_before_torch_and_its_names_bring_it():
    assert fresh(
        """
import sys, steelman
early = {"torch", "numpy", "steelman.attacks"} & set(sys.modules)
try:
    steelman._nothing, hasattr(steelman, "__wrapped__")
except AttributeError as error:
    print(error)
print(steelman.__version__, early, "torch" in sys.modules)
print(steelman.naming.__name__, "steelman.attacks" in sys.modules)
print(steelman.PGD.__module__, "steelman.evaluation" in sys.modules)
print(steelman.evaluate.__module__)
"""
    ).splitlines() == [
        "module 'steelman' has no attribute '_nothing'",
        f"{steelman.__version__} set() False",
        "steelman.naming False",
        "steelman.attacks.bounded.pgd False",
        "steelman.evaluation.evaluation",
    ]


def test_what_type_checkers_see_is_what_is_there():
    for node in ast.parse((ROOT / "__init__.py").read_text()).body:
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            space: dict[str, Any] = {}
            exec(compile(ast.Module(node.body, []), "checked", "exec"), space)
            assert sorted(set(space["__all__"])) == steelman.__all__
            assert all(space[name] is getattr(steelman, name) for name in steelman.__all__)
            return
    raise AssertionError("there is no such block")


def test_no_public_name_is_a_module_too():
    """For the module would be found in its place."""
    assert not {path.stem for path in ROOT.iterdir()} & set(steelman.__all__)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'steelman' has no attribute 'PDG'"):
        _ = steelman.PDG
    with pytest.raises(ImportError, match="cannot import name 'PDG'"):
        exec("from steelman import PDG")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes that share what torch has imported are forked")
def test_any_room_can_be_the_first_to_be_imported_and_a_star_import_brings_every_public_name():
    rooms = ["steelman." + path.stem for path in ROOT.iterdir() if path.stem[0] != "_" and path.suffix in ("", ".py")]
    assert len(rooms) > 30
    program = f"""
import importlib, os, pickle, sys
import torch, filelock, jaxtyping, numpy, safetensors.torch, pyarrow.parquet  # forks share them
for room in {rooms}:
    if (child := os.fork()) == 0:
        importlib.import_module(room)
        os._exit(0)
    if os.waitpid(child, 0)[1]:
        print(room)
from steelman import *
import steelman
assert set(steelman.__all__) <= set(globals()) and set(steelman.__all__) <= set(dir(steelman))
assert pickle.loads(pickle.dumps(steelman.PGD(eps=.1))) == PGD(eps=.1)
print(len(steelman.__all__) > 60, len(set(steelman.__all__)) == len(steelman.__all__))
"""
    assert fresh(program) == "True True"
