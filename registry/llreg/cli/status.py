"""`llreg status`: what is not built, published or finished."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import click

from llreg.cli.common import Context, count, print_json, print_lines
from llreg.cli.options import in_registry, json_option, quiet_option
from llreg.printable import printable


@click.command()
@json_option
@quiet_option
@in_registry
def status(context: Context, /, as_json: bool, quiet: bool) -> None:
    """What is not in the build or not published yet, what is unfinished, and which version this is."""
    state = context.registry().status()
    if as_json:
        print_json(state)
    else:
        print_lines(state["not_built"] if quiet else _lines(state))


def _lines(state: dict[str, Any]) -> Iterator[str]:
    tags = f" ({', '.join(state['tags'])})" if state["tags"] else ""
    yield f"registry {state['registry']} at {state['path']}"
    yield f"version {state['version'][:12]}{tags}: {state['rows']} rows, {state['retracted']} retracted"
    if state["segments"]:
        yield f"{state['segments']:,} segments of texts, in {state['fine_rows']} of {state['rows']} rows"
    else:
        yield "no segments of texts: a registry of format 1"
    if state["build_current"]:
        yield "the build holds all rows"
    elif not state["has_build"]:
        yield "there is no build yet; run: llreg build"
    else:
        new, gone = state["not_built"], state["to_leave_out"]
        yield f"not in the build: {len(new)} rows; to be left out: {len(gone)}; run: llreg build"
        yield from (f"  + {printable(row)}" for row in new)
        yield from (f"  - {printable(row)}" for row in gone)
    if state["remote"]:
        remote, rows = state["remote"], state["remote"]["unpublished"]
        commit = f" at {remote['commit'][:8]}" if remote["commit"] else ", never pulled"
        number = remote["pull_request"]
        request = f"; pull request {number}" if number else ""
        yield f"on the Hub: {remote['repo']} ({printable(remote['revision'])}{commit}){request}"
        if rows:
            progress = f"not in main yet (see pull request {number})" if number else "not published"
            yield f"{progress}: {count(len(rows), 'row')}; run: llreg push"
            yield from (f"  + {printable(row)}" for row in rows)
    if state["unfinished"]:
        yield f"unfinished runs: {state['unfinished']}; give the same llreg add again to go on"
