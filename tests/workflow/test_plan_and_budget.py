"""The plan of a run: when it ends, what a budget changes, and how far its tasks are."""

from __future__ import annotations

import json
import time
from dataclasses import replace

import numpy as np
import pytest
import yaml
from ase.build import bulk
from labelled_cells import random_labels
from typer.testing import CliRunner

from mdl_physpretrain.cli import app
from mdl_physpretrain.errors import ConfigError
from mdl_physpretrain.option_types import seconds_of
from mdl_physpretrain.progress import announce, track
from mdl_physpretrain.report import build
from mdl_physpretrain.report.sentences import budget_sentence
from mdl_physpretrain.structures import write_structures
from mdl_physpretrain.workflow import forecast as forecast_module
from mdl_physpretrain.workflow import heartbeat as heartbeat_module
from mdl_physpretrain.workflow.budget import RESERVE, Fit, fitted
from mdl_physpretrain.workflow.config import RunConfig
from mdl_physpretrain.workflow.config_files import load_config
from mdl_physpretrain.workflow.cost import Rates, Sizes, finish_times, first_seed, n_labelled, task_seconds
from mdl_physpretrain.workflow.forecast import Forecast, basis_of, fitted_before
from mdl_physpretrain.workflow.heartbeat import beating, heartbeat
from mdl_physpretrain.workflow.pace import Pace, expected_pace
from mdl_physpretrain.workflow.plan import plan
from mdl_physpretrain.workflow.plan_table import plan_parts
from mdl_physpretrain.workflow.task import Task
from mdl_physpretrain.workflow.time_words import about
from mdl_physpretrain.workflow.watch import Watch

SIZES = Sizes(train=(48, 900), val=(6, 110), test=(6, 110), starts=(6, 110), elements=2)
RATES = Rates(train=1e-3, md=1e-4)


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("10min", 600), ("2h", 7200), ("1h30m", 5400), ("1.5 h", 5400), ("1d", 86400)]
)
def test_times_are_read(text, seconds):
    assert seconds_of(text) == seconds
    assert RunConfig(data={"source": "demo"}, budget=text).budget == text


@pytest.mark.parametrize("text", ["", "10", "2 hours", "-1h", "0min", "h", "1h 2x"])
def test_what_is_no_time_is_refused(text):
    with pytest.raises(ValueError, match="time"):
        RunConfig(data={"source": "demo"}, budget=text)


@pytest.mark.parametrize("value", ["5", "0", "1h30"])
def test_a_refused_time_says_how_it_is_written(value, tmp_path):
    """On the command line ``--budget 5`` is a number by then."""
    (tmp_path / "run.yaml").write_text("data: {source: demo}\n")
    with pytest.raises(ConfigError) as caught:
        load_config(tmp_path / "run.yaml", [f"budget={value}"])
    shown = repr(value) if "h" in value else value
    assert str(caught.value).endswith(f"budget: a time is written as 90s, 10min, 2h or 1h30m, not {shown}")


def _tasks(*rows):
    return [Task(n, n, print, None, needs=tuple(needs.split()), parallel=parallel) for n, needs, parallel in rows]


def test_finish_times_follow_needs_and_workers():
    rows = [("a", "", False), ("b1", "a", True), ("b2", "a", True), ("b3", "a", True), ("c", "b1 b2 b3", False)]
    seconds = {"a": 1.0, "b1": 4.0, "b2": 2.0, "b3": 3.0, "c": 1.0}
    tasks = _tasks(*rows)
    assert finish_times(tasks, seconds, 1) == {"a": 1, "b1": 5, "b2": 7, "b3": 10, "c": 11}
    assert finish_times(tasks, seconds, 2) == {"a": 1, "b1": 5, "b2": 3, "b3": 6, "c": 7}
    done = {name: s for name, s in seconds.items() if name not in ("a", "b2")}
    assert finish_times(tasks, done, 2)["c"] == 5


def test_the_first_seed_is_judged_before_the_second_is_trained():
    config = RunConfig(data={"source": "demo"}, seeds=[3, 5])
    names = [task.name for task in plan(config)]
    assert set(first_seed(plan(config), config)) == {f"{s} seed 3 {a}" for s in ("evaluate", "md") for a in config.arms}
    assert max(names.index(n) for n in names if " seed 3" in n) < min(names.index(n) for n in names if " seed 5" in n)


def test_estimates_grow_with_what_is_asked_for():
    def seconds(stage, **options):
        config = RunConfig(data={"source": "demo"}, **options)
        tasks = [t for t in plan(config) if t.stage == stage and " seed " in t.name]
        return sum(task_seconds(t, config, SIZES, RATES) for t in tasks)

    assert seconds("pretrain", pretrain={"epochs": 100}) == pytest.approx(2 * seconds("pretrain"))
    assert seconds("md", md={"steps": 500}) == pytest.approx(seconds("md") / 10)
    assert seconds("md", md={"n_structures": 3}) == pytest.approx(seconds("md") / 2)
    assert seconds("finetune", finetune={"optimizer": "sam"}) > 1.8 * seconds("finetune")
    one = {"pretrained": {"replay": 0.5, "epochs": 100}}
    both = one | {"baseline": {"pretrain": False}}
    alone = seconds("finetune", arms=both) - seconds("finetune", arms=one)
    choice = {"finetune": {"replay_scope": "auto"}, "augment": {"change_error": "auto"}}
    chosen = seconds("finetune", arms=one, **choice)
    assert chosen == pytest.approx(2 * seconds("finetune", arms=one))  # with the labels beyond the data, and with all
    assert seconds("finetune", arms=both, **choice) == pytest.approx(alone + chosen)
    assert n_labelled(RunConfig(data={"source": "demo"}, augment={"n_aug": 7}), SIZES) == 7 * 48
    covering = RunConfig(data={"source": "demo"}, augment={"n_aug": 0, "coverage": 5, "thermal": None})
    numbers = {n: n_labelled(covering, replace(SIZES, elements=n)) for n in (2, 8, 16, 40, 85)}
    assert numbers[2] == 3 * 12 * 5
    assert numbers[8] == 36 * 12 * 5
    assert numbers[16] == pytest.approx(numbers[8], rel=0.3)
    assert numbers[85] < 2.5 * numbers[8], "all pairs, five a bin: a hundred times as many"


def _estimate(config):
    """As a run of this shape costs: seeds, their epochs and their trajectories, one after the other."""
    one = config.pretrain.epochs + config.finetune.epochs + 10 * config.md.n_structures + 50 * config.loop.rounds
    return 20.0 + len(config.seeds) * one, 20.0 + one


def test_a_budget_takes_trajectories_then_seeds_then_epochs():
    config = RunConfig(data={"source": "demo"}, loop={"rounds": 2}, budget="3000s")
    fit = fitted(config, _estimate)
    assert _estimate(fit.config)[0] <= RESERVE * 3000
    assert fit.config.budget is None
    assert fit.changes == {"md.n_structures": (100, 12)}  # of 5 seeds still
    tight = fitted(config.model_copy(update={"budget": "900s"}), _estimate)
    assert len(tight.config.seeds) == 3
    assert tight.changes["finetune.epochs"][1] < 200
    assert tight.changes["pretrain.epochs"][1] < 50
    assert "seeds 5 → 3" in tight.words()
    ample = fitted(config.model_copy(update={"budget": "9h"}), _estimate)
    assert not ample.changes
    assert ample.config.md.n_structures == 100


def test_every_cut_is_said():
    md = {"n_structures": 8, "also": [{"temperature": 900, "n_structures": 80}]}
    arms = {"looped": {"loop": 4}}
    config = RunConfig(data={"source": "demo"}, md=md, arms=arms, loop={"rounds": 0, "epochs": 50}, budget="3500s")

    def estimate(c):
        one = 10 * sum(x.n_structures for x in c.md.conditions().values()) + c.rounds_of("looped") * c.loop.epochs
        return len(c.seeds) * one, one

    assert fitted(config, estimate).changes == {"md.also.0.n_structures": (80, 12)}
    tight = fitted(config.model_copy(update={"budget": "780s"}), estimate).changes
    assert {"md.also.0.n_structures", "arms.looped.loop", "loop.epochs"} <= set(tight)
    assert "md.n_structures" not in tight


def test_a_first_verdict_takes_no_seeds_away():
    config = RunConfig(data={"source": "demo"}, md={"n_structures": 5}, budget="1h", first_verdict="160s")
    fit = fitted(config, _estimate)
    assert len(fit.config.seeds) == 5
    assert _estimate(fit.config)[1] <= RESERVE * 160


@pytest.mark.parametrize("budget", ["1h", None])
def test_a_first_verdict_that_cannot_be_kept_gives_way(budget):
    config = RunConfig(data={"source": "demo"}, md={"n_structures": 5}, budget=budget, first_verdict="1s")
    with pytest.warns(UserWarning, match="a first verdict within 1s cannot be kept: after about"):
        fit = fitted(config, _estimate)
    assert fit == fitted(config.model_copy(update={"first_verdict": None}), _estimate)
    tasks = plan(fit.config)
    forecast = Forecast(fit.config, fit, SIZES, RATES, 1, tasks, {t.name: 10.0 for t in tasks})
    sentences = " ".join(part for part in plan_parts(forecast, config) if isinstance(part, str))
    assert "longer than" not in sentences
    assert "verdict within" not in sentences
    assert fit.limits == ("" if budget is None else "a budget of 1h")


def test_what_gave_way_is_not_among_the_limits_of_plan_and_report(tmp_path):
    config = RunConfig(data={"source": "demo"}, md={"n_structures": 50}, budget="900s", first_verdict="1s")
    with pytest.warns(UserWarning, match="a first verdict within 1s cannot be kept"):
        fit = fitted(config, _estimate)
    tasks = plan(fit.config)
    forecast = Forecast(fit.config, fit, SIZES, RATES, 1, tasks, {t.name: 10.0 for t in tasks})
    forecast.write(tmp_path, basis_of(config), limited=True)
    assert fitted_before(config, tmp_path, same_data=True) is None
    (tmp_path / "seed-0").mkdir()
    stored = json.loads((tmp_path / "plan.json").read_text())
    assert stored["limits"] == "a budget of 900s"
    assert str(budget_sentence(stored).text).startswith("Fitted to a budget of 900s: ")
    assert fitted_before(config, tmp_path, same_data=True).seeds == fit.config.seeds  # of both limits still


def test_a_budget_that_cannot_be_kept_is_refused():
    with pytest.raises(ConfigError, match=r"a budget of 30s cannot be kept: even 1 seed,"):
        fitted(RunConfig(data={"source": "demo"}, budget="30s"), _estimate)


def test_a_task_tells_how_far_it_is(tmp_path, monkeypatch):
    monkeypatch.setattr(heartbeat_module, "EVERY", 0.0)
    (tmp_path / ".stages").mkdir()
    with beating(tmp_path, "md seed 0 a"):
        assert heartbeat(tmp_path, "md seed 0 a") is None
        steps = track(range(4), "MD", enabled=False)
        next(steps)
        time.sleep(0.05)
        next(steps)  # ends the first step
        beat = heartbeat(tmp_path, "md seed 0 a")
        assert (beat.what, beat.done, beat.total) == ("MD", 1, 4)
        assert 3 * 0.05 <= beat.remaining < 3.0
        announce("epoch 1 of 2", 5, 10)  # another loop begins, in its middle
        assert heartbeat(tmp_path, "md seed 0 a").remaining is None
    assert heartbeat(tmp_path, "md seed 0 a") is None
    announce("nobody listens", 1, 2)


def _beat(folder, task, done, now):
    """A loop of 100 steps that this call began at the 95th, at second 0."""
    (folder / ".stages").mkdir(exist_ok=True)
    state = {"what": "epoch", "done": done, "first": 95, "total": 100, "began": 0.0, "now": now}
    (folder / ".stages" / f"{task.name.replace(' ', '-')}.progress").write_text(json.dumps(state))


def test_a_resumed_task_says_nothing_of_the_others(tmp_path):
    config = RunConfig(data={"source": "demo"}, seeds=[0, 1, 2, 3, 4])
    tasks = plan(config)
    trainings = [t for t in tasks if t.stage == "pretrain"]
    motion = next(t for t in tasks if t.stage == "md" and " seed " in t.name)
    seconds = {t.name: 1000.0 for t in trainings}
    forecast = Forecast(config, Fit(config), SIZES, RATES, 1, tasks, dict(seconds))
    watch = Watch(tmp_path, print)
    watch.forecast = forecast
    watch.note("resume", trainings[0], 0.0)
    _beat(tmp_path, trainings[0], 95, 0.0)  # no rate yet
    assert watch._remaining()[0] == pytest.approx(4050, abs=1)
    _beat(tmp_path, trainings[0], 97, 20.0)
    assert watch._remaining()[0] == pytest.approx(4030, abs=1)
    watch.note("done", trainings[0], 50.0)
    assert watch._remaining()[0] == 4000
    watch.note("start", trainings[1], 0.0)
    watch.note("done", trainings[1], 500.0)  # one that this call did from its beginning
    assert watch._remaining()[0] == 1500
    forecast.seconds = {motion.name: 1000.0}
    watch.note("resume", motion, 0.0)
    _beat(tmp_path, motion, 97, 20.0)
    assert watch._remaining()[0] == pytest.approx(30, abs=1)


def test_a_resumed_finetuning_of_two_trainings(tmp_path):
    choice = {"augment": {"change_error": "auto"}, "finetune": {"replay_scope": "auto"}}
    config = RunConfig(data={"source": "demo"}, seeds=[0], arms={"pretrained": {"replay": 0.3}}, **choice)
    tasks = plan(config)
    training = next(t for t in tasks if t.stage == "finetune")
    watch = Watch(tmp_path, print)
    watch.forecast = Forecast(config, Fit(config), SIZES, RATES, 1, tasks, {training.name: 1000.0})
    watch.note("resume", training, 0.0)
    _beat(tmp_path, training, 97, 20.0)  # 30 s are left of this training
    assert watch._remaining()[0] == pytest.approx(530, abs=1)
    second = tmp_path / "seed-0" / "pretrained" / "last.ckpt"
    second.parent.mkdir(parents=True)
    second.touch()
    assert watch._remaining()[0] == pytest.approx(30, abs=1)


def test_arms_that_are_lost_early_say_nothing_of_the_others(tmp_path):
    arms = {"plain": {"pretrain": False}, "pretrained": {}}
    config = RunConfig(data={"source": "demo"}, seeds=[0, 1, 2], arms=arms)
    tasks = plan(config)
    moving = [t for t in tasks if t.stage == "md" and getattr(t.work, "keywords", {}).get("label") == ""]
    plain, pretrained = ([t for t in moving if t.name.endswith(f" {arm}")] for arm in arms)
    tables = next(t for t in tasks if t.name == "md")
    forecast = Forecast(
        config, Fit(config), SIZES, RATES, 1, tasks, {t.name: 1000.0 for t in moving} | {tables.name: 1.0}
    )
    watch = Watch(tmp_path, print)
    watch.forecast = forecast
    assert watch._remaining()[0] == 6001
    for event in ("start", "done"):
        watch.note(event, plain[0], 50.0)
    assert watch._remaining()[0] == 2 * 50 + 3 * 1000 + 1
    for event in ("start", "done"):
        watch.note(event, tables, 9.0)  # a table that takes long is no sign of slow MD
    assert watch._remaining()[0] == 2 * 50 + 3 * 1000
    watch.note("start", pretrained[0], 0.0)
    assert watch._remaining()[1][pretrained[0].name] == pytest.approx(1000, abs=1)
    watch.note("done", pretrained[0], 1200.0)
    assert watch._remaining()[0] == 2 * 50 + 2 * 1200


def test_a_slow_machine_shows_before_an_arm_is_known():
    config = RunConfig(data={"source": "demo"}, arms={"plain": {"pretrain": False}, "pretrained": {}})
    tasks = {t.name: t for t in plan(config)}
    slow = [Pace(tasks["md seed 0 plain"], 100.0, 300.0), Pace(tasks["finetune seed 0 plain"], 100.0, 50.0)]
    assert expected_pace(tasks["md seed 1 pretrained"], slow) == 3
    assert expected_pace(tasks["finetune seed 1 pretrained"], slow) == 0.5
    assert expected_pace(tasks["pretrain seed 1"], slow) == 1


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.2, "1 s"), (42, "40 s"), (58, "1 min"), (700, "12 min"), (4800, "1 h 20 min"), (54000, "15 h")],
)
def test_estimates_in_words(seconds, words):
    assert about(seconds) == words


CONFIG = """\
data: {source: mgo.extxyz, fractions: [0.5, 0.25, 0.25]}
seeds: [0, 1, 2, 3]
backbone: {name: cgcnn, args: {dim1: 8, dim2: 8, gc_count: 1, cutoff: 4.0}}
finetune: {epochs: 4}
arms: {baseline: {pretrain: false}}
md: {n_structures: 1, steps: 20}
"""


@pytest.mark.parametrize(("longer", "words"), [(None, "100 epochs of"), (500, "100 to 500 epochs of")])
def test_the_plan_tells_the_epochs_of_all_arms(longer, words):
    arms = {"plain": {"pretrain": False}, "longer": {"pretrain": False, "epochs": longer}}
    config = RunConfig(data={"source": "demo"}, arms=arms, finetune={"epochs": 100})
    tasks = plan(config)
    rows = Forecast(config, Fit(config), SIZES, RATES, 1, tasks, {t.name: 1.0 for t in tasks}).rows()
    assert next(size for stage, _, size, _ in rows if stage == "finetune").startswith(words)


@pytest.mark.parametrize(
    ("scope", "error", "words"),
    [("auto", "auto", "; arms with replay: at most two trainings"), ("auto", None, ""), ("beyond_data", "auto", "")],
)
def test_the_plan_tells_that_finetuning_may_be_done_twice(scope, error, words):
    options = {"finetune": {"epochs": 100, "replay_scope": scope}, "augment": {"change_error": error}}
    config = RunConfig(data={"source": "demo"}, **options)
    tasks = plan(config)
    rows = Forecast(config, Fit(config), SIZES, RATES, 1, tasks, {t.name: 1.0 for t in tasks}).rows()
    size = next(size for stage, _, size, _ in rows if stage == "finetune")
    assert size == f"100 epochs of {SIZES.train[0]} structures{words}"


def test_the_plan_counts_the_rounds_that_the_arms_ask_for():
    arms = {"replayed": {"replay": 0.3}, "looped": {"replay": 0.3, "loop": 3}}
    config = RunConfig(data={"source": "demo"}, seeds=[0, 1], arms=arms, loop={"rounds": 0, "epochs": 7})
    tasks = plan(config)
    seconds = {t.name: 100.0 if "number" in getattr(t.work, "keywords", {}) else 1.0 for t in tasks}
    rows = Forecast(config, Fit(config), SIZES, RATES, 1, tasks, seconds).rows()
    number, size, each = next(row[1:] for row in rows if row[0] == "loop")
    assert (number, each) == (2 * (3 + 1), 100.0), "three rounds and a last examination of each seed"
    assert size == "at most 3 rounds an arm, and an examination: 24 trajectories of 2,000 steps, 7 epochs"


def test_a_run_is_fitted_once(tmp_path, monkeypatch):
    rng = np.random.default_rng(7)
    cells = [bulk("MgO", "rocksalt", a=4.2, cubic=True) for _ in range(8)]
    write_structures(tmp_path / "mgo.extxyz", [random_labels(a, rng, f"mgo-{k}") for k, a in enumerate(cells)])
    (tmp_path / "c.yaml").write_text(CONFIG)
    monkeypatch.setattr(build, "draw", lambda makers, folder, notes: {})  # figures take most of the time
    # a machine on which 32 atoms and an epoch take 32 s, an MD step of 8 atoms nothing
    monkeypatch.setattr(forecast_module, "measured_rates", lambda *given: Rates(train=1.0, md=1e-9))
    words = ["run", str(tmp_path / "c.yaml"), "-o", str(tmp_path / "run"), "--jobs", "1"]
    refused = CliRunner().invoke(app, [*words, "--budget", "1min"])
    assert refused.exit_code == 2
    assert "budget of 1min cannot be kept" in refused.output
    planned = CliRunner().invoke(app, [*words, "--plan"])
    assert planned.exit_code == 0, planned.output
    assert "4 epochs of 4 structures" in planned.output
    assert not (tmp_path / "run" / "seed-0").exists()
    done = CliRunner().invoke(app, [*words, "--budget", "13min"])
    assert done.exit_code == 0, done.output
    assert "Fitted to a budget of 13min: seeds 4 → 3" in " ".join(done.output.split())
    assert "First verdict, seed 0" in done.output
    stored = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert stored["seeds"] == [0, 1, 2]
    assert json.loads((tmp_path / "run" / "plan.json").read_text())["changes"] == {"seeds": [4, 3]}
    assert "Fitted to a budget of 13min" in (tmp_path / "run" / "report" / "index.html").read_text()
    again = CliRunner().invoke(app, [*words, "--budget", "13min"])
    assert "✓" not in again.output, again.output


@pytest.fixture
def prepared(tmp_path):
    """Words of a run whose data are prepared, and its folder."""
    rng = np.random.default_rng(7)
    cells = [bulk("MgO", "rocksalt", a=4.2, cubic=True) for _ in range(8)]
    write_structures(tmp_path / "mgo.extxyz", [random_labels(a, rng, f"mgo-{k}") for k, a in enumerate(cells)])
    (tmp_path / "c.yaml").write_text(CONFIG)
    words = ["run", str(tmp_path / "c.yaml"), "-o", str(tmp_path / "run"), "--jobs", "1"]
    unprepared = CliRunner().invoke(app, [*words, "--plan", "--from", "teacher"])
    assert unprepared.exit_code == 2
    assert "the data are not prepared" in unprepared.output
    assert CliRunner().invoke(app, [*words, "--only", "prepare"]).exit_code == 0
    return words, tmp_path / "run"


def test_a_plan_of_nothing_says_so(prepared):
    words, _ = prepared
    short = CliRunner().invoke(app, [*words, "--plan", "--only", "report"])
    assert "Nothing that takes long is left to do, only report." in short.output
    nothing = CliRunner().invoke(app, [*words, "--plan", "--only", "prepare"])
    assert nothing.exit_code == 0
    assert "Nothing is left to do." in nothing.output


def _planned(words, *more):
    result = CliRunner().invoke(app, [*words, "--budget", "13min", "--plan", *more])
    assert result.exit_code == 0, result.output
    return " ".join(result.output.split())


def test_other_data_are_fitted_anew(prepared, monkeypatch):
    words, folder = prepared
    rates = Rates(train=1.0, md=1e-9)
    monkeypatch.setattr(forecast_module, "measured_rates", lambda *given: rates)
    assert "Fitted to a budget of 13min: seeds 4 → 3" in _planned(words)
    slow = Rates(train=4.0, md=1e-9)
    with monkeypatch.context() as slower:
        slower.setattr(forecast_module, "measured_rates", lambda *given: Rates(train=2.0, md=1e-9))
        assert "Fitted to a budget of 13min: seeds 4 → 2" in _planned(words)  # nothing is trained: once more
    assert "Fitted to a budget of 13min: seeds 4 → 3" in _planned(words)
    (folder / "seed-0").mkdir()  # as the first training leaves it
    assert "Fitted" not in _planned(words)  # goes on with the first fit
    with monkeypatch.context() as slower:
        slower.setattr(forecast_module, "measured_rates", lambda *given: slow)
        assert "This is longer than a budget of 13min" in _planned(words)
    _planned(words, "-j", "4")  # four at a time would be in time; what is trained already is not done again for it
    assert json.loads((folder / "plan.json").read_text())["config"]["seeds"] == [0, 1, 2]
    more = [random_labels(bulk("MgO", "rocksalt", a=4.2, cubic=True), np.random.default_rng(k), f"m{k}")
            for k in range(48)]  # fmt: skip
    write_structures(folder.parent / "mgo.extxyz", more)
    larger = CliRunner().invoke(app, [*words, "--budget", "13min", "--plan", "-j", "4"])
    assert "a budget of 13min cannot be kept" in larger.output  # the fit to a sixth of the data is not gone on with


def test_seeds_come_back_where_the_first_verdict_made_room():
    config = RunConfig(data={"source": "demo"}, md={"n_structures": 5}, budget="2000s", first_verdict="120s")
    fit = fitted(config.model_copy(update={"seeds": list(range(10))}), _estimate)
    assert len(fit.config.seeds) == 10
    assert _estimate(fit.config)[0] <= RESERVE * 2000


@pytest.mark.parametrize("budget", [150, 250, 350, 500, 700, 1000, 1500, 2500])
def test_what_one_cut_leaves_over_is_used(budget):
    """Seeds are whole numbers: where the last one that goes makes much room, trainings are longer again."""
    config = RunConfig(data={"source": "demo"}, md={"n_structures": 5}, budget=f"{budget}s")
    fit = fitted(config, _estimate).config
    total = _estimate(fit)[0]
    assert total <= RESERVE * budget
    epochs = fit.pretrain.epochs + fit.finetune.epochs
    assert epochs == 250 or total + len(fit.seeds) * 0.13 * epochs > RESERVE * budget
    assert fit.pretrain.epochs == pytest.approx(fit.finetune.epochs / 4, abs=0.6)


def test_trajectories_come_back_last():
    config = RunConfig(data={"source": "demo"}, md={"n_structures": 50}, seeds=[0, 1], budget="1h")

    def estimate(c):  # a second seed does not fit, all else of the first one does
        return 1000.0 * len(c.seeds) ** 2 + 10 * c.md.n_structures + c.finetune.epochs, 1000.0

    assert set(fitted(config, estimate).changes) == {"seeds"}
