"""The settings behind the paper's tables."""

import pytest

from mdl_physpretrain.errors import ConfigError, StructureError
from mdl_physpretrain.reproduction.configuration import BACKBONES, SYSTEMS, configuration, data_sources


@pytest.mark.parametrize("dataset", ["silica", "phosphorus", "mptrj"])
@pytest.mark.parametrize("backbone", ["cgcnn", "torchmd_et", "m3gnet"])
def test_papers_presets_are_table_a1_table_1_and_appendix_c(dataset, backbone):
    from mdl_physpretrain.augmentation.ladder import TABLE_A1
    from mdl_physpretrain.potentials.registry import model_class

    config = configuration(dataset, backbone, "paper", data=["demo"])
    expected = TABLE_A1[dataset, backbone.removesuffix("_et")]
    assert {key: getattr(config.augment, key) for key in expected} == expected
    assert (config.augment.anchor, config.augment.ladder, config.finetune.replay_fraction) == (False, "down", 0.0)
    share = {"silica": 0.1, "phosphorus": 0.05, "mptrj": 0.1}[dataset]
    assert config.data.usage == (1.0 if backbone == "cgcnn" else share)
    conditions = {
        "silica": (2000, 2.0),
        "phosphorus": (1250, 1.0),
        "mptrj": (500 if backbone == "cgcnn" else 1000, 1.0),
    }
    assert (config.md.temperature, config.md.timestep) == conditions[dataset]
    further = {
        "silica": [("npt", 2000.0)],
        "phosphorus": [],
        "mptrj": [("npt", 250.0 if backbone == "cgcnn" else 750.0)],
    }
    assert [(c.ensemble, c.temperature) for c in list(config.md.conditions().values())[1:]] == further[dataset]
    assert (config.md.steps, config.md.n_structures) == (5000, 100)
    assert (config.pretrain.epochs, config.finetune.epochs) == (50, 200)
    assert config.finetune.weights == ((0.01, 50, 0) if dataset == "phosphorus" else (0.01, 50, 50))
    arms = {
        "baseline": (False, None, "none"),
        "sam": (False, "sam", "none"),
        "hybrid": (False, None, "joint"),
        "pretrained": (True, None, "none"),
    }
    if backbone == "m3gnet":  # the paper trains it in two ways only
        arms = {name: arms[name] for name in ("baseline", "pretrained")}
    assert {name: (arm.pretrain, arm.optimizer, arm.hybrid) for name, arm in config.arms.items()} == arms
    assert config.backbone.name == backbone
    if backbone != "m3gnet":  # that one needs mattersim, and has defaults only
        model = model_class(config.backbone.name)(**config.backbone.args)
        sizes = {
            "cgcnn": {"dim1": 100, "dim2": 150, "gc_count": 4, "pre_fc_count": 1, "post_fc_count": 3, "width": 0.2},
            "torchmd_et": {
                "hidden_channels": 128,
                "num_layers": 8,
                "num_rbf": 50,
                "num_heads": 8,
                "num_post_layers": 2,
            },
        }[backbone]
        assert {key: model.hparams[key] for key in sizes} == sizes
        assert model.hparams["pool_order"] == "late"
        assert model.cutoff == 8.0


@pytest.mark.parametrize("dataset", ["silica", "phosphorus", "mptrj"])
@pytest.mark.parametrize("backbone", ["cgcnn", "torchmd_et"])
def test_what_the_paper_does_not_give_is_that_of_the_authors_files(dataset, backbone):
    from mdl_physpretrain.hosts.matdeeplearn.paper_jobs import OPTIM

    config = configuration(dataset, backbone, "paper", data=["demo"])
    values = OPTIM[dataset, backbone.removesuffix("_et")]
    stages = {"eam": config.teacher, "pretrain": config.pretrain, "train": config.finetune}
    for name, options in stages.items():
        assert (options.learning_rate, options.batch_size) == values[name], name
    assert (config.finetune.rho, config.finetune.sam_adaptive) == (values["rho"], True)
    rate, _ = values.get("hybrid", values["train"])
    assert (config.arms["hybrid"].learning_rate or config.finetune.learning_rate) == rate


@pytest.mark.parametrize("system", SYSTEMS)
@pytest.mark.parametrize("backbone", BACKBONES)
def test_every_small_run_pairs_three_seeds_of_the_papers_setups(system, backbone):
    config = configuration(system, backbone, data=["demo"], overrides=["md.steps=7"])
    assert config.seeds == [0, 1, 2]
    assert {"baseline", "pretrained"} <= set(config.arms)
    assert config.backbone.name == backbone
    assert config.md.steps == 7
    assert config.name == f"{SYSTEMS[system]['title']}, {backbone}"


def test_unknown_names_and_missing_data_are_told(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="system must be one of silica"):
        configuration("gold", "cgcnn")
    with pytest.raises(ConfigError, match="backbone must be one of"):
        configuration("lmo", "mace", data=["demo"])
    with pytest.raises(StructureError, match=r"inp.extxyz.*--data.*FitSNAP"):
        data_sources("inp", "small")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "inp.extxyz").touch()
    assert data_sources("inp", "small") == [str(tmp_path / "data" / "inp.extxyz")]
