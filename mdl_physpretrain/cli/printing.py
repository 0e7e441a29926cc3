"""Tables that several commands print."""

from __future__ import annotations

__all__ = ["errors_table"]


def errors_table(rows: dict[str, dict[str, float]]) -> None:
    """Print mean absolute errors, a row each."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(title="Mean absolute errors", caption="trivial: reference energies, zero forces and stress")
    columns = {
        "energy_mae": "E (eV)",
        "energy_per_atom_mae": "E (eV/atom)",
        "forces_mae": "F (eV/Å)",
        "stress_mae": "S (eV/Å³)",
        "stress_mae_gpa": "S (GPa)",
        "total": "total",
    }
    table.add_column("")
    for title in columns.values():
        table.add_column(title, justify="right")
    for name, errors in rows.items():
        table.add_row(escape(name), *(f"{errors[key]:.4g}" for key in columns))
    Console().print(table)
