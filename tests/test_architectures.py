"""What train.py can train: the models of the table against the canonical ones, and against the demos they made."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import train
from architectures import ARCHITECTURES, Architecture, teacher_forced
from checkpoint import load_weights, stored_weights
from fast import smoothed_loss
from pairs import EOS, PAD, START, Pair, collate
from seqserve_export.model import RecurrentSeq2Seq, Transformer, TransformerConfig
from translate import greedy

DEMO = Path(__file__).parent.parent / "demo"
ENTRIES = 40
BATCH = collate([
    Pair([7, 9, 12, 30, EOS], [START, 8, 9, 5, EOS]), Pair([6, EOS], [START, 31, EOS]),
    Pair([5, 5, EOS], [START, 5, EOS]),
])


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Several wait for one another longer than such small products take."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(params=ARCHITECTURES)
def architecture(request: pytest.FixtureRequest) -> Architecture:
    return ARCHITECTURES[request.param]


def test_states_in_training_are_the_canonical_models(architecture: Architecture) -> None:
    torch.manual_seed(0)
    config = architecture.config(ENTRIES, 0.0)
    model, reference = architecture.training(config).train(), architecture.reference(config).eval()
    architecture.initialise(model)
    load_weights(reference, stored_weights(model, config))
    states = teacher_forced(model, BATCH)
    assert states.shape[-1] == model.get_parameter("output.weight").shape[1]
    expected = reference(BATCH.source, BATCH.lengths, BATCH.target[:, :-1])
    torch.testing.assert_close(reference.project(states), expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(teacher_forced(model.eval(), BATCH), expected, atol=1e-5, rtol=0)


def test_a_few_updates_learn_three_pairs_by_heart(architecture: Architecture) -> None:
    torch.manual_seed(0)
    model = architecture.training(architecture.config(ENTRIES, 0.0)).train()
    architecture.initialise(model)
    optimizer = torch.optim.Adam(model.parameters(), lr=architecture.peak)
    expected = BATCH.target[:, 1:]
    told = expected != PAD
    for _ in range(25):
        optimizer.zero_grad()
        states = teacher_forced(model, BATCH)
        loss = smoothed_loss(states[told], model.get_parameter("output.weight"), expected[told], 0.0)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    answers = greedy(model.eval(), BATCH.source, BATCH.lengths, 6)
    assert answers == [[8, 9, 5], [31], [5]]


def test_no_parameter_is_left_as_pytorch_began_it(architecture: Architecture) -> None:
    config = architecture.config(ENTRIES, 0.0)
    torch.manual_seed(0)
    model = architecture.training(config)
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    architecture.initialise(model)
    constant = {"norm"}  # ones and zeros, which are where they should begin
    same = [name for name, parameter in model.named_parameters() if torch.equal(parameter, before[name])]
    assert not [name for name in same if not any(part in name for part in constant)]


def test_the_transformer_is_what_made_the_demo() -> None:
    architecture = ARCHITECTURES["transformer"]
    shipped = json.loads((DEMO / "en-de" / "config.json").read_text())
    assert architecture.config(8000, 0.1) == TransformerConfig.from_dict(shipped)
    options = train.parse(["--data", "data", "--out", "out"])
    assert options.architecture is architecture
    assert (options.updates, options.peak, options.dropout, options.tokenizer) == (5000, 2.5e-3, 0.1, None)


@pytest.mark.parametrize(("name", "kind"), [("transformer", Transformer), ("luong", RecurrentSeq2Seq)])
def test_the_command_line_chooses_the_model_and_overrides_its_defaults(name: str, kind: type) -> None:
    given = ["--architecture", name, "--data", "data", "--out", "out", "--updates", "7", "--peak", "0.5"]
    options = train.parse(given)
    assert isinstance(options.architecture.reference(options.architecture.config(ENTRIES, 0.0)), kind)
    assert (options.updates, options.peak, options.dropout) == (7, 0.5, ARCHITECTURES[name].dropout)
