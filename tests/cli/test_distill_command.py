"""`edgemed distill` from its file to its student, and every bad input: a sentence, the next step, the right code."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from checkpoints import write_checkpoint

from edgemed.cli import app
from edgemed.cli.checkpoints import name_of, source_checkpoint
from edgemed.distill import preflight

pytestmark = pytest.mark.needs_torch

EXAMPLES = [
    {"id": f"zinc-{n}", "question": f"How much zinc at {n} years?", "answer": f"Zinc, oral: {n} mg once daily."}
    for n in range(2, 12)
]
ASKED = [{"question": f"Zinc at the age of {n}?", "answer": f"Zinc: {n} mg once daily."} for n in range(2, 5)]
CONFIG = """
[teacher]
model = "teacher"

[student]
model = "student"

[data]
examples = "taught.jsonl"
replay = "replay.jsonl"
examinations = ["asked.jsonl"]

[teach]
top_k = 4
shard_examples = 4

[sft]
steps = 2
examples_per_step = 4

[kd]
steps = 3
examples_per_step = 4

[training]
save_every = 2
device = "cpu"
"""


class Ended(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        write_checkpoint(folder / "teacher", "llama", max_position_embeddings=2048)
        write_checkpoint(folder / "student", "qwen2", max_position_embeddings=2048)
    return folder


@pytest.fixture
def place(models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with all that CONFIG names."""
    for name in ("teacher", "student"):
        (tmp_path / name).symlink_to(models / name)
    write(tmp_path / "taught.jsonl", *EXAMPLES)
    write(tmp_path / "replay.jsonl", {"question": "What is ORS?", "answer": "Salts and sugar in water."})
    write(tmp_path / "asked.jsonl", *ASKED)
    (tmp_path / "config.toml").write_text(CONFIG)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def distill(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Ended]:
    """The command, in this process."""
    monkeypatch.setattr(logging, "basicConfig", lambda **_: None)

    def run(*arguments: str) -> Ended:
        monkeypatch.setattr(sys, "argv", ["edgemed", "distill", *arguments])
        capsys.readouterr()
        code = 0
        try:
            app._run()
        except SystemExit as ended:
            code = int(ended.code or 0)
        return Ended(code, *capsys.readouterr())

    return run


def write(path: Path, *lines: object) -> None:
    path.write_bytes(b"".join((one if isinstance(one, bytes) else json.dumps(one).encode()) + b"\n" for one in lines))


def changed(place: Path, before: str, after: str) -> None:
    text = (place / "config.toml").read_text()
    assert before in text
    (place / "config.toml").write_text(text.replace(before, after))


def refused(ended: Ended, code: int, *said: str) -> None:
    assert ended.code == code, ended.err
    assert ended.out == ""
    assert "Next: " in ended.err
    assert "Traceback" not in ended.err
    assert "fault of its own" not in ended.err
    for words in said:
        assert words in ended.err


def test_a_run_goes_through_and_a_second_does_nothing_again(place: Path, distill: Callable[..., Ended]) -> None:
    first = distill("config.toml", "--json")
    assert first.code == 0, first.err
    record = json.loads(first.out)
    assert record["finished"]
    assert [stage["name"] for stage in record["stages"]] == ["teach", "align", "sft", "kd", "examine", "export"]
    assert all(stage["finished"] for stage in record["stages"])
    assert record["stages"][4]["report"]["models"]["student"]["doses"]["asked"] == 3
    run = place / "runs" / "config"
    assert json.loads((run / "run.json").read_text()) == record
    assert {path.name for path in (run / "student").iterdir()} >= {"config.json", "model.safetensors", "tokenizer.json"}
    times = {path: path.stat().st_mtime_ns for path in run.rglob("*") if path.is_file()}
    again = distill("config.toml")
    assert again.code == 0, again.err
    assert "student behind sft" in again.out
    assert {path: path.stat().st_mtime_ns for path in times} == times
    assert source_checkpoint(None, command="export") == Path("runs/config/student")
    assert name_of(Path("runs/config/student")) == "config-student"


def test_stages_come_one_by_one_and_export_waits_for_the_last(place: Path, distill: Callable[..., Ended]) -> None:
    aligned = distill("config.toml", "--stage", "align")
    assert aligned.code == 0, aligned.err
    assert "one to many" in aligned.out
    assert not (place / "runs" / "config" / "corpus").exists()
    trained = distill("config.toml", "--stage", "kd")
    assert trained.code == 0, trained.err
    stages = json.loads((place / "runs" / "config" / "run.json").read_text())["stages"]
    assert [stage["name"] for stage in stages] == ["align", "teach", "sft", "kd"]
    refused(exported(distill), 2, "no finished run")


def test_an_adapter_is_saved_and_merged_into_the_student(place: Path, distill: Callable[..., Ended]) -> None:
    pytest.importorskip("peft")
    changed(place, "[sft]\nsteps = 2", '[adapter]\nrank = 2\nallocation = "gradient"\n\n[sft]\nsteps = 2')
    ended = distill("config.toml", "--json")
    assert ended.code == 0, ended.err
    record = json.loads(ended.out)
    run = place / "runs" / "config"
    assert record["adapter"] == str(run / "adapter")
    assert (run / "adapter" / "adapter_model.safetensors").exists()
    assert set(record["stages"][-1]["report"]["merge_error"]) == {"weights", "logits"}
    assert not [path for path in (run / "student").iterdir() if "adapter" in path.name]


def exported(distill: Callable[..., Ended]) -> Ended:
    from edgemed.core.errors import UsageError

    with pytest.raises(UsageError) as error:
        source_checkpoint(None, command="export")
    return Ended(error.value.exit_code, "", f"error: {error.value.what}\nNext: {error.value.next_step}")


def test_one_vocabulary_is_asked_for_where_there_are_two(place: Path, distill: Callable[..., Ended]) -> None:
    changed(place, "[sft]", '[loss]\nkd = "same"\n\n[sft]')
    refused(distill("config.toml"), 2, "different vocabularies", 'set loss.kd = "chunks"')
    assert not (place / "runs").exists()


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ({"question": "What?", "answer": ""}, "taught.jsonl cannot be taught: line 11: answer"),
        ({"question": "What?", "answer": " - "}, "line 11: the answer says nothing"),
        ({"prompt": "What?", "response": "That."}, "line 11"),
        (b'{"question": "caf\xe9?", "answer": "x"}', "line 11: byte 17 is no UTF-8"),
        (EXAMPLES[3] | {"id": "copy"}, "line 11: says the same as line 4"),
        ({"question": ASKED[0]["question"].upper(), "answer": "2 mg"}, "hold what an examination asks"),
    ],
)
def test_data_that_must_not_be_taught_is_refused_by_line(
    place: Path, distill: Callable[..., Ended], line: object, said: str
) -> None:
    write(place / "taught.jsonl", *EXAMPLES, line)
    refused(distill("config.toml"), 2, said)
    assert not (place / "runs").exists()


def test_all_faults_are_told_together(place: Path, distill: Callable[..., Ended]) -> None:
    write(place / "taught.jsonl", {"question": "What?"})
    write(place / "asked.jsonl", b"{")
    changed(place, 'model = "student"', 'model = "nowhere"')
    refused(distill("config.toml"), 2, "taught.jsonl cannot be taught", "asked.jsonl cannot be asked", "/nowhere")


def test_a_corpus_of_another_teacher_is_not_gone_on_with(place: Path, distill: Callable[..., Ended]) -> None:
    assert distill("config.toml", "--stage", "teach").code == 0
    manifest = place / "runs" / "config" / "corpus" / "manifest.json"
    content = json.loads(manifest.read_text())
    content["identity"]["teacher"] = "0" * 64
    manifest.write_text(json.dumps(content))
    record = place / "runs" / "config" / "run.json"
    record.write_text(record.read_text().replace('"finished": true', '"finished": false'))
    refused(distill("config.toml"), 2, "another teacher", "Next: ")
    assert json.loads(manifest.read_text()) == content


def test_a_loss_that_is_no_number_stops_and_keeps_the_last_checkpoint(
    place: Path, distill: Callable[..., Ended]
) -> None:
    changed(place, "[kd]\nsteps = 3\n", "[kd]\nsteps = 6\nrate = 1e30\nwarmup_steps = 5\nmax_grad_norm = 1e30\n")
    refused(distill("config.toml"), 1, "not a finite number", "examples in the corpus")
    run = json.loads((place / "runs" / "config" / "run.json").read_text())
    assert not run["finished"]
    assert [stage["finished"] for stage in run["stages"] if stage["name"] in ("sft", "kd")] == [True, False]


def test_too_little_memory_is_known_before_anything_is_loaded(
    place: Path, distill: Callable[..., Ended], monkeypatch: pytest.MonkeyPatch
) -> None:
    small = preflight.Machine(device="cpu", free=1000)
    monkeypatch.setattr(preflight, "machine_of", lambda config: small)
    refused(distill("config.toml"), 4, "are free", "teacher.dtype")
    assert distill("config.toml", "--stage", "align").code == 0
    monkeypatch.setattr(preflight, "_require_teachers_memory", lambda config: None)
    refused(distill("config.toml"), 4)


def test_a_missing_package_names_the_extra(
    place: Path, distill: Callable[..., Ended], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preflight, "find_spec", lambda name: None)
    refused(distill("config.toml"), 3, "pip install 'edgemed[workstation]'")


def test_somebody_elses_folder_and_other_settings_are_left_alone(place: Path, distill: Callable[..., Ended]) -> None:
    (place / "mine").mkdir()
    (place / "mine" / "thesis.txt").write_text("years")
    refused(distill("config.toml", "--output", "mine"), 2, "something else", "--output")
    assert [path.name for path in (place / "mine").iterdir()] == ["thesis.txt"]
    assert distill("config.toml", "--stage", "teach").code == 0
    changed(place, "top_k = 4", "top_k = 5")
    refused(distill("config.toml"), 2, "teach.top_k", "--no-resume")
    renewed = distill("config.toml", "--stage", "teach", "--no-resume")
    assert renewed.code == 0, renewed.err
    assert "was moved to" in renewed.err
    assert (place / "runs" / "config.before-1" / "corpus" / "manifest.json").exists()


def test_several_processes_take_one_stage_of_training_at_a_time(
    place: Path, distill: Callable[..., Ended], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    refused(distill("config.toml"), 2, "runs in one process", "accelerate")
    refused(distill("config.toml", "--stage", "kd"), 2, "comes behind --stage teach", "in one process")
    assert not (place / "runs").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="no lock there")
def test_two_do_not_work_on_one_run(place: Path, distill: Callable[..., Ended]) -> None:
    from edgemed.distill.run_record import alone_in

    with alone_in(place / "runs" / "config"):
        refused(distill("config.toml", "--stage", "align"), 2, "Another process works on the run")
    assert distill("config.toml", "--stage", "align").code == 0


@pytest.mark.parametrize("ending", [KeyboardInterrupt(), SystemExit(143)])
def test_an_end_that_was_asked_for_says_how_to_go_on(
    place: Path, distill: Callable[..., Ended], monkeypatch: pytest.MonkeyPatch, ending: BaseException
) -> None:
    from edgemed.distill import stages

    def cut(*_: object, **__: object) -> None:
        raise ending

    monkeypatch.setattr(stages, "run", cut)
    ended = distill("config.toml", "--stage", "teach")
    assert (ended.code, ended.out) == (130, "")
    assert "Next: edgemed distill config.toml --stage teach" in ended.err


def test_a_key_that_is_not_known_is_named_with_its_line(place: Path, distill: Callable[..., Ended]) -> None:
    changed(place, "top_k = 4", "topk = 4")
    refused(distill("config.toml"), 2, "teach.topk (line 14) is not known; use one of the keys answers")
    refused(distill("nothing.toml"), 2, "shipped configuration of that name: demo, medquad, r1-70b-to-7b")


@pytest.mark.slow
def test_weights_are_searched_and_arms_compared_on_one_corpus(place: Path, distill: Callable[..., Ended]) -> None:
    pytest.importorskip("optuna")
    (place / "validation.jsonl").write_text((place / "asked.jsonl").read_text().replace("age of", "age"))
    changed(place, "[teach]", 'validation = "validation.jsonl"\n\n[teach]')
    grid = (
        "kd_weights = [0.5, 1.0]\nmed_kl_weights = [0.0]\nmse_weights = [0.0]\nshare = 0.5\nfinalists = 1\nseeds = 2\n"
    )
    changed(place, "[training]", f'[tune]\n{grid}\n[ablate]\nseeds = 2\narms = ["sft", "kd"]\n\n[training]')
    tuned = distill("config.toml", "--stage", "tune")
    assert tuned.code == 0, tuned.err
    assert "chosen: kd_weight" in tuned.out
    shards = {path: path.stat().st_mtime_ns for path in (place / "runs" / "config" / "corpus").iterdir()}
    compared = distill("config.toml", "--stage", "ablate")
    assert compared.code == 0, compared.err
    assert "kd" in compared.out
    assert {path: path.stat().st_mtime_ns for path in shards} == shards
    assert not (place / "runs" / "config" / "student").exists()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="no SIGTERM there")
def test_a_terminated_run_ends_with_130_and_goes_on_to_the_same_student(
    place: Path, distill: Callable[..., Ended]
) -> None:
    changed(place, "[kd]\nsteps = 3", "[kd]\nsteps = 40")
    command = [sys.executable, "-m", "edgemed.cli.app", "distill", "config.toml", "--output"]
    process = subprocess.Popen([*command, "cut"], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("Distilling"):
            break
    process.terminate()
    out, err = process.communicate(timeout=100)
    assert (process.returncode, out) == (130, ""), err
    assert "Next: " in err
    assert not (place / "cut" / "student").exists()
    assert distill("config.toml", "--output", "cut").code == 0
    assert distill("config.toml", "--output", "whole").code == 0
    students = [(place / name / "student" / "model.safetensors").read_bytes() for name in ("cut", "whole")]
    assert students[0] == students[1]
