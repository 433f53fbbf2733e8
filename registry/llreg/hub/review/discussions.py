"""Pull requests as the Hub's discussions: which are open, what was said, and saying something."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from llreg.hub.review.comments import is_review, says_the_same, verdict_comment
from llreg_schemas.errors import HubAccessError, HubError, InputError

if TYPE_CHECKING:
    from llreg.hub.client.repo import Repo
    from llreg.hub.judge.verdict import Verdict


def open_requests(repo: Repo) -> list[Any]:
    """Open pull requests, oldest first: drafts are not, their authors are still at work."""
    with repo.errors():
        found = repo.api.get_repo_discussions(
            repo.id, repo_type="dataset", discussion_type="pull_request", discussion_status="open"
        )
        return sorted((one for one in found if one.status == "open"), key=lambda one: one.num)


def requests_of(repo: Repo, numbers: Sequence[int]) -> list[Any]:
    """Pull requests by their numbers, in that order.

    Raises
    ------
    InputError
        If one is no pull request, or not open.
    """
    found = []
    for number in dict.fromkeys(numbers):
        try:
            details = details_of(repo, number)
        except HubError as error:
            if not _is_missing(error):
                raise
            raise InputError(f"{repo.id} has no pull request {number}; see: llreg review") from error
        if not details.is_pull_request:
            raise InputError(f"#{number} of {repo.id} is a discussion, not a pull request")
        if details.status != "open":
            raise InputError(f"pull request {number} of {repo.id} is {details.status}, not open")
        found.append(details)
    return found


def details_of(repo: Repo, number: int) -> Any:
    """One discussion with what was written in it."""
    with repo.errors():
        return repo.api.get_discussion_details(repo.id, number, repo_type="dataset")


def _is_missing(error: HubError) -> bool:
    return getattr(getattr(error.__cause__, "response", None), "status_code", None) == 404


def reviewer(repo: Repo) -> str:
    """Who comments.

    Raises
    ------
    HubAccessError
        If nobody is logged in.
    """
    try:
        return repo.user()
    except HubAccessError as error:
        raise HubAccessError(f"{error}; or only look, and write no comments: --no-comment") from error


def tell(repo: Repo, verdict: Verdict, me: str) -> bool:
    """Write the verdict under its pull request, unless my last review there said the same; whether it was written.

    Where the Hub refuses, that is a finding: one pull request must not keep the others from being reviewed.
    """
    try:
        events = details_of(repo, verdict.number).events
        mine = [event for event in events if event.type == "comment" and event.author == me and not event.hidden]
        reviews = [event.content for event in mine if is_review(event.content)]
        if reviews and says_the_same(reviews[-1], verdict):
            return False
        with repo.errors():
            repo.api.comment_discussion(repo.id, verdict.number, verdict_comment(verdict), repo_type="dataset")
    except HubError as error:
        verdict.find("attention", "", f"this verdict could not be written there: {error}")
        return False
    return True


def close(repo: Repo, verdict: Verdict, text: str) -> None:
    """Close a pull request with a comment; where the Hub refuses, that is a finding: what was merged stays merged."""
    try:
        with repo.errors():
            repo.api.change_discussion_status(
                repo.id, verdict.number, new_status="closed", comment=text, repo_type="dataset"
            )
    except HubError as error:
        verdict.find("note", "", f"it could not be closed ({error}): close it by hand, or run the review again")
    else:
        verdict.closed = True
