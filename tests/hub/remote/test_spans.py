"""Segments of two rows read from the Hub, where a pull leaves them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.conftest import MakeRow
from tests.hub.client import Hub
from tests.hub.conftest import AsUser
from tests.hub.publishing import publish

import llreg
from llreg.geometry.kl.spans import find_spans
from llreg.hub.sync.pull import clone
from llreg.registry import Registry
from llreg.store.rowfile import write_row
from llreg_schemas.errors import NotFoundError

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")


def test_spans_on_the_hub_are_those_here(
    hub: Hub, as_user: AsUser, repo_name: str, registry: Registry, make_row: MakeRow, tmp_path: Path, cli: Any
) -> None:
    as_user("alice")
    for k in range(2):
        write_row(registry.path, make_row(registry, f"org/m{k}", k, fine=True))
    registry.build()
    publish(hub.api("alice"), f"alice/{repo_name}", registry.path)
    models = ["org/m0", "org/m1"]
    here = find_spans(registry, models)
    opened = llreg.open(f"alice/{repo_name}")
    hub.clear()
    assert find_spans(opened, models).to_json() == here.to_json()
    rows = [request.path for request in hub.requests() if request.role == "hub" and "/rows/" in request.path]
    assert len(rows) <= 4  # two a row
    copy = Registry(clone(f"alice/{repo_name}", tmp_path / "copy").path)
    with pytest.raises(
        NotFoundError, match="a pull leaves on the Hub; name the registry there: llreg dist -r ORG/NAME"
    ):
        find_spans(copy, models)
