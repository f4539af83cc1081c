"""The joint training, with teachers beside the usual losses.

``llmbind train`` does everything here but two things. The prompts that the language model's ``seg``
states become are drawn towards those that the reader of phrases makes of the same words; the
decoder, which knows the reader's prompts, stays as it is. And what is said of words alone can be
drawn towards what another bundle says.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional

from embedded_sight.coining import Coinage, CoinedWords
from embedded_sight.grounding import Grounding
from embedded_sight.lists import StrangeLists, TrueLists
from embedded_sight.names import Names
from llmbind_cli.data.batches import Batch
from llmbind_cli.data.encode import EncodedSample, encode_dialogue
from llmbind_cli.data.scenes.arrangements import ArrangementSampler
from llmbind_cli.data.scenes.world import load_world
from llmbind_cli.model.bound_model import BoundModel
from llmbind_cli.model.chat_format import IMAGE_ID
from llmbind_cli.model.config import BundleConfig, SightConfig
from llmbind_cli.model.loader import load_model
from llmbind_cli.nn.object_projector import ObjectProjector
from llmbind_cli.training.objective import LanguageObjective, Losses
from llmbind_cli.training.run import TrainingRun, train
from llmbind_cli.training.samples import hash_samples
from llmbind_cli.training.sight_losses import MaskWeights, SightLosses

if TYPE_CHECKING:
    from llmbind_cli.training.samples import TrainingData
    from llmbind_cli.training.start import Start

PROMPT_WEIGHT = 2.0


class TaughtObjective(LanguageObjective):
    """The usual losses, with what the model is to take from others.

    Args:
        model: The model that trains.
        teacher: Reads phrases; the distance between the model's prompts and its is one more loss.
        kept: Speaks of words as the model is to go on speaking: dialogues without pictures train
            it towards this one's distributions and not towards their ids (Li and Hoiem,
            "Learning without Forgetting", arXiv 1606.09282).
        settings: Those of :class:`LanguageObjective`.
    """

    def __init__(
        self,
        model: BoundModel,
        teacher: Grounding | None = None,
        kept: BoundModel | None = None,
        **settings: Any,
    ) -> None:
        if kept is not None:
            settings["talk_target"] = "base"
        super().__init__(model, **settings)
        self._teacher, self._kept = [teacher], [kept]  # in lists: no parts of what trains

    def forward(self, batch: Batch) -> Losses:
        """Return the losses of a batch."""
        if self._kept[0] is not None:
            in_words = ~(batch.input_ids == IMAGE_ID).any(1)
            batch = dataclasses.replace(batch, is_plain=in_words)
        return super().forward(batch)

    def base_hidden(self, batch: Batch) -> Tensor:
        """Return the hidden states of what says how words are spoken of."""
        (kept,) = self._kept
        if kept is None:
            return super().base_hidden(batch)
        return LanguageObjective(kept, aux_coefficient=0.0).hidden_states(batch)

    def base_probs(self, states: Tensor) -> Tensor:
        """Return the distributions that such states mean."""
        (kept,) = self._kept
        return (
            super().base_probs(states)
            if kept is None
            else kept.output_head(states).float().softmax(-1)
        )

    def sight_losses(self, batch: Batch, hidden: Tensor, weights: MaskWeights) -> SightLosses:
        """Return the losses of masks, the teacher's among them."""
        losses = super().sight_losses(batch, hidden, weights)
        seen, (teacher,) = batch.seen, self._teacher
        if losses.mask is None or seen is None or teacher is None:
            return losses
        states = hidden[seen.places[:, 0], seen.places[:, 1]]
        with torch.no_grad():
            taught = teacher.prompts(list(seen.phrases)).float()
        prompts = self.sight.prompt_projection(states.float()).float()[:, : taught.shape[1]]
        distance = functional.mse_loss(prompts, taught) / taught.var().clamp(min=1e-6)
        return SightLosses(mask=losses.mask + PROMPT_WEIGHT * distance, box=losses.box)


class TaughtRun(TrainingRun):
    """A run whose mask decoder, projector and teacher come from the stages before.

    A bundle that sees already, from which the run goes on, keeps its own projector where none was
    taught, and its own prompt projection where none was fitted.

    Args:
        recipe: The recipe.
        work: Folder of the earlier stages.
        truly_listed: Let the language model read what is in a scene, not what the projector sees.
        strange: Share of the kinds of things in a picture that the projector is not to know.
        coined: Share of those that bear words which nothing else bears.
        kept: Bundle whose way to speak of words alone is to be kept.
        settings: Those of :class:`TrainingRun`.
    """

    def __init__(
        self,
        recipe: Any,
        *,
        work: Path,
        model: Any,
        truly_listed: bool = False,
        strange: float = 0.0,
        coined: float = 0.0,
        kept: Path | None = None,
        **settings: Any,
    ) -> None:
        start = settings.get("start")
        sees = start is not None and can_see(start)
        self._teacher = take_first_stages(model, work, start)
        self._kept = None if kept is None else load_model(str(kept), device="cpu", dtype="float32")
        fitted = work / "projection.pt"
        if fitted.exists() or not sees:
            state = torch.load(fitted, weights_only=True)
            model.sight.prompt_projection.load_state_dict(state)
        # Until the prompts mean something the decoder would learn to do without them.
        model.sight.mask_decoder.requires_grad_(False)
        if isinstance(model.sight.projector, ObjectProjector):
            model.sight.projector.requires_grad_(False)
        world, names = load_world(), None
        if truly_listed or strange:
            known = ArrangementSampler(world, 0).known
            names = Names(model.language_model.get_input_embeddings(), model.tokenizer, known)
        if names is not None and strange and coined:
            coinage = Coinage(model.tokenizer, world)
            coin = CoinedWords(names, world, coinage, strange=strange, share=coined)
            settings["data"] = _said_anew(settings["data"], coin, recipe, model)
        super().__init__(recipe, model=model, **settings)
        self._settings["joint"] = {"true_lists": truly_listed}
        if self._kept is not None:
            self._settings["joint"]["kept"] = self._kept.name
        if strange:
            self._settings["joint"] |= {"strange": strange, "coined": coined}
        if names is not None:
            self._collated = (
                TrueLists(model.sight, names)
                if truly_listed
                else StrangeLists(model.sight, names, strange)
            )

    def objective(self) -> LanguageObjective:
        """Return the usual objective, with what others teach."""
        usual = super().objective()
        return TaughtObjective(
            self._model,
            self._teacher,
            self._kept,
            aux_coefficient=usual.aux_coefficient,
            talk_target=usual.talk_target,
            masks=usual.masks,
        )


def _said_anew(data: TrainingData, coin: CoinedWords, recipe: Any, model: Any) -> TrainingData:
    """Encode what is said about scenes anew, with coined words in it."""

    def anew(one: EncodedSample) -> EncodedSample:
        if one.sample is None:
            return one
        said = coin(one.sample)
        return encode_dialogue(
            said,
            model.tokenizer,
            model.token_table,
            decision_weight=recipe.train.decision_weight,
            slot=model.image_slot,
        )

    samples = [anew(one) for one in data.samples]
    return dataclasses.replace(data, samples=samples, sha256=hash_samples(samples))


def can_see(start: Start) -> bool:
    """Tell whether the bundle that a training goes on from sees already."""
    return BundleConfig.read(start.bundle).sight is not None


def take_first_stages(model: Any, work: Path, start: Start | None = None) -> Grounding | None:
    """Give a model the mask decoder of the first stages, and the projector if they taught one.

    Args:
        model: Its heads change in place.
        work: Folder of the stages.
        start: Bundle that the model begins with. Without a decoder in ``work`` it keeps that of
            this bundle, and there is no teacher.

    Returns:
        The networks of ``ground``, whose reader teaches.

    Raises:
        SystemExit: There is a decoder neither in ``work`` nor in the bundle.
    """
    teacher = None
    if (grounding := work / "grounding.pt").exists():
        embedding = model.language_model.get_input_embeddings()
        teacher = Grounding(model.sight, embedding, model.tokenizer)
        teacher.load_state_dict(torch.load(grounding, weights_only=True)["networks"])
        teacher.reader.eval().requires_grad_(False)
    elif start is None or not decodes_alike(start, model.config.sight):
        raise SystemExit(f"{grounding} is not there, and model.start has no such mask decoder")
    if (projector := work / "projector.pt").exists():
        model.sight.projector.load_state_dict(torch.load(projector, weights_only=True)["projector"])
    return teacher


def decodes_alike(start: Start, sight: SightConfig) -> bool:
    """Tell whether a bundle has the mask decoder that a sight describes."""
    own = BundleConfig.read(start.bundle).sight
    return own is not None and (own.grounding_encoder, own.mask_decoder) == (
        sight.grounding_encoder,
        sight.mask_decoder,
    )


def train_jointly(
    recipe: Path,
    *,
    work: Path,
    overrides: Sequence[str],
    output: Path | None,
    resume: bool,
    truly_listed: bool = False,
    strange: float = 0.0,
    coined: float = 0.0,
    kept: Path | None = None,
) -> int:
    """Run the recipe with its teachers; return the exit code of ``llmbind train``."""
    return train(
        recipe,
        overrides=overrides,
        output=output,
        resume=resume,
        device="cpu",
        make_run=partial(
            TaughtRun,
            work=work,
            truly_listed=truly_listed,
            strange=strange,
            coined=coined,
            kept=kept,
        ),
    )
