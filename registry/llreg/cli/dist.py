"""`llreg dist`: KL divergences between models."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from llreg.cli.common import Context, note, note_view, print_json, print_table
from llreg.cli.options import ViewChoice, in_registry, json_option, quiet_option, view_options
from llreg.printable import short_names
from llreg.texts.items import beginning
from llreg_schemas.errors import InputError

if TYPE_CHECKING:
    from xarray import Dataset

    from llreg.geometry.kl.rows import Rows
    from llreg.geometry.view.view import View
    from llreg.registry import Registry


_SHORT = {"identical": "identical", "same within noise": "within noise"}


_SNIPPET = 60  # characters of a text that are shown


@click.command()
@click.argument("models", nargs=-1, metavar="[MODEL]...")
@click.option("--to", "target", metavar="MODEL", help="Only the distances to this one, nearest first.")
@click.option("--by", type=click.Choice(["subset"]), help="Two models: in which subsets of the texts they differ.")
@click.option("--texts", "count", metavar="N", type=click.IntRange(1), help="Two models: the N texts that differ most.")
@click.option("--nats", is_flag=True, help="Nats per text instead of bits per byte.")
@click.option(
    "-o",
    "--output",
    metavar="FILE.zarr",
    type=click.Path(path_type=Path),
    help="Write the matrix, for any number of rows.",
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
    """
    registry = context.registry()
    seen = view.of(registry)
    _refuse_together(
        target=target, by=by, count=count, output=output or cluster, nats=nats, as_json=as_json, quiet=quiet
    )
    if output or cluster:
        _write(registry, models, seen, output, cluster)
        return
    if by or count:
        _print_contrast(registry, models, seen, by, count, as_json)
        return
    names = list(models) or None
    if target is None:
        result = registry.kl(names, view=seen)
    else:
        result = registry.kl([target], names, view=seen) if names else _to_all(registry, target, seen)
    pairs = _pairs(result, nats=nats, only_first=target is not None)
    if not pairs:
        raise InputError("a distance needs two rows; see: llreg ls")
    if as_json:
        print_json(
            {
                "registry": registry.name,
                "version": result.attrs["version"],
                "view": result.attrs["view"],
                "pairs": pairs,
            }
        )
        return
    if quiet:
        click.echo("".join(f"{pair['model']}\t{pair['other']}\t{pair['kl']!r}\n" for pair in pairs), nl=False)
        return
    _print(result, pairs, nats=nats)
    note_view(result.attrs["version"], seen)


def _refuse_together(**given: Any) -> None:
    """Options that say nothing to each other."""
    if given["output"] and any(given[name] for name in ("target", "by", "count", "nats", "as_json", "quiet")):
        raise click.UsageError("-o writes the whole matrix in bits per byte; it goes with MODELs and a view only")
    if (given["by"] or given["count"]) and any(given[name] for name in ("target", "nats", "quiet")):
        raise click.UsageError(
            "--by and --texts compare two MODELs in bits per byte; they go with --json and a view only"
        )


def _write(registry: Registry, models: tuple[str, ...], view: View, output: Path | None, cluster: str | None) -> None:
    from llreg.cli.progress import counting
    from llreg.geometry.kl.matrix import write_kl

    if output is None or output.suffix != ".zarr":
        raise click.UsageError("the matrix goes to a Zarr store: name it with -o FILE.zarr")
    with counting("KL blocks") as progress:
        write_kl(registry, output, models=models or None, view=view, cluster=cluster, progress=progress)
    note(f'wrote {output}; open it with xarray.open_zarr("{output}")')


def _to_all(registry: Registry, target: str, view: View) -> Dataset:
    return registry.kl([target], [record.row_id for record in registry.records()], view=view)


def _pairs(result: Dataset, *, nats: bool, only_first: bool) -> list[dict[str, Any]]:
    """The pairs as plain values: all of i < j in order, or those with the first row, nearest first."""
    rows, columns = ([str(label) for label in result[dim].values] for dim in ("model", "other"))
    unit = "kl" if nats else "kl_bits_per_byte"
    names = {"kl": unit, "se": f"{unit}_se", "tail_share": "tail_share", "num_texts": "num_texts"}
    values = {key: result[name].values for key, name in names.items() if name in result}
    verdicts = _verdicts(result)
    found = [
        {
            "model": rows[i],
            "other": columns[j],
            "unit": "nat/text" if nats else "bit/byte",
            **{key: matrix[i, j].item() for key, matrix in values.items()},
            "verdict": verdicts[i][j],
        }
        for i in range(len(rows))
        for j in range(0 if only_first else i + 1, len(columns))
        if rows[i] != columns[j]
    ]
    # A pair without common texts has no distance, and comes last.
    return sorted(found, key=lambda pair: (math.isnan(pair["kl"]), pair["kl"])) if only_first else found


def _verdicts(result: Dataset) -> list[list[str]]:
    from llreg.geometry.kl.noise import verdict

    columns = (result[name].values for name in ("kl", "noise_floor", "num_texts"))
    return [[verdict(*cell) for cell in zip(*row, strict=True)] for row in zip(*columns, strict=True)]


def _print(result: Dataset, pairs: list[dict[str, Any]], *, nats: bool) -> None:
    names = _labels(result)
    unit = "NATS/TEXT" if nats else "BITS/BYTE"
    table = [
        [
            names[pair["model"]],
            names[pair["other"]],
            f"{pair['kl']:.6f}",
            f"± {pair['se']:.6f}",
            f"{pair['tail_share']:.2f}" if "tail_share" in pair else "",
            str(pair["num_texts"]),
            _SHORT.get(pair["verdict"], ""),
        ]
        for pair in pairs
    ]
    print_table(["MODEL", "OTHER", unit, "SE", "TAIL", "TEXTS", ""], table, right=(2, 3, 4, 5))


def _print_contrast(
    registry: Registry, models: tuple[str, ...], view: View, by: str | None, count: int | None, as_json: bool
) -> None:
    from llreg.geometry.kl.contrast import by_subset, widest_texts

    if len(models) != 2:
        raise click.UsageError(f"--by and --texts compare two models; got {len(models)}")
    rows = registry.rows(models, view=view)
    found: dict[str, Any] = {}
    if by:
        found["subsets"] = _records(by_subset(rows), "subset")
    if count:
        found["texts"] = [
            {**entry, "start": _start(registry, entry["text"])} for entry in _records(widest_texts(rows, count), "text")
        ]
    if as_json:
        print_json({"models": rows.row_ids, "version": rows.version, "view": view.id, **found})
        return
    if by:
        _print_subsets(sorted(found["subsets"], key=lambda entry: -entry["share"]))
    if count:
        _print_texts(found["texts"], rows)
    note_view(rows.version, view)


def _records(data: Dataset, dim: str) -> list[dict[str, Any]]:
    columns = {str(name): data[name].values.tolist() for name in (dim, *data.variables) if data[name].dims == (dim,)}
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def _start(registry: Registry, text: int) -> str:
    """First characters of a text, or of a pair's response, on one line; empty where the text is not here."""
    return " ".join(beginning(registry.texts.texts[text])[: 4 * _SNIPPET].split())[:_SNIPPET]


def _print_subsets(subsets: list[dict[str, Any]]) -> None:
    table = [
        [
            entry["subset"],
            str(entry["num_texts"]),
            f"{entry['share']:.3f}",
            f"{entry['kl_bits_per_byte']:.6f}",
            f"± {entry['kl_bits_per_byte_se']:.6f}",
            f"{entry['mean_difference']:+.4f}",
        ]
        for entry in subsets
    ]
    print_table(["SUBSET", "TEXTS", "SHARE", "BITS/BYTE", "SE", "MEAN DIFF"], table, right=(1, 2, 3, 4, 5))


def _print_texts(texts: list[dict[str, Any]], rows: Rows) -> None:
    table = [[str(e["text"]), e["subset"], f"{e['difference']:+.1f}", f"{e['share']:.4f}", e["start"]] for e in texts]
    print_table(["TEXT", "SUBSET", "NATS", "SHARE", f"{rows.labels[0]} less {rows.labels[1]}"], table, right=(0, 2, 3))


def _labels(result: Dataset) -> dict[str, str]:
    """Model names where they are unique among the shown rows, else row ids."""
    shown = {
        str(label): str(name)
        for dim in ("model", "other")
        for label, name in zip(result[dim].values, result[f"{dim}_id"].values, strict=True)
    }
    return dict(zip(shown, short_names(list(shown.values()), list(shown)), strict=True))
