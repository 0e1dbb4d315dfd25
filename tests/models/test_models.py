"""What every model promises, and what each model is."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from pydantic import TypeAdapter
from torch.nn import functional as F

from ldru_kernels import norms
from ldru_study.models.positions import distance_bias, rotate, sinusoids
from ldru_study.models.registry import (
    associativity_defect,
    begin_stream,
    build_model,
    can_stream,
    num_parameters,
)
from ldru_study.spec.model import LoneNode, ModelConfig, Operator, Positions

ADAPTER: TypeAdapter[Any] = TypeAdapter(ModelConfig)
LONE_NODES = LoneNode.__args__
LDRU = [
    {"kind": "ldru", "operator": operator, "lone_node": lone_node, "width": 8}
    for operator, lone_node in itertools.product(Operator.__args__, LONE_NODES)
]
TRANSFORMERS = [
    {"kind": "transformer", "positions": positions, "width": 8, "layers": 2, "heads": 2}
    for positions in Positions.__args__
]
CONFIGS = [
    *LDRU,
    {"kind": "lstm", "width": 8},
    {"kind": "rnn", "width": 8},
    *TRANSFORMERS,
    {"kind": "constant"},
]
NUM_SYMBOLS, NUM_CLASSES = 3, 4


def name_of(config):
    return "-".join(str(value) for value in config.values() if isinstance(value, str))


def build(config, seed=0, **sizes):
    sizes = {"num_symbols": NUM_SYMBOLS, "num_classes": NUM_CLASSES} | sizes
    return build_model(ADAPTER.validate_python(config), seed=seed, **sizes).eval()


def strings(*lengths, seed=0):
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(NUM_SYMBOLS, (len(lengths), max(lengths)), generator=generator)
    counts = torch.tensor(lengths)
    return tokens * (torch.arange(max(lengths)) < counts[:, None]), counts


@pytest.fixture(params=CONFIGS, ids=name_of)
def config(request):
    return request.param


def test_logits_have_a_row_per_string(config):
    logits = build(config)(*strings(7, 1, 4))
    assert logits.shape == (3, NUM_CLASSES)
    assert logits.dtype == torch.float32
    assert logits.isfinite().all()


def test_what_stands_in_the_padding_does_not_matter(config):
    model = build(config)
    tokens, lengths = strings(7, 1, 4, 2)
    wanted = model(tokens, lengths)
    other = tokens.where(torch.arange(7) < lengths[:, None], 2)
    torch.testing.assert_close(model(other, lengths), wanted)
    longer = F.pad(tokens, (0, 5), value=1)
    torch.testing.assert_close(model(longer, lengths), wanted, atol=1e-5, rtol=1e-5)


def test_a_string_means_the_same_alone_and_in_company(config):
    model = build(config)
    tokens, lengths = strings(9, 5, 1, 8, 3)
    together = model(tokens, lengths)
    for row, length in enumerate(lengths.tolist()):
        alone = model(tokens[row : row + 1, :length], lengths[row : row + 1])
        torch.testing.assert_close(alone[0], together[row], atol=1e-5, rtol=1e-5)


def test_every_parameter_has_a_gradient(config):
    model = build(config).train()
    (model(*strings(7, 6, 5, 3)) * torch.arange(1.0, 5.0)).sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        # torch's cells have a second bias that the first makes superfluous, but it learns too
        assert parameter.grad.any(), name


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


def test_long_strings(config):
    logits = build(config)(*strings(1000, 511))
    assert logits.isfinite().all()


@pytest.mark.parametrize("config", CONFIGS[:-1], ids=name_of)
def test_the_label_can_depend_on_the_first_and_the_last_symbol(config):
    model = build(config)
    tokens, lengths = strings(6)
    wanted = model(tokens, lengths)
    for place in (0, 5):
        other = tokens.clone()
        other[0, place] = (other[0, place] + 1) % NUM_SYMBOLS
        assert not torch.equal(model(other, lengths), wanted), place


@pytest.mark.parametrize("kind", ["ldru", "transformer"])
def test_dropout_acts_in_training_only_and_follows_the_generator(kind):
    config = next(c for c in CONFIGS if c["kind"] == kind) | {"dropout": 0.5}
    model, batch = build(config), strings(8, 8)
    assert torch.equal(model(*batch), model(*batch))
    model.train()
    torch.manual_seed(1)
    one = model(*batch)
    assert not torch.equal(model(*batch), one)
    torch.manual_seed(1)
    assert torch.equal(model(*batch), one)


# the model under study


def test_ldru_has_the_parameters_of_the_paper():
    model = build({"kind": "ldru", "width": 64}, num_symbols=2, num_classes=2)
    assert num_parameters(model) == 161_602
    sizes: dict[str, int] = {}
    for name, parameter in model.named_parameters():
        part = name.split(".")[0]
        sizes[part] = sizes.get(part, 0) + parameter.numel()
    assert sizes == {
        "embedding": 128,
        "leaf_norm": 128,
        "leaf_ffn": 33_088,
        "operator": 94_912,
        "node_ffn": 33_088,
        "node_norm": 128,
        "classifier": 130,
    }


def test_ldru_has_the_names_and_shapes_that_weights_are_exchanged_by():
    model = build({"kind": "ldru", "width": 8})
    shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    assert shapes == {
        "embedding.weight": (3, 8),
        "leaf_norm.weight": (8,),
        "leaf_norm.bias": (8,),
        "leaf_ffn.w1": (8, 32),
        "leaf_ffn.b1": (32,),
        "leaf_ffn.w2": (32, 8),
        "leaf_ffn.b2": (8,),
        "operator.w1": (16, 16),
        "operator.b1": (16,),
        "operator.w2": (16, 32),
        "operator.b2": (32,),
        "operator.w3": (32, 16),
        "operator.b3": (16,),
        "operator.v_left": (8, 8),
        "operator.a_left": (8,),
        "operator.v_right": (8, 8),
        "operator.a_right": (8,),
        "operator.w_out": (8, 8),
        "operator.b_out": (8,),
        "node_ffn.w1": (8, 32),
        "node_ffn.b1": (32,),
        "node_ffn.w2": (32, 8),
        "node_ffn.b2": (8,),
        "node_norm.weight": (8,),
        "node_norm.bias": (8,),
        "classifier.weight": (8, 4),
        "classifier.bias": (4,),
    }


def test_ldru_starts_as_the_paper_says():
    weights = build({"kind": "ldru", "width": 64}).state_dict()
    for name in ("operator.v_left", "operator.v_right", "operator.w_out"):
        assert torch.equal(weights[name], torch.eye(64))
    for name, value in weights.items():
        if name.split(".")[1] in ("b1", "b2", "b3", "a_left", "a_right", "b_out", "bias"):
            assert not value.any(), name

    def std(name):
        return float(weights[name].std())

    # variance scaling: std = sqrt(scale / fan); fan_avg = (in + out) / 2
    assert std("operator.w1") == pytest.approx((1 / 128) ** 0.5, rel=0.05)
    assert std("operator.w2") == pytest.approx((1 / 192) ** 0.5, rel=0.05)
    assert std("node_ffn.w1") == pytest.approx((0.02 / 160) ** 0.5, rel=0.05)
    assert std("embedding.weight") == pytest.approx(0.02, rel=0.15)
    assert float(weights["embedding.weight"].abs().max()) <= 0.02 * 2.3


def by_hand(model, tokens):
    """The paper's definition, one node at a time, for `mlp` and `zero_left`."""
    w = model.state_dict()

    def norm(x, name):
        return F.layer_norm(x, x.shape, w[f"{name}.weight"], w[f"{name}.bias"])

    def ffn(x, name):
        hidden = (x @ w[f"{name}.w1"] + w[f"{name}.b1"]).relu()
        return x + hidden @ w[f"{name}.w2"] + w[f"{name}.b2"]

    def merge(left, right):
        op = {name.split(".")[1]: value for name, value in w.items() if "operator" in name}
        hidden = (torch.cat([left, right]) @ op["w1"] + op["b1"]).relu()
        gates = (hidden @ op["w2"] + op["b2"]).relu() @ op["w3"] + op["b3"]
        left = (gates[: len(left)] * left) @ op["v_left"] + op["a_left"]
        right = (gates[len(right) :] * right) @ op["v_right"] + op["a_right"]
        return norm(ffn((left + right) @ op["w_out"] + op["b_out"], "node_ffn"), "node_norm")

    level = [ffn(norm(w["embedding.weight"][token], "leaf_norm"), "leaf_ffn") for token in tokens]
    while len(level) > 1:
        pairs = [merge(a, b) for a, b in zip(level[::2], level[1::2], strict=False)]
        if len(level) % 2:
            pairs.append(merge(torch.zeros_like(level[-1]), level[-1]))
        level = pairs
    return level[0] @ w["classifier.weight"] + w["classifier.bias"]


@pytest.mark.parametrize("length", [1, 2, 3, 5, 8, 13])
def test_ldru_is_what_the_paper_defines(length):
    model = build({"kind": "ldru", "width": 8}, seed=3)
    tokens, lengths = strings(length, seed=length)
    torch.testing.assert_close(model(tokens, lengths)[0], by_hand(model, tokens[0]))


def test_the_associativity_defect():
    batch = strings(7, 3, 1)
    assert associativity_defect(build({"kind": "lstm", "width": 8}), *batch) is None
    model = build({"kind": "ldru", "operator": "mlp", "width": 8})
    assert 0 < associativity_defect(model, *batch) < 2
    assert associativity_defect(model, *strings(2, 1)) is None
    # a sum whose node FFN and norm do nothing is associative up to its scale
    summing = build({"kind": "ldru", "operator": "elementwise_sum", "width": 8})
    with torch.no_grad():
        summing.node_ffn["w2"].zero_()
        leaf = torch.randn(8)
        summing.embedding.weight.copy_(leaf.expand(3, 8))
    assert associativity_defect(summing, *batch) == pytest.approx(0, abs=1e-6)


# the baselines


def test_lstm_starts_with_open_forget_gates():
    weights = build({"kind": "lstm", "width": 8}).state_dict()
    gates = (weights["cell.bias_ih_l0"] + weights["cell.bias_hh_l0"]).view(4, 8)
    assert gates.tolist() == [[0.0] * 8, [1.0] * 8, [0.0] * 8, [0.0] * 8]


def test_rnn_by_hand():
    model = build({"kind": "rnn", "width": 8}, seed=4)
    tokens, lengths = strings(6)
    w = model.state_dict()
    hidden = torch.zeros(8)
    for token in tokens[0]:
        x = F.one_hot(token, 3).float()
        hidden = (
            w["cell.weight_ih_l0"] @ x + w["cell.bias_ih_l0"] + w["cell.weight_hh_l0"] @ hidden
        ).relu()
    logits = hidden.relu() @ w["classifier.weight"] + w["classifier.bias"]
    torch.testing.assert_close(model(tokens, lengths)[0], logits)


def test_attention_without_positions_knows_no_order_but_the_last():
    model = build(next(c for c in TRANSFORMERS if c["positions"] == "none"))
    tokens = torch.tensor([[0, 1, 2, 1, 0, 2], [1, 2, 0, 0, 1, 2]])
    logits = model(tokens, torch.tensor([6, 6]))
    torch.testing.assert_close(logits[0], logits[1])
    for positions in ("rope", "alibi", "sinusoidal"):
        model = build(next(c for c in TRANSFORMERS if c["positions"] == positions))
        logits = model(tokens, torch.tensor([6, 6]))
        assert not torch.allclose(logits[0], logits[1], atol=1e-4), positions


def test_rotations_make_scores_depend_on_distance_alone():
    generator = torch.Generator().manual_seed(0)
    query, key = torch.randn(2, 1, 1, 1, 8, generator=generator)

    def score(i, j):
        rotated = rotate(query, torch.tensor([[i]])), rotate(key, torch.tensor([[j]]))
        return float((rotated[0] * rotated[1]).sum())

    assert score(3, 1) == pytest.approx(score(103, 101), abs=1e-4)
    assert score(3, 1) != pytest.approx(score(3, 2), abs=1e-3)


def test_sinusoids_and_slopes():
    waves = sinusoids(torch.arange(5.0), 4)
    torch.testing.assert_close(waves[:, 0], torch.arange(5.0).sin())
    torch.testing.assert_close(waves[:, 3], (torch.arange(5.0) / 100).cos())
    bias = distance_bias(torch.tensor([[2]]), 4, 8)
    assert bias.shape == (1, 8, 1, 4)
    assert bias[0, :, 0, 0].tolist() == [-2 * 2.0**-power for power in range(1, 9)]
    assert bias[0, 0, 0].tolist() == [-1.0, -0.5, 0.0, -0.5]


def test_a_transformer_by_hand():
    model = build(next(c for c in TRANSFORMERS if c["positions"] == "none"), seed=2)
    tokens, lengths = strings(5)
    x = F.embedding(tokens[0], model.embedding.weight) * 8**0.5
    for layer in model.layers:
        query, key, value = (x @ w for w in (layer.w_query, layer.w_key, layer.w_value))
        heads = []
        for head in (slice(0, 4), slice(4, 8)):
            scores = query[:, head] @ key[:, head].T / 4**0.5
            heads.append(scores.softmax(1) @ value[:, head])
        x = layer.attention_norm(x + torch.cat(heads, 1) @ layer.w_out)
        x = layer.ffn_norm(x + layer.ffn(x))
    torch.testing.assert_close(model(tokens, lengths), model.classifier(x[-1:]))


# long strings


@pytest.mark.parametrize("kind", ["ldru", "lstm", "rnn"])
def test_a_stream_gives_the_logits_of_the_whole(kind):
    model = build({"kind": kind, "width": 8})
    tokens, lengths = strings(2500, 1024, 1, 2048)
    stream = begin_stream(model, lengths)
    for piece in tokens.split(1024, dim=1):
        stream.push(piece)
    wanted = model(tokens, lengths)
    torch.testing.assert_close(stream.logits(), wanted.detach(), atol=1e-4, rtol=1e-4)


def test_a_model_that_cannot_stream_says_so():
    model = build(TRANSFORMERS[0])
    assert not can_stream(model)
    with pytest.raises(TypeError, match="a Transformer reads whole strings only"):
        begin_stream(model, torch.tensor([3]))


def test_the_associativity_penalty_teaches():
    model = build({"kind": "ldru", "operator": "mlp", "width": 8})
    batch = strings(30, 3, 1)
    penalty = model.associativity_penalty(*batch)
    penalty.backward()
    for name, parameter in model.named_parameters():
        assert (parameter.grad is None) == name.startswith("classifier"), name
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(30):
        optimizer.zero_grad()
        model.associativity_penalty(*batch).backward()
        optimizer.step()
    assert model.associativity_penalty(*batch) < 0.3 * penalty
    assert model.associativity_penalty(*strings(2, 1)) == 0


def test_the_penalty_of_leaves_is_the_defect():
    model = build({"kind": "ldru", "operator": "grc", "width": 8})
    # three tokens have one triple, of leaves
    batch = strings(3)
    penalty = model.associativity_penalty(*batch).detach()
    assert float(penalty) == pytest.approx(associativity_defect(model, *batch), rel=1e-5)


@pytest.mark.parametrize("lone_node", LONE_NODES)
def test_norms_of_levels(lone_node, monkeypatch):
    model = build({"kind": "ldru", "lone_node": lone_node, "width": 8})
    tokens, lengths = strings(8)
    found = model.level_norms(tokens, lengths, torch.tensor([1]))
    assert found.states.shape == found.gradients.shape == (4,)
    # the root, by hand
    root = model._roots(tokens, lengths).detach().requires_grad_()
    F.cross_entropy(model.classifier(root), torch.tensor([1])).backward()
    torch.testing.assert_close(found.states[-1], root.detach().norm())
    torch.testing.assert_close(found.gradients[-1], root.grad.norm())
    leaves = model._leaf_of_symbol()[tokens[0]]
    torch.testing.assert_close(found.states[0], leaves.norm(dim=1).square().mean().sqrt().detach())
    # equal strings have equal norms, and what is beyond a length does not matter
    tokens, lengths = F.pad(tokens, (0, 3)).expand(5, -1), lengths.expand(5)
    again = model.level_norms(tokens, lengths, torch.ones(5, dtype=torch.int64))
    torch.testing.assert_close(again, found)
    # a long string, all of whose chunks are looked at
    tokens, lengths = strings(64)
    whole = model.level_norms(tokens, lengths, torch.tensor([2]))
    monkeypatch.setattr(norms, "_MOST_TOKENS", 63)
    monkeypatch.setattr(norms, "_HEIGHT", 3)
    parts = model.level_norms(tokens, lengths, torch.tensor([2]))
    torch.testing.assert_close(parts, whole)
