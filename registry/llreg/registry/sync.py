"""Verbs of a registry and the Hub: pull, push, review."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING

from llreg.store.contents import Contents

if TYPE_CHECKING:
    from llreg.hub.judge.verdict import Verdict
    from llreg.hub.sync.pull import PullResult
    from llreg.hub.sync.upload import PushResult

Progress = Callable[[int, int | None], None]


class HubVerbs(Contents):
    """What brings a registry here and one on the Hub together."""

    def pull(
        self, repo: str | None = None, *, revision: str | None = None, progress: Progress | None = None
    ) -> PullResult:
        """Bring it to the state of its repository on the Hub. `llreg.pull` makes a registry that is not here yet.

        A reader meanwhile sees the rows of before or of after. Rows that are not published stay as they are.

        Parameters
        ----------
        repo : str, optional
            ``org/name``; by default the one it was pulled from.
        revision : str, optional
            Branch, tag or commit; by default what it was pulled at, or main.
        progress : callable, optional
            Called with (files done, files in all).

        Returns
        -------
        PullResult
            The commit and version that it is at now, the rows that came and went, and what was downloaded.

        Raises
        ------
        InputError
            If no repository is known, it is another registry, or rows here are younger than the revision.
        HubNotFoundError, HubAccessError, HubUnreachableError
            Nothing has changed; what was downloaded is kept for the next try.

        Examples
        --------
        >>> copy = llreg.open(llreg.pull("alice/toys", "copy").path)
        >>> copy.pull().added  # nothing is new
        ()
        >>> record = reg.retract("toy/fox-3b", why="made by mistake")
        >>> version, sent = reg.build(), reg.push("alice/toys")
        >>> copy.pull().retracted
        ('toy/fox-3b@2ea11ec2',)
        """
        from llreg.hub.sync.pull import pull

        return pull(self, repo, revision=revision, progress=progress)

    def push(
        self,
        repo: str | None = None,
        *,
        create_pr: bool = False,
        dry_run: bool = False,
        only: Collection[str] | None = None,
        tag: str | None = None,
        message: str | None = None,
        description: str | None = None,
        private: bool = False,
        progress: Progress | None = None,
    ) -> PushResult:
        """Publish what the Hub does not have yet, as one commit or a pull request.

        Parameters
        ----------
        repo : str, optional
            ``org/name``; by default the one it was pulled from or pushed to. It is made if it is missing.
        create_pr : bool
            Make a pull request also where you may write. Without write rights one is made in any case; a later push adds
            to it while it is open.
        dry_run : bool
            Change nothing; say what would be sent.
        only : collection of str, optional
            Paths of row files and retractions that may be sent; by default all.
        tag : str, optional
            Name the version that this commit makes.
        message, description : str, optional
            Title and text of the commit or pull request; by default they say which rows.
        private : bool
            A repository that is made is private.
        progress : callable, optional
            Called with (files done, files in all) while rows of others are downloaded.

        Returns
        -------
        PushResult
            The commit, its page, and what was or would be sent.

        Raises
        ------
        InvalidFileError
            If a row or document is not valid; nothing was sent.
        HubAccessError, HubConflictError, HubUnreachableError, HubNotFoundError
            Nothing, or (after no answer) the whole commit was published; the same command finds out and goes on.
        InputError
            If no repository is known, or it holds another registry.

        Examples
        --------
        >>> reg.push("alice/toys").commit is None  # it has everything already
        True
        >>> record = reg.retract("toy/fox-3b", why="made by mistake")
        >>> [name[:20] for name in reg.push("alice/toys", create_pr=True, dry_run=True).files]
        ['retractions/2ea11ec2']
        >>> reg.push("alice/toys", create_pr=True).pull_request
        1
        """
        from llreg.hub.sync.push import push

        return push(
            self,
            repo,
            create_pr=create_pr,
            dry_run=dry_run,
            only=only,
            tag=tag,
            message=message,
            description=description,
            private=private,
            progress=progress,
        )

    def review(
        self,
        numbers: Sequence[int] | None = None,
        *,
        repo: str | None = None,
        all_open: bool = False,
        merge: bool = False,
        tag: str | None = None,
        recompute: int = 0,
        comment: bool = True,
        progress: Callable[[Verdict], None] | None = None,
    ) -> list[Verdict]:
        """Check pull requests, and merge good ones. `pull` first: new rows are compared with those that are here.

        Parameters
        ----------
        numbers : sequence of int, optional
            Which pull requests.
        repo : str, optional
            ``org/name``; by default the one it was pulled from.
        all_open : bool
            All open ones, besides.
        merge : bool
            Take over what is good; of those where a person should look, the ones that `numbers` names. Pull requests with
            nothing new in them are closed, and a build that is not current is made anew.
        tag : str, optional
            Name of the version that the merge makes; by default the date.
        recompute : int
            Score so many texts of new rows again, of up to five rows of each pull request.
        comment : bool
            Write each verdict under its pull request, unless the last one there said the same of the same commit. Only
            who may write to the repository speaks for it: of others nothing is written, with a warning.
        progress : callable, optional
            Called with each verdict when it is there.

        Returns
        -------
        list of Verdict
            In the order of the numbers; ``state`` is "good", "attention" (a person should look) or "refused".

        Raises
        ------
        InputError
            If no repository is known, a number is no open pull request, or the tag is taken.
        HubError
            If the Hub refuses or cannot be reached; nothing, or the whole merge, was published. Rows that were to be
            merged may then be in the local registry; the same call goes on from there.
        MissingExtraError
            If `recompute` is asked for without torch and transformers.

        Notes
        -----
        Nothing that a pull request holds is trusted or run; see `llreg.hub.review.review.review`.

        Examples
        --------
        >>> mine = llreg.open(llreg.pull("alice/toys", "mine").path)
        >>> mine.review(all_open=True)
        []
        >>> record = reg.retract("toy/fox-3b", why="made by mistake")
        >>> number = reg.push("alice/toys", create_pr=True).pull_request
        >>> [verdict] = mine.review([number], comment=False)
        >>> verdict.state, verdict.findings[0].message
        ('attention', 'withdraws a row of toy/fox-3b: made by mistake')
        """
        from llreg.hub.review.review import review

        return review(
            self,
            repo,
            numbers,
            all_open=all_open,
            merge=merge,
            tag=tag,
            recompute=recompute,
            comment=comment,
            progress=progress,
        )
