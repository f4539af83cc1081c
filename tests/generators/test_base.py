from __future__ import annotations

import pytest

from llmbind_cli.generators.base import GeneratedArtifact, GeneratorRequest


@pytest.mark.parametrize("prompt", ["", " \n"])
def test_request_needs_words(prompt: str) -> None:
    with pytest.raises(ValueError, match="prompt"):
        GeneratorRequest(prompt=prompt, seed=0)


@pytest.mark.parametrize("seed", [-1, 2**63])
def test_request_seed_has_a_range(seed: int) -> None:
    with pytest.raises(ValueError, match="seed"):
        GeneratorRequest(prompt="a cat", seed=seed)


def test_artifact_needs_bytes_and_a_dotted_suffix() -> None:
    with pytest.raises(ValueError, match="payload"):
        GeneratedArtifact(payload=b"", media_type="image/png", suffix=".png")
    with pytest.raises(ValueError, match="suffix"):
        GeneratedArtifact(payload=b"x", media_type="image/png", suffix="png")
