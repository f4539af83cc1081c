"""What ``benchmarks/batch.py`` measures: pipelines of random weights, and the way without llmbind.

    python benchmarks/batch_contenders.py REQUESTS PIPELINES OUT

does what the authors' released script does (LLMBind, de856fa): the language model is loaded once
and answers one request after the other without a KV cache; for each call of a reply the pipeline
of its task is loaded from disk anew, makes its file, and is dropped. Model, choice of tokens, seeds
and sampling steps are llmbind's. It spares itself part of what that script does: logits of the last
position alone are computed, and sounds are written as they are. Writes ``replies.json`` beside the
files, and ``making.json``: seconds that loaded pipelines took to make files.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

SUPPORT = Path(__file__).parents[1] / "tests" / "support"
STEPS = 2
CLASSES = {
    "image": "StableDiffusionPipeline",
    "video": "TextToVideoSDPipeline",
    "audio": "AudioLDMPipeline",
}


def save_pipelines(folder: Path) -> None:
    """Save a small random pipeline of each task: those of the tests, with room for long prompts."""
    sys.path.insert(0, str(SUPPORT))
    import tiny_pipeline_parts

    tiny_pipeline_parts.TOKEN_LIMIT = 400
    from tiny_pipeline import build_pipeline
    from tiny_pipeline_media import build_media_pipeline

    for task, name in CLASSES.items():
        pipeline = build_pipeline() if task == "image" else build_media_pipeline(name)
        pipeline.save_pretrained(folder / task)
        settings = {"num_inference_steps": STEPS, "guidance_scale": 2.0}
        (folder / task / "sampling.json").write_text(json.dumps(settings))


def decode_without_cache(model: Any, prompt: Sequence[int], *, max_new_tokens: int) -> list[int]:
    """Answer greedily; every step reads all ids again.

    Args:
        model: A ``BoundModel``.
        prompt: An encoded conversation.
        max_new_tokens: Most ids emitted.

    Returns:
        The reply's ids, chosen under the same token grammar as llmbind's.
    """
    import torch

    from llmbind_cli.model.chat_format import stop_ids
    from llmbind_cli.model.token_grammar import TokenGrammar

    grammar = TokenGrammar(model.token_table, stop_ids(model.tokenizer))
    states = grammar.start([()], model.device)
    reply: list[int] = []
    with torch.inference_mode():
        while len(reply) < max_new_tokens:
            ids = torch.tensor([[*prompt, *reply]], device=model.device)
            hidden = model.decoder(input_ids=ids, use_cache=False).last_hidden_state[:, -1]
            logits = grammar.constrain(model.output_head(hidden).float(), states)
            chosen = logits.argmax(dim=-1)
            states = grammar.next_states(states, chosen)
            if int(chosen) in grammar.stop_ids:
                break
            reply.append(int(chosen))
    return reply


def make_file(folder: Path, task: str, prompt: str, seed: int, target: Path) -> float:
    """Load a pipeline from disk, make one file, and drop the pipeline.

    Returns:
        Seconds that the loaded pipeline took to make the file.
    """
    import diffusers
    import numpy as np
    import torch

    pipeline = getattr(diffusers, CLASSES[task]).from_pretrained(folder / task)
    pipeline.set_progress_bar_config(disable=True)
    began = time.monotonic()
    made = pipeline(
        prompt,
        num_inference_steps=STEPS,
        guidance_scale=2.0,
        generator=torch.Generator().manual_seed(seed),
    )
    if task == "image":
        made.images[0].save(target.with_suffix(".png"))
    elif task == "video":
        write_clip(made.frames[0], target.with_suffix(".mp4"))
    else:
        np.save(target.with_suffix(".npy"), made.audios[0])
    return time.monotonic() - began


def write_clip(frames: Any, target: Path) -> None:
    """Write frames, float [T, H, W, 3] in [0, 1], as H.264."""
    import av

    with av.open(str(target), "w") as container:
        stream = container.add_stream("libx264", rate=8)
        stream.height, stream.width = frames.shape[1:3]
        for frame in (frames * 255).round().astype("uint8"):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame)))
        container.mux(stream.encode())


def main() -> None:
    """Answer and make, one request after the other."""
    requests, pipelines, out = map(Path, sys.argv[1:])
    from llmbind_cli.inference.dispatch import jobs_of_reply
    from llmbind_cli.model.chat_format import ChatTurn, encode_chat
    from llmbind_cli.model.loader import load_model
    from llmbind_cli.tokens import ReplyError, parse_reply, reply_text

    out.mkdir(parents=True)
    model = load_model(device="cpu")
    replies, making_s = {}, 0.0
    for line in requests.read_text().splitlines():
        request = json.loads(line)
        turns = [ChatTurn(role="user", content=request["prompt"])]
        prompt = encode_chat(
            model.tokenizer, turns, model.token_table, add_generation_prompt=True
        ).ids
        reply = decode_without_cache(model, prompt, max_new_tokens=256)
        replies[request["id"]] = reply_text(reply, model.tokenizer, model.token_table)
        try:
            calls = parse_reply(reply, model.tokenizer, model.token_table)
        except ReplyError:
            continue
        for job in jobs_of_reply(calls, item_id=request["id"], run_seed=0):
            if job.task in CLASSES:
                name = f"{job.item_id}-{job.task}-{job.index}"
                making_s += make_file(pipelines, job.task, job.prompt, job.seed, out / name)
    (out / "replies.json").write_text(json.dumps(replies))
    (out / "making.json").write_text(json.dumps(making_s))


if __name__ == "__main__":
    main()
