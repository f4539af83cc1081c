"""THE table of published weights that extractors use, and the way from its names to files.

Only what a package index or the Hub holds under a fixed revision is fetched. For the rest the
message says where it is published, and ``--weights NAME=FILE`` takes it; a file with the published
hash is converted without further questions, any other one needs its own hash beside it. Nothing is
ever scored by weights that were not read from a file.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from llmbind_cli.errors import IntegrityError, ModelNotFoundError, UsageError
from llmbind_cli.weights import cache
from llmbind_cli.weights.layout import is_pickle
from llmbind_cli.weights.sources import PathSource, parse_source

if TYPE_CHECKING:
    from torch import Tensor

FLAG = "--weights"
_PIN = ",sha256="


@dataclass(frozen=True, kw_only=True)
class PublishedWeights:
    """Weights that a paper's authors or a tool published.

    Attributes:
        name: As reports and ``--weights`` spell it.
        what: The network, in words.
        source: Where they are fetched from; ``None`` where no registry has them.
        sha256: Hash of the published file; ``None`` where it is not known or there are several.
        get: Where a person finds them.
    """

    name: str
    what: str
    source: str | None = None
    sha256: str | None = None
    get: str


@dataclass(frozen=True, kw_only=True)
class LocatedWeights:
    """Weights on this machine.

    Attributes:
        name: As in the table.
        folder: Holds ``*.safetensors``, and a configuration where they came with one.
        source: The source string that led to them.
        sha256: Their hash; see :mod:`llmbind_cli.weights.hashes`.
        note: What a reader of a score must know of them, or ``None``.
    """

    name: str
    folder: Path
    source: str
    sha256: str
    note: str | None = None

    def card(self) -> dict[str, str]:
        """Return what a protocol card says of them."""
        return {"name": self.name, "source": self.source, "sha256": self.sha256}


_PANNS = "https://zenodo.org/records/3987831"
_ALL = (
    PublishedWeights(
        name="inception-v3",
        what="Inception-v3, ported from TensorFlow for FID (1008 classes)",
        sha256="6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2",
        get="pt_inception-2015-12-05-6726825d.pth of "
        "https://github.com/mseitzer/pytorch-fid/releases/tag/fid_weights",
    ),
    PublishedWeights(
        name="dinov2-vit-l14",
        what="DINOv2 ViT-L/14",
        source="hf:facebook/dinov2-large@47b73eefe95e8d44ec3623f8890bd894b6ea2d6c",
        get="https://huggingface.co/facebook/dinov2-large",
    ),
    PublishedWeights(
        name="clip-vit-l14",
        what="CLIP ViT-L/14 of OpenAI",
        source="hf:openai/clip-vit-large-patch14@32bd64288804d66eefd0ccbe215aa642df71cc41",
        get="https://huggingface.co/openai/clip-vit-large-patch14",
    ),
    PublishedWeights(
        name="clip-vit-b32",
        what="CLIP ViT-B/32 of OpenAI",
        source="hf:openai/clip-vit-base-patch32@3d74acf9a28c67741b2f4f2ea7635f0aaf6f0268",
        sha256="a63082132ba4f97a80bea76823f544493bffa8082296d62d71581a4feff1576f",
        get="https://huggingface.co/openai/clip-vit-base-patch32",
    ),
    PublishedWeights(
        name="cnn14-16k",
        what="PANNs Cnn14 at 16 kHz",
        sha256="e2ee543a27919542c2ea03eabaa70b24dcd4e6c8e05621de6b67a94e4c5058e6",
        get=f"Cnn14_16k_mAP=0.438.pth of {_PANNS}",
    ),
    PublishedWeights(
        name="cnn14-32k",
        what="PANNs Cnn14 at 32 kHz",
        sha256="0dc499e40e9761ef5ea061ffc77697697f277f6a960894903df3ada000e34b31",
        get=f"Cnn14_mAP=0.431.pth of {_PANNS}",
    ),
    PublishedWeights(
        name="clap-htsat",
        what="CLAP with HTSAT, without fusion",
        source="hf:laion/clap-htsat-unfused@8fa0f1c6d0433df6e97c127f64b2a1d6c0dcda8a",
        get="https://huggingface.co/laion/clap-htsat-unfused",
    ),
    PublishedWeights(
        name="vggish",
        what="VGGish of AudioSet, ported from TensorFlow",
        get="vggish-10086976.pth of https://github.com/harritaylor/torchvggish/releases, with its "
        "hash",
    ),
    PublishedWeights(
        name="alexnet",
        what="AlexNet of torchvision",
        get="https://download.pytorch.org/models/alexnet-owt-7be5be79.pth, with its hash",
    ),
    PublishedWeights(
        name="vgg16",
        what="VGG-16 of torchvision",
        get="https://download.pytorch.org/models/vgg16-397923af.pth, with its hash",
    ),
)
PUBLISHED = {weights.name: weights for weights in _ALL}


def parse_weights(texts: Mapping[str, str] | list[str]) -> dict[str, str]:
    """Read the values of ``--weights``.

    Args:
        texts: ``NAME=SOURCE`` or ``NAME=SOURCE,sha256=HASH`` each, or name → the rest of it.

    Returns:
        Name → ``SOURCE`` or ``SOURCE,sha256=HASH``.

    Raises:
        UsageError: A name is not in the table or stands twice, or there is no source.
    """
    pairs = list(texts.items()) if isinstance(texts, Mapping) else [_pair(text) for text in texts]
    chosen: dict[str, str] = {}
    for name, source in pairs:
        if name not in PUBLISHED:
            close = difflib.get_close_matches(name, PUBLISHED, n=1, cutoff=0.5)
            hint = f"did you mean {close[0]}?" if close else f"known: {', '.join(PUBLISHED)}"
            raise UsageError(f"{FLAG} {name}: no such weights; {hint}")
        if name in chosen:
            raise UsageError(f"{FLAG} {name}: given twice")
        if not source:
            raise UsageError(f"{FLAG} {name}: write {name}=SOURCE or {name}=SOURCE,sha256=HASH")
        chosen[name] = source
    return chosen


def _pair(text: str) -> tuple[str, str]:
    name, _, source = text.partition("=")
    return name, source


def locate(name: str, chosen: Mapping[str, str], *, offline: bool) -> LocatedWeights:
    """Find an extractor's weights, fetching and converting them at first use.

    Args:
        name: As in the table.
        chosen: Of :func:`parse_weights`.
        offline: Never use the network.

    Raises:
        ModelNotFoundError: They are not on this machine, and nothing can be fetched; the message
            says where they are published.
        IntegrityError: Another hash than the pinned one, a damaged file, or a pickled one without a
            hash.
        UsageError: The source is malformed.
    """
    published = PUBLISHED[name]
    if name in chosen:
        source, _, given = chosen[name].partition(_PIN)
        pin = given or _published_pin(source, published)
    elif published.source is not None:
        source, pin = published.source, published.sha256
    else:
        raise ModelNotFoundError(
            f"{name}: the weights of {published.what} are on no package index, and nothing is "
            f"scored by others: get {published.get}, and give it with {FLAG} {name}=FILE"
        )
    folder = cache.resolve(source, sha256=pin, offline=offline)
    digest = pin.lower().removeprefix("sha256:") if pin else cache.digest_of(source)
    return LocatedWeights(
        name=name,
        folder=folder,
        source=source,
        sha256=digest,
        note=_note(published, source, digest),
    )


def _published_pin(source: str, published: PublishedWeights) -> str | None:
    """A pickled file that has the published hash may be converted; another needs its own."""
    parsed = parse_source(source)
    is_file = isinstance(parsed, PathSource) and parsed.path.is_file() and is_pickle(parsed.path)
    return published.sha256 if is_file else None


def _note(published: PublishedWeights, source: str, digest: str) -> str | None:
    if published.sha256 is not None and digest == published.sha256:
        return None
    if source == published.source:
        return None
    return f"by weights given as {published.name} (sha256 {digest[:12]}…), not the published file"


def read_tensors(weights: LocatedWeights) -> tuple[Path, dict[str, Tensor]]:
    """Read the one weight file of a folder.

    Returns:
        The file, and name → tensor on the CPU. Counters of normalisation layers, which no result
        depends on, are left out.

    Raises:
        IntegrityError: There are several files.
    """
    from safetensors.torch import load_file

    files = sorted(weights.folder.glob("*.safetensors"))
    if len(files) != 1:
        raise IntegrityError(f"{weights.folder}: one weight file is needed, found {len(files)}")
    tensors = load_file(files[0])
    return files[0], {
        key: value for key, value in tensors.items() if not key.endswith(".num_batches_tracked")
    }
