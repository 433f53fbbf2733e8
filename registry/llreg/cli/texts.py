"""Commands on text sets: texts ls, texts show, texts check."""

from __future__ import annotations

import click

from llreg.cli.common import Context, json_option, note, print_json, print_table, quiet_option, registry_option
from llreg.printable import printable
from llreg_schemas.errors import NotFoundError


@click.group()
def texts() -> None:
    """The registry's text set: list it, read a text, check a file before making a registry of it."""


@texts.command("ls")
@json_option
@quiet_option
@registry_option
@click.pass_obj
def list_texts(context: Context, /, as_json: bool, quiet: bool) -> None:
    """List the texts: index, subset, bytes, how they begin."""
    texts = context.registry().texts
    rows = list(
        zip(range(len(texts)), texts.subset, texts.num_bytes, texts.sha256, texts.source, texts.texts, strict=True)
    )
    if as_json:
        keys = ("index", "subset", "bytes", "sha256", "source")
        print_json([dict(zip(keys, row[:5], strict=True)) for row in rows])
    elif quiet:
        click.echo("".join(f"{row[3]}\n" for row in rows), nl=False)
    else:
        table = [[str(k), subset, str(size), _beginning(text)] for k, subset, size, _, _, text in rows]
        print_table(["INDEX", "SUBSET", "BYTES", "TEXT"], table, right=(0, 2))


def _beginning(text: str | None) -> str:
    return "(not copied)" if text is None else " ".join(text[:80].split())[:50]


@texts.command()
@click.argument("index", type=click.IntRange(min=0))
@json_option
@registry_option
@click.pass_obj
def show(context: Context, /, index: int, as_json: bool) -> None:
    """Print the text with the given INDEX."""
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
                "text": text,
            }
        )
        return
    if text is None:
        raise NotFoundError(f"text {index} is not copied in this registry: its licence forbids it")
    note(f"text {index}, {texts.subset[index]}, {texts.num_bytes[index]} bytes, {printable(texts.source[index])}")
    click.echo("\n".join(printable(line.replace("\t", "    ")) for line in text.split("\n")))


@texts.command()
@click.argument("path", required=False)
@json_option
@registry_option
@click.pass_obj
def check(context: Context, /, path: str | None, as_json: bool) -> None:
    """Check a text set: PATH (JSON Lines or Parquet), or the registry's own.

    Prints its id, size and subsets; a bad, empty or repeated text is an error that names its line.
    """
    from llreg.textset import load_texts

    texts = load_texts(path) if path else context.registry().texts
    header = texts.info
    if as_json:
        print_json(header.to_json())
        return
    click.echo(
        f"{printable(header.name)}  {header.id[:12]}  {header.num_texts:,} texts  {header.mean_bytes:.1f} bytes on average"
    )
    print_table(["SUBSET", "TEXTS"], [[name, str(count)] for name, count in header.subsets.items()], right=(1,))
