r"""One Keras layer at a time into the torch module of its kind; see :mod:`trainer.keras` for files of them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from trainer.errors import UserError

# Names of the variables that Keras 3 stores as 0, 1, .. in the order in which a layer makes them.
VARIABLES = {
    "dense": ("kernel", "bias"),
    "conv1d": ("kernel", "bias"),
    "conv2d": ("kernel", "bias"),
    "embedding": ("embeddings",),
    "gru": ("kernel", "recurrent_kernel", "bias"),
    "batch_normalization": ("gamma", "beta", "moving_mean", "moving_variance"),
}


@dataclass(frozen=True)
class KerasLayer:
    """One layer with weights. `options` is its entry in the model's configuration, empty where a file has none."""

    name: str
    kind: str
    arrays: dict[str, np.ndarray]
    options: Mapping[str, Any] = field(default_factory=dict)
    path: str = ""

    def __str__(self) -> str:
        shapes = ", ".join(f"{name} {array.shape}" for name, array in self.arrays.items())
        return f"{self.kind} {self.name!r} ({shapes})"

    def error(self, problem: str) -> UserError:
        return UserError(f"{self.path}: layer {self.name!r}: {problem}")


def _tensor(array: np.ndarray) -> Tensor:
    return torch.from_numpy(np.array(array, order="C"))  # a copy: HDF5 arrays are read-only, transposes are views


def _kernel_and_bias(layer: KerasLayer, rank: int, order: tuple[int, ...]) -> dict[str, Tensor]:
    kernel = layer.arrays.get("kernel")
    if kernel is None or kernel.ndim != rank:
        raise layer.error(f"expected a kernel of {rank} dimensions, found {layer}")
    state = {"weight": _tensor(kernel.transpose(order))}
    if "bias" in layer.arrays:
        state["bias"] = _tensor(layer.arrays["bias"])
    return state


def dense(layer: KerasLayer) -> dict[str, Tensor]:
    """Dense kernel (in, out) -> Linear weight (out, in)."""
    return _kernel_and_bias(layer, 2, (1, 0))


def conv1d(layer: KerasLayer) -> dict[str, Tensor]:
    """Conv1D kernel (length, in, out) -> Conv1d weight (out, in, length)."""
    return _kernel_and_bias(layer, 3, (2, 1, 0))


def conv2d(layer: KerasLayer) -> dict[str, Tensor]:
    """Conv2D kernel (height, width, in, out) -> Conv2d weight (out, in, height, width)."""
    return _kernel_and_bias(layer, 4, (3, 2, 0, 1))


def embedding(layer: KerasLayer) -> dict[str, Tensor]:
    """Embedding table (ids, dim), the same in both."""
    return {"weight": _tensor(layer.arrays["embeddings"])}


def gru(layer: KerasLayer) -> dict[str, Tensor]:
    r"""GRU with `reset_after`, or CuDNNGRU -> nn.GRU of one layer; gates z, r, h -> r, z, n.

    The bias tells them apart: (2, 3H) is a GRU with reset_after, (6H,) a CuDNNGRU, whose kernels are stored in cuDNN's
    order (each gate's block is the row-major (H, in) matrix under another shape), and (3H,) a GRU without reset_after,
    which multiplies by r *before* the recurrent product: another equation, refused here (in nn.GRU it would be off by
    8 % of the output).
    """
    kernel, recurrent, bias = (layer.arrays.get(name) for name in VARIABLES["gru"])
    if kernel is None or recurrent is None or kernel.shape[1] != recurrent.shape[1]:
        raise layer.error(f"expected kernel (in, 3H) and recurrent_kernel (H, 3H), found {layer}")
    hidden = recurrent.shape[0]
    for option, needed in (("recurrent_activation", "sigmoid"), ("activation", "tanh")):
        if layer.options.get(option, needed) != needed:
            raise layer.error(f"its {option} is {layer.options[option]!r}; torch.nn.GRU has {needed} only")
    if bias is None and not layer.options.get("reset_after"):
        raise layer.error("a GRU without bias does not tell reset_after from its default; save it with its model")
    if bias is not None and bias.shape == (3 * hidden,):
        raise layer.error(
            f"its bias is {bias.shape}: a GRU with reset_after=False, whose equation torch.nn.GRU does not have; "
            "train it with reset_after=True (the default since Keras 2.3 under TensorFlow 2) or as CuDNNGRU"
        )
    if bias is not None and bias.shape not in ((2, 3 * hidden), (6 * hidden,)):
        raise layer.error(f"its bias is {bias.shape}; expected (2, {3 * hidden}) or, of a CuDNNGRU, ({6 * hidden},)")
    cudnn = bias is not None and bias.ndim == 1

    def by_gate(matrix: np.ndarray) -> np.ndarray:
        z, r, h = np.split(matrix, 3, axis=1)  # (rows, H) each
        return np.concatenate([gate.reshape(hidden, -1) if cudnn else gate.T for gate in (r, z, h)])  # (3H, rows)

    state = {"weight_ih_l0": _tensor(by_gate(kernel)), "weight_hh_l0": _tensor(by_gate(recurrent))}
    if bias is not None:
        z, r, h = np.split(bias.reshape(2, 3 * hidden), 3, axis=1)
        inputs, state_bias = np.concatenate([r, z, h], axis=1)
        state |= {"bias_ih_l0": _tensor(inputs), "bias_hh_l0": _tensor(state_bias)}
    return state


def batch_normalization(layer: KerasLayer) -> dict[str, Tensor]:
    """BatchNormalization gamma, beta, moving mean and variance -> BatchNorm; a missing gamma is 1, a missing beta 0."""
    mean, variance = layer.arrays.get("moving_mean"), layer.arrays.get("moving_variance")
    if mean is None or variance is None:
        raise layer.error(
            f"expected {', '.join(VARIABLES['batch_normalization'])}, found {layer}; where scale or center is off, "
            "read the .keras file, which says so"
        )
    return {
        "weight": _tensor(layer.arrays.get("gamma", np.ones_like(mean))),
        "bias": _tensor(layer.arrays.get("beta", np.zeros_like(mean))),
        "running_mean": _tensor(mean),
        "running_var": _tensor(variance),
    }


_MODULES = (
    (nn.Linear, "dense", dense),
    (nn.Conv1d, "conv1d", conv1d),
    (nn.Conv2d, "conv2d", conv2d),
    (nn.Embedding, "embedding", embedding),
    (nn.GRU, "gru", gru),
    (nn.modules.batchnorm._BatchNorm, "batch_normalization", batch_normalization),
)


def kind_of(module: nn.Module) -> str:
    for torch_class, kind, _ in _MODULES:
        if isinstance(module, torch_class):
            return kind
    raise TypeError(f"no Keras layer is known for {type(module).__name__}; take() its layer and convert it")


def load_layer(module: nn.Module, layer: KerasLayer) -> None:
    """Copy one layer's weights into a torch module of its kind; shapes and names have to fit."""
    write_state(module, layer, fitted_state(module, layer))


def fitted_state(module: nn.Module, layer: KerasLayer) -> dict[str, Tensor]:
    kind = kind_of(module)
    if layer.kind != kind:
        raise layer.error(f"is of kind {layer.kind}; {type(module).__name__} takes {kind}")
    convert = next(convert for _, name, convert in _MODULES if name == kind)
    state = convert(layer)
    target = {name: value for name, value in module.state_dict().items() if name != "num_batches_tracked"}
    if {name: value.shape for name, value in state.items()} != {name: value.shape for name, value in target.items()}:
        raise layer.error(f"the file has {_shapes(state)}; {type(module).__name__} takes {_shapes(target)}")
    return state


def write_state(module: nn.Module, layer: KerasLayer, state: Mapping[str, Tensor]) -> None:
    module.load_state_dict(state, strict=False)
    if isinstance(module, nn.modules.batchnorm._BatchNorm):
        module.eps = float(layer.options.get("epsilon", 1e-3))


def _shapes(state: Mapping[str, Tensor]) -> str:
    return ", ".join(f"{name} {tuple(value.shape)}" for name, value in state.items()) or "nothing"
