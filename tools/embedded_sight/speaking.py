"""Fit the prompt projection to what the language model's states already tell.

Between the two trainings: the language model reads dialogues about pictures as it stands, and the
projection learns to make the reader's prompts of the states that predict its ``seg`` tokens. States
are collected once; the perceptron is then fitted in a minute, where the joint training, which sees
each state once, would take hours.

Notation: ``M`` masks, ``D`` width of the language model, ``P`` width of the prompt.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path

import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn
from torch.nn import functional

from embedded_sight.grounding import Grounding
from llmbind_cli.console import console
from llmbind_cli.data.batches import SeenBatch
from llmbind_cli.data.encode import EncodedSample, encode_dialogue
from llmbind_cli.data.scenes.questions import SceneQuestions
from llmbind_cli.model.bound_model import BoundModel
from llmbind_cli.model.config import HEADS_NAME
from llmbind_cli.training.objective import LanguageObjective
from llmbind_cli.training.seeing import SeeingCollator
from llmbind_cli.weights.atomic import write_atomically

_BATCH, _LOG_EVERY = 8, 20
_EPOCHS, _ROWS, _LR, _HELD_OUT = 200, 128, 1e-3, 0.1


@torch.no_grad()
def collect(
    model: BoundModel, teacher: Grounding, questions: SceneQuestions, count: int
) -> tuple[Tensor, Tensor]:
    """Read dialogues about scenes.

    Args:
        model: The model; its adapters are on.
        teacher: Reads phrases.
        questions: The scenes.
        count: Dialogues.

    Returns:
        The states that predict ``seg`` tokens, [M, D], and the prompts of their phrases, [M, P].
    """
    samples = (_encoded(model, questions, number) for number in range(count))
    states, prompts = [], []
    for seen, found in read_states(model, samples):
        states.append(found)
        prompts.append(teacher.prompts(list(seen.phrases)).float())
    return torch.cat(states), torch.cat(prompts)


@torch.no_grad()
def read_states(
    model: BoundModel, samples: Iterable[EncodedSample]
) -> Iterator[tuple[SeenBatch, Tensor]]:
    """Read dialogues, eight at a time.

    Args:
        model: The model; its adapters are on.
        samples: The dialogues.

    Yields:
        What is seen in some of them, and the states that predict their ``seg`` tokens, [M, D].
    """
    if model.sight is None:
        raise ValueError("the model must see")
    objective = LanguageObjective(model, aux_coefficient=0.0).eval()
    collated = SeeingCollator(model.sight)
    left, read, masks = iter(samples), 0, 0
    while part := list(islice(left, _BATCH)):
        batch = collated(part)
        with torch.autocast("cpu", torch.bfloat16):
            hidden = objective.hidden_states(batch)
        if batch.seen is not None:
            places = batch.seen.places
            masks += len(places)
            yield batch.seen, hidden[places[:, 0], places[:, 1]].float()
        read += len(part)
        if read % (_BATCH * _LOG_EVERY) == 0:
            console.log(f"{read} dialogues, {masks} masks")


def _encoded(model: BoundModel, questions: SceneQuestions, number: int) -> EncodedSample:
    return encode_dialogue(
        questions[number],
        model.tokenizer,
        model.token_table,
        decision_weight=1.0,
        slot=model.image_slot,
    )


def fit(projection: nn.Module, states: Tensor, prompts: Tensor) -> float:
    """Fit a projection, in place; what is best on a tenth of the pairs, set apart, is kept.

    Args:
        projection: [M, D] → [M, P].
        states: [M, D].
        prompts: [M, P].

    Returns:
        Share of the variance of the pairs set apart that is explained.
    """
    chance = torch.Generator().manual_seed(0)
    order = torch.randperm(len(states), generator=chance)
    apart, learned = order.tensor_split([int(_HELD_OUT * len(states))])
    variance = (prompts[apart] - prompts[learned].mean(0)).square().mean()
    optimizer = torch.optim.AdamW(projection.parameters(), lr=_LR, weight_decay=0.1)
    best, kept = float("-inf"), copy.deepcopy(projection.state_dict())
    for epoch in range(_EPOCHS):
        for rows in learned[torch.randperm(len(learned), generator=chance)].split(_ROWS):
            noisy = states[rows] * (1 + 0.1 * torch.randn(len(rows), 1, generator=chance))
            loss = functional.mse_loss(projection(noisy), prompts[rows])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
        with torch.no_grad():
            wrong = functional.mse_loss(projection(states[apart]), prompts[apart])
        explained = float(1 - wrong / variance)
        if explained > best:
            best, kept = explained, copy.deepcopy(projection.state_dict())
        if epoch % 20 == 0:
            console.log(f"epoch {epoch}: {explained:.3f} of the variance explained")
    projection.load_state_dict(kept)
    return best


def replace_heads(bundle: Path, tensors: Mapping[str, Tensor]) -> None:
    """Put fitted weights into a bundle, in place of its own and in the dtype of those.

    Args:
        bundle: The bundle's folder.
        tensors: Name in its file of heads → weights; the others stay as they are.
    """
    path = bundle / HEADS_NAME
    heads = load_file(path)
    for name, value in tensors.items():
        heads[name] = value.detach().to(heads[name].dtype)
    payload = save(heads, metadata={"format": "pt"})
    write_atomically(path, lambda file: file.write(payload))


def teach_speaking(
    model: BoundModel, teacher: Grounding, questions: SceneQuestions, *, count: int, path: Path
) -> nn.Module:
    """Collect, fit, and save the projection.

    Args:
        model: Its projection is fitted in place.
        teacher: Reads phrases.
        questions: The scenes.
        count: Dialogues to read.
        path: File of the projection's weights.

    Returns:
        The projection.
    """
    if model.sight is None or model.sight.prompt_projection is None:
        raise ValueError("the model must cut out")
    projection = model.sight.prompt_projection
    states, prompts = collect(model, teacher, questions, count)
    torch.save({"states": states, "prompts": prompts}, path.with_name("states.pt"))
    best = fit(projection, states, prompts)
    torch.save(projection.state_dict(), path)
    console.log(f"{len(states)} masks: {best:.3f} of the variance explained")
    return projection
