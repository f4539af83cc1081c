"""Whether a bundle answers plain talk as well as the base LLM under it.

Scores replies to plain messages under the bundle and under its bare base (adapters off, task
tokens out of the vocabulary) and prints the mean loss per reply token of both:

    python benchmarks/plain_talk.py [tests/data/talk.jsonl] [--model BUNDLE] [--report FILE.json]

Each line holds a prompt and a reply. With `--replies base` the base's own greedy replies to the
prompts are scored instead of the written ones.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import statistics
from pathlib import Path
from random import Random
from typing import Any

DEFAULT = Path(__file__).parents[1] / "tests" / "data" / "talk.jsonl"
RESAMPLES = 2_000
DTYPE = "float32"


def reply_losses(model: Any, pairs: list[dict[str, str]]) -> list[tuple[float, float, int]]:
    """Return for each pair: summed loss under the bundle, under the base (nats), reply tokens."""
    import torch
    from torch.nn import functional

    from llmbind_cli.model.chat_format import ChatTurn, encode_chat
    from llmbind_cli.model.lora_moe_adapter import without_adapter

    task_ids = list(model.token_table.ids.values())
    losses = []
    for pair in pairs:
        turns = [
            ChatTurn(role="user", content=pair["prompt"]),
            ChatTurn(role="assistant", content=pair["reply"]),
        ]
        chat = encode_chat(model.tokenizer, turns, model.token_table, add_generation_prompt=False)
        start, stop = chat.reply_spans[0]
        ids = torch.tensor([chat.ids], device=model.device)
        targets = ids[0, start:stop]
        with torch.no_grad():
            bound = model.language_model(ids).logits[0, start - 1 : stop - 1].float()
            with without_adapter(model.language_model):
                bare = model.language_model(ids).logits[0, start - 1 : stop - 1].float()
        bare[:, task_ids] = float("-inf")
        sums = [float(functional.cross_entropy(x, targets, reduction="sum")) for x in (bound, bare)]
        losses.append((sums[0], sums[1], stop - start))
    return losses


def ratio(losses: list[tuple[float, float, int]]) -> float:
    """Return the bundle's loss over the base's, both per token."""
    return sum(bound for bound, _, _ in losses) / sum(bare for _, bare, _ in losses)


def interval(losses: list[tuple[float, float, int]], *, seed: int = 0) -> tuple[float, float]:
    """Return the 95 % bootstrap interval of the ratio over pairs."""
    rng = Random(seed)
    ratios = sorted(ratio(rng.choices(losses, k=len(losses))) for _ in range(RESAMPLES))
    cuts = statistics.quantiles(ratios, n=40)
    return cuts[0], cuts[-1]


def base_replies(model: Any, pairs: list[dict[str, str]], *, tokens: int) -> list[dict[str, str]]:
    """Return the prompts with the base's own greedy replies, cut at ``tokens``."""
    import torch

    from llmbind_cli.model.chat_format import ChatTurn, encode_chat, stop_ids
    from llmbind_cli.model.lora_moe_adapter import without_adapter

    task_ids = set(model.token_table.ids.values())
    answered = []
    for pair in pairs:
        turns = [ChatTurn(role="user", content=pair["prompt"])]
        chat = encode_chat(model.tokenizer, turns, model.token_table, add_generation_prompt=True)
        with torch.no_grad(), without_adapter(model.language_model):
            written = model.language_model.generate(
                torch.tensor([chat.ids], device=model.device),
                max_new_tokens=tokens,
                do_sample=False,
                suppress_tokens=sorted(task_ids),
                eos_token_id=sorted(stop_ids(model.tokenizer)),
                pad_token_id=0,
            )[0, len(chat.ids) :]
        reply = model.tokenizer.decode(written, skip_special_tokens=True).strip()
        if reply:
            answered.append({"prompt": pair["prompt"], "reply": reply})
    return answered


def main() -> None:
    """Score and print; with ``--report`` also write the figures with their provenance."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("talk", type=Path, nargs="?", default=DEFAULT)
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--replies", choices=["written", "base"], default="written")
    parser.add_argument("--reply-tokens", type=int, default=64, help="of the base's own replies")
    parser.add_argument("--report", type=Path)
    args = parser.parse_args()

    from llmbind_cli.model.loader import load_model

    model = load_model(args.model, dtype=DTYPE)
    model.language_model.eval()
    content = args.talk.read_bytes()
    pairs = [json.loads(line) for line in content.splitlines() if line.strip()]
    if args.replies == "base":
        pairs = base_replies(model, pairs, tokens=args.reply_tokens)
    losses = reply_losses(model, pairs)
    tokens = sum(count for _, _, count in losses)
    low, high = interval(losses)
    bound = sum(loss for loss, _, _ in losses) / tokens
    bare = sum(loss for _, loss, _ in losses) / tokens
    print(f"replies        {len(pairs)} ({args.replies}), {tokens} tokens")
    print(f"base           {bare:.4f} nats a token")
    print(f"bundle         {bound:.4f} nats a token")
    print(f"bundle / base  {bound / bare:.4f} (95 % interval {low:.4f} to {high:.4f})")
    if args.report:
        report = {
            "replies": args.replies,
            "n": len(pairs),
            "tokens": tokens,
            "base_loss": bare,
            "bundle_loss": bound,
            "ratio": bound / bare,
            "interval": [low, high],
            "data": {"name": args.talk.name, "sha256": hashlib.sha256(content).hexdigest()},
            "model": model.name,
            "dtype": DTYPE,
            "seed": 0,
            "command": f"python benchmarks/plain_talk.py --replies {args.replies}",
        }
        args.report.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
