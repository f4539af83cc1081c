"""A recipe's data sources as encoded samples."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from llmbind_cli.data.encode import EncodedSample, encode_dialogue
from llmbind_cli.data.mixture import Mixture
from llmbind_cli.errors import InputDataError
from llmbind_cli.recipes.schema import BuiltDialogues, ConversationFiles, TrainSection
from llmbind_cli.tokens import TokenTable
from llmbind_cli.training.sources import read_source


@dataclass(frozen=True, kw_only=True)
class TrainingData:
    """All samples of a run.

    Attributes:
        samples: The encoded dialogues, source after source.
        sources: For the manifest: name, kind, count, file → sha256, and what each file held or
            the builder made.
        sizes: Number of samples of each source.
        weights: Relative share of each source in an epoch; ``None`` takes every sample once.
        sha256: Hash over all encoded samples.
    """

    samples: list[EncodedSample]
    sources: list[dict[str, Any]]
    sizes: list[int]
    weights: list[float] | None
    sha256: str

    def mixture(self, seed: int) -> Mixture:
        """Return which samples each epoch holds."""
        return Mixture(sizes=self.sizes, weights=self.weights, seed=seed)

    def task_counts(self) -> dict[str, int]:
        """Return how many calls of each task the replies make; ``text`` counts plain dialogues."""
        counts = Counter(task for sample in self.samples for task in sample.tasks or ("text",))
        return dict(counts.most_common())


def load_samples(
    sources: Sequence[ConversationFiles | BuiltDialogues],
    tokenizer: Any,
    table: TokenTable,
    train: TrainSection,
) -> TrainingData:
    """Read or build every source and encode it.

    Raises:
        InputDataError: A file is missing or malformed, a dialogue exceeds ``max_tokens`` or a
            source is empty.
    """
    samples: list[EncodedSample] = []
    described = []
    digest = hashlib.sha256()
    for source in sources:
        before = len(samples)
        reader = read_source(source)
        for dialogue in reader:
            sample = encode_dialogue(
                dialogue, tokenizer, table, decision_weight=train.decision_weight
            )
            if len(sample.ids) > train.max_tokens:
                raise InputDataError(
                    f"{source.name}: dialogue {dialogue.id} has {len(sample.ids)} tokens, more "
                    f"than train.max_tokens = {train.max_tokens}; raise it or leave the line out"
                )
            digest.update(json.dumps(sample.ids).encode())
            samples.append(sample)
        if len(samples) == before:
            raise InputDataError(f"{source.name}: this data source holds no dialogue")
        described.append(reader.describe())
    weights = [source.weight for source in sources if source.weight is not None]
    return TrainingData(
        samples=samples,
        sources=described,
        sizes=[entry["dialogues"] for entry in described],
        weights=weights or None,
        sha256=digest.hexdigest(),
    )
