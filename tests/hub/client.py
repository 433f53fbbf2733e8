"""The tests' side of the local Hub: start it, be one of its users, break it, read its log."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from huggingface_hub import HfApi

SERVER = Path(__file__).parents[1] / "tools" / "hub_server.py"


class Request(NamedTuple):
    """One request: sizes are bytes of the bodies, status 0 means that no answer was sent, role is "hub" or "cdn"."""

    method: str
    path: str
    status: int
    received: int
    sent: int
    role: str


@dataclass
class Hub:
    """A Hub that runs in a process of its own; `url` is its HF_ENDPOINT, `root` its folder.

    Users: alice and bob; organisation: lab, with alice as its admin and carol as a member who may write. The token
    "alice:read" is alice's and may only read. See the method `options` for what can be switched.
    """

    url: str
    cdn: str
    tokens: dict[str, str]
    root: Path

    def env(self, user: str | None, **extra: str) -> dict[str, str]:
        """What a subprocess needs in its environment, over the present one, to be `user` here (None: anonymous)."""
        found = {
            "HF_ENDPOINT": self.url,
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "HF_HUB_DISABLE_UPDATE_CHECK": "1",
            "HF_HUB_ETAG_TIMEOUT": "60",
            "HF_HUB_DOWNLOAD_TIMEOUT": "60",
            "NO_PROXY": "127.0.0.1",
        }
        found |= {"HF_HUB_DISABLE_IMPLICIT_TOKEN": "1"} if user is None else {"HF_TOKEN": self.tokens[user]}
        return {**found, **extra}

    def api(self, user: str | None) -> HfApi:
        """The real client as `user` (None: anonymous)."""
        from huggingface_hub import HfApi

        return HfApi(endpoint=self.url, token=False if user is None else self.tokens[user])

    def requests(self) -> list[Request]:
        """What was asked since the last `clear`, in the order of the answers."""
        return [Request(**item) for item in self._admin("GET", "log")]

    def clear(self) -> None:
        """Forget the requests so far."""
        self._admin("POST", "clear")

    def fault(
        self, kind: str, *, method: str = "", path: str = "", at: int = 1, times: int = 1, overall: bool = False
    ) -> None:
        """Let something go wrong: at the `at`-th request from now on that fits `method` and the regular expression
        `path` (searched in the raw path with its query), and at the following ones, `times` in all.

        Kinds: drop, drop-upload, 429, 500, 504-after, drop-after, stale, slow, truncate, corrupt; see
        localhub/faults.py. With `overall` all requests are counted, and the fault strikes where both the count and
        the request fit.
        """
        asked = {"kind": kind, "method": method, "path": path, "at": at, "times": times, "overall": overall}
        self._admin("POST", "faults", asked)

    def struck(self) -> int:
        """How many requests the faults that are set have spoiled so far."""
        return sum(item["struck"] for item in self._admin("GET", "faults"))

    def clear_faults(self) -> None:
        self._admin("DELETE", "faults")

    def options(self, **changed: float) -> None:
        """Switch options of the server: `wait`, `multipart`, page sizes; see localhub/repos.py, ``Options``."""
        self._admin("POST", "options", changed)

    def copy(self, source: str, target: str) -> None:
        """Make the dataset repository `target`, as `source` is now."""
        self._admin("POST", "copy", {"source": source, "target": target})

    def reset(self) -> None:
        """No faults, an empty log, the options of the start."""
        self._admin("POST", "reset")

    def git(self, repo: str, *args: str, type: str = "dataset") -> str:
        """Run ``git ARGS`` in the bare repository of `repo` ("org/name") and return what it printed."""
        folder = self.root / f"{type}s" / f"{repo}.git"
        return subprocess.run(["git", f"--git-dir={folder}", *args], check=True, capture_output=True, text=True).stdout

    def _admin(self, method: str, name: str, body: Any = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(
            f"{self.url}/-/{name}", data, {"Content-Type": "application/json"}, method=method
        )
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(request, timeout=60) as answer:
            return json.load(answer)


@contextmanager
def serving(root: Path, **options: Any) -> Iterator[Hub]:
    """A Hub on the repositories below `root` while the block runs.

    `options` may hold `port`, `users` (name to token), `orgs` (name to roles of members), and those of `Hub.options`.
    """
    argv = [sys.executable, str(SERVER), str(root), "--until-eof"]
    if "port" in options:
        argv += ["--port", str(options.pop("port"))]
    for name in ("users", "orgs"):
        if name in options:
            argv += [f"--{name}", json.dumps(options.pop(name))]
    argv += ["--options", json.dumps(options)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            said = process.stdout.readline()
            if not said:
                raise RuntimeError("the local Hub did not start")
            yield Hub(**json.loads(said), root=root.resolve())
        finally:
            process.stdin.close()  # which ends it
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()
