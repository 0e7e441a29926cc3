"""Synthetic files of the physicality suite: probes, last frames of trajectories, the folder of a check."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
from ase.build import bulk

from mdl_physpretrain.dynamics.records import RunRecord, Runs
from mdl_physpretrain.stability.verdict import Verdict

PAIRS = {"Li-O": 2.05, "Mn-O": 1.95, "O-O": 2.75}
BAD = ("baseline", "A")  # arms that carry flags


def add_probes(folder: Path, arms: tuple[str, ...], seeds: int, names: list[str]) -> None:
    """Every file of the probes, in the columns of the suite."""
    rng = np.random.default_rng(5)
    chosen = names[:4]
    who = [(arm, seed) for arm in arms for seed in range(seeds)]
    flags = []
    for arm, seed in who:
        for k, pair in enumerate(PAIRS):
            hole = arm in BAD and k != 1
            row = {"arm": arm, "seed": seed, "pair": pair, "hole": hole, "spurious_minima": 2 * (hole and seed == 0)}
            flags.append(row | {"discontinuity": False, "missing_repulsion": hole, "ok": not hole, "failed_points": 0})
    pd.DataFrame(flags).to_csv(folder / "diatomic_flags.csv", index=False)
    scale = np.round(np.linspace(0.7, 1.04, 18), 3)
    curves, flags = [], []
    for arm, seed in who:
        for name in chosen:
            energy = 40 * (1 - scale) ** 2 + 200 * np.clip(0.85 - scale, 0, None) ** 2
            if arm in BAD and name == chosen[-1]:
                energy = energy - 900 * np.clip(0.88 - scale, 0, None) ** 2
            energy += rng.normal(0, 0.005, len(scale))
            table = {"arm": arm, "seed": seed, "structure_id": name, "scale": scale, "energy_per_atom": energy}
            curves.append(pd.DataFrame(table | {"max_force": 3.0, "min_distance": 2.0 * scale}))
            bad = arm in BAD and name == chosen[-1]
            row = {"arm": arm, "seed": seed, "structure_id": name, "collapse": bad, "discontinuity": False}
            flags.append(row | {"ok": not bad, "collapse_depth": 2.5 if bad else 0.0, "failed_points": 0})
    pd.concat(curves).to_csv(folder / "compression.csv", index=False)
    pd.DataFrame(flags).to_csv(folder / "compression_flags.csv", index=False)
    rows = []
    for arm, seed in who:
        for k, name in enumerate(chosen):
            early = arm in BAD and k == 0
            row = {"arm": arm, "seed": seed, "structure_id": name, "n_atoms": 8 + k}
            row |= {"drift": np.nan if early else rng.normal(0, 3 if arm in BAD else 0.2), "fluctuation": 0.4}
            rows.append(row | {"ps": 0.01 if early else 0.8, "steps_done": 10 if early else 800})
    pd.DataFrame(rows).to_csv(folder / "nve.csv", index=False)
    _rdf(folder, who, chosen)
    _diffusion(folder, who, chosen)


def _diffusion(folder: Path, who: list[tuple[str, int]], names: list[str]) -> None:
    t = np.round(np.linspace(0.1, 2.0, 20), 3)
    curves, values = [], []
    for arm, seed in who:
        for name in [*names, "all"]:
            for element, slope in (("Li", 0.6 + 0.06 * seed), ("O", 0.0)):
                table = {"arm": arm, "seed": seed, "structure_id": name, "element": element, "t": t}
                curves.append(pd.DataFrame(table | {"msd": 0.05 + slope * t}))
                row = {"arm": arm, "seed": seed, "structure_id": name, "element": element, "diffusion": slope / 6}
                row |= {"diffusion_error": 0.01, "diffusion_cm2_s": slope / 6e4, "exponent": 0.9 if slope else 0.0}
                values.append(row | {"n_frames": 100})
    pd.concat(curves).to_csv(folder / "msd.csv", index=False)
    pd.DataFrame(values).to_csv(folder / "diffusion.csv", index=False)


def _rdf(folder: Path, who: list[tuple[str, int]], names: list[str]) -> None:
    r = np.round(np.linspace(0.05, 5.95, 60), 3)
    curves, errors = [], []
    for arm, seed in [("reference", 0), *who]:
        for name in [*names, "all"]:
            for pair, d in PAIRS.items():
                g = 3 * np.exp(-(((r - d) / 0.2) ** 2)) + (r > 1.3 * d)
                if arm in BAD:
                    g = g + 1.2 * np.exp(-(((r - 1.0) / 0.1) ** 2))
                table = {"arm": arm, "seed": seed, "structure_id": name, "pair": pair, "r": r, "g": g + 0.02 * seed}
                curves.append(pd.DataFrame(table))
            for pair in ["all", *PAIRS] if arm != "reference" else []:
                row = {"arm": arm, "seed": seed, "structure_id": name, "pair": pair}
                errors.append(row | {"error": (0.4 if arm in BAD else 0.1) + 0.01 * seed, "n_frames": 12 + seed})
    pd.concat(curves).to_csv(folder / "rdf.csv", index=False)
    pd.DataFrame(errors).to_csv(folder / "rdf_errors.csv", index=False)


def add_decomposition(folder: Path) -> None:
    """Fig. 2 of the paper."""
    rows = [("morse", 12.0, 0.2, 0.009, 11.0), ("embedding", 10.0, 0.15, 0.008, 8.0), ("full", 9.1, 0.098, 0.0051, 5.1)]
    rows.append(("trivial", 9.1, 0.113, 0.0051, 5.99))
    columns = ["part", "energy_mae", "forces_mae", "stress_mae", "total"]
    pd.DataFrame(rows, columns=columns).to_csv(folder / "teacher" / "decomposition.csv", index=False)


def add_coverage(folder: Path) -> None:
    """Of two pairs one with a hole."""
    rows = [("Li-O", 1.2, 1.3, 0, 7), ("Li-O", 1.3, 1.4, 6, 9), ("P-P", 1.2, 1.3, 0, 0), ("P-P", 1.3, 1.4, 0, 5)]
    table = pd.DataFrame(rows, columns=["pair", "low", "high", "data", "count"]).assign(wanted=5)
    table.assign(covered=table["count"] >= 5).to_csv(folder / "augment" / "coverage.csv", index=False)


def add_change_errors(folder: Path, compositions: int) -> None:
    """The teacher's errors of changes of force, by composition."""
    rows = [(f"In{k}P{k}", 40 - k, 0.02, 0.5, 0.04 + 0.01 * k) for k in range(1, compositions + 1)]
    table = pd.DataFrame(rows, columns=["composition", "pairs", "error", "trivial", "expected"])
    table.to_csv(folder / "augment" / "change_errors.csv", index=False)


def add_frames(folder: Path) -> None:
    """``seed-*/md/<arm>.runs.npz`` for every trajectory of ``physicality.csv``; atoms of failed ones touch."""
    table = pd.read_csv(folder / "physicality.csv", dtype={"structure_id": str}, keep_default_na=False)
    if "label" not in table:
        table["label"] = ""
    for (seed, arm, label), group in table.groupby(["seed", "arm", "label"]):
        first = group.iloc[0]
        settings = {k: first[k] for k in ("ensemble", "temperature", "timestep")}
        settings = {k: v if isinstance(v, str) else float(v) for k, v in settings.items()}
        settings["limits"] = {"lindemann_local": 0.25}
        place = folder / f"seed-{seed}" / "md"
        place.mkdir(parents=True, exist_ok=True)
        runs = Runs([_record(row) for row in group.to_dict("records")], settings=settings)
        runs.save(place / f"{arm}{'@' * bool(label)}{label}.runs.npz")


def _record(row: dict) -> RunRecord:
    atoms = bulk("MgO", "rocksalt", a=4.2, cubic=True)
    failed = str(row["physical"]) != "True"
    local = np.full(8, 0.1)
    if failed:  # atom 1 comes close to an image of atom 0, not to atom 0 itself
        atoms.positions[1] = atoms.positions[0] + [-0.7, 0.1, 0.0]
        local[5] = 0.31
    atoms.positions += 30.0  # unwrapped, far from the cell
    step = int(float(row["first_unphysical_step"])) if row["first_unphysical_step"] != "" else None
    verdict = Verdict(10, step, None, None, None, 0.7, 0.93, "Mg-O", local, local)
    trace = np.zeros(0)
    return RunRecord.of_last_frame(
        atoms,
        structure_id=row["structure_id"],
        steps_done=int(row["steps_done"]),
        steps=int(row["steps"]),
        verdict=verdict,
        traces=dict.fromkeys(("trace_step", "trace_temperature", "trace_energy", "trace_volume"), trace),
    )


def make_check(
    folder: Path, *, potentials: tuple[str, ...] = ("A", "B"), structures: int = 6, probes: bool = True
) -> Path:
    """The folder of ``physpretrain check``: the first potential fails often."""
    names = [f"cell-{k}" for k in range(structures)]
    (folder / "seed-0" / "md").mkdir(parents=True)
    described = {name: f"potential {name} of the test" for name in potentials}
    check = {"version": 1, "command": ["physpretrain", "check"], "potentials": described, "structures": names}
    (folder / "check.json").write_text(json.dumps(check | {"settings": {"seeds": [0]}}))
    rows = []
    for name in potentials:
        for k, structure in enumerate(names):
            fails = name == potentials[0]
            row = {"structure_id": structure, "n_atoms": 8, "formula": "Mg4O4", "steps": 200}
            row |= {"steps_done": 20 + k if fails else 200, "overlap": fails, "lindemann_violation": False}
            row |= {"lindemann_local": 0.1, "lindemann_global": 0.1, "nan": False, "exploded": False}
            row |= {"physical": not fails, "first_unphysical_step": 20 + k if fails else "", "min_distance": 0.7}
            row |= {"reason": "overlap" if fails else "", "overlap_threshold": 0.93, "closest_pair": "Mg-O"}
            row |= {"temperature_mean": 300.0, "seed": 0, "arm": name, "ensemble": "nvt", "temperature": 300.0}
            rows.append(row | {"timestep": 1.0, "label": ""})
    pd.DataFrame(rows).to_csv(folder / "physicality.csv", index=False)
    if probes:
        add_probes(folder, potentials, 1, names)
        add_frames(folder)
    return folder
