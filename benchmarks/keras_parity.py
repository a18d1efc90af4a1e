r"""Twenty steps of Adam, the articles' networks under Keras 3 beside ours: same weights in, same weights out?

    python benchmarks/keras_parity.py            # both networks, float32 and float64; needs: pip install keras h5py

The Keras side is written as the originals are (layers, loss, optimiser, constraint); its starting weights are saved by
Keras, read by `trainer.keras` and loaded into the networks here. Prints, a network and precision, the largest
difference of any weight after the last step, the same between ours in that precision and in float64 (where float32
rounds a ReLU or a tiny gradient across zero, Adam turns it into a whole step: no two programs agree there), how far
the weights moved, and the losses.
Su 2018: archives 5743 (sentences: AM-Softmax, projected class vectors), archives 5112 (digits: capsules, margin loss).
"""

import argparse
import copy
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

os.environ["KERAS_BACKEND"] = "torch"

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import losses
from capsnet import DigitCapsNet
from similarity import Architecture, SentenceEncoder
from trainer.keras import read_keras
from trainer.keras_training import KerasAdam

try:
    import keras
    from keras import layers, ops
    from keras_digits import capsule_margin_keras, keras_digits, l2_normalize
except ImportError:
    sys.exit("error: keras is not installed; install it with: pip install keras h5py")

VOCABULARY, LENGTH, DIM, GROUPS = 300, 32, 128, 500  # the article's sizes but for the number of characters and groups
RATE = 1e-3
Batches = list[tuple[np.ndarray, np.ndarray]]


def am_softmax_keras(labels, cosine):
    """The article's form: a log-sum-exp of all logits and the margin's, from which the target's own is taken out."""
    own = ops.take_along_axis(cosine, ops.cast(ops.reshape(labels, (-1, 1)), "int32"), axis=1)
    hard = own - 0.35
    log_z = ops.logsumexp(30 * ops.concatenate([cosine, hard], axis=1), axis=1, keepdims=True)
    return log_z + ops.log(1 - ops.exp(30 * own - log_z)) - 30 * hard


def keras_sentences() -> "keras.Model":
    ids = keras.Input((LENGTH,), dtype="int32")
    x = layers.Embedding(VOCABULARY, DIM)(ids)
    x = layers.GRU(DIM, reset_after=True)(x)
    x = layers.Lambda(l2_normalize)(x)
    # a Dense without bias; as an einsum, since ops.matmul of Keras 3.15 computes float64 in float32 under torch
    x = layers.EinsumDense("bd,dc->bc", GROUPS, kernel_constraint=keras.constraints.UnitNorm(axis=0))(x)
    return keras.Model(ids, x)


class Sentences(nn.Module):
    """The article's encoder, and the head with projected class vectors."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = SentenceEncoder(VOCABULARY, Architecture(padding="original", max_length=LENGTH))
        self.head = losses.MarginSoftmaxHead(DIM, GROUPS, "am_softmax", unit_columns="projected", chunk_size=128)

    def load(self, path: Path) -> None:
        modules = [self.encoder.embedding, self.encoder.gru]
        [classes] = read_keras(path).load(modules, also={"einsum_dense": 1})
        self.head.weight.data = torch.tensor(classes.arrays["0"].T.copy())

    def loss(self, ids: Tensor, labels: Tensor) -> Tensor:
        return self.head(self.encoder(ids), labels)

    def after_step(self) -> None:
        self.head.project_()


class Digits(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = DigitCapsNet()

    def load(self, path: Path) -> None:
        [capsule] = read_keras(path).load(self.net.features.convolutions, also={"capsule": 1})
        weight = self.net.capsules.weight  # as DigitCapsNet.from_keras, but in float64 where that is asked for
        weight.data = torch.tensor(capsule.arrays["0"]).reshape(weight.shape)

    def loss(self, images: Tensor, present: Tensor) -> Tensor:
        lengths = self.net(images.permute(0, 3, 1, 2))
        return losses.capsule_margin(lengths, present, down_weight=0.25) / present.shape[1]  # Keras's mean over classes

    def after_step(self) -> None:
        pass


def sentence_batches(rng: np.random.Generator, steps: int) -> Batches:
    return [(rng.integers(0, VOCABULARY, (100, LENGTH)), rng.integers(0, GROUPS, 100)) for _ in range(steps)]


def digit_batches(rng: np.random.Generator, steps: int) -> Batches:
    """Smooth blobs, one pattern a class: what the weights learn does not matter here, that they move does."""
    patterns = F.interpolate(torch.tensor(rng.random((10, 1, 5, 5))), 28, mode="bicubic").numpy().transpose(0, 2, 3, 1)
    labels = [rng.integers(0, 10, 32) for _ in range(steps)]
    return [(patterns[y] + 0.2 * rng.random((32, 28, 28, 1)), np.eye(10)[y]) for y in labels]


NETWORKS: dict[str, tuple[Callable, Callable, type, Callable]] = {
    "sentences": (keras_sentences, am_softmax_keras, Sentences, sentence_batches),
    "digits": (keras_digits, capsule_margin_keras, Digits, digit_batches),
}


def torch_weights(net: nn.Module) -> dict[str, np.ndarray]:
    return {name: value.detach().numpy().copy() for name, value in net.state_dict().items()}


def compare(network: str, precision: str, steps: int, folder: Path, seed: int) -> dict[str, float]:
    make_keras, keras_loss, ours_class, make_batches = NETWORKS[network]
    keras.utils.set_random_seed(seed)
    keras.config.set_floatx(precision)
    keras.config.set_dtype_policy(precision)  # set_floatx alone does not reach layers once one has been made
    dtype = getattr(torch, precision)
    batches = make_batches(np.random.default_rng(seed), steps)
    model = make_keras()
    model.compile(keras.optimizers.Adam(RATE), keras_loss)

    def through_file(name: str) -> nn.Module:
        """The Keras model's weights of this moment in a network of ours."""
        path = folder / f"{network}_{precision}_{name}.weights.h5"
        model.save_weights(path)
        net = ours_class().to(dtype)
        net.load(path)
        return net.to(dtype)

    ours = through_file("before")
    start = torch_weights(ours)
    exact = ours if precision == "float64" else copy.deepcopy(ours).double()  # the control: rounding alone
    keras_losses = [float(model.train_on_batch(*batch)) for batch in batches]
    our_losses = train(ours, batches)
    if exact is not ours:
        train(exact, batches)
    theirs, mine = torch_weights(through_file("after")), torch_weights(ours)
    return {
        "weights_apart": apart(mine, theirs),
        "rounding_apart": apart(mine, torch_weights(exact)),
        "weights_moved": apart(mine, start),
        "losses_apart": max(abs(a - b) for a, b in zip(keras_losses, our_losses, strict=True)),
        "first_loss": our_losses[0],
        "last_loss": our_losses[-1],
    }


def train(net: nn.Module, batches: Batches) -> list[float]:
    dtype = next(net.parameters()).dtype
    optimizer = KerasAdam(net.parameters(), lr=RATE)
    values = []
    for inputs, targets in batches:
        given = torch.tensor(inputs)
        loss = net.loss(given.to(dtype) if given.is_floating_point() else given, torch.tensor(targets))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        net.after_step()
        values.append(loss.item())
    return values


def apart(some: dict[str, np.ndarray], others: dict[str, np.ndarray]) -> float:
    return float(max(abs(some[name] - others[name]).max() for name in some))


def main(argv: list[str] | None = None) -> dict[str, dict[str, float]]:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--steps", type=int, default=20, help="optimiser steps (default 20)")
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument(
        "--seeds", type=int, nargs="+", default=[0, 1, 2], help="of weights and batches (default 0 1 2)"
    )
    parser.add_argument("--precisions", nargs="+", choices=("float32", "float64"), default=["float32", "float64"])
    arguments = parser.parse_args(argv)
    print(
        f"keras {keras.__version__} ({keras.backend.backend()} backend), torch {torch.__version__}, "
        f"{arguments.steps} steps"
    )
    print("network\tprecision\tseed\tweights_apart\trounding_apart\tweights_moved\tlosses_apart\tfirst_loss\tlast_loss")
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        for network in arguments.networks:
            for precision in arguments.precisions:
                for seed in arguments.seeds:
                    row = compare(network, precision, arguments.steps, Path(folder), seed)
                    results[f"{network} {precision} {seed}"] = row
                    numbers = [f"{value:.3g}" for value in row.values()]
                    print("\t".join([network, precision, str(seed), *numbers]), flush=True)
    return results


if __name__ == "__main__":
    main()
