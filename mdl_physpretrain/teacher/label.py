"""Labels of augmented structures, by an EAM or by any ASE calculator.

A teacher is an engine that turns structures into outcomes: labels, or the
reason why there are none. Everything else (resume, anchoring, reporting) does
not know which kind of teacher is at work.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from ase import Atoms

from mdl_physpretrain.errors import ConfigError, StructureError
from mdl_physpretrain.recipe import AUGMENT, TEACHER
from mdl_physpretrain.structures.identifiers import stable_id
from mdl_physpretrain.structures.labels import set_labels
from mdl_physpretrain.teacher.anchor import anchored_labels, parents_of
from mdl_physpretrain.teacher.change_errors import ChangeErrors
from mdl_physpretrain.teacher.engines import Teacher, make_engine
from mdl_physpretrain.teacher.label_errors import LabelErrors
from mdl_physpretrain.teacher.outcomes import label_outcomes

if TYPE_CHECKING:
    from concurrent.futures import Executor

__all__ = ["LabelFailure", "Labelled", "label"]


class LabelFailure(NamedTuple):
    """A structure without labels, and why."""

    structure_id: str
    reason: str


class Labelled(list[Atoms]):
    """The labelled structures: a list that knows what could not be labelled.

    Attributes
    ----------
    failures
        One entry per structure that is missing in the list.
    """

    def __init__(self, structures: Iterable[Atoms] = (), *, failures: Iterable[LabelFailure] = ()) -> None:
        super().__init__(structures)
        self.failures = list(failures)


def label(
    structures: Sequence[Atoms],
    teacher: Teacher,
    *,
    batch_size: int = AUGMENT.batch_size,
    stress: bool = True,
    anchor: bool | None = None,
    anchor_reach: float | None = AUGMENT.anchor_reach,
    change_error: float | ChangeErrors | None = None,
    parents: Sequence[Atoms] | None = None,
    resume: str | Path | None = None,
    force: bool = TEACHER.force,
    on_error: Literal["skip", "raise"] = "skip",
    executor: Executor | None = None,
    progress: bool = False,
) -> Labelled:
    """Copies of the structures with the teacher's energy, forces and stress.

    Parameters
    ----------
    structures
        Usually of :func:`mdl_physpretrain.augmentation.augment`.
    teacher
        An :class:`EnergyModel` (evaluated in batches, in its own dtype and on
        its own device), an ASE calculator, or a function without arguments
        that makes one.
    batch_size
        Most structures per batch of a model (fewer where they have many
        edges), and per chunk of the ``resume`` file.
    stress
        Label the stress, where the structure has a volume and the teacher
        knows it.
    anchor
        Correct the teacher to first order with the parent's own labels, so
        that it describes the change on the way from the parent ``x0`` to
        ``x = x0 + u`` and the labels of the parent the rest (our method, not
        the paper's)::

            E = E_T(x) - [E_T(x0) - F_T(x0).u] + [E_ref(x0) - F_ref(x0).u]
            F = F_T(x) - F_T(x0) + F_ref(x0)
            S = S_T(x) - S_T(x0) + S_ref(x0)

        ``F`` is exactly ``-dE/dx`` for a fixed parent. ``S`` is not exactly
        the strain derivative of ``E``: straining ``x0`` and ``u`` together
        also changes ``(F_ref - F_T)(x0).u``, which adds terms of first order
        in ``u``, one of which needs the reference's second derivatives. They
        are left out; the error vanishes with ``u``. Without a reference stress
        of the parent there is no stress label. Default: whenever there are
        ``parents``.
    anchor_reach
        In Å: the correction of an atom that is displaced by ``u`` fades with ``exp(-|u|^2 / (2 reach^2))``, in energy,
        forces (which stay the energy's slope) and, by its mean over the atoms, stress. ``None``: it does not.
    change_error
        Relative error of the teacher's changes of force, or that of each composition. An anchored label then carries
        what it may be wrong by: ``arrays["forces_tolerance"]``, this times the root mean square component of the
        atom's change (eV/Å), and ``info["stress_tolerance"]``, this times the mean component of the change of stress
        (eV/Å³); ``info["change_error"]`` is the number itself, over all compositions. A structure
        whose forces have changed so much from its parent's that the teacher's own are expected to be nearer
        (:class:`mdl_physpretrain.teacher.label_errors.LabelErrors`) keeps these; its energy and stress are anchored as
        if the forces at ``x0`` were right.
    parents
        To anchor to: the labelled parents, matched by ``info["parent_id"]``;
        ``u`` is ``arrays["aug_displacement"]``.
    resume
        File that finished chunks are appended to, with checksums. A later call
        with the same structures and teacher takes them from there, drops a
        torn end, and goes on; the result is that of an uninterrupted call. Of
        an ASE calculator name, parameters and source file are compared: a
        change of weights that these do not show is not noticed. The file stays; delete
        it when the labels are saved.
    force
        Let a teacher label that failed its examination.
    on_error
        A structure that the teacher fails on (an exception of a calculator, a
        label that is not finite) is ``"skip"``: left out, listed in
        ``.failures``, with one warning; or ``"raise"``: a StructureError.
        Finished work is in the ``resume`` file either way.
    executor
        Workers that share the labelling: any ``concurrent.futures.Executor``
        (:class:`mdl_physpretrain.executors.Processes`, Dask's
        ``client.get_executor()``, ...). The labels are those of one process
        with one thread on the same kind of machine, bit for bit. The teacher
        travels as checkpoint or by name; a calculator that cannot be pickled
        has to be made by a function of a module. A structure that kills every
        worker counts as failed.
    progress
        Show a progress bar.

    Returns
    -------
    Labelled
        A ``list[Atoms]`` in the order given; energy in eV, forces in eV/Å,
        stress in eV/Å³ (ASE sign) as float64 on a ``SinglePointCalculator``;
        ``info["label_source"]`` is the teacher's name (``"eam"``, ``"emt"``,
        with ``"-anchored"`` behind it where it is, ``"-anchored-energy"``
        where its forces are the teacher's own).

    Raises
    ------
    TeacherRefused
        If the teacher failed its examination and is not forced.
    StructureError
        On an element that the teacher does not know, a missing or unsuitable
        parent, or when every structure failed.
    ConfigError
        On an option out of range, a ``resume`` file of other work, or a
        teacher that cannot be sent to another process.
    PhysPretrainError
        If the executor takes no more work.
    """
    structures = list(structures)
    if not structures:
        raise StructureError("there are no structures to label")
    if batch_size < 1:
        raise ConfigError(f"batch_size must be at least 1, not {batch_size}")
    if on_error not in ("skip", "raise"):
        raise ConfigError(f"on_error must be 'skip' or 'raise', not {on_error!r}")
    if anchor_reach is not None and not anchor_reach > 0:
        raise ConfigError(f"anchor_reach must be positive or None, not {anchor_reach}")
    engine = make_engine(teacher, batch_size, stress, force)
    anchor = (AUGMENT.anchor and parents is not None) if anchor is None else anchor
    needed = parents_of(structures, parents) if anchor else {}
    # the parents are jobs like the others, so that an interruption does not cost them either
    jobs = [*needed.values(), *structures]
    engine.check(jobs)
    outcomes = label_outcomes(
        jobs,
        engine,
        teacher,
        batch_size=batch_size,
        stress=stress,
        resume=resume,
        on_error=on_error,
        executor=executor,
        progress=progress,
    )
    of_parent = dict(zip(needed, outcomes, strict=False))
    errors = None
    if anchor and change_error is not None:
        changes = change_error if isinstance(change_error, ChangeErrors) else ChangeErrors(change_error)
        errors = LabelErrors.measured(changes, needed, of_parent)

    result = Labelled()
    for atoms, outcome in zip(structures, outcomes[len(needed) :], strict=True):
        if anchor and not isinstance(outcome, str):
            parent, raw = str(atoms.info["parent_id"]), outcome
            with_forces = errors is None or errors.forces_help(raw, of_parent[parent])
            outcome = anchored_labels(
                atoms, outcome, needed[parent], of_parent[parent], anchor_reach, with_forces=with_forces
            )
        if isinstance(outcome, str):
            result.failures.append(LabelFailure(stable_id(atoms), outcome))
            continue
        copy = set_labels(atoms.copy(), outcome)
        copy.info["label_source"] = engine.source(atoms)
        if anchor:
            copy.info["label_source"] += "-anchored" if with_forces else "-anchored-energy"
        for field in ("forces_tolerance", "forces_counted"):  # of an earlier label
            copy.arrays.pop(field, None)
        for field in ("stress_tolerance", "change_error"):
            copy.info.pop(field, None)
        if errors is not None:
            errors.note(copy, raw, of_parent[parent], with_forces=with_forces)
        result.append(copy)
    if result.failures:
        first = result.failures[0]
        counted = f"{engine.name} failed on {len(result.failures)} of {len(structures)} structures"
        if not result:
            raise StructureError(f"{counted}; the first: {first.reason}", structure=first.structure_id)
        warnings.warn(f"{counted}; the first, {first.structure_id}: {first.reason}", stacklevel=2)
    return result
