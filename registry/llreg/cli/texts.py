"""Commands on text sets: texts ls, show, check, presets, build."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from llreg.cli.common import Context, note, print_json, print_lines, print_result, print_table
from llreg.cli.options import in_registry, json_option, quiet_option
from llreg.cli.progress import counting
from llreg.printable import printable
from llreg.store.restore_texts import is_complete, restore
from llreg.texts.build import build_file
from llreg.texts.items import beginning
from llreg.texts.recipe import load_recipe, presets, recipe_for
from llreg.texts.textset import load_texts
from llreg_schemas import Pair
from llreg_schemas.errors import NotFoundError

if TYPE_CHECKING:
    from llreg.texts.build import Built
    from llreg.texts.items import Text
    from llreg.texts.recipe import Recipe
    from llreg.texts.textset import TextSet


@click.group()
def texts() -> None:
    """Text sets: list the registry's, read a text, check a file, build a set from a recipe or from your own files."""


@texts.command("ls")
@json_option
@quiet_option
@in_registry
def list_texts(context: Context, /, as_json: bool, quiet: bool) -> None:
    """List the texts: index, subset, bytes, how they begin; of pairs how the responses do."""
    texts = context.registry().texts
    if as_json:
        keys = ("index", "subset", "bytes", "sha256", "source")
        columns = zip(range(len(texts)), texts.subset, texts.num_bytes, texts.sha256, texts.source, strict=True)
        print_json([dict(zip(keys, values, strict=True)) for values in columns])
    elif quiet:
        print_lines(texts.sha256)
    else:
        # On one line each; a text whose licence forbids a copy is not in the registry.
        lines = ["(not copied)" if t is None else " ".join(beginning(t)[:80].split())[:50] for t in texts.texts]
        table = [
            [str(index), texts.subset[index], str(texts.num_bytes[index]), lines[index]] for index in range(len(texts))
        ]
        print_table(["INDEX", "SUBSET", "BYTES", "TEXT"], table, right=(0, 2))


@texts.command()
@click.argument("index", type=click.IntRange(min=0))
@json_option
@in_registry
def show(context: Context, /, index: int, as_json: bool) -> None:
    """Print the text with the given INDEX; of a pair the prompt and the response."""
    texts = context.registry().texts
    if index >= len(texts):
        raise NotFoundError(f"no text {index}: the set has {len(texts):,} texts, 0 to {len(texts) - 1}")
    text = texts.texts[index]
    if as_json:
        print_json(
            {
                "index": index,
                "subset": texts.subset[index],
                "source": texts.source[index],
                "bytes": texts.num_bytes[index],
                "sha256": texts.sha256[index],
                "text": text if isinstance(text, str) else None,
                **(text.to_json() if isinstance(text, Pair) else {}),
            }
        )
        return
    if text is None:
        raise NotFoundError(
            f"text {index} is not copied in this registry: its licence forbids it; rebuild the texts with: llreg texts build"
        )
    _print_text(texts, index, text)


def _print_text(texts: TextSet, index: int, text: Text) -> None:
    # What the text is goes to stderr, so that stdout is the text alone.
    source = f", {printable(texts.source[index])}" if texts.source[index] else ""
    kind = "pair" if texts.has_pairs else "text"
    note(f"{kind} {index}, {texts.subset[index]}, {texts.num_bytes[index]} bytes{source}")
    content = _conversation(text) if isinstance(text, Pair) else text
    # Not splitlines(): only a line feed ends a line here, and printable() escapes the others.
    print_lines(printable(line) for line in content.replace("\t", "    ").split("\n"))


def _conversation(pair: Pair) -> str:
    """A pair with a line before each message that says whose it is."""
    prompt = [{"role": "prompt", "content": pair.prompt}] if isinstance(pair.prompt, str) else pair.messages
    messages = [*prompt, {"role": "response", "content": pair.response}]
    return "\n".join(f"--- {message['role']}\n{message['content']}" for message in messages)


@texts.command()
@click.argument("path", required=False)
@json_option
@in_registry
def check(context: Context, /, path: str | None, as_json: bool) -> None:
    """Check a text set: PATH (JSON Lines or Parquet), or the registry's own.

    Prints its id, size and subsets; a bad, empty or repeated text is an error that names its line.
    """
    texts = load_texts(path) if path else context.registry().texts
    header = texts.info
    if as_json:
        print_json(header.to_json())
        return
    click.echo(
        f"{printable(header.name)}  {header.id[:12]}  {header.num_texts:,} {header.kind or 'texts'}  "
        f"{header.mean_bytes:.1f} bytes on average"
    )
    print_table(["SUBSET", "TEXTS"], [[name, str(count)] for name, count in header.subsets.items()], right=(1,))


@texts.command("presets")
@json_option
@quiet_option
def list_presets(as_json: bool, quiet: bool) -> None:
    """List the recipes that come with llreg, for texts build."""
    recipes = presets()
    lines = []
    for name, recipe in recipes.items():
        size = f"{recipe.sample.take:,} texts" if recipe.sample else "all texts"
        published = "may be published" if recipe.copy else "may not be published"
        lines += [f"{name}: {size}; {published}; licence: {recipe.licence}", f"    {recipe.description}"]
    data = [recipe.to_json() for recipe in recipes.values()]
    print_result(as_json, quiet, lambda: data, recipes, lambda: print_lines(lines))


@texts.command("build")
@click.argument("recipe", nargs=-1, metavar="[PRESET|RECIPE.json|FILE...]")
@click.option("--output", "-o", type=click.Path(path_type=Path), help="The file to make (default: NAME.parquet).")
@click.option("--from", "files", multiple=True, metavar="FILE...", help="Texts of your own: .jsonl, .parquet or .txt.")
@click.option("--take", type=click.IntRange(min=1), help="Take so many texts at random (default: as the recipe says).")
@click.option("--seed", type=int, help="Of the sample (default: as the recipe says, or 42).")
@click.option(
    "--max-bytes", type=click.IntRange(4, 1 << 20), help="With --from: cut texts into pieces of so many bytes."
)
@click.option(
    "--min-bytes", type=click.IntRange(1, 1 << 20), help="With --max-bytes: leave shorter pieces out (default: 1)."
)
@click.option(
    "--text-field", default="text", show_default=True, help="With --from: field of the text; a.b leads into a."
)
@click.option("--subset-field", default="subset", show_default=True, help="With --from: field of the subset.")
@click.option(
    "--unit",
    type=click.Choice(["paragraph", "line", "file"]),
    default="paragraph",
    show_default=True,
    help="With --from: what a text is in a .txt file; a paragraph ends at a blank line.",
)
@click.option(
    "--duplicates",
    type=click.Choice(["refuse", "drop", "keep"]),
    help="A text that repeats another (default: as the recipe says; with --from, refuse).",
)
@click.option("--name", help="Name of the text set.")
@click.option("--licence", help="With --from: licence of the texts, as an SPDX identifier (default: unknown).")
@click.option("--no-copy", is_flag=True, help="With --from: a registry on the set publishes hashes, not texts.")
@in_registry
def build(
    context: Context, /, recipe: tuple[str, ...], output: Path | None, files: tuple[str, ...], **options: Any
) -> None:
    """Make a text set from a preset (texts presets), a recipe, or files; print its file and id.

    Without an argument, in a registry that must not publish its texts: rebuild them here from its recipe, or take them
    from the file after --from. A build that was stopped goes on when the same command is given again.
    """
    if files:
        files = (*files, *recipe)  # as in: --from A.txt B.txt
    # Texts that a registry may not publish are rebuilt in place: only without a recipe and without a file to make.
    registry = context.registry_if_any() if output is None and (files or not recipe) else None
    if registry is not None and not is_complete(registry):
        with counting("documents") as progress:
            texts = restore(registry, files, progress=progress, note=note)
        note(f"{registry.where} has its {len(texts):,} texts now; they stay on this machine")
        click.echo(texts.info.id[:12])
        return
    instructions = _recipe(recipe, files, **options)
    target = output or Path(f"{instructions.name.rpartition('/')[2]}.parquet")
    with counting("documents") as progress:
        result = build_file(instructions, target, progress=progress, note=note)
    _note_built(result, target)
    click.echo(f"{target}  {result.texts.info.id[:12]}")


def _recipe(
    arguments: tuple[str, ...],
    files: tuple[str, ...],
    *,
    take: int | None,
    seed: int | None,
    duplicates: Any,
    name: str | None,
    text_field: str,
    subset_field: str,
    unit: Any,
    **of_files: Any,
) -> Recipe:
    """The recipe of one's own files, or the one that is named, changed by the options that go with both."""
    if files:
        recipe = recipe_for(files, text_field=text_field, subset_field=subset_field, unit=unit, **of_files)
    elif len(arguments) != 1:
        raise click.UsageError("name one preset or recipe (llreg texts presets), or give files with --from")
    elif any(of_files.values()):  # the recipe's id would no longer say how its texts are made
        raise click.UsageError(
            "--max-bytes, --min-bytes, --licence and --no-copy go with --from; a recipe says them itself"
        )
    else:
        recipe = load_recipe(arguments[0])
    if take is not None or seed is not None:
        recipe = recipe.with_sample(take, seed)
    return recipe.renamed(name, duplicates)


def _note_built(result: Built, target: Path) -> None:
    """Say what came out, and what to know about it."""
    info = result.texts.info
    note(
        f"{info.num_texts:,} texts of {result.pieces:,} in {result.documents:,} documents; {info.mean_bytes:.1f} bytes "
        f"on average; licence: {printable(info.licence)}"
    )
    if result.dropped:
        note(f"left out {result.dropped:,} that repeat another")
    if result.repeated:
        note(f"{result.repeated:,} repeat another, as the recipe has it")
    if not result.recipe.copy:
        note("the texts must not be published: a registry on them publishes their sizes and hashes, and the recipe")
    note(f"next: llreg init DIRECTORY --texts {target}")
