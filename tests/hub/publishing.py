"""Put a registry's directory on the Hub with the real client alone, as anybody could: one commit."""

from __future__ import annotations

import hashlib
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from tests.hub.client import Hub


def publish(
    api: HfApi,
    repo: str,
    directory: Path,
    *,
    names: Iterable[str] | None = None,
    delete: Iterable[str] = (),
    private: bool = False,
    pull_request: bool = False,
    revision: str | None = None,
) -> str:
    """Commit a directory's files (all that are published, or those of some names); return the commit, 40 hex digits.

    With `pull_request` they go to a new pull request, whose number its URL ends in, and that URL is returned.
    """
    api.create_repo(repo, repo_type="dataset", exist_ok=True, private=private or None)
    chosen = sorted(published(directory)) if names is None else names
    operations: list[CommitOperationAdd | CommitOperationDelete] = [
        CommitOperationAdd(name, directory / name) for name in chosen
    ]
    operations += [CommitOperationDelete(name) for name in delete]
    done = api.create_commit(
        repo,
        operations,
        commit_message="Publish a registry",
        repo_type="dataset",
        create_pr=pull_request,
        revision=revision,
    )
    return done.pr_url if pull_request and done.pr_url else done.oid


def put(hub: Hub, repo: str, files: Mapping[str, bytes]) -> None:
    """Make files the next commit of main past the client, which needs several requests for each large one."""
    bare = hub.root / "datasets" / f"{repo}.git"
    parts = [b"commit refs/heads/main\ncommitter alice <alice@localhost> 0 +0000\ndata 1\nx\n"]
    parts.append(f"from {hub.git(repo, 'rev-parse', 'main')}".encode())
    for name, data in files.items():
        content = data
        if b"\0" in data:
            oid = hashlib.sha256(data).hexdigest()
            path = bare.with_suffix(".lfs") / oid[:2] / oid
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
            content = f"version https://git-lfs.github.com/spec/v1\noid sha256:{oid}\nsize {len(data)}\n".encode()
        parts += [f'M 100644 inline "{name}"\ndata {len(content)}\n'.encode(), content, b"\n"]
    command = ["git", f"--git-dir={bare}", "fast-import", "--quiet"]
    subprocess.run(command, input=b"".join(parts), check=True, capture_output=True)


def published(directory: Path) -> list[str]:
    """Names of the files of a registry that are published: all but its state."""
    files = [path for path in directory.rglob("*") if path.is_file()]
    return [str(path.relative_to(directory)) for path in files if ".llreg" not in path.relative_to(directory).parts]
