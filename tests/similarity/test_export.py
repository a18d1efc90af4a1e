"""ONNX: the same vectors as torch for every kind of encoder."""

import dataclasses

import numpy as np
import pytest
import torch

from similarity import Architecture, SentenceEncoder, Vocabulary, export

onnxruntime = pytest.importorskip("onnxruntime", reason="the extra export is not installed")
pytest.importorskip("onnx", reason="the extra export is not installed")

SMALL = Architecture(dim=8, embedding_dim=6, hidden=8, max_length=12)
KINDS = {
    "article": SMALL,
    "original": dataclasses.replace(SMALL, padding="original"),
    "mean": dataclasses.replace(SMALL, pooling="mean", dim=5),
    "both directions": dataclasses.replace(SMALL, bidirectional=True),
    "both directions, max": dataclasses.replace(SMALL, bidirectional=True, pooling="max"),
    "bag": Architecture(dim=8, hidden=0, buckets=500, order=3, max_length=12),
    "bag and gru": dataclasses.replace(SMALL, buckets=500),
}


@pytest.mark.parametrize("kind", KINDS)
def test_vectors_equal_those_of_torch(kind, tmp_path, capsys):
    torch.manual_seed(0)
    encoder = SentenceEncoder(Vocabulary("的一是不了人我在有他"), KINDS[kind]).eval()
    encoder.save(tmp_path / "encoder.pt")
    assert export.main([str(tmp_path), str(tmp_path / "encoder.onnx")]) < 1e-6  # float32 sums in another order
    assert "from torch" in capsys.readouterr().out
    session = onnxruntime.InferenceSession(str(tmp_path / "encoder.onnx"), providers=["CPUExecutionProvider"])
    for shape in ((1, 1), (3, 2), (2, 12)):
        ids = torch.randint(0, 2, (1, 1)) if shape == (1, 1) else torch.randint(1, 12, shape)
        ids[-1, shape[1] // 2 :] = 0  # a padded sentence; alone and of one character, an empty one
        with torch.no_grad():
            np.testing.assert_allclose(session.run(None, {"ids": ids.numpy()})[0], encoder(ids), atol=1e-6)
    metadata = session.get_modelmeta().custom_metadata_map
    assert metadata == {"characters": "的一是不了人我在有他", "max_length": "12"}


def test_the_originals_vectors(golden):
    encoder = SentenceEncoder.from_keras(golden / "sent_sim_gru.h5", max_length=12)
    expected = np.load(golden / "sent_sim_io.npz", allow_pickle=False)
    session = onnxruntime.InferenceSession(export.to_onnx(encoder).SerializeToString())
    vectors = session.run(None, {"ids": expected["ids"]})[0]
    np.testing.assert_allclose(vectors, expected["embedding"], atol=1e-5)
