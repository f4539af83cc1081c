"""What `training.py` compares: one training run each on the same base and the same batches."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from torch.nn import functional
from training_rounds import Channel, LossRecord, Result, RoundClock, Settings, peak_bytes
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from llmbind_cli.data.batches import GROUP, collate, endless_batches, epoch_order
from llmbind_cli.data.encode import EncodedSample
from llmbind_cli.data.mixture import Mixture
from llmbind_cli.interrupt import GracefulInterrupt
from llmbind_cli.model.bound_model import BoundModel
from llmbind_cli.model.config import BaseModel, BundleConfig
from llmbind_cli.model.language_model import load_language_model
from llmbind_cli.model.lora_moe_adapter import LoraMoeConfig, inject_lora_moe
from llmbind_cli.nn.device import choose_device, choose_dtype
from llmbind_cli.nn.lora_moe import LoraMoeLinear
from llmbind_cli.nn.router import Router
from llmbind_cli.recipes.schema import TrainSection
from llmbind_cli.tokens import TokenTable
from llmbind_cli.training.distributed import Processes
from llmbind_cli.training.engine import TorchEngine
from llmbind_cli.training.loop import train_loop
from llmbind_cli.training.meter import Meter
from llmbind_cli.training.objective import LanguageObjective
from llmbind_cli.training.optim import Optimization
from llmbind_cli.training.run_log import LOG_NAME, RunLog
from llmbind_cli.weights import cache

NUM_EXPERTS, TOP_K, RANK, ALPHA = 4, 2, 8, 16.0
LINEARS = ["gate_proj", "up_proj", "down_proj"]
LR, BETAS, CLIP, AUX_COEFFICIENT, LOG_EVERY = 1e-3, (0.9, 0.95), 1.0, 0.01, 10

OURS, PEFT = "llmbind", "PEFT + Trainer"
EXPERT_LOOP, GATHER_LOOP = "expert loop", "gather loop"
CONTENDERS = (OURS, PEFT, EXPERT_LOOP, GATHER_LOOP)

# Of the embedded bundle's dialogues: spread of their lengths, share of replies in them.
LOG_LENGTH_STD, REPLY_SHARE = 0.45, 0.40


class LiteralMoeLinear(nn.Module):
    """LoRA-MoE as it is commonly written: experts apart, a loop over them, gates on their outputs.

    Starts from the very weights of ``layer``.

    Args:
        layer: The layer to stand in for; its base layer and router are used as they are.
        gathers: Whether each expert computes only the tokens that chose it.
    """

    def __init__(self, layer: LoraMoeLinear, *, gathers: bool) -> None:
        super().__init__()
        self.base_layer, self.router = layer.base_layer, layer.router
        self.top_k, self.scaling, self.gathers = layer.top_k, layer.scaling, gathers
        parts = layer.num_experts
        self.down = nn.ParameterList(p.clone() for p in layer.lora_A.detach().chunk(parts))
        self.up = nn.ParameterList(
            p.clone(memory_format=torch.contiguous_format)
            for p in layer.lora_B.detach().chunk(parts, dim=1)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Base layer plus weighted experts, [..., Di] → [..., Do]."""
        leading_shape = x.shape[:-1]
        x = x.reshape(-1, x.shape[-1])  # [T, Di]
        logits = functional.linear(x, self.router.weight).float()  # [T, N]
        self.router.observe(logits.view(*leading_shape, -1))
        kept, experts = torch.softmax(logits, dim=-1).topk(self.top_k, dim=-1)  # [T, k]
        output: Tensor = self.base_layer(x)  # [T, Do]
        kept = (kept / kept.sum(dim=-1, keepdim=True)).to(output.dtype)
        gates = kept.new_zeros(logits.shape).scatter(1, experts, kept)
        for i in range(len(self.down)):
            if self.gathers:
                token, slot = torch.where(experts == i)
                weighted = kept[token, slot].unsqueeze(1) * self._expert(x[token], i)
                output = output.index_add_(0, token, weighted.to(output.dtype))
            else:
                output += gates[:, i : i + 1] * self._expert(x, i)
        return output.view(*leading_shape, -1)

    def _expert(self, x: Tensor, index: int) -> Tensor:
        activations = functional.linear(x, self.down[index])
        return self.scaling * functional.linear(activations, self.up[index])


def make_samples(settings: Settings, *, loss_on: str, vocab_size: int) -> list[EncodedSample]:
    """Draw the dialogues of one round, each with one reply at its end."""
    generator = torch.Generator().manual_seed(0)
    num_batches = settings.steps * settings.accumulation
    # A run sorts GROUP batches together by length; of as many, every so-manieth is taken here, so
    # that there is as little padding as in a run.
    drawn = -(-GROUP // num_batches) * num_batches * settings.batch_size
    spread = torch.randn(drawn, generator=generator) * LOG_LENGTH_STD
    lengths = (settings.median_length * spread.exp()).round().int().clamp(min=8).sort().values
    every = drawn // (num_batches * settings.batch_size)
    batches = lengths.view(-1, settings.batch_size)[every // 2 :: every]
    samples = []
    for length in batches.flatten().tolist():
        asked = 0 if loss_on == "all" else length - max(1, round(REPLY_SHARE * length))
        samples.append(
            EncodedSample(
                ids=torch.randint(vocab_size, (length,), generator=generator).tolist(),
                loss_weights=[0.0] * asked + [1.0] * (length - asked),
                reply_kinds=[0] * length,
                tasks=(),
            )
        )
    return samples


def load_base(settings: Settings, device: torch.device) -> Any:
    """The frozen base, from its source or with random weights of the given shape."""
    # run.py takes eager attention on a CPU, where it trains faster; so do all contenders here.
    attention = "eager" if device.type == "cpu" else "sdpa"
    if settings.base is not None:
        directory = cache.resolve(settings.base)
        model = load_language_model(directory, device=device, dtype=settings.dtype)
        model.set_attn_implementation(attention)
        return model
    config = LlamaConfig(
        hidden_size=settings.hidden_size,
        intermediate_size=settings.intermediate_size,
        num_hidden_layers=settings.layers,
        num_attention_heads=settings.heads,
        num_key_value_heads=settings.kv_heads,
        vocab_size=settings.vocab_size,
        tie_word_embeddings=True,
        pad_token_id=None,
    )
    torch.manual_seed(0)
    with device:
        return AutoModelForCausalLM.from_config(
            config, dtype=choose_dtype(settings.dtype, device), attn_implementation=attention
        )


class _TurnTakingEngine(TorchEngine):
    """The plain engine, which waits for its turns as Trainer's callback does."""

    def __init__(self, *args: Any, clock: RoundClock, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._clock = clock

    def step(self) -> float:
        norm = super().step()
        self._clock.step_done()
        return norm


def train_ours(
    base: Any,
    *,
    contender: str,
    samples: Sequence[EncodedSample],
    settings: Settings,
    clock: RoundClock,
    record: LossRecord,
) -> None:
    """Train LoRA-MoE, or a loop over experts in its place, with llmbind's own loop."""
    torch.manual_seed(1)
    config = LoraMoeConfig(
        r=RANK, lora_alpha=ALPHA, num_experts=NUM_EXPERTS, top_k=TOP_K, target_modules=LINEARS
    )
    inject_lora_moe(base, config)
    if contender != OURS:
        for name, module in list(base.named_modules()):
            if isinstance(module, LoraMoeLinear):
                parent, _, attribute = name.rpartition(".")
                literal = LiteralMoeLinear(module, gathers=contender == GATHER_LOOP)
                setattr(base.get_submodule(parent), attribute, literal)
    shape = base.get_input_embeddings().weight.shape
    identity = BaseModel(source="random", sha256=None, vocab_size=shape[0], hidden_size=shape[1])
    model = BoundModel(
        config=BundleConfig(name="benchmark", language_model=identity, tokens=(), token_ids={}),
        tokenizer=None,
        language_model=base,
        token_table=TokenTable(tokens=(), ids={}),
        fingerprint="unsaved",
    )
    objective = LanguageObjective(model, aux_coefficient=AUX_COEFFICIENT)
    objective.register_forward_hook(
        lambda module, inputs, losses: record.observe(
            losses.kind_sums.sum(), losses.kind_counts.sum()
        )
    )
    total_steps = settings.turns * settings.steps
    optimization = Optimization(
        groups=[({name: p for name, p in base.named_parameters() if p.requires_grad}, LR)],
        betas=BETAS,
        weight_decay=0.0,
        clip=CLIP,
        accumulation=settings.accumulation,
        warmup_steps=0,
        total_steps=None,
    )
    schedule = TrainSection(
        steps=total_steps,
        batch_size=settings.batch_size,
        accumulation=settings.accumulation,
        log_every=LOG_EVERY,
        checkpoint_every=total_steps,
    )
    routers = [name for name, module in base.named_modules() if isinstance(module, Router)]
    mixture = Mixture(sizes=[len(samples)], weights=None, seed=0)
    with tempfile.TemporaryDirectory() as folder:
        clock.wait()
        train_loop(
            _TurnTakingEngine(
                objective, optimization, device=model.device, dtype=base.dtype, clock=clock
            ),
            endless_batches(samples, mixture, settings.batch_size, seed=0),
            first_step=0,
            total_steps=total_steps,
            train=schedule,
            processes=Processes(),
            meter=Meter(routers=routers, first_step=0, total_steps=total_steps),
            log=RunLog(Path(folder) / LOG_NAME, step=0),
            events=None,
            checkpoint=lambda step: None,
            evaluate=None,
            interrupt=GracefulInterrupt(),
        )


class _Turns(TrainerCallback):  # type: ignore[misc]
    """Lets Trainer wait for its turns as our loop does."""

    def __init__(self, clock: RoundClock) -> None:
        self._clock = clock

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        self._clock.wait()

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        self._clock.step_done()


def train_peft(
    base: Any,
    *,
    samples: Sequence[EncodedSample],
    settings: Settings,
    clock: RoundClock,
    record: LossRecord,
) -> None:
    """Train PEFT LoRA of rank N r under Trainer, on the batches that our loop sees."""
    torch.manual_seed(1)
    lora = LoraConfig(
        r=NUM_EXPERTS * RANK,
        lora_alpha=NUM_EXPERTS * ALPHA,
        target_modules=LINEARS,
        layers_to_transform=list(range(1, base.config.num_hidden_layers, 2)),
    )
    model = get_peft_model(base, lora)
    # Trainer hands the number of targets of the whole step in, so that losses sum to the mean.
    model.register_forward_hook(
        lambda module, inputs, output: record.observe(output.loss, 1 / settings.accumulation)
    )

    def pad(chosen: list[EncodedSample]) -> dict[str, Tensor]:
        batch = collate(chosen)
        labels = batch.input_ids.masked_fill(batch.loss_weights == 0, -100)
        return {
            "input_ids": batch.input_ids,
            "attention_mask": batch.attention_mask,
            "labels": labels,
        }

    mixture = Mixture(sizes=[len(samples)], weights=None, seed=0)
    lengths = [len(sample.ids) for sample in samples]
    in_order = [
        samples[index]
        for epoch in range(settings.turns)
        for batch in epoch_order(mixture, lengths, settings.batch_size, seed=0, epoch=epoch)
        for index in batch
    ]
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            max_steps=settings.turns * settings.steps,
            per_device_train_batch_size=settings.batch_size,
            gradient_accumulation_steps=settings.accumulation,
            train_sampling_strategy="sequential",
            learning_rate=LR,
            lr_scheduler_type="constant",
            adam_beta1=BETAS[0],
            adam_beta2=BETAS[1],
            weight_decay=0.0,
            max_grad_norm=CLIP,
            bf16=base.dtype == torch.bfloat16,
            fp16=base.dtype == torch.float16,
            use_cpu=base.device.type == "cpu",
            logging_steps=LOG_EVERY,
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            dataloader_num_workers=0,
            dataloader_pin_memory=False,
            remove_unused_columns=False,
        )
        trainer = Trainer(
            model=model,
            args=arguments,
            train_dataset=in_order,
            data_collator=pad,
            callbacks=[_Turns(clock)],
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()


def train_contender(channel: Channel, settings: Settings, contender: str, loss_on: str) -> None:
    """One contender's process: train in turns, then report a :class:`Result`.

    Args:
        channel: Sends one None when ready, receives one per round, sends the round's seconds, and
            the result at the end.
        settings: What all contenders share.
        contender: One of ``CONTENDERS``.
        loss_on: ``all`` ids or ``replies``.
    """
    device = choose_device(settings.device)
    base = load_base(settings, device)
    vocab_size = base.get_input_embeddings().weight.shape[0]
    samples = make_samples(settings, loss_on=loss_on, vocab_size=vocab_size)
    clock = RoundClock(channel, settings, device)
    record = LossRecord(settings.accumulation)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    start_bytes = peak_bytes(device)
    channel.send(None)
    shared: dict[str, Any] = {
        "samples": samples,
        "settings": settings,
        "clock": clock,
        "record": record,
    }
    with redirect_stdout(sys.stderr):  # stdout is for the tables, whatever a package prints
        if contender == PEFT:
            train_peft(base, **shared)
        else:
            train_ours(base, contender=contender, **shared)
    channel.send(
        Result(
            seconds=clock.seconds[1:],
            peak_bytes=peak_bytes(device),
            start_bytes=start_bytes,
            trained=sum(p.numel() for p in base.parameters() if p.requires_grad),
            first_loss=record.of_step(0),
            last_loss=record.of_step(-1),
        )
    )
