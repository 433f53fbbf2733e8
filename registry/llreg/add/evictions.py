"""Which downloads of a run are deleted again, and when: `--evict`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING

import llreg_extract
from llreg.printable import shown_bytes
from llreg_schemas.errors import ModelError

if TYPE_CHECKING:
    from llreg.add.reporter import Reporter


class Evictions:
    """Revisions on the Hub that a run brings into the cache, and how many of its models still need each.

    Parameters
    ----------
    sources : iterable of Source
        Of the models that are to be scored.
    """

    def __init__(self, sources: Iterable[llreg_extract.Source]) -> None:
        self._uses = Counter(revision for source in sources for revision in llreg_extract.revisions(source))
        self._were_here = {revision for revision in self._uses if llreg_extract.is_cached(revision)}

    def release(self, source: llreg_extract.Source) -> list[llreg_extract.Revision]:
        """Take note that a model is done, and return the revisions that no other one of the run needs."""
        needed = llreg_extract.revisions(source)
        self._uses.subtract(needed)
        return [revision for revision in needed if not self._uses[revision]]

    def delete(self, source: llreg_extract.Source, report: Reporter) -> None:
        """Take note that a model is done, and delete of it what nobody needs and was not in the cache before."""
        for revision in self.release(source):
            if revision in self._were_here:
                continue
            try:
                freed = llreg_extract.evict(revision)
            except ModelError as error:
                report.note(f"{source.name}: not deleted: {error}")
            else:
                report.note(f"{source.name}: deleted from the cache, {shown_bytes(freed)} freed")
