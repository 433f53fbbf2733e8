"""A page that is one HTML file: it opens from disk, loads nothing, sends nothing, and runs no script but its own."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from importlib import resources
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


def whole_page(template: str, parts: Mapping[str, str], scripts: Mapping[str, str], *, compiles: bool = False) -> str:
    """The page of a template, with a policy under which only its scripts run and nothing is fetched.

    Parameters
    ----------
    template : str
        Name of a file beside this one, with ``{{name}}`` where a part or a script goes, and ``{{policy}}`` for the policy.
    parts : mapping of str to str
        HTML, CSS or `script_json`, with nothing of a stranger's in it unescaped.
    scripts : mapping of str to str
        Scripts; the policy knows them by their hashes.
    compiles : bool
        Whether a script makes functions of text.
    """
    digests = [hashlib.sha256(text.encode()).digest() for text in scripts.values()]
    allowed = [f"'sha256-{base64.b64encode(digest).decode('ascii')}'" for digest in digests]
    allowed += ["'unsafe-eval'"] if compiles else []
    policy = (
        f"default-src 'none'; script-src {' '.join(allowed)}; style-src 'unsafe-inline'; img-src data: blob:; "
        "connect-src 'none'; base-uri 'none'; form-action 'none'"
    )
    filling = {**parts, **scripts, "policy": policy}
    return re.sub(r"\{\{(\w+)\}\}", lambda match: filling[match[1]], asset(template))


def joined_scripts(names: Iterable[str]) -> str:
    """Script files as one script that leaves no names behind."""
    body = "\n".join(map(asset, names))
    return f'(() => {{\n"use strict";\n{body}}})();\n'


def asset(name: str) -> str:
    """A file that lies beside this one."""
    return resources.files("llreg.maps.draw").joinpath(name).read_text("utf-8")


def printable(text: str) -> str:
    """Text without control and direction-changing characters, each of which becomes U+FFFD."""
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)


def script_json(value: object) -> str:
    """JSON that no HTML parser takes for anything else: ASCII, without <, > and &."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def packed(values: Any, kind: str) -> dict[str, str]:
    """A flat array as ``{"type", "data"}``; `kind` is a NumPy type without byte order, as "f4"."""
    array = np.ascontiguousarray(np.asarray(values).astype("<" + kind))
    return {"type": kind, "data": base64.b64encode(array.tobytes()).decode("ascii")}


def packed_indices(values: Any) -> dict[str, str]:
    """Non-negative integers in the narrowest type that holds them."""
    array: NDArray[np.int64] = np.asarray(values, dtype=np.int64)
    largest = int(array.max(initial=0))
    return packed(array, "u1" if largest < 1 << 8 else "u2" if largest < 1 << 16 else "u4")
