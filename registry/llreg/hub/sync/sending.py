"""One commit to a repository, and what is said of it."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from llreg.hub.client.repo import MAIN, Repo
from llreg.hub.sync.outgoing import Outgoing
from llreg.store.contents import Contents
from llreg.store.validate import validate
from llreg_schemas.errors import HubUnreachableError, InvalidFileError

if TYPE_CHECKING:
    from huggingface_hub import CommitInfo

_NAMED = 3  # models named in a title
_TITLE_CHARS = 200  # the Hub's limit for a pull request


class UnknownOutcomeError(HubUnreachableError):
    """No answer to a commit: it may have been made.

    Parameters
    ----------
    message : str
    sent : Outgoing
        What it holds.
    revision : str
        Branch or pull request that it was for.
    """

    def __init__(self, message: str, sent: Outgoing, revision: str) -> None:
        super().__init__(message)
        self.sent, self.revision = sent, revision


@dataclass(frozen=True)
class PushResult:
    """What a push did, or (`dry_run`) would do.

    Attributes
    ----------
    repo : str
    commit : str or None
        The commit made; None where there was nothing to publish.
    url : str
        Page of the commit, pull request or repository.
    pull_request : int or None
        Its number, where rows went to a pull request.
    rows : tuple of str
        Row ids that were published.
    files : mapping of str to int
        Files sent and their bytes.
    deleted : tuple of str
        Files of the older build that were taken out.
    tags : tuple of str
        Versions that were named.
    tries : int
        How often it was begun: more than once where others published meanwhile.
    dry_run : bool
    """

    repo: str
    commit: str | None
    url: str
    pull_request: int | None = None
    rows: tuple[str, ...] = ()
    files: Mapping[str, int] = field(default_factory=dict)
    deleted: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    tries: int = 1
    dry_run: bool = False


def check_rows(registry: Contents, known: Collection[str], only: Collection[str] | None) -> None:
    """Run the validator on all row files that may be about to be published.

    Parameters
    ----------
    registry : Contents
    known : collection of str
        Digests of rows that are published.
    only : collection of str or None
        Paths in the registry that may be sent; None for all.

    Raises
    ------
    InvalidFileError
        Names the first problem.
    """
    # Not of `records()`: it leaves out what cannot be read.
    left = registry.retractions().keys() | known
    paths = [path for digest, path in registry.row_files().items() if digest not in left]
    chosen = [path for path in paths if only is None or path.relative_to(registry.path).as_posix() in only]
    problems = validate(registry, chosen) if chosen else []
    if problems:
        more = f" (and {len(problems) - 1} more files; see: llreg validate)" if len(problems) > 1 else ""
        raise InvalidFileError(problems[0].file, f"{problems[0].message}; nothing was published{more}")


def title(sent: Outgoing) -> str:
    """What a commit does, in a line."""
    rows, others = sent.rows, [name for name in sent.files if name.startswith(("retractions/", "versions/"))]
    if rows:
        names = list(dict.fromkeys(record.identity.name for record in rows))
        more = ", …" if len(names) > _NAMED else ""
        text = f"Add {len(rows)} row{'s' * (len(rows) > 1)}: {', '.join(names[:_NAMED])}{more}"
    elif others:
        retracted = sum(name.startswith("retractions/") for name in others)
        named = [name.partition("/")[2].removesuffix(".json") for name in others if name.startswith("versions/")]
        parts = [f"Retract {retracted} row{'s' * (retracted > 1)}"] if retracted else []
        parts += [f"Name version {', '.join(named)}"] if named else []
        text = "; ".join(parts)
    else:
        text = "Build"
    return text if len(text) <= _TITLE_CHARS else text[: _TITLE_CHARS - 1] + "…"


def send(target: Repo, sent: Outgoing, message: str, description: str, *, parent: str, revision: str = MAIN) -> str:
    """Make one commit on a branch or pull request that is at `parent`; its 40 hex digits.

    Raises
    ------
    HubConflictError
        If the branch is not at `parent` any more.
    UnknownOutcomeError
        If there was no answer.
    HubAccessError, HubError
        Nothing was published.
    """
    return str(_create(target, sent, message, description, parent, revision, create_pr=False).oid)


def send_as_request(target: Repo, sent: Outgoing, message: str, description: str, *, parent: str) -> tuple[str, int]:
    """Make one commit on a new pull request; the commit and the request's number. Raises as `send`."""
    made = _create(target, sent, message, description, parent, MAIN, create_pr=True)
    return str(made.oid), int(made.pr_num or 0)


def _create(
    target: Repo, sent: Outgoing, message: str, description: str, parent: str, revision: str, *, create_pr: bool
) -> CommitInfo:
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    operations: list[CommitOperationAdd | CommitOperationDelete] = [
        CommitOperationAdd(name, str(path)) for name, path in sorted(sent.files.items())
    ]
    operations += [CommitOperationDelete(name) for name in sent.deleted]
    try:
        with target.errors(revision), _upload_errors(target):
            return target.api.create_commit(
                target.id,
                operations,
                commit_message=message,
                commit_description=description,
                repo_type="dataset",
                revision=revision,
                create_pr=create_pr,
                parent_commit=parent,
            )
    except _UploadError:
        raise
    except HubUnreachableError as error:
        raise UnknownOutcomeError(str(error), sent, revision) from error


class _UploadError(HubUnreachableError):
    """Files did not arrive: no commit was made."""


@contextmanager
def _upload_errors(repo: Repo) -> Iterator[None]:
    """The client hides what goes wrong with an upload in an error of its own."""
    try:
        yield
    except RuntimeError as error:
        if not isinstance(error.__cause__, Exception):
            raise
        try:
            with repo.errors():
                raise error.__cause__
        except HubUnreachableError as told:
            raise _UploadError(f"{told}; nothing was published") from error
