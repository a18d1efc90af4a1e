r"""Weights saved by Keras, read with h5py alone: no Keras, no TensorFlow, nothing unpickled.

Three kinds of file: `.h5` (Keras 1 and 2, and `model.save("x.h5")` since), `.weights.h5` and `.keras` (Keras 3).

    file = read_keras("model.h5")                         # a KerasFile; file.layers are those that hold weights
    file.load([net.conv1, net.conv2, net.dense])          # copies into torch modules, kind by kind, in order
    [capsule] = file.load([net.conv1, net.conv2], also={"capsule": 1})    # hands back layers of the other kinds
    capsule.arrays["capsule_kernel"]                      # numpy in Keras's layout; "0", "1" where a file has no names
    load_layer(net.gru, file.take("gru")[0])              # one layer

`load` fits each torch module with the next layer of its kind: Linear `dense`, Conv1d `conv1d`, Conv2d `conv2d`,
Embedding `embedding`, GRU `gru`, BatchNorm `batch_normalization`; any other layer is of the kind of its class in snake
case (`capsule`). Counts have to agree for every kind in the file, names do not (a script numbers its layers anew each
time). `dense`, `conv1d`, `conv2d`, `embedding`, `gru` and `batch_normalization` of :mod:`trainer.keras_layers` turn one
:class:`KerasLayer` into the state dict of a torch module. Every misfit is a :class:`trainer.UserError` that names the
layer and lists both sides.

What the numbers alone do not carry over, and the caller's network has to do itself:

- images are channels-last in Keras: a Flatten before a Dense orders its inputs (height, width, channel);
- `padding="same"` with stride 2 pads (0, 1) on even lengths, where torch pads (1, 1);
- BatchNorm: `load` sets `eps`; a Keras momentum of 0.99 is 0.01 in torch, and its moving variance is the biased one;
- CuDNNGRU, and a GRU after an Embedding without `mask_zero`, run over the padding.
"""

import io
import json
import re
import zipfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from trainer.errors import UserError
from trainer.keras_layers import VARIABLES, KerasLayer, fitted_state, kind_of, load_layer, write_state

__all__ = ["KerasFile", "KerasLayer", "kind_of", "load_layer", "read_keras"]


@dataclass(frozen=True)
class KerasFile:
    path: str
    layers: tuple[KerasLayer, ...]

    def take(self, kind: str, count: int | None = None) -> list[KerasLayer]:
        """The layers of one kind, in order; with `count`, exactly so many or an error that lists the file."""
        found = [layer for layer in self.layers if layer.kind == kind]
        if count is not None and len(found) != count:
            raise self._error(f"expected {count} {kind} layer(s), found {len(found)}")
        return found

    def load(self, modules: Sequence[nn.Module], also: Mapping[str, int | None] | None = None) -> list[KerasLayer]:
        """Copy the weights into `modules`, kind by kind in order; every other layer has to be named in `also`.

        Args:
            modules: torch modules in the order in which the Keras script made their layers.
            also: kind -> how many further layers of a kind without a module (None: any number).

        Returns:
            The layers of the kinds in `also`, untouched.
        """
        also = dict(also or {})
        kinds = [kind_of(module) for module in modules]
        expected, found = Counter(kinds), Counter(layer.kind for layer in self.layers)
        expected.update({kind: found[kind] if count is None else count for kind, count in also.items()})
        if expected != found:
            want = ", ".join(f"{count} {kind}" for kind, count in sorted(expected.items()) if count)
            have = ", ".join(f"{count} {kind}" for kind, count in sorted(found.items()))
            raise self._error(f"the network takes {want or 'no weights'}; the file has {have or 'no weights'}")
        queues = {kind: iter(self.take(kind)) for kind in found}
        pairs = [(module, next(queues[kind])) for module, kind in zip(modules, kinds, strict=True)]
        # every layer is converted and fitted before the first is written: a misfit leaves the network as it was
        states = [fitted_state(module, layer) for module, layer in pairs]
        for (module, layer), state in zip(pairs, states, strict=True):
            write_state(module, layer, state)
        return [layer for layer in self.layers if layer.kind in also]

    def _error(self, problem: str) -> UserError:
        listing = "; ".join(map(str, self.layers)) or "nothing"
        return UserError(f"{self.path}: {problem}. The file holds: {listing}")


def read_keras(path: str | Path) -> KerasFile:
    """Read a `.h5`, `.weights.h5` or `.keras` file into named arrays, layer by layer.

    Layers come in the order of the model. A `.weights.h5` file knows the order of layers of one class only, and puts
    those of a nested model last; it has no options either, so a BatchNorm's epsilon is taken to be Keras's 1e-3.

    Raises:
        UserError: no such file, not a Keras file, or h5py is not installed.
    """
    try:
        import h5py
    except ImportError:
        raise UserError(f"{path}: reading Keras weights needs h5py; install it with: pip install h5py") from None
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file; expected weights saved by Keras (.h5, .weights.h5 or .keras)")
    source: Any = path
    options: dict[str, tuple[str, dict]] = {}
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                options = _options(json.loads(archive.read("config.json")))
                source = io.BytesIO(archive.read("model.weights.h5"))
        with h5py.File(source, "r") as file:
            if "model_config" in file.attrs:
                options = _options(json.loads(_text(file.attrs["model_config"])))
            root = file.get("model_weights", file)
            legacy = "layer_names" in root.attrs or "layer_names0" in root.attrs
            layers = list(_legacy_layers(root, options) if legacy else _anonymous_layers(root, options))
    except (OSError, KeyError, ValueError, TypeError, RuntimeError, zipfile.BadZipFile) as error:
        raise UserError(f"{path}: not a file of Keras weights, or cut short ({error})") from error
    if not layers:
        raise UserError(f"{path}: an HDF5 file without layers of Keras; expected one of save_weights() or save()")
    return KerasFile(str(path), tuple(KerasLayer(*layer, path=str(path)) for layer in layers))


_Found = tuple[str, str, dict[str, np.ndarray], dict]


def _legacy_layers(root: Any, options: Mapping[str, tuple[str, dict]]) -> Iterator[_Found]:
    """Keras 1 and 2: groups by layer, in the order of the attribute `layer_names`, variables by name."""
    for group_name in _names(root, "layer_names"):
        layers: dict[str, dict[str, np.ndarray]] = {}
        for weight in _names(root[group_name], "weight_names"):
            owner, _, variable = weight.rpartition("/")
            owner = re.sub(r"/[^/]*_cell(_\d+)?$", "", owner) or group_name
            layers.setdefault(owner, {})[variable.split(":")[0]] = _array(root[group_name][weight])
        for name, arrays in layers.items():
            class_name, config = options.get(name.rpartition("/")[2], ("", {}))
            yield name, _snake(class_name) if class_name else _kind_by_names(name, arrays), arrays, config


def _anonymous_layers(root: Any, options: Mapping[str, tuple[str, dict]]) -> list[_Found]:
    """Keras 3: `layers/<class>_<n>/vars/<i>`, numbered by class; the layer's own name is an attribute since 3.9."""
    groups: list[str] = []
    root.visit(lambda name: groups.append(name) if name.rpartition("/")[2] == "vars" else None)
    layers = []
    for group in sorted(groups, key=_natural):
        parts = [part for part in group.split("/")[:-1] if part != "layers"]
        variables = sorted(root[group], key=_natural)
        if not variables or not parts or parts[0] == "optimizer":
            continue
        owner = group
        if parts[-1] == "cell":  # the variables of an RNN are those of its cell
            parts, owner = parts[:-1], group.replace("/cell/vars", "/vars")
        own_name = _text(root[owner].attrs["name"]) if owner in root and "name" in root[owner].attrs else parts[-1]
        class_name, config = options.get(own_name, ("", {}))
        kind = _snake(class_name) if class_name else _snake(re.sub(r"_\d+$", "", parts[-1]))
        arrays = [_array(root[group][variable]) for variable in variables]
        arrays_by_name = dict(zip(_variable_names(kind, config, len(arrays)), arrays, strict=True))
        layers.append(("/".join([*parts[:-1], own_name]), kind, arrays_by_name, config))
    place = {name: index for index, name in enumerate(options)}  # the order of the model, nested models in theirs
    return sorted(layers, key=lambda layer: place.get(layer[0].rpartition("/")[2], len(place)))


def _variable_names(kind: str, config: Mapping[str, Any], count: int) -> list[str]:
    """Names for the variables that Keras 3 only numbers; the number itself where the kind has none."""
    off = {name for name, flag in (("gamma", "scale"), ("beta", "center")) if config.get(flag) is False}
    if kind == "batch_normalization" and not config:  # 4: all, 2: the statistics alone, 3: nothing tells which is off
        off = {4: set(), 2: {"gamma", "beta"}}.get(count, set(VARIABLES[kind]))
    names = [name for name in VARIABLES.get(kind, ()) if name not in off][:count]
    return [*names, *map(str, range(len(names), count))]


def _options(config: Any) -> dict[str, tuple[str, dict]]:
    """Layer name -> (class, settings), wherever a configuration nests it."""
    found: dict[str, tuple[str, dict]] = {}
    if isinstance(config, dict):
        inner = config.get("config")
        if isinstance(inner, dict) and isinstance(inner.get("name"), str):
            found[inner["name"]] = (str(config.get("class_name", "")), inner)
        for value in config.values():
            found.update(_options(value))
    elif isinstance(config, list):
        for value in config:
            found.update(_options(value))
    return found


def _names(group: Any, attribute: str) -> list[str]:
    """An attribute that lists names; HDF5 limits its size, so Keras splits a long one into name0, name1, .."""
    if attribute in group.attrs:
        return [_text(name) for name in group.attrs[attribute]]
    pieces = [group.attrs[key] for key in sorted(group.attrs, key=_natural) if re.fullmatch(attribute + r"\d+", key)]
    return [_text(name) for piece in pieces for name in piece]


def _array(dataset: Any) -> np.ndarray:
    array = np.asarray(dataset)
    if array.dtype.kind == "V" and array.dtype.itemsize == 2:  # bfloat16: the upper half of a float32
        return (array.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
    return array


def _text(value: Any) -> str:
    return value.decode("utf-8") if isinstance(value, bytes) else str(value)


def _natural(name: str) -> list[tuple[int, str]]:
    """conv2d_2 before conv2d_10."""
    return [(int(piece), "") if piece.isdigit() else (-1, piece) for piece in re.split(r"(\d+)", name)]


def _snake(class_name: str) -> str:
    """A class as Keras 3 names its groups: BatchNormalization -> batch_normalization; a CuDNNGRU is a gru."""
    name = re.sub(r"\W+", "", class_name.rpartition(">")[2])
    name = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", name)
    name = re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower()
    return "gru" if name in ("cu_dnngru", "cudnngru", "cu_dnn_gru") else name


def _kind_by_names(name: str, arrays: Mapping[str, np.ndarray]) -> str:
    """The kind of a layer in a file without configuration, from the names of its variables."""
    if "recurrent_kernel" in arrays:
        hidden, gates = arrays["recurrent_kernel"].shape
        return {1: "simple_rnn", 3: "gru", 4: "lstm"}.get(gates // hidden, "rnn")
    if "embeddings" in arrays:
        return "embedding"
    if "moving_mean" in arrays:
        return "batch_normalization"
    if "kernel" in arrays:
        return {2: "dense", 3: "conv1d", 4: "conv2d"}.get(arrays["kernel"].ndim, "conv")
    return _snake(re.sub(r"_\d+$", "", name.rpartition("/")[2]))
