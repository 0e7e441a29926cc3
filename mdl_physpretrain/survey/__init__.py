"""The survey: many potentials, each in its own environment, examined on the same textbook crystals."""

from mdl_physpretrain.survey.materials import material_names, materials
from mdl_physpretrain.survey.survey import Surveyed, survey

__all__ = ["Surveyed", "material_names", "materials", "survey"]
