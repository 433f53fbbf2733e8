"""Bringing the texts back to a registry that must not publish them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from llreg import atomic
from llreg.store.contents import Contents
from llreg.store.layout import COPY
from llreg.texts.build import Note, Progress, build_texts
from llreg.texts.recipe import Recipe, Source
from llreg.texts.textset import TextSet, load_texts, to_parquet
from llreg_schemas.errors import InputError, NotFoundError


def is_complete(registry: Contents) -> bool:
    """Whether every text is here."""
    return all(text is not None for text in registry.texts.texts)


def restore(
    registry: Contents, given: Sequence[str] = (), *, progress: Progress | None = None, note: Note | None = None
) -> TextSet:
    """Put a registry's texts where only this machine has them, from its recipe or from files.

    Parameters
    ----------
    registry : Contents
        On this machine.
    given : sequence of str
        A file that has the texts, such as the one that the registry was made from; or the files that the recipe names,
        if it was made from files. A recipe that came with a registry never opens a file by itself.
    progress, note : callable, optional
        As `llreg.texts.build.build_file`.

    Returns
    -------
    TextSet
        Complete, and of the registry's text set id.

    Raises
    ------
    NotFoundError
        If the registry has no recipe.
    InputError
        If what comes out are other texts, or the recipe's files are not given.
    """
    registry.check_changeable("rebuild its texts")
    if is_complete(registry):
        return registry.texts
    partial = atomic.state_dir(registry.path) / "texts.partial"
    texts = _as_they_are(registry, given)
    if texts is None:
        recipe = registry.recipe
        if recipe is None:
            raise NotFoundError(
                f"{registry.where} has no recipe.json to rebuild its texts by: ask its owner, or give a file that has them: "
                "llreg texts build --from FILE"
            )
        expect = replace(recipe.expect, text_set=registry.info["text_set"]["id"])
        texts = build_texts(_found(replace(recipe, expect=expect), given), partial, progress=progress, note=note).texts
    full = replace(registry.texts, texts=texts.texts)
    atomic.write_atomic(registry.path, registry.path / COPY, to_parquet(full))
    partial.unlink(missing_ok=True)
    registry.forget_texts()
    return registry.texts


def _as_they_are(registry: Contents, given: Sequence[str]) -> TextSet | None:
    """The texts in a file, if they are the registry's."""
    if len(given) != 1:
        return None
    try:
        texts = load_texts(given[0])
    except InputError:
        return None  # not a text set as it is; perhaps what the recipe makes one from
    return texts if texts.info.id == registry.info["text_set"]["id"] else None


def _found(recipe: Recipe, given: Sequence[str]) -> Recipe:
    """The recipe with the files that were given in the place of those it names."""
    local = [source for source in recipe.sources if source.is_local]
    if not local:
        if given:
            raise InputError(
                f"{given[0]} has not the texts of {recipe.name}; leave --from out to rebuild them from {recipe.sources[0].name}"
            )
        return recipe
    if not given:
        names = ", ".join(source.name for source in local)
        raise InputError(f"{recipe.name} was made from {names} on its owner's machine: give them with --from FILE")
    here = {Path(name).name: name for name in given}
    return replace(recipe, sources=tuple(_placed(source, here, given, len(local)) for source in recipe.sources))


def _placed(source: Source, here: dict[str, str], given: Sequence[str], count: int) -> Source:
    if not source.is_local:
        return source
    wanted = source.files or (Path(str(source.dataset)).name,)
    paths = [here[name] for name in wanted if name in here]
    if len(paths) < len(wanted):
        if count > 1 or len(given) != len(wanted):
            raise InputError(f"the recipe's files are {', '.join(wanted)}: give each of them with --from")
        paths = list(given)
    if source.files:
        return replace(source, files=tuple(paths))
    return replace(source, dataset=str(Path(paths[0]).expanduser().resolve()))
