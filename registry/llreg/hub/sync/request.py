"""Rows as a pull request: what those push who may not write, and those who want a second pair of eyes."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Sequence
from dataclasses import replace

from llreg.atomic import staging_directory
from llreg.hub.client.repo import MAIN, Repo, same_content
from llreg.hub.judge.describe import describe
from llreg.hub.sync.download import fetch_files
from llreg.hub.sync.state import RemoteState, differing_part, list_state
from llreg.hub.sync.upload import (
    PushResult,
    UnknownOutcomeError,
    Upload,
    check_row_files,
    commit_title,
    make_commit,
    retraction_files,
    row_files,
    subset_files,
    unpublished_records,
)
from llreg.store.contents import Contents
from llreg.store.layout import CONFIG
from llreg.store.pin import Pin, read_pin, write_pin
from llreg_schemas import RowRecord, parse
from llreg_schemas.errors import HubConflictError, HubError, HubNotFoundError, InputError, LlregWarning

_MARK = "<!-- llreg rows -->"  # how a pull request of llreg is found again
_TRIES = 5


def propose(
    registry: Contents, target: Repo, pin: Pin, *, only: Collection[str] | None, message: str | None, dry_run: bool
) -> PushResult:
    """Put rows that the repository lacks into the user's open pull request, or a new one.

    It adds files under rows/, with the text subsets that they were scored on, and retractions; never the build.

    Raises
    ------
    HubError, InvalidFileError, InputError
        As `Registry.push`.
    """
    check_row_files(registry, pin.digests(), only)
    unanswered: UnknownOutcomeError | None = None
    tries = 0
    while True:
        tries += 1
        try:
            result = _propose(registry, target, pin, only, message, dry_run)
        except (HubConflictError, UnknownOutcomeError) as error:
            # Somebody, or the try that gave no answer, has changed the pull request: look again.
            if isinstance(error, UnknownOutcomeError):
                unanswered = error
            if tries == _TRIES:
                raise
            continue
        if unanswered is not None and result.commit is None and result.pull_request is not None:
            # The commit that gave no answer was made, and is all that there was to do.
            upload, ref = unanswered.upload, _ref(result.pull_request)
            if unanswered.revision == ref:
                _comment(registry, target, result.pull_request, upload.rows)
            rows = tuple(record.row_id for record in upload.rows)
            result = replace(result, commit=target.commit_of(ref), rows=rows, files=upload.sizes)
        return replace(result, tries=tries)


def _propose(
    registry: Contents, target: Repo, pin: Pin, only: Collection[str] | None, message: str | None, dry_run: bool
) -> PushResult:
    """One try, on what main and the user's pull request hold now."""
    head = target.commit_of(MAIN)
    main = list_state(target, head, pin)
    _check_comparable(registry, target, main)
    # One open pull request a user: later rows are added to it.
    number = _open_request(target, pin)
    base = head if number is None else target.commit_of(_ref(number))
    request = main if number is None else list_state(target, base, pin)
    records = [record for record in unpublished_records(registry, main, only) if not request.has_file_of(record)]
    commit = None
    with staging_directory(registry.path) as staging:
        files = row_files(registry, records, staging)
        files |= subset_files(registry, records, request)
        # Only of rows in main: one of a row that is not there would mean nothing to others.
        retractions = retraction_files(registry, main, [], only)
        files |= {name: path for name, path in retractions.items() if name not in request.documents}
        upload = Upload(files, records)
        title = message or commit_title(upload)
        if files and not dry_run and number is None:
            info = make_commit(target, upload, title, _text(registry, records), parent=base, create_pr=True)
            commit, number = str(info.oid), int(info.pr_num or 0)
        elif files and not dry_run and number is not None:
            commit = str(make_commit(target, upload, title, "", parent=base, revision=_ref(number)).oid)
            _comment(registry, target, number, records)
    if not dry_run:
        write_pin(registry.path, replace(read_pin(registry.path) or pin, pull_request=number))
    return PushResult(
        repo=target.id,
        commit=commit,
        url=target.url() if number is None else target.url("discussions", number),
        pull_request=number,
        rows=tuple(record.row_id for record in records),
        files=upload.sizes,
        dry_run=dry_run,
    )


def _check_comparable(registry: Contents, target: Repo, main: RemoteState) -> None:
    """Refuse to propose rows to a repository that is no registry, or whose rows do not compare with those here."""
    if not main.is_registry:
        raise HubNotFoundError(f"{target.id} on the Hub is not a registry: it has no {CONFIG}")
    if same_content(main.root[CONFIG], registry.path / CONFIG):
        return
    # The files differ, which an edited description explains, too: compare what matters.
    with staging_directory(registry.path) as staging:
        fetch_files(target, main, [CONFIG], staging)
        info = parse("registry", (staging / CONFIG).read_bytes(), f"{target.id}: {CONFIG}")
    if difference := differing_part(registry.info, info):
        word, ours, theirs = difference
        raise InputError(
            f"rows here have the {word} {ours}, those of {target.id} {theirs}: they do not compare; score the models in a "
            "registry pulled from there"
        )


def _open_request(target: Repo, pin: Pin) -> int | None:
    """Number of the user's open pull request with rows."""
    user = target.user()
    with target.errors():
        if pin.pull_request is not None:
            details = target.api.get_discussion_details(target.id, pin.pull_request, repo_type="dataset")
            if details.status in ("open", "draft") and details.author == user:
                return pin.pull_request
        # The pinned one is closed, or none is pinned, as on another machine: look for one by its mark.
        requests = target.api.get_repo_discussions(
            target.id, author=user, discussion_type="pull_request", discussion_status="open", repo_type="dataset"
        )
        for request in requests:
            if request.author == user:
                details = target.api.get_discussion_details(target.id, request.num, repo_type="dataset")
                first = next((event for event in details.events if event.type == "comment"), None)
                if _MARK in str(getattr(first, "content", "")):
                    return int(request.num)
    return None


def _ref(number: int) -> str:
    return f"refs/pr/{number}"


def _comment(registry: Contents, target: Repo, number: int, records: Sequence[RowRecord]) -> None:
    """Say in an open pull request what was added; the rows are in it already, whatever becomes of this."""
    try:
        with target.errors():
            target.api.comment_discussion(target.id, number, _text(registry, records), repo_type="dataset")
    except HubError as error:
        warnings.warn(
            f"pull request {number} has the rows and no description of them: {error}", LlregWarning, stacklevel=6
        )


def _text(registry: Contents, records: Sequence[RowRecord]) -> str:
    return f"{describe(registry, records)}\n\n{_MARK}"
