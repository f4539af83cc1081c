"""Which experts the requests of a plan went to, for the page's heat map: router load per task.

The load of a router is the share of a request's tokens whose first choice each expert is, f_i of
the Switch loss (LLMBind Eq. 10), over the request as the chat template frames it, without a reply.
"""

from __future__ import annotations

import json
from pathlib import Path

from llmbind_cli.console import console
from llmbind_cli.inference.requests import Request, read_requests


def with_router_loads(lines: bytes, requests: Path, *, model: str, offline: bool) -> bytes:
    """Add ``router_load`` to the first line of each request of a plan.

    Args:
        lines: What ``generate --plan --json`` printed.
        requests: What it was given.
        model: The bundle.
        offline: Take its base from the cache or fail at once.

    Returns:
        The lines; those of a bundle without routers are as they were.

    Raises:
        LlmbindError: The bundle cannot be loaded.
    """
    import torch

    from llmbind_cli.model.chat_format import encode_chat
    from llmbind_cli.model.loader import load_model
    from llmbind_cli.nn.router import collect_router_probs
    from llmbind_cli.training.parameters import router_names

    bound = load_model(model, device="cpu", offline=offline)
    names = router_names(bound.language_model)
    if not names:
        return lines
    loads: dict[str, dict[str, list[float]]] = {}
    asked = [row for row in read_requests(str(requests)) if isinstance(row, Request)]
    for request in console.progress(asked, desc="router load", unit="request"):
        ids = encode_chat(
            bound.tokenizer, request.turns(), bound.token_table, add_generation_prompt=True
        ).ids
        with torch.inference_mode(), collect_router_probs(bound.language_model) as record:
            bound.decoder(input_ids=torch.tensor([list(ids)]), use_cache=False)
        loads[request.id] = {
            name: torch.nn.functional.one_hot(probs[0].argmax(-1), probs.shape[-1])
            .float()
            .mean(0)
            .tolist()
            for name, probs in zip(names, record.probs(), strict=True)
        }
    written = []
    for line in lines.splitlines():
        fields = json.loads(line)
        load = loads.pop(fields["id"], None)
        written.append(json.dumps(fields | ({"router_load": load} if load else {})))
    return "".join(f"{line}\n" for line in written).encode()
