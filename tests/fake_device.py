"""A stand-in for a CUDA device: tensors of the CPU that report ``cuda:0`` and refuse operators with other tensors.

A `FakeTensor` holds its values in a CPU tensor, so that each value, and each choice that depends on one, is that of a
run on the CPU. To the C++ code of torch, the tensor is on torch's device ``lazy``. Autograd computes tensors of that
device on the thread of the caller. A factory inside C++ code, such as that of `one_hot`, asks for the device of its
input and thus reaches `FakeCuda`. To Python code, the device is ``cuda:0``.

What CUDA has and the stand-in lacks: kernels with their own rounding, operators without a CUDA kernel, errors that
come late, optimizers that update all tensors at once, limits of memory, and random generators of the device.
"""

from __future__ import annotations

import traceback
from contextlib import ExitStack
from pathlib import Path
from unittest import mock

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

import ddsdk

CUDA, CPU = torch.device("cuda", 0), torch.device("cpu")
_INNER = torch.device("lazy", 0)
_aten = torch.ops.aten

# Operators that take tensors of two devices, as they copy from one to the other.
_COPIES = {_aten._to_copy, _aten.copy_, _aten.copy, _aten.to}
# Operators whose positions may be on the CPU.
_INDEXED = {_aten.index, _aten.index_put, _aten.index_put_, _aten._index_put_impl_}
# Operators that take no tensor of the CPU, not even a scalar.
_STRICT = {
    *(_aten.cat, _aten.stack, _aten.gather, _aten.scatter, _aten.scatter_, _aten.scatter_add, _aten.scatter_add_),
    *(_aten.index_select, _aten.index_add, _aten.index_add_, _aten.index_copy, _aten.index_copy_, _aten.embedding),
    *(_aten.take, _aten.bucketize, _aten.searchsorted, _aten.equal),
}
# Operators with a result on the host, for which the host waits.
_READS = {_aten._local_scalar_dense, _aten.equal}
# Operators with a shape that depends on values, for which the host waits.
_SHAPED_BY_VALUES = {_aten.nonzero, _aten.masked_select, _aten._unique2, _aten.bincount}
_FROM_NUMBERS = ("tensor", "as_tensor", "asarray", "scalar_tensor")


class FakeTensor(Tensor):
    """A tensor on the stand-in."""

    # Wrapped results come from the operators alone.
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, value):
        strided = value.layout is torch.strided
        places = {"strides": value.stride(), "storage_offset": value.storage_offset()} if strided else {}
        return Tensor._make_wrapper_subclass(cls, value.shape, dtype=value.dtype, device=_INNER, **places)

    def __init__(self, value):
        self.value = value

    @property
    def device(self):
        return CUDA

    @property
    def is_cuda(self):
        return True

    def get_device(self):
        return CUDA.index

    def numpy(self, *args, **kwargs):
        raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() first")

    __array__ = numpy

    def to_dense(self):
        # The layout of a sparse tensor is that of its values alone.
        return self if self.value.layout is torch.strided else FakeTensor(self.value.to_dense())

    def tolist(self):
        return self.cpu().tolist()

    def __deepcopy__(self, memo):
        if id(self) not in memo:
            copied = FakeTensor(self.value.detach().clone()).requires_grad_(self.requires_grad)
            if isinstance(self, torch.nn.Parameter):
                copied._is_param = True
            if self.grad is not None:
                copied.grad = self.grad.__deepcopy__(memo)
            memo[id(self)] = copied
        return memo[id(self)]

    def __repr__(self, **_):
        return f"FakeTensor({self.value!r}, device='cuda:0')"

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return _compute(func, args, kwargs or {}, None)


class FakeCuda:
    """A context in which ``cuda`` is the stand-in.

    Attributes:
        moves: Copies of more than one element to the CPU, each as the line of ddsdk that asked for it.
        reads: Numbers that the host read from the device, likewise.
        waits: Operators with a shape that depends on values, likewise.
    """

    def __init__(self):
        self.moves, self.reads, self.waits = [], [], []
        self._stack = ExitStack()

    def __enter__(self):
        engine = torch.autograd.graph._engine_run_backward

        def with_functions(*args, **kwargs):
            # torch switches a mode off inside the functions that pass through it, and thus in a backward pass.
            with _Functions():
                return engine(*args, **kwargs)

        self._stack.enter_context(mock.patch("torch.autograd._engine_run_backward", with_functions))
        for name, value in (("get_device_name", "stand-in"), ("max_memory_allocated", 1 << 20)):
            self._stack.enter_context(mock.patch(f"torch.cuda.{name}", lambda _device, value=value: value))
        self._stack.enter_context(_Functions())
        self._stack.enter_context(_Operators(self))
        return self

    def __exit__(self, *error):
        self._stack.close()

    def clear(self):
        """Forget all copies, reads and waits."""
        for records in (self.moves, self.reads, self.waits):
            records.clear()

    def note(self, packet, args, source, leaves_device):
        """Record that the host asked for values of `source`."""
        if leaves_device:
            (self.moves if source.numel() > 1 else self.reads).append(_place())
        elif packet in _READS:
            self.reads.append(_place())
        elif packet in _SHAPED_BY_VALUES or (packet in _INDEXED and _has_mask(args)):
            self.waits.append(_place())


class _Functions(TorchFunctionMode):
    """Replacement of ``cuda`` by the inner device, before torch looks for a driver."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        name = getattr(func, "__name__", "")
        args = tuple(_INNER if i and _is_cuda(a) else a for i, a in enumerate(args))
        kwargs = {k: _INNER if k == "device" and _is_cuda(a) else a for k, a in (kwargs or {}).items()}
        if name == "cuda" and isinstance(args[0], Tensor):
            return args[0].to(_INNER)
        if name in _FROM_NUMBERS and kwargs.get("device") == _INNER:
            # torch fills a tensor from Python numbers below the modes, on the CPU.
            return func(*args, **{**kwargs, "device": CPU}).to(_INNER)
        if name == "new_tensor" and isinstance(args[0], FakeTensor):
            return torch.tensor(*args[1:], **{"dtype": args[0].dtype, **kwargs, "device": CPU}).to(_INNER)
        return func(*args, **kwargs)


class _Operators(TorchDispatchMode):
    """Computation of all operators, also of those without an input on the stand-in."""

    def __init__(self, owner):
        super().__init__()
        self._owner = owner

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return _compute(func, args, kwargs or {}, self._owner)


def _compute(func, args, kwargs, owner):
    """Compute one operator on the values, after the checks of CUDA."""
    leaves, packet = tree_leaves((args, kwargs)), func.overloadpacket
    ours = [leaf for leaf in leaves if isinstance(leaf, FakeTensor)]
    asked = next((leaf for leaf in leaves if isinstance(leaf, torch.device)), None)
    there = bool(ours) if asked is None else asked.type == _INNER.type
    if not ours and not there:
        return func(*args, **kwargs)
    written = _written(func, args, kwargs)
    if packet not in _COPIES:
        _check_devices(packet, args, leaves, written)
    if there and any(isinstance(leaf, torch.Generator) and leaf.device.type == "cpu" for leaf in leaves):
        raise RuntimeError(f"Expected a 'cuda' device type for generator but found 'cpu' ({packet})")
    if owner is not None and ours:
        to_cpu = not all(isinstance(t, FakeTensor) for t in written) if written else not there
        owner.note(packet, args, ours[0], packet in _COPIES and to_cpu)
    args, kwargs = tree_map_only(FakeTensor, lambda t: t.value, (args, kwargs))
    args, kwargs = tree_map_only(torch.device, lambda d: CPU if d.type == _INNER.type else d, (args, kwargs))
    if packet is _aten._efficientzerotensor:
        # A tensor of zeros without memory; a wrapper around it would hide that from the next operators.
        func = _aten.zeros.default
    found = func(*args, **kwargs)
    for tensor in written:
        if isinstance(tensor, FakeTensor) and tensor.shape != tensor.value.shape:
            raise NotImplementedError(f"the stand-in has no {packet}, which changes a shape in place")
    returns = func._schema.returns
    if written and returns and all(r.alias_info is not None and r.alias_info.is_write for r in returns):
        return written[0] if len(returns) == 1 else tuple(written)
    return tree_map_only(Tensor, FakeTensor, found) if there else found


def _check_devices(packet, args, leaves, written):
    """Raise the error of CUDA where an operator gets tensors of both devices."""
    if packet in _INDEXED:
        if not isinstance(args[0], FakeTensor):
            raise RuntimeError("indices should be either on cpu or on the same device as the indexed tensor (cpu)")
        leaves = tree_leaves((args[0], args[2:]))
    tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
    if not any(isinstance(tensor, FakeTensor) for tensor in tensors):
        return
    changed = {id(tensor) for tensor in written}
    for tensor in tensors:
        if not isinstance(tensor, FakeTensor) and (tensor.ndim or packet in _STRICT or id(tensor) in changed):
            shapes = [tuple(t.shape) for t in tensors]
            raise RuntimeError(
                "Expected all tensors to be on the same device, but found at least two devices, cuda:0 and cpu! "
                f"({packet}, shapes {shapes})"
            )


def _written(func, args, kwargs):
    """Return the tensors that an operator changes in place."""
    found = []
    for i, argument in enumerate(func._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            value = kwargs.get(argument.name, args[i] if i < len(args) else None)
            found += [leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor)]
    return found


def _has_mask(args):
    return any(isinstance(t, Tensor) and t.dtype in (torch.bool, torch.uint8) for t in tree_leaves(args[1]))


def _is_cuda(value):
    if isinstance(value, str):
        return value.split(":")[0] == "cuda"
    return isinstance(value, torch.device) and value.type == "cuda"


def _place():
    """Return the innermost line of the package that is running, such as ``data/sources.py:batch:244``."""
    room = Path(ddsdk.__file__).parent
    for frame in reversed(traceback.extract_stack()):
        path = Path(frame.filename)
        if room in path.parents or "ddsdk_integrations" in path.parts:
            return f"{'/'.join(path.parts[-2:])}:{frame.name}:{frame.lineno}"
    return "outside of the package"
