"""The encoder: the original's numbers, what padding means, encode, save and load."""

import dataclasses

import numpy as np
import pytest
import torch

from similarity import Architecture, SentenceEncoder, Vocabulary
from similarity.features import NgramBag
from trainer import UserError, save_checkpoint

VOCABULARY = Vocabulary("的一是不了人我在有他这为之大来以个中上们")
SMALL = Architecture(dim=8, embedding_dim=6, hidden=8, max_length=12)
KINDS = {
    "article": SMALL,
    "original": dataclasses.replace(SMALL, padding="original"),
    "mean": dataclasses.replace(SMALL, pooling="mean", dim=5),
    "both directions": dataclasses.replace(SMALL, bidirectional=True, dim=7),
    "both directions, max": dataclasses.replace(SMALL, bidirectional=True, pooling="max"),
    "bag": Architecture(dim=8, hidden=0, buckets=64, order=3, max_length=12),
    "bag and gru": dataclasses.replace(SMALL, buckets=64),
}


def make(kind: str) -> SentenceEncoder:
    torch.manual_seed(1)
    return SentenceEncoder(VOCABULARY, KINDS[kind]).eval()


@pytest.mark.parametrize("name", ["gru", "cudnngru"])
def test_embeddings_and_cosines_of_the_original(golden, name):
    expected = np.load(golden / "sent_sim_io.npz", allow_pickle=False)
    model = SentenceEncoder.from_keras(golden / f"sent_sim_{name}.h5", max_length=12)
    vectors = model(torch.from_numpy(expected["ids"]))
    np.testing.assert_allclose(vectors.detach(), expected["embedding"], atol=1e-6)  # found: 8e-8
    from trainer.keras import read_keras

    [classes] = read_keras(golden / f"sent_sim_{name}.h5").take("dense")
    cosine = vectors.detach().numpy() @ classes.arrays["kernel"]
    np.testing.assert_allclose(cosine, expected["cosine"], atol=1e-5)


def test_from_keras_with_characters_encodes_text(golden):
    characters = "".join(chr(0x4E00 + i) for i in range(58))
    path = golden / "sent_sim_gru.h5"
    model = SentenceEncoder.from_keras(path, Vocabulary(characters), max_length=12)
    expected = np.load(golden / "sent_sim_io.npz", allow_pickle=False)
    text = "".join(characters[i - 2] for i in expected["ids"][1] if i)
    np.testing.assert_allclose(model.encode(text), expected["embedding"][1], atol=1e-6)
    with pytest.raises(UserError, match="60 ids, but the vocabulary has 22"):
        SentenceEncoder.from_keras(path, VOCABULARY)
    with pytest.raises(UserError, match="knows ids only"):
        SentenceEncoder.from_keras(path).encode(["text"])
    with pytest.raises(UserError, match="no such file"):
        SentenceEncoder.from_keras(golden / "none.h5")
    with pytest.raises(UserError, match=r"expected 1 embedding layer\(s\), found 0"):
        SentenceEncoder.from_keras(golden / "cnn_digits.h5")


@pytest.mark.parametrize("kind", KINDS)
def test_unit_vectors_and_padding(kind):
    model = make(kind)
    ids = torch.tensor([[5, 3, 9, 0, 0], [7, 2, 0, 0, 0], [4, 4, 4, 4, 6]])
    vectors = model(ids)
    assert vectors.shape == (3, KINDS[kind].dim)
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(3))
    # more padding, or less, changes nothing: masked it is not there, and the original fills up to max_length anyway
    torch.testing.assert_close(model(torch.nn.functional.pad(ids, (0, 3))), vectors)
    torch.testing.assert_close(model(ids[:2, :3]), vectors[:2])


def test_the_original_runs_over_the_padding_and_the_default_does_not():
    masked, original = make("article"), make("original")
    original.load_state_dict(masked.state_dict())
    full = torch.randint(1, 22, (4, 12))
    torch.testing.assert_close(masked(full), original(full))
    short = torch.tensor([[5, 3, 0, 0]])
    states = masked.gru(masked.embedding(short[:, :2]))[0][:, -1]
    torch.testing.assert_close(masked(short), states / states.norm())
    run_over = masked.gru(masked.embedding(torch.tensor([[5, 3] + [0] * 10])))[0][:, -1]
    torch.testing.assert_close(original(short), run_over / run_over.norm())
    assert not torch.allclose(masked(short), original(short), atol=1e-3)


def test_both_directions_equal_two_plain_runs():
    model = make("both directions")
    ids = torch.tensor([[5, 3, 9, 0], [7, 2, 0, 0]])
    for row, length in zip(ids, (3, 2), strict=True):
        states, _ = model.gru(model.embedding(row[None, :length]))
        both = torch.cat([states[0, -1, :8], states[0, 0, 8:]])
        expected = torch.nn.functional.normalize(model.project(both), dim=0)
        torch.testing.assert_close(model(row[None])[0], expected)


@pytest.mark.parametrize("kind", KINDS)
def test_a_gradient_reaches_every_parameter(kind):
    model = make(kind).train()
    torch.manual_seed(0)
    target = torch.randn(3, KINDS[kind].dim)
    (model(torch.randint(1, 22, (3, 9))) * target).sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.to_dense().abs().sum() > 0, name


@pytest.mark.parametrize("kind", KINDS)
def test_encode_equals_one_by_one_in_the_order_given(kind):
    model = make(kind)
    texts = ["我们在这", "的", "大人来了不来不来不来不来以为不来", "？？", "我 们", ""] * 5
    vectors = model.encode(texts)
    assert vectors.dtype == np.float32
    assert vectors.shape == (30, KINDS[kind].dim)
    alone = np.stack([model.encode(text) for text in texts])
    np.testing.assert_allclose(vectors, alone, atol=1e-6)  # another batch, another order of sums
    np.testing.assert_allclose(vectors, model.encode(texts, batch_size=7), atol=1e-6)
    assert torch.equal(model.encode(texts, convert_to_tensor=True), torch.from_numpy(vectors))


def test_encode_keeps_the_mode_and_takes_nothing():
    model = make("bag")
    model.train()
    assert model.encode([]).shape == (0, 8)
    assert model.training


def test_encode_takes_the_keywords_of_sentence_transformers_and_refuses_other_values():
    model = make("bag")
    texts = ["我们在这", "的"]
    same = {"convert_to_numpy": True, "device": "cpu", "output_value": "sentence_embedding", "prompt": None,
            "prompt_name": None, "precision": "float32"}  # fmt: skip
    assert np.array_equal(model.encode(texts, **same), model.encode(texts))
    assert isinstance(model.encode(texts, convert_to_numpy=False, convert_to_tensor=True), torch.Tensor)
    wrong = {"convert_to_numpy": False, "device": "meta", "output_value": "token_embeddings", "prompt": "q: ",
             "prompt_name": "q", "precision": "int8"}  # fmt: skip
    for name, value in wrong.items():
        for asked in (texts, texts[0]):
            with pytest.raises(UserError, match=rf"^encode\({name}={value!r}\)[^\n]*$"):
                model.encode(asked, **{name: value})


def test_it_knows_texts_with_a_character_of_its_vocabulary():
    texts = ["我", "\U0001f600我", "\U0001f600", "", "　", "\U0001f600" * 12 + "我"]  # twelve characters are read
    assert make("article").knows(texts).tolist() == [True, True, False, False, False, False]
    assert make("article").knows([]).tolist() == []
    with pytest.raises(UserError, match="knows ids only"):
        SentenceEncoder(22, SMALL).knows(["我"])


def test_empty_unknown_and_endless_text():
    for kind in ("article", "bag", "both directions", "both directions, max", "bag and gru"):
        vectors = make(kind).encode(["", "　", "\U0001f600", "的" * 10_000, "的" * 12])
        assert np.isfinite(vectors).all()
        assert not vectors[:2].any()  # no character: similar to nothing
        np.testing.assert_allclose(np.linalg.norm(vectors[2:], axis=1), 1, atol=1e-6)
        np.testing.assert_allclose(vectors[3], vectors[4], atol=1e-6)


def test_save_and_load(tmp_path):
    for kind in KINDS:
        model = make(kind)
        model.save(tmp_path / "encoder.pt")
        again = SentenceEncoder.load(tmp_path)
        assert again.architecture == model.architecture
        assert again.vocabulary == VOCABULARY
        assert again.sha256() == model.sha256()
        assert np.array_equal(again.encode(["我们在这"]), model.encode(["我们在这"]))
    with torch.no_grad():
        again.gru.weight_hh_l0[0, 0] += 1e-3
    assert again.sha256() != model.sha256()
    with pytest.raises(UserError, match="no checkpoint there"):
        SentenceEncoder.load(tmp_path / "other")
    (tmp_path / "encoder.pt").write_bytes((tmp_path / "encoder.pt").read_bytes()[:-200])
    with pytest.raises(UserError, match="not a readable checkpoint"):
        SentenceEncoder.load(tmp_path)
    save_checkpoint(tmp_path / "encoder.pt", {"model_name": "SentenceEncoder", "characters": None})
    with pytest.raises(UserError, match=r"encoder.pt: not a whole checkpoint of this version: 'num_ids' is missing"):
        SentenceEncoder.load(tmp_path)


def test_impossible_architectures():
    with pytest.raises(UserError, match="needs a GRU"):
        Architecture(hidden=0)
    with pytest.raises(UserError, match="--padding original is the article's network"):
        Architecture(padding="original", bidirectional=True)
    with pytest.raises(UserError, match="--max-length must be at least 1, got 0"):
        Architecture(max_length=0)


def plain_ngrams(row: list[int], order: int, num_ids: int, buckets: int) -> list[int]:
    found = [i for i in row if i]
    length = len(found)
    for size in range(2, order + 1):
        for start in range(length - size + 1):
            code = row[start]
            for following in row[start + 1 : start + size]:
                code = (code * 1_000_003 + following) % 2_147_483_647
            found.append((code * 31 + size) % 2_147_483_647 % (buckets - num_ids) + num_ids)
    return found


def test_the_bag_equals_plain_loops_and_starts_as_tf_idf():
    torch.manual_seed(0)
    bag = NgramBag(22, 4096, 500, order=3)
    texts = torch.tensor([[5, 3, 9, 3, 0], [5, 3, 9, 0, 0], [7, 0, 0, 0, 0], [3, 9, 5, 1, 1], [0, 0, 0, 0, 0]])
    rows = [plain_ngrams(row.tolist(), 3, 22, 500) for row in texts]
    before = bag.weight.detach().clone()
    expected = torch.stack([before[row].sum(dim=0) for row in rows])
    torch.testing.assert_close(bag(texts), expected)
    bag.weigh_([texts[:2], texts[2:]])
    counts = np.zeros((5, 500))
    for number, row in enumerate(rows):
        np.add.at(counts[number], row, 1)
    idf = np.log(6 / ((counts > 0).sum(axis=0) + 1)) + 1
    torch.testing.assert_close(bag.weight, before * torch.tensor(idf, dtype=torch.float32)[:, None])
    vectors = torch.nn.functional.normalize(bag(texts), dim=1)[:4]
    weighted = counts[:4] * idf
    weighted /= np.linalg.norm(weighted, axis=1, keepdims=True)
    # random projections keep cosines to about 1/sqrt(4096) = .016; three of those
    np.testing.assert_allclose((vectors @ vectors.T).detach(), weighted @ weighted.T, atol=0.05)


def test_the_bag_drops_ngrams_in_training_only():
    bag = NgramBag(22, 4, 100, order=2, drop=0.5)
    ids = torch.randint(1, 22, (2, 12))
    assert torch.equal(bag.eval()(ids), bag(ids))
    bag.train()
    assert not torch.equal(bag(ids), bag(ids))
    with pytest.raises(ValueError, match="22 buckets for 22 characters"):
        NgramBag(22, 4, 22)
