"""Where networks run and in which number format: the meaning of ``--device`` and ``--dtype``."""

from __future__ import annotations

import torch

from llmbind_cli.errors import UnavailableError, UsageError

DTYPES = ("auto", "bfloat16", "float16", "float32", "int8", "int4")


def choose_device(name: str) -> torch.device:
    """Turn ``auto``, ``cpu`` or ``cuda`` into a device.

    Raises:
        UsageError: The name is none of these.
        UnavailableError: ``cuda`` was asked for and there is none (fault 37).
    """
    if name not in ("auto", "cpu", "cuda"):
        raise UsageError(f"--device must be auto, cpu or cuda, got {name!r}")
    has_cuda = torch.cuda.is_available()
    if name == "cuda" and not has_cuda:
        raise UnavailableError("--device cuda: this machine or this torch build has no CUDA device")
    return torch.device("cuda" if has_cuda and name != "cpu" else "cpu")


def choose_dtype(name: str, device: torch.device) -> torch.dtype:
    """Turn a dtype name into the dtype of the frozen weights.

    ``auto`` is bfloat16 where the hardware multiplies it natively (CUDA ≥ 8.0; x86 with
    AVX512-BF16 or AMX), else float16 on CUDA and float32 on a CPU. For ``int8`` and ``int4`` it
    is the dtype of the parts that stay unquantised.

    Raises:
        UsageError: The name is unknown.
    """
    if name not in DTYPES:
        raise UsageError(f"--dtype must be one of {', '.join(DTYPES)}; got {name!r}")
    if name not in ("auto", "int8", "int4"):
        return {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}[
            name
        ]
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(False) else torch.float16
    return torch.bfloat16 if _cpu_multiplies_bfloat16() else torch.float32


def _cpu_multiplies_bfloat16() -> bool:
    probes = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, name, lambda: False)() for name in probes)
