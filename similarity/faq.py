r"""A FAQ: stored questions with their answers, searched exactly, with a threshold below which there is no answer."""

import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, overload

import numpy as np
import torch
from torch import Tensor

from similarity import storage
from similarity.encoder import SentenceEncoder
from similarity.text import normalize
from similarity.threshold import Calibration, Method, leave_one_out, require_share
from similarity.vectors import FaissVectors, Storage, Vectors
from trainer import UserError

FORMAT = 1
ASKING = 20_000  # questions that calibrate a larger index
Backend = Literal["torch", "faiss"]


@dataclass(frozen=True)
class Match:
    """A stored question and how near it is.

    Args:
        id: the question's number, which stays while others come and go.
        score: cosine, -1 to 1.
        probability: that its answer is right; None without calibration.
    """

    id: int
    question: str
    answer: str
    score: float
    probability: float | None = None


class Texts:
    """Many strings as one block of UTF-8 and where each ends: 8 bytes a string, and mapped from a file as it is."""

    def __init__(self, block: np.ndarray, ends: np.ndarray) -> None:
        self.block, self.ends = block, ends

    @classmethod
    def pack(cls, texts: Sequence[str]) -> "Texts":
        pieces = [text.encode("utf-8", "surrogatepass") for text in texts]
        ends = np.cumsum([len(piece) for piece in pieces], dtype=np.int64)
        return cls(np.frombuffer(b"".join(pieces), np.uint8), ends)

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, row: int) -> str:
        start = int(self.ends[row - 1]) if row else 0
        return self.block[start : int(self.ends[row])].tobytes().decode("utf-8", "surrogatepass")

    def __iter__(self) -> Iterator[str]:
        return (self[row] for row in range(len(self)))

    def take(self, rows: np.ndarray) -> "Texts":
        """The strings of these rows."""
        starts = np.r_[0, self.ends[:-1]]
        pieces = [self.block[starts[row] : self.ends[row]] for row in rows]
        block = np.concatenate(pieces) if pieces else np.empty(0, np.uint8)
        return Texts(block, np.cumsum([len(piece) for piece in pieces], dtype=np.int64))


@dataclass
class Segment:
    """Questions that came together: in one file, or in one `add`."""

    ids: np.ndarray
    questions: Texts
    answers: Texts
    vectors: Vectors
    alive: np.ndarray
    faiss: FaissVectors | None = None


class FaqIndex:
    """Questions and answers, searched by the vectors of one encoder.

        index = FaqIndex(encoder, storage="int8")
        index.add(["怎么还款", "如何提前还清"], ["见还款页", "见还款页"])
        index.calibrate(precision=0.9)
        index.search("怎样还钱", top_k=3)                  # matches at or above the threshold, best first

    The search is exact, whatever the storage: under int8 the codes choose candidates, exact vectors rank them, and
    whatever the codes could have hidden is looked at too.

    Args:
        encoder: makes the vectors of questions and searches; its hash goes into the file.
        storage: of the vectors: float32, float16 (half the memory, similarities to 1e-3), or int8 (a quarter; the
            exact vectors are in a file, and read where they are needed).
        backend: torch, or faiss for a flat FAISS index over float32 vectors (extra `faiss`).
    """

    def __init__(self, encoder: SentenceEncoder, storage: Storage = "float32", backend: Backend = "torch") -> None:
        if backend == "faiss" and storage != "float32":
            raise UserError("--backend faiss searches float32 vectors; leave --storage at float32")
        self.encoder, self.storage, self.backend = encoder, storage, backend
        self.calibration: Calibration | None = None
        self.segments: list[Segment] = []
        self.next_id = 0
        self.generations: dict[Path, str] = {}  # file -> the save of it that this index was loaded from or wrote

    def __len__(self) -> int:
        return sum(int(segment.alive.sum()) for segment in self.segments)

    @property
    def nbytes(self) -> int:
        """Of vectors and texts in memory."""
        parts = [(s.vectors.nbytes, s.ids.nbytes, *(t.block.nbytes + t.ends.nbytes for t in (s.questions, s.answers)))
                 for s in self.segments]  # fmt: skip
        return sum(map(sum, parts))

    def add(self, questions: Sequence[str], answers: Sequence[str] | None = None) -> list[int]:
        """Store questions; returns their ids.

        Raises:
            UserError: an empty question, one without any character that the encoder knows, or another number of
                answers.
        """
        answers = [""] * len(questions) if answers is None else answers
        if len(answers) != len(questions):
            raise UserError(f"{len(questions)} questions, but {len(answers)} answers")
        for number in np.flatnonzero(~self.encoder.knows(questions)).tolist():
            problem = "has no character that the encoder knows" if normalize(questions[number]) else "is empty"
            raise UserError(f"question {number + 1}, {questions[number]!r}, {problem}")
        vectors = np.asarray(self.encoder.encode(list(questions)))
        ids = np.arange(self.next_id, self.next_id + len(questions))
        self.next_id += len(questions)
        self._append(ids, Texts.pack(questions), Texts.pack(answers), Vectors.store(vectors, self.storage))
        return ids.tolist()

    def _append(self, ids: np.ndarray, questions: Texts, answers: Texts, vectors: Vectors) -> None:
        segment = Segment(ids, questions, answers, vectors, np.ones(len(ids), bool))
        if self.backend == "faiss":
            segment.faiss = FaissVectors(vectors.exact)
        self.segments.append(segment)

    def remove(self, questions: str | int | Sequence[str | int]) -> int:
        """Take questions out, by id or by text (as `normalize` sees it); returns how many were there."""
        wanted = [questions] if isinstance(questions, str | int) else list(questions)
        ids = [item for item in wanted if not isinstance(item, str)]
        texts = {normalize(item) for item in wanted if isinstance(item, str)}
        before = len(self)
        for segment in self.segments:
            gone = np.isin(segment.ids, ids)
            if texts:
                gone |= np.fromiter((normalize(text) in texts for text in segment.questions), bool, len(gone))
            segment.alive = segment.alive & ~gone
            if segment.faiss is not None and gone.any():
                self._compact(segment)
        return before - len(self)

    @staticmethod
    def _compact(segment: Segment) -> None:
        """Drop the dead rows for good: FAISS knows no mask."""
        rows = np.flatnonzero(segment.alive)
        segment.ids, segment.alive = segment.ids[rows], np.ones(len(rows), bool)
        segment.questions, segment.answers = segment.questions.take(rows), segment.answers.take(rows)
        segment.vectors = Vectors(segment.vectors.exact[rows], segment.vectors.storage)
        segment.faiss = FaissVectors(segment.vectors.exact)

    @overload
    def search(self, text: str, top_k: int = ..., threshold: float | None = ...) -> list[Match]: ...  # type: ignore[overload-overlap]
    @overload
    def search(self, text: Sequence[str], top_k: int = ..., threshold: float | None = ...) -> list[list[Match]]: ...
    def search(
        self, text: str | Sequence[str], top_k: int = 5, threshold: float | None = None
    ) -> list[Match] | list[list[Match]]:
        """The nearest questions that reach the threshold, best first; nothing means "no answer".

        A text without any character that the encoder knows has no answer, whatever the threshold.

        Args:
            text: one question, or several for a list of lists.
            top_k: at most so many.
            threshold: least score; None: that of the calibration, or none where there is no calibration.

        Raises:
            UserError: top_k below 1.
        """
        if top_k < 1:
            raise UserError(f"top_k must be at least 1, got {top_k}")
        texts = [text] if isinstance(text, str) else list(text)
        if threshold is None:
            threshold = self.calibration.threshold if self.calibration else -1.0
        vectors = torch.as_tensor(self.encoder.encode(texts, convert_to_tensor=True))
        scores, places = self.search_vectors(vectors, top_k)
        asked = self.encoder.knows(texts)  # a question that is empty, or of unknown characters, has no answer
        found = [
            [self._match(s, p) for s, p in zip(row_s, row_p, strict=True) if s >= threshold] if real else []
            for row_s, row_p, real in zip(scores.tolist(), places.tolist(), asked.tolist(), strict=True)
        ]
        return found[0] if isinstance(text, str) else found

    def search_vectors(self, vectors: Tensor, top_k: int) -> tuple[Tensor, Tensor]:
        """The nearest rows of unit vectors (Q, D): scores (Q, K), and rows (Q, K) counted over all segments."""
        scores = torch.empty(len(vectors), 0)
        rows = torch.empty(len(vectors), 0, dtype=torch.int64)
        first = 0
        for segment in self.segments:
            if segment.faiss is not None:
                best, place = segment.faiss.search(vectors, top_k)
            else:
                best, place = segment.vectors.search(vectors, top_k, segment.alive)
            scores, rows = torch.cat([scores, best], dim=1), torch.cat([rows, place + first], dim=1)
            first += len(segment.ids)
        order = scores.argsort(dim=1, descending=True, stable=True)[:, :top_k]
        return scores.gather(1, order), rows.gather(1, order)

    def _match(self, score: float, place: int) -> Match:
        for segment in self.segments:
            if place < len(segment.ids):
                break
            place -= len(segment.ids)
        probability = self.calibration.probability(score) if self.calibration else None
        question, answer = segment.questions[place], segment.answers[place]
        return Match(int(segment.ids[place]), question, answer, score, probability)

    def calibrate(
        self, precision: float = 0.9, unanswerable_share: float = 0.5, method: Method = "isotonic"
    ) -> Calibration:
        """Choose the threshold on the stored questions themselves: each asks the others (`threshold.leave_one_out`).

        Of more than 20,000 questions so many are drawn, which ask all others. Questions that come or go later leave the
        threshold as it is.

        Raises:
            UserError: no two questions have the same answer, or that precision is out of reach.
        """
        require_share("--precision", precision)
        vectors = np.concatenate(
            [np.asarray(s.vectors.exact[s.alive], np.float32) for s in self.segments] or [np.empty((0, 1), np.float32)]
        )
        answers = [s.answers[row] or None for s in self.segments for row in np.flatnonzero(s.alive).tolist()]
        trials = leave_one_out(vectors, answers, unanswerable_share, ASKING)
        self.calibration = Calibration.fit(trials, precision, unanswerable_share, method)
        return self.calibration

    def save(self, path: str | Path) -> None:
        """Write one file, atomically. Afterwards this index is mapped from that file.

        Raises:
            UserError: the disk is full, or someone else saved there since this index was loaded: their additions
                would be lost.
        """
        path = Path(path)
        with storage.locked(path):
            found, known = storage.generation(path), self.generations.get(path.resolve())
            if known is not None and found is not None and found != known:
                raise UserError(
                    f"{path}: was saved by someone else since it was loaded here; load it again and repeat the changes"
                )
            generation = uuid.uuid4().hex
            storage.write(path, {**self._manifest(), "generation": generation}, self._arrays())
            self._adopt(path, *storage.read(path))

    def _manifest(self) -> dict:
        return {
            "format": FORMAT,
            "encoder": self.encoder.sha256(),
            "storage": self.storage,
            "dim": self.encoder.dim,
            "count": len(self),
            "next_id": self.next_id,
            "error": max((s.vectors.error for s in self.segments), default=0.0),
            "calibration": self.calibration.plain() if self.calibration else None,
        }

    def _arrays(self) -> dict[str, list[np.ndarray]]:
        """What is alive, segment by segment, behind an empty first part of the right kind."""
        dtype = np.float32 if self.storage == "int8" else np.dtype(self.storage)
        parts: dict[str, list[np.ndarray]] = {
            "ids": [np.empty(0, np.int64)],
            "exact": [np.empty((0, self.encoder.dim), dtype)],
            **{name: [np.empty(0, np.uint8)] for name in ("questions", "answers")},
            **{f"{name}_ends": [np.empty(0, np.int64)] for name in ("questions", "answers")},
        }
        if self.storage == "int8":
            parts |= {"codes": [np.empty((0, self.encoder.dim), np.int8)], "scales": [np.empty(0, np.float32)]}
        for segment in self.segments:
            rows = slice(None) if segment.alive.all() else np.flatnonzero(segment.alive)
            parts["ids"].append(segment.ids[rows])
            parts["exact"].append(segment.vectors.exact[rows])
            for name in ("questions", "answers"):
                texts: Texts = getattr(segment, name)
                texts = texts if isinstance(rows, slice) else texts.take(rows)
                start = parts[f"{name}_ends"][-1][-1] if len(parts[f"{name}_ends"][-1]) else 0
                parts[name].append(texts.block)
                if len(texts):
                    parts[f"{name}_ends"].append(texts.ends + start)
            if segment.vectors.codes is not None and segment.vectors.scales is not None:
                parts["codes"].append(segment.vectors.codes[rows])
                parts["scales"].append(segment.vectors.scales[rows])
        return parts

    def _adopt(self, path: Path, manifest: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
        """Take over what was read from a file."""
        count, dim = manifest["count"], manifest["dim"]
        names = ["ids", "exact", "questions_ends", "answers_ends"]
        names += ["codes", "scales"] if manifest["storage"] == "int8" else []
        if any(len(arrays.get(name, ())) != count for name in names) or arrays["exact"].shape != (count, dim):
            raise UserError(f"{path}: its arrays do not hold the {count} questions of {dim} dimensions it speaks of")
        self.storage, self.next_id = manifest["storage"], manifest["next_id"]
        self.generations[path.resolve()] = manifest["generation"]
        self.calibration = Calibration.from_plain(manifest["calibration"]) if manifest["calibration"] else None
        vectors = Vectors(arrays["exact"], self.storage, arrays.get("codes"), arrays.get("scales"), manifest["error"])
        questions, answers = (Texts(arrays[name], arrays[f"{name}_ends"]) for name in ("questions", "answers"))
        self.segments = []
        self._append(np.asarray(arrays["ids"]), questions, answers, vectors)

    @classmethod
    def load(cls, path: str | Path, encoder: SentenceEncoder, backend: Backend = "torch") -> "FaqIndex":
        """Map an index that `save` wrote; nothing is read before it is needed.

        Raises:
            UserError: no index, cut short, of another format, or of another model (told by its hash).
        """
        path = Path(path)
        manifest, arrays = storage.read(path)
        if manifest.get("format") != FORMAT:
            raise UserError(f"{path}: an index of format {manifest.get('format')!r}; this version reads {FORMAT}")
        own = encoder.sha256()
        if manifest["encoder"] != own:
            raise UserError(
                f"{path}: made by another model (sha256 {manifest['encoder'][:12]}.., this one has {own[:12]}..); "
                "load it with its own model, or build it again"
            )
        index = cls(encoder, manifest["storage"], backend)
        index._adopt(path, manifest, arrays)
        return index
