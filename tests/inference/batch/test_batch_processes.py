"""Batches as cron runs them: killed, stopped, run twice at once, on full disks, and finished."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import fake_makers
import pytest

COMMAND = [sys.executable, "-m", "llmbind_cli", "generate", "--direct", *fake_makers.FLAGS]


@pytest.fixture
def start(environment, tmp_path):
    """Start a batch in a process of its own, in a folder with requests and the plug-in."""
    plug_in = fake_makers.install(tmp_path / "plug-in")
    rows = [
        {"id": f"n{n}", "prompt": f"thing {n}", "modality": ["image", "video", "audio"][n % 3]}
        for n in range(9)
    ]
    (tmp_path / "r.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def process(*arguments, sleep_s=0.0, **options):
        settings = environment(FAKE_SLEEP_S=str(sleep_s), FAKE_LOG=str(tmp_path / "log"))
        settings["PYTHONPATH"] += f"{os.pathsep}{plug_in}"
        return subprocess.Popen(
            [*COMMAND, "--from", "r.jsonl", "--out", "out", *arguments],
            cwd=tmp_path,
            **{"env": settings, "stdout": -1, "stderr": -1, "text": True} | options,
        )

    return process


@pytest.fixture
def finish(start):
    """Run a batch to its end; return exit code, stdout and stderr."""

    def run(*arguments, **options):
        process = start(*arguments, **options)
        out, error = process.communicate(timeout=60)
        return process.returncode, out, error

    return run


def state(folder):
    """Name → content of the files made, and the manifest but for order and time."""
    files = {
        p.name: p.read_bytes() for p in folder.iterdir() if p.suffix in (".png", ".mp4", ".wav")
    }
    text = (folder / "manifest.jsonl").read_text()
    lines = [json.loads(line) | {"seconds": None} for line in text.splitlines()]
    for line in lines:
        line["files"] = [file["sha256"] for file in line["files"]]
    return files, sorted(map(json.dumps, lines))


def wait_for_lines(path, count):
    deadline = time.monotonic() + 30
    while not path.exists() or path.read_text().count("\n") < count:
        assert time.monotonic() < deadline, "the batch made nothing"
        time.sleep(0.01)


def test_a_finished_job_takes_under_a_second_and_no_model(finish, tmp_path):
    """The bar is 1 s of wall time; 0.3 s were measured. A loaded machine gets three tries."""
    assert finish()[0] == 0
    (tmp_path / "log").unlink()
    seconds = []
    for _ in range(3):
        began = time.monotonic()
        code, out, error = finish()
        seconds.append(time.monotonic() - began)
        assert (code, error, len(out.splitlines())) == (0, "", 9)
        if seconds[-1] < 1.0:
            break
    assert seconds[-1] < 1.0
    assert not (tmp_path / "log").exists()


def test_a_finished_job_imports_nothing_heavy(bundle, replies, environment, tmp_path, monkeypatch):
    """Also one in which a language model decided."""
    from llmbind_cli.app import main

    replies["cat"] = "<gen>a cat</gen>"
    plug_in = fake_makers.install(tmp_path / "plug-in")
    monkeypatch.syspath_prepend(plug_in)
    (tmp_path / "r.jsonl").write_text('{"id": "a", "prompt": "cat"}\n')
    arguments = ["generate", "--model", str(bundle), "--from", str(tmp_path / "r.jsonl")]
    arguments += ["--out", str(tmp_path / "out"), *fake_makers.FLAGS]
    assert main(arguments) == 0
    program = (
        "import sys\n"
        "from llmbind_cli.app import main\n"
        f"code = main({arguments!r})\n"
        "heavy = {'torch', 'numpy', 'transformers', 'peft', 'pydantic', 'diffusers', 'PIL',"
        " 'huggingface_hub', 'tokenizers', 'fake_makers'}\n"
        "print(code, sorted(heavy & set(sys.modules)), file=sys.stderr)\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", program],
        env=environment() | {"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stderr == "0 []\n"
    assert run.stdout == f"{tmp_path}/out/a-image-0.png\n"


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_lets_the_item_in_hand_finish(start, finish, tmp_path, sent, code):
    assert finish("--out", "whole")[0] == 0
    process = start(sleep_s=0.3)
    wait_for_lines(tmp_path / "out" / "manifest.jsonl", 2)
    process.send_signal(sent)
    out, error = process.communicate(timeout=30)
    assert process.returncode == code
    num_done = len(out.splitlines())
    assert 2 <= num_done < 9
    assert f"stopped after {num_done} of 9 items; the same command goes on" in error
    files, lines = state(tmp_path / "out")
    assert len(files) == len(lines) == num_done
    assert finish()[0] == 0
    assert state(tmp_path / "out") == state(tmp_path / "whole")


def test_a_second_interrupt_ends_at_once(start, finish, tmp_path):
    process = start(sleep_s=30)
    wait_for_lines(tmp_path / "log", 2)
    process.send_signal(signal.SIGINT)
    time.sleep(0.2)
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=20)
    assert process.returncode == 130
    assert time.monotonic() - began < 10
    assert finish()[0] == 0


def test_two_runs_and_a_lock_of_the_dead(start, finish, tmp_path):
    first = start(sleep_s=30)
    wait_for_lines(tmp_path / "log", 2)
    began = time.monotonic()
    code, out, error = finish()
    assert (code, out) == (11, "")
    assert "another llmbind process" in error
    assert time.monotonic() - began < 5
    assert finish("--shard", "1/2", "--out", "out/inner")[0] == 0
    waiting = start("--wait", "60")
    assert waiting.stderr.readline() == "out: another run works here; waiting for it\n"
    first.kill()
    first.communicate()
    waiting.communicate(timeout=30)
    assert waiting.returncode == 0
    assert len(state(tmp_path / "out")[1]) == 9


def test_a_closed_pipe_is_quiet_and_the_rest_is_done_later(start, finish, tmp_path):
    with start(sleep_s=0.1) as process:
        assert process.stdout.readline() == "out/n0-image-0.png\n"
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 0
    assert finish()[0] == 0
    assert len(state(tmp_path / "out")[1]) == 9


def test_a_full_disk_is_74_and_leaves_whole_files(finish, tmp_path):
    """A limit on file sizes stands for the disk: clips and sounds of 2.5 kB do not fit."""
    assert finish("--out", "whole")[0] == 0

    def little_room():
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))

    code, _, error = finish(preexec_fn=little_room)
    assert code == 74, error
    assert "free some space" in error
    files, lines = state(tmp_path / "out")
    assert len(lines) == len(files) == 3
    assert files.items() < state(tmp_path / "whole")[0].items()
    assert not list((tmp_path / "out").glob(".llmbind-*"))
    assert finish()[0] == 0
    assert state(tmp_path / "out") == state(tmp_path / "whole")


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="needs /proc")
def test_a_folder_that_cannot_be_written_is_refused_before_any_load(finish, tmp_path):
    code, out, _ = finish("--out", "/proc/self")
    assert (code, out) == (73, "")
    assert not (tmp_path / "log").exists()


def test_cron_s_short_environment(finish, tmp_path, root):
    path = f"{root / 'src'}{os.pathsep}{tmp_path / 'plug-in'}"
    settings = {"PATH": "/usr/bin:/bin", "PYTHONPATH": path, "TZ": "Asia/Kathmandu"}
    code, out, error = finish(env=settings, stdin=subprocess.DEVNULL)
    assert (code, len(out.splitlines()), error) == (0, 9, "")


def kill_and_compare(root, bundle, tmp_path, environment, kills):
    run = subprocess.run(
        [sys.executable, str(root / "tests/support/kill_batches.py"), bundle, tmp_path, str(kills)],
        env=environment() | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    report = json.loads(run.stdout)
    assert (report["survived"], len(report["left"])) == (kills, kills), run.stderr
    return report


def test_killed_batches_come_out_the_same(root, bundle, tmp_path, environment):
    kill_and_compare(root, bundle, tmp_path, environment, 8)


@pytest.mark.slow
def test_fifty_killed_batches_come_out_the_same(root, bundle, tmp_path, environment):
    report = kill_and_compare(root, bundle, tmp_path, environment, 50)
    assert len(set(report["left"])) >= 10, report  # the kills fell at many places
