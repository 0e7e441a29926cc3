"""Report: one self-contained HTML page, PNG figures, CSV and JSON tables."""

from mdl_physpretrain.report.build import write_report

__all__ = ["write_report"]
