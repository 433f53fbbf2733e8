"""`llreg init`: make a registry."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from llreg.cli.common import note
from llreg.locate import init as make

if TYPE_CHECKING:
    from llreg_schemas.records import Rendering


@click.command()
@click.argument("directory", default=".", type=click.Path(path_type=Path, file_okay=False))
@click.option(
    "--texts",
    default="mini",
    show_default=True,
    help="mini, or a JSON Lines or Parquet file with a 'text' field, or with 'prompt' and 'response'.",
)
@click.option(
    "--prompt",
    type=click.Choice(["chat-template", "raw"]),
    help="How models see prompts: through their own chat template, or as they are.",
)
@click.option("--name", help="Name of the registry (default: the directory's).")
@click.option(
    "--clip",
    type=click.FloatRange(max=0),
    help="Frozen clip threshold of the default view, nats per text (default: none).",
)
@click.option("--licence", default="CC0-1.0", show_default=True, help="Licence of the rows, as an SPDX identifier.")
def init(
    directory: Path, texts: str, prompt: Rendering | None, name: str | None, clip: float | None, licence: str
) -> None:
    """Make an empty registry in DIRECTORY (default: here).

    Texts with 'prompt' (text, or a list of messages) and 'response' make a registry of ln p(response | prompt), and
    of ln p(response) alone; --prompt then says how models see a prompt.
    """
    registry = make(directory, texts=texts, name=name, clip=clip, licence=licence, prompt=prompt)
    header = registry.info.text_set
    kinds = {None: "texts", "raw": "pairs, prompts as they are", "chat-template": "pairs, prompts by chat template"}
    content = f"{header.num_texts:,} {kinds[registry.rendering]}"
    note(f"made {registry.path}: {content} ({header.name}, {header.mean_bytes:.0f} bytes on average)")
    # With --registry, since the directory need not be the one the user is in.
    note(f"next: llreg --registry {directory} add MODEL")
