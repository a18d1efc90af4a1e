"""Weight files of Keras: the three formats, the conversions against the originals' outputs, and what is refused."""

import builtins
import json
import shutil
import zipfile

import h5py
import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from trainer import UserError
from trainer.keras import KerasLayer, kind_of, load_layer, read_keras
from trainer.keras_layers import batch_normalization, conv1d, conv2d, dense, gru


class Tiny(nn.Module):
    """The network of tests/golden/make_keras3.py."""

    def __init__(self):
        super().__init__()
        self.embedding, self.first = nn.Embedding(9, 4), nn.Conv1d(4, 5, 3, padding=1)
        self.norm, self.mixing = nn.BatchNorm1d(5), nn.Conv1d(5, 5, 1, bias=False)
        self.gru, self.scaled, self.dense = nn.GRU(5, 3, batch_first=True), nn.BatchNorm1d(3), nn.Linear(3, 2)

    def forward(self, ids):
        x = self.norm(self.first(self.embedding(ids).transpose(1, 2)).relu())
        x = self.gru(self.mixing(x).transpose(1, 2))[1][0]
        return self.dense(self.scaled(x)).softmax(1)


@pytest.mark.parametrize("ending", ["keras", "h5"])
def test_keras3_files_give_the_output_of_keras(golden, ending: str):
    net = Tiny().eval()
    file = read_keras(golden / f"keras3.{ending}")
    assert [layer.kind for layer in file.layers] == [
        "embedding", "conv1d", "batch_normalization", "conv1d", "gru", "batch_normalization", "dense",
    ]  # fmt: skip
    assert file.load(list(net.children())) == []
    assert (net.norm.eps, net.scaled.eps) == (1e-3, 1e-2)
    vectors = np.load(golden / "keras3_io.npz")
    with torch.no_grad():
        output = net(torch.tensor(vectors["ids"])).numpy()
    np.testing.assert_allclose(output, vectors["output"], rtol=0, atol=1e-6)  # float32, seven layers


def test_weights_only_file(golden):
    """The same arrays as the .keras file; what it cannot tell, the second BatchNorm's missing scale, is an error."""
    known = {layer.name.rpartition("/")[2]: layer.arrays for layer in read_keras(golden / "keras3.keras").layers}
    file = read_keras(golden / "keras3.weights.h5")
    for layer in file.layers:
        arrays = known[layer.name.rpartition("/")[2]]
        for ours, expected in zip(layer.arrays.values(), arrays.values(), strict=True):
            np.testing.assert_array_equal(ours, expected)
    with pytest.raises(UserError, match=r"'batch_normalization': expected gamma, beta, .*read the \.keras file"):
        batch_normalization(file.take("batch_normalization")[1])


@pytest.mark.parametrize("source", ["sent_sim_gru.h5", "sent_sim_cudnngru.h5"])
def test_sentence_encoder(golden, source: str):
    """A GRU with reset_after and a CuDNNGRU hold the same network in other layouts; both give its embeddings."""
    embedding, encoder, classes = nn.Embedding(60, 16), nn.GRU(16, 16, batch_first=True), nn.Linear(16, 25, bias=False)
    read_keras(golden / source).load([embedding, encoder, classes])
    vectors = np.load(golden / "sent_sim_io.npz")
    with torch.no_grad():
        vector = F.normalize(encoder(embedding(torch.tensor(vectors["ids"])))[1][0])
        cosine = classes(vector)
    np.testing.assert_allclose(vector, vectors["embedding"], rtol=0, atol=1e-6)
    np.testing.assert_allclose(cosine, vectors["cosine"], rtol=0, atol=1e-6)


def layer(kind: str, name: str = "here", options: dict | None = None, **arrays: np.ndarray) -> KerasLayer:
    return KerasLayer(name, kind, arrays, options or {}, "model.h5")


def test_dense_and_convolutions_by_loops():
    rng = np.random.default_rng(0)
    kernel, bias = rng.normal(size=(3, 2)), rng.normal(size=2)
    x = rng.normal(size=3)
    state = dense(layer("dense", kernel=kernel, bias=bias))
    expected = [sum(x[i] * kernel[i, o] for i in range(3)) + bias[o] for o in range(2)]
    np.testing.assert_allclose(F.linear(torch.tensor(x), **state), expected)

    kernel = rng.normal(size=(2, 3, 4))  # length, in, out; input channels-last as Keras has it
    x = rng.normal(size=(5, 3))
    state = conv1d(layer("conv1d", kernel=kernel))
    expected = [[sum((x[t + k] * kernel[k, :, o]).sum() for k in range(2)) for o in range(4)] for t in range(4)]
    np.testing.assert_allclose(F.conv1d(torch.tensor(x.T[None]), **state)[0].T, expected)

    kernel = rng.normal(size=(2, 3, 2, 4))  # height, width, in, out
    x = rng.normal(size=(4, 5, 2))
    state = conv2d(layer("conv2d", kernel=kernel))
    expected = [
        [[(x[i : i + 2, j : j + 3] * kernel[..., o]).sum() for j in range(3)] for i in range(3)] for o in range(4)
    ]
    np.testing.assert_allclose(F.conv2d(torch.tensor(x.transpose(2, 0, 1)[None]), **state)[0], expected)


def test_gru_cell_by_loops():
    """Keras's equation with reset_after, gate by gate, against nn.GRU on the converted weights."""
    rng = np.random.default_rng(0)
    inputs, hidden = 3, 2
    kernel, recurrent, bias = rng.normal(size=(inputs, 6)), rng.normal(size=(hidden, 6)), rng.normal(size=(2, 6))
    sequence, h = rng.normal(size=(4, inputs)), np.zeros(hidden)
    for x in sequence:
        from_x, from_h = np.split(x @ kernel + bias[0], 3), np.split(h @ recurrent + bias[1], 3)
        z, r = (1 / (1 + np.exp(-(a + b))) for a, b in zip(from_x[:2], from_h[:2], strict=True))
        h = z * h + (1 - z) * np.tanh(from_x[2] + r * from_h[2])
    module = nn.GRU(inputs, hidden, batch_first=True).double()
    load_layer(module, layer("gru", kernel=kernel, recurrent_kernel=recurrent, bias=bias))
    np.testing.assert_allclose(module(torch.tensor(sequence[None]))[1][0, 0].detach(), h)
    without = gru(layer("gru", options={"reset_after": True}, kernel=kernel, recurrent_kernel=recurrent))
    assert set(without) == {"weight_ih_l0", "weight_hh_l0"}


def test_gru_refusals():
    kernel, recurrent = np.zeros((4, 9)), np.zeros((3, 9))
    cases = (
        ({"bias": np.zeros(9)}, {}, r"bias is \(9,\): a GRU with reset_after=False"),
        ({"bias": np.zeros(7)}, {}, r"bias is \(7,\); expected \(2, 9\) or, of a CuDNNGRU, \(18,\)"),
        ({}, {}, "without bias does not tell reset_after"),
        (
            {"bias": np.zeros((2, 9))},
            {"recurrent_activation": "hard_sigmoid"},
            "recurrent_activation is 'hard_sigmoid'",
        ),
    )
    for arrays, options, message in cases:
        with pytest.raises(UserError, match=rf"model\.h5: layer 'here': .*{message}"):
            gru(layer("gru", options=options, kernel=kernel, recurrent_kernel=recurrent, **arrays))


def test_misfits_name_the_layer_and_both_sides(golden):
    file = read_keras(golden / "sent_sim_gru.h5")
    embedding, encoder, classes = nn.Embedding(60, 16), nn.GRU(16, 16), nn.Linear(16, 25, bias=False)
    with pytest.raises(
        UserError, match=r"the network takes 1 embedding, 1 gru; the file has 1 dense, 1 embedding, 1 gru"
    ):
        file.load([embedding, encoder])
    [rest] = file.load([embedding, encoder], also={"dense": 1})
    assert rest.arrays["kernel"].shape == (16, 25)
    assert file.load([embedding, encoder], also={"dense": None, "lstm": None}) == [rest]
    with pytest.raises(
        UserError, match=r"expected 2 dense layer\(s\), found 1\. The file holds: embedding 'embedding'"
    ):
        file.take("dense", 2)
    before = embedding.weight.clone()
    nn.init.zeros_(embedding.weight)
    with pytest.raises(
        UserError, match=r"layer 'dense_4': the file has weight \(25, 16\); Linear takes weight \(24, 16\)"
    ):
        file.load([embedding, encoder, nn.Linear(16, 24, bias=False)])
    assert (embedding.weight == 0).all()  # nothing is written unless everything fits
    with pytest.raises(
        UserError, match=r"the file has weight \(25, 16\); Linear takes weight \(25, 16\), bias \(25,\)"
    ):
        file.load([embedding, encoder, nn.Linear(16, 25)])
    file.load([embedding, encoder, classes])
    torch.testing.assert_close(embedding.weight, before)
    with pytest.raises(UserError, match="is of kind dense; Conv1d takes conv1d"):
        load_layer(nn.Conv1d(1, 1, 1), file.take("dense")[0])
    with pytest.raises(TypeError, match="no Keras layer is known for LSTM"):
        kind_of(nn.LSTM(1, 1))


def test_old_files(tmp_path):
    """Keras 1 and 2 wrote bytes, split long lists of names, and have no configuration in a weights-only file."""
    path = tmp_path / "old.h5"
    with h5py.File(path, "w") as file:
        names = [f"conv2d_{i}".encode() for i in (9, 10)]
        file.attrs["layer_names0"], file.attrs["layer_names1"] = names[:1], names[1:]
        for size, name in enumerate(names, 1):
            group = file.create_group(name.decode())
            group.attrs["weight_names"] = [name + b"/kernel:0", name + b"/bias:0"]
            group[f"{name.decode()}/kernel:0"] = np.ones((3, 3, size, 2))
            group[f"{name.decode()}/bias:0"] = np.ones(2)
    layers = read_keras(path).layers
    assert [(found.name, found.kind, found.arrays["kernel"].shape[2]) for found in layers] == [
        ("conv2d_9", "conv2d", 1), ("conv2d_10", "conv2d", 2),
    ]  # fmt: skip


def test_bfloat16_variables(tmp_path):
    """Keras 3 stores bfloat16 as two opaque bytes: the upper half of a float32."""
    values = np.array([1.0, -2.5, 3.140625], dtype=np.float32)
    with h5py.File(tmp_path / "half.weights.h5", "w") as file:
        halves = (values.view(np.uint32) >> 16).astype(np.uint16)
        file["layers/embedding/vars/0"] = halves.view("V2")
    [found] = read_keras(tmp_path / "half.weights.h5").layers
    np.testing.assert_array_equal(found.arrays["embeddings"], values)


def test_files_that_are_not(tmp_path, golden):
    with pytest.raises(UserError, match=r"nothing\.h5: no such file; expected weights saved by Keras"):
        read_keras(tmp_path / "nothing.h5")
    text = tmp_path / "text.h5"
    text.write_text("weights", encoding="utf-8")
    with pytest.raises(UserError, match=r"text\.h5: not a file of Keras weights, or cut short"):
        read_keras(text)
    cut = tmp_path / "cut.keras"
    cut.write_bytes((golden / "keras3.keras").read_bytes()[:30_000])
    with pytest.raises(UserError, match=r"cut\.keras: not a file of Keras weights, or cut short"):
        read_keras(cut)
    other = tmp_path / "other.zip"
    with zipfile.ZipFile(other, "w") as archive:
        archive.writestr("config.json", json.dumps({}))
    with pytest.raises(UserError, match=r"other\.zip: not a file of Keras weights"):
        read_keras(other)
    with h5py.File(tmp_path / "empty.h5", "w") as file:
        file["numbers"] = np.ones(3)
    with pytest.raises(UserError, match="without layers of Keras"):
        read_keras(tmp_path / "empty.h5")
    with h5py.File(tmp_path / "array.h5", "w") as file:
        file["layers/dense/vars"] = np.ones(3)  # an array where Keras has a group
    with zipfile.ZipFile(tmp_path / "bytes.keras", "w") as archive:
        archive.writestr("config.json", b"\xff\xfe\xfa")
    for name in ("array.h5", "bytes.keras"):
        with pytest.raises(UserError, match=f"{name}: not a file of Keras weights, or cut short"):
            read_keras(tmp_path / name)


def test_without_h5py(tmp_path, golden, monkeypatch):
    real = builtins.__import__

    def no_h5py(name, *args, **kwargs):
        if name == "h5py":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    shutil.copy(golden / "sent_sim_gru.h5", tmp_path / "weights.h5")
    monkeypatch.setattr(builtins, "__import__", no_h5py)
    with pytest.raises(UserError, match="needs h5py; install it with: pip install h5py"):
        read_keras(tmp_path / "weights.h5")
