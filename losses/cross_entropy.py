r"""Cross-entropy that is less confident. Legend: `B` batch, `C` classes."""

from torch import Tensor, nn

from losses.common import check_reduction, reduce, split_labels, working_precision


def uniform_cross_entropy(
    logits: Tensor, labels: Tensor, epsilon: float = 0.1, reduction: str = "mean", ignore_index: int = -100
) -> Tensor:
    r"""Cross-entropy with a share for the uniform distribution (Su 2017, archives 4493; Szegedy et al. 2016, sec. 7).

    .. math:: L = -(1 - \epsilon) \log p_y - \frac{\epsilon}{C} \sum_j \log p_j, \quad p = \operatorname{softmax}(z)

    Plain cross-entropy falls for ever as the logits z grow; the uniform term stops it.

    *Deviation:* Keras clips probabilities at 1e-7, so that a certain wrong answer costs 16.118 and has no gradient;
    here nothing is clipped. `torch.nn.functional.cross_entropy(label_smoothing=epsilon)` is the same number.

    Args:
        logits: (B, C), any real numbers.
        labels: (B,) class numbers, or `ignore_index`.
        epsilon: the share of the uniform distribution, 0 to 1.
        reduction: `none`, `mean` (over the rows that count; 0 where none does) or `sum`.

    Returns:
        (B,) for `none`, else a scalar.

    Raises:
        ValueError: shapes that do not fit, epsilon or a label out of range.
    """
    _check_epsilon(epsilon)
    if logits.dim() != 2:
        raise ValueError(f"logits have shape {tuple(logits.shape)}; expected (batch, classes)")
    logits = working_precision(logits)
    index, counted = split_labels(labels, logits.shape[1], ignore_index, logits.shape[:1])
    surprise = -logits.log_softmax(dim=1)  # (B, C)
    target = surprise.gather(1, index[:, None]).squeeze(1)
    if epsilon > 0:  # else a class ruled out by a logit of -inf would make 0 x inf
        target = (1 - epsilon) * target + epsilon * surprise.mean(dim=1)
    return reduce(target, reduction, counted)


def _check_epsilon(epsilon: float) -> None:
    if not 0 <= epsilon <= 1:
        raise ValueError(f"epsilon is {epsilon}; expected 0 to 1")


class UniformCrossEntropyLoss(nn.Module):
    """Module of :func:`uniform_cross_entropy`."""

    def __init__(self, epsilon: float = 0.1, reduction: str = "mean", ignore_index: int = -100):
        super().__init__()
        check_reduction(reduction)
        _check_epsilon(epsilon)
        self.epsilon, self.reduction, self.ignore_index = epsilon, reduction, ignore_index

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        return uniform_cross_entropy(logits, labels, self.epsilon, self.reduction, self.ignore_index)
