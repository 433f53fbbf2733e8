"""Which texts the columns of a table are of, by their titles: hashes, or numbers; never against what a title says."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from llreg.importers.table import SHA256
from llreg_schemas.errors import InputError

_INDEX = (("", ""), ("t", ""))  # wordings of an index as llreg writes it: 5, t5
_HOW = "title each column with its text's index, as t0, or sha256"


def texts_of_titles(titles: Sequence[str], num_texts: int, name: str) -> tuple[list[str] | None, str | None]:
    """The texts that columns are of.

    Parameters
    ----------
    titles : sequence of str
        Of the columns that hold values, in the file's order.
    num_texts : int
        Texts in the registry's set.
    name : str
        Name of the file in messages.

    Returns
    -------
    texts : list of str or None
        sha256 or index of each column's text; None where the titles name none and the order must count.
    note : str or None
        What was read from the titles in a way that may surprise.

    Raises
    ------
    InputError
        If titles name texts in part, leave open which text they name, or disagree with an order that must count.

    Notes
    -----
    Titles are numbered if most of them are one wording around one number, as text_0, text_10. Programs sort such titles as
    text (text_1, text_10, text_2), so that the position says nothing.
    """
    lowered = [title.strip().lower() for title in titles]
    is_hash = [SHA256.fullmatch(title) is not None for title in lowered]
    if any(is_hash):
        if not all(is_hash):
            other = titles[is_hash.index(False)]
            raise InputError(
                f"{name}: column {other[:60]!r} is titled with no sha256, as other columns are; remove it, or {_HOW}"
            )
        return lowered, None

    parts = [re.split("([0-9]+)", title) for title in lowered]
    wordings = [tuple(part[0::2]) for part in parts]  # of "text_10 (nats)": "text_" and " (nats)"
    numbers = [tuple(map(int, part[1::2])) for part in parts]
    (wording, count) = Counter(w for w in wordings if len(w) > 1).most_common(1)[0] if any(numbers) else ((), 0)
    if 2 <= count and count > len(titles) / 2:
        if count < len(titles):
            other = titles[next(k for k, its in enumerate(wordings) if its != wording)]
            example = titles[wordings.index(wording)]
            raise InputError(
                f"{name}: column {other[:60]!r} is not titled like the others, as {example[:60]!r}; if it is of no text, "
                f"remove it, or else {_HOW}"
            )
        varying = [column for column in zip(*numbers, strict=True) if len(set(column)) > 1]
        if len(varying) == 1:
            return _numbered(titles, varying[0], num_texts, name, is_index=wording in _INDEX)

    # No numbering of the texts; but titles of one wording must stand in the order of their numbers.
    last: dict[tuple[str, ...], int] = {}
    for k, its in enumerate(wordings):
        before = last.get(its)
        if before is not None and numbers[k] and numbers[k] <= numbers[before]:
            raise InputError(
                f"{name}: column {titles[k][:60]!r} stands after {titles[before][:60]!r}: by position the texts would not "
                f"be in the order of the titles; {_HOW}"
            )
        last[its] = k
    return None, None


def _numbered(
    titles: Sequence[str], numbers: Sequence[int], num_texts: int, name: str, *, is_index: bool
) -> tuple[list[str], str | None]:
    """Indices of texts by the number in each title, which counts from 0 or from 1."""
    first = min(numbers)
    if sorted(numbers) == list(range(1, num_texts + 1)):
        k = numbers.index(1)
        return [str(number - 1) for number in numbers], f"titles count from 1: {titles[k]} was put on text 0"
    # An index counts from 0; of other numbers only those that have a 0 are sure to.
    if first > 0 and not is_index:
        raise InputError(
            f"{name}: columns are titled from {titles[numbers.index(first)][:60]!r} on, and are not all of the {num_texts:,} "
            f"texts: whether titles count from 0 or from 1 cannot be told; {_HOW}"
        )
    note = None
    if list(numbers) != sorted(numbers):
        k = next(k for k, number in enumerate(numbers) if number != k)
        note = (
            f"values were put on texts by the numbers in the titles, not by position: {titles[k]} on text {numbers[k]}"
        )
    return [str(number) for number in numbers], note
