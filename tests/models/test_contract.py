"""What every model promises: each test meets every registered kind and every value of its axes."""

from __future__ import annotations

import importlib
import inspect

import pytest
import torch
from tests.models.small import CONFIGS, NUM_CLASSES, NUM_SYMBOLS, build, name_of, small, strings
from torch.nn import functional as F

from ldru_study.models import sequential
from ldru_study.models.registry import begin_stream, can_stream, num_parameters
from ldru_study.spec.model import MODEL_CONFIGS
from ldru_study.spec.trial import TrialConfig
from ldru_study.training.training import Training

RECURRENCES = [name for name, value in vars(sequential).items() if inspect.isfunction(value)]
# fields that act in training only, each with a value
RANDOMNESS = {"dropout": 0.5, "node_noise": 0.5, "random_brackets": True}
READERS = [config for config in CONFIGS if config["kind"] != "constant"]


@pytest.fixture(params=CONFIGS, ids=name_of)
def config(request):
    return request.param


def logits_and_gradients(model, tokens, lengths):
    model.zero_grad()
    logits = model(tokens, lengths)
    weights = torch.linspace(-1, 1, logits.numel()).to(logits).view_as(logits)
    (logits * weights).sum().backward()
    return logits.detach(), {name: p.grad.clone() for name, p in model.named_parameters()}


def test_logits_have_a_row_per_string(config):
    logits = build(config)(*strings(7, 1, 4))
    assert logits.shape == (3, NUM_CLASSES)
    assert logits.dtype == torch.float32
    assert logits.isfinite().all()


@pytest.mark.parametrize("length", [1, 2, 3, 32, 33, 65])
def test_any_length(config, length):
    model = build(config)
    logits = model(*strings(length, length, seed=length))
    assert logits.isfinite().all()


def test_what_stands_in_the_padding_does_not_matter(config):
    model = build(config)
    tokens, lengths = strings(7, 1, 4, 2)
    wanted = model(tokens, lengths)
    other = tokens.where(torch.arange(7) < lengths[:, None], 2)
    torch.testing.assert_close(model(other, lengths), wanted, atol=1e-6, rtol=1e-6)
    longer = F.pad(tokens, (0, 60), value=1)
    torch.testing.assert_close(model(longer, lengths), wanted, atol=1e-5, rtol=1e-5)


def test_a_string_means_the_same_alone_and_in_company(config):
    model = build(config)
    tokens, lengths = strings(9, 5, 1, 8, 3)
    together = model(tokens, lengths)
    for row, length in enumerate(lengths.tolist()):
        alone = model(tokens[row : row + 1, :length], lengths[row : row + 1])
        torch.testing.assert_close(alone[0], together[row], atol=1e-5, rtol=1e-5)


def test_the_padding_has_no_gradient(config):
    """A symbol that stands in the padding only may not learn from it."""
    model = build(config, num_symbols=NUM_SYMBOLS + 1)
    tokens, lengths = strings(7, 1, 4, 2)
    padded = F.pad(tokens, (0, 3)).where(torch.arange(10) < lengths[:, None], NUM_SYMBOLS)
    _, wanted = logits_and_gradients(model, tokens, lengths)
    _, found = logits_and_gradients(model, padded, lengths)
    for name, gradient in wanted.items():
        torch.testing.assert_close(found[name], gradient, atol=1e-5, rtol=1e-4, msg=name)


def test_every_parameter_has_a_gradient(config):
    _, gradients = logits_and_gradients(build(config).train(), *strings(7, 6, 5, 3))
    for name, gradient in gradients.items():
        assert gradient.isfinite().all(), name
        # torch's cells have a second bias that the first makes superfluous, but it learns too
        assert gradient.any(), name


def test_single_tokens_give_every_parameter_a_gradient_too(config):
    """If only 0: workers that average gradients must all have the same ones."""
    _, gradients = logits_and_gradients(build(config).train(), *strings(1, 1))
    assert all(gradient.isfinite().all() for gradient in gradients.values())


def test_the_seed_decides_the_weights_and_nothing_else_does(config):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    one, other = build(config, seed=1), build(config, seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    for name, value in one.state_dict().items():
        assert torch.equal(value, other.state_dict()[name]), name
    if config["kind"] != "constant":
        different = build(config, seed=2).state_dict()
        assert any(not torch.equal(value, different[n]) for n, value in one.state_dict().items())


def test_weights_go_out_and_come_back(config):
    one, other = build(config, seed=1), build(config, seed=2)
    other.load_state_dict(one.state_dict(), strict=True)
    batch = strings(7, 5)
    assert torch.equal(one(*batch), other(*batch))
    assert set(one.state_dict()) == {name for name, _ in one.named_parameters()}


def test_the_formula_counts_the_parameters(config):
    made = MODEL_CONFIGS[config["kind"]](**config)
    for num_symbols, num_classes in ((2, 2), (5, 3)):
        model = build(config, num_symbols=num_symbols, num_classes=num_classes)
        assert made.num_parameters(num_symbols, num_classes) == num_parameters(model)


@pytest.mark.parametrize("config", READERS, ids=name_of)
def test_flops_grow_with_length_and_width(config):
    made = MODEL_CONFIGS[config["kind"]](**config)
    flops = [made.num_flops(length, 3, 4) for length in (1, 2, 3, 10, 100)]
    assert flops == sorted(flops)
    assert flops[0] < flops[1] < flops[-1]
    wider = made.model_copy(update={"width": 2 * made.width})
    assert wider.num_flops(10, 3, 4) > made.num_flops(10, 3, 4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_precisions(config, dtype):
    model, batch = build(config), strings(40, 7)
    wanted = model(*batch)
    logits, gradients = logits_and_gradients(model.to(dtype), *batch)
    assert logits.dtype == dtype
    assert all(gradient.isfinite().all() for gradient in gradients.values())
    tolerance = 1e-4 if dtype == torch.float64 else 0.3
    torch.testing.assert_close(logits.float(), wanted, atol=tolerance, rtol=tolerance)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_computes_the_same(config):
    model, (tokens, lengths) = build(config), strings(70, 33, 1)
    wanted = logits_and_gradients(model.double(), tokens, lengths)
    logits, gradients = logits_and_gradients(model.cuda(), tokens.cuda(), lengths.cuda())
    found = logits.cpu(), {name: gradient.cpu() for name, gradient in gradients.items()}
    torch.testing.assert_close(found, wanted, atol=1e-9, rtol=1e-7)


def test_long_strings(config):
    logits = build(config)(*strings(1000, 511))
    assert logits.isfinite().all()


@pytest.mark.parametrize("kind", MODEL_CONFIGS)
def test_a_stream_gives_the_logits_of_the_whole(kind):
    model = build(small(MODEL_CONFIGS[kind]))
    tokens, lengths = strings(2500, 1024, 1, 2048)
    if not can_stream(model):
        with pytest.raises(TypeError, match=f"a {type(model).__name__} reads whole strings only"):
            begin_stream(model, lengths)
        return
    stream = begin_stream(model, lengths)
    for piece in tokens.split(1024, dim=1):
        stream.push(piece)
    wanted = model(tokens, lengths)
    torch.testing.assert_close(stream.logits(), wanted.detach(), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", MODEL_CONFIGS)
def test_a_trial_trains_the_model(kind):
    """Strings of mixed lengths, a few steps of the platform's own training."""
    model, train = small(MODEL_CONFIGS[kind]), {"max_length": 12, "steps": 12, "batch_size": 32}
    train |= {"lengths_per_batch": 8, "learning_rate": 1e-2}
    config = TrialConfig.model_validate({"task": "even_pairs", "model": model, "train": train})
    training = Training(config, torch.device("cpu"))
    before = {name: value.clone() for name, value in training.model.state_dict().items()}
    while not training.is_finished:
        training.advance_towards(12)
    after = training.model.state_dict()
    assert [name for name, value in before.items() if torch.equal(value, after[name])] == []


@pytest.mark.parametrize("config", READERS, ids=name_of)
def test_the_label_can_depend_on_the_first_and_the_last_symbol(config):
    model = build(config)
    tokens, lengths = strings(6)
    wanted = model(tokens, lengths)
    for place in (0, 5):
        other = tokens.clone()
        other[0, place] = (other[0, place] + 1) % NUM_SYMBOLS
        assert not torch.equal(model(other, lengths), wanted), place


def _recurrences_of(config):
    module = importlib.import_module(f"ldru_study.models.{config['kind']}")
    return module, [name for name in RECURRENCES if hasattr(module, name)]


@pytest.mark.parametrize(
    "config", [config for config in CONFIGS if _recurrences_of(config)[1]], ids=name_of
)
def test_the_parallel_form_is_the_sequential_one(config, monkeypatch):
    module, names = _recurrences_of(config)
    model = build(config).double()
    batches = strings(70, 33, 1), strings(32, 31)
    parallel = [logits_and_gradients(model, *batch) for batch in batches]
    for name in names:
        monkeypatch.setattr(module, name, getattr(sequential, name))
    for batch, found in zip(batches, parallel, strict=True):
        wanted = logits_and_gradients(model, *batch)
        torch.testing.assert_close(found, wanted, atol=1e-9, rtol=1e-7)


@pytest.mark.parametrize(
    ("kind", "field"),
    [
        (kind, field)
        for kind, made in MODEL_CONFIGS.items()
        for field in RANDOMNESS
        if field in made.model_fields
    ],
)
def test_randomness_acts_in_training_only_and_follows_the_generator(kind, field):
    config = next(c for c in CONFIGS if c["kind"] == kind)
    model, batch = build(config | {field: RANDOMNESS[field]}), strings(8, 40, 33)
    assert torch.equal(model(*batch), build(config)(*batch))
    assert torch.equal(model(*batch), model(*batch))
    model.train()
    torch.manual_seed(1)
    one = model(*batch)
    # random brackets may be the same once, but hardly five times: 6 levels of 40 tokens
    assert any(not torch.equal(model(*batch), one) for _ in range(5))
    torch.manual_seed(1)
    assert torch.equal(model(*batch), one)
