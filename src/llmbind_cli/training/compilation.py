"""Compiles what surrounds the adapted linears, where a training step loses its time to memory."""

from __future__ import annotations

from torch import nn

from llmbind_cli.model.bound_model import BoundModel
from llmbind_cli.nn.lora_moe import LoraMoeLinear


def compile_blocks(model: BoundModel) -> None:
    """Let ``torch.compile`` fuse the parts of the decoder blocks that hold no LoRA-MoE.

    Those are attention, norms, and the feed-forward networks of layers without adapter. The
    adapted ones bring a backward pass of their own and stay as they are. The first steps take
    longer, while kernels are built; on a CPU that needs a C++ compiler.
    """
    for name, block in model.decoder.named_modules():
        if not isinstance(block, nn.ModuleList) or not name.endswith("layers"):
            continue
        for layer in block:
            for part in layer.children():
                if not any(isinstance(module, LoraMoeLinear) for module in part.modules()):
                    part.compile(dynamic=True)
