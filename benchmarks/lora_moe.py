"""What LoRA-MoE costs on top of the frozen linear, beside LoRA and the usual ways to write it.

Run from a checkout:

    python benchmarks/lora_moe.py
    python benchmarks/lora_moe.py --threads 1 --clock cpu      # on a machine that others use
    python benchmarks/lora_moe.py --device cuda --dtype bfloat16 --dims 4096 11008

Every figure is a ratio to the frozen linear, which runs right before each contender; the contenders
take turns within a repeat, each repeat starting with another one, and the median over the repeats
counts. The row of the frozen linear is its ratio to itself, and so shows the noise. The exit code
is 0 if every bar holds, 4 if one does not.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial

import torch
from peft import LoraConfig, inject_adapter_in_model
from torch import Tensor, nn

from llmbind_cli.nn.lora_moe import LoraMoeLinear

NUM_EXPERTS, TOP_K, RANK, ALPHA = 4, 2, 8, 16.0
BASE, OURS = "frozen linear", "LoRA-MoE"
LORA_R, LORA_NR = f"LoRA r={RANK}", f"LoRA r={NUM_EXPERTS * RANK}"
EXPERT_LOOP, GATHER_LOOP = "expert loop", "gather loop"

MAX_OVERHEAD_TO_LORA = 1.25
MAX_OVERHEAD_TO_LOOP = 0.40
MAX_SAVED_FLOATS = NUM_EXPERTS * RANK + 3 * NUM_EXPERTS
LORA_BAR_FROM_WIDTH = 1024
WARM_UP = 2  # repeats that do not count

# With one thread, the processor's clock does not count the time other processes take.
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


class _LiteralMixture(nn.Module):
    """The experts as separate small matrices, as the equation reads."""

    def __init__(self, layer: LoraMoeLinear) -> None:
        super().__init__()
        self.base_layer = layer.base_layer
        self.scaling = layer.scaling
        self.router = nn.Parameter(layer.router.weight.detach().clone())
        self.down = nn.ParameterList(
            part.clone() for part in layer.lora_A.detach().chunk(NUM_EXPERTS)
        )
        self.up = nn.ParameterList(
            part.clone() for part in layer.lora_B.detach().chunk(NUM_EXPERTS, dim=1)
        )

    def _top_k(self, x: Tensor) -> tuple[Tensor, Tensor]:
        probs = torch.softmax((x @ self.router.to(x.dtype).T).float(), dim=-1)
        kept, experts = probs.topk(TOP_K, dim=-1)  # [T, k]
        return (kept / kept.sum(dim=-1, keepdim=True)).to(x.dtype), experts

    def _expert(self, x: Tensor, index: int) -> Tensor:
        down, up = self.down[index].to(x.dtype), self.up[index].to(x.dtype)
        return self.scaling * ((x @ down.T) @ up.T)


class ExpertLoop(_LiteralMixture):
    """Every expert computes every token; the gates weigh the outputs."""

    def forward(self, x: Tensor) -> Tensor:
        """Base layer plus the weighted sum over experts, [T, Do]."""
        kept, experts = self._top_k(x)
        gates = x.new_zeros(x.shape[0], NUM_EXPERTS).scatter(1, experts, kept)
        output: Tensor = self.base_layer(x)
        for i in range(NUM_EXPERTS):
            output = output + gates[:, i : i + 1] * self._expert(x, i)
        return output


class GatherLoop(_LiteralMixture):
    """Every expert computes the tokens that chose it."""

    def forward(self, x: Tensor) -> Tensor:
        """Base layer plus what each expert adds to its tokens, [T, Do]."""
        kept, experts = self._top_k(x)
        output: Tensor = self.base_layer(x)
        for i in range(NUM_EXPERTS):
            token, slot = torch.where(experts == i)
            weighted = kept[token, slot].unsqueeze(1) * self._expert(x[token], i)
            output = output.index_add(0, token, weighted)
        return output


@dataclass(frozen=True, kw_only=True)
class Row:
    """One contender at one width.

    Attributes:
        width: Input and output width of the linear.
        contender: Its name.
        forward: Time of a forward pass without gradients, ratio to the frozen linear.
        training: Time of forward and backward, ratio to the frozen linear.
        saved_floats: Saved for backward per token, beside the input and the parameters.
    """

    width: int
    contender: str
    forward: float
    training: float
    saved_floats: float


@dataclass(frozen=True, kw_only=True)
class Bar:
    """One bound: holds where ``value`` ≤ ``limit``. Overheads are ratios minus one."""

    width: int
    name: str
    value: float
    limit: float

    @property
    def holds(self) -> bool:
        """Whether the bound holds."""
        return self.value <= self.limit


def build_contenders(
    width: int, *, device: torch.device, dtype: torch.dtype
) -> dict[str, nn.Module]:
    """One layer of each kind over frozen ``width`` × ``width`` bases of the same values."""
    torch.manual_seed(0)
    base = nn.Linear(width, width, bias=False, device=device, dtype=dtype).requires_grad_(False)

    def lora(rank: int) -> nn.Module:
        config = LoraConfig(r=rank, lora_alpha=ALPHA, target_modules=["0"], init_lora_weights=False)
        host = inject_adapter_in_model(config, nn.Sequential(base))
        adapted: nn.Module = host[0].to(dtype)
        return adapted

    ours = LoraMoeLinear(base, num_experts=NUM_EXPERTS, top_k=TOP_K, rank=RANK, alpha=ALPHA)
    nn.init.normal_(ours.lora_B, std=0.02)
    ours.to(dtype)
    return {
        BASE: base,
        OURS: ours,
        LORA_R: lora(RANK),
        LORA_NR: lora(NUM_EXPERTS * RANK),
        EXPERT_LOOP: ExpertLoop(ours),
        GATHER_LOOP: GatherLoop(ours),
    }


def saved_floats_per_token(layer: nn.Module, x: Tensor) -> float:
    """Elements of all storages that the forward pass saves, beside ``x`` and the parameters."""
    known = {tensor.untyped_storage().data_ptr() for tensor in (x, *layer.parameters())}
    saved: dict[int, float] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            saved[storage.data_ptr()] = storage.nbytes() / tensor.element_size()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = layer(x)
    del output
    return sum(saved.values()) / x.shape[0]


def seconds(run: Callable[[], None], *, device: torch.device, clock: str) -> float:
    """Time of one run: on the wall, the device's queue included, or of the processor."""
    now = CLOCKS[clock]
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = now()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return now() - start


def measure(
    width: int,
    *,
    num_tokens: int,
    repeats: int,
    device: torch.device,
    dtype: torch.dtype,
    clock: str,
) -> list[Row]:
    """Time all contenders at one width, in turns."""
    contenders = build_contenders(width, device=device, dtype=dtype)
    x = torch.randn(num_tokens, width, device=device, dtype=dtype, requires_grad=True)
    d_output = torch.randn_like(x)

    def forward(layer: nn.Module) -> None:
        with torch.no_grad():
            layer(x)

    def train(layer: nn.Module) -> None:
        layer(x).backward(d_output)
        for tensor in (x, *layer.parameters()):
            tensor.grad = None

    def ratios(step: Callable[[nn.Module], None]) -> dict[str, float]:
        names = list(contenders)
        collected: dict[str, list[float]] = {name: [] for name in names}
        for repeat in range(WARM_UP + repeats):
            first = repeat % len(names)
            for name in names[first:] + names[:first]:
                base, contender = (
                    seconds(partial(step, contenders[turn]), device=device, clock=clock)
                    for turn in (BASE, name)
                )
                collected[name].append(contender / base)
        return {name: statistics.median(values[WARM_UP:]) for name, values in collected.items()}

    forward_ratios, training_ratios = ratios(forward), ratios(train)
    return [
        Row(
            width=width,
            contender=name,
            forward=forward_ratios[name],
            training=training_ratios[name],
            saved_floats=saved_floats_per_token(layer, x),
        )
        for name, layer in contenders.items()
    ]


def check_bars(rows: list[Row]) -> list[Bar]:
    """The bounds on ours, from the rows of one width."""
    named = {row.contender: row for row in rows}
    ours, lora, loop = named[OURS], named[LORA_NR], named[EXPERT_LOOP]
    width = ours.width
    bars = [
        Bar(
            width=width,
            name=f"overhead, forward + backward, {MAX_OVERHEAD_TO_LOOP:g} of {EXPERT_LOOP}'s",
            value=ours.training - 1,
            limit=MAX_OVERHEAD_TO_LOOP * (loop.training - 1),
        ),
        Bar(
            width=width,
            name="saved floats per token",
            value=ours.saved_floats,
            limit=MAX_SAVED_FLOATS,
        ),
    ]
    if width >= LORA_BAR_FROM_WIDTH:
        bars += [
            Bar(
                width=width,
                name=f"overhead, {kind}, {MAX_OVERHEAD_TO_LORA:g} of {LORA_NR}'s",
                value=value - 1,
                limit=MAX_OVERHEAD_TO_LORA * (lora_value - 1),
            )
            for kind, value, lora_value in (
                ("forward", ours.forward, lora.forward),
                ("forward + backward", ours.training, lora.training),
            )
        ]
    return bars


def print_tables(rows: list[Row], bars: list[Bar]) -> None:
    """Print both tables for people."""
    print(f"{'width':>6}  {'contender':<14} {'forward':>8} {'+ backward':>11} {'saved':>9}")
    for row in rows:
        print(
            f"{row.width:>6}  {row.contender:<14} {row.forward:>8.3f} {row.training:>11.3f} "
            f"{row.saved_floats:>9.1f}"
        )
    print()
    for bar in bars:
        verdict = "holds" if bar.holds else "MISSED"
        print(f"{bar.width:>6}  {bar.name:<52} {bar.value:>7.3f} ≤ {bar.limit:<7.3f} {verdict}")


def main() -> int:
    """Measure every width and print the tables or JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu", help="torch device, such as cpu or cuda")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--dims", type=int, nargs="+", default=[576, 1024, 2048, 4096])
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--threads", type=int, default=2, help="CPU threads")
    parser.add_argument("--clock", default="wall", choices=sorted(CLOCKS))
    parser.add_argument("--json", action="store_true", help="print one JSON object instead")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    device, dtype = torch.device(options.device), getattr(torch, options.dtype)
    rows: list[Row] = []
    bars: list[Bar] = []
    for width in options.dims:
        measured = measure(
            width,
            num_tokens=options.tokens,
            repeats=options.repeats,
            device=device,
            dtype=dtype,
            clock=options.clock,
        )
        rows += measured
        bars += check_bars(measured)
    if options.json:
        result = {
            "environment": {"torch": torch.__version__, **vars(options)},
            "rows": [asdict(row) for row in rows],
            "bars": [asdict(bar) | {"holds": bar.holds} for bar in bars],
        }
        print(json.dumps(result, indent=2))
    else:
        print_tables(rows, bars)
    return 0 if all(bar.holds for bar in bars) else 4


if __name__ == "__main__":
    sys.exit(main())
