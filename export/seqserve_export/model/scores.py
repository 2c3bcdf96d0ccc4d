"""How well a key answers a query, and which keys may: attention scores, and the windows of local attention.

Scores take queries and keys that are already projected, so that a decoder projects the keys once per source and not at
every step. All of them return [batch, queries, keys]; the weights are ``attention.masked_softmax`` of them.
"""

import torch
from torch import Tensor


def visible_keys(lengths: Tensor, count: int) -> Tensor:
    """Bool [batch, 1, count]: the first ``lengths[b]`` keys of each row; ``lengths`` is integer [batch]."""
    return (torch.arange(count, device=lengths.device)[None, :] < lengths[:, None])[:, None]


def dot_score(query: Tensor, key: Tensor, scale: float | Tensor = 1.0) -> Tensor:
    """``scale * q . k``: Luong et al. 2015, equation 8 (dot); with 1 / sqrt(width), Vaswani et al. 2017, equation 1.

    Args:
        query: float [batch, queries, width].
        key: float [batch, keys, width].
        scale: number, or tensor of one.

    Returns:
        [batch, queries, keys].
    """
    return torch.matmul(query * scale, key.transpose(-1, -2))


def general_score(query: Tensor, key: Tensor, weight: Tensor) -> Tensor:
    """``q^T W k``: Luong et al. 2015, equation 8 (general).

    Where ``W k`` is known beforehand, this is ``dot_score`` of it.

    Args:
        query: float [batch, queries, query width].
        key: float [batch, keys, key width].
        weight: float [query width, key width], the layout of ``nn.Linear(key width, query width).weight``.

    Returns:
        [batch, queries, keys].
    """
    return dot_score(query, torch.matmul(key, weight.transpose(0, 1)))


def additive_score(query: Tensor, key: Tensor, vector: Tensor, scale: float | Tensor = 1.0) -> Tensor:
    """``v . tanh(scale * (q + k))`` with ``q = W_q query`` and ``k = W_k key``: Bahdanau et al. 2015, appendix A.1.2.

    Args:
        query: float [batch, queries, hidden], projected.
        key: float [batch, keys, hidden], projected.
        vector: float [hidden].
        scale: number, or tensor of one.

    Returns:
        [batch, queries, keys]; on the way there are queries * keys * hidden values per row.
    """
    return torch.matmul(torch.tanh((query[:, :, None] + key[:, None]) * scale), vector)


def concat_score(query: Tensor, key: Tensor, weight: Tensor, vector: Tensor) -> Tensor:
    """``v . tanh(W [q; k])``: Luong et al. 2015, equation 8 (concat).

    ``W`` falls into a part for queries and one for keys, and then this is the additive score: which is how it is
    computed, as joining every query with every key would repeat both products.

    Args:
        query: float [batch, queries, query width].
        key: float [batch, keys, key width].
        weight: float [hidden, query width + key width].
        vector: float [hidden].

    Returns:
        [batch, queries, keys].
    """
    own = query.shape[-1]
    return additive_score(torch.matmul(query, weight[:, :own].T), torch.matmul(key, weight[:, own:].T), vector)


def monotonic_centre(steps: Tensor, lengths: Tensor) -> Tensor:
    """Where local-m attention looks: source position ``p_t = t``; Luong et al. 2015, section 3.2.

    The paper does not say what a target longer than its source looks at; here it stays at the last source token, so
    that no window is empty.

    Args:
        steps: integer [batch, queries], target positions from 0.
        lengths: integer [batch], source lengths.

    Returns:
        float32 [batch, queries], from 0.
    """
    return torch.minimum(steps, lengths[:, None] - 1).float()


def predictive_centre(projected: Tensor, vector: Tensor, lengths: Tensor) -> Tensor:
    """Where local-p attention looks: ``p_t = S * sigmoid(v_p . tanh(W_p h_t))``; Luong et al. 2015, equation 9.

    Args:
        projected: float [batch, queries, hidden], ``W_p h_t``.
        vector: float [hidden], ``v_p``.
        lengths: integer [batch], the ``S``.

    Returns:
        float [batch, queries], a real number in [0, S]; the first source token is at 0.
    """
    return torch.sigmoid(torch.matmul(torch.tanh(projected), vector)) * lengths[:, None]


def window(centre: Tensor, reach: int, count: int) -> Tensor:
    """Bool [batch, queries, count]: keys at most ``reach`` (the paper's D, at least 1) away from ``centre``.

    Combine it with ``visible_keys``; within valid lengths it is then never empty. ``centre`` is [batch, queries].
    """
    return _distance(centre, count).abs() <= reach


def gaussian_factor(centre: Tensor, reach: int, count: int) -> Tensor:
    """``exp(-(s - p_t)^2 / (2 sigma^2))`` with ``sigma = D / 2``: Luong et al. 2015, equation 10.

    Local-p attention multiplies its weights, already normalised, by it; they then no longer add up to one.

    Args:
        centre: float [batch, queries].
        reach: the paper's D, at least 1.
        count: number of keys.

    Returns:
        float [batch, queries, count].
    """
    return torch.exp(_distance(centre, count).square() / -(reach**2 / 2))


def _distance(centre: Tensor, count: int) -> Tensor:
    """Key position minus centre, [batch, queries, count]."""
    return torch.arange(count, device=centre.device, dtype=centre.dtype) - centre[..., None]


