r"""The sentence encoder: characters to one unit vector (Su 2018, archives/5743, and beyond it).

Legend: `B` sentences, `T` characters, `H` width of the GRU, `D` dimension of a sentence.
"""

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from similarity.features import NgramBag
from similarity.text import PAD, UNKNOWN, Vocabulary, padded
from trainer import UserError, entries_of, load_checkpoint, load_weights, save_checkpoint
from trainer.keras import read_keras

Padding = Literal["mask", "original"]
Pooling = Literal["last", "mean", "max"]
ENCODE_TOKENS = 16_384  # characters that `encode` computes at a time: large enough for speed, small enough for caches


@dataclass(frozen=True)
class Architecture:
    """What an encoder is made of; the defaults are the article's network."""

    dim: int = 128
    """D, of a sentence vector"""
    embedding_dim: int = 128
    """of a character"""
    hidden: int = 128
    """H, width of the GRU in one direction; 0: no GRU"""
    bidirectional: bool = False
    """a second GRU from the end to the start"""
    pooling: Pooling = "last"
    """of the GRU's states over a sentence: the last one, the mean or the maximum"""
    padding: Padding = "mask"
    """mask: the padding is not there; original: the GRU runs over it up to max_length, as in the article's code"""
    max_length: int = 32
    """characters of a sentence that are read"""
    buckets: int = 0
    """of the n-gram bag; 0: no bag"""
    order: int = 2
    """characters of the longest n-gram of the bag"""
    ngram_drop: float = 0.0
    """share of a sentence's n-grams left out in training"""
    dropout: float = 0.0
    """on the GRU's inputs and its pooled state, in training"""

    def __post_init__(self) -> None:
        if not (self.hidden or self.buckets):
            raise UserError("an encoder needs a GRU (--hidden), an n-gram bag (--buckets), or both")
        if self.padding == "original" and (self.bidirectional or self.pooling != "last" or self.buckets):
            raise UserError("--padding original is the article's network: one direction, the last state, no n-grams")
        for name in ("dim", "embedding_dim", "max_length", "order"):
            if getattr(self, name) < 1:
                raise UserError(f"--{name.replace('_', '-')} must be at least 1, got {getattr(self, name)}")


class SentenceEncoder(nn.Module):
    r"""Ids (B, T) -> unit vectors (B, D); `encode` does the same to texts.

    The article's network is a character embedding, a GRU and :math:`v = h_T / |h_T|`. Ours adds to it, or puts in its
    place, an :class:`~similarity.features.NgramBag`; where both are there, both halves are made unit, the GRU's is
    weighed by a learned factor, and the sum is made unit.

    Args:
        vocabulary: of the characters; a number of ids where the characters are not known (a Keras file).
        architecture: see `Architecture`.

    Shape: ids (B, T) int64, 0 behind the end of a sentence -> (B, D). A sentence without any character is the zero
    vector under `padding="mask"`: similar to nothing.
    """

    def __init__(self, vocabulary: Vocabulary | int, architecture: Architecture | None = None) -> None:
        super().__init__()
        a = self.architecture = architecture or Architecture()
        self.vocabulary = vocabulary if isinstance(vocabulary, Vocabulary) else None
        self.num_ids = len(vocabulary) if isinstance(vocabulary, Vocabulary) else vocabulary
        self.bag = NgramBag(self.num_ids, a.dim, a.buckets, a.order, a.ngram_drop) if a.buckets else None
        if a.hidden:
            width = a.hidden * (2 if a.bidirectional else 1)
            self.embedding = nn.Embedding(self.num_ids, a.embedding_dim)
            self.gru = nn.GRU(a.embedding_dim, a.hidden, batch_first=True, bidirectional=a.bidirectional)
            self.project = nn.Linear(width, a.dim, bias=False) if self.bag is not None or width != a.dim else None
            if self.bag is not None:
                self.balance = nn.Parameter(torch.tensor(0.5))  # of the GRU's half against the bag's

    @property
    def dim(self) -> int:
        """D."""
        return self.architecture.dim

    def forward(self, ids: Tensor) -> Tensor:
        a = self.architecture
        if not a.hidden:
            return F.normalize(self.bag(ids), dim=1)  # type: ignore[misc]
        with torch.autocast(ids.device.type, enabled=False):  # in bfloat16 a state forgets what a long sentence adds
            state = self._gru_state(ids)
        state = state if self.project is None else self.project(state)  # (B, D)
        if self.bag is not None:
            state = F.normalize(self.bag(ids), dim=1) + self.balance * F.normalize(state, dim=1)
        return F.normalize(state, dim=1)

    def _gru_state(self, ids: Tensor) -> Tensor:
        """The GRU's states over a sentence as one: (B, H), or (B, 2H) in both directions."""
        a = self.architecture
        if a.padding == "original":
            ids = F.pad(ids, (0, a.max_length - ids.shape[1]))  # cuts what is longer
            return self.gru(self.embedding(ids))[1][0]
        real = ids != PAD
        lengths = real.sum(dim=1)
        inputs = F.dropout(self.embedding(ids), a.dropout, self.training)
        # in one direction what stands behind a sentence cannot reach back into it
        states = self._both_directions(inputs, lengths) if a.bidirectional else self.gru(inputs)[0]  # (B, T, H or 2H)
        if a.pooling == "last":
            ends = (lengths.clamp(min=1) - 1)[:, None, None].expand(-1, 1, a.hidden)
            state = states[..., : a.hidden].gather(1, ends).squeeze(1)  # (B, H)
            if a.bidirectional:
                state = torch.cat([state, states[:, 0, a.hidden :]], dim=1)  # the other direction ends at the start
        elif a.pooling == "mean":
            state = (states * real[..., None]).sum(dim=1) / lengths.clamp(min=1)[:, None]
        else:
            state = states.masked_fill(~real[..., None], -torch.inf).amax(dim=1)
        state = state.masked_fill((lengths == 0)[:, None], 0.0)
        return F.dropout(state, a.dropout, self.training)

    def _both_directions(self, inputs: Tensor, lengths: Tensor) -> Tensor:
        packed = nn.utils.rnn.pack_padded_sequence(
            inputs, lengths.clamp(min=1).cpu(), batch_first=True, enforce_sorted=False
        )
        states, _ = nn.utils.rnn.pad_packed_sequence(self.gru(packed)[0], True, total_length=inputs.shape[1])
        return states

    @torch.no_grad()
    def encode(
        self,
        sentences: str | Sequence[str],
        batch_size: int | None = None,
        show_progress_bar: bool | None = None,
        convert_to_tensor: bool = False,
        normalize_embeddings: bool = True,
        *,
        convert_to_numpy: bool = True,
        device: str | torch.device | None = None,
        output_value: str = "sentence_embedding",
        prompt: str | None = None,
        prompt_name: str | None = None,
        precision: str = "float32",
    ) -> np.ndarray | Tensor:
        """Unit vectors (N, D), float32, in the order of the sentences; (D,) for one string.

        The arguments are those of sentence_transformers; the vectors are unit whatever `normalize_embeddings` says, and
        those behind the asterisk take no other value than the default, or the model's own device.

        Args:
            batch_size: sentences at a time; None: as many as make 16,384 characters, of similar length.
            show_progress_bar: None: where it takes more than a second or two.

        Raises:
            UserError: the model came from a file without characters, or a value that is not supported.
        """
        own = next(self.parameters()).device
        if device is not None and torch.device(device) not in (own, torch.device(own.type)):
            raise UserError(f"encode(device={str(device)!r}): the model is on {own}; move it with .to({str(device)!r})")
        given = {
            "convert_to_numpy": (convert_to_numpy or convert_to_tensor, True),
            "output_value": (output_value, "sentence_embedding"),
            "prompt": (prompt, None),
            "prompt_name": (prompt_name, None),
            "precision": (precision, "float32"),
        }
        for name, (value, only) in given.items():
            if value != only:
                raise UserError(f"encode({name}={value!r}) is not supported; leave it at {only!r}")
        if isinstance(sentences, str):
            one = self.encode([sentences], convert_to_tensor=convert_to_tensor)
            return one[0]
        ids, lengths = self._ragged(sentences)
        training = self.training
        self.eval()
        starts = np.concatenate([[0], np.cumsum(lengths)])
        vectors = torch.empty(len(sentences), self.dim)
        order = np.argsort(lengths, kind="stable")
        hidden = len(sentences) < 50_000 if show_progress_bar is None else not show_progress_bar
        bar = tqdm(total=len(sentences), desc="encode", unit=" sentences", disable=hidden, leave=False)
        first = 0
        while first < len(order):
            last = first + (batch_size or self._rows_at(int(lengths[order[first]])))
            rows = order[first:last]
            cells = np.concatenate([ids[starts[row] : starts[row + 1]] for row in rows])
            vectors[torch.from_numpy(rows)] = self(padded(cells, lengths[rows]).to(own)).float().cpu()
            bar.update(len(rows))
            first += len(rows)
        bar.close()
        self.train(training)
        return vectors if convert_to_tensor else vectors.numpy()

    def knows(self, sentences: Sequence[str]) -> np.ndarray:
        """Which sentences (N,) have a character of the vocabulary within max_length; vectors of others say nothing.

        Raises:
            UserError: as `encode`.
        """
        ids, lengths = self._ragged(sentences)
        rows = np.repeat(np.arange(len(lengths)), lengths)
        return np.bincount(rows[ids > UNKNOWN], minlength=len(lengths)) > 0

    def _ragged(self, sentences: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        if self.vocabulary is None:
            raise UserError("this model knows ids only; give its characters: from_keras(path, vocabulary=..)")
        return self.vocabulary.ragged(sentences, self.architecture.max_length)

    @staticmethod
    def _rows_at(length: int) -> int:
        return max(16, ENCODE_TOKENS // max(1, length))

    def sha256(self) -> str:
        """Of everything that a vector depends on; an index keeps it and refuses vectors of any other model."""
        digest = hashlib.sha256(repr(dataclasses.astuple(self.architecture)).encode())
        digest.update(self.vocabulary.sha256().encode() if self.vocabulary else b"")
        for name, value in sorted(self.state_dict().items()):
            digest.update(name.encode() + value.detach().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()

    def content(self) -> dict[str, Any]:
        """What a checkpoint needs to make this encoder again."""
        return {
            "architecture": dataclasses.asdict(self.architecture),
            "characters": self.vocabulary.characters if self.vocabulary else None,
            "num_ids": self.num_ids,
            "model": self.state_dict(),
        }

    def save(self, path: str | Path) -> None:
        """Write everything into one file, atomically; read it with `load`."""
        save_checkpoint(Path(path), {"model_name": type(self).__name__, **self.content()})

    @classmethod
    def load(cls, path: str | Path) -> "SentenceEncoder":
        """The encoder of a file that `save` wrote, or of a run of `similarity.train`; in evaluation mode.

        Raises:
            UserError: no such file, or not one of these.
        """
        path = Path(path)
        if path.is_dir():
            path = path / "encoder.pt"
        return cls.from_content(load_checkpoint(path, cls.__name__), path)

    @classmethod
    def from_content(cls, content: Mapping[str, Any], path: Path) -> "SentenceEncoder":
        with entries_of(path):
            characters = content["characters"]
            vocabulary = Vocabulary(characters) if characters is not None else content["num_ids"]
            model = cls(vocabulary, Architecture(**content["architecture"]))
            load_weights(model, content["model"], path)
        return model.eval()

    @classmethod
    def from_keras(
        cls, path: str | Path, vocabulary: Vocabulary | None = None, max_length: int = 32
    ) -> "SentenceEncoder":
        """The article's network with the weights that its Keras script saved, from a GRU or a CuDNNGRU.

        Padding is `original`: the GRU runs over it. The class matrix in the file is passed over.

        Args:
            vocabulary: the characters behind the ids, needed by `encode`; the file does not hold them.

        Raises:
            UserError: another network, or a vocabulary of another size.
        """
        file = read_keras(path)
        [embedding], [gru] = file.take("embedding", 1), file.take("gru", 1)
        num_ids, embedding_dim = next(iter(embedding.arrays.values())).shape
        hidden = gru.arrays["recurrent_kernel"].shape[0]
        if vocabulary is not None and len(vocabulary) != num_ids:
            raise UserError(f"{path}: {num_ids} ids, but the vocabulary has {len(vocabulary)}")
        architecture = Architecture(hidden, embedding_dim, hidden, padding="original", max_length=max_length)
        model = cls(num_ids if vocabulary is None else vocabulary, architecture)
        classes = dict.fromkeys(("dense", "einsum_dense"))
        file.load([model.embedding, model.gru], also=classes)
        return model.eval()
