"""``llreg ARGS`` in the process of the tests, as a shell would see it."""

from __future__ import annotations

import importlib.util
import sys
import traceback
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import pytest
from click.testing import CliRunner

from llreg.cli import cli


class Result(NamedTuple):
    """What a command left: exit code, stdout, stderr."""

    code: int
    out: str
    err: str


Cli = Callable[..., Result]


def run_in_process(words: list[str], folder: Path, env: Mapping[str, str], monkeypatch: pytest.MonkeyPatch) -> Result:
    """Run a command through click's runner; what it changes of the process is put back.

    Parameters
    ----------
    words : list of str
        Arguments of ``llreg``.
    folder : Path
        Working directory.
    env : mapping of str to str
        Laid over the present environment.
    monkeypatch : MonkeyPatch
    """
    with monkeypatch.context() as patch, warnings.catch_warnings():
        # As in a fresh Python: a warning is shown once, and those for developers are not.
        warnings.resetwarnings()
        for kind in (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning):
            warnings.simplefilter("ignore", kind)
        patch.chdir(folder)
        for name, value in env.items():
            patch.setenv(name, value)
        if "huggingface_hub" in sys.modules:
            read_client_settings(patch)
        result = CliRunner().invoke(cli, words, prog_name="llreg")
    err = result.stderr
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        err += "".join(traceback.format_exception(result.exception))  # a bug, as Python shows it
    return Result(result.exit_code, result.stdout, err)


def read_client_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let huggingface_hub read the environment again, which it does once, when it is imported."""
    import huggingface_hub.hf_api
    from huggingface_hub import HfFileSystem

    name = "huggingface_hub.constants"
    spec = importlib.util.find_spec(name)
    assert spec is not None
    assert spec.loader is not None
    fresh = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(fresh)
    settings = {key: value for key, value in vars(fresh).items() if key.strip("_").isupper()}
    settings["HF_ENDPOINT"] = settings["ENDPOINT"]  # what `datasets` calls it
    # Modules hold copies, some of them made while another test's settings were in force.
    clients = ("huggingface_hub", "datasets")
    for module in [module for key, module in sys.modules.items() if key.partition(".")[0] in clients]:
        for key in settings.keys() & vars(module).keys():
            if vars(module)[key] != settings[key]:
                monkeypatch.setattr(module, key, settings[key])
    monkeypatch.setattr(huggingface_hub.hf_api.api, "endpoint", settings["ENDPOINT"])
    HfFileSystem.clear_instance_cache()
