from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from llmbind_cli.errors import InputDataError, ModelNotFoundError, OutputError, PolicyError
from llmbind_cli.generators.base import (
    GeneratedArtifact,
    GenerationOutcome,
    Generator,
    GeneratorRequest,
)
from llmbind_cli.inference.artifacts import MANIFEST, ArtifactFolder, ResultLine
from llmbind_cli.inference.dispatch import Job, dispatch, item_seed, jobs_of_reply
from llmbind_cli.tokens import TaskCall


class Typist:
    """Writes prompt and seed into its files, and refuses the prompt ``secret``."""

    fingerprint = "1"

    def __init__(self, modality: str, batch_size: int = 2) -> None:
        self.modality = modality
        self.name = f"{modality}-typist"
        self.batch_size = batch_size
        self.batches: list[list[str]] = []

    def generate(self, requests: Sequence[GeneratorRequest]) -> list[GenerationOutcome]:
        self.batches.append([request.prompt for request in requests])
        return [self._one(request) for request in requests]

    def _one(self, request: GeneratorRequest) -> GenerationOutcome:
        if request.prompt == "secret":
            return PolicyError("withheld")
        payload = f"{self.modality} {request.prompt} {request.seed}".encode()
        return GeneratedArtifact(payload=payload, media_type="text/plain", suffix=".txt")


class Shelf:
    """Hands out typists and counts how often each is asked for."""

    def __init__(self, **generators: Generator) -> None:
        self.generators = generators
        self.asked: list[str] = []

    def load(self, modality: str) -> Generator:
        self.asked.append(modality)
        if modality not in self.generators:
            raise ModelNotFoundError(f"no {modality} generator")
        return self.generators[modality]


def job(item_id: str, task: str = "image", prompt: str = "a cat", seed: int = 1) -> Job:
    return Job(item_id=item_id, index=0, task=task, prompt=prompt, seed=seed)


def ids_of(lines: Sequence[ResultLine]) -> list[str]:
    return [line.id for line in lines]


@pytest.fixture
def out(tmp_path: Path) -> ArtifactFolder:
    return ArtifactFolder(out=tmp_path / "out")


def test_two_calls_of_one_reply_both_run_in_order(out: ArtifactFolder) -> None:
    calls = [
        TaskCall(task="image", prompt="a cat", position=3),
        TaskCall(task="image", prompt="a cat", position=9),
    ]
    jobs = jobs_of_reply(calls, item_id="x", run_seed=0, reply="the reply")
    first, second = dispatch(jobs, generators=Shelf(image=Typist("image")), artifacts=out)
    assert (first.status, second.status) == ("ok", "ok")
    assert Path(first.files[0].path).name == "x-image-0.txt"
    assert Path(second.files[0].path).name == "x-image-1.txt"
    assert first.reply == second.reply == "the reply"
    assert first.seed != second.seed


def test_each_generator_is_loaded_once_and_order_is_kept(out: ArtifactFolder) -> None:
    picture, sound = Typist("image"), Typist("audio")
    shelf = Shelf(image=picture, audio=sound)
    tasks = ["image", "audio", "image", "image", "audio"]
    jobs = [job(str(n), task, f"prompt {n}") for n, task in enumerate(tasks)]
    lines = dispatch(jobs, generators=shelf, artifacts=out)
    assert shelf.asked == ["image", "audio"]
    assert picture.batches == [["prompt 0", "prompt 2"], ["prompt 3"]]
    assert sound.batches == [["prompt 1", "prompt 4"]]
    assert ids_of(lines) == ["0", "1", "2", "3", "4"]
    assert [line.task for line in lines] == tasks
    assert [line.model for line in lines][:2] == ["image-typist", "audio-typist"]
    for entry in lines:
        assert Path(entry.files[0].path).read_text() == f"{entry.task} {entry.prompt} 1"


def test_failures_stay_with_their_item(out: ArtifactFolder) -> None:
    typist = Typist("image")
    jobs = [
        job("a"),
        job("b", prompt="secret"),
        job("c", prompt=" "),
        job("d", task="video"),
        job("e", seed=-1),
        job("f", prompt="a \udcff"),
        job("g"),
    ]
    lines = dispatch(jobs, generators=Shelf(image=typist), artifacts=out)
    codes = [line.error and line.error.exit_code for line in lines]
    assert codes == [None, 77, 65, 10, 65, 65, None]
    assert [line.status for line in lines] == ["ok", *["failed"] * 5, "ok"]
    assert typist.batches == [["a cat", "secret"], ["a cat"]]


def test_nothing_loads_for_jobs_that_cannot_run(out: ArtifactFolder) -> None:
    shelf = Shelf(image=Typist("image"))
    (line,) = dispatch([job("a", prompt="")], generators=shelf, artifacts=out)
    assert isinstance(line.error, InputDataError)
    assert shelf.asked == []
    assert dispatch([], generators=shelf, artifacts=out) == []


def test_results_are_on_disk_before_the_next_batch(out: ArtifactFolder) -> None:
    class Watching(Typist):
        def generate(self, requests: Sequence[GeneratorRequest]) -> list[GenerationOutcome]:
            seen = out.manifest.read_text() if out.manifest.exists() else ""
            written.append(seen.count("\n"))
            return super().generate(requests)

    written: list[int] = []
    told: list[str] = []
    dispatch(
        [job(str(n)) for n in range(5)],
        generators=Shelf(image=Watching("image")),
        artifacts=out,
        on_result=lambda line: told.append(line.id),
    )
    assert written == [0, 2, 4]
    assert told == ["0", "1", "2", "3", "4"]


def test_manifest_lines_equal_the_results(out: ArtifactFolder) -> None:
    extra = {"tag": "x"}
    call = TaskCall(task="image", prompt="a cat", position=0)
    jobs = jobs_of_reply([call], item_id="A/b", run_seed=3, extra=extra)
    lines = dispatch(jobs, generators=Shelf(image=Typist("image")), artifacts=out, model="bundle")
    (entry,) = [json.loads(text) for text in (out.out / MANIFEST).read_text().splitlines()]
    assert entry == lines[0].as_dict()
    assert (entry["id"], entry["model"], entry["extra"]) == ("A/b", "bundle", extra)


def test_an_unwritable_folder_stops_the_run(out: ArtifactFolder, tmp_path: Path) -> None:
    (out.out / "a-image-0.txt").symlink_to(tmp_path / "outside")
    with pytest.raises(OutputError):
        dispatch([job("a"), job("b")], generators=Shelf(image=Typist("image")), artifacts=out)
    assert not (tmp_path / "outside").exists()


def test_seeds_depend_on_run_id_and_place_only() -> None:
    # Frozen: a change here changes every file that a rerun of an old job makes.
    assert item_seed(0, "a") == 7410929856057102
    assert item_seed(0, "a", 1) != item_seed(0, "a") != item_seed(1, "a") != item_seed(1, "b")
    assert item_seed(1, "1") != item_seed(11, "")
    seeds = {item_seed(n, str(m)) for n in range(30) for m in range(30)}
    assert len(seeds) == 900
    assert all(seed == int(float(seed)) for seed in seeds)


def test_an_items_own_seed_is_taken_as_it_is() -> None:
    calls = [TaskCall(task="image", prompt="a cat", position=n) for n in range(2)]
    first, second = jobs_of_reply(calls, item_id="a", run_seed=0, seed=42)
    assert first.seed == 42
    assert second.seed not in (42, item_seed(0, "a", 1))
    other, _ = jobs_of_reply(calls, item_id="b", run_seed=9, seed=42)
    assert other.seed == 42
