"""What each model is: names, first weights, and its definition by hand."""

from __future__ import annotations

import itertools
from typing import get_args

import pytest
import torch
from pydantic import ValidationError
from tests.models.small import build, small, strings
from torch.nn import functional as F

from ldru_kernels import norms, tree_reduce_tokens
from ldru_study.models.layers import ShortConvolution
from ldru_study.models.positions import distance_bias, rotate, sinusoids
from ldru_study.models.registry import (
    associativity_defect,
    begin_stream,
    can_stream,
    draw_brackets,
    num_parameters,
    share_strings,
)
from ldru_study.spec.model import MODEL_CONFIGS, OPERATORS, LoneNode

TRANSFORMER = {"kind": "transformer", "width": 8, "layers": 2, "heads": 2}

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
    model = build(TRANSFORMER | {"positions": "none"})
    tokens = torch.tensor([[0, 1, 2, 1, 0, 2], [1, 2, 0, 0, 1, 2]])
    logits = model(tokens, torch.tensor([6, 6]))
    torch.testing.assert_close(logits[0], logits[1])
    for positions in ("rope", "alibi", "sinusoidal", "relative"):
        model = build(TRANSFORMER | {"positions": positions})
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
    model = build(TRANSFORMER | {"positions": "none"}, seed=2)
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


def test_relative_positions_by_hand():
    """Every term of the scores as Transformer-XL writes it, with a table of all distances."""
    model = build(TRANSFORMER | {"positions": "relative", "layers": 1}, seed=2)
    layer = model.layers[0]
    with torch.no_grad():
        layer.content_bias.normal_()
        layer.distance_bias.normal_()
    tokens, lengths = strings(5)
    x = F.embedding(tokens[0], model.embedding.weight) * 8**0.5
    query, key, value = (x @ w for w in (layer.w_query, layer.w_key, layer.w_value))
    heads = []
    for number, head in enumerate((slice(0, 4), slice(4, 8))):
        u, v = layer.content_bias[number, 0], layer.distance_bias[number, 0]
        scores = torch.zeros(5, 5)
        for i in range(5):
            for j in range(5):
                distance = (sinusoids(torch.tensor(float(i - j)), 8) @ layer.w_distance)[head]
                scores[i, j] = (query[i, head] + u) @ key[j, head] + (query[i, head] + v) @ distance
        heads.append((scores / 4**0.5).softmax(1) @ value[:, head])
    x = layer.attention_norm(x + torch.cat(heads, 1) @ layer.w_out)
    x = layer.ffn_norm(x + layer.ffn(x))
    torch.testing.assert_close(model(tokens, lengths), model.classifier(x[-1:]))


@pytest.mark.parametrize(("length", "loops"), [(1, 0), (2, 1), (3, 2), (4, 2), (5, 3), (9, 4)])
def test_a_looped_transformer_repeats_its_layers(length, loops):
    model = build(TRANSFORMER | {"looped": True, "positions": "none"})
    tokens, lengths = strings(length)
    x, places = model.embedding(tokens) * 8**0.5, torch.arange(length)[None]
    for _ in range(loops):
        for layer in model.layers:
            x = layer(x, places, x, places, None)
    torch.testing.assert_close(model(tokens, lengths), model.classifier(x[:, -1]))


@pytest.mark.parametrize("window", [2, 3])
@pytest.mark.parametrize("length", [1, 2, 3, 7, 9])
def test_regular_gpt_by_hand(length, window):
    """All queries of every round, sliding windows and all, of which a c-th is kept."""
    model = build({"kind": "regular_gpt", "width": 8, "heads": 2, "window": window}, seed=3)
    layer = model.layer
    with torch.no_grad():
        model.offset_bias.normal_()
    tokens, lengths = strings(length, seed=length)
    x = model.embedding(tokens[0]) * 8**0.5
    while len(x) > 1:
        missing = -len(x) % window
        x = torch.cat([model.padding.expand(missing, -1), x])
        query, key, value = (x @ w for w in (layer.w_query, layer.w_key, layer.w_value))
        heads = []
        for number, head in enumerate((slice(0, 4), slice(4, 8))):
            scores = torch.full((len(x), len(x)), -torch.inf)
            for i in range(len(x)):
                for j in range(max(0, i - window + 1), i + 1):
                    bias = model.offset_bias[number, 0, window - 1 - (i - j)]
                    scores[i, j] = query[i, head] @ key[j, head] / 4**0.5 + bias
            heads.append(scores.softmax(1) @ value[:, head])
        x = layer.attention_norm(x + torch.cat(heads, 1) @ layer.w_out)
        x = layer.ffn_norm(x + layer.ffn(x))
        x = x.flip(0)[::window].flip(0)
    torch.testing.assert_close(model(tokens, lengths), model.classifier(x))


def test_gru_by_hand():
    model = build({"kind": "gru", "width": 8}, seed=4)
    tokens, lengths = strings(6)
    w = model.state_dict()
    hidden = torch.zeros(8)
    for token in tokens[0]:
        x = F.one_hot(token, 3).float()
        of_input = (w["cell.weight_ih_l0"] @ x + w["cell.bias_ih_l0"]).chunk(3)
        of_state = (w["cell.weight_hh_l0"] @ hidden + w["cell.bias_hh_l0"]).chunk(3)
        reset, keep = ((of_input[n] + of_state[n]).sigmoid() for n in (0, 1))
        hidden = (1 - keep) * (of_input[2] + reset * of_state[2]).tanh() + keep * hidden
    logits = hidden.relu() @ w["classifier.weight"] + w["classifier.bias"]
    torch.testing.assert_close(model(tokens, lengths)[0], logits)


def test_s5_is_a_real_system_with_conjugate_states():
    """Both states of every pair, and a matrix exponential for the held input."""
    model = build({"kind": "s5", "width": 4, "layers": 1, "state": 6}, seed=1).double()
    block, (tokens, lengths) = model.blocks[0], strings(5)
    x = model.embedding(tokens)[0]
    decay = torch.complex(-block.log_decay.exp(), block.frequency)
    w_in, w_out = torch.view_as_complex(block.w_in), torch.view_as_complex(block.w_out)
    system = torch.cat([decay, decay.conj()])
    into = torch.cat([w_in, w_in.conj()], dim=1)
    out = torch.cat([w_out, w_out.conj()])
    step = torch.cat([block.log_step, block.log_step]).exp()
    state = torch.zeros(6, dtype=torch.complex128)
    for token in x:
        # d/dt s = system s + into x over one step, as the exponential of one matrix
        whole = torch.zeros(7, 7, dtype=torch.complex128)
        whole[:6, :6] = torch.diag(system)
        whole[:6, 6] = token.to(torch.complex128) @ into
        held = torch.stack([torch.linalg.matrix_exp(whole * d)[n] for n, d in enumerate(step)])
        state = held[:, :6] @ state + held[:, 6]
        read = state @ out
        assert read.imag.abs().max() < 1e-12
        last = block.norm(token + F.gelu(read.real + block.w_skip * token))
    torch.testing.assert_close(model(tokens, lengths)[0], model.classifier(last))


def test_s5_begins_with_hippo():
    block = build({"kind": "s5", "width": 4, "state": 64}).blocks[0]
    torch.testing.assert_close(block.log_decay.exp(), torch.full((32,), 0.5), atol=1e-5, rtol=0)
    # HiPPO-LegS = normal part - rank one; what it does to a vector, in the basis of the normal one
    n = torch.arange(64, dtype=torch.float64)
    root = (2 * n + 1).sqrt()
    legs = -(torch.outer(root, root).tril(-1) + torch.diag(n + 1))
    normal = legs + torch.outer(root, root) / 2
    wanted = torch.linalg.eigvals(normal).imag.sort().values[32:]
    found = block.frequency.double().sort().values
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)
    assert block.log_step.min() >= torch.tensor(1e-3).log()
    assert block.log_step.max() <= torch.tensor(0.1).log()


@pytest.mark.parametrize("normalise", ["column", "row"])
def test_sd_ssm_by_hand(normalise):
    config = {"kind": "sd_ssm", "width": 8, "matrices": 3, "normalise": normalise}
    model = build(config, seed=2)
    tokens, lengths = strings(6)
    state = torch.zeros(8)
    for x in model.embedding(tokens[0]):
        weights = (x @ model.w_choice).softmax(0)
        matrix = sum(w * a for w, a in zip(weights, model.dictionary, strict=True))
        sides = matrix if normalise == "row" else matrix.T
        sides = torch.stack([side / (side.abs() ** 1.2).sum() ** (1 / 1.2) for side in sides])
        matrix = sides if normalise == "row" else sides.T
        state = matrix @ state + x @ model.w_in
    torch.testing.assert_close(model(tokens, lengths)[0], model.classifier(model.norm(state)))


@pytest.mark.parametrize("kind", ["deltanet", "mamba2"])
def test_eigenvalues_are_negative_where_that_is_asked(kind, monkeypatch):
    """Seen where the recurrence takes them: 1 - strength, and the decay itself."""
    from ldru_study.models import deltanet, mamba2

    seen = []
    for module, name, of in (
        (deltanet, "delta_rule", lambda inputs: 1 - inputs[3]),
        (mamba2, "selective_scan", lambda inputs: inputs[0]),
    ):
        original = getattr(module, name)

        def spy(*inputs, original=original, of=of):
            seen.append(of(inputs))
            return original(*inputs)

        monkeypatch.setattr(module, name, spy)
    for has_negative in (False, True):
        model = build({"kind": kind, "width": 8, "heads": 2, "negative_eigenvalues": has_negative})
        with torch.no_grad():
            for parameter in model.blocks[0].parameters():
                parameter.mul_(4)
        seen.clear()
        model(*strings(50))
        values = torch.cat([value.flatten() for value in seen])
        assert values.max() <= 1
        assert (values.min() < 0) == has_negative
        assert values.min() >= -1


def test_a_short_convolution_sees_the_last_tokens():
    filters = ShortConvolution(3, 4, has_bias=True)
    x = torch.randn(2, 6, 3)
    found = filters(x)
    for t in range(6):
        total = filters.bias.clone()
        for tap in range(4):
            if t - 3 + tap >= 0:
                total = total + filters.weight[tap] * x[:, t - 3 + tap]
        torch.testing.assert_close(found[:, t], F.silu(total))


# long strings


def test_who_can_stream():
    kinds = {kind for kind, made in MODEL_CONFIGS.items() if can_stream(build(small(made)))}
    assert kinds >= {"gru", "ldru", "lstm", "rnn"}


def test_a_model_that_cannot_stream_says_so():
    model = build(TRANSFORMER)
    assert not can_stream(model)
    with pytest.raises(TypeError, match="a Transformer reads whole strings only"):
        begin_stream(model, torch.tensor([3]))


def test_random_brackets_are_drawn_level_by_level():
    """What a call in training gives is one of the trees, and each is about as frequent."""
    model = build({"kind": "ldru", "width": 8, "random_brackets": True}).double()
    batch = strings(5, 3)
    weights, table = model._merge_weights(), model._leaf_of_symbol()
    trees = []
    # a third level would be that of two nodes
    for offsets in itertools.product((0, 1), repeat=2):
        roots = tree_reduce_tokens(table, batch[0], weights, lengths=batch[1], offsets=offsets)
        trees.append(model.classifier(roots))
    assert torch.equal(model(*batch), trees[0])
    model.train()
    torch.manual_seed(0)
    counts = [0] * len(trees)
    for _ in range(200):
        found = model(*batch)
        (number,) = [n for n, tree in enumerate(trees) if torch.equal(tree, found)]
        counts[number] += 1
    # 50 each; five standard deviations are 31
    assert all(19 <= count <= 81 for count in counts), counts


def test_brackets_that_are_drawn_once_hold_for_all_calls_in_training():
    model = build({"kind": "ldru", "width": 8, "random_brackets": True}).double()
    (tokens, lengths), plain = strings(40, 33, 7, 2), build({"kind": "ldru", "width": 8}).double()
    state, found = torch.get_rng_state(), []
    for seed in (1, 2, 1):
        draw_brackets(model, seed)
        found.append(model.train()(tokens, lengths))
        for row in range(4):
            alone = model(tokens[row : row + 1], lengths[row : row + 1])
            torch.testing.assert_close(alone[0], found[-1][row])
        assert torch.equal(model.eval()(tokens, lengths), plain(tokens, lengths))
    assert torch.equal(found[0], found[2])
    assert not torch.allclose(found[0][:3], found[1][:3])
    # two tokens have one tree
    torch.testing.assert_close(found[0][3], found[1][3])
    assert torch.equal(torch.get_rng_state(), state)
    # and nothing to draw for who has none
    draw_brackets(plain.train(), 1)
    assert torch.equal(plain(tokens, lengths), plain.eval()(tokens, lengths))


def test_trees_of_random_brackets_are_not_cut():
    model = build({"kind": "ldru", "width": 8, "random_brackets": True})
    share_strings(model, None)
    with pytest.raises(ValueError, match="random_brackets: their trees have no subtree for every"):
        share_strings(model, object())
    with pytest.raises(ValidationError, match="lone_node 'left_fold' cuts the tokens into blocks"):
        build({"kind": "ldru", "lone_node": "left_fold", "random_brackets": True})


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


@pytest.mark.parametrize("operator", OPERATORS)
def test_the_defect_is_the_mean_of_the_penalties(operator):
    model = build({"kind": "ldru", "operator": operator, "width": 8})
    # three tokens have one triple, of leaves
    batch = strings(3)
    penalty = model.associativity_penalty(*batch).detach()
    assert float(penalty) == pytest.approx(associativity_defect(model, *batch), rel=1e-5)
    # three levels: triples of leaves, of pairs, of fours
    batch = strings(14, 9, 1)
    torch.manual_seed(0)
    penalties = torch.stack([model.associativity_penalty(*batch).detach() for _ in range(600)])
    assert associativity_defect(model, *batch) == pytest.approx(
        float(penalties.mean()), abs=4 * float(penalties.std()) / 600**0.5
    )


def test_the_defect_of_long_strings_is_of_the_first():
    model = build({"kind": "ldru", "width": 8})
    tokens, lengths = strings(3000, 3000, 3000, 2500)
    few = associativity_defect(model, tokens[:2], lengths[:2])
    assert associativity_defect(model, tokens, lengths) == few
    # one string is looked at however long it is
    assert associativity_defect(model, *strings(2**13 + 1)) is not None


@pytest.mark.parametrize("lone_node", get_args(LoneNode))
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
