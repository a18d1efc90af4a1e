"""The encoder as ONNX: ids in, unit vectors out, for runtimes without torch.

    python -m similarity.export runs/similarity/NAME encoder.onnx     # extra `export`: onnx, onnxruntime

The graph is written operator by operator, so nothing of torch is in it; it takes any number of sentences of any length.
Its metadata hold the characters (character i has id i + 2) and how many of a sentence are read.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import tyro
from torch import nn

from similarity.encoder import SentenceEncoder
from similarity.features import MODULUS, PRIME
from similarity.text import PAD
from trainer import UserError, run_main, write_atomically

OPSET = 17


@dataclass
class Graph:
    """Nodes and constants as they come; every method returns the name of what it made."""

    nodes: list[Any] = field(default_factory=list)
    constants: dict[str, np.ndarray] = field(default_factory=dict)

    def constant(self, value: Any, dtype: Any = np.int64) -> str:
        name = f"constant{len(self.constants)}"
        self.constants[name] = np.asarray(value, dtype)
        return name

    def weight(self, tensor: torch.Tensor) -> str:
        return self.constant(tensor.detach().cpu().numpy(), np.float32)

    def add(self, operator: str, *inputs: str, outputs: int = 1, **attributes: Any) -> Any:
        from onnx import helper

        names = [f"{operator.lower()}{len(self.nodes)}_{i}" for i in range(outputs)]
        self.nodes.append(helper.make_node(operator, list(inputs), names, **attributes))
        return names[0] if outputs == 1 else names

    def columns(self, name: str, start: int, end: int) -> str:
        """name[:, start:end]."""
        return self.add("Slice", name, self.constant([start]), self.constant([end]), self.constant([1]))

    def unit(self, name: str) -> str:
        length = self.add("ReduceL2", name, axes=[1], keepdims=1)
        return self.add("Div", name, self.add("Max", length, self.constant(1e-12, np.float32)))

    def without_padding(self, values: str, real: str, fill: float) -> str:
        """values (B, T, ..) where `real` (B, T) is true, `fill` elsewhere."""
        there = self.add("Unsqueeze", real, self.constant([2]))
        return self.add("Where", there, values, self.constant(fill, np.float32))


def to_onnx(encoder: SentenceEncoder) -> Any:
    """The encoder as an ONNX model, float32.

    Raises:
        UserError: onnx is not installed.
    """
    try:
        from onnx import TensorProto, checker, helper, numpy_helper
    except ImportError:
        raise UserError("exporting needs onnx; install it with: pip install onnx onnxruntime") from None
    a, graph, ids = encoder.architecture, Graph(), "ids"
    if a.hidden:
        out = _gru(graph, encoder, ids)
        if encoder.project is not None:
            out = graph.add("MatMul", out, graph.weight(encoder.project.weight.T))
    if encoder.bag is not None:
        bag = _bag(graph, encoder, ids)
        if a.hidden:
            half = graph.add("Mul", graph.unit(out), graph.weight(encoder.balance))
            bag = graph.add("Add", graph.unit(bag), half)
        out = bag
    graph.nodes.append(helper.make_node("Identity", [graph.unit(out)], ["vectors"]))
    model = helper.make_model(
        helper.make_graph(
            graph.nodes,
            "SentenceEncoder",
            [helper.make_tensor_value_info(ids, TensorProto.INT64, ["sentences", "characters"])],
            [helper.make_tensor_value_info("vectors", TensorProto.FLOAT, ["sentences", encoder.dim])],
            [numpy_helper.from_array(value, name) for name, value in graph.constants.items()],
        ),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=9,
    )
    characters = encoder.vocabulary.characters if encoder.vocabulary else ""
    helper.set_model_props(model, {"characters": characters, "max_length": str(a.max_length)})
    checker.check_model(model)
    return model


def _real(graph: Graph, ids: str) -> str:
    return graph.add("Not", graph.add("Equal", ids, graph.constant(PAD)))


def _gru(graph: Graph, encoder: SentenceEncoder, ids: str) -> str:
    """The pooled state (B, H or 2H) of the GRU."""
    a = encoder.architecture
    if a.padding == "original":  # as many zeros behind each sentence as reach max_length
        rows = graph.add("Slice", graph.add("Shape", ids), graph.constant([0]), graph.constant([1]))
        shape = graph.add("Concat", rows, graph.constant([a.max_length]), axis=0)
        zeros = graph.add("Expand", graph.constant([[0]]), shape)
        ids = graph.columns(graph.add("Concat", ids, zeros, axis=1), 0, a.max_length)
        lengths = ""
    else:
        real = _real(graph, ids)
        count = graph.add("ReduceSum", graph.add("Cast", real, to=6), graph.constant([1]), keepdims=0)  # 6: int32
        lengths = graph.add("Max", count, graph.constant(1, np.int32))
    inputs = graph.add("Gather", graph.weight(encoder.embedding.weight), ids)
    inputs = graph.add("Transpose", inputs, perm=[1, 0, 2])  # (T, B, E)
    weights = [graph.weight(part) for part in _gru_weights(encoder.gru)]
    direction = "bidirectional" if a.bidirectional else "forward"
    states, last = graph.add(
        "GRU", inputs, *weights, lengths, outputs=2, hidden_size=a.hidden, linear_before_reset=1, direction=direction
    )
    if a.pooling == "last":
        out = graph.add("Transpose", last, perm=[1, 0, 2])  # (B, directions, H)
        out = graph.add("Reshape", out, graph.constant([0, -1]))
    else:
        states = graph.add("Transpose", states, perm=[2, 0, 1, 3])  # (B, T, directions, H)
        states = graph.add("Reshape", states, graph.constant([0, 0, -1]))
        if a.pooling == "mean":
            states = graph.without_padding(states, real, 0.0)
            total = graph.add("ReduceSum", states, graph.constant([1]), keepdims=0)
            size = graph.add("Unsqueeze", graph.add("Cast", lengths, to=1), graph.constant([1]))
            out = graph.add("Div", total, size)
        else:
            out = graph.add("ReduceMax", graph.without_padding(states, real, -np.inf), axes=[1], keepdims=0)
    if a.padding == "original":
        return out
    empty = graph.add("Equal", count, graph.constant(0, np.int32))
    empty = graph.add("Unsqueeze", empty, graph.constant([1]))
    return graph.add("Where", empty, graph.constant(0.0, np.float32), out)


def _gru_weights(gru: nn.GRU) -> list[torch.Tensor]:
    """W (directions, 3H, E), R (directions, 3H, H) and B (directions, 6H): torch's gates r, z, n as ONNX's z, r, h."""
    parts: list[list[torch.Tensor]] = [[], [], []]
    for suffix in ("", "_reverse")[: 2 if gru.bidirectional else 1]:
        named = {}
        for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
            r, z, n = getattr(gru, f"{name}_l0{suffix}").chunk(3)
            named[name] = torch.cat([z, r, n])
        parts[0].append(named["weight_ih"])
        parts[1].append(named["weight_hh"])
        parts[2].append(torch.cat([named["bias_ih"], named["bias_hh"]]))
    return [torch.stack(part) for part in parts]


def _bag(graph: Graph, encoder: SentenceEncoder, ids: str) -> str:
    """The sum of the n-grams' vectors (B, D): `NgramBag.ngrams` in ONNX's integers."""
    bag = encoder.bag
    assert bag is not None
    end = np.iinfo(np.int64).max
    code, known = ids, _real(graph, ids)
    found, real = [code], [known]
    for size in range(2, bag.order + 1):
        following = graph.columns(ids, size - 1, end)
        code = graph.add("Mul", graph.columns(code, 0, -1), graph.constant(PRIME))
        code = graph.add("Mod", graph.add("Add", code, following), graph.constant(MODULUS))
        known = graph.add("And", graph.columns(known, 0, -1), _real(graph, following))
        place = graph.add("Add", graph.add("Mul", code, graph.constant(31)), graph.constant(size))
        place = graph.add("Mod", place, graph.constant(MODULUS))
        place = graph.add("Mod", place, graph.constant(bag.buckets - bag.num_ids))
        found.append(graph.add("Add", place, graph.constant(bag.num_ids)))
        real.append(known)
    vectors = graph.add("Gather", graph.weight(bag.weight), graph.add("Concat", *found, axis=1))  # (B, G, D)
    vectors = graph.without_padding(vectors, graph.add("Concat", *real, axis=1), 0.0)
    return graph.add("ReduceSum", vectors, graph.constant([1]), keepdims=0)


@dataclass(frozen=True)
class Settings:
    """Write an encoder as ONNX, and compare it with torch where onnxruntime is installed."""

    model: Annotated[Path, tyro.conf.Positional]
    """folder of a run, or an encoder.pt"""
    path: Annotated[Path, tyro.conf.Positional]
    """file to write"""


def difference(encoder: SentenceEncoder, model: bytes) -> float | None:
    """The largest difference of any number between onnxruntime's vectors and torch's; None without onnxruntime."""
    try:
        import onnxruntime
    except ImportError:
        return None
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    ids = torch.randint(1, encoder.num_ids, (8, encoder.architecture.max_length))
    ids[torch.arange(ids.shape[1]) >= torch.randint(0, ids.shape[1] + 1, (8, 1))] = PAD
    with torch.no_grad():
        ours = encoder(ids).numpy()
    return float(np.abs(session.run(None, {"ids": ids.numpy()})[0] - ours).max())


def main(argv: Sequence[str] | None = None) -> float | None:
    settings = tyro.cli(Settings, args=argv, prog="python -m similarity.export")
    encoder = SentenceEncoder.load(settings.model)
    content = to_onnx(encoder).SerializeToString()
    write_atomically(settings.path, lambda file: file.write(content))
    apart = difference(encoder, content)
    checked = "not compared: onnxruntime is not installed" if apart is None else f"at most {apart:.1e} from torch"
    print(f"{settings.path}: {len(content) / 1e6:.1f} MB; {checked}")
    return apart


if __name__ == "__main__":
    run_main(main)
