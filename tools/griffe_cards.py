"""An extension of griffe, which mkdocs.yml names: docstrings of the Python reference as Markdown, with links."""

from collections.abc import Iterator
from typing import Any

import griffe
from tools.docstrings import linked, markdown
from tools.website import API, public


class Cards(griffe.Extension):
    """Rewrites every docstring of the package, once all are loaded."""

    def on_package(self, *, pkg: griffe.Module, **kwargs: Any) -> None:
        links = {name: f"steelman.{room}.{name}" for room in reversed(API[1:]) for name in public(room)}
        for each in _objects(pkg):
            if each.docstring is not None:
                each.docstring.value = linked(markdown(each.docstring.value), links, each.name)


def _objects(found: Any) -> Iterator[Any]:
    yield found
    for member in found.members.values():
        if not member.is_alias:
            yield from _objects(member)
