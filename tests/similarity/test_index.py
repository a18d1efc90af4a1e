"""The index commands and the local service, as a user runs them."""

import json
import socket
import threading
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from similarity import Architecture, FaqIndex, SentenceEncoder, Vocabulary, index, serve, train
from similarity import faq as faq_module
from similarity.paraphrase import made_up_groups
from similarity.serve import make_server
from similarity.threshold import Calibration
from trainer import UserError, run_main

GROUPS = made_up_groups()


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    """A run on the made-up questions."""
    folder = tmp_path_factory.mktemp("runs")
    flags = ["--recipe", "ours", "--dim", "64", "--buckets", "4096", "--batch-size", "100"]
    train.main([*flags, "--out", str(folder), "--name", "run"])
    return folder / "similarity" / "run"


@pytest.fixture(scope="module")
def faq(model) -> Path:
    """An index of the made-up questions."""
    questions = model / "questions.tsv"
    rows = [f"答案{i}\t{sentence}\n" for i, group in enumerate(GROUPS) for sentence in group]
    questions.write_text("".join(rows), encoding="utf-8")
    path = model / "faq.npz"
    index.main(["build", str(questions), str(path), "--model", str(model), "--precision", "0.8"])
    return path


def test_build_says_what_the_threshold_promises(model, faq, capsys, tmp_path):
    index.main(["build", str(model / "questions.tsv"), str(tmp_path / "a.npz"), "--model", str(model), "--storage",
                "int8", "--precision", "0.8", "--method", "platt"])  # fmt: skip
    said = capsys.readouterr().out
    assert "precision of 80" in said
    assert "if 50% have no answer here" in said
    assert "2,832 questions" in said
    assert FaqIndex.load(faq, SentenceEncoder.load(model)).calibration.precision >= 0.8


def test_questions_without_answers_have_no_threshold(model, tmp_path, capsys):
    path = tmp_path / "plain.txt"
    path.write_text("怎么还款\n\n今天天气\n", encoding="utf-8")
    found = index.main(["build", str(path), str(tmp_path / "faq.npz"), "--model", str(model)])
    assert len(found) == 2
    assert "no threshold: none of 2 questions shares its answer" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--precision", "2"], "--precision must be between 0 and 1, got 2"),
        (["--precision", "nan"], "--precision must be between 0 and 1, got nan"),
        (["--unanswerable-share", "1"], "--unanswerable-share must be between 0 and 1, got 1"),
        ([], "not an index, or cut short"),
    ],
)
def test_build_refuses_before_it_encodes(flags, message, model, faq, tmp_path, monkeypatch):
    monkeypatch.setattr(SentenceEncoder, "encode", lambda *_, **__: pytest.fail("encoded"))
    path = tmp_path / "faq.npz"
    cut = faq.read_bytes()[:1000]
    path.write_bytes(cut)
    with pytest.raises(UserError, match=message) as stop:
        index.main(["build", str(model / "questions.tsv"), str(path), "--model", str(model), *flags])
    assert flags or "delete it first" in str(stop.value)
    assert path.read_bytes() == cut


def test_calibrate_after_a_change(model, faq, tmp_path, capsys):
    path = tmp_path / "faq.npz"
    path.write_bytes(faq.read_bytes())
    before = FaqIndex.load(path, SentenceEncoder.load(model)).calibration
    index.main(["remove", str(path), *GROUPS.sentences[::2], "--model", str(model)])
    said = capsys.readouterr().out
    assert f"the threshold stays at {before.threshold:.4f}" in said
    command = said.splitlines()[-1].split("python -m similarity.index ")[1]
    assert FaqIndex.load(path, SentenceEncoder.load(model)).calibration == before
    index.main([*command.split(), "--precision", "0.7", "--method", "platt"])
    after = FaqIndex.load(path, SentenceEncoder.load(model)).calibration
    assert f"threshold {after.threshold:.4f}: answers" in capsys.readouterr().out
    assert (after.method, after.threshold == before.threshold) == ("platt", False)
    with pytest.raises(UserError, match="--precision must be between 0 and 1, got 0"):
        index.main([*command.split(), "--precision", "0"])


def test_a_large_index_is_calibrated_by_a_sample(monkeypatch):
    found = []
    monkeypatch.setattr(faq_module, "ASKING", 100)
    monkeypatch.setattr(Calibration, "fit", lambda trials, *_: found.append(trials))
    questions = FaqIndex(SentenceEncoder(Vocabulary.fit(GROUPS.sentences, 1), Architecture(dim=8, hidden=8)))
    questions.add(GROUPS.sentences, [str(label) for label in GROUPS.labels])
    questions.calibrate()
    assert len(found[0].scores) == 200  # each with its fellows and without


def test_search_prints_answers_scores_and_no_answer(model, faq, capsys):
    question = GROUPS[5][0]
    found = index.main(["search", str(faq), question, "火星上有没有生命", "--model", str(model), "--top-k", "2"])
    assert found[0][0].question == question
    assert found[0][0].probability > 0.5
    assert found[1] == []
    said = capsys.readouterr().out
    assert "1.0000" in said
    assert "答案5" in said
    assert "no answer" in said
    index.main(["search", str(faq), question, "--model", str(model), "--json", "--threshold", "-1"])
    content = json.loads(capsys.readouterr().out)
    assert content["question"] == question
    assert len(content["matches"]) == 5
    assert content["matches"][0]["answer"] == "答案5"


def test_add_and_remove(model, faq, tmp_path, capsys):
    path = tmp_path / "faq.npz"
    path.write_bytes(faq.read_bytes())
    more = tmp_path / "more.tsv"
    more.write_text("新答案\t海水为什么是咸的\n", encoding="utf-8")
    index.main(["add", str(more), str(path), "--model", str(model)])
    found = index.main(["search", str(path), "海水为什么是咸的", "--model", str(model)])
    assert found[0][0].answer == "新答案"
    index.main(["remove", str(path), "海水为什么是咸的", "--model", str(model)])
    assert "2,832 questions, -1" in capsys.readouterr().out
    with pytest.raises(UserError, match="none of these questions is in there"):
        index.main(["remove", str(path), "海水为什么是咸的", "--model", str(model)])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "empty; expected answer TAB question"),
        ("a\tb\nc\n", "line 2: 1 columns; expected 2 as before"),
        ("a\tb\tc\n", "line 1: 3 columns; expected answer TAB question, or a question alone"),
        ("a\tb\nc\t \n", "line 2: an empty question"),
    ],
)
def test_wrong_question_files_are_named(content, message, model, tmp_path, capsys):
    path = tmp_path / "q.tsv"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(SystemExit) as stop:
        run_main(lambda: index.main(["build", str(path), str(tmp_path / "f.npz"), "--model", str(model)]))
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


@pytest.fixture(scope="module")
def address(model, faq):
    """A running service."""
    server = make_server(FaqIndex.load(faq, SentenceEncoder.load(model)), "127.0.0.1", 0)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def get(url: str, data: bytes | None = None) -> tuple[int, bytes]:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, data=data)) as reply:
            return reply.status, reply.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


def test_the_service_answers_as_the_index_does(address, model, faq):
    question = GROUPS[7][1]
    query = urllib.parse.urlencode({"q": question, "k": 2})
    status, body = get(f"{address}/search?{query}")
    content = json.loads(body)
    expected = FaqIndex.load(faq, SentenceEncoder.load(model))
    assert status == 200
    assert content["threshold"] == expected.calibration.threshold
    assert [m["id"] for m in content["matches"]] == [m.id for m in expected.search(question, 2)]
    status, body = get(f"{address}/search", json.dumps({"q": question, "k": 3, "threshold": -1}).encode())
    assert len(json.loads(body)["matches"]) == 3
    assert json.loads(get(f"{address}/search?q=")[1])["matches"] == []


def test_the_page(address):
    status, body = get(address)
    assert status == 200
    assert b"<title>FAQ</title>" in body


@pytest.mark.parametrize(
    ("path", "data", "status", "message"),
    [
        ("/search", None, 400, "the question is missing"),
        ("/search?q=a&k=0", None, 400, "k must be from 1 to 100, got 0"),
        ("/search?q=a&k=x", None, 400, "k is a whole number"),
        ("/other", None, 404, "nothing at /other"),
        ("/search", b"{", 400, "Expecting"),
        ("/search", b"[1]", 400, "expected a JSON object"),
        ("/search", b'{"q": 3}', 400, "the question is missing"),
        ("/search", b'{"q": "a", "threshold": []}', 400, "threshold a number"),
        ("/search", b'{"q": "a", "k": 1e999}', 400, "k is a whole number"),
        ("/search", b'{"q": "a", "k": 2.9}', 400, "k is a whole number"),
        ("/search", b'{"q": "a", "k": true}', 400, "k is a whole number"),
        ("/search", b'{"q": "a", "threshold": NaN}', 400, "threshold a number"),
        ("/search", b'{"q": "a", "threshold": true}', 400, "threshold a number"),
        ("/search", b'{"q": "a", "threshold": 1' + b"0" * 400 + b"}", 400, "threshold a number"),
        ("/search?q=a&threshold=nan", None, 400, "threshold a number"),
        ("/search?q=a&threshold=inf", None, 400, "threshold a number"),
        ("/search?seq=1", None, 400, "the question is missing"),
        ("/search", b'{"q": ' + b"[" * 60_000, 400, "recursion"),
        ("/search", b" " * 70_000, 413, "a request of 70000 bytes"),
        ("/search", b" " * 20_000_000, 413, "a request of 20000000 bytes"),
    ],
)
def test_wrong_requests_get_a_sentence(address, path, data, status, message):
    code, body = get(address + path, data)
    assert code == status
    assert message in json.loads(body)["error"]


def raw_request(address: str, content: bytes) -> bytes:
    """The reply to these very bytes, the connection held open."""
    host, port = address.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        connection.sendall(content)
        return b"".join(iter(lambda: connection.recv(65_536), b""))


def test_requests_that_no_client_makes(address):
    reply = raw_request(address, b"GET http://[/search HTTP/1.0\r\n\r\n")
    assert b" 400 " in reply
    assert b"not a URL (Invalid IPv6 URL)" in reply
    reply = raw_request(address, b"POST /search HTTP/1.0\r\nContent-Length: -1\r\n\r\n")
    assert b"a request of -1 bytes" in reply


def test_a_body_that_never_comes_is_not_waited_for(model, faq, monkeypatch):
    monkeypatch.setattr(serve, "SECONDS", 0.2)
    server = make_server(FaqIndex.load(faq, SentenceEncoder.load(model)), "127.0.0.1", 0)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    for length in (100, 100_000):
        reply = raw_request(address, f'POST /search HTTP/1.0\r\nContent-Length: {length}\r\n\r\n{{"q":'.encode())
        assert b" 408 " in reply
        assert f"less than the {length} bytes of Content-Length came within 0.2 s".encode() in reply
    server.shutdown()
    server.server_close()


def test_many_at_once_and_odd_questions(address):
    texts = ["\U0001f600", "x" * 10_000, "怎么还款", "<script>"] * 5
    replies: list[int] = []

    def ask(text: str) -> None:
        replies.append(get(f"{address}/search", json.dumps({"q": text}).encode())[0])

    threads = [threading.Thread(target=ask, args=(text,)) for text in texts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert replies == [200] * len(texts)


def test_a_taken_port_is_named(model, faq):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        found = FaqIndex.load(faq, SentenceEncoder.load(model))
        with pytest.raises(UserError, match="cannot listen at 127"):
            make_server(found, "127.0.0.1", other.getsockname()[1])
