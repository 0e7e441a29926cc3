import json
import os
import shutil
import subprocess
import sys
import textwrap
from functools import partial

import pytest

from mdl_physpretrain import source_graph
from mdl_physpretrain.errors import ConfigError, PhysPretrainError, StructureError
from mdl_physpretrain.locking import locked, prepare_folder
from mdl_physpretrain.workflow.config import RunConfig
from mdl_physpretrain.workflow.plan import plan
from mdl_physpretrain.workflow.records import Records
from mdl_physpretrain.workflow.run import RunResult, execute, selected_stages
from mdl_physpretrain.workflow.task import Task
from mdl_physpretrain.workflow.workers import Workers

CONFIG = RunConfig(data={"source": "demo"})


def _copy(config, folder, show, *, source, target, add="", log=None):
    """A stage that appends a text to its input."""
    text = (folder / source).read_text() if source else ""
    (folder / target).parent.mkdir(parents=True, exist_ok=True)
    (folder / target).write_text(text + add)
    if log is not None:
        log.append(target)
    return [target]


def _fail(config, folder, show, *, error):
    raise error


def _environment(config, folder, show, *, target):
    import torch

    (folder / target).write_text(f"{os.environ['OMP_NUM_THREADS']} {torch.get_num_threads()} {os.getpid()}")
    return [target]


def _chain(log, *, first="a", second="b"):
    def work(source, target, add):
        return partial(_copy, source=source, target=target, add=add, log=log)

    return [
        Task("prepare", "prepare", work(None, "x.txt", first[:1]), first),
        Task("teacher", "teacher", work("x.txt", "sub/y.txt", second), second, ("x.txt",), ("prepare",)),
        Task("report", "report", work("sub/y.txt", "z.txt", "c"), "c", ("sub/y.txt",), ("prepare", "teacher")),
    ]


@pytest.fixture
def run(tmp_path):
    log: list[str] = []

    def go(tasks=None, **options):
        log.clear()
        result = RunResult(tmp_path)
        execute(_chain(log) if tasks is None else tasks(log), CONFIG, Records(tmp_path), result, **options)
        return list(log), result

    return go


def test_second_call_does_nothing(run, tmp_path):
    assert run()[0] == ["x.txt", "sub/y.txt", "z.txt"]
    assert (tmp_path / "z.txt").read_text() == "abc"
    done, result = run()
    assert done == []
    assert set(result.status.values()) == {"skipped"}


def test_a_changed_section_redoes_its_stage_and_what_reads_its_output(run):
    run()
    assert run(partial(_chain, second="B"))[0] == ["sub/y.txt", "z.txt"]
    # the first stage runs with another section, but its output is the same: the others stay
    assert run(partial(_chain, first="a2", second="B"))[0] == ["x.txt"]


def test_an_arm_is_trained_again_for_its_own_options_only():
    def sections(**finetune: float) -> dict[str, object]:
        arms = {"plain": {"pretrain": False}, "pretrained": {"replay": 0.3}}
        tasks = plan(RunConfig(data={"source": "demo"}, seeds=[0], arms=arms, finetune=finetune))
        return {t.name.split()[-1]: t.section for t in tasks if t.stage == "finetune"}

    before = sections()
    assert [k for k, v in sections(replay_tolerance=2.0).items() if v != before[k]] == ["pretrained"]
    assert [k for k, v in sections(learning_rate=1e-4).items() if v != before[k]] == ["plain", "pretrained"]


def test_missing_or_changed_outputs_are_made_again(run, tmp_path):
    run()
    (tmp_path / "z.txt").unlink()
    assert run()[0] == ["z.txt"]
    (tmp_path / "x.txt").write_text("!")
    assert run()[0] == ["x.txt"]
    os.utime(tmp_path / "x.txt", (0, 0))  # touched, but the same content
    assert run()[0] == []


def test_changed_code_redoes_a_stage_but_a_comment_does_not(run, tmp_path, monkeypatch):
    source = tmp_path / "its_code.py"
    source.write_text('"""Doc."""\ndef f():\n    return 1\n')
    monkeypatch.setattr(source_graph, "_file", lambda name: source if name == "mdl_physpretrain.its_code" else None)

    def tasks(log):
        for cached in (source_graph._digest, source_graph._tree, source_graph._imported):
            cached.cache_clear()
        work = partial(_copy, source=None, target="x.txt", log=log)
        return [Task("prepare", "prepare", work, 0, modules=("mdl_physpretrain.its_code",))]

    assert run(tasks)[0] == ["x.txt"]
    source.write_text('"""Other."""\n# why\ndef f():\n    """Say."""\n    return 1\n')
    assert run(tasks)[0] == []
    source.write_text("def f():\n    return 2\n")
    assert run(tasks)[0] == ["x.txt"]
    monkeypatch.undo()
    source_graph._digest.cache_clear()


def test_force_only_and_from(run, tmp_path):
    run()
    assert run(force=True)[0] == ["x.txt", "sub/y.txt", "z.txt"]
    assert run(force=True, chosen={"teacher"})[0] == ["sub/y.txt"]
    assert run(force=True, chosen=selected_stages(None, "teacher"))[0] == ["sub/y.txt", "z.txt"]
    with pytest.warns(UserWarning, match="out of date"):
        assert run(partial(_chain, first="a2", second="B"), chosen={"teacher"})[0] == ["sub/y.txt"]
    shutil.rmtree(tmp_path / ".stages")
    with pytest.raises(PhysPretrainError, match="prepare: not done yet"):
        run(chosen={"teacher"})
    assert run(chosen={"prepare"})[0] == ["x.txt"]


def test_selection_is_checked():
    with pytest.raises(ConfigError, match="no stage 'nonsense'; the stages are prepare"):
        selected_stages("nonsense", None)
    with pytest.raises(ConfigError, match="exclude each other"):
        selected_stages("md", "md")
    assert selected_stages(None, "md") == {"md", "report"}


def test_interrupted_work_is_resumed_only_if_it_is_the_same(tmp_path):
    records = Records(tmp_path)
    scratch = tmp_path / "train" / "last.ckpt"

    def attempt(mark, **options):
        resumes = records.start("t", mark, ["train"], **options)
        seen = scratch.read_text() if scratch.exists() else None
        scratch.parent.mkdir(exist_ok=True)
        scratch.write_text(mark)
        return resumes, seen

    assert attempt("A") == (False, None)
    assert attempt("A") == (True, "A")
    assert attempt("B") == (False, None)  # other work: put away, not gone on with
    assert (tmp_path / ".replaced" / "unfinished" / "t" / "train" / "last.ckpt").read_text() == "A"
    (tmp_path / "labels").write_text("dear")
    with pytest.warns(UserWarning, match=r"u: done again; what was there is kept in .*\.replaced"):
        assert not records.start("u", "A", [], dear=["labels", "gone"])
    assert (tmp_path / ".replaced" / "u" / "labels").read_text() == (tmp_path / "labels").read_text() == "dear"
    assert attempt("B", afresh=True) == (False, None)
    records.finish("t", "B", ["train/last.ckpt"], 1.0)
    assert records.done("t")["fingerprint"] == "B"
    assert attempt("C") == (False, None)
    assert records.done("t") is None


def test_no_finished_result_is_lost_by_going_back_and_forth(tmp_path):
    """An option that was a mistake, an interruption, and back: what was finished first is still there."""
    records, result = Records(tmp_path), tmp_path / "train" / "best.pt"

    def attempt(mark, *, finish=True):
        records.start("t", mark, ["train"])
        result.parent.mkdir(exist_ok=True)
        result.write_text(mark)
        if finish:
            records.finish("t", mark, ["train/best.pt"], 1.0)

    attempt("A")
    attempt("B", finish=False)
    attempt("A again")
    attempt("C")
    attempt("D", finish=False)
    attempt("E", finish=False)
    kept = {str(p.parents[1].relative_to(tmp_path)): p.read_text() for p in tmp_path.glob(".replaced/**/best.pt")}
    assert kept == {".replaced/t": "A", ".replaced/t-2": "A again", ".replaced/t-3": "C", ".replaced/unfinished/t": "D"}


def test_why_something_is_done_again_is_said(tmp_path):
    records = Records(tmp_path)
    (tmp_path / "in").write_text("1")

    def call(section=0, code=()):
        work = partial(_copy, source=None, target="out.txt")
        task = Task("t", "md", work, section, inputs=("in",), scratch=("out.txt",), modules=code)
        execute([task], CONFIG, records, RunResult(tmp_path))

    call()
    with pytest.warns(UserWarning, match=r"t: done again \(other options\); what was there is kept"):
        call(section=1)
    (tmp_path / "in").write_text("2")
    with pytest.warns(UserWarning, match=r"t: done again \(other in\); what"):
        call(section=1)
    with pytest.warns(UserWarning, match=r"t: done again \(other options, the code of the package changed\); what"):
        call(section=2, code=("json",))


def test_a_damaged_record_means_not_done(tmp_path, run):
    run()
    (tmp_path / ".stages" / "prepare.json").write_text('{"finger')
    assert run()[0] == ["x.txt"]
    (tmp_path / ".stages" / "prepare.json").write_text(json.dumps({"other": 1}))
    assert run()[0] == ["x.txt"]


def test_failed_task_is_named_and_what_was_done_is_kept(tmp_path, run):
    def tasks(log):
        chain = _chain(log)
        broken = partial(_fail, error=StructureError("bad", structure="s1"))
        return [chain[0], Task("finetune seed 3 a", "finetune", broken, 0, needs=("prepare",))]

    with pytest.raises(PhysPretrainError, match=r"^finetune seed 3 a: structure s1: bad$"):
        run(tasks)
    assert run()[0] == ["sub/y.txt", "z.txt"]


def test_a_tolerated_failure_costs_what_needs_it_only(tmp_path, run):
    def tasks(log):
        chain = _chain(log)
        broken = Task("bad", "md", partial(_fail, error=StructureError("bad")), 0)
        return [broken, Task("after", "md", chain[0].work, 0, needs=("bad",)), *chain]

    seen = []
    done, result = run(tasks, tolerate=lambda task, error: seen.append((task.name, str(error))) is None)
    assert seen == [("bad", "bad")]
    assert done == ["x.txt", "sub/y.txt", "z.txt"]
    assert (result.status["bad"], result.status["after"], result.status["report"]) == ("failed", "failed", "done")


def test_more_of_the_same_goes_on_with_what_is_there(tmp_path):
    records, scratch = Records(tmp_path), tmp_path / "runs"
    result = RunResult(tmp_path)

    def call(structures, section=0, code=()):
        work = partial(_copy, source=None, target="out.txt")
        seen = []
        execute(
            [Task("md", "md", work, section, scratch=("runs",), growing=structures, modules=code)], CONFIG, records,
            result, listener=lambda event, task, seconds: seen.append((event, scratch.exists())),
        )  # fmt: skip
        scratch.touch()
        return seen[0]

    assert call((("a", "1"),)) == ("start", False)
    assert call((("a", "1"),))[0] == "skip"
    assert call((("a", "1"), ("b", "2"))) == ("resume", True)
    assert call((("a", "1"), ("b", "2")), code=("json",)) == ("start", False)  # other code: put away
    assert (tmp_path / ".replaced" / "md" / "runs").is_file()


def test_a_full_disk_names_the_task_and_the_file(run):
    def tasks(log):
        broken = partial(_fail, error=OSError(28, "No space left on device", "last.ckpt"))
        return [Task("finetune seed 3 a", "finetune", broken, 0)]

    with pytest.raises(PhysPretrainError, match=r"^finetune seed 3 a: No space left on device \(last.ckpt\); finished"):
        run(tasks)


def test_a_bug_keeps_its_traceback_and_gets_the_tasks_name(run):
    def tasks(log):
        return [Task("md seed 1 a", "md", partial(_fail, error=ZeroDivisionError("1/0")), 0)]

    with pytest.raises(ZeroDivisionError) as caught:
        run(tasks)
    assert "md seed 1 a" in caught.value.__notes__[0]


def test_workers_do_tasks_with_one_thread_and_name_their_failures(tmp_path):
    before = os.environ.get("OMP_NUM_THREADS")
    tasks = [Task(f"md seed {k}", "md", partial(_environment, target=f"{k}.txt"), k, parallel=True) for k in range(3)]
    tasks.append(Task("collect", "md", partial(_copy, source="0.txt", target="c.txt"), 0, ("0.txt",), ("md seed 0",)))
    error = StructureError("bad", structure="s1")
    tasks.append(
        Task(
            "md seed 9",
            "md",
            partial(_fail, error=error),
            9,
            needs=("collect", "md seed 1", "md seed 2"),
            parallel=True,
        )
    )
    result = RunResult(tmp_path)
    with pytest.raises(PhysPretrainError, match=r"^md seed 9: structure s1: bad$"):
        execute(tasks, CONFIG, Records(tmp_path), result, jobs=2)
    found = [(tmp_path / f"{k}.txt").read_text().split() for k in range(3)]
    assert all(f[:2] == ["1", "1"] and f[2] != str(os.getpid()) for f in found)
    assert result.status["collect"] == "done"
    assert os.environ.get("OMP_NUM_THREADS") == before
    assert Workers(2).busy is False


def test_one_run_at_a_time_and_a_dead_ones_lock_is_taken_over(tmp_path):
    pytest.importorskip("fcntl")
    code = f"""
        import os, signal
        from pathlib import Path
        from mdl_physpretrain.locking import locked
        with locked(Path({str(tmp_path)!r})):
            print("locked", flush=True)
            input()
            os.kill(os.getpid(), signal.SIGKILL)
    """
    other = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert other.stdout.readline() == "locked\n"
    with pytest.raises(PhysPretrainError, match=rf"another run is at work .*process {other.pid} on"), locked(tmp_path):
        pass
    other.communicate("die\n")
    assert other.returncode == -9
    with locked(tmp_path):
        assert json.loads((tmp_path / ".lock").read_text())["pid"] == os.getpid()


def test_unwritable_folder_is_found_before_work(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(PhysPretrainError, match="cannot write to the run folder"):
        prepare_folder(tmp_path / "file" / "run")


def test_plan_leaves_out_what_no_arm_needs():
    config = RunConfig(data={"source": "demo"}, seeds=[0, 1], arms={"baseline": {"pretrain": False}})
    stages = [t.stage for t in plan(config)]
    assert "teacher" not in stages
    assert "pretrain" not in stages
    config = RunConfig(data={"source": "demo"}, seeds=[0], arms={"a": {}, "b": {"core": "zbl"}, "c": {"core": "zbl"}})
    assert [t.name for t in plan(config) if t.stage == "pretrain"] == ["pretrain seed 0", "pretrain seed 0 zbl"]


def test_needs_of_every_task_come_before_it():
    seen: set[str] = set()
    for task in plan(CONFIG):
        assert seen.issuperset(task.needs), task.name
        assert task.name not in seen
        seen.add(task.name)
