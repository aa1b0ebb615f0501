"""Measure the structure of the package: `python -m benchmarks.structure`.

Prints the figures of docs/development/house.md for this checkout: modules, import graph (by grimp,
with the children of `picie` as parts), lines, long files, long functions and functions with many
parameters.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path

import grimp

SOURCE = Path(__file__).parents[1] / "src" / "picie"
MAX_FILE, MAX_PARAMETERS = 350, 6


@dataclass(frozen=True)
class Structure:
    """The figures of one checkout.

    Loose modules are the files at the top, including `__init__` and `__main__`.
    """

    loose_modules: int
    modules: int
    parts: int
    layers: int
    dependencies: int
    cycles: int
    lines: int
    long_files: str
    many_parameters: str
    longest_function: str


def measure(source: Path = SOURCE) -> Structure:
    """The figures of the package in `source`, which must be the importable `picie`."""
    files = sorted(source.rglob("*.py"))
    lengths = {file: len(file.read_text("utf-8").splitlines()) for file in files}
    functions = [(file, node) for file in files for node in _functions(file)]
    many = [f"{file.stem}.{node.name}" for file, node in functions if _parameters(node) > MAX_PARAMETERS]
    commands = sum(name.startswith(("cli", *(f"{f.stem}." for f in (source / "cli").glob("*.py")))) for name in many)
    file, longest = max(functions, key=lambda pair: _length(pair[1]))
    edges = _edges()
    components = _components(edges)
    return Structure(
        loose_modules=len(list(source.glob("*.py"))),
        modules=len(files),
        parts=len(edges),
        layers=_layers(edges, components),
        dependencies=sum(len(imported) for imported in edges.values()),
        cycles=sum(len(component) > 1 for component in components),
        lines=sum(lengths.values()),
        long_files=", ".join(f"{f.relative_to(source)} {n}" for f, n in lengths.items() if n > MAX_FILE) or "none",
        many_parameters=f"{len(many)}, of these {commands} commands: {', '.join(many)}",
        longest_function=f"{_length(longest)} lines ({file.stem}.{longest.name})",
    )


Function = ast.FunctionDef | ast.AsyncFunctionDef


def _functions(file: Path) -> Iterator[Function]:
    return (node for node in ast.walk(ast.parse(file.read_text("utf-8"))) if isinstance(node, Function))


def _length(node: Function) -> int:
    return (node.end_lineno or node.lineno) - node.lineno + 1


def _parameters(node: Function) -> int:
    """The number of named parameters, without self and cls."""
    names = [a.arg for a in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
    return len([name for name in names if name not in ("self", "cls")])


def _edges() -> dict[str, set[str]]:
    """Which children of `picie` import which, without imports under TYPE_CHECKING."""
    graph = grimp.build_graph("picie", exclude_type_checking_imports=True)
    edges: dict[str, set[str]] = {child: set() for child in graph.find_children("picie")}
    for module in graph.modules:
        for imported in graph.find_modules_directly_imported_by(module):
            part, other = (".".join(name.split(".")[:2]) for name in (module, imported))
            if part != other and part in edges and other in edges:
                edges[part].add(other)
    return edges


def _components(edges: dict[str, set[str]]) -> list[set[str]]:
    """Strongly connected components: parts that reach each other."""
    reach = {part: _reachable(edges, part) for part in edges}
    components: list[set[str]] = []
    for part in edges:
        if not any(part in component for component in components):
            components.append({part} | {other for other in reach[part] if part in reach[other]})
    return components


def _reachable(edges: dict[str, set[str]], start: str) -> set[str]:
    seen: set[str] = set()
    waiting = list(edges[start])
    while waiting:
        part = waiting.pop()
        if part not in seen:
            seen.add(part)
            waiting += edges[part]
    return seen


def _layers(edges: dict[str, set[str]], components: list[set[str]]) -> int:
    """Length of the longest chain of imports between components."""
    home = {part: i for i, component in enumerate(components) for part in component}
    below = [{home[other] for part in component for other in edges[part]} - {i} for i, component in enumerate(components)]
    depths: dict[int, int] = {}

    def depth(i: int) -> int:
        if i not in depths:
            depths[i] = 1 + max((depth(j) for j in below[i]), default=0)
        return depths[i]

    return max(depth(i) for i in range(len(components)))


def main() -> None:
    """Print one row per figure."""
    structure = measure()
    for field in fields(structure):
        print(f"| {field.name.replace('_', ' ')} | {getattr(structure, field.name)} |")


if __name__ == "__main__":
    main()
