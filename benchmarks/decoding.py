"""Tokens a second when the embedded bundle answers, by batch size, side by side in one run.

    python benchmarks/decoding.py [--model BUNDLE] [--requests 32] [--tokens 32]

A reply ends where the model ends it, at `--tokens` ids at most. Also prints how many replies are
the same as with batch size 1; a CPU's bfloat16 makes the same at
every size, while float32 and GPUs may let a near tie fall either way.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

from llmbind_cli.model.chat_format import ChatTurn, encode_chat
from llmbind_cli.model.decode import decode
from llmbind_cli.model.loader import load_model

REQUESTS = Path(__file__).parents[1] / "tests" / "data" / "requests.jsonl"


def main() -> None:
    """Measure and print one line a batch size."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--requests", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=32)
    args = parser.parse_args()
    model = load_model(args.model, dtype=args.dtype)
    rows = [json.loads(line) for line in REQUESTS.read_text().splitlines()]
    texts = [row["prompt"] for row in rows if "history" not in row][: args.requests]
    prompts = [
        encode_chat(
            model.tokenizer,
            [ChatTurn(role="user", content=text)],
            model.token_table,
            add_generation_prompt=True,
        ).ids
        for text in texts
    ]
    decode(model, prompts[:2], max_new_tokens=4)  # first use compiles kernels
    alone: list[list[int]] = []
    for batch_size in (1, 4, 8, 16):
        started = time.monotonic()
        replies = [
            reply.ids
            for start in range(0, len(prompts), batch_size)
            for reply in decode(
                model, prompts[start : start + batch_size], max_new_tokens=args.tokens
            )
        ]
        seconds = time.monotonic() - started
        alone = alone or replies
        same = sum(a == b for a, b in zip(alone, replies, strict=True))
        emitted = sum(map(len, replies))
        print(
            f"batch {batch_size:2}: {emitted / seconds:6.1f} tokens/s, "
            f"{len(prompts) / seconds:5.2f} requests/s, {same}/{len(prompts)} as alone"
        )


if __name__ == "__main__":
    main()
