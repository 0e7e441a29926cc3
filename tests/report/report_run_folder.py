"""A synthetic run folder with every file of the pipeline, for the tests of the report.

The numbers are drawn from distributions; they resemble a run on Li-Mn-O and say nothing about one.
The files of the probes and of the trajectories are in ``report_probe_files.py``.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
from report_probe_files import add_frames, add_probes

PAIRS = {"Li-Li": 2.9, "Li-Mn": 2.8, "Li-O": 2.05, "Mn-Mn": 2.85, "Mn-O": 1.95, "O-O": 2.75}
FAILING = {"baseline": 0.9, "pretrained": 0.1, "zbl": 0.4}


def make_run(
    folder: Path,
    *,
    seeds: int = 5,
    structures: int = 12,
    arms: tuple[str, ...] = ("baseline", "pretrained"),
    pairs: int = 6,
    names: list[str] | None = None,
    passed: bool = True,
    probes: bool = False,
) -> Path:
    rng = np.random.default_rng(3)
    typical = dict(list(PAIRS.items())[:pairs])
    names = names or [f"lmo-{k:03d}" for k in range(structures)]
    for part in ("data", "teacher", "augment"):
        (folder / part).mkdir(parents=True)
    _inputs(folder, arms, seeds, passed, typical)
    _teacher(folder, rng, typical)
    _augmentation(folder, rng, typical)
    _seeds(folder, rng, arms, seeds, names)
    _diatomics(folder, rng, arms, seeds, typical)
    _alignment(folder, rng, arms, seeds, names)
    if probes:
        add_probes(folder, arms, seeds, names)
        add_frames(folder)
    return folder


def _dump(path: Path, value: object) -> None:
    path.write_text(json.dumps(value))


def _inputs(folder: Path, arms: tuple[str, ...], seeds: int, passed: bool, typical: dict[str, float]) -> None:
    listed = "".join(f"  - name: {arm}\n    pretrain: {'false' if arm == 'baseline' else 'true'}\n" for arm in arms)
    (folder / "config.yaml").write_text(
        f"name: Li-Mn-O, 40 structures\nseeds: {list(range(seeds))}\ndata:\n  train: lmo_train.extxyz\n  usage: 0.1\n"
        f"arms:\n{listed}md:\n  ensemble: nvt\n  temperature: 1000\n  timestep: 1.0\n  steps: 800\n"
    )
    _dump(
        folder / "environment.json",
        {
            "command": ["physpretrain", "run", "config.yaml"],
            "packages": {"torch": "2.13.0", "ase": "3.29.0", "lightning": "2.6.0"},
            "device": "cpu",
            "seeds": list(range(seeds)),
        },
    )
    stages = [("prepare", 2.1), ("teacher", 61.0), ("augment", 3.2), ("label", 9.9), ("pretrain", 512.0)]
    stages += [("train", 388.0), ("evaluate", 12.0), ("md", 840.0)]
    _dump(folder / "timings.json", [{"stage": s, "seconds": t, "status": "done"} for s, t in stages])
    errors = {"energy_mae": 9.1, "energy_per_atom_mae": 0.35, "forces_mae": 0.113, "stress_mae": 0.0051, "total": 5.99}
    _dump(
        folder / "data" / "summary.json",
        {
            "n_train": 40,
            "n_val": 12,
            "n_test": 48,
            "elements": ["Li", "Mn", "O"],
            "usage": 0.13,
            "source": "lmo_train.extxyz",
            "label_note": "DFT, functional not stated by the source.",
            "trivial": errors,
            "n_atoms": {"min": 5, "mean": 23.4, "max": 126},
        },
    )
    _dump(
        folder / "teacher" / "errors.json", {"train": errors | {"total": 5.1, "forces_mae": 0.098}, "trivial": errors}
    )
    verdicts = []
    for k, (pair, d) in enumerate(typical.items()):
        good = passed or k != len(typical) - 1
        verdicts.append(
            {
                "pair": pair,
                "passed": good,
                "core": good,
                "smooth": True,
                "well": None if k % 3 == 0 else good,
                "well_position": None if k % 3 == 0 else d * 1.04,
                "data_distance": d,
                "wall_energy": 14.2 if good else -3.0,
                "n_bonds": 0 if k % 3 == 0 else 130 + k,
                "notes": "" if good else "attractive between 0.30 and 0.85 Å",
            }
        )
    failures = [f"{v['pair']}: {v['notes']}" for v in verdicts if not v["passed"]]
    _dump(folder / "teacher" / "examination.json", {"passed": passed, "failures": failures, "pairs": verdicts})


def _teacher(folder: Path, rng: np.random.Generator, typical: dict[str, float]) -> None:
    r = np.linspace(0.3, 8.0, 300)
    frames = []
    for pair, d in typical.items():
        pair_term = 0.8 * ((1 - np.exp(-1.3 * (r - d))) ** 2 - 1)
        embedding = -0.4 * np.exp(-0.8 * (r - 1.0))
        core = 250 / r * np.exp(-4.0 * r) * (r < 0.5 * d + 0.5)
        total = pair_term + embedding + core
        frames.append(
            pd.DataFrame(
                {"pair": pair, "r": r, "total": total, "pair_term": pair_term, "embedding": embedding, "core": core}
            )
        )
    pd.concat(frames).to_csv(folder / "teacher" / "curves.csv", index=False)
    step = np.arange(0, 600, 10)
    pd.DataFrame({"step": step, "loss": 5 + 20 * np.exp(-step / 80) + rng.uniform(0, 0.2, len(step))}).to_csv(
        folder / "teacher" / "history.csv", index=False
    )


def _augmentation(folder: Path, rng: np.random.Generator, typical: dict[str, float]) -> None:
    counts = {"force": 31, "energy_per_atom": 4, "not_finite": 0}
    _dump(folder / "augment" / "filter.json", {"n_before": 400, "n_kept": 365, "counts": counts, "removed": []})
    rows = []
    for pair, d in typical.items():
        rows += [("original", pair, x) for x in rng.normal(d, 0.06, 40)]
        rows += [("augmented", pair, x) for x in d - np.abs(rng.normal(0, 0.45, 365))]
    pd.DataFrame(rows, columns=["set", "pair", "distance"]).to_csv(
        folder / "augment" / "min_distances.csv", index=False
    )


def _seeds(folder: Path, rng: np.random.Generator, arms: tuple[str, ...], seeds: int, names: list[str]) -> None:
    results, errors = [], []
    for seed in range(seeds):
        for training in ("pretrain", *arms):
            n = 15 if training == "pretrain" else 60 + 3 * seed
            epoch = np.arange(n)
            loss = 4.4 + 20 * np.exp(-epoch / 9) + rng.uniform(0, 0.3, n)
            place = folder / f"seed-{seed}" / training
            place.mkdir(parents=True)
            columns = {"epoch": epoch, "train_loss": 0.85 * loss, "val_loss": loss, "lr": 1e-3}
            columns |= {"val_energy_mae": 0.3 * loss, "val_forces_mae": 0.02 * loss, "val_stress_mae": 1e-3 * loss}
            pd.DataFrame(columns).to_csv(place / "history.csv", index=False)
        (folder / f"seed-{seed}" / "md").mkdir()
        for arm in arms:
            table = _trajectories(rng, names, FAILING.get(arm, 0.5))
            table.to_csv(folder / f"seed-{seed}" / "md" / f"{arm}.csv", index=False)
            results.append(table.assign(seed=seed, arm=arm, ensemble="nvt", temperature=1000.0, timestep=1.0))
            energy, forces = rng.normal(3.0, 0.3), rng.normal(0.085 - 0.002 * (arm != "baseline"), 0.002)
            stress = rng.normal(0.0019, 1e-4)
            errors.append(
                {
                    "seed": seed,
                    "arm": arm,
                    "split": "test",
                    "energy_mae": energy,
                    "energy_per_atom_mae": energy / 23.4,
                    "forces_mae": forces,
                    "stress_mae": stress,
                    "stress_mae_gpa": stress * 160.21766208,
                    "total": 0.01 * energy + 50 * forces + 50 * stress,
                    "n_structures": len(names),
                }
            )
    pd.concat(results).to_csv(folder / "physicality.csv", index=False)
    pd.DataFrame(errors).to_csv(folder / "efs.csv", index=False)


def _trajectories(rng: np.random.Generator, names: list[str], failing: float) -> pd.DataFrame:
    rows = []
    for k, name in enumerate(names):
        fails = rng.uniform() < failing
        kind = str(rng.choice(["overlap", "lindemann", "exploded"], p=[0.7, 0.2, 0.1])) if fails else ""
        step = int(800 * rng.beta(1.2, 3.0)) if fails else None
        local = rng.uniform(0.26, 0.4) if kind == "lindemann" else rng.uniform(0.06, 0.14)
        rows.append(
            {
                "structure_id": name,
                "n_atoms": 8 + k,
                "formula": f"Li{k + 1}Mn2O{4 + k}",
                "steps": 800,
                "steps_done": 800 if kind in ("", "lindemann") else step,
                "overlap": kind == "overlap",
                "lindemann_local": local,
                "lindemann_global": 0.7 * local,
                "lindemann_violation": kind == "lindemann",
                "nan": False,
                "exploded": kind == "exploded" or (kind == "overlap" and k % 5 == 0),
                "physical": not fails,
                "first_unphysical_step": step,
                "reason": {"overlap": "overlap" if k % 5 else "overlap, explosion", "exploded": "explosion"}.get(
                    kind, kind
                ),
                "min_distance": rng.uniform(0.4, 0.9) if kind == "overlap" else rng.uniform(1.5, 1.8),
                "overlap_threshold": 0.93,
                "closest_pair": "O-O" if fails else "Mn-O",
                "temperature_mean": rng.normal(1000, 40),
            }
        )
    return pd.DataFrame(rows).astype({"first_unphysical_step": "Int64"})


def _diatomics(
    folder: Path, rng: np.random.Generator, arms: tuple[str, ...], seeds: int, typical: dict[str, float]
) -> None:
    r = np.linspace(0.4, 6.0, 80)
    frames = []
    for arm in arms:
        for seed in range(seeds):
            for pair, d in typical.items():
                depth = 0.8 + 0.2 * rng.uniform()
                energy = depth * ((1 - np.exp(-1.3 * (r - d))) ** 2 - 1)
                if arm == "baseline":  # a network without data at short distance
                    energy = np.where(r < d, energy - 6 * (1 + rng.uniform()) * (d - r) ** 2, energy)
                frames.append(
                    pd.DataFrame(
                        {
                            "arm": arm,
                            "seed": seed,
                            "pair": pair,
                            "r": r,
                            "energy": energy,
                            "force": -np.gradient(energy, r),
                        }
                    )
                )
    pd.concat(frames).to_csv(folder / "diatomics.csv", index=False)


def _alignment(folder: Path, rng: np.random.Generator, arms: tuple[str, ...], seeds: int, names: list[str]) -> None:
    frames = []
    for arm in arms:
        for seed in range(seeds):
            for name in names[:3]:
                angle = rng.uniform(0, 120 if arm == "pretrained" else 180, 12)
                angle[0] = np.nan  # too small a force
                table = {"seed": seed, "arm": arm, "against": "teacher", "structure_id": name, "atom": range(12)}
                frames.append(pd.DataFrame({**table, "element": ["Li", "Mn", "O"] * 4, "angle": angle}))
    pd.concat(frames).to_csv(folder / "alignment.csv", index=False)
