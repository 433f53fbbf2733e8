"""Rows as a pull request: what those push who may not write, and those who want a second pair of eyes."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Collection
from dataclasses import replace

from llreg.atomic import staging_directory
from llreg.hub.client.repo import MAIN, Repo, same_content
from llreg.hub.judge.describe import describe
from llreg.hub.sync import outgoing
from llreg.hub.sync.holdings import incomparable
from llreg.hub.sync.incoming import download
from llreg.hub.sync.outgoing import Outgoing
from llreg.hub.sync.published import Published, look
from llreg.hub.sync.sending import PushResult, UnknownOutcomeError, check_rows, send, send_as_request, title
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
        As `llreg.hub.sync.push.push`.
    """
    check_rows(registry, pin.digests(), only)
    lost: UnknownOutcomeError | None = None
    for tries in itertools.count(1):
        # Somebody, or the try that gave no answer, has changed the pull request: look again.
        try:
            result = _propose(registry, target, pin, only, message, dry_run)
        except HubConflictError:
            if tries == _TRIES:
                raise
        except UnknownOutcomeError as error:
            lost = error
            if tries == _TRIES:
                raise
        else:
            found = result if lost is None or result.commit else _landed(registry, target, result, lost)
            break
    return replace(found, tries=tries)


def _landed(registry: Contents, target: Repo, result: PushResult, lost: UnknownOutcomeError) -> PushResult:
    """The result of a commit that was made and gave no answer."""
    if result.pull_request is None:
        return result
    ref = _ref(result.pull_request)
    if lost.revision == ref:
        _comment(registry, target, result.pull_request, lost.sent.rows)
    rows = tuple(record.row_id for record in lost.sent.rows)
    return replace(result, commit=target.commit_of(ref), rows=rows, files=lost.sent.sizes)


def _propose(
    registry: Contents, target: Repo, pin: Pin, only: Collection[str] | None, message: str | None, dry_run: bool
) -> PushResult:
    head = target.commit_of(MAIN)
    published = look(target, head, pin)
    _check_comparable(registry, target, published)
    number = _open_request(target, pin)
    base = head if number is None else target.commit_of(_ref(number))
    there = published if number is None else look(target, base, pin)
    records = [r for r in outgoing.unpublished(registry, published, only) if not there.holds(r)]
    with staging_directory(registry.path) as staging:
        sent = outgoing.row_files(registry, records, staging)
        sent |= outgoing.subsets_of(registry, records, there)
        withdrawn = outgoing.retractions(registry, published, [], only)
        sent |= {name: path for name, path in withdrawn.items() if name not in there.documents}
        plan = Outgoing.of(sent, records)
        commit = None
        if sent and not dry_run:
            commit, number = _send(registry, target, plan, number, base, message)
    if not dry_run:
        write_pin(registry.path, replace(read_pin(registry.path) or pin, pull_request=number))
    return PushResult(
        repo=target.id,
        commit=commit,
        url=target.url() if number is None else target.url("discussions", number),
        pull_request=number,
        rows=tuple(record.row_id for record in records),
        files=plan.sizes,
        dry_run=dry_run,
    )


def _check_comparable(registry: Contents, target: Repo, published: Published) -> None:
    if not published.is_registry:
        raise HubNotFoundError(f"{target.id} on the Hub is not a registry: it has no {CONFIG}")
    if same_content(published.root[CONFIG], registry.path / CONFIG):
        return
    with staging_directory(registry.path) as staging:
        download(target, published, [CONFIG], staging)
        theirs = parse("registry", (staging / CONFIG).read_bytes(), f"{target.id}: {CONFIG}")
    if differing := incomparable(registry.info, theirs):
        word, ours, other = differing
        raise InputError(
            f"rows here have the {word} {ours}, those of {target.id} {other}: they do not compare; score the models in a "
            "registry pulled from there"
        )


def _open_request(target: Repo, pin: Pin) -> int | None:
    """Number of the user's open pull request with rows."""
    user = target.user()
    with target.errors():
        if pin.pull_request is not None and _is_open(target, pin.pull_request, user):
            return pin.pull_request
        mine = target.api.get_repo_discussions(
            target.id, author=user, discussion_type="pull_request", discussion_status="open", repo_type="dataset"
        )
        return next((request.num for request in mine if request.author == user and _is_ours(target, request.num)), None)


def _is_open(target: Repo, number: int, user: str) -> bool:
    details = target.api.get_discussion_details(target.id, number, repo_type="dataset")
    return details.status in ("open", "draft") and details.author == user


def _is_ours(target: Repo, number: int) -> bool:
    details = target.api.get_discussion_details(target.id, number, repo_type="dataset")
    first = next((event for event in details.events if event.type == "comment"), None)
    return _MARK in str(getattr(first, "content", ""))


def _ref(number: int) -> str:
    return f"refs/pr/{number}"


def _send(
    registry: Contents, target: Repo, plan: Outgoing, number: int | None, base: str, message: str | None
) -> tuple[str, int]:
    line = message or title(plan)
    if number is None:
        return send_as_request(target, plan, line, _text(registry, plan.rows), parent=base)
    commit = send(target, plan, line, "", parent=base, revision=_ref(number))
    _comment(registry, target, number, plan.rows)
    return commit, number


def _comment(registry: Contents, target: Repo, number: int, rows: tuple[RowRecord, ...]) -> None:
    """Say in an open pull request what was added; the rows are in it already, whatever becomes of this."""
    try:
        with target.errors():
            target.api.comment_discussion(target.id, number, _text(registry, rows), repo_type="dataset")
    except HubError as error:
        warnings.warn(
            f"pull request {number} has the rows and no description of them: {error}", LlregWarning, stacklevel=6
        )


def _text(registry: Contents, rows: tuple[RowRecord, ...]) -> str:
    return f"{describe(registry, rows)}\n\n{_MARK}"
