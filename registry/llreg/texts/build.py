"""Building a text set: stream, cut, draw, check. Only the drawn pieces are held, and a stopped build goes on.

A recipe with a sample whose number of pieces is not known goes through its sources twice: first to count the pieces
(`Mark.population`), then to take those whose ordinals are drawn. After every `_STEP` documents a new mark says how far
the build is; now and then it is saved with the pieces, beside the output.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from llreg.atomic import check_output, write_output
from llreg.settings import MAX_TEXT_BYTES, MAX_TEXTS
from llreg.texts.localfiles import check_files
from llreg.texts.recipe import Recipe
from llreg.texts.sources import Document, documents, open_stream
from llreg.texts.textset import TextSet, built_to_parquet, make_text_set
from llreg_schemas import hash_json
from llreg_schemas.errors import InputError, storage_errors

Progress = Callable[[int, int | None], None]
Note = Callable[[str], None]
SAVE_SECONDS = 30.0  # from save to save of an unfinished build
_SAVE_SHARE = 20  # and so many times as long as a save takes, so that saving costs at most 5 %
_STEP = 256  # documents from mark to mark: what an interrupt loses at most
_FORMAT = "llreg-partial-texts-1"


@dataclass(frozen=True)
class Built:
    """A text set, the recipe as it was built, and what there is to know about it.

    Attributes
    ----------
    texts : TextSet
    recipe : Recipe
        With revisions, and with what came out.
    documents, pieces : int
        Documents read, and pieces kept of them.
    repeated : int
        Texts of the set that repeat an earlier one.
    dropped : int
        Drawn texts that were left out because they repeat an earlier one.
    """

    texts: TextSet
    recipe: Recipe
    documents: int
    pieces: int
    repeated: int
    dropped: int


def build_file(recipe: Recipe, output: Path, *, progress: Progress | None = None, note: Note | None = None) -> Built:
    """Build a text set into a Parquet file; a stopped build goes on where it was when it is called again.

    Parameters
    ----------
    recipe : Recipe
    output : Path
        Must not be there yet. The unfinished build is kept beside it, as ``<output>.partial``.
    progress : callable, optional
        Called with (documents read, documents in all or None).
    note : callable, optional
        Called with a sentence when a build goes on, or begins anew.

    Raises
    ------
    InputError
        If the output is there, a source cannot be read, or it gives something else than the recipe expects.
    MissingExtraError, HubNotFoundError, HubAccessError, HubUnreachableError
    StorageError
    """
    if output.exists():
        raise InputError(f"{output} is there already: remove it, or name another file with -o")
    if output.suffix not in (".parquet", ".pq"):
        raise InputError(f"{output}: name a file that ends in .parquet")
    check_output(output)
    partial = output.with_name(output.name + ".partial")
    built = build_texts(recipe, partial, progress=progress, note=note)
    write_output(output, built_to_parquet(built.texts, built.recipe))
    partial.unlink(missing_ok=True)
    return built


def build_texts(recipe: Recipe, partial: Path, *, progress: Progress | None = None, note: Note | None = None) -> Built:
    """Build a text set; `partial` is where an unfinished build is kept. It stays there: remove it once the texts are safe.

    Raises
    ------
    As `build_file`.
    """
    recipe = _resolved(recipe)

    # An unfinished build must agree in the recipe, and in size and time of its files.
    files = [Path(name).expanduser() for source in recipe.sources for name in source.files]
    stats = [[str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns] for path in files]
    state = Partial(partial, hash_json({"recipe": recipe.id, "files": stats}))
    if partial.exists():
        is_usable = state.load()
        if note and is_usable:
            note(f"going on from document {state.mark.documents:,}")
        elif note:
            note(f"{partial} is of another recipe or other files: beginning anew")
    try:
        _Reading(recipe, state, progress).run()
    except BaseException:  # also a KeyboardInterrupt
        if state.mark.documents:
            state.save()
        raise
    return _finished(recipe, state)


def _resolved(recipe: Recipe) -> Recipe:
    """The recipe with the commit of every data set, and its files checked."""
    sources = []
    for source in recipe.sources:
        if source.dataset is None:
            check_files(source)
        elif not source.is_local and source.revision is None:
            from llreg.hub.client.repo import Repo

            source = replace(source, revision=Repo(source.dataset).commit_of())
        sources.append(source)
    return replace(recipe, sources=tuple(sources))


# The unfinished build


class Piece(NamedTuple):
    """A text that was taken: document over all sources, piece, its location for messages, and what is written."""

    document: int
    piece: int
    location: str
    text: str
    subset: str
    source: str


@dataclass(frozen=True)
class Mark:
    """How far a build is; never changed, so that an interrupt finds an old one or a new one.

    Attributes
    ----------
    population : int, optional
        Kept pieces in all, once they are counted or if the recipe says so; None while counting.
    counted : int
        Documents that counting went through.
    source : int
        Number of the source.
    position : mapping, optional
        Where its stream stopped.
    document : int
        Documents of this source that were read.
    documents, kept : int
        Documents and kept pieces of all sources so far.
    """

    population: int | None = None
    counted: int = 0
    source: int = 0
    position: dict[str, Any] | None = None
    document: int = 0
    documents: int = 0
    kept: int = 0


@dataclass
class Partial:
    """The file of an unfinished build: a killed run goes on from there.

    Attributes
    ----------
    path : Path
    key : str
        Of the recipe and its files: another one's state is of no use.
    mark : Mark
        Up to here the pieces are complete; there may be more of them.
    pieces : dict of int to Piece
        By rank in the sample.
    """

    path: Path
    key: str
    mark: Mark = field(default_factory=Mark)
    pieces: dict[int, Piece] = field(default_factory=dict)
    _due: float = field(default_factory=lambda: time.monotonic() + SAVE_SECONDS)

    def load(self) -> bool:
        """Take up what is in the file; False if that is of another recipe, or damaged."""
        try:
            document = json.loads(self.path.read_bytes())
            if document["format"] != _FORMAT or document["key"] != self.key:
                return False
            mark, pieces = Mark(**document["mark"]), {int(k): Piece(*value) for k, value in document["pieces"]}
        except (OSError, ValueError, KeyError, TypeError):
            return False
        self.mark, self.pieces = mark, pieces
        return True

    def save_if_due(self) -> None:
        """Save, unless that was done a moment ago."""
        if time.monotonic() >= self._due:
            self.save()

    def save(self) -> None:
        """Write the file; a reader finds the old or the new one.

        Raises
        ------
        StorageError
        """
        begun = time.monotonic()
        document = {"format": _FORMAT, "key": self.key, "mark": asdict(self.mark), "pieces": list(self.pieces.items())}
        temp = self.path.with_name(self.path.name + ".new")
        with storage_errors(self.path):
            temp.write_text(json.dumps(document), encoding="utf-8")
            os.replace(temp, self.path)
        spent = time.monotonic() - begun
        self._due = begun + max(SAVE_SECONDS, _SAVE_SHARE * spent)


# Going through the documents


class _Reading:
    """Reads the sources: counts the pieces if their number is not known, then takes those that are drawn."""

    def __init__(self, recipe: Recipe, state: Partial, progress: Progress | None) -> None:
        self._recipe, self._state, self._progress = recipe, state, progress
        self._counting = False
        self._ranks: dict[int, int] | None = None  # in the sample, by ordinal; None: every piece is taken

    def run(self) -> None:
        """Read to the end, and check that the sources gave as many pieces as the recipe says, or as were counted."""
        recipe, state = self._recipe, self._state
        if recipe.sample is not None:
            # Which ordinals are drawn depends on how many pieces there are: said by the recipe, or counted first.
            if state.mark.population is None:
                population = recipe.sample.population or recipe.expect.pieces
                if population is None:
                    self._counting = True
                    self._pass()
                    self._counting = False
                    state.mark = Mark(state.mark.kept, counted=state.mark.documents)
                else:
                    state.mark = Mark(population)
            ordinals = recipe.sample.ordinals(state.mark.population or 0, spare=recipe.duplicates == "drop")
            self._ranks = {ordinal: rank for rank, ordinal in enumerate(ordinals)}
        self._pass()
        expected, kept = recipe.expect.pieces or state.mark.population, state.mark.kept
        if expected is not None and kept != expected:
            names = ", ".join(dict.fromkeys(source.name for source in recipe.sources[:5]))
            state.path.unlink(missing_ok=True)  # to go on from there would end here again
            state.mark = Mark()
            raise InputError(
                f"expected {expected:,} pieces; {names} gave {kept:,}: it has changed since the recipe was made, so that "
                f"these would be other texts than those of {recipe.name}"
            )

    def _pass(self) -> None:
        """Go through the documents of all sources that were not read yet, from the mark on."""
        state = self._state
        for number, source in enumerate(self._recipe.sources[state.mark.source :], state.mark.source):
            mark = state.mark  # where this source begins, or where an earlier run stopped in it
            num_earlier = mark.documents - mark.document  # documents of earlier sources
            stream = open_stream(source, mark.position)
            read, kept = mark.document, mark.kept
            for document in documents(source, stream, read):
                if document is not None:
                    kept = self._take(document, number, num_earlier, kept)
                read += 1
                if read % _STEP == 0:
                    position = dict(stream.position)
                    state.mark = replace(
                        mark, position=position, document=read, documents=num_earlier + read, kept=kept
                    )
                    state.save_if_due()
                    self._report()
            # The next source begins at its beginning.
            state.mark = Mark(mark.population, mark.counted, number + 1, documents=num_earlier + read, kept=kept)
            self._report()

    def _take(self, document: Document, source: int, num_earlier: int, kept: int) -> int:
        """Keep the drawn pieces of a document; returns how many pieces there are so far.

        `num_earlier` is the number of documents in earlier sources, `kept` that of pieces in earlier documents.
        """
        data, location = document.data, document.location
        if self._recipe.pieces is not None:
            cuts = self._recipe.pieces.cut(data)
        elif len(data) > MAX_TEXT_BYTES:  # whole documents must be texts as they are
            raise InputError(
                f"{location}: a text of {len(data):,} bytes; at most {MAX_TEXT_BYTES:,} are allowed: take it out, or cut "
                "all texts with --max-bytes N"
            )
        elif not data.strip():
            raise InputError(f"{location}: the text is empty: take it out")
        else:
            cuts = iter([(0, 0, len(data))])
        for number, begin, end in cuts:
            rank = kept if self._ranks is None else self._ranks.get(kept)
            kept += 1
            if rank is not None and not self._counting:
                origin = self._origin(document, source, number)
                text = data[begin:end].decode("utf-8")
                self._state.pieces[rank] = Piece(
                    num_earlier + document.number, number, location, text, document.subset, origin
                )
        if self._ranks is None and not self._counting and kept > MAX_TEXTS:
            raise InputError(f"more than {MAX_TEXTS:,} texts: take a sample, with --take N")
        return kept

    def _origin(self, document: Document, source: int, piece: int) -> str:
        """The `source` of a text: what the document says, then document and piece, and which source if there are several."""
        if self._recipe.pieces is None and document.origin:
            return document.origin  # it names the document, which is the text
        ordinal = f"{source}:{document.number}" if len(self._recipe.sources) > 1 else str(document.number)
        if self._recipe.pieces is not None:
            ordinal += f"/{piece}"
        return f"{document.origin} {ordinal}" if document.origin else ordinal

    def _report(self) -> None:
        """Report documents read, of both passes where they are counted first."""
        if self._progress is None:
            return
        # The first pass counts as many documents as the second will read.
        mark = self._state.mark
        limits = [source.documents for source in self._recipe.sources]
        total = None
        if mark.counted:
            total = 2 * mark.counted
        elif None not in limits:
            total = sum(limit or 0 for limit in limits) * (2 if self._counting else 1)
        self._progress(mark.counted + mark.documents, total)


# What comes out


def _finished(recipe: Recipe, state: Partial) -> Built:
    """The text set of the drawn pieces, checked against what the recipe expects."""
    # In the order of the sample. With duplicates to drop there are spare ones.
    drawn = [piece for _, piece in sorted(state.pieces.items())]
    if not drawn:
        raise InputError(f"the sources of {recipe.name} give no text that fits the recipe")
    pieces = drawn
    if recipe.duplicates != "keep":
        first: dict[str, Piece] = {}  # of the pieces with a text
        for piece in drawn:
            earlier = first.setdefault(piece.text, piece)
            if earlier is not piece and recipe.duplicates == "refuse":
                raise InputError(
                    f"{piece.location} repeats the text of {earlier.location}: take one out, or say --duplicates drop, or keep"
                )
        pieces = list(first.values())
    num_considered = len(drawn)
    if recipe.sample:
        pieces = pieces[: recipe.sample.take]
        if len(pieces) < recipe.sample.take:
            raise InputError(
                f"only {len(pieces):,} of the {len(drawn):,} drawn texts differ, and {recipe.sample.take:,} are wanted: take "
                "fewer"
            )
        num_considered = drawn.index(pieces[-1]) + 1
    items = [piece._asdict() for piece in pieces]
    texts = make_text_set(recipe.name, items, licence=recipe.licence, description=recipe.description)
    numbers = [(piece.document, piece.piece) for piece in pieces]
    _check_expected(recipe, numbers, texts)
    built = recipe.as_built(state.mark.kept, numbers, texts.info.id)
    return Built(
        texts=replace(texts, recipe=built.to_json()),
        recipe=built,
        documents=state.mark.documents,
        pieces=state.mark.kept,
        repeated=len(pieces) - len({piece.text for piece in pieces}),
        dropped=num_considered - len(pieces),
    )


def _check_expected(recipe: Recipe, numbers: list[tuple[int, int]], texts: TextSet) -> None:
    """Refuse texts that are not the (document, piece) pairs, or not the text set, that the recipe expects."""
    expected = recipe.expect
    for k, (old, new) in enumerate(zip(expected.first, numbers, strict=False)):
        if old != new:
            raise InputError(
                f"text {k} is piece {new[1]} of document {new[0]}, and the recipe expects piece {old[1]} of document "
                f"{old[0]}: the source has changed since the recipe was made"
            )
    if len(numbers) < len(expected.first):
        raise InputError(f"expected at least {len(expected.first):,} texts; got {len(numbers):,}")
    if expected.text_set is not None and expected.text_set != texts.info.id:
        raise InputError(
            f"expected the text set {expected.text_set[:12]}; these texts are {texts.info.id[:12]}: the source has changed "
            "since the recipe was made"
        )
