"""One sentence for each failure of the Hub: of a model, and of a registry's dataset."""

from __future__ import annotations

import errno
from types import SimpleNamespace
from typing import Any

import pytest
from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError

from llreg_extract.files.hub_errors import DATASET, MODEL, Sentences, hub_errors
from llreg_schemas.errors import (
    HubAccessError,
    HubConflictError,
    HubError,
    HubUnreachableError,
    LlregError,
    ModelAccessError,
    ModelError,
    StorageError,
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


FULL = OSError(errno.ENOSPC, "No space left on device")
# As huggingface_hub 1 and 2 raise it: an OSError without a number.
CUT_OFF = OSError("Consistency check failed: file should be of size 2048 but has size 1000 (model.safetensors).")


@pytest.mark.parametrize(
    ("sentences", "error", "kind", "sentence"),
    [
        (
            MODEL,
            CUT_OFF,
            ModelAccessError,
            "a download of org/x .* was cut off: run the same command again; it goes on",
        ),
        (DATASET, CUT_OFF, HubUnreachableError, "a download from org/x was cut off: run the same command again"),
        (MODEL, FULL, ModelError, "the disk is full while org/x is downloaded: free some space, or move HF_HOME"),
        (
            MODEL,
            OSError(errno.EROFS, "Read-only file system", "/models/hub"),
            ModelError,
            r"org/x is not all in the local cache \(.*\), and that may not be written \(Read-only file system\): set HF_HOME",
        ),
        (
            MODEL,
            OSError(errno.ENOLCK, "No locks available"),
            ModelError,
            r"org/x cannot be downloaded to .*, whose file system has no locks \(No locks available\): set HF_HOME to a",
        ),
        (DATASET, FULL, StorageError, "the disk is full while org/x is downloaded: free some space and run the same"),
        (MODEL, LocalTokenNotFoundError("no token"), ModelAccessError, "org/x needs a login, .*: hf auth login"),
        (DATASET, LocalTokenNotFoundError("no token"), HubAccessError, "you are not logged in: log in with: hf auth"),
    ],
)
def test_a_failure_on_this_machine(sentences: Sentences, error: OSError, kind: type[LlregError], sentence: str) -> None:
    with pytest.raises(kind, match=sentence) as caught, hub_errors("org/x", sentences=sentences):
        raise error
    assert type(caught.value) is kind


def test_what_is_not_of_the_hub_goes_on() -> None:
    for sentences in (MODEL, DATASET):
        with pytest.raises(ZeroDivisionError), hub_errors("org/x", sentences=sentences):
            raise ZeroDivisionError
