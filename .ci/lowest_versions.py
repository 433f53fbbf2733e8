"""Print pip constraints that hold each requirement of some extras to its lowest version: usage: lowest_versions.py EXTRA..."""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

root = Path(__file__).resolve().parents[1]
project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
lowest: dict[str, str] = {}
for requirement in sum((project["optional-dependencies"][extra] for extra in sys.argv[1:]), project["dependencies"]):
    match = re.fullmatch(r"([A-Za-z0-9_.-]+)>=([0-9.]+)", requirement)
    if match is None:
        sys.exit(f"{requirement}: expected NAME>=VERSION")
    lowest[match[1]] = match[2]
# Only this one installs as a small CPU build on the CI machine: of torch, the lowest version is not tried.
lowest["torch"] = next(
    line.strip().partition("==")[2]
    for line in (root / "constraints.txt").read_text(encoding="utf-8").splitlines()
    if line.startswith("torch==")
)
print("\n".join(f"{name}=={version}" for name, version in lowest.items()))
