"""Commands on distances: dist."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import click

from llreg.cli.common import Context, json_option, note, print_json, print_table, quiet_option, registry_option
from llreg_schemas.errors import InputError

if TYPE_CHECKING:
    from xarray import Dataset

    from llreg.registry import Registry


@click.command()
@click.argument("models", nargs=-1, metavar="[MODEL]...")
@click.option("--to", "target", metavar="MODEL", help="Only the distances to this one, nearest first.")
@click.option("--nats", is_flag=True, help="Nats per text instead of bits per byte.")
@click.option("--clip", metavar="C|none", help="Clip threshold, nats per text (default: the registry's frozen one).")
@json_option
@quiet_option
@registry_option
@click.pass_obj
def dist(
    context: Context,
    /,
    models: tuple[str, ...],
    target: str | None,
    nats: bool,
    clip: str | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """KL divergence between models, with standard errors.

    Between every two of the MODELs, or of all rows; in bits per byte of text, so that values compare across
    models and text sets. TAIL is the share of the value that the top 1 % of texts carry: near 1, a few texts decide it.
    """
    registry = context.registry()
    threshold = _threshold(clip)
    names = list(models) or None
    if target is None:
        result = registry.kl(names, clip=threshold)
    else:
        result = registry.kl([target], names, clip=threshold) if names else _to_all(registry, target, threshold)
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
    clipped = "no clipping" if result.attrs["clip"] == "none" else f"clipped at {result.attrs['clip']} nats"
    note(f"version {result.attrs['version'][:12]}, view {result.attrs['view'][:12]} ({clipped})")


def _threshold(given: str | None) -> float | str | None:
    if given is None:
        return "default"
    if given == "none":
        return None
    try:
        value = float(given)
    except ValueError:
        value = math.nan
    if not -math.inf < value <= 0:
        raise click.UsageError(f"--clip: expected a number of at most 0, or none; got {given!r}")
    return value


def _to_all(registry: Registry, target: str, threshold: float | str | None) -> Dataset:
    return registry.kl([target], [record.row_id for record in registry.records()], clip=threshold)


def _pairs(result: Dataset, *, nats: bool, only_first: bool) -> list[dict[str, Any]]:
    """The pairs as plain values: all of i < j in order, or those with the first row, nearest first."""
    rows, columns = ([str(label) for label in result[dim].values] for dim in ("model", "other"))
    unit = "kl" if nats else "kl_bits_per_byte"
    names = {"kl": unit, "se": f"{unit}_se", "tail_share": "tail_share", "num_texts": "num_texts"}
    values = {key: result[name].values for key, name in names.items()}
    found = [
        {
            "model": rows[i],
            "other": columns[j],
            "unit": "nat/text" if nats else "bit/byte",
            **{key: matrix[i, j].item() for key, matrix in values.items()},
        }
        for i in range(len(rows))
        for j in range(0 if only_first else i + 1, len(columns))
        if rows[i] != columns[j]
    ]
    # A pair without common texts has no distance, and comes last.
    return sorted(found, key=lambda pair: (math.isnan(pair["kl"]), pair["kl"])) if only_first else found


def _print(result: Dataset, pairs: list[dict[str, Any]], *, nats: bool) -> None:
    names = _labels(result)
    unit = "NATS/TEXT" if nats else "BITS/BYTE"
    table = [
        [
            names[pair["model"]],
            names[pair["other"]],
            f"{pair['kl']:.6f}",
            f"± {pair['se']:.6f}",
            f"{pair['tail_share']:.2f}",
            str(pair["num_texts"]),
        ]
        for pair in pairs
    ]
    print_table(["MODEL", "OTHER", unit, "SE", "TAIL", "TEXTS"], table, right=(2, 3, 4, 5))


def _labels(result: Dataset) -> dict[str, str]:
    """Model names where they are unique among the shown rows, else row ids."""
    shown = {
        str(label): str(name)
        for dim in ("model", "other")
        for label, name in zip(result[dim].values, result[f"{dim}_id"].values, strict=True)
    }
    names = list(shown.values())
    return {label: name if names.count(name) == 1 else label for label, name in shown.items()}
