"""Fit the prompt projection to what the language model's states already tell.

Between the two trainings: the language model reads dialogues about pictures as it stands, and the
projection learns to make the reader's prompts of the states that predict its ``seg`` tokens.
States are collected once; the perceptron is then fitted in a minute, where the joint training,
which sees each state once, would take hours.

Notation: ``M`` masks, ``D`` width of the language model, ``P`` width of the prompt.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from resumable.precision import cpu_autocast
from safetensors.torch import load_file, save
from torch import Tensor, nn
from torch.nn import functional

from embedded_sight.grounding import Grounding
from llmbind_cli.console import console
from llmbind_cli.data.batches import SeenBatch
from llmbind_cli.data.encode import EncodedSample, encode_dialogue
from llmbind_cli.data.sample import Sample
from llmbind_cli.data.scenes.questions import SceneQuestions
from llmbind_cli.model.bound_model import BoundModel
from llmbind_cli.model.checkpoint import CARD_NAME
from llmbind_cli.model.config import CONFIG_NAME, HEADS_NAME, BundleConfig, SightConfig
from llmbind_cli.training.model_card import training_card
from llmbind_cli.training.objective import LanguageObjective
from llmbind_cli.training.seeing import SeeingCollator
from llmbind_cli.weights.atomic import write_atomically

_BATCH, _LOG_EVERY = 8, 20
_EPOCHS, _ROWS, _LR, _DROPPED, _HELD_OUT = 100, 128, 1e-3, 0.1, 0.1


@dataclass(frozen=True)
class ReadPhrases:
    """What the language model makes of phrases.

    Attributes:
        states: Those that predict the phrases' ``seg`` tokens, [M, D].
        phrases: ``M`` of them.
    """

    states: Tensor
    phrases: list[str]

    @classmethod
    def of(cls, parts: Sequence[ReadPhrases]) -> ReadPhrases:
        """Put several one after another."""
        phrases = [phrase for part in parts for phrase in part.phrases]
        return cls(torch.cat([part.states for part in parts]), phrases)

    @classmethod
    def load(cls, path: Path) -> ReadPhrases:
        """Read what :meth:`save` wrote."""
        return cls(**torch.load(path, weights_only=True))

    def save(self, path: Path) -> None:
        """Write it to a file."""
        torch.save(vars(self), path)

    @torch.no_grad()
    def prompts(self, teacher: Grounding) -> Tensor:
        """Return what the teacher makes of the phrases, [M, P]."""
        starts = range(0, len(self.phrases), _ROWS)
        parts = [teacher.prompts(self.phrases[start : start + _ROWS]) for start in starts]
        return torch.cat(parts).float()


@torch.no_grad()
def collect(model: BoundModel, questions: SceneQuestions, numbers: Iterable[int]) -> ReadPhrases:
    """Read dialogues about scenes.

    Args:
        model: The model; its adapters are on.
        questions: The scenes.
        numbers: Of the dialogues.
    """
    samples = (encoded(model, questions[number]) for number in numbers)
    parts = read_states(model, samples)
    return ReadPhrases.of([ReadPhrases(found, list(seen.phrases)) for seen, found in parts])


@torch.no_grad()
def read_states(
    model: BoundModel,
    samples: Iterable[EncodedSample],
    *,
    collated: SeeingCollator | None = None,
) -> Iterator[tuple[SeenBatch, Tensor]]:
    """Read dialogues, eight at a time.

    Args:
        model: The model; its adapters are on.
        samples: The dialogues.
        collated: Makes batches of them; by default of what the model sees.

    Yields:
        What is seen in some of them, and the states that predict their ``seg`` tokens, [M, D].
    """
    if model.sight is None:
        raise ValueError("the model must see")
    objective = LanguageObjective(model, aux_coefficient=0.0).eval()
    collated = SeeingCollator(model.sight) if collated is None else collated
    left, read, masks = iter(samples), 0, 0
    while part := list(islice(left, _BATCH)):
        batch = collated(part)
        with cpu_autocast():
            hidden = objective.hidden_states(batch)
        if batch.seen is not None:
            places = batch.seen.places
            masks += len(places)
            yield batch.seen, hidden[places[:, 0], places[:, 1]].float()
        read += len(part)
        if read % (_BATCH * _LOG_EVERY) == 0:
            console.log(f"{read} dialogues, {masks} masks")


def encoded(model: BoundModel, sample: Sample) -> EncodedSample:
    """Encode a dialogue whose states are to be read."""
    return encode_dialogue(
        sample,
        model.tokenizer,
        model.token_table,
        decision_weight=1.0,
        slot=model.image_slot,
    )


def fit(projection: nn.Module, states: Tensor, prompts: Tensor, *, anew: bool = True) -> float:
    """Fit a projection in place; what is best on a tenth of the pairs, set apart, is kept.

    Args:
        projection: [M, D] → [M, P].
        states: [M, D].
        prompts: [M, P].
        anew: Forget what it was before: it may have been fitted to some of the pairs set apart.

    Returns:
        Share of the variance of the pairs set apart that is explained.
    """
    chance = torch.Generator().manual_seed(0)
    order = torch.randperm(len(states), generator=chance)
    apart, learned = order.tensor_split([int(_HELD_OUT * len(states))])
    variance = (prompts[apart] - prompts[learned].mean(0)).square().mean()
    for layer in projection.modules():
        if anew and isinstance(layer, nn.Linear):
            layer.reset_parameters()
    optimizer = torch.optim.AdamW(projection.parameters(), lr=_LR, weight_decay=0.1)
    falling = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=_EPOCHS)

    @torch.no_grad()
    def explained() -> float:
        wrong = functional.mse_loss(projection(states[apart]), prompts[apart])
        return float(1 - wrong / variance)

    best, kept = explained(), copy.deepcopy(projection.state_dict())
    console.log(f"{best:.3f} of the variance explained before")
    for epoch in range(_EPOCHS):
        for rows in learned[torch.randperm(len(learned), generator=chance)].split(_ROWS):
            thinned = functional.dropout(states[rows], _DROPPED)
            loss = functional.mse_loss(projection(thinned), prompts[rows])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
        falling.step()
        if (share := explained()) > best:
            best, kept = share, copy.deepcopy(projection.state_dict())
        if epoch % 20 == 0:
            console.log(f"epoch {epoch}: {share:.3f} of the variance explained")
    projection.load_state_dict(kept)
    return best


def replace_heads(
    bundle: Path, tensors: Mapping[str, Tensor], *, dropped: tuple[str, ...] = ()
) -> None:
    """Put fitted weights into a bundle, in place of its own and in the dtype of those.

    Args:
        bundle: The bundle's folder.
        tensors: Name in its file of heads → weights; the others stay as they are.
        dropped: Starts of names of what goes, whether it is replaced or not.
    """
    path = bundle / HEADS_NAME
    heads = load_file(path)
    (dtype,) = {heads[name].dtype for name in tensors if name in heads}
    heads = {name: head for name, head in heads.items() if not name.startswith(dropped)}
    for name, value in tensors.items():
        heads[name] = value.detach().to(dtype)
    payload = save(heads, metadata={"format": "pt"})
    write_atomically(path, lambda file: file.write(payload))


def give_decoder(
    bundle: Path, model: BoundModel, told: Mapping[str, Any], *, prompts: bool = True
) -> None:
    """Put a model's mask decoder and prompt projection into a bundle, in place of its own.

    Args:
        bundle: The bundle's folder; its language model is that of the model.
        model: Holds them, and says what the decoder looks at.
        told: What the bundle's provenance is to tell of them.
        prompts: Whether the projection is another one than the bundle has.
    """
    own, given = _seeing(BundleConfig.read(bundle)), _seeing(model.config)
    sight = dataclasses.replace(
        own, grounding_encoder=given.grounding_encoder, mask_decoder=given.mask_decoder
    )
    parts = ("mask_decoder", "prompt_projection") if prompts else ("mask_decoder",)
    _give(bundle, model, sight, parts, told)


def give_prompts(bundle: Path, model: BoundModel, told: Mapping[str, Any]) -> None:
    """Put a model's prompt projection into a bundle, whose mask decoder it has.

    Args:
        bundle: The bundle's folder.
        model: Holds the projection.
        told: What the bundle's provenance is to tell of it.
    """
    _give(bundle, model, _seeing(BundleConfig.read(bundle)), ("prompt_projection",), told)


def give_projector(bundle: Path, model: BoundModel, told: Mapping[str, Any]) -> None:
    """Put a model's projector into a bundle, in place of its own.

    Args:
        bundle: The bundle's folder.
        model: Holds the projector, and says what that looks at.
        told: What the bundle's provenance is to tell of it.

    Raises:
        ValueError: The bundle's language model reads something else.
    """
    own, given = _seeing(BundleConfig.read(bundle)), _seeing(model.config)
    sight = dataclasses.replace(own, vision_tower=given.vision_tower)
    if sight != given:
        raise ValueError(f"{bundle} sees otherwise than the model whose projector it is to get")
    _give(bundle, model, sight, ("projector",), told)


def _seeing(config: BundleConfig) -> SightConfig:
    if config.sight is None:
        raise ValueError(f"{config.name} must see")
    return config.sight


def _give(
    bundle: Path,
    model: BoundModel,
    sight: SightConfig,
    parts: tuple[str, ...],
    told: Mapping[str, Any],
) -> None:
    """Put a model's heads of the named parts into a bundle, and tell of it there."""
    if model.sight is None:
        raise ValueError(f"{model.config.name} must see")
    config = BundleConfig.read(bundle)
    fitted = config.training.get("fitted", {}) | {part: dict(told) for part in parts}
    training = {**config.training, "fitted": fitted}
    config = dataclasses.replace(config, sight=sight, training=training)
    starts = tuple(f"{part}." for part in parts)
    heads = {name: head for name, head in model.sight.heads().items() if name.startswith(starts)}
    card = training_card(config)
    replace_heads(bundle, heads, dropped=starts)
    for name, text in ((CONFIG_NAME, config.to_json()), (CARD_NAME, card)):
        payload = text.encode()
        write_atomically(bundle / name, lambda file, payload=payload: file.write(payload))


def follow(model: BoundModel, other: BoundModel, questions: SceneQuestions, count: int) -> float:
    """Fit a model's projection to the prompts that another model makes of the same dialogues.

    Both decode masks alike, so what the other one points at, this one does too.

    Args:
        model: Its projection is fitted in place.
        other: Speaks the prompts that the decoder knows.
        questions: The scenes.
        count: Dialogues.

    Returns:
        Share of the variance of pairs set apart that is explained.

    Raises:
        ValueError: One of them does not cut out, or their decoders differ.
    """
    own, known = _cutting(model), _cutting(other)
    weights = known[0].state_dict()
    if not all(torch.equal(weights.get(n, t[:0]), t) for n, t in own[0].state_dict().items()):
        raise ValueError("the two bundles have different mask decoders")
    read: list[ReadPhrases] = []
    told: list[ReadPhrases] = []
    for first in range(0, count, _BATCH):  # while what is drawn for one is still known to the other
        numbers = range(first, min(first + _BATCH, count))
        for reader, into in ((model, read), (other, told)):
            into.append(collect(reader, questions, numbers))
        if first % (_BATCH * _LOG_EVERY) == 0:
            console.log(f"{first + len(numbers)} of {count} dialogues")
    with torch.no_grad():
        prompts = known[1](ReadPhrases.of(told).states)
    states = ReadPhrases.of(read).states
    return fit(own[1].requires_grad_(True), states, prompts, anew=False)


def _cutting(model: BoundModel) -> tuple[nn.Module, nn.Module]:
    """Return a model's mask decoder and prompt projection."""
    sight = model.sight
    if sight is None or sight.mask_decoder is None or sight.prompt_projection is None:
        raise ValueError(f"{model.config.name} does not cut out")
    return sight.mask_decoder, sight.prompt_projection


def teach_speaking(model: BoundModel, teacher: Grounding, read: ReadPhrases, *, path: Path) -> None:
    """Fit the projection to what was read, and save it.

    Args:
        model: Its projection is fitted in place.
        teacher: Reads phrases.
        read: By the model.
        path: File of the projection's weights.
    """
    if model.sight is None or model.sight.prompt_projection is None:
        raise ValueError("the model must cut out")
    projection = model.sight.prompt_projection
    prompts = read.prompts(teacher)  # nothing that points at things yet
    prompts = functional.pad(prompts, (0, projection.linear_2.out_features - prompts.shape[1]))
    best = fit(projection, read.states, prompts)
    torch.save(projection.state_dict(), path)
    console.log(f"{len(read.states)} masks: {best:.3f} of the variance explained")
