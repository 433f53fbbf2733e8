"""The Hub's errors, explained: what its client library raises becomes one sentence and an error of llreg.

`_failure_of` names what went wrong. `MODEL` and `DATASET` hold the error class and the sentence for each failure: of a model,
and of the dataset repository of a registry. A status without a failure of its own, such as 413 for a request that is too
large, is "http".
"""

from __future__ import annotations

import errno
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from llreg_schemas.errors import (
    HubAccessError,
    HubConflictError,
    HubError,
    HubNotFoundError,
    HubUnreachableError,
    InputError,
    LlregError,
    ModelAccessError,
    ModelError,
    ModelNotFoundError,
    StorageError,
)

# Failure -> error and sentence. A failure that a table lacks is not explained: the client's own error goes on.
Sentences = Mapping[str, tuple[type[LlregError], str]]

GO_ON = "check the connection, or use a local directory, or HF_HUB_OFFLINE=1 with a model that is in the cache"

MODEL: Sentences = {
    "invalid id": (ModelNotFoundError, "{name!r} is neither a path that exists nor a valid Hub id (org/name)"),
    "gated": (ModelAccessError, "{name} is gated: accept its terms at {endpoint}/{name} and log in (hf auth login)"),
    "no revision": (ModelNotFoundError, "{name} has no revision {revision}: check the branch, tag or commit"),
    "no repository": (
        ModelNotFoundError,
        "no model {name} on the Hub, or it is private: check the name; for a private one log in (hf auth login)",
    ),
    "not logged in": (ModelAccessError, "{name} needs a login, and you are not logged in: hf auth login"),
    "offline": (
        ModelAccessError,
        "the Hub ({endpoint}) cannot be reached and {name}{at_revision} is not in the local cache: " + GO_ON,
    ),
    "not cached": (
        ModelAccessError,
        "the Hub ({endpoint}) cannot be reached and {name}{at_revision} is not in the local cache: " + GO_ON,
    ),
    "no file": (ModelNotFoundError, "{name}{at_revision} lacks a file: {message}"),
    "forbidden": (
        ModelAccessError,
        "the Hub refuses access to {name} ({status}): check that your token is valid and may read it (hf auth login)",
    ),
    "http": (
        ModelAccessError,
        "the Hub ({endpoint}) answered {status} for {name}: try again later, or use a local directory",
    ),
    "unreachable": (ModelAccessError, "the Hub ({endpoint}) cannot be reached for {name}: " + GO_ON),
    "disk full": (ModelError, "the disk is full while {name} is downloaded: free some space, or move HF_HOME"),
    "unwritable": (
        ModelError,
        (
            "{name} is not all in the local cache ({cache}), and that may not be written ({message}): set HF_HOME to a folder "
            "of yours, or have the owner of this one download it"
        ),
    ),
    "no locks": (
        ModelError,
        "{name} cannot be downloaded to {cache}, whose file system has no locks ({message}): set HF_HOME to a local disk",
    ),
    "cut off": (
        ModelAccessError,
        "a download of {name} from the Hub ({endpoint}) was cut off: run the same command again; it goes on from there",
    ),
}

DATASET: Sentences = {
    "invalid id": (InputError, "{name!r} is no Hub id: expected org/name"),
    "gated": (
        HubAccessError,
        "{name} is gated: accept its terms at {endpoint}/datasets/{name}, then log in with: hf auth login",
    ),
    "no revision": (HubNotFoundError, "{name} on the Hub has no revision {revision}: check the branch, tag or commit"),
    "no repository": (
        HubNotFoundError,
        (
            "no dataset {name} on the Hub ({endpoint}), or it is private: check the name; for a private one log in with: "
            "hf auth login"
        ),
    ),
    "not logged in": (HubAccessError, "you are not logged in: log in with: hf auth login"),
    "offline": (HubUnreachableError, "HF_HUB_OFFLINE is set, and this needs {name} on the Hub: unset it"),
    "no file": (HubNotFoundError, "{name}{at} lacks a file that a registry has: {message}"),
    "forbidden": (
        HubAccessError,
        (
            "the Hub refuses this for {name} ({status}): {message}; check that your token is valid and may do it "
            "(log in with: hf auth login)"
        ),
    ),
    "conflict": (
        HubConflictError,
        "{name} was changed by somebody else meanwhile ({status}): run the same command again",
    ),
    "rate limit": (
        HubUnreachableError,
        "the Hub ({endpoint}) limits requests at the moment ({status}): wait a few minutes and run the same command again",
    ),
    "server": (
        HubUnreachableError,
        "the Hub ({endpoint}) answered {status} for {name}: run the same command again later",
    ),
    "http": (HubError, "the Hub ({endpoint}) refuses this for {name} ({status}): {message}"),
    "unreachable": (
        HubUnreachableError,
        "the Hub ({endpoint}) cannot be reached for {name}: check the connection and run the same command again",
    ),
    "disk full": (
        StorageError,
        "the disk is full while {name} is downloaded: free some space and run the same command again",
    ),
    "cut off": (
        HubUnreachableError,
        "a download from {name} was cut off: run the same command again; it goes on from there",
    ),
}

# The two answers to a commit that lost a race: 412 where the branch has another head, 409 where a commit is in progress.
_STATUSES = {401: "forbidden", 403: "forbidden", 409: "conflict", 412: "conflict", 408: "server", 429: "rate limit"}
# The client library lets its HTTP library's network errors through, and has changed that library twice.
_HTTP_LIBRARIES = ("httpx", "httpx2", "httpcore", "httpcore2", "requests")
_MESSAGE_CHARS = 200
UNWRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS)  # what the disk answers who may only read


@contextmanager
def hub_errors(name: str, revision: str | None = None, sentences: Sentences = MODEL) -> Iterator[None]:
    """Turn the client library's errors about a repository into llreg's; others pass.

    Parameters
    ----------
    name : str
        The model or repository that was asked for.
    revision : str, optional
    sentences : mapping
        `MODEL` or `DATASET`.

    Raises
    ------
    ModelNotFoundError, ModelAccessError, ModelError
        Of a model.
    HubNotFoundError, HubAccessError, HubConflictError, HubUnreachableError, HubError, InputError, StorageError
        Of a dataset repository.
    """
    try:
        yield
    except LlregError:
        raise
    except Exception as error:
        explained = _explain(error, name, revision, sentences)
        if explained is None:
            raise
        raise explained from error


def _explain(error: Exception, name: str, revision: str | None, sentences: Sentences) -> LlregError | None:
    failure = _failure_of(error)
    if failure == "not cached" and failure not in sentences:
        # The client raises this for any failure to ask about a file; the cause says which.
        cause = _explain(error.__cause__, name, revision, sentences) if isinstance(error.__cause__, Exception) else None
        if cause is not None:
            return cause
        failure = "unreachable"
    if failure in ("conflict", "rate limit", "server") and failure not in sentences:
        failure = "http"
    if failure not in sentences:
        return None
    from huggingface_hub import constants

    kind, sentence = sentences[failure]
    return kind(
        sentence.format(
            name=name,
            revision=revision,
            at=f" at {revision}" if revision else "",
            at_revision=f" at revision {revision}" if revision else "",
            endpoint=constants.ENDPOINT,
            status=_status_of(error) or "nothing",
            cache=constants.HF_HUB_CACHE,
            message=_message_of(error),
        )
    )


def _failure_of(error: Exception) -> str:
    """What went wrong, most specific first; "" for what is not the Hub's."""
    from huggingface_hub import errors

    for kind, failure in (
        (errors.HFValidationError, "invalid id"),
        (errors.GatedRepoError, "gated"),  # also a RepositoryNotFoundError
        (errors.RevisionNotFoundError, "no revision"),
        (errors.RepositoryNotFoundError, "no repository"),
        (errors.LocalTokenNotFoundError, "not logged in"),
        (errors.OfflineModeIsEnabled, "offline"),  # also a ConnectionError
        (errors.LocalEntryNotFoundError, "not cached"),  # also an EntryNotFoundError
        (errors.EntryNotFoundError, "no file"),
    ):
        if isinstance(error, kind):
            return failure
    if isinstance(error, errors.HfHubHTTPError):
        status = _status_of(error)
        if status is None or status >= 500:
            return "server"
        return _STATUSES.get(status, "http")
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "disk full"
    if isinstance(error, OSError) and error.errno in UNWRITABLE:
        return "unwritable"
    # The client library takes a file for a lock where flock is not implemented, and gives up where it is not supported.
    if isinstance(error, OSError) and error.errno in (errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOLCK):
        return "no locks"
    is_network = type(error).__module__.partition(".")[0] in _HTTP_LIBRARIES
    if is_network or isinstance(error, (ConnectionError, TimeoutError)):
        return "unreachable"
    # What came is shorter or longer than the Hub lists; the client has no class of its own for that.
    if isinstance(error, OSError) and "onsistency check" in str(error):
        return "cut off"
    return ""


def _status_of(error: Exception) -> int | None:
    return getattr(getattr(error, "response", None), "status_code", None)


def _message_of(error: Exception) -> str:
    """What the server said, or else the first line of the error, short."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror  # without the file, whose name may be long
    text = getattr(error, "server_message", None) or str(error)
    lines = [line.strip() for line in str(text).splitlines() if line.strip()]
    return lines[0][:_MESSAGE_CHARS].rstrip(".") if lines else type(error).__name__
