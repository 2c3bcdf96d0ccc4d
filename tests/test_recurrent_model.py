"""The recurrent model against sums written out, one number after the other, for every wiring, score and window."""

import itertools
import json
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from seqserve_export import reference
from seqserve_export.model import RecurrentConfig, RecurrentSeq2Seq
from seqserve_export.model.config import ConfigError
from tiny_recurrent import RECURRENT, recurrent_config, recurrent_model

Array = NDArray[np.float64]
CHOICES = list(itertools.product(
    (("bahdanau", False), ("luong", False), ("luong", True)), ("additive", "dot", "general", "concat"),
    ("global", "monotonic", "predictive"),
))


class Written:
    """One source and one target at a time, in float64, from the names of parameters alone."""

    def __init__(self, model: RecurrentSeq2Seq) -> None:
        self.config = model.config
        self.weights: dict[str, Array] = {name: value.double().numpy() for name, value in model.state_dict().items()}

    def unit(self, side: str, layer: str, inputs: Array, hidden: Array) -> Array:
        """Cho et al. 2014; the reset gate is behind the product, as in cuDNN and PyTorch."""
        given, kept = (
            self.weights[f"{side}.weight_{name}_{layer}"] @ value + self.weights[f"{side}.bias_{name}_{layer}"]
            for name, value in (("ih", inputs), ("hh", hidden))
        )
        size = len(hidden)
        reset, update = (
            1 / (1 + np.exp(-(given[part] + kept[part]))) for part in (slice(size), slice(size, 2 * size))
        )
        new = np.tanh(given[2 * size :] + reset * kept[2 * size :])
        result: Array = (1 - update) * new + update * hidden
        return result

    def encode(self, source: list[int]) -> tuple[list[Array], list[Array]]:
        """States of every token, and the last of every layer."""
        config, count = self.config, len(source)
        read = source + [config.source_pad_id] * (config.padded_source_length - count)
        states = [self.weights["source_embedding.tokens.weight"][token] for token in read]
        size, last = config.hidden_width // (2 if config.bidirectional else 1), []
        for layer in range(config.encoder_layers):
            directions = []
            for suffix in ("", "_reverse")[: 1 + config.bidirectional]:
                hidden, found = np.zeros(size), []
                for state in states if not suffix else reversed(states):
                    hidden = self.unit("encoder", f"l{layer}{suffix}", state, hidden)
                    found.append(hidden)
                directions.append(found if not suffix else found[::-1])
                last.append(hidden)
            states = [np.concatenate(parts) for parts in zip(*directions, strict=True)]
        each = 1 + config.bidirectional
        ends = [np.concatenate(last[at : at + each]) for at in range(0, len(last), each)]
        return states[:count], ends[-config.decoder_layers :]

    def score(self, query: Array, state: Array) -> float:
        """Of one source token."""
        weights = self.weights
        if self.config.score in ("additive", "concat"):
            inner = weights["attention.query.weight"] @ query + weights["attention.key.weight"] @ state
            return float(weights["attention.score.weight"][0] @ np.tanh(inner))
        key = weights["attention.key.weight"] @ state if self.config.score == "general" else state
        return float(query @ key) / (np.sqrt(len(query)) if self.config.scaled else 1.0)

    def attend(self, query: Array, states: list[Array], step: int) -> Array:
        """Weights of a source, of which a window sees a part."""
        count, reach, centre = len(states), self.config.half_window, float("nan")
        if self.config.window == "monotonic":
            centre = min(step, count - 1)
        elif self.config.window == "predictive":
            inner = np.tanh(self.weights["attention.position.weight"] @ query)
            centre = count / (1 + np.exp(-float(self.weights["attention.centre.weight"][0] @ inner)))
        weights = np.zeros(count)
        for place in range(count):
            if self.config.window == "global" or centre - reach <= place <= centre + reach:
                weights[place] = np.exp(self.score(query, states[place]))
        weights /= weights.sum()
        if self.config.window == "predictive":
            weights *= np.exp(-((np.arange(count) - centre) ** 2) / (2 * (reach / 2) ** 2))
        return weights

    def logits(self, source: list[int], target: list[int]) -> tuple[Array, Array]:
        """[target, vocabulary], and what was attended to [target, source]."""
        states, hidden = self.encode(source)
        fed, logits, attended = np.zeros(self.config.hidden_width), [], []
        for step, token in enumerate(target):
            embedded = self.weights["target_embedding.tokens.weight"][token]
            if self.config.wiring == "bahdanau":
                attended.append(self.attend(hidden[-1], states, step))
                inputs = np.concatenate([attended[-1] @ np.stack(states), embedded])
            else:
                inputs = np.concatenate([fed, embedded]) if self.config.input_feeding else embedded
            for layer, before in enumerate(hidden):
                hidden[layer] = inputs = self.unit("decoder", f"l{layer}", inputs, before)
            if self.config.wiring == "luong":
                attended.append(self.attend(inputs, states, step))
                joined = np.concatenate([attended[-1] @ np.stack(states), inputs])
                fed = inputs = np.tanh(self.weights["combine.weight"] @ joined)
            row = self.weights["output.weight"] @ inputs
            logits.append(row + self.weights["output_bias"] if self.config.output_bias else row)
        return np.stack(logits), np.stack(attended)


def assert_as_written(model: RecurrentSeq2Seq) -> None:
    """Sources of several lengths in one batch, padded with what is never read."""
    rng = np.random.default_rng(0)
    lengths = [1, 7, 12]
    sources = [rng.integers(3, 50, length).tolist() for length in lengths]
    targets = rng.integers(3, 50, (3, 9))
    ids = torch.full((3, 14), 49)
    for row, source in enumerate(sources):
        ids[row, : len(source)] = torch.tensor(source)
    state = model.begin(model.encode(ids, torch.tensor(lengths)), torch.tensor(lengths))
    logits = model.decode(torch.from_numpy(targets), state)
    for row, source in enumerate(sources):
        expected, attended = Written(model).logits(source, targets[row].tolist())
        np.testing.assert_allclose(logits[row].numpy(), expected, atol=2e-5)
        weights = torch.stack(state.weights, dim=1)[row].numpy()
        np.testing.assert_allclose(weights[:, : len(source)], attended, atol=2e-5)
        assert not weights[:, len(source) :].any()


@pytest.mark.parametrize(("wiring", "score", "window"), CHOICES)
def test_every_wiring_score_and_window_is_its_formula(wiring: tuple[str, bool], score: str, window: str) -> None:
    name, feeding = wiring
    assert_as_written(recurrent_model(
        wiring=name, input_feeding=feeding, score=score, window=window, half_window=2, scaled=score == "dot"
    ))


@pytest.mark.parametrize("changes", [
    *RECURRENT.values(), {"bidirectional": True, "padded_source_length": 9}, {"encoder_layers": 3, "decoder_layers": 1},
    {"hidden_width": 24, "tied_output": True},
])
def test_what_else_a_configuration_changes_is_as_written(changes: dict[str, Any]) -> None:
    assert_as_written(recurrent_model(**changes))


@pytest.mark.parametrize("changes", RECURRENT.values(), ids=list(RECURRENT))
def test_one_token_at_a_time_is_teacher_forcing(changes: dict[str, Any]) -> None:
    model = recurrent_model(**changes)
    sources = [[5, 6, 7, 1], [9, 1]]
    assert [one.token_ids for one in reference.greedy(model, sources, 12)] == [
        one.token_ids for one in reference.greedy(model, sources, 12, cache=False)
    ]


def test_tied_and_shared_weights_are_one_tensor() -> None:
    model = recurrent_model(shared_embeddings=True, tied_output=True, embedding_width=32)
    assert model.output.weight is model.source_embedding.tokens.weight is model.target_embedding.tokens.weight


def test_a_model_without_values_takes_no_memory() -> None:
    model = RecurrentSeq2Seq.without_values(recurrent_config(window="predictive", wiring="luong"))
    assert all(parameter.is_meta for parameter in model.parameters())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"score": "cosine"}, "score: 'cosine' is not one of additive, dot, general, concat"),
        ({"window": "local"}, "window: 'local' is not one of"),
        ({"wiring": "book"}, "wiring: 'book' is not one of"),
        ({"hidden_width": 0}, "hidden_width: 0 must be at least 1"),
        ({"hidden_width": 1 << 17}, "hidden_width: 131072 is over the limit"),
        ({"half_window": 0}, "half_window: 0 must be at least 1"),
        ({"half_window": 1.5}, "half_window: 1.5 is not an integer"),
        ({"eos_id": 50}, "eos_id: 50 is outside the vocabulary of 50"),
        ({"decoder_layers": 3}, "decoder_layers: 3 is more than the 2 encoder_layers"),
        ({"hidden_width": 33, "bidirectional": True}, "hidden_width: 33 is odd"),
        ({"input_feeding": True}, "input_feeding: the wiring bahdanau has no attentional state"),
        ({"tied_output": True}, "tied_output: embedding_width 24 and hidden_width 32 differ"),
        ({"padded_source_length": 65}, "padded_source_length: 65 is outside 0..64"),
        ({"source_pad_id": 50}, "source_pad_id: 50 is outside the vocabulary of 50"),
        ({"shared_embeddings": True, "target_vocab_size": 51}, "shared_embeddings: "),
        ({"dropout": 1.0}, "dropout: 1.0"),
    ],
)
def test_contradictions_in_a_configuration_name_the_field(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        recurrent_config(**changes)


def test_a_configuration_survives_its_file() -> None:
    config = recurrent_config(window="monotonic", scaled=True)
    assert RecurrentConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    with pytest.raises(ConfigError, match="unknown keys: hue"):
        RecurrentConfig.from_dict({**config.to_dict(), "hue": 1})
