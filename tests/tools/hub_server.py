"""Start a local Hub: ``python tests/tools/hub_server.py ROOT`` prints where it listens, as one line of JSON.

Repositories are kept below ROOT and are there again at the next start. Point a client at it with
``HF_ENDPOINT=<url> HF_TOKEN=<token> HF_HUB_DISABLE_XET=1``.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import threading
from dataclasses import replace
from pathlib import Path

if str(Path(__file__).parent) not in sys.path:  # imported, not run as a script
    sys.path.append(str(Path(__file__).parent))

from localhub.repos import Hub
from localhub.wire import Wire

USERS = {name: f"hf_{name}" for name in ("alice", "bob", "carol")} | {"alice:read": "hf_alice_reads"}
ORGS = {"lab": {"alice": "admin", "carol": "write"}}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("root", type=Path, help="folder of the repositories")
    parser.add_argument("--port", type=int, default=0, help="port of the Hub (default: any free one)")
    parser.add_argument("--users", type=json.loads, default=USERS, help="JSON object, user to token")
    parser.add_argument("--orgs", type=json.loads, default=ORGS, help="JSON object, organisation to roles of members")
    parser.add_argument("--options", type=json.loads, default={}, help="JSON object, see localhub.repos.Options")
    parser.add_argument("--until-eof", action="store_true", help="end when standard input does")
    return parser.parse_args()


async def serve(hub: Hub, port: int, until_eof: bool) -> None:
    """Run a Hub until standard input ends, or for good."""
    wire, over = Wire(hub), asyncio.Event()
    await wire.start(port)
    if until_eof:
        loop = asyncio.get_running_loop()

        def wait() -> None:
            sys.stdin.buffer.read()
            loop.call_soon_threadsafe(over.set)

        threading.Thread(target=wait, daemon=True).start()
    tokens = {":".join(filter(None, who)): token for token, who in hub.tokens.items()}
    where = {"url": f"http://127.0.0.1:{wire.main.number}", "cdn": f"http://127.0.0.1:{wire.cdn.number}"}
    print(json.dumps({**where, "tokens": tokens}), flush=True)
    await over.wait()


def main() -> None:
    given = _arguments()
    given.root.mkdir(parents=True, exist_ok=True)
    hub = Hub(given.root.resolve(), given.users, given.orgs)
    hub.options = replace(hub.options, **given.options)
    try:
        asyncio.run(serve(hub, given.port, given.until_eof))
    except KeyboardInterrupt:
        pass


if __name__ == "__main__":
    main()
