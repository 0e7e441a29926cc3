"""Still picture of failing frames, for print and for browsers without JavaScript."""

from __future__ import annotations

from functools import partial
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.patches import Circle
from matplotlib.patheffects import withStroke

from mdl_physpretrain.report.drawing import MUTED, Figure, Legend, Panel
from mdl_physpretrain.report.failing_frames import Frame, element_colour

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["frames_figure"]

WRONG = "#c0271a"  # the offending pair
WANDERED = "#e0a030"  # the atom with the largest Lindemann index
SHOWN = 3  # frames in the picture; the viewer has all
SIZE = 0.5  # drawn radius over covalent radius


def _view(turn: float = -0.5, tilt: float = 0.35) -> np.ndarray:
    """Rotation, shape (3, 3), rows: right, up, towards the reader; angles in radian."""
    about_z = np.array([[np.cos(turn), -np.sin(turn), 0], [np.sin(turn), np.cos(turn), 0], [0, 0, 1]])
    upright = np.array([[1, 0, 0], [0, np.sin(tilt), np.cos(tilt)], [0, -np.cos(tilt), np.sin(tilt)]])
    return upright @ about_z


def _best_view(frame: Frame) -> np.ndarray:
    """The turn in which the offending pair lies in the picture and nothing stands before it."""
    if frame.pair is None:
        return _view()
    bond = np.array(frame.pair["vector"])
    around = np.array(frame.positions) - frame.positions[frame.pair["i"]] - bond / 2
    near = SIZE * np.array(frame.radii) + 0.7

    def cost(turned: np.ndarray) -> float:
        x, y, z = (around @ turned.T).T
        hidden = ((z > 0.5) & (np.hypot(x, y) < near)).sum()
        return float(hidden + abs((turned @ bond)[2]) / max(np.linalg.norm(bond), 1e-9))

    return min((_view(turn) for turn in np.arange(36) * np.pi / 18 - 0.5), key=cost)


def frames_figure(frames: list[Frame]) -> Figure | None:
    """The first frames, with the offending pair in red."""
    shown = frames[:SHOWN]
    panels = [Panel(f"{f.structure} · {f.arm}, seed {f.seed}", partial(_panel, frame=f)) for f in shown]
    elements = list(dict.fromkeys(s for f in shown for s in f.symbols))
    legend = [Legend(s, element_colour(s), "marker") for s in elements]
    legend.append(Legend("closest pair", WRONG))
    if any(f.mark is not None for f in shown):
        legend.append(Legend("largest Lindemann index", WANDERED, "marker"))
    return Figure("Failing frame", panels, legend, size=(3.6, 3.4))


def _panel(ax: Axes, frame: Frame) -> None:
    turned = _best_view(frame)
    atoms = np.array(frame.positions) @ turned.T
    cell = np.array(frame.cell)
    for axis in range(3):
        for corner in product((0, 1), repeat=3):
            if corner[axis] == 0 and np.any(cell[axis]):
                start = np.array(corner) @ cell
                ends = np.array([start, start + cell[axis]]) @ turned.T
                ax.plot(ends[:, 0], ends[:, 1], color=MUTED, linewidth=0.7, zorder=1)
    items = list(zip(atoms, frame.symbols, frame.radii, range(len(atoms)), strict=True))
    if frame.pair:
        i, j = frame.pair["i"], frame.pair["j"]
        ghost = (np.array(frame.positions[i]) + frame.pair["vector"]) @ turned.T
        if np.linalg.norm(ghost - atoms[j]) > 0.01:
            items.append((ghost, frame.symbols[j], frame.radii[j], -1))
        ax.plot(*np.array([atoms[i], ghost])[:, :2].T, color=WRONG, linewidth=3, zorder=10_000)
        look: dict[str, Any] = {"color": WRONG, "fontweight": "bold", "zorder": 10_001}
        look["path_effects"] = [withStroke(linewidth=2.5, foreground="white")]
        middle = ((atoms[i] + ghost) / 2)[:2]
        ax.annotate(f"{frame.pair['distance']:.2f} Å", middle, (6, 6), textcoords="offset points", **look)
    for order, (centre, symbol, radius, k) in enumerate(sorted(items, key=lambda item: float(item[0][2]))):
        partner = k == -1 or (frame.pair is not None and k in (frame.pair["i"], frame.pair["j"]))
        look = {"edgecolor": "#2b353d", "linewidth": 0.5}
        if k == frame.mark:
            look = {"edgecolor": WANDERED, "linewidth": 2.4}
        elif partner:
            look = {"edgecolor": WRONG, "linewidth": 1.6}
        if k == -1:
            look |= {"linestyle": ":", "alpha": 0.6}
        at = (centre[0], centre[1])
        ax.add_patch(Circle(at, SIZE * radius, facecolor=element_colour(symbol), zorder=2 + order, **look))
    ax.set_aspect("equal")
    ax.autoscale_view()
    ax.set_axis_off()
