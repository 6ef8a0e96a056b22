"""A GPU that is not there: forward passes on tensors that say they are on CUDA and hold nothing.

Tensors of the CPU stay real, so constants may be read. What a GPU would refuse or wait for raises:
tensors of two devices in one operation; a look at a value; a copy to the CPU.
"""

from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensor,
    FakeTensorMode,
)
from torch.utils._pytree import tree_iter


class CopyToCPU(Exception):
    "A tensor of the GPU was brought to the CPU."


WAITS = (DataDependentOutputException, DynamicOutputShapeException, CopyToCPU)
COPIES = (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default)


class _Mode(FakeTensorMode):
    "Only what has to do with CUDA is fake."

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        flat = list(tree_iter((args, kwargs)))
        devices = [v.type for v in flat if isinstance(v, torch.device)]
        fake = any(isinstance(v, FakeTensor) for v in flat)
        if not fake and "cuda" not in devices:
            return func(*args, **kwargs)
        if fake and func in COPIES:
            to = args[0].device.type if func is COPIES[1] else kwargs.get("device")
            if to is not None and torch.device(to).type == "cpu":
                raise CopyToCPU(f"{func} of a tensor of shape {tuple(args[-1].shape)}")
        return super().__torch_dispatch__(func, types, args, kwargs)


@contextmanager
def fake_cuda(*modules: nn.Module):
    "Within it `modules`, which cannot be used afterwards, are on 'cuda', and so may tensors be."
    with _Mode(allow_non_fake_inputs=True):
        for m in modules:
            m.to("cuda")
        yield


def on_cuda(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    "A tensor without values; within `fake_cuda`."
    return torch.empty(*shape, dtype=dtype, device="cuda")
