"""Parts of a job, their merge, and what ``--dry-run`` tells."""

from __future__ import annotations

import json
import shutil

import fake_makers
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmbind_cli.app import main
from llmbind_cli.errors import UsageError
from llmbind_cli.inference.shards import Shard

ROWS = [
    {"id": f"item {n}", "prompt": f"thing {n}", "modality": ["image", "video", "audio"][n % 3]}
    for n in range(9)
]


@pytest.fixture(autouse=True)
def _plug_in(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(fake_makers.install(tmp_path / "plug-in"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def generate(capsys):
    """Run the command in this process; return exit code, stdout and stderr."""

    def run(*arguments):
        code = main(["generate", *map(str, arguments)])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.fixture
def batch(generate, tmp_path):
    """Run rows through the generators themselves."""

    def run(rows, *arguments, out="out"):
        path = tmp_path / "requests.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return generate("--from", path, "--direct", *fake_makers.FLAGS, "--out", out, *arguments)

    return run


def lines_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def files_in(folder):
    kept = (path for path in folder.iterdir() if path.suffix in (".png", ".mp4", ".wav"))
    return {path.name: path.read_bytes() for path in kept}


@given(st.text(), st.integers(1, 50))
def test_an_id_belongs_to_one_shard(item_id, count):
    takers = [n for n in range(1, count + 1) if Shard(index=n, count=count).takes(item_id)]
    assert len(takers) == 1


def test_shards_are_about_equal_and_stay_as_they_are():
    ids = [f"item {n}" for n in range(1000)]
    sizes = [sum(map(Shard(index=n, count=4).takes, ids)) for n in (1, 2, 3, 4)]
    assert sizes == [257, 258, 243, 242]  # frozen: another split would redo other machines' items


@pytest.mark.parametrize("text", ["", "1", "1/", "/2", "0/2", "3/2", "-1/2", "1/0", "1.0/2", "१/२"])
def test_a_shard_that_is_none(text):
    with pytest.raises(UsageError, match="--shard"):
        Shard.parse(text)


@pytest.mark.parametrize("shared", [True, False])
def test_merged_shards_equal_the_whole(generate, batch, tmp_path, shared):
    batch(ROWS, out="whole")
    folders = ["parts"] * 3 if shared else ["part-1", "part-2", "part-3"]
    for number, folder in enumerate(folders, 1):
        assert batch(ROWS, "--shard", f"{number}/3", out=folder)[0] == 0
        assert (tmp_path / folder / f"manifest-{number}-of-3.jsonl").is_file()
    sources = [word for folder in dict.fromkeys(folders) for word in ("--merge", folder)]
    out = "parts" if shared else "merged"
    code, printed, errors = generate(*sources, "--out", out)
    assert (code, printed) == (0, f"{out}/manifest.jsonl\n"), errors
    assert files_in(tmp_path / out) == files_in(tmp_path / "whole")
    merged = lines_of(tmp_path / out / "manifest.jsonl")
    assert [line["id"] for line in merged] == [row["id"] for row in ROWS]
    whole = {line["id"]: line for line in lines_of(tmp_path / "whole" / "manifest.jsonl")}
    for line in merged:
        same = {"seconds": None, "files": None}
        assert line | same == whole[line["id"]] | same
        assert (tmp_path / line["files"][0]["path"]).is_file()
    if not shared:
        assert generate(*sources, "--out", out)[0] == 0
        assert batch(ROWS, out=out)[1].splitlines() == [line["files"][0]["path"] for line in merged]


def test_missing_and_failed_items_are_listed(generate, batch, tmp_path):
    rows = [*ROWS, {"id": "withheld", "prompt": "secret", "modality": "image"}]
    batch(rows, "--shard", "1/2", out="a")
    mine = [row["id"] for row in rows if Shard(index=1, count=2).takes(row["id"])]
    gone = next(line for line in lines_of(tmp_path / "a/manifest-1-of-2.jsonl") if line["files"])
    (tmp_path / gone["files"][0]["path"]).write_bytes(b"altered")
    code, _, errors = generate("--merge", "a", "--out", "merged")
    assert code == 3
    missing = [row["id"] for row in rows if row["id"] not in mine or row["id"] == gone["id"]]
    told = [line.split("missing: ")[1] for line in errors.splitlines() if "missing: " in line]
    assert [text.rpartition(" (shard ")[0] for text in told] == missing
    assert f"{len(missing)} of 10 items are missing" in errors
    batch(rows, "--shard", "1/2", out="a")
    batch(rows, "--shard", "2/2", out="b")
    code, _, errors = generate("--merge", "a", "--merge", "b", "--out", "merged")
    assert code == 3
    assert "0 of 10 items are missing and 1 failed" in errors
    assert len(lines_of(tmp_path / "merged/manifest.jsonl")) == 10


def test_decided_shards_merge_with_their_decisions(generate, bundle, replies, tmp_path):
    replies |= {"cat": "<aud_cap>purring</aud_cap><gen>a cat</gen>", "rain": "Clouds cool."}
    rows = [{"id": str(n), "prompt": "rain" if n == 3 else "cat"} for n in range(6)]
    (tmp_path / "r.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    base = ["--model", bundle, "--from", "r.jsonl", *fake_makers.FLAGS]
    for number in (1, 2):
        generate(*base, "--shard", f"{number}/2", "--out", "parts")
    assert generate("--merge", "parts", "--out", "merged")[0] == 3
    merged = lines_of(tmp_path / "merged/manifest.jsonl")
    assert [line["id"] for line in merged] == list("00112234455")
    assert [line["task"] for line in merged[:2]] == ["audio", "image"]
    replies.clear()
    code, printed, errors = generate(*base, "--out", "merged", "--json")
    assert (code, errors.count("1 of 6 items failed")) == (3, 1)
    statuses = [json.loads(line)["status"] for line in printed.splitlines()]
    assert sorted(statuses) == ["empty", *["skipped"] * 10]


def test_a_merge_keeps_what_earlier_merges_and_runs_put_into_the_folder(generate, batch, tmp_path):
    for number in (1, 2):
        batch(ROWS, "--shard", f"{number}/2", out=f"part-{number}")
    ids = [row["id"] for row in ROWS]
    assert generate("--merge", "part-1", "--out", "steps")[0] == 3
    assert generate("--merge", "part-2", "--out", "steps")[0] == 0
    assert [line["id"] for line in lines_of(tmp_path / "steps/manifest.jsonl")] == ids
    assert generate("--merge", "part-1", "--out", "topped")[0] == 3
    added = [*ROWS, {"id": "new", "prompt": "thing", "modality": "image"}]
    assert batch(added, out="topped")[0] == 0
    for _ in range(2):
        assert generate("--merge", "part-1", "--out", "topped")[0] == 0
        merged = lines_of(tmp_path / "topped/manifest.jsonl")
        assert [line["id"] for line in merged] == [*ids, "new"]
    assert generate("--merge", "part-1", "--merge", "part-2", "--out", "part-1")[0] == 0
    assert generate("--merge", "part-1", "--out", "part-1")[0] == 0
    assert [line["id"] for line in lines_of(tmp_path / "part-1/manifest.jsonl")] == ids


def test_a_folder_named_twice_is_merged_once(generate, batch, tmp_path):
    for number in (1, 2):
        batch(ROWS, "--shard", f"{number}/2", out=f"part-{number}")
    sources = ["part-1", tmp_path / "part-1", "part-2"]
    assert generate(*(w for s in sources for w in ("--merge", s)), "--out", "whole")[0] == 0
    merged = lines_of(tmp_path / "whole/manifest.jsonl")
    assert [line["id"] for line in merged] == [row["id"] for row in ROWS]


def test_decisions_of_an_earlier_merge_stay(generate, bundle, replies, tmp_path):
    replies["cat"] = "<gen>a cat</gen>"
    rows = [{"id": str(n), "prompt": "cat"} for n in range(6)]
    (tmp_path / "r.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    base = ["--model", bundle, "--from", "r.jsonl", *fake_makers.FLAGS]
    for number, code in ((1, 3), (2, 0)):
        generate(*base, "--shard", f"{number}/2", "--out", f"part-{number}")
        assert generate("--merge", f"part-{number}", "--out", "whole")[0] == code
    decided = lines_of(tmp_path / "whole/decisions.jsonl")
    assert sorted(line["id"] for line in decided) == list("012345")
    replies.clear()
    printed = generate(*base, "--out", "whole", "--json")[1]
    assert {json.loads(line)["status"] for line in printed.splitlines()} == {"skipped"}


def test_a_bad_line_counts_until_it_is_cured(generate, batch, tmp_path):
    sources = ["--merge", "part-1", "--merge", "part-2"]

    def both(rows):
        return [batch(rows, "--shard", f"{n}/2", out=f"part-{n}")[0] for n in (1, 2)]

    assert sorted(both([ROWS[0], "broken"])) == [0, 3]  # a text is no object
    code, _, errors = generate(*sources, "--out", "whole")
    assert (code, "0 of 1 items are missing and 1 failed" in errors) == (3, True)
    # Merged again from the other part alone, its record stays.
    (bad,) = (n for n in (1, 2) if Shard(index=n, count=2).takes("line-2"))
    assert generate("--merge", f"part-{3 - bad}", "--out", "whole")[0] == 3
    assert both([ROWS[0], ROWS[1]]) == [0, 0]
    assert generate(*sources, "--out", "whole")[0] == 0
    merged = lines_of(tmp_path / "whole/manifest.jsonl")
    assert [line["id"] for line in merged] == ["item 0", "item 1"]


@pytest.mark.parametrize("held", ["nothing", "another job", "other files"])
def test_what_does_not_belong_together_is_not_merged(generate, batch, tmp_path, held):
    batch(ROWS, "--shard", "1/2", out="a")
    if held == "nothing":
        (tmp_path / "b").mkdir()
        code, _, errors = generate("--merge", "a", "--merge", "b", "--out", "c")
        assert (code, "b: holds no job" in errors) == (78, True)
    elif held == "another job":
        batch(ROWS, "--shard", "2/2", "--seed", "1", out="b")
        code, _, errors = generate("--merge", "a", "--merge", "b", "--out", "c")
        assert (code, "seed: 0, now 1" in errors) == (78, True)
        assert generate("--merge", "a", "--out", "b")[0] == 78
    else:
        (tmp_path / "b").mkdir()
        (tmp_path / "b" / "mine.txt").touch()
        code, _, errors = generate("--merge", "a", "--out", "b")
        assert (code, "is not empty" in errors) == (73, True)


def test_a_dry_run_writes_and_loads_nothing(batch, tmp_path, monkeypatch):
    monkeypatch.setenv("FAKE_LOG", str(tmp_path / "log"))
    rows = [*ROWS, {"id": "x", "prompt": 1}]
    code, printed, _ = batch(rows, "--dry-run", "--json")
    told = json.loads(printed)
    assert code == 0
    assert told.pop("free_bytes") > 0
    assert told == {
        "requests": 9, "bad_lines": 1, "modalities": {"image": 3, "video": 3, "audio": 3},
        "done": 0, "failed": 0, "to_do": 9, "undecided": 0, "seconds": None, "bytes": None,
    }  # fmt: skip
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "log").exists()
    assert "unknown until some items are done" in batch(rows, "--dry-run")[1]


def test_an_estimate_follows_from_what_was_measured(batch, tmp_path):
    batch(ROWS[:3])
    path = tmp_path / "out" / "manifest.jsonl"
    lines = [line | {"seconds": 2.0} for line in lines_of(path)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    told = json.loads(batch(ROWS, "--dry-run", "--json")[1])
    sizes = {name.rpartition(".")[2]: len(c) for name, c in files_in(tmp_path / "out").items()}
    assert (told["done"], told["to_do"], told["seconds"]) == (3, 6, 12.0)
    assert told["bytes"] == 2 * (sizes["png"] + sizes["mp4"] + sizes["wav"])
    assert json.loads(batch(ROWS[:3], "--dry-run", "--json")[1])["seconds"] == 0
    assert batch(ROWS, "--dry-run", "--seed", "4")[0] == 78
    shutil.rmtree(tmp_path / "out")


def test_undecided_requests_count_a_decision_too(generate, bundle, replies, tmp_path):
    replies["cat"] = "<gen>a cat</gen>"
    base = ["--model", bundle, "--from", "r.jsonl", *fake_makers.FLAGS, "--json"]
    (tmp_path / "r.jsonl").write_text('{"id": "a", "prompt": "cat"}\n')
    generate(*base, "--out", "out")
    for name, seconds in (("manifest.jsonl", 2.0), ("decisions.jsonl", 0.5)):
        path = tmp_path / "out" / name
        (line,) = lines_of(path)
        path.write_text(json.dumps(line | {"seconds": seconds}) + "\n")
    with (tmp_path / "r.jsonl").open("a") as stream:
        stream.write('{"id": "b", "prompt": "dog"}\n{"id": "c", "prompt": "x"}\n')
    told = json.loads(generate(*base, "--dry-run", "--out", "out")[1])
    assert (told["modalities"], told["undecided"], told["seconds"]) == ({"auto": 3}, 2, 5.0)
