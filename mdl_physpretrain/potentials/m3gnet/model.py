"""M3GNet as MatterSim has it, with our own forward pass through its layers.

C. Chen and S. P. Ong, Nat. Comput. Sci. 2, 718 (2022); H. Yang et al.
(MatterSim), arXiv:2405.04967. The layers, their names and their numbers are
those of the package ``mattersim``; neighbour list, forces and virial are ours.
The linear layers that see ``[x_i, x_j, e_ij]`` are split as in
:mod:`mdl_physpretrain.potentials.cgcnn.model`, and angles are summed without a list of
them, see :mod:`mdl_physpretrain.potentials.m3gnet.angles`.
"""

from __future__ import annotations

import math
from inspect import signature
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from ase.data import chemical_symbols
from torch import Tensor

from mdl_physpretrain.compiled.cached_tables import IndexCache
from mdl_physpretrain.errors import CheckpointError, ConfigError, StructureError
from mdl_physpretrain.graphs.batch import AtomicBatch
from mdl_physpretrain.potentials.base import EnergyModel, predict, within_cutoff
from mdl_physpretrain.potentials.checkpoint_file import write_checkpoint
from mdl_physpretrain.potentials.construction import constructed
from mdl_physpretrain.potentials.m3gnet.angles import MAX_ORDER, radial_functions, smooth_cutoff, three_body_sums
from mdl_physpretrain.potentials.registry import register_model
from mdl_physpretrain.potentials.safe_load import load_foreign

__all__ = ["M3GNet"]

SMALLEST = 1e-6  # Å: two atoms in one place are this far apart
MATTERSIM_DEFAULTS = {"num_blocks": 4}  # where they are not ours
FEATURE_GAIN, OUTPUT_GAIN = 2.0, 0.3  # of `M3GNet.initialise`


@register_model("m3gnet")
class M3GNet(EnergyModel):
    """MatterSim's M3GNet; the defaults are those of MatterSim-v1.0.0-1M.

    Its ``state_dict`` is that of ``mattersim``'s ``M3Gnet`` under the prefix
    ``network.``, and ``reference_energies``.

    Parameters
    ----------
    cutoff
        Interaction range in Å.
    threebody_cutoff
        Range of the bonds that form angles in Å, at most ``cutoff``.
    units
        Feature size of atoms and bonds.
    num_blocks
        Number of message-passing blocks.
    max_l, max_n
        Sizes of the angular and the radial basis, 1 to 4.
    max_z
        Largest atomic number.

    Raises
    ------
    ConfigError
        If an argument is out of range or ``mattersim`` is missing.
    """

    network: Any
    fades_at_cutoff = True
    reference_energies: Tensor

    def __init__(
        self,
        *,
        cutoff: float = 5.0,
        threebody_cutoff: float = 4.0,
        units: int = 128,
        num_blocks: int = 3,
        max_l: int = 4,
        max_n: int = 4,
        max_z: int = 94,
    ) -> None:
        hparams = {k: v for k, v in locals().items() if k not in {"self", "__class__"}}
        super().__init__(cutoff, hparams, reference_energies=True)
        if not 0 < threebody_cutoff <= cutoff:
            raise ConfigError(f"threebody_cutoff must lie in (0, {cutoff:g}] Å, not {threebody_cutoff}")
        if not (1 <= max_l <= MAX_ORDER and 1 <= max_n <= MAX_ORDER):
            raise ConfigError(f"max_l and max_n must lie in 1 to {MAX_ORDER}, not {max_l} and {max_n}")
        if units < 1 or num_blocks < 1 or not 1 <= max_z <= 118:
            raise ConfigError("units and num_blocks must be at least 1, max_z must lie in 1 to 118")
        self.threebody_cutoff, self.max_l, self.max_n, self.max_z = float(threebody_cutoff), max_l, max_n, max_z
        self._known: IndexCache[bool] = IndexCache()
        self.network = _mattersim_network()(**hparams, device="cpu")

    @torch.no_grad()
    def initialise(self, batch: AtomicBatch, generator: torch.Generator) -> None:
        """Scale the initial weights to the data.

        MatterSim's initial weights leave the features of atoms and bonds near
        0.03 and the forces near 1e-4 eV/Å: hundreds of steps later the network
        still predicts none. Embeddings of unit variance, layers that
        turn distances and angles into features of order one, and an output
        whose forces are a fraction of those in the data cure this.

        Parameters
        ----------
        batch
            Typical training structures, whose list reaches the cutoff. Their
            force labels set the scale (1 eV/Å without any).
        generator
            For the weights.
        """
        net = self.network
        batch, vectors, _ = within_cutoff(batch, batch.edge_vectors(), self.cutoff)
        r = torch.linalg.vector_norm(vectors, dim=1)
        inner = r < self.threebody_cutoff
        angles = self._angles(batch.edge_index[0, inner], r[inner], vectors[inner], len(batch.numbers))
        of_basis, of_angles = _rms(net.rbf(r)), 0.5 * _rms(angles)  # a half: the atoms' gates on the angles
        neighbours = max(1.0, len(r) / len(batch.numbers))

        def fill(layer: Any, size: float) -> None:
            weight = layer.linear.weight
            draw = torch.randn(weight.shape, generator=generator, dtype=torch.float32)
            weight.copy_(draw * (size / math.sqrt(weight.shape[1])))

        fill(net.atom_embedding.mlp[0], math.sqrt(self.max_z + 1))
        fill(net.edge_encoder.mlp[0], FEATURE_GAIN / of_basis)
        for block in net.graph_conv:
            fill(block.edge_layer_edge, FEATURE_GAIN / of_basis)
            fill(block.edge_layer_atom, FEATURE_GAIN / of_basis / math.sqrt(neighbours))
            fill(block.three_body.edge_gate_mlp.g[0], FEATURE_GAIN / of_angles)
            fill(block.three_body.edge_gate_mlp.sigma[0], FEATURE_GAIN / of_angles)
        labels = batch.forces[batch.has_forces[batch.structure]]
        scale = _rms(labels) if bool(labels.any()) else 1.0
        net.normalizer.scale.fill_(scale)
        net.normalizer.shift.zero_()
        last = net.final.g[2].linear
        last.bias.zero_()
        forces = predict(self, batch).forces
        if bool(forces.any()):
            last.weight *= OUTPUT_GAIN * scale / _rms(forces)

    def energies(self, batch: AtomicBatch, vectors: Tensor) -> Tensor:
        net, numbers = self.network, batch.numbers
        self._check_elements(numbers)
        i, j = batch.edge_index
        r = torch.linalg.vector_norm(vectors, dim=1).clamp_min(SMALLEST)
        basis = net.rbf(r)
        inner = torch.nonzero(r.detach() < self.threebody_cutoff).squeeze(1)
        inner_centre = i.index_select(0, inner)
        angles = self._angles(inner_centre, r.index_select(0, inner), vectors.index_select(0, inner), len(numbers))

        x = net.atom_embedding.mlp[0].linear.weight.T[numbers]
        e = F.silu(net.edge_encoder.mlp[0].linear(basis))
        for block in net.graph_conv:
            three = block.three_body
            gate = angles * torch.sigmoid(three.atom_mlp.linear(x)).index_select(0, inner_centre)
            e = e.index_add(0, inner, _gated(three.edge_gate_mlp, gate))
            e = e + _gated_bond(block.gated_mlp_edge, x, e, i, j) * block.edge_layer_edge.linear(basis)
            message = _gated_bond(block.gated_mlp_atom, x, e, i, j) * F.silu(block.edge_layer_atom.linear(basis))
            x = x.index_add(0, i, message)
        return self.total_energy(net.normalizer(net.final(x).squeeze(1), numbers), batch)

    def _angles(self, centre: Tensor, r: Tensor, vectors: Tensor, n_atoms: int) -> Tensor:
        sbf, n, m = self.network.sbf, self.max_n, self.max_l
        radial = radial_functions(r, sbf.coef, sbf.factor, self.cutoff, n, m)
        weight = smooth_cutoff(r, self.threebody_cutoff)
        return three_body_sums(centre, vectors / r.unsqueeze(1), radial, weight, n_atoms, n, m)

    @classmethod
    def from_mattersim(cls, path: str | Path) -> M3GNet:
        """Read a local checkpoint of MatterSim (``.pth``).

        Raises
        ------
        CheckpointError
            If it is damaged, would execute code, or holds another network.
        """
        content = load_foreign(path)
        if not isinstance(content, dict) or not {"model_name", "model", "model_args"} <= content.keys():
            raise CheckpointError(f"{path} is not a checkpoint of MatterSim (no model_name, model, model_args)")
        if content["model_name"] != "m3gnet":
            raise CheckpointError(f"{path} holds MatterSim's {content['model_name']!r}, not its 'm3gnet'")
        return cls.from_network(content["model_args"], content["model"], source=path)

    def to_mattersim(self, path: str | Path) -> Path:
        """Write a checkpoint that ``mattersim``'s ``Potential.from_checkpoint`` loads.

        Returns
        -------
        Path
            The file; parents are created and the write is atomic.
        """
        content = {"model_name": "m3gnet", "model": self.network_state(), "model_args": dict(self.hparams)}
        return write_checkpoint({**content, "description": "written by mdl_physpretrain"}, path)

    @classmethod
    def from_network(cls, args: dict[str, Any], weights: dict[str, Tensor], *, source: str | Path) -> M3GNet:
        """A model from the arguments and the ``state_dict`` of ``mattersim``'s ``M3Gnet``.

        Parameters
        ----------
        args
            What is missing takes MatterSim's defaults, what is unknown is
            left out, as MatterSim does.
        weights
            Tables that follow from ``args`` may be missing.
        source
            The file, for error messages.

        Raises
        ------
        CheckpointError
            If the weights do not fit.
        """
        arguments = {k: v for k, v in {**MATTERSIM_DEFAULTS, **args}.items() if k in signature(cls).parameters}
        try:
            model = constructed(lambda: cls(**arguments), weights, source)
        except (ConfigError, TypeError) as error:
            raise CheckpointError(f"{source}: no M3GNet has the arguments {arguments}: {error}") from error
        expected = model.network.state_dict()
        missing = sorted(k for k in expected.keys() - weights.keys() if not k.startswith(("rbf.", "sbf.")))
        unknown = sorted(weights.keys() - expected.keys())
        shapes = sorted(k for k in expected.keys() & weights.keys() if expected[k].shape != weights[k].shape)
        for names, verb in ((missing, "lacks"), (unknown, "has the unknown"), (shapes, "has other shapes of")):
            if names:
                remainder = f" and {len(names) - 3} more" if len(names) > 3 else ""
                raise CheckpointError(f"{source} does not fit M3GNet: it {verb} {', '.join(names[:3])}{remainder}")
        if next(iter(weights.values())).dtype == torch.float64:
            model = model.double()
        model.network.load_state_dict(weights, strict=False)
        return model.eval()

    def network_state(self) -> dict[str, Tensor]:
        """``state_dict`` of ``mattersim``'s ``M3Gnet``, with the reference energies in its shifts."""
        state = {k: v.detach().cpu().clone() for k, v in self.network.state_dict().items()}
        state["normalizer.shift"] += self.reference_energies[: self.max_z + 1].cpu()
        return state

    def _check_elements(self, numbers: Tensor) -> None:
        if not self._known.get(numbers, lambda: bool(((numbers >= 1) & (numbers <= self.max_z)).all())):
            strange = sorted({n for n in numbers.tolist() if not 1 <= n <= self.max_z})
            names = ", ".join(f"{chemical_symbols[n] if n < len(chemical_symbols) else '?'} ({n})" for n in strange)
            raise StructureError(f"M3GNet knows the elements 1 to {self.max_z}, not {names}", field="numbers")


def _rms(values: Tensor) -> float:
    """Root mean square, 1 where there is nothing but zeros."""
    return float(values.double().square().mean().sqrt()) if bool(values.any()) else 1.0


def _gated(mlp: Any, features: Tensor) -> Tensor:
    """MatterSim's gated layer, one deep and without bias, in one product."""
    core, gate = F.linear(features, torch.cat([mlp.g[0].linear.weight, mlp.sigma[0].linear.weight])).chunk(2, 1)
    return F.silu(core) * torch.sigmoid(gate)


def _gated_bond(mlp: Any, x: Tensor, e: Tensor, i: Tensor, j: Tensor) -> Tensor:
    """MatterSim's gated layers of ``[x_i, x_j, e_ij]``, shape (E, units)."""
    first, second = mlp.g, mlp.sigma
    weight = torch.cat([first[0].linear.weight, second[0].linear.weight])
    bias = torch.cat([first[0].linear.bias, second[0].linear.bias])
    w_centre, w_neighbour, w_bond = weight.split([x.shape[1], x.shape[1], e.shape[1]], 1)
    at_centre, at_neighbour = F.linear(x, w_centre, bias), F.linear(x, w_neighbour)
    hidden = at_centre.index_select(0, i) + at_neighbour.index_select(0, j) + F.linear(e, w_bond)
    core, gate = F.silu(hidden).chunk(2, 1)
    return F.silu(first[1].linear(core)) * torch.sigmoid(second[1].linear(gate))


def _mattersim_network() -> Any:
    try:
        from mattersim.forcefield.m3gnet.m3gnet import M3Gnet
    except ImportError as error:
        raise ConfigError(
            f'the model "m3gnet" needs the package mattersim ({error}): pip install "mdl-physpretrain[m3gnet]"; '
            "or, without the CUDA packages that its metadata asks for: pip install --no-deps mattersim==1.2.3, then "
            "pip install deprecated e3nn loguru opt-einsum-fx pymatgen scikit-learn torch-ema torch-geometric "
            "torch-runstats torchmetrics"
        ) from error
    return M3Gnet
