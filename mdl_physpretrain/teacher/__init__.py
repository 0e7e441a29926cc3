"""The teacher: fitting an EAM, examining it, labelling with it."""

from mdl_physpretrain.teacher.examine import Examination, examine, teacher_curves
from mdl_physpretrain.teacher.fit import fit_eam
from mdl_physpretrain.teacher.label import LabelFailure, Labelled, label
from mdl_physpretrain.teacher.parametrisation import Bounds

__all__ = [
    "Bounds",
    "Examination",
    "LabelFailure",
    "Labelled",
    "examine",
    "fit_eam",
    "label",
    "teacher_curves",
]
