"""The site's pages that do not lie in docs/, as a hook of mkdocs: `make docs`.

The README is the home page, and docs/index.md what is in Steelman. Notebooks, the Python reference and every other file
of the repository that a page links to become pages too, so that no link leaves the site for a place that is not there.
"""

import ast
import html
import importlib
import json
import posixpath
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import unquote

ROOT = Path(__file__).parents[1]

MOVED = {"README.md": "index.md", "docs/index.md": "contents.md", "CONTRIBUTING.md": "contributing.md"}
MOVED |= {"CHANGELOG.md": "changes.md"}
"""Pages whose place in the site is another one than in the repository."""

API = ("steelman", "attacks", "defences", "adversaries", "adaptive", "networks", "filters", "detectors", "data")
API += ("training", "evaluation", "table", "measures", "checkup", "report", "loading", "experiments")
"""The modules of the Python reference."""

BOOST = {"results": 1, "api": 0.1, "files": 0.1, "changes.md": 0.1, "contributing.md": 0.1, "peers.md": 0.1}
BOOST |= dict.fromkeys(("benchmarks.md", "dependencies.md", "methods.md", "defences.md"), 1)
"""How much pages count in a search, by folder or name; the others, which are guides, count 5."""

SOUGHT = {
    "any-model.md": ["Hugging Face", "HuggingFace", "transformers", "timm", "ONNX", "black box", "scikit-learn"],
    "batteries.md": ["AutoAttack"],
    "checkup.md": ["gradient masking", "masked gradients", "obfuscated gradients", "adaptive attacks"],
    "data.md": ["HuggingFace", "CIFAR-10"],
    "clusters.md": ["Dask", "Slurm", "Kubernetes", "cluster"],
    "several-machines.md": ["torchrun", "several machines"],
    "streaming.md": ["ImageNet", "memory"],
    "harden.md": ["harden", "TRADES", "weights"],
}
"""What people search for, by the page that they are to find first."""

CODE = re.compile(r"^(```|~~~).*?^\1|`[^`\n]+`", re.M | re.S)
LINK = re.compile(r"(?<=\]\()[^)\s]+(?=\))")
LANGUAGES = {".py": "python", ".toml": "toml", ".json": "json"}


def pages(root: Path = ROOT) -> dict[str, str]:
    """The Markdown of all pages of the site, by their paths in it."""
    sources = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"]
    sources += sorted(path.relative_to(root).as_posix() for path in (root / "docs").rglob("*.md"))
    found = {_place(source): (source, (root / source).read_text(encoding="utf-8")) for source in sources}
    for path in sorted((root / "docs").rglob("*.ipynb")):
        source = path.relative_to(root).as_posix()
        found[_place(source)] = source, notebook(json.loads(path.read_text(encoding="utf-8")), path.name)
    made = {place: _relinked(text, source, root) for place, (source, text) in found.items()}
    beside = {target for source, text in found.values() for target in _beside(text, source, root)}
    made |= {_place(target): _file_page(root / target, target) for target in sorted(beside)}
    return made | {f"api/{room}.md": reference(room) for room in API}


def _place(source: str) -> str:
    """Where a file of the repository is in the site."""
    if source in MOVED:
        return MOVED[source]
    if source.startswith("docs/"):
        return re.sub(r"\.ipynb$", ".md", source.removeprefix("docs/"))
    return f"files/{source}.md"


def _links(text: str) -> Iterator[re.Match[str]]:
    """The links to other files in a page, outside code."""
    spans = [match.span() for match in CODE.finditer(text)]
    for match in LINK.finditer(text):
        inside = any(start <= match.start() < end for start, end in spans)
        if not inside and not re.match(r"[a-z]+:|#", match[0]):
            yield match


def _target(link: str, source: str) -> str:
    return posixpath.normpath(posixpath.join(posixpath.dirname(source), unquote(link.partition("#")[0])))


def _beside(text: str, source: str, root: Path) -> Iterator[str]:
    """The files outside docs/ that a page links to, and that are no pages of the site."""
    for match in _links(text):
        target = _target(match[0], source)
        if target not in MOVED and not target.startswith("docs/") and (root / target).is_file():
            yield target


def _relinked(text: str, source: str, root: Path) -> str:
    """A page whose links lead to the places of their targets in the site."""
    here = posixpath.dirname(_place(source))
    parts, end = [], 0
    for match in _links(text):
        target = _target(match[0], source)
        place = _place(target) if (root / target).is_file() or target.startswith("docs/") else target
        _, hash_, anchor = match[0].partition("#")
        parts += [text[end : match.start()], posixpath.relpath(place, here or "."), hash_, anchor]
        end = match.end()
    return "".join([*parts, text[end:]])


def _file_page(path: Path, source: str) -> str:
    """A file of the repository as a page."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".md":
        return text
    return f"# {source}\n\n````{LANGUAGES.get(path.suffix, 'text')}\n{text}\n````\n"


def notebook(cells: dict[str, Any], name: str) -> str:
    """A notebook with its outputs as Markdown."""
    parts: list[str] = []
    for cell in cells["cells"]:
        text = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(text)
            continue
        parts.append(f"```python\n{text}\n```")
        parts += [_output(output) for output in cell["outputs"]]
    title, _, rest = "\n\n".join(parts).partition("\n")
    return f"{title}\n\n[This page as a notebook]({name}){{ download }}\n{rest}\n"


def _output(output: dict[str, Any]) -> str:
    """A cell's output in the richest form that it has."""
    data = {kind: "".join(text) for kind, text in output.get("data", {}).items()}
    if "image/svg+xml" in data:
        return f'<div class="output">{data["image/svg+xml"]}</div>'
    if "image/png" in data:
        return f'<img class="output" alt="" src="data:image/png;base64,{data["image/png"].strip()}">'
    if "text/markdown" in data:
        return data["text/markdown"]
    if "text/html" in data:
        return '<div class="output">' + re.sub(r"\n\s*", "\n", data["text/html"]).strip() + "</div>"
    text = data.get("text/plain") or "".join(output.get("text", ""))
    return f'<pre class="output">{html.escape(text.rstrip())}</pre>'


@cache
def public(room: str) -> tuple[str, ...]:
    """The public names of a module; where it has no list of them, none."""
    module = importlib.import_module("steelman" if room == "steelman" else f"steelman.{room}")
    return tuple(sorted(getattr(module, "__all__", ()), key=str.lower))


def reference(room: str) -> str:
    """The page of a module, which mkdocstrings fills."""
    if room == "steelman":
        return _top()
    module = importlib.import_module(f"steelman.{room}")
    lines = [f"# steelman.{room}", "", (module.__doc__ or "").strip()]
    for name in public(room) or sorted(_defined(room)):
        lines += ["", f"::: steelman.{room}.{name}"]
    return "\n".join(lines) + "\n"


def _top() -> str:
    """The names of `steelman` itself, each with the module that describes it."""
    lines = ["# steelman", "", "`from steelman import PGD` finds any of these; `import steelman` alone loads nothing."]
    shared = {name: room for room in reversed(API[1:]) for name in public(room)}
    described = {name: shared[name] for name in public("steelman") if name in shared}
    for room in API[1:]:
        names = [f"[`{name}`][steelman.{room}.{name}]" for name, of in described.items() if of == room]
        lines += ["", f"## {room.capitalize()}", "", ", ".join(names)] if names else []
    lines += ["", "## Shared", ""]
    others = [name for name in public("steelman") if name not in described]
    return "\n".join([*lines, ", ".join(f"`{name}`" for name in others) + "."]) + "\n"


def _defined(room: str) -> list[str]:
    """Functions and classes in the files of a room that exports none, with the names of their files."""
    return [
        f"{path.stem}.{each.name}"
        for path in sorted((ROOT / "src" / "steelman" / room).glob("[a-z]*.py"))
        for each in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(each, ast.ClassDef | ast.FunctionDef) and not each.name.startswith("_")
    ]


def problems(root: Path = ROOT) -> list[str]:
    """Pages that the navigation lacks or has in vain, and links that lead nowhere; what mkdocs asks, without it."""
    import yaml

    made = pages(root)
    listed = list(_leaves(yaml.safe_load((root / "mkdocs.yml").read_text(encoding="utf-8"))["nav"]))
    found = [f"{page} is in no navigation: mkdocs.yml" for page in made if page not in listed and "files/" not in page]
    found += [f"mkdocs.yml: there is no page {page}" for page in listed if page not in made]
    for page, text in made.items():
        found += [f"{page}: a table without a head: {line:.40}" for line in _headless(text)]
        for match in _links(text):
            target = _target(match[0], page)
            anchor = match[0].partition("#")[2]
            if target not in made and not (root / "docs" / target).is_file():
                found.append(f"{page}: no {match[0]}")
            elif anchor and anchor not in anchors(made[target]):
                found.append(f"{page}: no heading {match[0]}")
        found += [
            f"{page}: no heading #{each}" for each in re.findall(r"\]\(#([^)]+)\)", text) if each not in anchors(text)
        ]
    return found


def _headless(text: str) -> Iterator[str]:
    """The first lines of tables that are none, since no line of dashes follows."""
    lines = ["", *re.sub(CODE, "", text).split("\n"), ""]
    for before, line, after in zip(lines, lines[1:], lines[2:], strict=False):
        if line.startswith("|") and not before.startswith("|") and not re.fullmatch(r"\|[-:| ]+\|", after):
            yield line


@cache
def anchors(text: str) -> set[str]:
    """The names by which links find a page's headings."""
    headings = re.findall(r"^#+ +(.+?) *$", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S), re.M)
    plain = [re.sub(r"\[([^\]]*)\]\([^)]*\)|[`*]|\\(?=.)", r"\1", heading) for heading in headings]
    return {re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", each).strip().lower()) for each in plain}


def _leaves(entries: Any) -> Iterator[str]:
    for each in entries:
        for value in each.values():
            yield from _leaves(value) if isinstance(value, list) else [value]


def on_files(files: Any, *, config: Any) -> Any:
    """Called by mkdocs: puts the pages of `pages` in place of the files in docs/."""
    from mkdocs.structure.files import File

    for name in [file.src_uri for file in files.documentation_pages()]:
        files.remove(files.src_uris[name])
    for place, text in pages().items():
        files.append(File.generated(config, place, content=text))
    return files


def on_page_markdown(markdown: str, *, page: Any, **kwargs: Any) -> None:
    """Called by mkdocs: a search finds pages that explain before those that list, and files last."""
    page.meta["search"] = {"boost": boost(page.file.src_uri)}
    page.meta["tags"] = SOUGHT.get(page.file.src_uri, [])


def boost(place: str) -> float:
    """How much a page counts in a search."""
    return BOOST.get(place.partition("/")[0], 5)
