"""What loads when: `llreg --help` and `import llreg` stay light, and imports run downhill only."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import llreg
import llreg_extract
import llreg_schemas

HEAVY = {
    "torch", "transformers", "tokenizers", "zarr", "xarray", "pandas", "pyarrow", "numpy", "scipy", "sklearn",
    "huggingface_hub", "jsonschema", "rich",
}  # fmt: skip
SOURCES = {module.__name__: Path(str(module.__file__)).parent for module in (llreg, llreg_extract, llreg_schemas)}
FILES = [(name, path) for name, root in SOURCES.items() for path in sorted(root.rglob("*.py"))]
MAY_IMPORT = {
    "llreg": {"llreg", "llreg_extract", "llreg_schemas"},
    "llreg_extract": {"llreg_extract", "llreg_schemas"},
    "llreg_schemas": {"llreg_schemas"},
}

Command = tuple[list[str], dict[str, str]]


def _modules_after(code: str, command: Command) -> set[str]:
    """Names in sys.modules of a fresh process after `code`."""
    code = f"import sys\n{code}\nnames = list(sys.modules)\nimport json\nprint('\\n' + json.dumps(names))"
    env = {**os.environ, **command[1]}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, check=True, text=True)
    return set(json.loads(done.stdout.splitlines()[-1]))


def _loaded_after(code: str, command: Command) -> set[str]:
    """Their packages: `torch`, not `torch.nn`."""
    return {name.split(".")[0] for name in _modules_after(code, command)}


@pytest.mark.parametrize(
    "code",
    [
        "import llreg",
        "import llreg_extract",
        "import llreg_schemas",
        "import llreg; dir(llreg); llreg.__version__",
        "from llreg.cli import cli; cli.main(['--help'], standalone_mode=False)",
        "from llreg.cli import cli; cli.main(['--version'], standalone_mode=False)",
    ],
)
def test_nothing_heavy_is_loaded(code: str, llreg_command: Command) -> None:
    assert HEAVY & _loaded_after(code, llreg_command) == set()


@pytest.mark.parametrize(
    "name",
    [
        "add",
        "build",
        "dist",
        "info",
        "lineage",
        "ls",
        "map",
        "nn",
        "predict",
        "export",
        "import",
        "pull",
        "push",
        "review",
        "subset",
        "texts",
        "traj",
        "tree",
        "validate",
        "view",
    ],
)
def test_help_of_a_command_loads_no_store_and_no_model(name: str, llreg_command: Command) -> None:
    code = f"from llreg.cli import cli; cli.main(['{name}', '--help'], standalone_mode=False)"
    loaded = _loaded_after(code, llreg_command)
    assert (HEAVY - {"numpy", "rich"}) & loaded == set()


def test_listing_rows_loads_no_torch(llreg_command: Command, tmp_path: Path) -> None:
    code = f"import llreg; r = llreg.init({str(tmp_path / 'r')!r}); r.records(); r.summary(); r.texts"
    assert {"torch", "transformers", "sklearn", "huggingface_hub"} & _loaded_after(code, llreg_command) == set()


def test_help_loads_few_modules(llreg_command: Command) -> None:
    # What makes it quick, without a clock: seconds differ between machines. Python and click alone load 95.
    loaded = _modules_after("from llreg.cli import cli; cli.main(['--help'], standalone_mode=False)", llreg_command)
    assert len(loaded) < 170
    assert {name for name in loaded if name.startswith("llreg.cli.")} == {"llreg.cli.common"}


def _imports(path: Path) -> list[tuple[str, int, int]]:
    """Top-level module, level and line of every import in a file, also inside functions and TYPE_CHECKING."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [(alias.name.split(".")[0], 0, node.lineno) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found.append(((node.module or "").split(".")[0], node.level, node.lineno))
    return found


def test_sources_are_found() -> None:
    assert {name for name, _ in FILES} == set(MAY_IMPORT)
    assert len(FILES) > 30


@pytest.mark.parametrize(("package", "path"), FILES, ids=[f"{name}/{path.name}" for name, path in FILES])
def test_layers(package: str, path: Path) -> None:
    for module, level, line in _imports(path):
        where = f"{path}:{line}"
        assert level == 0, f"{where}: relative import"
        if module in MAY_IMPORT:
            assert module in MAY_IMPORT[package], f"{where}: {package} imports {module}"
        if package != "llreg_extract":
            assert module not in ("torch", "transformers", "tokenizers", "accelerate"), f"{where}: imports {module}"
        assert module not in ("pickle", "dill", "cloudpickle"), f"{where}: nothing is unpickled"


def test_every_package_is_typed() -> None:
    for name, root in SOURCES.items():
        assert (root / "py.typed").is_file(), name
