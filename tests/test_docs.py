"""The docs: links lead somewhere, and what they say of the source is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
CONTRIBUTING = ROOT / "docs" / "develop" / "contributing.md"
ARCHITECTURE = ROOT / "docs" / "develop" / "architecture.md"

pytestmark = pytest.mark.skipif(not (ROOT / "docs").is_dir(), reason="the docs are not here")


def _anchors(page: Path) -> set[str]:
    """Anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if link.startswith(("http:", "https:", "mailto:")):
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.exists(), f"{page.name}: no {link}"
        assert not anchor or target.suffix != ".md" or anchor in _anchors(target), f"{page.name}: no heading {link}"


def _changes() -> list[tuple[str, str, str]]:
    """Rows of the table of typical changes: change, file, a name in it."""
    lines = CONTRIBUTING.read_text(encoding="utf-8").splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| ")]
    return [(change, file.strip("`"), name.strip("`")) for change, file, name in cells if name.startswith("`")]


def test_every_typical_change_has_its_file() -> None:
    changes = _changes()
    assert len(changes) == 10
    for change, file, name in changes:
        assert re.search(rf"\b{re.escape(name)}\b", (ROOT / file).read_text(encoding="utf-8")), (
            f"{change}: no {name} in {file}"
        )


def test_the_architecture_names_files_that_are_there() -> None:
    roots = [ROOT / "registry" / "llreg", ROOT / "extract", ROOT / "schemas", ROOT]
    for name in re.findall(r"`([\w/]+\.py)`", ARCHITECTURE.read_text(encoding="utf-8")):
        assert any((root / name).is_file() for root in roots), f"architecture.md: no {name}"
