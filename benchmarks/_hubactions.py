"""What the processes of the Hub benchmark do: llreg's commands, and what one would do without llreg."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

# llreg


def publish(path: Path, repo: str | None = None, create_pr: bool = False) -> Any:
    """Push whatever is new."""
    import llreg
    from llreg.hub.sync.push import push

    return push(llreg.open(path), repo, create_pr=create_pr)


def first_pull(repo: str, path: Path) -> Any:
    """Pull into an empty directory."""
    from llreg.hub.sync.pull import clone

    return clone(repo, path)


def next_pull(path: Path) -> Any:
    """Pull what is new."""
    import llreg
    from llreg.hub.sync.pull import pull

    return pull(llreg.open(path))


def open_rows(repo: str, names: Sequence[str]) -> Iterator[Any]:
    """Open on the Hub and read one row; then one more after the other."""
    import llreg

    registry = llreg.open(repo)
    for name in names:
        yield registry.row(name).log_likelihood


def plain_row(repo: str, store: str, name: str) -> Any:
    """Open a Zarr store on the Hub in xarray and read one row."""
    import xarray as xr

    data = xr.open_zarr(f"hf://datasets/{repo}/{store}", chunks=None, zarr_format=3)
    return data["log_likelihood"].sel(model=name).values


# Without llreg


def upload(repo: str, folder: Path) -> Any:
    """Upload a folder into a new repository."""
    from huggingface_hub import HfApi

    api = HfApi()
    api.create_repo(repo, repo_type="dataset", exist_ok=True)
    return api.upload_folder(repo_id=repo, folder_path=folder, repo_type="dataset").oid


def commit(repo: str, folder: Path, names: Sequence[str], create_pr: bool = False) -> Any:
    """One commit of some files of a folder."""
    from huggingface_hub import CommitOperationAdd, HfApi

    operations = [CommitOperationAdd(name, folder / name) for name in names]
    api = HfApi()
    return api.create_commit(repo, operations, commit_message="Add rows", repo_type="dataset", create_pr=create_pr).oid


def snapshot(repo: str) -> Any:
    """Download everything, or what is new, into the cache."""
    from huggingface_hub import snapshot_download

    return snapshot_download(repo, repo_type="dataset")


def file_row(repo: str, names: Sequence[str]) -> Iterator[Any]:
    """Download one row's file and read it; then one more after the other."""
    from huggingface_hub import hf_hub_download

    for name in names:
        yield np.load(hf_hub_download(repo, name, repo_type="dataset"))
