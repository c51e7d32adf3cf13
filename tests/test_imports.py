"""The rooms of the house: no circle of imports goes through two of them."""

import ast
from collections.abc import Iterator
from pathlib import Path

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
    """A top-level module, or the folder in which a module lies."""
    return ".".join(name.split(".")[:2])


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
    assert {room(name) for name in next(iter(circles(graph)))} == {"house.a", "house.b", "house.c"}
