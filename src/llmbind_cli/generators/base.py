"""What a generator is asked, what it gives back, and the protocol that all of them follow.

The frozen modality models of LLMBind (arXiv 2402.14891, section 3.1) are called with plain text
and, for edits, an image; they know nothing of the language model that wrote the prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from llmbind_cli.errors import LlmbindError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL.Image import Image

SEED_LIMIT = 2**63
"""Seeds lie in [0, 2^63): what torch takes and a signed 64-bit integer holds."""


@dataclass(frozen=True, kw_only=True)
class GeneratorRequest:
    """One item for a generator.

    Attributes:
        prompt: What to make, in plain words; never empty.
        seed: Seed of this item alone, in [0, 2^63).
        image: The picture to start from, for edits, or to point at; RGB in the frame the viewer
            sees.
        hidden_state: Of the semantic-embedding token that asks, float32 [D]; ``None`` for tasks
            whose prompt is words.
    """

    prompt: str
    seed: int
    image: Image | None = None
    hidden_state: NDArray[np.float32] | None = None

    def __post_init__(self) -> None:
        if not self.prompt.strip():
            raise ValueError("prompt must hold words, got an empty one")
        if not 0 <= self.seed < SEED_LIMIT:
            raise ValueError(f"seed must lie in [0, 2^63), got {self.seed}")


@dataclass(frozen=True, kw_only=True)
class GeneratedArtifact:
    """One finished file, still in memory.

    Attributes:
        payload: The bytes of the whole file.
        media_type: Its type, for example ``image/png``.
        suffix: File-name suffix with its dot, for example ``.png``.
        label: What tells it from the file that it goes with; empty for that file itself.
        companions: Files that go with it, each with a label.
    """

    payload: bytes
    media_type: str
    suffix: str
    label: str = ""
    companions: tuple[GeneratedArtifact, ...] = ()

    def __post_init__(self) -> None:
        if not self.payload:
            raise ValueError("payload must hold the bytes of a file, got none")
        if not self.suffix.startswith("."):
            raise ValueError(f"suffix must start with a dot, got {self.suffix!r}")


GenerationOutcome = GeneratedArtifact | LlmbindError
"""The artifact of one request, or the error that felled this request and no other."""


class Generator(Protocol):
    """A frozen model that turns requests of one modality into files."""

    @property
    def modality(self) -> str:
        """The task it serves: ``image``, ``edit``, ``video`` or ``audio``."""

    @property
    def name(self) -> str:
        """What results and file metadata call it; holds no path of this machine."""

    @property
    def fingerprint(self) -> str:
        """Changes whenever the weights or settings that shape a result change."""

    @property
    def batch_size(self) -> int:
        """How many requests it works on at a time; a caller hands over that many per call."""

    def generate(self, requests: Sequence[GeneratorRequest]) -> list[GenerationOutcome]:
        """Carry out the requests and return one outcome for each, in order.

        An outcome depends on its own request only: each request gets a random generator of its
        own, so neither its neighbours nor its place among them matter.
        """
