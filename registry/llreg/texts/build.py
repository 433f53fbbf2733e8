"""Building a text set: stream, cut, draw, check. Only the drawn pieces are held."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from llreg.atomic import check_output, write_output
from llreg.settings import MAX_TEXT_BYTES, MAX_TEXTS
from llreg.texts.builtfile import to_bytes
from llreg.texts.localfiles import check_files
from llreg.texts.ordinals import ordinals
from llreg.texts.partial import Mark, Partial, Piece, key_of
from llreg.texts.pieces import cut
from llreg.texts.recipe import Recipe, built
from llreg.texts.sources import Document, documents, open_stream
from llreg.texts.textset import TextSet, make_text_set
from llreg_schemas.errors import InputError

Progress = Callable[[int, int | None], None]
Note = Callable[[str], None]
_STEP = 256  # documents from mark to mark: what an interrupt loses at most


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
        Called with (documents done, documents in all or None).
    note : callable, optional
        Told that a build goes on, or begins anew.

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
    result = build_texts(recipe, partial, progress=progress, note=note)
    write_output(output, to_bytes(result.texts, result.recipe))
    partial.unlink(missing_ok=True)
    return result


def build_texts(recipe: Recipe, partial: Path, *, progress: Progress | None = None, note: Note | None = None) -> Built:
    """Build a text set; `partial` is where an unfinished build is kept. It stays there: remove it once the texts are safe.

    Raises
    ------
    As `build_file`.
    """
    recipe = resolved(recipe)
    state = Partial(partial, key_of(recipe))
    if partial.exists():
        found = state.load()
        if note:
            told = f"going on from document {state.mark.documents:,}" if found else "beginning anew"
            note(told if found else f"{partial} is of another recipe or other files: {told}")
    _Run(recipe, state, progress).run()
    return _finished(recipe, state)


def resolved(recipe: Recipe) -> Recipe:
    """The recipe with the commit of every data set, and its files checked for being there."""
    sources = []
    for source in recipe.sources:
        if source.dataset is None:
            check_files(source)
        elif not source.is_local and source.revision is None:
            from llreg.hub.client.repo import Repo

            source = replace(source, revision=Repo(source.dataset).commit_of())
        sources.append(source)
    return replace(recipe, sources=tuple(sources))


class _Run:
    """One build: counts the pieces if their number is not known, then takes those that are drawn."""

    def __init__(self, recipe: Recipe, state: Partial, progress: Progress | None) -> None:
        self._recipe, self._state, self._progress = recipe, state, progress
        sizes = [source.documents for source in recipe.sources]
        self._limit = None if None in sizes else sum(size or 0 for size in sizes)
        # Place in the sample by ordinal among the kept pieces; None: every piece is taken, or all are only counted.
        self._wanted: dict[int, int] | None = None
        self._counting = False

    def run(self) -> None:
        recipe, mark = self._recipe, self._state.mark
        try:
            if recipe.sample is not None and mark.population is None:
                known = recipe.sample.population or recipe.expect.pieces
                if known is None:
                    self._counting = True
                    self._pass()
                    self._counting, mark = False, self._state.mark
                    self._state.mark = Mark(mark.kept, mark.documents)
                else:
                    self._state.mark = Mark(known)
            if recipe.sample is not None:
                drawn = ordinals(recipe.sample, self._state.mark.population or 0, spare=recipe.duplicates == "drop")
                self._wanted = {ordinal: place for place, ordinal in enumerate(drawn)}
            self._pass()
            self._check_count()
        except BaseException:
            if self._state.mark.documents:
                self._state.save()
            raise

    def _pass(self) -> None:
        """Go through the documents of all sources that are not done yet."""
        state, first = self._state, self._state.mark.source
        for number, source in enumerate(self._recipe.sources[first:], first):
            mark = state.mark
            stream = open_stream(source, mark.position)
            done, kept = mark.document, mark.kept
            for document in documents(source, stream, done):
                if document is not None:
                    kept = self._take(document, number, mark.documents - mark.document, kept)
                done += 1
                if done % _STEP == 0:
                    seen = mark.documents - mark.document + done
                    state.mark = replace(mark, position=dict(stream.position), document=done, documents=seen, kept=kept)
                    state.save_if_due()
                    self._tell(seen)
            seen = mark.documents - mark.document + done
            state.mark = Mark(mark.population, mark.counted, number + 1, None, 0, seen, kept)
            self._tell(seen)

    def _take(self, document: Document, source: int, before: int, kept: int) -> int:
        """Keep the drawn pieces of a document; returns how many were kept of all so far."""
        if self._recipe.pieces is None:
            _check_whole(document)
        for number, begin, end in cut(document.data, self._recipe.pieces):
            place = kept if self._wanted is None else self._wanted.get(kept)
            kept += 1
            if place is not None and not self._counting:
                text = document.data[begin:end].decode("utf-8")
                origin = self._origin(document, source, number)
                found = Piece(before + document.number, number, document.place, text, document.subset, origin)
                self._state.pieces[place] = found
        if self._wanted is None and not self._counting and kept > MAX_TEXTS:
            raise InputError(f"more than {MAX_TEXTS:,} texts: take a sample, with --take N")
        return kept

    def _origin(self, document: Document, source: int, piece: int) -> str:
        """The `source` of a text: what the document says, and document and piece; the source's number where there are several."""
        if self._recipe.pieces is None and document.origin:
            return document.origin
        number = f"{source}:{document.number}" if len(self._recipe.sources) > 1 else str(document.number)
        place = number if self._recipe.pieces is None else f"{number}/{piece}"
        return f"{document.origin} {place}" if document.origin else place

    def _tell(self, seen: int) -> None:
        if self._progress is None:
            return
        counted = self._state.mark.counted
        twice = self._counting or counted > 0
        total = 2 * counted if counted else None if self._limit is None else self._limit * (1 + twice)
        self._progress(counted + seen, total)

    def _check_count(self) -> None:
        """The sources must give as many pieces as the recipe says, or as were counted."""
        expected, kept = self._recipe.expect.pieces or self._state.mark.population, self._state.mark.kept
        if expected is not None and kept != expected:
            names = ", ".join(dict.fromkeys(source.name for source in self._recipe.sources[:5]))
            self._state.remove()
            self._state.mark = Mark()
            raise InputError(
                f"expected {expected:,} pieces; {names} gave {kept:,}: it has changed since the recipe was made, so that "
                f"these would be other texts than those of {self._recipe.name}"
            )


def _check_whole(document: Document) -> None:
    if len(document.data) > MAX_TEXT_BYTES:
        raise InputError(
            f"{document.place}: a text of {len(document.data):,} bytes; at most {MAX_TEXT_BYTES:,} are allowed: take it "
            "out, or cut all texts with --max-bytes N"
        )
    if not document.data.strip():
        raise InputError(f"{document.place}: the text is empty: take it out")


def _finished(recipe: Recipe, state: Partial) -> Built:
    drawn = [piece for _, piece in sorted(state.pieces.items())]
    if not drawn:
        raise InputError(f"the sources of {recipe.name} give no text that fits the recipe")
    kept = list(_distinct(drawn)) if recipe.duplicates != "keep" else drawn
    if recipe.duplicates == "refuse" and len(kept) < len(drawn):
        _refuse_repeat(drawn)
    taken = kept[: recipe.sample.take] if recipe.sample else kept
    if recipe.sample and len(taken) < recipe.sample.take:
        raise InputError(
            f"only {len(taken):,} of the {len(drawn):,} drawn texts differ, and {recipe.sample.take:,} are wanted: take fewer"
        )
    items = [piece._asdict() for piece in taken]
    texts = make_text_set(recipe.name, items, licence=recipe.licence, description=recipe.description)
    first = [(piece.document, piece.piece) for piece in taken]
    _check_texts(recipe, first, texts)
    made = built(recipe, state.mark.kept, first, texts.info.id)
    repeated = len(taken) - len({piece.text for piece in taken})
    looked_at = drawn.index(taken[-1]) + 1 if recipe.sample else len(drawn)
    dropped = looked_at - len(taken)
    return Built(replace(texts, recipe=made.to_json()), made, state.mark.documents, state.mark.kept, repeated, dropped)


def _distinct(pieces: Sequence[Piece]) -> Iterator[Piece]:
    seen = set()
    for piece in pieces:
        if piece.text not in seen:
            seen.add(piece.text)
            yield piece


def _refuse_repeat(pieces: Sequence[Piece]) -> None:
    seen: dict[str, Piece] = {}
    for piece in pieces:
        other = seen.setdefault(piece.text, piece)
        if other is not piece:
            raise InputError(
                f"{piece.place} repeats the text of {other.place}: take one out, or say --duplicates drop, or keep"
            )


def _check_texts(recipe: Recipe, first: Sequence[tuple[int, int]], texts: TextSet) -> None:
    expected = recipe.expect
    for number, (want, got) in enumerate(zip(expected.first, first, strict=False)):
        if want != got:
            raise InputError(
                f"text {number} is piece {got[1]} of document {got[0]}, and the recipe expects piece {want[1]} of document "
                f"{want[0]}: the source has changed since the recipe was made"
            )
    if len(first) < len(expected.first):
        raise InputError(f"expected at least {len(expected.first):,} texts; got {len(first):,}")
    if expected.text_set is not None and expected.text_set != texts.info.id:
        raise InputError(
            f"expected the text set {expected.text_set[:12]}; these texts are {texts.info.id[:12]}: the source has changed "
            "since the recipe was made"
        )
