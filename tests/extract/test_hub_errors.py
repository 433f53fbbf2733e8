"""One sentence for each failure of the Hub: of a model, and of a registry's dataset."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from huggingface_hub.errors import HfHubHTTPError

from llreg_extract.files.hub_errors import DATASET, MODEL, hub_errors
from llreg_schemas.errors import (
    HubAccessError,
    HubConflictError,
    HubError,
    HubUnreachableError,
    LlregError,
    ModelAccessError,
)


def _answer(status: int) -> HfHubHTTPError:
    response: Any = SimpleNamespace(status_code=status, headers={}, request=None)
    return HfHubHTTPError("an answer", response=response, server_message="Too many paths: 3000.\nmore")


@pytest.mark.parametrize(
    ("status", "kind", "sentence"),
    [
        (403, HubAccessError, r"refuses this for org/x \(403\): Too many paths: 3000; check that your token"),
        (409, HubConflictError, r"org/x was changed by somebody else meanwhile \(409\): run the same command again"),
        (412, HubConflictError, r"org/x was changed by somebody else meanwhile \(412\): run the same command again"),
        (413, HubError, r"the Hub \(http.*\) refuses this for org/x \(413\): Too many paths: 3000$"),
        (429, HubUnreachableError, r"limits requests at the moment \(429\): wait a few minutes"),
        (503, HubUnreachableError, r"answered 503 for org/x: run the same command again later"),
    ],
)
def test_an_answer_about_a_dataset(status: int, kind: type[LlregError], sentence: str) -> None:
    with pytest.raises(kind, match=sentence) as caught, hub_errors("org/x", "main", DATASET):
        raise _answer(status)
    assert type(caught.value) is kind


@pytest.mark.parametrize("status", [409, 413, 429, 503])
def test_an_answer_about_a_model(status: int) -> None:
    with pytest.raises(ModelAccessError, match=f"answered {status} for org/x: try again later"), hub_errors("org/x"):
        raise _answer(status)


def test_what_is_not_of_the_hub_goes_on() -> None:
    for sentences in (MODEL, DATASET):
        with pytest.raises(ZeroDivisionError), hub_errors("org/x", sentences=sentences):
            raise ZeroDivisionError
