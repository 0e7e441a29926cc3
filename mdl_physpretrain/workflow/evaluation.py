"""What is done with a finished potential, per seed and arm: errors, curves, molecular dynamics."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from ase import Atoms

from mdl_physpretrain.dynamics import Runs, simulate
from mdl_physpretrain.dynamics.assessment import assess
from mdl_physpretrain.dynamics.batched_engine import split_batches
from mdl_physpretrain.errors import ConfigError, StructureError
from mdl_physpretrain.files import write_atomic
from mdl_physpretrain.potentials import load_model
from mdl_physpretrain.potentials.devices import resolve_device
from mdl_physpretrain.potentials.errors import evaluate
from mdl_physpretrain.probes.compression import SCALES, compression_curve, compression_flags
from mdl_physpretrain.probes.diatomic_flags import diatomic_flags
from mdl_physpretrain.probes.diatomics import diatomic_curve, element_pairs
from mdl_physpretrain.probes.energy_drift import nve_drift
from mdl_physpretrain.probes.force_alignment import alignment_table
from mdl_physpretrain.probes.questions import rdfs, read_references, reference_rdfs
from mdl_physpretrain.stability.limits import Limits
from mdl_physpretrain.structures import read_structures
from mdl_physpretrain.workflow.config import RunConfig
from mdl_physpretrain.workflow.data import choose, read_part
from mdl_physpretrain.workflow.md_options import MD
from mdl_physpretrain.workflow.teacher import TEACHER
from mdl_physpretrain.workflow.training import arm_folder, derived_seed

if TYPE_CHECKING:
    from mdl_physpretrain.potentials import EnergyModel

__all__ = [
    "collect_errors",
    "collect_md",
    "compare_rdfs",
    "evaluate_arm",
    "evaluate_tables",
    "md_file",
    "md_structures",
    "md_tables",
    "simulate_arm",
]

EVALUATE_TABLES = ("efs", "diatomics", "diatomic_flags", "compression", "compression_flags", "alignment")
RDF_COLUMNS = ["pair", "r", "g", "structure_id"]
RDF_ERROR_COLUMNS = ["pair", "error", "structure_id", "n_frames"]
N_ALIGNED = 100  # structures whose forces are compared with the EAM's
MD_COLUMNS = ("ensemble", "temperature", "timestep", "steps")
DISTANCES = np.round(np.linspace(0.4, 6.0, 141), 4)  # Å
CHUNK_ATOMS = {"cpu": 512, "cuda": 16384}  # of MD: what an interruption can cost


def evaluate_arm(config: RunConfig, folder: Path, show: bool, *, seed: int, arm: str) -> list[str]:
    """Errors of an arm on test and validation data, its diatomic curves, its forces' angles to an EAM's."""
    model = _load(config, folder, seed, arm)
    who = {"seed": seed, "arm": arm}
    parts = {name: read_part(folder, name) for name in ("test", "val", "train")}
    rows = [{**who, "split": name, **evaluate(model, part)} for name, part in parts.items() if part]
    tables = {
        "efs": pd.DataFrame(rows),
        **_diatomics(model, [s for a in parts["train"] for s in a.symbols], who),
        **_compress(model, choose(parts["test"] or parts["train"], config.probe.n_compressed, config.data.seed), who),
    }
    if config.uses_eam:
        teacher = load_model(folder / TEACHER, expect="eam").to(model.device)
        judged = choose(parts["test"] or parts["val"] or parts["train"], N_ALIGNED, config.data.seed)
        angles = alignment_table({arm: model}, teacher, judged).round(4)
        angles.insert(0, "seed", seed)
        tables["alignment"] = angles
    return _write(folder, f"seed-{seed}/evaluate/{arm}", tables)


def _diatomics(model: EnergyModel, elements: list[str], who: dict[str, Any]) -> dict[str, Any]:
    """Curves of all pairs of elements; a network that fails at one is told and not ``ok``."""
    curves, flags = [], []
    for pair in element_pairs(elements):
        own = {**who, "pair": "-".join(pair)}
        energy = force = np.full(len(DISTANCES), np.nan)
        try:
            energy, force = diatomic_curve(model, pair, DISTANCES)
            flags.append({**own, **diatomic_flags(pair, DISTANCES, energy, force)})
        except (ConfigError, StructureError) as error:
            warnings.warn(f"{who['arm']}, seed {who['seed']}: curve of {own['pair']}: {error}", stacklevel=2)
            flags.append({**own, "ok": False, "failed_points": len(DISTANCES)})
        curves.append(pd.DataFrame({**own, "r": DISTANCES, "energy": energy, "force": force}))
    return {"diatomics": pd.concat(curves), "diatomic_flags": pd.DataFrame(flags)}


def _compress(model: EnergyModel, structures: list[Atoms], who: dict[str, Any]) -> dict[str, Any]:
    """Energy of compressed structures, as :func:`_diatomics`; nothing when none is asked for."""
    curves, flags = [], []
    for atoms in structures:
        own = {**who, "structure_id": atoms.info["structure_id"]}
        curve = pd.DataFrame({"scale": SCALES, "energy_per_atom": np.nan, "max_force": np.nan, "min_distance": np.nan})
        try:
            curve = compression_curve(model, atoms)
            flags.append({**own, **compression_flags(curve)})
        except (ConfigError, StructureError) as error:
            warnings.warn(f"{who['arm']}, seed {who['seed']}: compression: {error}", stacklevel=2)
            flags.append({**own, "ok": False, "failed_points": len(curve)})
        curves.append(curve.assign(**own)[[*own, *curve.columns]].round(6))
    if not curves:
        return {}
    return {"compression": pd.concat(curves), "compression_flags": pd.DataFrame(flags)}


def simulate_arm(config: RunConfig, folder: Path, show: bool, *, seed: int, arm: str, label: str = "") -> list[str]:
    """MD of the starting structures with an arm's network, and the verdict on each trajectory.

    The structures are simulated in fixed portions, each written when it is
    done: a portion that was interrupted starts again, so that the result does
    not depend on interruptions (batches of other structures round differently).
    """
    model = _load(config, folder, seed, arm)
    md = config.md.conditions()[label]
    starts = md_structures(config, folder, md)
    start = md_file(seed, arm, label)
    finished, portions = folder / f"{start}.runs.npz", folder / f"{start}.parts"
    if finished.is_file():
        runs = Runs.load(finished)
    else:
        records, settings, mark = [], {}, ""
        size = CHUNK_ATOMS.get(model.device.type, CHUNK_ATOMS["cuda"])
        for number, chosen in enumerate(split_batches(starts, size)):
            file = portions / f"{number:04d}.npz"
            if file.is_file():
                part = Runs.load(file)
            else:
                part = simulate(
                    model,
                    [starts[k] for k in chosen],
                    seed=derived_seed(seed, "md"),
                    progress=show,
                    **md.simulation(folder / f"{start}.trajectories"),
                )
                part.save(file)
            records += list(part)
            settings, mark = part.settings, part.fingerprint
        runs = Runs(records, settings=settings, fingerprint=mark)
        runs.save(finished)
    shutil.rmtree(portions, ignore_errors=True)
    table = assess(runs, limits=Limits(variant=md.lindemann_variant))
    write_atomic(folder / f"{start}.csv", table.to_csv(index=False))
    tables: dict[str, Any] = {}
    if md.ensemble == "nve":
        tables["nve"] = nve_drift(runs)
    return [f"{start}.csv", f"{start}.runs.npz", *_write(folder, start, tables)]


def compare_rdfs(config: RunConfig, folder: Path, show: bool, *, seed: int, arm: str) -> list[str]:
    """RDFs of an arm's trajectories, and their errors against reference trajectories."""
    md, starts, start = config.md, md_structures(config, folder), md_file(seed, arm)
    kinds = {"rdf": RDF_COLUMNS} | ({"rdf_errors": RDF_ERROR_COLUMNS} if md.reference is not None else {})
    tables: dict[str, Any] = {kind: pd.DataFrame(columns=columns) for kind, columns in kinds.items()}
    try:
        references = read_references(md.reference, starts) if md.reference is not None else {}
        tables |= rdfs(folder / f"{start}.trajectories", starts, references, md.r_max)
    except (ConfigError, StructureError) as error:
        warnings.warn(f"{arm}, seed {seed}: no RDFs: {error}", stacklevel=2)
    return _write(folder, start, tables)


def md_file(seed: int, arm: str, label: str = "") -> str:
    """Start of the names of an arm's MD files; further conditions carry their label."""
    return f"seed-{seed}/md/{arm}" + (f"@{label}" if label else "")


def md_tables(config: RunConfig) -> list[tuple[str, str]]:
    """Kinds of tables besides the verdicts that the MD leaves, and the labels of their conditions."""
    found = []
    if config.md.trajectory_interval is not None:
        found.append(("rdf", ""))
        if config.md.reference is not None:
            found.append(("rdf_errors", ""))
    return found + [("nve", label) for label, md in config.md.conditions().items() if md.ensemble == "nve"]


def md_structures(config: RunConfig, folder: Path, md: MD | None = None) -> list[Atoms]:
    """Starting structures of the MD, the same for all seeds and arms."""
    md = md or config.md
    found: list[Atoms] = []
    for source in config.md.source:
        found += read_part(folder, source) if source in ("train", "val", "test") else read_structures(source)
    if config.md.max_atoms is not None:
        found = [a for a in found if len(a) <= config.md.max_atoms]
    if not found:
        raise ConfigError(
            f"md.source: there are no structures in {', '.join(config.md.source)}"
            + (f" with at most {config.md.max_atoms} atoms" if config.md.max_atoms else "")
        )
    return choose(found, md.n_structures, config.data.seed)


def collect_errors(config: RunConfig, folder: Path, show: bool) -> list[str]:
    """``efs.csv``, ``diatomics.csv``, ``compression.csv`` ... of all seeds and arms."""
    kinds = evaluate_tables(config)
    for kind in kinds:
        frames = [_table(folder / f"seed-{s}/evaluate/{a}.{kind}.csv") for s in config.seeds for a in config.arms]
        _write_joined(folder / f"{kind}.csv", frames)
    _drop(folder, set(EVALUATE_TABLES) - set(kinds))
    return [f"{kind}.csv" for kind in kinds]


def collect_md(config: RunConfig, folder: Path, show: bool) -> list[str]:
    """``physicality.csv`` of all seeds and arms."""
    frames = []
    for seed in config.seeds:
        for arm in config.arms:
            for label, md in config.md.conditions().items():
                conditions = {name: getattr(md, name) for name in MD_COLUMNS}
                found = _table(folder / f"{md_file(seed, arm, label)}.csv")
                frames.append(found.assign(seed=seed, arm=arm, **conditions))
    _write_joined(folder / "physicality.csv", frames)
    tables = md_tables(config)
    kinds = list(dict.fromkeys(kind for kind, _ in tables))
    for kind in kinds:
        frames = [
            _table(folder / f"{md_file(s, a, label)}.{kind}.csv").assign(seed=s, arm=a)
            for label in (label for name, label in tables if name == kind)
            for s in config.seeds
            for a in config.arms
        ]
        if kind == "rdf" and config.md.reference is not None:
            try:
                known = read_references(config.md.reference, md_structures(config, folder))
                frames.append(reference_rdfs(known, config.md.r_max))
            except (ConfigError, StructureError) as error:
                warnings.warn(f"md.reference: no RDFs: {error}", stacklevel=2)
        _write_joined(folder / f"{kind}.csv", frames)
    _drop(folder, {"rdf", "rdf_errors", "nve"} - set(kinds))
    return ["physicality.csv", *(f"{kind}.csv" for kind in kinds)]


def evaluate_tables(config: RunConfig) -> list[str]:
    """Tables that the evaluation of an arm writes."""
    left_out = set() if config.uses_eam else {"alignment"}
    if not config.probe.n_compressed:
        left_out |= {"compression", "compression_flags"}
    return [kind for kind in EVALUATE_TABLES if kind not in left_out]


def _drop(folder: Path, kinds: set[str]) -> None:
    """Remove tables that a run with other options left."""
    for kind in kinds:
        (folder / f"{kind}.csv").unlink(missing_ok=True)


def _write(folder: Path, start: str, tables: dict[str, Any]) -> list[str]:
    for kind, table in tables.items():
        write_atomic(folder / f"{start}.{kind}.csv", table.to_csv(index=False))
    return [f"{start}.{kind}.csv" for kind in tables]


def _load(config: RunConfig, folder: Path, seed: int, arm: str) -> EnergyModel:
    return load_model(folder / arm_folder(seed, arm) / "best.pt").to(resolve_device(config.device))


def _table(path: Path) -> Any:
    return pd.read_csv(
        path, dtype={"structure_id": str, "first_unphysical_step": "Int64"}, keep_default_na=False, na_values=[""]
    )


def _write_joined(path: Path, frames: Sequence[Any]) -> None:
    write_atomic(path, pd.concat([f.astype(object) for f in frames], ignore_index=True).to_csv(index=False))
