"""Verlet lists, freezing, and independence of what else is in the batch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.io import read

from mdl_physpretrain.dynamics import simulate
from mdl_physpretrain.dynamics.assessment import assess
from mdl_physpretrain.dynamics.batched_engine import BatchedRun, split_batches
from mdl_physpretrain.dynamics.settings import MDSettings
from mdl_physpretrain.dynamics.state import NoiseStream
from mdl_physpretrain.dynamics.verlet_lists import VerletListForces
from mdl_physpretrain.graphs.batch import build_batch
from mdl_physpretrain.graphs.neighbour_lists import neighbour_list
from mdl_physpretrain.potentials import CGCNN, ZBL, ASECalculator, predict
from mdl_physpretrain.stability.lindemann import LindemannAccumulator
from mdl_physpretrain.structures.randomness import trajectory_rng


def final(runs) -> dict[str, np.ndarray]:
    return {record.structure_id: record.positions for record in runs}


@pytest.mark.parametrize(("ensemble", "pressure"), [("nvt", 0.0), ("npt", 0.4), ("npt", -0.3)])
def test_the_skin_never_misses_a_pair(ensemble, pressure, eam, mgo):
    settings = MDSettings(ensemble=ensemble, temperature=1500, pressure=pressure, steps=120, taup=2000.0, stop_on=())
    rngs = [np.random.default_rng(k) for k in range(len(mgo))]
    for atoms in mgo:
        atoms.set_velocities(np.random.default_rng(1).normal(scale=0.05, size=(len(atoms), 3)))
    with torch.no_grad():
        run = BatchedRun(eam, mgo, rngs, settings, skin=0.4)
        first_volume = torch.linalg.det(run.state.cells)
        for step in range(settings.steps):
            run.step()
            if step % 3:
                continue
            inside = run.forces.edge_squared < eam.cutoff**2
            found = torch.bincount(run.forces.edge_structure[inside], minlength=len(mgo)).tolist()
            start = 0
            for k, atoms in enumerate(mgo):
                own = run.state.positions[start : start + len(atoms)].numpy()
                start += len(atoms)
                edges, _ = neighbour_list(own, run.state.cells[k].numpy(), np.ones(3, bool), eam.cutoff)
                assert found[k] == edges.shape[1], (step, k)
    least = len(mgo) if pressure < 0 else len(mgo) + 1  # in a growing cell the first list may last
    assert least <= run.forces.rebuilds < 0.8 * len(mgo) * settings.steps
    change = (torch.linalg.det(run.state.cells) / first_volume).numpy()
    if pressure:
        assert (np.abs(change - 1) > 0.05).all()


@pytest.mark.parametrize(("ensemble", "pressure"), [("nvt", 0.0), ("npt", 0.4), ("npt", -0.3)])
def test_near_pairs_hold_every_pair_as_short_as_the_first(ensemble, pressure, eam, mgo):
    settings = MDSettings(ensemble=ensemble, temperature=3000, pressure=pressure, steps=80, taup=2000.0, stop_on=())
    for atoms in mgo:
        atoms.set_velocities(np.random.default_rng(1).normal(scale=0.1, size=(len(atoms), 3)))
    shorter = 0
    with torch.no_grad():
        run = BatchedRun(eam, mgo, [np.random.default_rng(k) for k in range(len(mgo))], settings, skin=0.4)
        first = torch.as_tensor(run.monitor.first_distance)
        for _ in range(settings.steps):
            run.step()
            evaluator = run.forces
            short = evaluator.edge_squared < first[evaluator.edge_structure].square()
            index, structure, squared = evaluator.near_pairs()
            found = squared < first[structure].square()
            torch.testing.assert_close(index[:, found], evaluator.edge_index[:, short], rtol=0, atol=0)
            torch.testing.assert_close(squared[found], evaluator.edge_squared[short], rtol=0, atol=0)
            shorter += int(short.sum())
            if ensemble == "nvt":
                assert len(structure) < 0.3 * len(evaluator.edge_squared)
    assert shorter > 20


@pytest.mark.parametrize("ensemble", ["nvt", "nve", "npt"])
def test_forces_are_those_of_predict_and_stress_only_where_it_is_needed(ensemble, eam, mgo):
    run = BatchedRun(eam, mgo, [np.random.default_rng(k) for k in range(len(mgo))], MDSettings(ensemble=ensemble))
    expected = [predict(eam, build_batch(atoms, eam.cutoff, torch.float64)) for atoms in mgo]
    torch.testing.assert_close(run.now.energy, torch.cat([e.energy for e in expected]).detach())
    torch.testing.assert_close(run.now.forces, torch.cat([e.forces for e in expected]).detach(), rtol=1e-9, atol=1e-11)
    if ensemble == "npt":
        stress = torch.cat([e.stress for e in expected]).detach()
        torch.testing.assert_close(run.now.stress, stress, rtol=1e-9, atol=1e-12)
    else:
        assert run.now.stress.isnan().all()


def test_nothing_that_is_kept_grows_with_the_number_of_steps(eam, mgo):
    settings = MDSettings(temperature=600, steps=200, stop_on=(), trace_interval=50)

    def kept(run) -> int:
        parts = (run.state, run.monitor, run.monitor.events, run.monitor.lindemann, run.now)
        return sum(v.numel() for part in parts for v in vars(part).values() if isinstance(v, torch.Tensor))

    with torch.no_grad():
        run = BatchedRun(eam, mgo, [np.random.default_rng(k) for k in range(len(mgo))], settings, skin=3.0)
        sizes = set()
        for step in range(settings.steps):
            run.step()
            if step in (50, 100, 199):
                sizes.add((kept(run), run.traces.values.size, len(run.forces.lists)))
    assert len(sizes) == 1


def test_result_does_not_depend_on_the_skin_or_the_batch(eam, mgo):
    options = {"temperature": 800, "steps": 60, "seed": 5}
    together = final(simulate(eam, mgo, **options))
    for other in (
        simulate(eam, mgo[::-1], skin=0.0, **options),
        simulate(eam, mgo, max_batch_atoms=8, **options),
        [simulate(eam, [atoms], **options)[0] for atoms in mgo],
    ):
        for name, positions in final(other).items():
            np.testing.assert_allclose(positions, together[name], atol=1e-8)


@pytest.mark.parametrize("ensemble", ["nvt", "npt"])
def test_both_engines_give_the_same_trajectory_and_verdict(ensemble, eam, mgo):
    options = {"ensemble": ensemble, "temperature": 1200, "steps": 40, "seed": 1, "interval": 2}
    batched = simulate(eam, mgo, engine="batched", **options)
    for other in (
        simulate(eam, mgo, engine="ase", **options),
        simulate(ASECalculator(eam), mgo, **options),
        simulate(lambda: ASECalculator(eam), mgo, **options),
    ):
        for a, b in zip(batched, other, strict=True):
            np.testing.assert_allclose(a.positions, b.positions, atol=1e-7)
            np.testing.assert_allclose(a.trace_temperature, b.trace_temperature, rtol=1e-6)
            np.testing.assert_allclose(a.trace_energy, b.trace_energy, rtol=1e-6)
            np.testing.assert_allclose(a.verdict.lindemann, b.verdict.lindemann, rtol=1e-6)
            assert a.verdict.min_distance == pytest.approx(b.verdict.min_distance, rel=1e-7)
            assert (a.verdict.closest_pair, a.verdict.frames) == (b.verdict.closest_pair, b.verdict.frames)


class Collapsing(CGCNN):
    """An attraction without a core between Mg and O: every such cell collapses."""

    def energies(self, batch, vectors):
        i, j = batch.edge_index
        r2 = vectors.square().sum(1)
        mixed = (batch.numbers[i] != batch.numbers[j]).to(r2.dtype)
        return vectors.new_zeros(len(batch)).index_add(0, batch.structure[i], -3.0 * mixed * torch.exp(-r2))


@pytest.fixture
def collapsing():
    return Collapsing(cutoff=4.0, dim1=4, dim2=4, gc_count=1).double()


def test_failing_structures_freeze_and_leave_the_others_alone(collapsing, mgo):
    quiet = Atoms("Mg4", mgo[0].positions[:4], cell=mgo[0].cell, pbc=True, info={"structure_id": "quiet"})
    options = {"temperature": 300, "steps": 150, "seed": 2}
    both = simulate(collapsing, [mgo[0], quiet, mgo[1]], **options)
    table = assess(both).set_index("structure_id")
    assert not table.loc["quiet", "overlap"]
    assert table.loc["quiet", "steps_done"] == 150
    for name in ("mgo-0", "mgo-1"):
        row = table.loc[name]
        assert row.overlap
        assert row.reason == "overlap"
        assert row.closest_pair == "Mg-O"
        assert row.min_distance <= 1.04  # half the sum of the covalent radii, 1.41 and 0.66 Å
        assert row.detail.startswith("Mg-O 1.0")
        assert row.first_unphysical_step == row.steps_done < 150
    alone = simulate(collapsing, [quiet], **options)[0]
    np.testing.assert_allclose(alone.positions, both[1].positions, atol=1e-9)
    going_on = simulate(collapsing, [mgo[0]], stop_on=(), **options)
    row = assess(going_on).iloc[0]
    assert row.steps_done == 150
    assert row.first_unphysical_step == table.loc["mgo-0", "first_unphysical_step"]


@pytest.mark.parametrize("engine", ["ase", "batched"])
def test_nan_and_explosion_end_a_trajectory(engine, mgo):
    class Poisoned(Collapsing):
        poison = float("nan")

        def energies(self, batch, vectors):
            energy = super().energies(batch, vectors)
            nearest = vectors.square().sum(1).min()
            return energy * torch.where(nearest < 1.8**2, self.poison, 1.0)

    model = Poisoned(cutoff=4.0, dim1=4, dim2=4, gc_count=1).double()
    row = assess(simulate(model, mgo[:1], steps=150, engine=engine, interval=7)).iloc[0]
    assert row.nan
    assert not row.physical
    assert row.reason == "nan"
    assert 0 < row.steps_done < 150
    assert np.isfinite(row.lindemann_local)
    model.poison = -1e7
    row = assess(simulate(model, mgo[:1], steps=150, engine=engine, stop_on=("explosion",))).iloc[0]
    assert row.exploded
    assert "explosion" in row.reason
    survivor = simulate(model, mgo[:1], steps=150, engine=engine, stop_on=())[0]
    assert assess([survivor]).iloc[0].exploded


@pytest.mark.parametrize("barostat", ["berendsen", "cell_rescaling"])
@pytest.mark.parametrize("engine", ["ase", "batched"])
def test_a_wild_barostat_is_an_explosion(engine, barostat, eam, mgo):
    options = {"ensemble": "npt", "steps": 20, "engine": engine, "barostat": barostat}
    for pressure, taup, evaluations in ((50.0, 10.0, 2), (50.0, 10.0, 1), (3.12, 50.0, 2), (3.12, 50.0, 1)):
        runs = simulate(eam, mgo[:2], pressure=pressure, taup=taup, npt_evaluations=evaluations, **options)
        table = assess(runs)
        assert table.exploded.all()
        assert (table.first_unphysical_step == 1).all()
        assert (table.steps_done == 1).all()


def test_all_kinds_of_structures(zoo):
    model = ZBL()
    for name, atoms in zoo.items():
        atoms.info["structure_id"] = name
    runs = simulate(model, list(zoo.values()), temperature=100, steps=15, friction=0.1)
    ase_runs = simulate(model, list(zoo.values()), temperature=100, steps=15, friction=0.1, engine="ase")
    for a, b in zip(runs, ase_runs, strict=True):
        np.testing.assert_allclose(a.positions, b.positions, atol=1e-4)
        assert a.verdict.min_distance == pytest.approx(b.verdict.min_distance, abs=1e-4)
    table = assess(runs).set_index("structure_id")
    assert table.loc["one_atom", "lindemann_global"] == 0
    assert table.loc["one_atom", "min_distance"] == pytest.approx(4.05 / np.sqrt(2))
    assert table.physical.all()


def test_an_isolated_atom_flies_and_nothing_happens():
    atom = Atoms("He", [[0, 0, 0]], info={"structure_id": "he"})
    for engine in ("ase", "batched"):
        row = assess(simulate(ZBL(), [atom], steps=5, engine=engine)).iloc[0]
        assert row.physical
        assert row.min_distance == np.inf
        assert row.closest_pair == ""


@pytest.mark.parametrize("of_cells", [False, True])
def test_noise_in_chunks_is_noise_step_by_step(of_cells):
    stream = NoiseStream([trajectory_rng(1, "a"), trajectory_rng(1, "b")], [3, 2], of_cells=of_cells)
    rngs = [trajectory_rng(1, "a"), trajectory_rng(1, "b")]
    for step in range(450):
        if step == 210:
            stream.keep(torch.tensor([False, True]), torch.tensor([False] * 3 + [True] * 2))
            rngs = rngs[1:]
        xi, eta, cells = stream.draw()
        sizes = [3, 2][-len(rngs) :]
        drawn = [
            (rng.standard_normal(int(of_cells)), rng.standard_normal((n, 3)), rng.standard_normal((n, 3)))
            for rng, n in zip(rngs, sizes, strict=True)
        ]
        for numbers, parts in zip((cells, xi, eta), zip(*drawn, strict=True), strict=True):
            np.testing.assert_array_equal(numbers.numpy(), np.concatenate(parts))


def test_batches_hold_at_most_so_many_atoms(mgo):
    assert split_batches(mgo, 16) == [[0, 1], [2, 3]]
    assert split_batches(mgo, 5) == [[0], [1], [2], [3]]
    assert split_batches(mgo, 100) == [[0, 1, 2, 3]]


@pytest.mark.parametrize(("engine", "kind"), [("batched", "extxyz"), ("ase", "traj")])
def test_trajectory_files_tell_what_the_records_tell(engine, kind, eam, mgo, tmp_path):
    mgo[0].info["structure_id"] = "a/b c"
    options = {"temperature": 1500, "steps": 40, "engine": engine, "trace_interval": 1}
    for _ in range(2):  # a second run replaces the files
        runs = simulate(
            eam, mgo[:2], trajectory_dir=tmp_path / "md", trajectory_interval=1, trajectory_format=kind, **options
        )
    frames = read(tmp_path / "md" / f"a_b_c.{kind}", ":")
    assert [f.info["step"] for f in frames] == list(range(41))
    np.testing.assert_allclose(frames[-1].positions, runs[0].positions, atol=1e-7)
    np.testing.assert_allclose([f.get_temperature() for f in frames], runs[0].trace_temperature, rtol=1e-4)
    np.testing.assert_allclose([f.get_potential_energy() for f in frames], runs[0].trace_energy, rtol=1e-6)
    streamed, from_files = assess(runs), assess([tmp_path / "md" / f"a_b_c.{kind}", tmp_path / "md" / f"mgo-1.{kind}"])
    for column in ("structure_id", "n_atoms", "steps_done", "overlap", "physical", "closest_pair", "reason"):
        assert streamed[column].tolist() == from_files[column].tolist(), column
    for column in ("lindemann_local", "lindemann_global", "min_distance", "overlap_threshold", "temperature_mean"):
        np.testing.assert_allclose(streamed[column], from_files[column], rtol=1e-5)


@pytest.mark.parametrize("ensemble", ["nvt", "npt", "nve"])
def test_machine_code_and_torch_make_the_same_trajectories(ensemble, eam, mgo, monkeypatch):
    options = {"ensemble": ensemble, "temperature": 900, "steps": 60, "seed": 2, "pressure": 0.1, "skin": 0.5}
    fast = simulate(eam, mgo, **options)
    monkeypatch.setattr(VerletListForces, "compiled", False)
    monkeypatch.setattr(LindemannAccumulator, "compiled", False)
    slow = simulate(eam, mgo, **options)
    for a, b in zip(fast, slow, strict=True):
        assert a.verdict.closest_pair == b.verdict.closest_pair
        assert a.verdict.min_distance == pytest.approx(b.verdict.min_distance, rel=1e-9)
        np.testing.assert_allclose(a.positions, b.positions, atol=1e-9)
        np.testing.assert_allclose(a.verdict.lindemann, b.verdict.lindemann, rtol=1e-8)
