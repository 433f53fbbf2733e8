"""What the Hub's client library raises, as llreg's errors: one sentence each."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from llreg_schemas.errors import (
    HubAccessError,
    HubConflictError,
    HubError,
    HubNotFoundError,
    HubUnreachableError,
    InputError,
    LlregError,
)

_LOG_IN = "log in with: hf auth login"
# The Hub's own texts for a commit that lost a race: 412 for another head, 409 for a commit in progress.
_CONFLICT = (409, 412)
_CLIENT_LIBRARIES = ("httpx", "httpx2", "httpcore", "httpcore2", "requests")


@contextmanager
def hub_errors(repo: str, revision: str | None = None) -> Iterator[None]:
    """Turn the client library's errors about a registry's repository into llreg's.

    Raises
    ------
    HubNotFoundError, HubAccessError, HubConflictError, HubUnreachableError, HubError, InputError
    """
    try:
        yield
    except LlregError:
        raise
    except Exception as error:
        told = _explain(error, repo, revision)
        if told is None:
            raise
        raise told from error


def _explain(error: Exception, repo: str, revision: str | None) -> LlregError | None:
    """The error to raise instead, most specific first; None for what is not the Hub's."""
    from huggingface_hub import constants, errors

    endpoint = constants.ENDPOINT
    at = f" at {revision}" if revision else ""
    if isinstance(error, errors.HFValidationError):
        return InputError(f"{repo!r} is no Hub id: expected org/name")
    if isinstance(error, errors.GatedRepoError):
        return HubAccessError(f"{repo} is gated: accept its terms at {endpoint}/datasets/{repo}, then {_LOG_IN}")
    if isinstance(error, errors.RevisionNotFoundError):
        return HubNotFoundError(f"{repo} on the Hub has no revision {revision}: check the branch, tag or commit")
    if isinstance(error, errors.RepositoryNotFoundError):
        return HubNotFoundError(
            f"no dataset {repo} on the Hub ({endpoint}), or it is private: check the name; for a private one {_LOG_IN}"
        )
    if isinstance(error, errors.LocalTokenNotFoundError):
        return HubAccessError(f"you are not logged in: {_LOG_IN}")
    if isinstance(error, errors.OfflineModeIsEnabled):
        return HubUnreachableError(f"HF_HUB_OFFLINE is set, and this needs {repo} on the Hub: unset it")
    if isinstance(error, errors.LocalEntryNotFoundError):
        # The client raises this for any failure to ask about a file; the cause says which.
        cause = _explain(error.__cause__, repo, revision) if isinstance(error.__cause__, Exception) else None
        return cause or _unreachable(repo, endpoint)
    if isinstance(error, errors.EntryNotFoundError):
        return HubNotFoundError(f"{repo}{at} lacks a file that a registry has: {_said(error)}")
    if isinstance(error, errors.HfHubHTTPError):
        return _explain_status(error, repo, endpoint)
    if isinstance(error, (ConnectionError, TimeoutError)) or _from_client_library(error):
        return _unreachable(repo, endpoint)
    if isinstance(error, OSError) and "onsistency check" in str(error):
        return HubUnreachableError(
            f"a download from {repo} was cut off: run the same command again; it goes on from there"
        )
    return None


def _explain_status(error: OSError, repo: str, endpoint: str) -> HubError:
    response = getattr(error, "response", None)
    status = getattr(response, "status_code", None)
    if status in (401, 403):
        return HubAccessError(
            f"the Hub refuses this for {repo} ({status}): {_said(error)}; check that your token is valid and may do it ({_LOG_IN})"
        )
    if status in _CONFLICT:
        return HubConflictError(f"{repo} was changed by somebody else meanwhile ({status}): run the same command again")
    if status == 429:
        return HubUnreachableError(
            f"the Hub ({endpoint}) limits requests at the moment (429): wait a few minutes and run the same command again"
        )
    if status is None or status >= 500 or status == 408:
        return HubUnreachableError(
            f"the Hub ({endpoint}) answered {status or 'nothing'} for {repo}: run the same command again later"
        )
    return HubError(f"the Hub ({endpoint}) refuses this for {repo} ({status}): {_said(error)}")


def _unreachable(repo: str, endpoint: str) -> HubUnreachableError:
    return HubUnreachableError(
        f"the Hub ({endpoint}) cannot be reached for {repo}: check the connection and run the same command again"
    )


def _said(error: Exception) -> str:
    """What the server said, or else the first line of the error, short."""
    text = getattr(error, "server_message", None) or str(error)
    lines = [line.strip() for line in str(text).splitlines() if line.strip()]
    return lines[0][:200].rstrip(".") if lines else type(error).__name__


def _from_client_library(error: Exception) -> bool:
    # The client library lets its HTTP library's network errors through, and has changed that library twice.
    return type(error).__module__.partition(".")[0] in _CLIENT_LIBRARIES
