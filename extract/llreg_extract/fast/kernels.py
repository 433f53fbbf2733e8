"""float32 matrix products by the faster of the libraries that torch has on a CPU."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any


@contextmanager
def fast_products(device_type: str) -> Iterator[None]:
    """Within, float32 products on a CPU go where they are fastest without losing accuracy; then all is as before.

    On processors of AMD torch's default, MKL, is slower than oneDNN (SmolLM2's shapes: 7 to 20 % on a Zen 4, a factor of 2
    on a Zen 5). The setting that sends products to oneDNN also allows it less precise arithmetic, which it uses where the
    processor has instructions for that: so an error is measured first. Times are not: they would make the choice, and with
    it the last digits of a row, a matter of chance.
    """

    if device_type != "cpu" or not _reroutes():
        yield
        return
    settings = _settings()
    before = settings.fp32_precision
    settings.fp32_precision = "bf16"
    try:
        yield
    finally:
        settings.fp32_precision = before


def _settings() -> Any:
    import torch

    return getattr(torch.backends.mkldnn, "matmul", None)


@cache
def _reroutes() -> bool:
    import torch

    settings, mkl = _settings(), torch.backends.mkl
    if not hasattr(settings, "fp32_precision") or not mkl.is_available() or not _is_amd():  # type: ignore[no-untyped-call]
        return False
    generator = torch.Generator().manual_seed(0)
    left, right = torch.randn(256, 1024, generator=generator), torch.randn(1024, 256, generator=generator)
    exact = left.double() @ right.double()
    before = settings.fp32_precision
    settings.fp32_precision = "bf16"
    try:
        error = float((left @ right - exact).norm() / exact.norm())
    finally:
        settings.fp32_precision = before
    return error < 1e-6  # float32 gives 2e-7, TF32 3e-4, bfloat16 2e-3


def _is_amd() -> bool:
    try:
        return "AuthenticAMD" in Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return "AuthenticAMD" in platform.processor()
