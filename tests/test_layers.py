"""The house: one table of ranks, and imports that run downhill only, typing and lazy imports counted."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import llreg
import llreg_extract
import llreg_schemas

PACKAGES = {module.__name__: Path(str(module.__file__)).parent for module in (llreg, llreg_extract, llreg_schemas)}

# A module imports its own line and the lines above it. The longest matching prefix of its name counts.
RANKS: tuple[tuple[str, ...], ...] = (
    ("llreg_schemas",),
    ("llreg_extract.libraries", "llreg_extract.source", "llreg_extract.model", "llreg_extract.quirks"),
    ("llreg_extract.files",),
    ("llreg_extract.find",),
    ("llreg_extract.fast",),
    ("llreg_extract.scoring",),
    ("llreg_extract.loading",),
    ("llreg_extract.measure",),
    ("llreg_extract",),  # the public names
    ("llreg.settings", "llreg.atomic", "llreg.names", "llreg.printable", "llreg.dask_client", "llreg.tables",
     "llreg._version"),
    ("llreg.hub.client",),
    ("llreg.texts",),
    ("llreg.store",),
    ("llreg.geometry",),
    ("llreg.maps", "llreg.importers", "llreg.exporters", "llreg.add"),
    ("llreg.verify", "llreg.bench", "llreg.score"),
    ("llreg.hub.remote", "llreg.hub.judge"),
    ("llreg.hub.sync",),
    ("llreg.hub.review",),
    ("llreg.registry",),
    ("llreg.locate",),
    ("llreg",),  # the public names
    ("llreg.cli", "llreg.__main__"),
)  # fmt: skip


def _module_of(root: Path, path: Path) -> str:
    """Dotted name of a source file."""
    return ".".join(path.relative_to(root.parent).with_suffix("").parts).removesuffix(".__init__")


MODULES = {_module_of(root, path): path for root in PACKAGES.values() for path in sorted(root.rglob("*.py"))}


def imports_of(path: Path, modules: dict[str, Path]) -> dict[str, int]:
    """Project modules that a file imports, also in functions and under TYPE_CHECKING, and the line of each."""
    found: dict[str, int] = {}
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            base = node.module or ""
            names = [full if (full := f"{base}.{alias.name}") in modules else base for alias in node.names]
        else:
            continue
        found |= {name: node.lineno for name in names if name in modules}
    return found


def rank_of(module: str) -> int:
    """Position of a module's line in `RANKS`."""
    matches = [
        (len(prefix), rank)
        for rank, line in enumerate(RANKS)
        for prefix in line
        if module == prefix or (module.startswith(f"{prefix}.") and prefix not in ("llreg", "llreg_extract"))
    ]
    assert matches, f"{module} has no rank: add its package to RANKS"
    return max(matches)[1]


@pytest.mark.parametrize("module", MODULES)
def test_imports_run_downhill(module: str) -> None:
    for imported, line in imports_of(MODULES[module], MODULES).items():
        assert rank_of(imported) <= rank_of(module), f"{MODULES[module]}:{line}: {module} imports {imported} above it"


def test_no_circle() -> None:
    graph = {module: set(imports_of(path, MODULES)) - {module} for module, path in MODULES.items()}
    while True:  # what stands on nothing, or carries nothing, is in no circle
        imported = set().union(*graph.values())
        free = {module for module in graph if not graph[module] & graph.keys() or module not in imported}
        if not free:
            break
        graph = {module: names - free for module, names in graph.items() if module not in free}
    assert not graph, f"these import each other: {graph}"


def test_a_circle_would_be_found(tmp_path: Path) -> None:
    for name, text in (
        (
            "a",
            "from __future__ import annotations\nfrom typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import b\n",
        ),
        ("b", "def f():\n    import a\n"),
    ):
        (tmp_path / f"{name}.py").write_text(text)
    modules = {name: tmp_path / f"{name}.py" for name in "ab"}
    assert {name: set(imports_of(path, modules)) for name, path in modules.items()} == {"a": {"b"}, "b": {"a"}}


def test_only_the_top_imports_the_registry() -> None:
    users = {module for module, path in MODULES.items() if "llreg.registry" in imports_of(path, MODULES)}
    assert {module.split(".")[1] if "." in module else module for module in users} <= {"llreg", "locate", "cli"}
