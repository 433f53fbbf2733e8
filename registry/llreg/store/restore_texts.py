"""Bringing the texts back to a registry that must not publish them."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from llreg.atomic import state_dir, write_atomic
from llreg.store.contents import Contents
from llreg.store.layout import COPY, PARTIAL, RECIPE
from llreg.texts.build import Note, Progress, build_texts
from llreg.texts.recipe import Recipe, Source
from llreg.texts.textset import TextSet, load_texts, to_parquet
from llreg_schemas.errors import InputError, NotFoundError


def is_complete(registry: Contents) -> bool:
    """Whether every text is here."""
    return all(text is not None for text in registry.texts.texts)


def restore(
    registry: Contents, files: Sequence[str] = (), *, progress: Progress | None = None, note: Note | None = None
) -> TextSet:
    """Put a registry's texts where only this machine has them, from its recipe or from files.

    Parameters
    ----------
    registry : Contents
        On this machine.
    files : sequence of str
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
    state_dir(registry.path)
    partial = registry.path / PARTIAL
    texts = None
    if len(files) == 1:
        with suppress(InputError):  # not a text set as it is; perhaps what the recipe makes one from
            texts = load_texts(files[0])
    if texts is None or texts.info.id != registry.info.text_set.id:
        recipe = registry.recipe
        if recipe is None:
            raise NotFoundError(
                f"{registry.where} has no {RECIPE} to rebuild its texts by: ask its owner, or give a file that has them: "
                "llreg texts build --from FILE"
            )
        recipe = replace(recipe, expect=replace(recipe.expect, text_set=registry.info.text_set.id))
        texts = build_texts(_with_files(recipe, files), partial, progress=progress, note=note).texts
    full = replace(registry.texts, texts=texts.texts)
    write_atomic(registry.path, registry.path / COPY, to_parquet(full))
    partial.unlink(missing_ok=True)
    registry.forget_texts()
    return registry.texts


def _with_files(recipe: Recipe, files: Sequence[str]) -> Recipe:
    """The recipe with these files in the place of those it names on its owner's machine."""
    owners = [source for source in recipe.sources if source.is_local]
    if not owners:
        if files:
            raise InputError(
                f"{files[0]} has not the texts of {recipe.name}; leave --from out to rebuild them from {recipe.sources[0].name}"
            )
        return recipe
    if not files:
        names = ", ".join(source.name for source in owners)
        raise InputError(f"{recipe.name} was made from {names} on its owner's machine: give them with --from FILE")
    by_name = {Path(file).name: file for file in files}

    def with_files(source: Source) -> Source:
        if not source.is_local:
            return source
        names = source.files or (Path(str(source.dataset)).name,)
        paths = [by_name[name] for name in names if name in by_name]
        if len(paths) < len(names):  # names may differ where it is clear which files are meant
            if len(owners) > 1 or len(files) != len(names):
                raise InputError(f"the recipe's files are {', '.join(names)}: give each of them with --from")
            paths = list(files)
        if source.files:
            return replace(source, files=tuple(paths))
        return replace(source, dataset=str(Path(paths[0]).expanduser().resolve()))

    return replace(recipe, sources=tuple(with_files(source) for source in recipe.sources))
