"""``llmbind eval`` by networks, on small random ones saved in the published layouts."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import tiny_extractors as tiny
import torch
from PIL import Image

from llmbind_cli.data.pictures import read_picture
from llmbind_cli.evaluation.metric_table import METRICS
from llmbind_cli.evaluation.network_scores import FEATURE_METRICS
from llmbind_cli.metrics.extractors.published import PUBLISHED, parse_weights
from llmbind_cli.metrics.extractors.registry import load_extractor
from llmbind_cli.metrics.frechet import frechet_distance_from_features
from llmbind_cli.metrics.inception_score import inception_score
from llmbind_cli.metrics.kernel_distance import kernel_distance


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LLMBIND_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def loaded():
    """Loads an extractor from a file or folder, as the command does."""

    def load(name, path):
        device = torch.device("cpu")
        return load_extractor(name, chosen={name: str(path)}, device=device, offline=True)

    return load


@pytest.fixture(scope="module")
def inception_file(tmp_path_factory):
    folder = tmp_path_factory.mktemp("inception")
    return tiny.save_file_of(tiny.inception_state(), folder / "inception.safetensors")


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory):
    return tiny.clip_folder(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="module")
def clap_folder(tmp_path_factory):
    return tiny.clap_folder(tmp_path_factory.mktemp("clap"))


@pytest.fixture
def sounds(tmp_path):
    """Writes noises of a seed as WAV files into a folder of some name."""
    soundfile = pytest.importorskip("soundfile", reason="sounds are decoded by soundfile")

    def write(name, *, n=4, seed=0, rate=16_000, seconds=0.5, channels=1):
        place = tmp_path / name
        place.mkdir()
        generator = np.random.default_rng(seed)
        for number in range(n):
            samples = generator.normal(0, 0.1, (int(rate * seconds), channels))
            soundfile.write(place / f"{number}.wav", samples, rate)
        return place

    return write


@pytest.fixture
def clips(tmp_path):
    """Writes clips of one grey each, brighter by number and seed."""
    av = pytest.importorskip("av", reason="clips are decoded by PyAV")

    def write(name, *, n=2, frames=3, seed=0):
        place = tmp_path / name
        place.mkdir()
        for number in range(n):
            with av.open(str(place / f"{number}.mp4"), "w") as container:
                stream = container.add_stream("mpeg4", rate=8)
                stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
                for frame in range(frames):
                    grey = np.full(
                        (32, 32, 3), (10 + 40 * number + 15 * frame + 20 * seed) % 250, np.uint8
                    )
                    container.mux(stream.encode(av.VideoFrame.from_ndarray(grey, format="rgb24")))
                container.mux(stream.encode())
        return place

    return write


def features(extractor, folder):
    paths = sorted(folder.glob("*.png"))
    return extractor.extract([extractor.prepare(read_picture(path)) for path in paths])


def metric_words(*names):
    return [word for name in names for word in ("--metric", name)]


# ------------------------------------------------------------------ the table


def test_every_metric_of_a_network_names_known_weights():
    for metric in METRICS.values():
        if metric.extractor not in (None, "effnet-lite0"):
            assert metric.extractor in PUBLISHED
        if metric.family == "features":
            names = FEATURE_METRICS[metric.medium][metric.extractor]
            known = {names.frechet, names.kernel, names.precision, names.recall}
            assert metric.name.removesuffix("-infinity") in known


@pytest.mark.parametrize(
    ("metric", "needs"),
    [
        ("FID", "pt_inception-2015-12-05-6726825d.pth"),
        ("KID", "--weights inception-v3=FILE"),
        ("IS", "nothing is scored by others"),
        ("FID-frames", "pt_inception"),
        ("FD-DINOv2", "hf:facebook/dinov2-large@"),
        ("FD-CLIP", "hf:openai/clip-vit-large-patch14@"),
        ("FD-pann-16k", "Cnn14_16k_mAP=0.438.pth"),
        ("IS-pann-32k", "Cnn14_mAP=0.431.pth"),
        ("FD-clap", "hf:laion/clap-htsat-unfused@"),
        ("FAD-vggish", "vggish-10086976.pth"),
        ("CLIP-score", "hf:openai/clip-vit-base-patch32@"),
        ("CLIPSIM", "hf:openai/clip-vit-base-patch32@"),
        ("CLAP-score", "hf:laion/clap-htsat-unfused@"),
        ("CLIP-direction", "hf:openai/clip-vit-large-patch14@"),
        ("LPIPS-alex", "alexnet-owt-7be5be79.pth"),
        ("LPIPS-vgg", "vgg16-397923af.pth"),
    ],
)
def test_without_weights_it_is_10_and_says_where_they_are(
    pictures, run, write_lines, metric, needs
):
    made = pictures("made", n=10)
    words = write_lines("w.jsonl", *({"id": str(n), "prompt": "cat"} for n in range(10)))
    family = METRICS[metric].family
    sides = [] if family in ("logits", "words") else ["--ref", made]
    sides += ["--prompts", words] if family in ("words", "directions") else []
    code, out, error = run("--metric", metric, "--pred", made, *sides, "--offline")
    assert (code, out) == (10, ""), error
    assert needs in error


def test_the_published_file_is_pinned_by_its_hash(pictures, run, tmp_path):
    made = pictures("made")
    torch.save({"a": torch.zeros(1)}, tmp_path / "pt_inception.pth")
    chosen = ("--weights", f"inception-v3={tmp_path / 'pt_inception.pth'}")
    code, _, error = run("--metric", "FID", "--pred", made, "--ref", made, *chosen)
    assert code == 12
    assert "the pinned hash says 6726825d0af5f729" in error


def test_a_pickled_file_is_taken_with_its_own_hash(pictures, run, tmp_path):
    made, true = pictures("made", seed=1), pictures("true", seed=2)
    state = tiny.inception_state() | {"Conv2d_1a_3x3.bn.num_batches_tracked": torch.tensor(0)}
    torch.save(state, tmp_path / "w.pth")
    digest = hashlib.sha256((tmp_path / "w.pth").read_bytes()).hexdigest()
    chosen = ("--weights", f"inception-v3={tmp_path / 'w.pth'},sha256={digest}")
    code, out, error = run("--metric", "FID", "--pred", made, "--ref", true, *chosen, "--json")
    assert code == 0, error
    assert json.loads(out)["protocol"]["scorings"][0]["backbone"]["sha256"] == digest
    assert f"by weights given as inception-v3 (sha256 {digest[:12]}…)" in error


def test_unknown_weights_are_named(pictures, run):
    made = pictures("made")
    base = ("--metric", "FID", "--pred", made, "--ref", made, "--weights")
    code, _, error = run(*base, "inceptionv3=x")
    assert (code, "did you mean inception-v3?" in error) == (2, True)
    code, _, error = run(*base, "inception-v3")
    assert (code, "write inception-v3=SOURCE" in error) == (2, True)
    assert parse_weights(["alexnet=a=b,sha256=c"]) == {"alexnet": "a=b,sha256=c"}


# ------------------------------------------------------------------ pictures


def test_fid_kid_and_is_equal_the_functions_on_the_same_network(
    pictures, run, inception_file, loaded
):
    made, true = pictures("made", n=12, seed=1), pictures("true", n=11, seed=2, side=40)
    chosen = ("--weights", f"inception-v3={inception_file}")
    names = metric_words("FID", "KID", "IS")
    code, out, error = run(*names, "--pred", made, "--ref", true, *chosen, "--seed", 3, "--json")
    assert code == 0, error
    report = json.loads(out)
    metrics = report["metrics"]
    extractor = loaded("inception-v3", inception_file)
    x, y = features(extractor, made), features(extractor, true)
    expected = frechet_distance_from_features(x.features, y.features)
    # Networks round otherwise by batch size.
    assert metrics["FID"]["value"] == pytest.approx(expected, rel=1e-4)
    kid = kernel_distance(x.features, y.features, subset_size=11, seed=3)
    assert metrics["KID"]["value"] == pytest.approx(kid.mean, rel=1e-3)
    score = inception_score(x.logits, splits=10, seed=2020)
    assert metrics["IS"]["value"] == pytest.approx(score.mean, rel=1e-4)
    assert metrics["IS"]["std"] == pytest.approx(score.std, rel=1e-3)
    cards = {card["metrics"][0]["name"]: card for card in report["protocol"]["scorings"]}
    assert cards["FID"]["backbone"]["name"] == "inception-v3"
    assert cards["IS"]["parameters"] == {
        "splits": 10,
        "order": "shuffled, seed 2020",
        "device": "cpu",
    }
    assert cards["IS"]["references"] is None
    assert "299 × 299" in cards["FID"]["preprocessing"]


def test_an_inception_score_needs_no_references_and_enough_files(pictures, run, inception_file):
    made = pictures("made", n=4)
    base = ("--metric", "IS", "--pred", made, "--weights", f"inception-v3={inception_file}")
    code, _, error = run(*base)
    assert (code, "10 splits need at least as many files, got 4" in error) == (65, True)
    code, out, _ = run(*base, "--splits", 1, "--json")
    entry = json.loads(out)["metrics"]["IS"]
    assert (code, entry["std"]) == (0, None)
    assert "the whole set as one split" in entry["notes"][0]
    code, _, error = run(*base, "--ref", made)
    assert (code, "IS takes no references" in error) == (2, True)


def test_fd_dinov2_and_fd_clip_equal_the_functions(pictures, run, clip_folder, loaded, tmp_path):
    made, true = pictures("made", seed=1), pictures("true", seed=2)
    dinov2 = tiny.dinov2_folder(tmp_path / "dinov2")
    chosen = ("--weights", f"dinov2-vit-l14={dinov2}", "--weights", f"clip-vit-l14={clip_folder}")
    names = metric_words("FD-DINOv2", "FD-CLIP")
    code, out, error = run(*names, "--pred", made, "--ref", true, *chosen, "--json")
    assert code == 0, error
    metrics = json.loads(out)["metrics"]
    for metric, name, folder in (
        ("FD-DINOv2", "dinov2-vit-l14", dinov2),
        ("FD-CLIP", "clip-vit-l14", clip_folder),
    ):
        extractor = loaded(name, folder)
        sides = [features(extractor, side).features for side in (made, true)]
        expected = frechet_distance_from_features(*sides)
        assert metrics[metric]["value"] == pytest.approx(expected, rel=1e-4)


def test_lpips_scores_pairs_of_one_size(pictures, run, tmp_path, monkeypatch):
    from llmbind_cli.metrics.extractors import lpips

    convolutions, heads = tiny.lpips_states("alexnet")
    file = tiny.save_file_of(convolutions, tmp_path / "alex.safetensors")
    channels = tiny.save_file_of(heads, tmp_path / "heads.safetensors")
    pin = hashlib.sha256(channels.read_bytes()).hexdigest()
    monkeypatch.setitem(lpips.HEADS, "alexnet", (str(channels), pin))
    made, true = pictures("made", side=64, noise=40), pictures("true", side=64)
    base = ("--metric", "LPIPS-alex", "--weights", f"alexnet={file}")
    code, out, error = run(*base, "--pred", made, "--ref", true, "--json")
    assert code == 0, error
    report = json.loads(out)
    assert report["metrics"]["LPIPS-alex"]["n"] == 5
    assert len(report["metrics"]["LPIPS-alex"]["notes"]) == 1  # by which weights
    assert report["metrics"]["LPIPS-alex"]["value"] > 0
    assert report["protocol"]["scorings"][0]["backbone"]["name"] == "lpips-alexnet"
    assert (
        json.loads(run(*base, "--pred", true, "--ref", true, "--json")[1])["metrics"]["LPIPS-alex"][
            "value"
        ]
        == 0
    )
    other = pictures("other", side=63)
    small = pictures("small", side=16)
    code, _, error = run(*base, "--pred", other, "--ref", true)
    assert (code, "is 63 × 63 px, but its reference" in error) == (65, True)
    code, _, error = run(*base, "--pred", small, "--ref", small)
    assert (code, error.count("LPIPS needs sides of 32 px")) == (65, 5)


# ------------------------------------------------------------------ words


def test_clip_score_is_the_mean_cosine_of_picture_and_prompt(
    pictures, run, write_lines, clip_folder, loaded
):
    made = pictures("made", n=4)
    texts = ["cat", "dog", "a cat", "b dog"]
    words = write_lines("w.jsonl", *({"id": str(n), "prompt": t} for n, t in enumerate(texts)))
    chosen = ("--weights", f"clip-vit-b32={clip_folder}")
    base = ("--metric", "CLIP-score", "--pred", made, *chosen)
    code, out, error = run(*base, "--prompts", words, "--json")
    assert code == 0, error
    report = json.loads(out)
    clip = loaded("clip-vit-b32", clip_folder)
    seen = clip.embed_pictures([clip.prepare(read_picture(p)) for p in sorted(made.glob("*.png"))])
    expected = (seen * clip.embed_texts(texts)).sum(axis=1)
    entry = report["metrics"]["CLIP-score"]
    assert len(entry["notes"]) == 1  # by which weights
    assert entry["value"] == pytest.approx(expected.mean(), abs=1e-6)
    assert -1 <= entry["interval"][0] <= entry["value"] <= entry["interval"][1] <= 1
    (card,) = report["protocol"]["scorings"]
    assert (card["prompts"]["count"], card["prompts"]["kind"]) == (4, "lines")
    assert card["references"] is None
    code, _, error = run(*base)
    assert (code, "give them with --prompts" in error) == (2, True)


def test_prompts_of_a_manifest_are_used_where_no_file_is_given(
    pictures, run, write_lines, clip_folder
):
    made = pictures("made", n=2)
    line = {"status": "ok", "task": "image"}
    write_lines(
        "made/manifest.jsonl",
        {"id": "0", "status": "failed", "task": "image", "prompt": "dog", "files": []},
        *(
            line | {"id": str(n), "prompt": "cat", "files": [{"path": f"{n}.png"}]}
            for n in range(2)
        ),
    )
    chosen = ("--weights", f"clip-vit-b32={clip_folder}")
    code, out, error = run("--metric", "CLIP-score", "--pred", made, *chosen, "--json")
    assert code == 0, error
    assert json.loads(out)["protocol"]["scorings"][0]["prompts"]["count"] == 2


def test_reports_compare_whatever_the_pictures_and_the_path_of_the_weights(
    pictures, run, write_lines, clip_folder, tmp_path, monkeypatch
):
    monkeypatch.chdir(clip_folder.parent)
    for number, source in enumerate((clip_folder, clip_folder.name)):
        made = pictures(f"c{number}", n=2, seed=number)
        files = sorted(made.glob("*.png"))
        digests = [hashlib.sha256(file.read_bytes()).hexdigest() for file in files]
        line = {"status": "ok", "task": "image", "prompt": "cat"}
        rows = [
            line | {"id": file.stem, "files": [{"path": file.name, "sha256": digest}]}
            for file, digest in zip(files, digests, strict=True)
        ]
        write_lines(f"c{number}/manifest.jsonl", *rows)
        words = ("--metric", "CLIP-score", "--weights", f"clip-vit-b32={source}")
        code, _, error = run(*words, "--pred", made, "--report", tmp_path / f"r{number}")
        assert code == 0, error
    paths = [tmp_path / f"r{number}" / "report.json" for number in range(2)]
    code, out, error = run("--compare", *paths, "--json")
    assert code == 0, error
    assert json.loads(out)["protocol_differences"] == []
    rows[0]["prompt"] = "dog"
    write_lines("c1/manifest.jsonl", *rows)
    run(*words, "--pred", made, "--report", tmp_path / "r1")
    code, _, error = run("--compare", *paths)
    assert (code, "prompts.sha256" in error) == (77, True)


def test_faults_of_words_are_listed(pictures, run, write_lines, clip_folder):
    made = pictures("made", n=3)
    base = ("--metric", "CLIP-score", "--weights", f"clip-vit-b32={clip_folder}", "--pred", made)
    lines = [{"id": "0", "prompt": "cat"}, {"id": "1", "prompt": "a b c d e f g h i j k l m n o"}]
    code, _, error = run(*base, "--prompts", write_lines("few.jsonl", *lines))
    assert code == 65
    assert "lacks 1 of the 3 ids" in error
    long = write_lines("long.jsonl", *lines, {"id": "2", "prompt": "cat"})
    code, _, error = run(*base, "--prompts", long)
    assert (code, "1: 17 tokens are more than the 16" in error) == (65, True)
    odd = write_lines("odd.jsonl", {"id": "0"}, {"id": "1", "prompt": " "}, {"id": "2"})
    code, _, error = run(*base, "--prompts", odd)
    assert (code, error.count("must be a text that is not empty")) == (65, 3)
    code, _, error = run("--metric", "PSNR", "--pred", made, "--ref", made, "--prompts", odd)
    assert (code, "PSNR takes no words" in error) == (2, True)


def test_clip_direction_of_edits(folder, run, write_lines, clip_folder, loaded):
    generator = np.random.default_rng(0)
    before = {str(n): generator.integers(0, 256, (32, 32, 3)) for n in range(3)}
    after = {key: 255 - value for key, value in before.items()} | {"2": before["2"]}
    edited, originals = folder("edited", after), folder("originals", before)
    lines = [{"id": str(n), "prompt": "dog", "source": "cat"} for n in range(3)]
    base = ("--metric", "CLIP-direction", "--weights", f"clip-vit-l14={clip_folder}")
    sides = ("--pred", edited, "--ref", originals)
    words = write_lines("w.jsonl", *lines)
    report_at = edited.parent / "r"
    code, out, error = run(*base, *sides, "--prompts", words, "--json", "--report", report_at)
    assert code == 0, error
    entry = json.loads(out)["metrics"]["CLIP-direction"]
    assert "1 edits left the picture as it was, and count 0" in entry["notes"]
    clip = loaded("clip-vit-l14", clip_folder)
    texts = clip.embed_texts(["cat", "dog"])
    rows = [json.loads(row) for row in (report_at / "items.jsonl").read_text().splitlines()]
    for row in rows[:2]:
        both = [
            clip.embed_pictures([clip.prepare(read_picture(place / f"{row['id']}.png"))])[0]
            for place in (originals, edited)
        ]
        shift, asked = both[1] - both[0], texts[1] - texts[0]
        expected = shift @ asked / np.linalg.norm(shift) / np.linalg.norm(asked)
        assert row["CLIP-direction"] == pytest.approx(expected, abs=1e-5)
    without = write_lines("v.jsonl", *({"id": str(n), "prompt": "dog"} for n in range(3)))
    code, _, error = run(*base, *sides, "--prompts", without)
    assert (code, 'lacks "source", the words for the original, of 0' in error) == (65, True)


# ------------------------------------------------------------------ clips


def test_clipsim_is_the_mean_over_clips_of_the_mean_over_frames(
    clips, run, write_lines, clip_folder, loaded, tmp_path
):
    from llmbind_cli.evaluation.media_decode import MediaDecoder

    made = clips("made", n=2, frames=20)
    words = write_lines("w.jsonl", {"id": "0", "prompt": "cat"}, {"id": "1", "prompt": "dog"})
    base = ("--metric", "CLIPSIM", "--weights", f"clip-vit-b32={clip_folder}")
    report_at = tmp_path / "r"
    code, out, error = run(
        *base, "--pred", made, "--prompts", words, "--json", "--report", report_at
    )
    assert code == 0, error
    clip = loaded("clip-vit-b32", clip_folder)
    means = []
    with MediaDecoder("video") as decoder:
        for name, text in (("0.mp4", "cat"), ("1.mp4", "dog")):
            frames = decoder.read_clip(made / name).frames
            assert len(frames) == 16
            seen = clip.embed_pictures([clip.prepare(Image.fromarray(f)) for f in frames])
            means.append((seen @ clip.embed_texts([text])[0]).mean())
    report = json.loads(out)
    assert report["metrics"]["CLIPSIM"]["value"] == pytest.approx(np.mean(means), abs=1e-5)
    (card,) = report["protocol"]["scorings"]
    assert card["parameters"]["frames"] == 16
    assert "middles of 16 equal parts" in card["preprocessing"]
    rows = [json.loads(row) for row in (report_at / "items.jsonl").read_text().splitlines()]
    assert [(row["frames"], row["of_frames"]) for row in rows] == [(16, 20), (16, 20)]


def test_fid_of_frames_and_alien_clips(clips, run, inception_file, write_lines):
    made, true = clips("made"), clips("true", seed=1)
    base = ("--metric", "FID-frames", "--weights", f"inception-v3={inception_file}")
    code, out, error = run(*base, "--pred", made, "--ref", true, "--json")
    assert code == 0, error
    entry = json.loads(out)["metrics"]["FID-frames"]
    assert entry["value"] > 0
    assert "6 frames of 2 files beside 6 of 2" in entry["notes"]
    (made / "note.txt").write_text("no clip")
    content = (true / "0.mp4").read_bytes()
    (true / "0.mp4").write_bytes(content[: len(content) // 2])
    code, out, error = run(*base, "--pred", made, "--ref", true)
    assert (code, out) == (65, "")
    assert "2 inputs cannot be scored" in error
    assert "note.txt: cannot be read as a video" in error
    assert "true/0.mp4: cannot be read as a video" in error


def test_frames_are_kept_saved_and_not_decoded_twice(clips, run, inception_file, monkeypatch):
    from llmbind_cli.evaluation.media_decode import MediaDecoder

    made, true = clips("made", n=3), clips("true", n=4, seed=1)
    (made / "copy.mp4").write_bytes((made / "1.mp4").read_bytes())
    weights = ("--weights", f"inception-v3={inception_file}")
    base = ("--metric", "FID-frames", *weights, "--json")
    alone = json.loads(run(*base, "--pred", made, "--ref", true, "--no-cache")[1])
    first = json.loads(run(*base, "--pred", made, "--ref", true)[1])
    entry = first["metrics"]["FID-frames"]
    assert alone["metrics"]["FID-frames"]["value"] == pytest.approx(entry["value"], rel=1e-4)
    assert "12 frames of 4 files beside 12 of 4" in entry["notes"]
    stats = true.parent / "true.npz"
    code, out, error = run("--metric", "FID-frames", *weights, "--ref", true, "--save-stats", stats)
    assert (code, out) == (0, ""), error
    beside = json.loads(run(*base, "--pred", made, "--ref", stats)[1])["metrics"]["FID-frames"]
    assert beside["value"] == pytest.approx(entry["value"], rel=1e-3, abs=1e-3)
    assert "12 frames of 4 files beside 12" in beside["notes"]
    code, _, error = run("--metric", "FID", *weights, "--pred", made, "--ref", stats)
    assert code == 65
    assert "statistics of other features: preprocessing" in error  # of frames, not of pictures
    code, _, error = run(*base, "--extrapolate", "--pred", made, "--ref", true)
    assert code == 65
    assert "FID-frames-infinity: at least 100 predictions are needed, got 12" in error

    def decode(*_):
        raise AssertionError("decoded again")

    monkeypatch.setattr(MediaDecoder, "read_clip", decode)
    again = json.loads(run(*base, "--pred", made, "--ref", true)[1])
    assert again["metrics"] == first["metrics"]


# ------------------------------------------------------------------ sounds


@pytest.mark.parametrize("rate", [16, 32])
def test_fd_and_is_of_sounds_equal_the_functions(sounds, run, tmp_path, loaded, rate):
    from llmbind_cli.evaluation.media_decode import MediaDecoder

    made = sounds("made", seed=1, rate=22_050, channels=2)
    true = sounds("true", n=5, seed=2, seconds=0.7)
    file = tiny.save_file_of(tiny.cnn14_state(rate * 1000), tmp_path / "cnn14.safetensors")
    chosen = ("--weights", f"cnn14-{rate}k={file}", "--splits", 2)
    names = metric_words(f"FD-pann-{rate}k", f"IS-pann-{rate}k")
    code, out, error = run(*names, "--pred", made, "--ref", true, *chosen, "--json")
    assert code == 0, error
    metrics = json.loads(out)["metrics"]
    extractor = loaded(f"cnn14-{rate}k", file)
    with MediaDecoder("sound") as decoder:
        x, y = (
            extractor.extract(
                [extractor.prepare(decoder.read_sound(p)) for p in sorted(side.glob("*.wav"))]
            )
            for side in (made, true)
        )
    expected = frechet_distance_from_features(x.features, y.features)
    assert metrics[f"FD-pann-{rate}k"]["value"] == pytest.approx(expected, rel=1e-4)
    score = inception_score(x.logits, splits=2, seed=2020)
    assert metrics[f"IS-pann-{rate}k"]["value"] == pytest.approx(score.mean, rel=1e-4)


def test_clap_scores_sounds_and_their_words(sounds, run, write_lines, clap_folder):
    made, true = sounds("made", seed=1), sounds("true", seed=2)
    words = write_lines("w.jsonl", *({"id": str(n), "prompt": "a cat"} for n in range(4)))
    chosen = ("--weights", f"clap-htsat={clap_folder}")
    names = metric_words("FD-clap", "CLAP-score")
    sides = ("--pred", made, "--ref", true, "--prompts", words)
    code, out, error = run(*names, *sides, *chosen, "--json")
    assert code == 0, error
    report = json.loads(out)
    assert report["metrics"]["FD-clap"]["value"] > 0
    assert -1 <= report["metrics"]["CLAP-score"]["value"] <= 1
    assert {card["backbone"]["name"] for card in report["protocol"]["scorings"]} == {"clap-htsat"}


def test_faults_of_a_folder_of_sounds_are_all_listed(sounds, run, tmp_path):
    made, true = sounds("made"), sounds("true")
    file = tiny.save_file_of(tiny.cnn14_state(16_000), tmp_path / "cnn14.safetensors")
    base = ("--metric", "FD-pann-16k", "--weights", f"cnn14-16k={file}")
    (made / "0.wav").write_bytes((made / "0.wav").read_bytes()[:2000])
    (made / "picture.png").write_bytes(b"\x89PNG")
    (true / "größe ✓.wav").touch()
    code, out, error = run(*base, "--pred", made, "--ref", true)
    assert (code, out) == (65, "")
    assert "3 inputs cannot be scored" in error
    assert "0.wav: cannot be read as a sound: is truncated" in error
    assert "picture.png: cannot be read as a sound" in error
    assert "größe ✓.wav: cannot be read as a sound" in error
    empty = tmp_path / "empty"
    empty.mkdir()
    code, _, error = run(*base, "--pred", empty, "--ref", true)
    assert (code, "holds no file to score" in error) == (65, True)
    twice = sounds("twice")
    shutil.copy(twice / "0.wav", twice / "0.flac")
    code, _, error = run(*base, "--pred", twice, "--ref", true)
    assert (code, "several files share an id: 0 (0.flac, 0.wav)" in error) == (65, True)


def test_without_a_decoding_package_it_is_69(pictures, run, clip_folder, write_lines, monkeypatch):
    from llmbind_cli.evaluation import media_decode

    monkeypatch.setattr(media_decode.importlib.util, "find_spec", lambda *_: None)
    words = write_lines("w.jsonl", {"id": "0", "prompt": "cat"})
    made = pictures("made", n=1)
    chosen = ("--weights", f"clip-vit-b32={clip_folder}")
    code, _, error = run("--metric", "CLIPSIM", "--pred", made, "--prompts", words, *chosen)
    assert (code, "pip install 'llmbind[media]'" in error) == (69, True)


@pytest.mark.slow
def test_10_000_tiny_files_go_through(run, tmp_path, inception_file, monkeypatch):
    """Reading, hashing and listing; the network sees each content once."""
    made = tmp_path / "made"
    made.mkdir()
    for shade in range(3):
        Image.new("RGB", (2, 2), (90 * shade, 7, 9)).save(tmp_path / f"{shade}.png")
    for number in range(10_000):
        shutil.copy(tmp_path / f"{number % 3}.png", made / f"{number:05}.png")
    chosen = ("--weights", f"inception-v3={inception_file}")
    code, out, error = run("--metric", "FID", "--pred", made, "--ref", made, *chosen, "--json")
    assert code == 0, error
    report = json.loads(out)
    assert report["protocol"]["scorings"][0]["predictions"]["count"] == 10_000
    assert report["metrics"]["FID"]["value"] == pytest.approx(0, abs=1e-6)
    assert Path(made / "09999.png").exists()
