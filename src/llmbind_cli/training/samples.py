"""A recipe's data sources as encoded samples."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from llmbind_cli.data.encode import EncodedSample, encode_dialogue
from llmbind_cli.data.mixture import Mixture
from llmbind_cli.data.sample import Dialogue
from llmbind_cli.errors import InputDataError
from llmbind_cli.model.chat_format import ImageSlot
from llmbind_cli.recipes.schema import Source, TrainSection
from llmbind_cli.tokens import TokenTable
from llmbind_cli.training.sources import SourceReader, read_source


@dataclass(frozen=True, kw_only=True)
class TrainingData:
    """All samples of a run.

    Attributes:
        samples: The encoded dialogues, source after source.
        sources: For the manifest: name, kind, count, file → sha256, and what each file held or
            the builder made.
        sizes: Number of samples of each source.
        weights: Relative share of each source in an epoch; ``None`` takes every sample once.
        sha256: Hash over all encoded samples and the names of their pictures.
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
    sources: Sequence[Source],
    tokenizer: Any,
    table: TokenTable,
    train: TrainSection,
    *,
    weights: Sequence[float] | None = None,
    left_out: Collection[str] = (),
    slot: ImageSlot | None = None,
) -> TrainingData:
    """Read or build every source and encode it.

    Args:
        sources: The tables of the recipe.
        tokenizer: The bundle's tokenizer.
        table: The bundle's token table.
        train: Gives the longest length and the weight of decisions.
        weights: Relative share of each source in an epoch; ``None`` takes those that the tables
            give, and every sample once where they give none.
        left_out: Names of pictures that nothing is to be said of.
        slot: What a picture takes up, for a model that sees.

    Raises:
        InputDataError: A file is missing or malformed, a dialogue exceeds ``max_tokens`` or a
            source is empty.
    """
    samples: list[EncodedSample] = []
    described = []
    for source in sources:
        before = len(samples)
        reader = read_source(source, left_out=left_out)
        samples += encoded_samples(reader, tokenizer, table, train, slot=slot)
        if len(samples) == before:
            raise InputDataError(f"{source.name}: this data source holds no dialogue")
        described.append(reader.describe())
    given = [source.weight for source in sources if source.weight is not None]
    return TrainingData(
        samples=samples,
        sources=described,
        sizes=[entry["dialogues"] for entry in described],
        weights=list(weights) if weights is not None else given or None,
        sha256=hash_samples(samples),
    )


def hash_samples(samples: Iterable[EncodedSample]) -> str:
    """Return the sha256 of encoded samples and the names of their pictures."""
    digest = hashlib.sha256()
    for sample in samples:
        digest.update(json.dumps(sample.ids).encode())
        if sample.sample is not None:
            digest.update(json.dumps([p.key for p in sample.sample.pictures]).encode())
    return digest.hexdigest()


def encoded_samples(
    reader: SourceReader,
    tokenizer: Any,
    table: TokenTable,
    train: TrainSection,
    *,
    look_at: Callable[[Dialogue], None] | None = None,
    slot: ImageSlot | None = None,
) -> Iterator[EncodedSample]:
    """Encode the dialogues of one source, one after another.

    Args:
        reader: The source.
        tokenizer: The bundle's tokenizer.
        table: The bundle's token table.
        train: Gives the longest length and the weight of decisions.
        look_at: Called with every dialogue before it is encoded.
        slot: What a picture takes up, for a model that sees.

    Raises:
        InputDataError: A file is missing or malformed, or a dialogue exceeds ``max_tokens``.
    """
    for dialogue in reader:
        if look_at is not None:
            look_at(dialogue)
        sample = encode_dialogue(
            dialogue, tokenizer, table, decision_weight=train.decision_weight, slot=slot
        )
        if len(sample.ids) > train.max_tokens:
            raise InputDataError(
                f"{reader.name}: dialogue {dialogue.id} has {len(sample.ids)} tokens, more "
                f"than train.max_tokens = {train.max_tokens}; raise it or leave the line out"
            )
        yield sample
