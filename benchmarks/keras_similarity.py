r"""The article's network under Keras (Su 2018, archives/5743), for runs beside ours on the same split and seed.

    PYTHON_WITH_KERAS benchmarks/keras_similarity.py ids.npz vectors.npz --epochs 4 --seed 0

`ids.npz` is written by benchmarks/similarity_groups.py: train (N, 32) and labels (N,), pool (P, 32), num_ids. The
network is the original's: embedding 128, GRU 128 over the zero padding, unit vectors, a Dense without bias whose
columns the `unit_norm` constraint makes unit after each step, Adam, batches of 100 in random order. Writes the pool's
vectors after each epoch, and seconds; with --steps it only times so many steps.
"""

import argparse
import os
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("KERAS_BACKEND", "tensorflow")

import numpy as np

try:
    import keras
    import tensorflow
    from keras import layers, ops
except ImportError:
    sys.exit("error: keras is not installed; install it with: pip install keras tensorflow")

DIM, SCALE, MARGIN = 128, 30.0, 0.35


class Adam(keras.optimizers.Adam):
    """As the article's Keras 2 had it: one gradient a row of the embedding.

    Keras 3 on TensorFlow gets the rows of a batch one by one and squares each, not their sum (3.15.1, 2.21: a row
    named 3,099 times moves 55.7 learning rates in the first step).
    """

    def update_step(self, gradient, variable, learning_rate):
        super().update_step(tensorflow.convert_to_tensor(gradient), variable, learning_rate)


def own_cosine(labels, cosine):
    return ops.take_along_axis(cosine, ops.cast(ops.reshape(labels, (-1, 1)), "int32"), axis=1)


def softmax_loss(labels, cosine):
    return keras.losses.sparse_categorical_crossentropy(labels, SCALE * cosine, from_logits=True)


def shifted_loss(psi):
    """The article's form: a log-sum-exp of all logits and the harder one, from which the target's own is taken out."""

    def loss(labels, cosine):
        own = own_cosine(labels, cosine)
        hard = psi(own)
        log_z = ops.logsumexp(SCALE * ops.concatenate([cosine, hard], axis=1), axis=1, keepdims=True)
        return log_z + ops.log(1 - ops.exp(SCALE * own - log_z)) - SCALE * hard

    return loss


LOSSES = {
    "normalized_softmax": softmax_loss,
    "am_softmax": shifted_loss(lambda own: own - MARGIN),
    "simpler_a_softmax": shifted_loss(lambda own: ops.minimum(8 * own**4 - 8 * own**2 + 1, own)),
}


def build(num_ids: int, num_classes: int, length: int) -> tuple["keras.Model", "keras.Model"]:
    """(encoder, encoder with the class matrix)."""
    ids = keras.Input((length,), dtype="int32")
    x = layers.Embedding(num_ids, DIM)(ids)
    x = layers.GRU(DIM)(x)
    x = layers.UnitNormalization()(x)
    cosine = layers.Dense(num_classes, use_bias=False, kernel_constraint=keras.constraints.UnitNorm(axis=0))(x)
    return keras.Model(ids, x), keras.Model(ids, cosine)


def time_steps(model: "keras.Model", ids: np.ndarray, labels: np.ndarray, batch: int, steps: int) -> float:
    """Sentences a second of `steps` steps, after three that are not counted."""
    for step in range(steps + 3):
        if step == 3:
            start = time.perf_counter()
        chosen = slice(step * batch, (step + 1) * batch)
        model.train_on_batch(ids[chosen], labels[chosen])
    return steps * batch / (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data")
    parser.add_argument("out")
    parser.add_argument("--loss", choices=LOSSES, default="am_softmax")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--batch", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=0, help="only time so many steps")
    arguments = parser.parse_args()
    keras.utils.set_random_seed(arguments.seed)
    data = np.load(arguments.data, allow_pickle=False)
    ids, labels = data["train"].astype("int32"), data["labels"].astype("int32")
    encoder, model = build(int(data["num_ids"]), int(labels.max()) + 1, ids.shape[1])
    model.compile(Adam(), LOSSES[arguments.loss])
    if arguments.steps:
        print(f"{time_steps(model, ids, labels, arguments.batch, arguments.steps):.0f} sentences/s")
        return
    vectors, seconds = [], []
    for epoch in range(arguments.epochs):
        start = time.perf_counter()
        history = model.fit(ids, labels, batch_size=arguments.batch, shuffle=True, verbose=0)
        seconds.append(time.perf_counter() - start)
        vectors.append(encoder.predict(data["pool"].astype("int32"), batch_size=500, verbose=0))
        print(f"epoch {epoch + 1}: loss {history.history['loss'][0]:.4f}, {seconds[-1]:.0f} s", flush=True)
    np.savez(arguments.out, vectors=np.stack(vectors), seconds=np.array(seconds))


if __name__ == "__main__":
    main()
