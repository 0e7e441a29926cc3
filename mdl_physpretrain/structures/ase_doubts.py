"""What ASE does not say about a file: shared sites, steps that did not converge, an early end."""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

from ase import Atoms

from mdl_physpretrain.errors import StructureError
from mdl_physpretrain.structures.labels import stored_results

__all__ = ["examine_file", "refuse_partial_occupancies"]


def refuse_partial_occupancies(atoms: Atoms, path: Path, position: int) -> None:
    """ASE takes the species with the largest share of a site, silently.

    Raises
    ------
    StructureError
        If a site is shared by species, or partly empty.
    """
    occupancy = atoms.info.get("occupancy")
    for site, shares in occupancy.items() if isinstance(occupancy, dict) else ():
        if isinstance(shares, dict) and (len(shares) > 1 or abs(sum(shares.values()) - 1) > 1e-3):
            words = " and ".join(f"{share:g} {species}" for species, share in shares.items())
            raise StructureError(
                f"site {site} holds {words}: partial occupancies are no structure of atoms; order them first",
                file=path,
                structure=position,
                field="occupancy",
            )


def examine_file(path: Path, kind: str | None, frames: Sequence[Atoms], positions: Sequence[int]) -> None:
    """Look at what ASE passed over; unconverged frames lose their labels, with a warning.

    Raises
    ------
    StructureError
        If the file ends early.
    """
    for atoms, position in zip(frames, positions, strict=True):
        refuse_partial_occupancies(atoms, path, position)
    converged: dict[int, bool] = {}
    if kind == "vasp-xml" or path.name.lower().startswith("vasprun"):
        converged = _vasprun(path)
    elif kind == "vasp-out" or path.name.upper().startswith("OUTCAR"):
        converged = _outcar(path)
    failed = [k for k, position in enumerate(positions) if converged.get(position) is False]
    for k in failed:
        frames[k].info["scf_converged"] = False
        if stored_results(frames[k]):
            frames[k].calc = None
    if failed:
        warnings.warn(
            f"{path}: the electrons of {len(failed)} of {len(positions)} ionic steps did not converge (first: "
            f"{positions[failed[0]]}); their labels are left out",
            stacklevel=4,
        )


def _vasprun(path: Path) -> dict[int, bool]:
    """Whether each ionic step used fewer electronic steps than allowed."""
    limit, counts, steps = None, [], 0
    try:
        for event, element in ElementTree.iterparse(path, events=("start", "end")):
            if event == "start":
                steps = 0 if element.tag == "calculation" else steps
                continue
            if element.tag == "i" and element.get("name") == "NELM" and limit is None:
                limit = int((element.text or "0").strip() or 0)
            elif element.tag == "scstep":
                steps += 1
            elif element.tag == "calculation":
                counts.append(steps)
            if element.tag in {"scstep", "calculation"}:
                element.clear()
    except ElementTree.ParseError as error:
        raise StructureError(
            f"ends early or is damaged after {len(counts)} complete ionic steps ({error}); take these alone with "
            f"index=':{len(counts)}' from a repaired file",
            file=path,
        ) from error
    return {k: steps < limit for k, steps in enumerate(counts)} if limit else {}


def _outcar(path: Path) -> dict[int, bool]:
    """Whether each ionic step's loop ended because its accuracy was reached."""
    text = path.read_text(encoding="utf-8", errors="replace")
    if "General timing and accounting" not in text:
        warnings.warn(f"{path}: VASP did not end normally; the last ionic step may be missing", stacklevel=5)
    steps: dict[int, bool] = {}
    reached = False
    events = r"aborting loop because EDIFF is reached|aborting loop EDIFF was not reached|FREE ENERGIE OF THE ION"
    for match in re.finditer(events, text):
        if "FREE" in match.group():
            steps[len(steps)] = reached
            reached = False
        else:
            reached = "is reached" in match.group()
    return steps if any(steps.values()) else {}
