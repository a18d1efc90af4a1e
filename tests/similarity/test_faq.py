"""The index: exact in every storage, what it refuses, two writers, and a file that is mapped."""

import multiprocessing
import sys
import threading

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from similarity import Architecture, FaqIndex, SentenceEncoder, Vocabulary, storage
from similarity.faq import Texts
from similarity.paraphrase import made_up_groups
from similarity.vectors import LANE, Vectors, best_of
from trainer import UserError

GROUPS = made_up_groups()
QUESTIONS = GROUPS.sentences
ANSWERS = [f"答案{label}" for label in GROUPS.labels]
STORAGES = ("float32", "float16", "int8")


def make_encoder(seed: int = 0) -> SentenceEncoder:
    torch.manual_seed(seed)
    vocabulary = Vocabulary.fit(QUESTIONS, 1)
    return SentenceEncoder(vocabulary, Architecture(dim=64, hidden=0, max_length=40, buckets=4096)).eval()


ENCODER = make_encoder()


def make_index(storage: str = "float32", **options) -> FaqIndex:
    index = FaqIndex(ENCODER, storage, **options)
    index.add(QUESTIONS, ANSWERS)
    return index


def unit(count: int, dim: int, seed: int = 0) -> np.ndarray:
    rows = np.random.default_rng(seed).normal(size=(count, dim)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.mark.parametrize("kind", STORAGES)
@pytest.mark.parametrize(("count", "k"), [(20_000, 10), (9000, 1), (100, 7), (5, 10), (1, 1)])
def test_search_is_exact(kind, count, k):
    vectors, queries = unit(count, 24), torch.from_numpy(unit(7, 24, seed=1))
    alive = np.random.default_rng(2).random(count) < 0.9
    alive[0] = True
    stored = Vectors.store(vectors, kind)
    scores, rows = stored.search(queries, k, alive)
    kept = vectors.astype(np.float16).astype(np.float32) if kind == "float16" else vectors
    similarity = queries.numpy() @ kept.T
    similarity[:, ~alive] = -np.inf
    expected = np.argsort(-similarity, axis=1, kind="stable")[:, : min(k, alive.sum())]
    assert rows.tolist() == expected.tolist()
    # the sums of a product are taken in another order: some float32 ulps
    np.testing.assert_allclose(scores, np.take_along_axis(similarity, expected, 1), atol=1e-6)


def test_int8_is_exact_where_its_codes_mislead():
    """Vectors closer to each other than the codes can tell: without the proof the wrong ones would be found."""
    base = unit(1, 16)
    vectors = base + 1e-3 * unit(3000, 16, seed=1)
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    stored = Vectors.store(vectors, "int8")
    queries = torch.from_numpy(vectors[:20].copy())
    _, rows = stored.search(queries, 5, np.ones(3000, bool))
    assert rows[:, 0].tolist() == list(range(20))
    coarse = (queries @ torch.from_numpy(stored.codes).float().T) * torch.from_numpy(stored.scales)
    assert (coarse.argmax(dim=1) != torch.arange(20)).any()


def test_the_error_of_the_codes_is_a_bound():
    vectors = np.concatenate([unit(500, 32), np.eye(32, dtype=np.float32)])
    stored = Vectors.store(vectors, "int8")
    lost = vectors - stored.codes * stored.scales[:, None]
    assert np.linalg.norm(lost, axis=1).max() <= stored.error < 0.05
    assert np.array_equal(stored.exact, vectors)


@given(st.integers(0, 1000), st.integers(1, 6), st.integers(0, 10))
@settings(max_examples=40, deadline=None)
def test_best_of_equals_topk(extra, k, seed):
    similarity = torch.rand(3, 4 * LANE * k + extra, generator=torch.Generator().manual_seed(seed))
    best, place = best_of(similarity, k)
    assert torch.equal(best, similarity.topk(k, dim=1).values)
    assert torch.equal(similarity.gather(1, place), best)


@pytest.mark.parametrize("kind", STORAGES)
def test_a_stored_question_finds_itself(kind):
    index = make_index(kind)
    assert len(index) == len(QUESTIONS)
    for row in (0, 17, 2000):
        match = index.search(QUESTIONS[row], top_k=3)[0]
        assert (match.id, match.question, match.answer) == (row, QUESTIONS[row], ANSWERS[row])
        assert match.score == pytest.approx(1, abs=1e-3)
        assert match.probability is None


def test_thresholds_and_lists():
    index = make_index()
    found = index.search(["怎么给宽带续费", QUESTIONS[3]], top_k=4, threshold=0.3)
    assert len(found) == 2
    scores = [match.score for match in found[0]]
    assert scores == sorted(scores, reverse=True)
    assert min(scores) >= 0.3
    assert index.search("怎么给宽带续费", threshold=1.01) == []
    assert [match.id for match in index.search(QUESTIONS[3], top_k=4, threshold=0.3)] == [m.id for m in found[1]]
    with pytest.raises(UserError, match="top_k must be at least 1, got 0"):
        index.search("x", top_k=0)


def test_questions_without_sense_have_no_answer_and_long_ones_do_not_hurt():
    index = make_index()
    index.calibrate(precision=0.8)
    assert index.search("") == []
    assert index.search("　\n") == []
    assert index.search("\U0001f600\U0001f601") == []  # unknown characters only
    assert len(index.search("怎么办理会员" * 2000, threshold=-1)) == 5  # 10,000 characters
    empty = FaqIndex(ENCODER)
    assert empty.search("问题") == []
    assert len(empty) == 0


@pytest.mark.parametrize("padding", ["mask", "original"])
def test_unknown_and_empty_text_is_neither_stored_nor_found(padding):
    """A vector it has all the same: that of the unknown character, and under `original` that of the padding."""
    encoder = SentenceEncoder(Vocabulary("怎么还款好的"), Architecture(dim=8, hidden=8, padding=padding)).eval()
    index = FaqIndex(encoder)
    for text, problem in (("\U0001f600", "has no character that the encoder knows"), ("　", "is empty")):
        with pytest.raises(UserError, match=f"^question 2, '.*', {problem}$"):
            index.add(["好的", text])
    assert len(index) == 0
    index.add(["怎么还款", "好的"])
    assert index.search(["\U0001f600", "", " \n", "龘怎"], threshold=-1)[:3] == [[], [], []]
    assert index.search("\U0001f600") == []
    assert len(index.search("龘怎")) == 2


def test_add_and_remove_keep_ids(tmp_path):
    index = FaqIndex(ENCODER, "int8")
    assert index.add(["怎么还款", "怎么借款"], ["甲", "乙"]) == [0, 1]
    assert index.add(["今天天气"]) == [2]
    assert index.remove("怎么借款？") == 0
    assert index.remove(["怎么　借款", "怎么借款"]) == 1
    assert index.remove([1, 7]) == 0
    assert [match.id for match in index.search("怎么借款", threshold=-1)] == [0, 2]
    index.save(tmp_path / "faq.npz")
    again = FaqIndex.load(tmp_path / "faq.npz", ENCODER)
    assert again.add(["新的问题"]) == [3]
    assert sorted(match.id for match in again.search("怎么还款", threshold=-1)) == [0, 2, 3]
    assert again.remove(0) == 1
    assert len(again) == 2
    with pytest.raises(UserError, match="2 questions, but 1 answers"):
        index.add(["a", "b"], ["c"])
    with pytest.raises(UserError, match="question 2, ' ', is empty"):
        index.add(["好的", " "])


@pytest.mark.parametrize("kind", STORAGES)
def test_save_and_load_find_the_same(kind, tmp_path):
    index = make_index(kind)
    index.remove(QUESTIONS[:10])
    index.add(["另外一个问题", "再来一个"], ["丙", "丁"])
    index.calibrate(precision=0.8)
    before = index.search(QUESTIONS[::100], top_k=3, threshold=-1)
    index.save(tmp_path / "faq.npz")
    assert index.search(QUESTIONS[::100], top_k=3, threshold=-1) == before
    again = FaqIndex.load(tmp_path / "faq.npz", ENCODER)
    assert isinstance(again.segments[0].vectors.exact, np.memmap)
    assert again.search(QUESTIONS[::100], top_k=3, threshold=-1) == before
    assert again.calibration == index.calibration
    assert len(again) == len(QUESTIONS) - 8
    with np.load(tmp_path / "faq.npz", allow_pickle=False) as plain:  # an ordinary npz
        assert len(plain["ids"]) == len(again)
    empty = FaqIndex(ENCODER, kind)
    empty.save(tmp_path / "empty.npz")
    assert FaqIndex.load(tmp_path / "empty.npz", ENCODER).search("问题") == []


def test_an_int8_index_of_a_million_fits_in_300_mb(monkeypatch):
    """Counted for 20,000 vectors of 128 dimensions and questions of 15 characters, and multiplied."""
    index = FaqIndex(ENCODER, "int8")
    questions = [f"{'怎么还款' * 3}{i:05d}" for i in range(20_000)]
    monkeypatch.setattr(ENCODER, "encode", lambda texts, **_: unit(len(texts), 128))
    index.add(questions)
    assert 128e6 < index.nbytes * 50 < 300e6


def test_an_index_of_another_model_is_refused(tmp_path):
    make_index().save(tmp_path / "faq.npz")
    with pytest.raises(UserError, match="made by another model"):
        FaqIndex.load(tmp_path / "faq.npz", make_encoder(seed=1))


def test_damaged_files_are_refused(tmp_path):
    path = tmp_path / "faq.npz"
    with pytest.raises(UserError, match="no index there"):
        FaqIndex.load(path, ENCODER)
    make_index("int8").save(path)
    whole = path.read_bytes()
    for length in (0, 10, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(UserError, match="not an index, or cut short"):
            FaqIndex.load(path, ENCODER)
    storage.write(path, {"format": 99}, {})
    with pytest.raises(UserError, match="format 99"):
        FaqIndex.load(path, ENCODER)
    manifest = {**make_index()._manifest(), "generation": "x"}
    arrays = {**make_index()._arrays(), "ids": [np.arange(3)]}
    storage.write(path, manifest, arrays)
    with pytest.raises(UserError, match="its arrays do not hold the 2832 questions"):
        FaqIndex.load(path, ENCODER)
    np.savez(path, x=np.array([object()], dtype=object), **{"manifest.json": np.zeros(1)})
    with pytest.raises(UserError, match="not an index"):
        FaqIndex.load(path, ENCODER)


def test_arrays_are_mapped_aligned_and_whole(tmp_path):
    path = tmp_path / "x.npz"
    parts = {"a": [np.arange(5, dtype=np.float32), np.arange(3, dtype=np.float32)], "long_name": [np.zeros((0, 4))],
             "b": [np.array([[1], [2]], np.int8)]}  # fmt: skip
    storage.write(path, {"中": 1}, parts)
    manifest, arrays = storage.read(path)
    assert manifest == {"中": 1}
    assert arrays["a"].tolist() == [0, 1, 2, 3, 4, 0, 1, 2]
    assert arrays["b"].tolist() == [[1], [2]]
    assert arrays["long_name"].shape == (0, 4)
    assert arrays["a"].ctypes.data % 64 == 0
    arrays["a"][0] = 7
    assert storage.read(path)[1]["a"][0] == 0  # not written through


def test_a_failed_save_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "faq.npz"
    index = make_index()
    index.save(path)
    before = path.read_bytes()
    monkeypatch.setattr(storage, "CHUNK", 1)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np.lib.format, "write_array_header_1_0", full)
    with pytest.raises(UserError, match="No space left on device"):
        index.save(path)
    assert path.read_bytes() == before
    assert {p.name for p in tmp_path.iterdir()} <= {"faq.npz", ".faq.npz.lock"}


def test_a_writer_who_saw_an_older_file_is_refused(tmp_path):
    path = tmp_path / "faq.npz"
    make_index().save(path)
    mine, theirs = FaqIndex.load(path, ENCODER), FaqIndex.load(path, ENCODER)
    theirs.add(["别人的问题"])
    theirs.save(path)
    mine.add(["我的问题"])
    with pytest.raises(UserError, match="saved by someone else since it was loaded here"):
        mine.save(path)
    again = FaqIndex.load(path, ENCODER)
    assert again.search("别人的问题")[0].score == pytest.approx(1)
    again.add(["我的问题"])
    again.save(path)
    assert len(FaqIndex.load(path, ENCODER)) == len(QUESTIONS) + 2
    assert mine.search(QUESTIONS[0])[0].question == QUESTIONS[0]  # what was mapped stays readable


def test_one_index_may_be_saved_in_two_places_in_turn(tmp_path):
    index = FaqIndex(ENCODER)
    for name in "aba":
        index.add(["怎么还款"])
        index.save(tmp_path / f"{name}.npz")
    assert len(FaqIndex.load(tmp_path / "a.npz", ENCODER)) == 3
    other = FaqIndex.load(tmp_path / "b.npz", ENCODER)
    other.save(tmp_path / "." / "b.npz")
    with pytest.raises(UserError, match="saved by someone else"):
        index.save(tmp_path / "b.npz")


def test_a_reader_beside_a_writer_sees_one_whole_index(tmp_path):
    path = tmp_path / "faq.npz"
    writers = [FaqIndex(ENCODER, kind) for kind in ("float32", "int8")]
    for index, names in zip(writers, ("甲乙", "丙"), strict=True):
        index.add([f"{name}的问题{i}" for name in names for i in range(20)])
    writers[0].save(path)
    done, written = threading.Event(), []

    def write() -> None:
        try:
            for i in range(20):
                writers[i % 2].generations.clear()
                writers[i % 2].save(path)
                written.append(i)
        finally:
            done.set()  # else a writer that fails would leave the reader waiting for ever

    thread = threading.Thread(target=write)
    thread.start()
    reads = 0
    while not done.is_set() or not reads:
        index = FaqIndex.load(path, ENCODER)
        texts = {text[0] for text in index.segments[0].questions}
        assert (index.storage, len(index), texts) in [("float32", 40, set("甲乙")), ("int8", 20, {"丙"})]
        reads += 1
    thread.join()
    assert len(written) == 20


def write_many(path, name: str) -> None:
    for i in range(10):
        index = FaqIndex(ENCODER)
        index.add([f"{name}的问题{j}" for j in range(20 + i)])
        index.save(path)


def test_two_writers_at_once_leave_one_whole_index(tmp_path):
    path = tmp_path / "faq.npz"
    threads = [threading.Thread(target=write_many, args=(path, name)) for name in "甲乙"]
    other = multiprocessing.get_context("fork").Process(target=write_many, args=(path, "丙"))
    other.start()
    for thread in threads:
        thread.start()
    for job in (*threads, other):
        job.join()
    assert other.exitcode == 0
    index = FaqIndex.load(path, ENCODER)
    assert len(index) == 29
    assert len({text[0] for text in index.segments[0].questions}) == 1


@given(st.lists(st.text(max_size=6), max_size=8), st.data())
def test_texts_round_trip(texts, data):
    packed = Texts.pack(texts)
    assert list(packed) == texts
    rows = data.draw(st.lists(st.integers(0, len(texts) - 1), max_size=5)) if texts else []
    assert list(packed.take(np.array(rows, int))) == [texts[row] for row in rows]


def test_faiss_finds_the_same(tmp_path):
    pytest.importorskip("faiss", reason="the extra faiss is not installed")
    ours, theirs = make_index(), make_index(backend="faiss")
    for index in (ours, theirs):
        index.remove(QUESTIONS[:5])
        index.add(["一个新的问题"])
    asked = [*QUESTIONS[::50], "一个新的问题"]
    a, b = ours.search(asked, 3), theirs.search(asked, 3)
    assert [m.question for row in a for m in row[:1]] == [m.question for row in b for m in row[:1]]
    scores = [[m.score for row in found for m in row] for found in (a, b)]
    np.testing.assert_allclose(*scores, atol=1e-5)
    empty = FaqIndex(ENCODER, backend="faiss")
    empty.save(tmp_path / "empty.npz")
    assert empty.search(["问题", ""]) == FaqIndex.load(tmp_path / "empty.npz", ENCODER, "faiss").search(["a", "b"])
    assert empty.search("问题") == []
    theirs.save(tmp_path / "faq.npz")
    assert FaqIndex.load(tmp_path / "faq.npz", ENCODER, "faiss").search(QUESTIONS[9])[0].id == 9
    with pytest.raises(UserError, match="--backend faiss searches float32 vectors"):
        FaqIndex(ENCODER, "int8", "faiss")


def test_missing_faiss_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(UserError, match="--backend faiss needs FAISS: pip install faiss-cpu"):
        make_index(backend="faiss")
