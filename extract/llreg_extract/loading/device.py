"""Devices: which one a model is scored on, in which dtype, and what this machine has."""

from __future__ import annotations

import os
import platform
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llreg_extract.files.tensors import DTYPES
from llreg_extract.libraries import require
from llreg_extract.loading.quantization import check_device
from llreg_extract.source import Source
from llreg_schemas.errors import InputError


@dataclass(frozen=True)
class DeviceMemory:
    """A device and its memory.

    Attributes
    ----------
    name : str
        As provenance has it.
    type : {"cpu", "cuda"}
    num_bytes : int or None
        Memory of a GPU in all; of a CPU what is available now. None where the system does not tell.
    """

    name: str
    type: str
    num_bytes: int | None


def choose(source: Source, *, dtype: str = "auto", device: str = "auto", gpus: int | None = None) -> tuple[str, str]:
    """Decide dtype and device without loading anything.

    Parameters
    ----------
    source : Source
    dtype : str
        "float32", "bfloat16", "float16", or "auto": float32 on a CPU, the checkpoint's own on a GPU.
    device : str
        "cpu", "cuda", "cuda:N", or "auto": the GPU if there is one.
    gpus : int, optional
        GPUs of the machine that will score it; those of this one if not given.

    Returns
    -------
    weight_dtype, device : str

    Raises
    ------
    InputError
        An unknown value, or a GPU that is not there.
    UnsupportedModelError
        The checkpoint is quantised in a way that cannot be loaded on this machine's device.
    MissingExtraError
        torch is not installed.
    """
    require("torch")
    if dtype not in ("auto", *DTYPES.values()):
        raise InputError(f"unknown dtype {dtype!r}: choose auto, {', '.join(DTYPES.values())}")
    kind, _, number = device.partition(":")
    if kind not in ("auto", "cpu", "cuda") or (number and not (kind == "cuda" and number.isdecimal())):
        raise InputError(f"unknown device {device!r}: choose auto, cpu, cuda or cuda:N")
    on_this_machine = gpus is None
    gpus = count_gpus() if gpus is None else gpus
    if kind == "cuda" and int(number or 0) >= gpus:
        raise InputError(
            f"device {device} was asked for and torch sees {gpus or 'no'} CUDA GPU{'s' * (gpus > 1)} here: use "
            "--device cpu, or a torch built for CUDA (https://pytorch.org/get-started)"
        )
    if kind == "auto":
        device = "cuda" if gpus else "cpu"
    if dtype == "auto":  # arithmetic in 16 bits costs 0.1 to 0.9 nats a text
        dtype = "float32" if device == "cpu" else source.checkpoint_dtype
    if on_this_machine:  # another one may have other libraries
        check_device(source, device)
    return dtype, device


def count_gpus() -> int:
    """CUDA GPUs that torch sees on this machine.

    Raises
    ------
    MissingExtraError
        torch is not installed.
    """
    require("torch")
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def device_name(device: Any) -> str:
    """Name of a torch device, or of one as `choose` gives it, as provenance has it."""
    if str(device).startswith("cuda"):
        import torch

        return torch.cuda.get_device_name(device)
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    models = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(models, "") or platform.processor() or platform.machine()


def device_memory(device: str) -> DeviceMemory:
    """A device's name and memory.

    Parameters
    ----------
    device : str
        From `choose`: "cpu", "cuda" or "cuda:N".
    """
    require("torch")
    kind, _, number = device.partition(":")
    if kind == "cuda":
        import torch

        return DeviceMemory(device_name(device), kind, torch.cuda.get_device_properties(int(number or 0)).total_memory)
    return DeviceMemory(device_name(device), kind, available_memory())


def available_memory() -> int | None:
    """Bytes of memory that this process may still take: of the machine, or of its container where that has less."""
    limits: list[int] = []
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        limits.append(next(int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable:")))
    except (OSError, StopIteration, ValueError):
        with suppress(ValueError, OSError, AttributeError):  # not Linux: all of the machine's
            limits.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    # A control group (version 2) leaves its limit, less what it uses and could not give back.
    group = Path("/sys/fs/cgroup")
    with suppress(OSError, ValueError):  # no such group, or "max": no limit
        limit, in_use = (int((group / f"memory.{file}").read_text(encoding="ascii")) for file in ("max", "current"))
        stat = dict(line.split() for line in (group / "memory.stat").read_text(encoding="ascii").splitlines())
        limits.append(max(0, limit - in_use + int(stat.get("inactive_file", 0))))
    return min(limits, default=None)
