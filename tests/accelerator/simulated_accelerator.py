"""An accelerator made of Python: tensors of device ``sim`` hold CPU tensors, refuse to meet others, and are counted.

What can go wrong on a GPU and does not depend on arithmetic is found here: a tensor left on the CPU, memory read
through ``numpy``, a value that the host has to wait for. Operations are PyTorch's own on the tensor inside, so numbers
are the CPU's, of the formulas (machine code is for the device ``cpu`` alone). The device can be used inside
``with simulated():``.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from lightning.pytorch.accelerators import Accelerator, AcceleratorRegistry
from lightning.pytorch.strategies import SingleDeviceStrategy, StrategyRegistry
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

DEVICE = "sim"
_setup_privateuseone_for_python_backend(DEVICE)
#: Operations whose result has a size, or is a number, that the host has to know.
WAITING = {
    "_local_scalar_dense", "nonzero", "masked_select", "_unique2", "unique_consecutive", "unique_dim", "bincount",
    "equal", "is_nonzero",
}  # fmt: skip
#: They start nothing on the device.
FREE = {"detach", "alias", "empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "lift_fresh"}


@dataclass
class Counts:
    """What was asked of the device: launches by name, copies to it, and waits for it by name."""

    launches: Counter[str] = field(default_factory=Counter)
    waits: Counter[str] = field(default_factory=Counter)
    copies: int = 0


_ACTIVE: list[Counts] = []


@contextlib.contextmanager
def counted() -> Iterator[Counts]:
    """Count what happens inside."""
    counts = Counts()
    _ACTIVE.append(counts)
    try:
        yield counts
    finally:
        _ACTIVE.remove(counts)


class SimulatedTensor(torch.Tensor):
    """A tensor on the device; ``inner`` is the one on the CPU that has its values."""

    inner: torch.Tensor

    @staticmethod
    def __new__(cls, inner: torch.Tensor) -> SimulatedTensor:
        options: dict[str, Any] = {"strides": inner.stride(), "storage_offset": inner.storage_offset()}
        options |= {"dtype": inner.dtype, "device": f"{DEVICE}:0", "requires_grad": False}
        tensor = torch.Tensor._make_wrapper_subclass(cls, inner.size(), **options)
        tensor.inner = inner
        return tensor

    @classmethod
    def __torch_dispatch__(cls, operation, types, args=(), kwargs=None):
        return _run(operation, args, kwargs or {})

    def __reduce_ex__(self, protocol: Any) -> Any:  # in a file: what a GPU's tensor is when a CPU has read it
        return self.inner.detach().__reduce_ex__(protocol)

    def __repr__(self) -> str:
        return f"SimulatedTensor({self.inner})"


def _on_device(value: object) -> bool:
    return value is not None and torch.device(value).type == DEVICE  # type: ignore[arg-type]


def _run(operation: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """One operation, on the tensors inside."""
    flat, spec = pytree.tree_flatten((args, kwargs))
    name = operation.overloadpacket.__name__
    here = [x for x in flat if isinstance(x, SimulatedTensor)]
    elsewhere = [x for x in flat if isinstance(x, torch.Tensor) and not isinstance(x, SimulatedTensor) and x.dim() > 0]
    moves = name in ("_to_copy", "copy_")
    indexing = name in ("index", "index_put", "index_put_", "_unsafe_index")  # an accelerator takes a CPU's indices
    if here and elsewhere and not moves and not (indexing and isinstance(flat[0], SimulatedTensor)):
        shapes = [tuple(x.shape) for x in elsewhere]
        raise RuntimeError(f"Expected all tensors to be on the same device: {operation} has {shapes} on the CPU")
    wanted = kwargs.get("device")
    inside = [x.inner if isinstance(x, SimulatedTensor) else x for x in flat]
    inner_args, inner_kwargs = pytree.tree_unflatten(inside, spec)
    if "device" in inner_kwargs:
        inner_kwargs["device"] = torch.device("cpu")
    out = operation(*inner_args, **inner_kwargs)
    target = isinstance(flat[0], SimulatedTensor) if name == "copy_" else bool(here)
    if wanted is not None and name != "copy_":
        target = _on_device(wanted)
    for counts in _ACTIVE:
        _count(counts, operation, name, flat, here, target)
    if not target or name == "_local_scalar_dense":
        return out.clone() if isinstance(out, torch.Tensor) and moves and here else out
    written = {id(x.inner): x for x in here}  # in place and out=: the same object comes back

    def outside(x: Any) -> Any:
        if not isinstance(x, torch.Tensor):
            return x
        return written[id(x)] if id(x) in written else SimulatedTensor(x)

    return pytree.tree_map(outside, out)


def _count(counts: Counts, operation: Any, name: str, flat: list[Any], here: list[Any], target: bool) -> None:
    if not here and not target:
        return
    by_mask = name.startswith("index") and any(x.dtype == torch.bool for x in here[1:])
    repeats = name == "repeat_interleave" and flat[-1] is None
    if name in WAITING or by_mask or repeats or (here and not target):
        counts.waits[name] += 1
    if name in ("_to_copy", "copy_") and target and not isinstance(flat[-1 if name == "copy_" else 0], SimulatedTensor):
        counts.copies += 1
    view = any(r.alias_info is not None and not r.alias_info.is_write for r in operation._schema.returns)
    if not view and name not in FREE:
        counts.launches[name] += 1


class _Operations(TorchDispatchMode):
    """Sees what makes tensors, too."""

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        return _run(operation, args, kwargs or {})


class _Functions(torch.overrides.TorchFunctionMode):
    """What PyTorch does outside of operations."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if function in (torch.tensor, torch.as_tensor) and _on_device(kwargs.get("device")):
            device = kwargs.pop("device")
            return function(*args, **kwargs).to(device)
        if args and isinstance(args[0], SimulatedTensor):
            if function in (torch.Tensor.numpy, torch.Tensor.__array__):
                raise TypeError(f"can't convert {DEVICE}:0 device type tensor to numpy")
            if function in (torch.Tensor.__getitem__, torch.Tensor.__setitem__) and isinstance(args[1], tuple | list):
                parts = args[1] if isinstance(args[1], tuple) else (args[1],)
                index = tuple(torch.tensor(x) if isinstance(x, list) else x for x in parts)
                return function(args[0], index, *args[2:])
            if function is torch.Tensor.tolist:
                return args[0].cpu().tolist()
        return function(*args, **kwargs)


@contextlib.contextmanager
def simulated() -> Iterator[str]:
    """Make the device usable; its name."""
    with torch.autograd.set_multithreading_enabled(False), _Functions(), _Operations():
        yield DEVICE


class SimulatedAccelerator(Accelerator):
    """For Lightning: ``Trainer(accelerator="sim", strategy="sim")``."""

    def setup_device(self, device: torch.device) -> None: ...

    def teardown(self) -> None: ...

    @staticmethod
    def parse_devices(devices: Any) -> Any:
        return devices

    @staticmethod
    def get_parallel_devices(devices: Any) -> Any:
        return [torch.device(DEVICE, 0)]

    @staticmethod
    def auto_device_count() -> int:
        return 1

    @staticmethod
    def is_available() -> bool:
        return True

    @staticmethod
    def name() -> str:
        return DEVICE


AcceleratorRegistry.register(DEVICE, SimulatedAccelerator)
StrategyRegistry.register(DEVICE, SingleDeviceStrategy, device=torch.device(DEVICE, 0))
