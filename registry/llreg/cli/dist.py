"""`llreg dist`: KL divergences between models."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from llreg.cli.common import Context, note, note_view, print_json, print_result, print_table
from llreg.cli.options import ViewChoice, in_registry, json_option, quiet_option, view_options
from llreg.cli.progress import counting
from llreg.geometry.kl.contrast import contrast
from llreg.geometry.kl.matrix import write_kl
from llreg.geometry.kl.pairs import list_pairs
from llreg.geometry.kl.spans import COUNT
from llreg.maps.draw.diff import write_diff
from llreg.printable import printable

if TYPE_CHECKING:
    from llreg.geometry.kl.contrast import Contrast
    from llreg.geometry.view.view import View
    from llreg.registry import Registry

_WIDTH = 80  # characters of a passage that are shown


@click.command()
@click.argument("models", nargs=-1, metavar="[MODEL]...")
@click.option("--to", "target", metavar="MODEL", help="Only the distances to this one, nearest first.")
@click.option("--by", type=click.Choice(["subset"]), help="Two models: in which subsets of the texts they differ.")
@click.option("--texts", "count", metavar="N", type=click.IntRange(1), help="Two models: the N texts that differ most.")
@click.option(
    "--spans",
    metavar="[N]",
    type=click.IntRange(1),
    is_flag=False,
    flag_value=COUNT,
    help=f"Two models: the N parts of texts that differ most ({COUNT}); give it behind the MODELs.",
)
@click.option("--nats", is_flag=True, help="Nats per text instead of bits per byte.")
@click.option(
    "-o",
    "--output",
    metavar="FILE.zarr|FILE.html",
    type=click.Path(path_type=Path),
    help="Write the matrix, for any number of rows; or two models' texts as a page, coloured by who is better where.",
)
@click.option(
    "--cluster", metavar="local|ADDRESS", help="With -o: compute it on a Dask cluster whose workers see the same files."
)
@view_options
@json_option
@quiet_option
@in_registry
def dist(
    context: Context,
    /,
    models: tuple[str, ...],
    target: str | None,
    by: str | None,
    count: int | None,
    spans: int | None,
    nats: bool,
    output: Path | None,
    cluster: str | None,
    view: ViewChoice,
    as_json: bool,
    quiet: bool,
) -> None:
    """KL divergence between models, with standard errors.

    Between every two of the MODELs, or of all rows; in bits per byte of text, so that values compare across
    models and text sets. TAIL is the share of the value that the top 1 % of texts carry: near 1, a few texts decide it.
    Two rows are "within noise" if two runs of one model could lie as far apart, given their dtypes.

    With --spans NATS is the log-likelihood of the first MODEL less that of the second. BEYOND is the same less its part, by
    bytes, of their difference in the whole text; the KL is made of its square, and SHARE says how much.
    """
    registry = context.registry()
    through = view.of(registry)
    page = output if output and output.suffix == ".html" else None
    if spans or page:
        if target or by or count or nats or quiet or cluster or output != page:
            raise click.UsageError("--spans and -o FILE.html compare two MODELs; they go with --json and a view only")
        _show_spans(registry, models, through, spans, page, as_json)
        return
    # A matrix of any size goes to disk block by block, so it has no form but its own.
    if (output or cluster) and (target or by or count or nats or as_json or quiet):
        raise click.UsageError("-o writes the whole matrix in bits per byte; it goes with MODELs and a view only")
    # Shares of subsets and texts are of one KL, which has no ids to list.
    if (by or count) and (target or nats or quiet):
        raise click.UsageError(
            "--by and --texts compare two MODELs in bits per byte; they go with --json and a view only"
        )
    if output or cluster:
        _write(registry, models, through, output, cluster)
    elif by or count:
        if len(models) != 2:
            raise click.UsageError(f"--by and --texts compare two models; got {len(models)}")
        difference = contrast(registry, models, view=through, subsets=by is not None, texts=count or 0)
        _print_contrast(difference, as_json=as_json)
    else:
        pairs = list_pairs(registry, models or None, to=target, view=through, nats=nats)
        # All digits, for scripts that go on from the value.
        ids = (f"{pair['model']}\t{pair['other']}\t{pair['kl']!r}" for pair in pairs.pairs)
        print_result(as_json, quiet, pairs.to_json, ids, lambda: print_table(*pairs.table(), right=(2, 3, 4, 5)))
        if not (as_json or quiet):
            note_view(pairs.version, pairs.view)


def _write(registry: Registry, models: tuple[str, ...], view: View, output: Path | None, cluster: str | None) -> None:
    if output is None or output.suffix != ".zarr":
        raise click.UsageError("the matrix goes to a Zarr store: name it with -o FILE.zarr")
    with counting("KL blocks") as progress:
        write_kl(registry, output, models=models or None, view=view, cluster=cluster, progress=progress)
    note(f'wrote {output}; open it with xarray.open_zarr("{output}")')


def _show_spans(
    registry: Registry, models: tuple[str, ...], view: View, count: int | None, page: Path | None, as_json: bool
) -> None:
    if len(models) != 2:
        raise click.UsageError(f"--spans and -o FILE.html compare two models; got {len(models)}")
    found = registry.spans(models, count=count or COUNT, view=view)
    if page:
        write_diff(found, page)
        note(f"wrote {page}; open it in a browser")
    if as_json:
        print_json(found.to_json())
    elif count:
        table = [
            [
                str(span["text"]),
                span["subset"],
                f"{span['start']}-{span['end']}",
                f"{span['difference']:+.2f}",
                f"{span['deviation']:+.2f}",
                f"{span['share']:.4f}",
                _short(span["passage"]),
            ]
            for span in found.spans
        ]
        header = [
            "TEXT",
            "SUBSET",
            "BYTES",
            "NATS",
            "BEYOND",
            "SHARE",
            " less ".join(map(printable, found.rows.labels)),
        ]
        print_table(header, table, right=(0, 2, 3, 4, 5))
    if not as_json:
        note_view(found.rows.version, found.rows.view)


def _short(passage: str | None) -> str:
    """A passage with room beside it; nothing of a text that is not here."""
    shown = printable(passage or "")
    return shown if len(shown) <= _WIDTH else shown[: _WIDTH - 1] + "…"


def _print_contrast(difference: Contrast, *, as_json: bool) -> None:
    if as_json:
        print_json(difference.to_json())
        return
    rows = difference.rows
    # SHARE: of the whole KL. MEAN DIFF and NATS: first model less second.
    if difference.subsets is not None:
        table = [
            [
                subset["subset"],
                str(subset["num_texts"]),
                f"{subset['share']:.3f}",
                f"{subset['kl_bits_per_byte']:.6f}",
                f"± {subset['kl_bits_per_byte_se']:.6f}",
                f"{subset['mean_difference']:+.4f}",
            ]
            for subset in sorted(difference.subsets, key=lambda subset: -subset["share"])
        ]
        print_table(["SUBSET", "TEXTS", "SHARE", "BITS/BYTE", "SE", "MEAN DIFF"], table, right=(1, 2, 3, 4, 5))
    if difference.texts is not None:
        table = [
            [str(text["text"]), text["subset"], f"{text['difference']:+.1f}", f"{text['share']:.4f}", text["start"]]
            for text in difference.texts
        ]
        header = ["TEXT", "SUBSET", "NATS", "SHARE", f"{rows.labels[0]} less {rows.labels[1]}"]
        print_table(header, table, right=(0, 2, 3))
    note_view(rows.version, rows.view)
