"""The command that measures speed on the user's machine: bench."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import click

from llreg.bench import DTYPES, SHAPES
from llreg.cli.common import Context, note, print_json, print_table
from llreg.cli.options import in_registry, json_option
from llreg.printable import printable, shown_bytes

if TYPE_CHECKING:
    from llreg.bench import Report
    from llreg.registry import Registry
    from llreg_extract.measure.speed import Speed


@click.command()
@click.argument("model", required=False)
@click.option(
    "--shape",
    type=click.Choice(SHAPES),
    help="Without MODEL: random weights of this shape (default: smollm2-135m); nothing is downloaded.",
)
@click.option("--revision", help="Branch, tag or commit on the Hub (default: main).")
@click.option(
    "--dtype",
    "dtypes",
    multiple=True,
    type=click.Choice([*DTYPES, "all"]),
    help="May be given more than once (default: float32 and bfloat16).",
)
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, or cuda:N.")
@click.option(
    "--batch-tokens",
    multiple=True,
    type=click.IntRange(min=1),
    help="Tokens in a batch; may be given more than once (default: 4096, 16384 and 65536 on a GPU).",
)
@click.option(
    "--seconds", default=20.0, show_default=True, type=click.FloatRange(0, min_open=True), help="Time for each."
)
@click.option(
    "--seed", default=0, show_default=True, type=click.IntRange(min=0), help="Another seed, other texts of a registry."
)
@click.option("--trust-remote-code", is_flag=True, help="Run Python code from the model's repository.")
@json_option
@click.option("--quiet", "-q", is_flag=True, help="Print only the options to give to llreg add.")
@in_registry
def bench(
    context: Context,
    /,
    model: str | None,
    shape: str | None,
    dtypes: tuple[str, ...],
    as_json: bool,
    quiet: bool,
    **options: Any,
) -> int:
    """Measure how fast models are scored on this machine, to choose --dtype and --batch-tokens.

    For each dtype and batch budget: tokens a second (of a CPU also per second of processor time), the share of what
    large matrix products reach here, the most memory held, padding, the largest difference between a text alone and in
    a batch, and the error against float32, one text at a time. The texts are a registry's where one is given or
    encloses the directory, else the embedded ones.
    """
    from llreg import bench
    from llreg.cli.progress import counting

    if model and shape:
        raise click.UsageError("give a MODEL or a --shape, not both")
    with counting("measuring") as progress:
        report = bench.bench(
            model,
            shape=shape,
            registry=_registry(context),
            dtypes=DTYPES if "all" in dtypes else dtypes,
            progress=progress,
            **options,
        )
    for speed in report.speeds:
        if speed.problem is not None:
            note(printable(f"{speed.dtype}, {speed.batch_tokens:,} tokens: {speed.problem}"))
    if as_json:
        print_json(report.to_json())
    elif quiet:
        click.echo(f"{report.advice.options}\n" if report.advice else "", nl=False)
    else:
        _print(report)
    return 1 if len(report.done) < len(report.speeds) else 0


def _registry(context: Context) -> Registry | None:
    """The registry that is meant; the user's own is not made for this."""
    from llreg.locate import is_enclosed
    from llreg.settings import registry_setting

    return context.registry() if context.location or registry_setting() or is_enclosed() else None


def _print(report: Report) -> None:
    on = f"{report.device}, {report.speeds[0].threads} threads" if not report.on_gpu else report.device
    click.echo(printable(f"{report.model} on {on}"))
    if report.peaks:
        peaks = ", ".join(f"{_rate(peak)} in {dtype}" for dtype, peak in report.peaks.items())
        click.echo(f"large matrix products reach {peaks}")
    header = ["DTYPE", "BATCH", "TOKENS/S", "PER CPU SECOND", "OF PEAK", "MEMORY", "PADDING", "SPREAD", "ERROR"]
    hidden = 3 if report.on_gpu else None
    lines = [header, *(_line(report, speed) for speed in report.speeds)]
    shown = [[cell for k, cell in enumerate(line) if k != hidden] for line in lines]
    print_table(shown[0], shown[1:], right=range(1, len(shown[0])))
    if report.advice:
        click.echo(f"\n{report.advice.sentence}")


def _rate(flops: float) -> str:
    return f"{flops / 1e12:,.0f} TFLOP/s" if flops >= 1e13 else f"{flops / 1e9:,.0f} GFLOP/s"


def _line(report: Report, speed: Speed) -> list[str]:
    named = [speed.dtype, f"{speed.batch_tokens:,}"]
    if speed.problem is not None:
        return [*named, "failed", *["-"] * 6]
    error = report.error(speed)
    return [
        *named,
        f"{speed.tokens_per_second:,.0f}",
        "-" if speed.tokens_per_cpu_second is None else f"{speed.tokens_per_cpu_second:,.0f}",
        f"{report.share_of_peak(speed):.0%}",
        shown_bytes(speed.memory_bytes),
        f"{speed.padding:.1%}",
        f"{speed.spread:.2g}",
        "-" if math.isnan(error) else f"{error:.2g}",
    ]
