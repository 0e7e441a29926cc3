from pathlib import Path

import pytest
import yaml

from mdl_physpretrain.errors import ConfigError
from mdl_physpretrain.ownership import claim_folder
from mdl_physpretrain.structures.datasets import shipped_configuration
from mdl_physpretrain.workflow.config import RunConfig
from mdl_physpretrain.workflow.config_files import build_config, dump_config, load_config, schema_rows
from mdl_physpretrain.workflow.layout import best_file
from mdl_physpretrain.workflow.plan import plan

FOLDER = Path(__file__).parents[2] / "configs"
CONFIGS = sorted([shipped_configuration(), *FOLDER.glob("*.yaml"), *FOLDER.glob("lmo-backbones/*.yaml")])


def _write(folder, text, name="c.yaml"):
    path = folder / name
    path.write_text(text)
    return path


def _message(folder, text, overrides=()):
    with pytest.raises(ConfigError) as caught:
        load_config(_write(folder, text), overrides)
    return str(caught.value)


def test_the_demo_has_a_name_where_no_file_has_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "demo").mkdir()
    config = load_config("demo", ["md.steps=7"])
    assert (config.data.source, config.output, config.md.steps) == (["demo-silica"], "runs/demo", 7)
    (tmp_path / "demo").rmdir()
    _write(tmp_path, "data: {source: own.extxyz}\n", name="demo")
    assert load_config("demo").data.source == ["own.extxyz"]


def test_misspelt_key_names_place_line_and_nearest(tmp_path):
    message = _message(tmp_path, "data: {source: demo}\nmd:\n  temperature: 300\n  stpes: 10\n")
    assert "c.yaml:4: unknown key 'md.stpes'; did you mean 'md.steps'?" in message


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("data: {source: demo}\nfinetne: {}\n", "c.yaml:2: unknown key 'finetne'; did you mean 'finetune'?"),
        ("data: {source: demo}\narms: {a: {pretain: true}}\n", "'arms.a.pretain'; did you mean 'arms.a.pretrain'?"),
        ("data: {source: demo}\npretrain: {temperature: 3}\n", "elsewhere: 'loop.temperature', 'md.temperature'"),
        ("data: {source: demo}\nzzz: 1\n", "unknown key 'zzz'; valid keys here: name, output"),
    ],
)
def test_unknown_keys(tmp_path, text, expected):
    assert expected in _message(tmp_path, text)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("augment: {pull: -1}", "c.yaml:2: augment.pull: input should be greater than or equal to 0, not -1"),
        ("md: {temperature: warm}", "md.temperature: input should be a valid number"),
        ("md: {temperature: .nan}", "md.temperature: input should be a finite number"),
        ("md: {ensemble: ntv}", "did you mean 'nvt'?"),
        ("finetune: {epochs: 0}", "finetune.epochs"),
        ("seeds: [0, 0]", "seeds: a seed occurs twice"),
        ("seeds: []", "seeds"),
        ("seeds: [-1]", "seeds.0"),
        ("arms: {md: {}}", "arms: an arm cannot be called 'md'"),
        ("arms: {'a/b': {}}", "arms.a/b"),
        ("arms: {}", "arms"),
        ("teacher: {checkpoint: a.pt, calculator: 'a:b'}", "not both"),
        ("teacher: {calculator: nonsense}", "teacher.calculator"),
        ("backbone: {core: zlb}", "did you mean 'zbl'?"),
        ("arms: {a: {hybrid: joint}}", "arms.a: 'hybrid' adds the teacher to a new network: set 'pretrain: false'"),
        ("finetune: {optimizer: smurf}", "finetune.optimizer"),
        (
            "teacher: {calculator: 'a:b'}\narms: {a: {pretrain: false, hybrid: joint}}",
            "arms.a.hybrid adds an EAM, but teacher.calculator is another potential",
        ),
    ],
)
def test_values_out_of_range(tmp_path, words, expected):
    assert expected in _message(tmp_path, f"data: {{source: demo}}\n{words}\n")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{}", "data is required"),
        ("", "data is required"),
        ("data: {}", "give either 'source'"),
        ("data: {source: a, train: b}", "give either 'source'"),
        ("data: {source: a, test: b}", "go with 'train'"),
        ("data: {source: a, fractions: [0.5, 0.1, 0.1]}", "add up to 1"),
        ("data: {source: a, usage: 120%}", "data.usage"),
        ("data: {source: a, elements: [Si, Xx]}", "elements must be chemical symbols such as ['Si', 'O'], not 'Xx'"),
        ("data: {source: a, elements: [Si, Si]}", "Si is there twice"),
        ("data: {source: a, elements: []}", "name at least one element"),
        ("- a\n", "expected keys and values"),
        ("data: {source: a\n", "not valid YAML"),
        ("data: {source: a}\nmd: {steps: 1}\nmd: {steps: 2}\n", "c.yaml:3: md occurs twice"),
    ],
)
def test_unusable_files(tmp_path, text, expected):
    assert expected in _message(tmp_path, text)


def test_missing_file_and_bytes_that_are_no_text(tmp_path):
    with pytest.raises(ConfigError, match=r"none\.yaml does not exist"):
        load_config(tmp_path / "none.yaml")
    (tmp_path / "b.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config(tmp_path / "b.yaml")


def test_all_errors_are_reported_at_once(tmp_path):
    message = _message(tmp_path, "data: {source: demo}\nmd: {steps: -1, skn: 2}\n")
    assert "md.steps" in message
    assert "md.skn" in message


def test_another_network_does_not_inherit_the_arguments(tmp_path):
    base = "data: {source: demo}\nbackbone: {name: torchmd_et, args: {num_layers: 2}, core: zbl}\n"
    _write(tmp_path, base, "base.yaml")
    child = _write(tmp_path, "inherits: base.yaml\nbackbone: {name: cgcnn, args: {cutoff: 4.5}}\n", "child.yaml")
    backbone = load_config(child).backbone
    assert (backbone.name, backbone.args, backbone.core) == ("cgcnn", {"cutoff": 4.5}, "zbl")
    same = _write(tmp_path, "inherits: base.yaml\nbackbone: {name: torchmd_et, args: {cutoff: 4.5}}\n", "same.yaml")
    default = load_config(_write(tmp_path, "data: {source: demo}\n", "default.yaml")).backbone
    assert default.name == "torchmd_et"
    assert load_config(same).backbone.args == {**default.args, "num_layers": 2, "cutoff": 4.5}


def test_inherits_merges_key_by_key_but_replaces_arms(tmp_path):
    _write(tmp_path, "data: {source: demo, usage: 10%}\nmd: {steps: 7, temperature: 500}\narms: {a: {}}\n", "base.yaml")
    child = _write(tmp_path, "inherits: base.yaml\nmd: {steps: 9}\narms: {b: {pretrain: false}}\n", "child.yaml")
    config = load_config(child)
    assert (config.md.steps, config.md.temperature, config.data.usage) == (9, 500, 0.1)
    assert list(config.arms) == ["b"]
    assert config.name == "child"


def test_a_file_that_inherits_the_configuration_of_a_run_does_not_write_into_its_folder(tmp_path):
    run = tmp_path / "run"
    claim_folder(run, "run")
    first = load_config(_write(tmp_path, "data: {source: demo}\nmd: {steps: 7}\n"), [f"output={run}", "name=first"])
    (run / "config.yaml").write_text(dump_config(first))
    middle = _write(tmp_path, "inherits: run/config.yaml\nmd: {temperature: 500}\n", "middle.yaml")
    child = _write(tmp_path, "inherits: middle.yaml\n", "child.yaml")
    for file in (middle, child):
        config = load_config(file)
        assert (config.output, config.name) == (f"runs/{file.stem}", file.stem)
        assert (config.md.steps, config.md.temperature) == (7, 500)
    assert load_config(run / "config.yaml").output == str(run), "the file itself goes on with its run"


def test_errors_in_inherited_files_name_that_file(tmp_path):
    _write(tmp_path, "md: {stpes: 7}\n", "base.yaml")
    assert "base.yaml:1: unknown key" in _message(tmp_path, "inherits: base.yaml\ndata: {source: demo}\n")
    _write(tmp_path, "inherits: c.yaml\n", "base.yaml")
    assert "round in a circle" in _message(tmp_path, "inherits: base.yaml\ndata: {source: demo}\n")
    assert "nowhere.yaml does not exist" in _message(tmp_path, "inherits: nowhere.yaml\n")


def test_overrides_change_values_and_errors_name_them(tmp_path):
    path = _write(tmp_path, "data: {source: demo}\nmd: {steps: 7}\n")
    config = load_config(path, ["md.steps=9", "seeds=[3]", "backbone.args.cutoff=5", "finetune.learning_rate=1e-3"])
    assert (config.md.steps, config.seeds, config.backbone.args["cutoff"]) == (9, [3], 5)
    assert config.finetune.learning_rate == 1e-3
    for word, expected in (
        ("md.stpes=1", "option 'md.stpes=1': unknown key"),
        ("md.steps", "not of the form"),
        ("md.steps.x=1", "md.steps is a value"),
        ("md.steps=[", "not valid YAML"),
    ):
        with pytest.raises(ConfigError) as caught:
            load_config(path, [word])
        assert expected in str(caught.value)


def test_preset_paper_is_the_papers_and_own_keys_win(tmp_path):
    config = build_config({"preset": "paper", "data": {"source": "demo"}, "augment": {"n_aug": 10}})
    assert config.teacher.preset == "paper"
    assert config.teacher.epochs == 200
    assert config.augment.max_force is None
    assert not config.augment.anchor
    assert config.augment.n_aug == 10
    assert (config.pretrain.epochs, config.pretrain.force_scale) == (50, None)
    assert (config.finetune.epochs, config.finetune.replay_fraction) == (200, 0)
    assert config.backbone.core == "none"
    assert not config.backbone.args["smooth_cutoff"]
    with pytest.raises(ConfigError, match=r"preset.*did you mean 'paper'"):
        build_config({"preset": "papr", "data": {"source": "demo"}})


def test_relative_paths_are_of_the_working_folder_or_of_the_file(tmp_path, monkeypatch):
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    there.mkdir()
    (there / "a.extxyz").touch()
    (there / "b.extxyz").touch()
    (here / "a.extxyz").touch()
    path = _write(there, "data: {train: [a.extxyz, b.extxyz], test: 'a*.extxyz', val: gone.extxyz}\n")
    monkeypatch.chdir(here)
    data = load_config(path).data
    assert data.train == [str((here / "a.extxyz").resolve()), str((there / "b.extxyz").resolve())]
    assert data.val == ["gone.extxyz"]
    assert Path(data.test[0]) == here / "a*.extxyz"


def test_loops_belong_to_arms_with_replay():
    content = {
        "data": {"source": "demo"},
        "loop": {"rounds": 2},
        "arms": {
            "a": {"pretrain": False},
            "b": {},
            "c": {"loop": 0},
            "d": {"pretrain": False, "replay": 0.3, "loop": 4},
        },
    }
    config = RunConfig.model_validate(content)
    assert [config.rounds_of(arm) for arm in "abcd"] == [0, 2, 0, 4]
    files = [best_file(config, 1, arm) for arm in "abcd"]
    assert files == ["seed-1/a/best.pt", "seed-1/b/loop/best.pt", "seed-1/c/best.pt", "seed-1/d/loop/best.pt"]
    content["arms"] = {"a": {"pretrain": False, "loop": 1}}
    with pytest.raises(ValueError, match=r"arms.a.loop puts new labels into replay, and this arm has none"):
        RunConfig.model_validate(content)


def test_more_rounds_leave_the_first_ones_alone():
    def rounds(number):
        config = RunConfig.model_validate({"data": {"source": "demo"}, "seeds": [0], "loop": {"rounds": number}})
        return {t.name: t for t in plan(config) if t.stage == "loop"}

    few, many = rounds(1), rounds(2)
    assert list(few) == ["loop seed 0 pretrained 1", "loop seed 0 pretrained end", "loop seed 0 pretrained"]
    first = "loop seed 0 pretrained 1"
    assert (few[first].section, few[first].inputs) == (many[first].section, many[first].inputs)
    assert "seed-0/pretrained/loop/round-1/best.pt" in many["loop seed 0 pretrained 2"].inputs


def test_thermal_disorder_can_follow_the_md():
    content = {"data": {"source": "demo"}, "augment": {"thermal": "md"}, "md": {"temperature": 700}}
    assert RunConfig.model_validate(content).augmentation.thermal == 700
    content["md"]["also"] = [{"temperature": 900}]
    config = RunConfig.model_validate(content)
    assert (config.augmentation.thermal, config.augment.thermal) == (900, "md")
    with pytest.raises(ValueError, match=r"augment.thermal is 'md', but md.temperature is 0"):
        RunConfig.model_validate(content | {"md": {"temperature": 0}})


def test_arms_know_their_core_and_replay():
    config = build_config(
        {
            "data": {"source": "demo"},
            "backbone": {"core": "zbl"},
            "finetune": {"replay_fraction": 0.2},
            "arms": {"a": {"pretrain": False}, "b": {"core": None}, "c": {"replay": 0.5}, "d": {"core": "none"}},
        }
    )
    assert [config.core_of(a) for a in "abcd"] == ["zbl", "none", "zbl", "none"]
    assert [config.replay_of(a) for a in "abcd"] == [0, 0.2, 0.5, 0.2]


def test_dumped_configuration_reads_back_as_itself(tmp_path):
    config = build_config({"data": {"source": "demo"}, "md": {"max_atoms": 7}, "name": "Ü"})
    again = build_config(yaml.safe_load(dump_config(config)))
    assert again == config


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_shipped_configurations_are_valid(path):
    assert isinstance(load_config(path), RunConfig)


def test_kitchen_sink_is_complete_and_shows_the_defaults():
    path = next(p for p in CONFIGS if p.stem == "kitchen-sink")
    shown = yaml.safe_load(path.read_text())
    for key, _, default, description in schema_rows():
        assert description, f"{key} has no description"
        if key == "data.source":
            continue
        place = shown
        for part in key.replace("<name>", "pretrained").split("."):
            assert part in place, f"{key} is missing in {path.name}"
            place = place[part]
        assert place == yaml.safe_load(default), key


def test_every_option_of_a_training_is_one_of_train():
    import inspect

    from mdl_physpretrain.recipe import Training
    from mdl_physpretrain.training import train

    assert set(Training.model_fields) <= set(inspect.signature(train).parameters)


def test_labels_are_anchored_to_structures_that_have_some(rocksalt):
    from mdl_physpretrain.structures import Labels, get_labels, set_labels
    from mdl_physpretrain.teacher.labelled_set import anchors

    set_labels(rocksalt[0], Labels(energy=get_labels(rocksalt[0]).energy))
    with pytest.warns(UserWarning, match="1 of 8 training structures lack energy or forces"):
        assert len(anchors(rocksalt)) == 7
    with pytest.raises(ConfigError, match="anchor: false"):
        anchors(rocksalt[:1])


def test_conditions_of_md_differ_from_the_first_in_what_they_say():
    md = {"temperature": 1000, "steps": 150, "also": [{"ensemble": "npt", "temperature": 750}, {"ensemble": "nve"}]}
    conditions = build_config({"data": {"source": "demo"}, "md": md}).md.conditions()
    found = {label: (c.ensemble, c.temperature, c.steps, c.also) for label, c in conditions.items() if label}
    assert found == {"npt-750K": ("npt", 750.0, 150, []), "nve-1000K": ("nve", 1000.0, 150, [])}
    assert conditions[""].ensemble == "nvt"


@pytest.mark.parametrize(
    ("md", "message"),
    [
        ({"also": [{"steps": 5}]}, r"md: two entries of 'also'"),
        ({"also": [{"ensemble": "npt"}, {"ensemble": "npt"}]}, r"md: two entries of 'also'"),
        ({"also": [{"ensembel": "npt"}]}, r"md.also.0.ensembel.*did you mean 'md.also.0.ensemble'"),
        ({"also": [{"ensemble": "nph"}]}, r"md.also.0.ensemble"),
        ({"also": [{"ensemble": "nve", "steps": 50}]}, r"md: energy drift in 'nve' needs 10 points"),
        ({"also": [{"ensemble": "nve"}, {"ensemble": "nve", "temperature": 9}]}, r"md: only one .* can be 'nve'"),
        ({"reference": "ref.extxyz"}, r"md: 'reference'.*set 'trajectory_interval'"),
    ],
)
def test_impossible_conditions_are_refused(md, message):
    with pytest.raises(ConfigError, match=message):
        build_config({"data": {"source": "demo"}, "md": md})


@pytest.mark.parametrize(
    ("section", "words"),
    [
        ({"finetune": {"force_scale": 0}}, "finetune.force_scale: input should be greater than 0 or 'auto', not 0"),
        ({"augment": {"thermal": -3}}, "augment.thermal: input should be greater than 0 or 'md', not -3"),
        ({"devices": [1]}, "devices: input should be a valid integer or a valid string, not [1]"),
        ({"augment": {"change_error": "atuo"}}, "'auto', not 'atuo'; did you mean 'auto'?"),
    ],
)
def test_one_line_for_an_option_of_several_types(section, words):
    with pytest.raises(ConfigError) as raised:
        build_config({"data": {"source": "demo"}, **section})
    assert words in str(raised.value)
    assert len(str(raised.value).splitlines()) == 1
