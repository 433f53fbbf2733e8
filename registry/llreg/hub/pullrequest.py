"""Rows as a pull request: what those push who may not write, and those who want a second pair of eyes."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import suppress
from dataclasses import replace

from llreg.contents import CONFIG
from llreg.files import staging_directory
from llreg.hub import outgoing
from llreg.hub.describe import describe
from llreg.hub.outgoing import Outgoing
from llreg.hub.pin import Pin, read_pin, write_pin
from llreg.hub.published import look
from llreg.hub.refusals import hub_errors
from llreg.hub.repo import MAIN, Repo
from llreg.hub.sending import PushResult, UnknownOutcomeError, check_rows, send, send_as_request, title
from llreg.registry import Registry
from llreg_schemas import RowRecord, parse
from llreg_schemas.errors import HubConflictError, HubNotFoundError, InputError

_MARK = "<!-- llreg rows -->"  # how a pull request of llreg is found again
_TRIES = 5


def propose(
    registry: Registry, target: Repo, pin: Pin, *, only: Collection[str] | None, message: str | None, dry_run: bool
) -> PushResult:
    """Put rows that the repository lacks into the user's open pull request, or a new one.

    It adds files under rows/, with the text subsets that they were scored on, and retractions; never the build.

    Raises
    ------
    HubError, InvalidFileError, InputError
        As `llreg.hub.push.push`.
    """
    for _ in range(_TRIES - 1):
        with suppress(HubConflictError, UnknownOutcomeError):
            return _propose(registry, target, pin, only, message, dry_run)
        # Somebody, or the try that gave no answer, has changed the pull request: look again.
    return _propose(registry, target, pin, only, message, dry_run)


def _propose(
    registry: Registry, target: Repo, pin: Pin, only: Collection[str] | None, message: str | None, dry_run: bool
) -> PushResult:
    head = target.commit_of(MAIN)
    published = look(target, head, pin)
    _check_comparable(registry, target, head)
    number = _open_request(target, pin)
    base = head if number is None else target.commit_of(_ref(number))
    there = published if number is None else look(target, base, pin)
    records = [r for r in outgoing.unpublished(registry, published, only) if r.digest not in there.rows]
    check_rows(registry, records)
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


def _check_comparable(registry: Registry, target: Repo, head: str) -> None:
    try:
        theirs = parse("registry", target.cached(head, CONFIG).read_bytes(), f"{target.id}: {CONFIG}")
    except HubNotFoundError:
        raise HubNotFoundError(f"{target.id} on the Hub is not a registry: it has no {CONFIG}") from None
    for part, word in (("text_set", "text set"), ("protocol", "protocol")):
        if theirs[part]["id"] != registry.info[part]["id"]:
            raise InputError(
                f"rows here have the {word} {registry.info[part]['id'][:12]}, those of {target.id} "
                f"{theirs[part]['id'][:12]}: they do not compare; score the models in a registry pulled from there"
            )


def _open_request(target: Repo, pin: Pin) -> int | None:
    """Number of the user's open pull request with rows."""
    user = target.user()
    with hub_errors(target.id):
        if pin.pull_request is not None and _is_open(target, pin.pull_request):
            return pin.pull_request
        mine = target.api.get_repo_discussions(
            target.id, author=user, discussion_type="pull_request", discussion_status="open", repo_type="dataset"
        )
        return next((request.num for request in mine if request.author == user and _is_ours(target, request.num)), None)


def _is_open(target: Repo, number: int) -> bool:
    return target.api.get_discussion_details(target.id, number, repo_type="dataset").status in ("open", "draft")


def _is_ours(target: Repo, number: int) -> bool:
    details = target.api.get_discussion_details(target.id, number, repo_type="dataset")
    first = next((event for event in details.events if event.type == "comment"), None)
    return _MARK in str(getattr(first, "content", ""))


def _ref(number: int) -> str:
    return f"refs/pr/{number}"


def _send(
    registry: Registry, target: Repo, plan: Outgoing, number: int | None, base: str, message: str | None
) -> tuple[str, int]:
    text = _text(registry, plan.rows)
    line = message or title(plan)
    if number is None:
        return send_as_request(target, plan, line, text, parent=base)
    commit = send(target, plan, line, "", parent=base, revision=_ref(number))
    with hub_errors(target.id):
        target.api.comment_discussion(target.id, number, text, repo_type="dataset")
    return commit, number


def _text(registry: Registry, rows: tuple[RowRecord, ...]) -> str:
    return f"{describe(registry, rows)}\n\n{_MARK}"
