"""Figures of the source: ``python tests/tools/house.py [PATH ...]`` prints a table, by default of the three packages.

Signs of how easily the code is read, and no targets: lines; comment lines for 100 lines of code; helpers, private
functions and methods, that are named in one place only besides their definition; names that point at something without
saying what it is; the size of functions and of command bodies; modules in circles.
"""

from __future__ import annotations

import ast
import io
import statistics
import sys
import tokenize
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ("registry/llreg", "extract/llreg_extract", "schemas/llreg_schemas")
DEICTIC = frozenset(
    [
        "at",
        "before",
        "chosen",
        "done",
        "found",
        "given",
        "held",
        "here",
        "kept",
        "known",
        "left",
        "made",
        "named",
        "one",
        "other",
        "others",
        "own",
        "place",
        "places",
        "same",
        "seen",
        "sent",
        "shown",
        "taken",
        "theirs",
        "there",
        "told",
        "used",
        "wanted",
        "what",
        "where",
    ]
)

Function = ast.FunctionDef | ast.AsyncFunctionDef


def comments_and_code(text: str) -> tuple[int, int]:
    """Lines with a comment, and lines with code; docstrings and blank lines are neither."""
    comments, code = set(), set()
    skipped = {tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENCODING, tokenize.ENDMARKER}
    docstrings = _docstring_lines(ast.parse(text))
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            comments.add(token.start[0])
        elif token.type not in skipped:
            code |= set(range(token.start[0], token.end[0] + 1))
    return len(comments), len(code - docstrings)


def _docstring_lines(tree: ast.Module) -> set[int]:
    """Lines of all docstrings."""
    lines: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)) and ast.get_docstring(
            node
        ):
            string = node.body[0]
            lines |= set(range(string.lineno, (string.end_lineno or string.lineno) + 1))
    return lines


def bound_names(tree: ast.Module) -> list[str]:
    """Names that are bound: variables, arguments, functions and classes."""
    names = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.append(node.id)
        elif isinstance(node, ast.arg):
            names.append(node.arg)
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            names.append(node.name)
    return names


def is_deictic(name: str) -> bool:
    """Whether a name says where something is, or that somebody gave or saw it, but not what it is."""
    return name.strip("_") in DEICTIC


def functions_of(tree: ast.Module) -> list[Function]:
    """All functions and methods."""
    return [node for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))]


def _size(function: Function) -> int:
    """Lines of a function without its docstring."""
    lines = (function.end_lineno or function.lineno) - function.lineno + 1
    if ast.get_docstring(function):
        string = function.body[0]
        lines -= (string.end_lineno or string.lineno) - string.lineno + 1
    return lines


def _body(function: Function) -> int:
    """Lines of a function's body without its docstring."""
    body = function.body[1:] if ast.get_docstring(function) else function.body
    return (body[-1].end_lineno or body[-1].lineno) - body[0].lineno + 1 if body else 0


def used_once(trees: Iterable[ast.Module]) -> list[str]:
    """Helpers (private functions and methods, no dunder) whose name is used in exactly one place of these modules."""
    uses: Counter[str] = Counter()
    helpers: Counter[str] = Counter()
    for tree in trees:
        for node in ast.walk(tree):
            if isinstance(node, ast.Name):
                uses[node.id] += 1
            elif isinstance(node, ast.Attribute):
                uses[node.attr] += 1
        helpers.update(
            node.name for node in functions_of(tree) if node.name[0] == "_" and not node.name.startswith("__")
        )
    return [name for name, count in helpers.items() for _ in range(count) if uses[name] == count]


def measure(paths: Iterable[Path]) -> dict[str, str]:
    """The figures of some files."""
    texts = {path: path.read_text(encoding="utf-8") for path in paths}
    trees = {path: ast.parse(text) for path, text in texts.items()}
    functions = [function for tree in trees.values() for function in functions_of(tree)]
    names = [name for tree in trees.values() for name in bound_names(tree)]
    counts = [comments_and_code(text) for text in texts.values()]
    comments, code = sum(pair[0] for pair in counts), sum(pair[1] for pair in counts)
    once = [name for tree in trees.values() for name in used_once([tree])]  # a helper is private to its module
    calls = (node.func for tree in trees.values() for node in ast.walk(tree) if isinstance(node, ast.Call))
    called = {getattr(function, "id", getattr(function, "attr", None)) for function in calls}
    deictic = Counter(name for name in names if is_deictic(name))
    sizes = [len(text.splitlines()) for text in texts.values()]
    commands = [
        _body(function)
        for path, tree in trees.items()
        if path.parent.name == "cli"
        for function in functions_of(tree)
        if any("command" in ast.unparse(decorator) for decorator in function.decorator_list)
    ]
    figures = {
        "modules": f"{len(texts)}",
        "lines": f"{sum(sizes):,}",
        "lines of a module, median and most": f"{statistics.median(sizes):.0f}, {max(sizes)}",
        "comment lines for 100 lines of code": f"{100 * comments / code:.1f}",
        "functions": f"{len(functions):,}",
        "lines of a function, median and 90 %": _quantiles([_size(function) for function in functions]),
        "helpers used once": f"{len(once)}, {100 * len(once) / len(functions):.1f} % of functions",
        "of these handed over, not called": f"{sum(name not in called for name in once)}",
        "deictic names": f"{sum(deictic.values())}, {100 * sum(deictic.values()) / len(names):.1f} % of bound names",
    }
    if commands:
        figures["lines of a command's body, median and most"] = f"{statistics.median(commands):.0f}, {max(commands)}"
    return figures


def _quantiles(sizes: list[int]) -> str:
    ordered = sorted(sizes)
    return f"{statistics.median(ordered):.0f}, {ordered[int(0.9 * (len(ordered) - 1))]}"


def main() -> None:
    """Print the table."""
    roots = [Path(arg) for arg in sys.argv[1:] if arg != "-v"] or [ROOT / source for source in SOURCES]
    files = [path for root in roots for path in (sorted(root.rglob("*.py")) if root.is_dir() else [root])]
    for name, value in measure(files).items():
        print(f"{name:45} {value}")
    if "-v" in sys.argv:  # where to look
        for path in files:
            tree = ast.parse(path.read_text(encoding="utf-8"))
            once, deictic = used_once([tree]), Counter(filter(is_deictic, bound_names(tree)))
            if once or deictic:
                print(f"\n{path}\n  used once: {' '.join(once)}\n  deictic: {dict(deictic)}")


if __name__ == "__main__":
    main()
