"""Which tests are slow, by measurement: ``python tests/tools/slow.py REPORT.xml`` writes tests/slow.txt.

The report is pytest's: ``pytest --junitxml=REPORT.xml``. A line of slow.txt is a test function, ``file::name`` or
``file::Class::name``, or a file or folder all of whose tests are slow, which ``pytest -m "not slow"`` then does not even import.
"""

from __future__ import annotations

import re
import sys
import xml.etree.ElementTree as ET
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LIST = ROOT / "tests" / "slow.txt"
LIMIT = 0.25  # seconds of all cases of a test function together, its fixtures included
# A file that imports one of these costs seconds before its first test.
HEAVY = re.compile(
    r"^(import|from) (torch|transformers|bokeh|matplotlib|openTSNE)\b|importorskip\(.(torch|selenium)", re.MULTILINE
)


def function_of(case: ET.Element) -> str:
    """``file::Class::name`` of a test case."""
    parts = case.attrib["classname"].split(".")
    depth = next(k for k in range(len(parts), 0, -1) if (ROOT / Path(*parts[:k]).with_suffix(".py")).is_file())
    names = [*parts[depth:], case.attrib["name"].partition("[")[0]]
    return "::".join([Path(*parts[:depth]).with_suffix(".py").as_posix(), *names])


def seconds_by_function(report: Path) -> dict[str, float]:
    """Seconds of each test function, all its cases together."""
    seconds: dict[str, float] = defaultdict(float)
    for case in ET.parse(report).iter("testcase"):
        seconds[function_of(case)] += float(case.attrib["time"])
    return dict(seconds)


def slow_lines(seconds: dict[str, float]) -> list[str]:
    """Lines of slow.txt: slow functions, or their file where all of its are slow or what it imports is."""
    by_file: dict[str, list[str]] = defaultdict(list)
    for function in seconds:
        by_file[function.partition("::")[0]].append(function)
    lines: list[str] = []
    for file, functions in by_file.items():
        slow = [function for function in functions if seconds[function] > LIMIT]
        heavy = HEAVY.search((ROOT / file).read_text("utf-8"))
        lines += [file] if heavy or len(slow) == len(functions) else slow
    # A folder whose conftest is heavy is left out whole.
    folders = [path.parent for path in (ROOT / "tests").rglob("conftest.py") if HEAVY.search(path.read_text("utf-8"))]
    names = [folder.relative_to(ROOT).as_posix() for folder in folders]
    lines = [line for line in lines if not line.startswith(tuple(f"{name}/" for name in names))] + names
    return sorted(lines)


def main() -> None:
    """Write the list, and say what is left of the suite without it."""
    seconds = seconds_by_function(Path(sys.argv[1]))
    lines = slow_lines(seconds)
    LIST.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    quick = sum(time for function, time in seconds.items() if not function.startswith(tuple(lines)))
    print(f"{len(lines)} lines; {sum(seconds.values()):.0f} s in all, {quick:.0f} s without them, on one core")


if __name__ == "__main__":
    main()
