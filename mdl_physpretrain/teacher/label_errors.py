"""What an anchored label may be wrong by, and where the parent's forces no longer help to correct it.

Not of the paper. A label that is corrected by its parent's forces inherits the teacher's error of the *change* from
the parent. A parent with large forces, sheared or rattled, lies far from the frames that MD makes of it: there the
change is larger than the forces themselves, and the teacher's own forces are the better label.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from ase import Atoms

from mdl_physpretrain.structures.labels import Labels, get_labels
from mdl_physpretrain.teacher.change_errors import ChangeErrors

__all__ = ["LabelErrors"]


@dataclass(frozen=True)
class LabelErrors:
    """Errors that a teacher's labels are expected to have.

    Attributes
    ----------
    changes
        Relative errors of the teacher's changes of force. That of the composition says what a label may be wrong by,
        the overall one whether the parent's forces help.
    own
        Error of the teacher's forces where the reference is known, eV/Å: the median over the parents of the root mean
        square component.
    """

    changes: ChangeErrors
    own: float

    @classmethod
    def measured(
        cls, changes: ChangeErrors, parents: Mapping[str, Atoms], outcomes: Mapping[str, Labels | str]
    ) -> LabelErrors:
        """With the teacher's labels of the parents, by id (a text: why it failed)."""
        sizes = []
        for name, outcome in outcomes.items():
            forces = get_labels(parents[name]).forces
            if not isinstance(outcome, str) and outcome.forces is not None and forces is not None:
                sizes.append(_size(outcome.forces - forces))
        return cls(changes, float(np.median(sizes)) if sizes else 0.0)

    def forces_help(self, labels: Labels, at_parent: Labels | str) -> bool:
        """Whether a label is better with the parent's forces in it than with the teacher's alone."""
        if isinstance(at_parent, str) or labels.forces is None or at_parent.forces is None:
            return True
        overall = self.changes.overall
        alone = overall * _size(labels.forces) + self.own
        return overall * _size(labels.forces - at_parent.forces) <= alone

    def note(self, atoms: Atoms, labels: Labels, at_parent: Labels | str, *, with_forces: bool) -> None:
        """Write what a label may be wrong by into the structure; ``labels`` are the teacher's own."""
        if isinstance(at_parent, str) or labels.forces is None or at_parent.forces is None:
            return
        change = labels.forces - at_parent.forces if with_forces else labels.forces
        expected = self.changes.of(atoms)
        by_atom = expected * np.sqrt((change**2).mean(axis=1))
        atoms.info["change_error"] = self.changes.overall
        atoms.set_array("forces_tolerance", by_atom if with_forces else by_atom + self.own)
        if labels.stress is not None and at_parent.stress is not None:
            difference = labels.stress - at_parent.stress
            atoms.info["stress_tolerance"] = expected * float(np.abs(difference).mean())


def _size(forces: np.ndarray) -> float:
    """Root mean square component."""
    return float(np.sqrt((forces**2).mean())) if forces.size else 0.0
