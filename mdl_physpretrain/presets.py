"""Presets: sections of the recipe that go below the user's own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mdl_physpretrain.recipe import EAMFit

__all__ = ["PRESETS", "merge", "over_preset"]

#: Merged below the user's own keys. The paper's: section 2.2.2, Algorithm 1, Table A.1 (silica,
#: CGCNN), Appendix C, section 4.1 (epochs), Table 1 (MD). It examined no teacher, hence ``force``.
PRESETS: dict[str, dict[str, Any]] = {
    # the teacher that knows changes of force best labels every distance and frames of its own MD; a network learns
    # these labels first, and a third of every epoch of finetuning are still theirs: docs/recipe.md
    "default": {
        "teacher": {"kind": "auto"},
        "augment": {
            "n_aug": 0,
            "coverage": 5,
            "thermal": "md",
            "thermal_method": "md",
            "thermal_rounds": 4,
            "thermal_structures": 100,
            "change_error": "auto",
            "max_force": 500.0,
        },
        # a training step takes a third of the time of the CGCNN of Appendix C: docs/backbones.md
        "backbone": {
            "name": "torchmd_et",
            "args": {
                "cutoff": 5.0,
                "hidden_channels": 64,
                "num_layers": 2,
                "num_heads": 4,
                "num_rbf": 32,
                "num_post_layers": 1,
                "post_hidden_channels": 64,
            },
        },
        # small batches: with some hundred structures the number of steps decides
        "pretrain": {"batch_size": 4, "learning_rate": 2e-3, "scheduler": "cosine"},
        "finetune": {
            "batch_size": 4,
            "learning_rate": 2e-3,
            "scheduler": "cosine",
            "weights": (0.1, 50.0, 50.0),  # energies ten times the paper's: docs/long-md-trials.md
            "replay_fraction": 0.3,
            "replay_tolerance": 1.0,
            "replay_scope": "auto",
            "replay_final_weight": 0.05,
            "force_scale": "auto",
            "refit_energies": True,
        },
        "arms": {"baseline": {"pretrain": False}, "pretrained": {"replay": 0.3}},
    },
    # Algorithm 1 with an EAM, by the defaults of the recipe's fields
    "algorithm1": {},
    "paper": {
        "teacher": {"preset": "paper", "cutoff": 8.0, "n_basis": 10, "epochs": 200, "force": True},
        "augment": {
            "n_aug": 5,
            "n_pairs": 4,
            "pull": 1.0,
            "n_sites": 5,
            "perturb": 1.0,
            "convention": "paper",
            "ladder": "down",
            "anchor": False,
            "min_distance_factor": None,
            "pairs": "closest",
            "coverage": None,
            "thermal": None,
            "thermal_amplitude": None,
            "max_force": None,
        },
        "backbone": {
            "name": "cgcnn",
            "args": {"smooth_cutoff": False, "width": 0.2, "fixed_norm": False},
            "core": "none",
        },
        "pretrain": {"epochs": 50, "loss": "mae", "force_scale": None, "ema": None},
        "finetune": {"epochs": 200, "loss": "mae", "replay_fraction": 0.0, "shift_energies": False, "ema": None},
        "md": {"timestep": 1.0, "steps": 5000, "n_structures": 100, "friction": 0.01, "lindemann_variant": "paper"},
    },
}


def over_preset(content: Mapping[str, Any], presets: Mapping[str, Mapping[str, Any]] | None = None) -> dict[str, Any]:
    """Sections over those of the preset that ``content["preset"]`` names.

    The preset's arguments of its network are no other network's, those of its
    EAM no other teacher's; its kind of teacher gives way to options of the EAM's
    fit, its thermal displacements to an amplitude.
    """
    name = content.get("preset", "default")
    preset = (presets or PRESETS).get(name, {}) if isinstance(name, str) else {}
    arms, augment, teacher = content.get("arms"), content.get("augment"), content.get("teacher")
    if arms is not None:
        preset = {k: v for k, v in preset.items() if k != "arms"}
    if isinstance(augment, Mapping) and augment.get("thermal_amplitude") is not None:
        preset = {**preset, "augment": {k: v for k, v in preset.get("augment", {}).items() if k != "thermal"}}
    if isinstance(teacher, Mapping) and "kind" not in teacher and EAMFit.model_fields.keys() & teacher.keys():
        preset = {**preset, "teacher": {k: v for k, v in preset.get("teacher", {}).items() if k != "kind"}}
    if isinstance(teacher, Mapping) and teacher.get("kind", "eam") != "eam":
        kept = {k: v for k, v in preset.get("teacher", {}).items() if k not in EAMFit.model_fields}
        preset = {**preset, "teacher": kept}
    return merge(preset, content)


def merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """``above`` over ``below``, mappings key by key, anything else replaced.

    ``arms`` is replaced as a whole: a file that lists arms means these. The
    arguments of a ``backbone`` are no other network's.
    """
    merged = dict(below)
    network, chosen = below.get("backbone"), above.get("backbone")
    both = isinstance(network, Mapping) and isinstance(chosen, Mapping)
    if both and chosen.get("name") not in (None, network.get("name")):  # type: ignore[union-attr]
        merged["backbone"] = {k: v for k, v in network.items() if k not in ("name", "args")}  # type: ignore[union-attr]
    for key, value in above.items():
        old = merged.get(key)
        mappings = isinstance(old, Mapping) and isinstance(value, Mapping)
        merged[key] = merge(old, value) if mappings and key != "arms" else value  # type: ignore[arg-type]
    return merged
