"""`models verify` against an implementation of its own: numpy, float64, one node at a time."""

from __future__ import annotations

import json
from math import erf

import numpy as np
import pytest
from click.testing import CliRunner

from ldru_study.cli import main
from ldru_study.errors import NotFoundError, StudyError
from ldru_study.models.verify import verify_ldru

V, E, C, B = 3, 4, 3, 4
LENGTHS = (1, 2, 3, 5, 8, 33, 127)
OPERATORS = {
    "mlp": {
        **{"w1": (8, 8), "b1": (8,), "w2": (8, 16), "b2": (16,), "w3": (16, 8), "b3": (8,)},
        **{"v_left": (4, 4), "a_left": (4,), "v_right": (4, 4), "a_right": (4,)},
        **{"w_out": (4, 4), "b_out": (4,)},
    },
    "grc": {
        **{"w1": (8, 16), "b1": (16,), "w2": (16, 16), "b2": (16,)},
        **{"norm_weight": (4,), "norm_bias": (4,)},
    },
    "gated_sum": {"weight": (8, 4), "bias": (4,)},
    "linear": {"weight": (8, 4), "bias": (4,)},
    "elementwise_sum": {},
}


def weights_of(operator, rng):
    ffn = {"w1": (4, 16), "b1": (16,), "w2": (16, 4), "b2": (4,)}
    norm = {"weight": (4,), "bias": (4,)}
    parts = {
        "embedding": {"weight": (V, E)},
        "leaf_norm": norm,
        "leaf_ffn": ffn,
        "operator": OPERATORS[operator],
        "node_ffn": ffn,
        "node_norm": norm,
        "classifier": {"weight": (E, C), "bias": (C,)},
    }
    shapes = {f"{part}.{name}": shape for part, own in parts.items() for name, shape in own.items()}
    return {
        name: rng.normal(0, (2 / sum(shape)) ** 0.5, shape).astype(np.float32)
        for name, shape in shapes.items()
    }


def relu(x):
    return np.maximum(x, 0)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def gelu(x):
    return x * (1 + np.vectorize(erf)(x / 2**0.5)) / 2


def norm(x, weight, bias):
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt(x.var(-1, keepdims=True) + 1e-5) * weight + bias


def merge(operator, w, left, right):
    both = np.concatenate([left, right], axis=-1)
    match operator:
        case "elementwise_sum":
            return left + right
        case "linear":
            return both @ w["weight"] + w["bias"]
        case "gated_sum":
            gate = sigmoid(both @ w["weight"] + w["bias"])
            return gate * left + (1 - gate) * right
        case "mlp":
            hidden = relu(relu(both @ w["w1"] + w["b1"]) @ w["w2"] + w["b2"])
            gate_left, gate_right = np.split(hidden @ w["w3"] + w["b3"], 2, axis=-1)
            value = (gate_left * left) @ w["v_left"] + w["a_left"]
            value = value + (gate_right * right) @ w["v_right"] + w["a_right"]
            return value @ w["w_out"] + w["b_out"]
        case "grc":
            cell = gelu(both @ w["w1"] + w["b1"]) @ w["w2"] + w["b2"]
            keep_left, keep_right, write, content = np.split(cell, 4, axis=-1)
            total = sigmoid(keep_left) * left + sigmoid(keep_right) * right
            total = total + sigmoid(write) * content
            return norm(total, w["norm_weight"], w["norm_bias"])


def logits_of(operator, w, tokens):
    """The definition, node by node, all in float64; tokens [B, T]."""
    own = {name.split(".")[1]: value for name, value in w.items() if name.startswith("operator.")}

    def normed(x, part):
        return norm(x, w[f"{part}.weight"], w[f"{part}.bias"])

    def residual_ffn(x, part):
        hidden = relu(x @ w[f"{part}.w1"] + w[f"{part}.b1"])
        return x + hidden @ w[f"{part}.w2"] + w[f"{part}.b2"]

    leaves = residual_ffn(normed(w["embedding.weight"], "leaf_norm"), "leaf_ffn")
    level = [leaves[column] for column in tokens.T]
    while len(level) > 1:
        if len(level) % 2:
            level.insert(-1, np.zeros_like(level[-1]))
        pairs = zip(level[::2], level[1::2], strict=True)
        merged = [merge(operator, own, left, right) for left, right in pairs]
        level = [normed(residual_ffn(node, "node_ffn"), "node_norm") for node in merged]
    return level[0] @ w["classifier.weight"] + w["classifier.bias"]


def mean_loss(operator, w, tokens, labels):
    logits = logits_of(operator, w, tokens)
    peaks = logits.max(1)
    log_sums = peaks + np.log(np.exp(logits - peaks[:, None]).sum(1))
    return (log_sums - logits[np.arange(len(labels)), labels]).mean()


def gradients_of(operator, w, tokens, labels, step=1e-5):
    """Central differences, good to about nine digits in float64."""
    found = {}
    for name, value in w.items():
        found[name] = np.zeros_like(value)
        for place in np.ndindex(value.shape):
            kept = value[place]
            value[place] = kept + step
            above = mean_loss(operator, w, tokens, labels)
            value[place] = kept - step
            below = mean_loss(operator, w, tokens, labels)
            value[place] = kept
            found[name][place] = (above - below) / (2 * step)
    return found


@pytest.fixture(scope="module")
def reference():
    """All arrays of a file: logits at all lengths, gradients where differences are quick."""
    rng = np.random.default_rng(5)
    arrays = {}
    for operator in OPERATORS:
        weights = weights_of(operator, rng)
        arrays |= {f"{operator}/param/{name}": value for name, value in weights.items()}
        wide = {name: value.astype(np.float64) for name, value in weights.items()}
        for length in LENGTHS:
            tokens, labels = rng.integers(V, size=(B, length)), rng.integers(C, size=B)
            found = {
                "tokens": tokens,
                "labels": labels,
                "logits": logits_of(operator, wide, tokens),
            }
            if length in (1, 3):
                gradients = gradients_of(operator, wide, tokens, labels)
                found |= {f"grad/{name}": value for name, value in gradients.items()}
            arrays |= {f"{operator}/L{length}/{part}": value for part, value in found.items()}
    return arrays


def saved(folder, arrays):
    path = folder / "reference.npz"
    np.savez(path, **arrays)
    return path


def verify(*arguments):
    return CliRunner().invoke(main, ["models", "verify", *map(str, arguments)])


def test_every_operator_at_every_length(reference, tmp_path):
    compared = verify_ldru(saved(tmp_path, reference))
    assert {(one.operator, one.length) for one in compared} == {
        (operator, length) for operator in OPERATORS for length in LENGTHS
    }
    for one in compared:
        assert one.num_strings == B
        assert one.largest_error < 1e-5, one
        has_gradients = one.length in (1, 3)
        assert bool(one.gradient_error) == has_gradients
    assert max(one.largest_error for one in compared) > 0


def test_the_command(reference, tmp_path):
    done = verify(saved(tmp_path, reference), "--json")
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert told["tolerance"] == 1e-4
    assert told["largest_error"] < 1e-5
    assert len(told["comparisons"]) == len(OPERATORS) * len(LENGTHS)
    first = told["comparisons"][0]
    assert first["is_within"]
    assert first["worst_gradient"]
    assert {"operator", "length", "num_strings", "logits_error", "gradient_error"} < set(first)


@pytest.mark.parametrize(
    "key", ["mlp/L5/logits", "grc/param/operator.w2", "linear/L3/grad/operator.weight"]
)
def test_a_difference_is_found(reference, tmp_path, key):
    arrays = {
        name: value for name, value in reference.items() if name.startswith(key.split("/")[0])
    }
    arrays[key] = arrays[key] + 2e-3 * np.abs(arrays[key]).max()
    done = verify(saved(tmp_path, arrays), "--json")
    assert done.exit_code == 4, done.output
    told = json.loads(done.stdout)
    assert told["largest_error"] > 1e-4
    assert not all(one["is_within"] for one in told["comparisons"])
    plain = verify(saved(tmp_path, arrays))
    assert plain.exit_code == 4
    assert "no" in plain.stdout.split()


CASES = {
    "odd key": (
        {"linear/L3/token": np.zeros(1)},
        "key 'linear/L3/token' is none of ours. Write '<operator>/param/<name>'",
    ),
    "odd operator": (
        {"lienar/L3/tokens": np.zeros((1, 3), int)},
        "key 'lienar/L3/tokens': no operator is called 'lienar'. Did you mean 'linear'?",
    ),
    "missing weight": (
        {"linear/param/operator.bias": None},
        "'linear/param/...': missing are operator.bias. Add them.",
    ),
    "missing embedding": (
        {"linear/param/embedding.weight": None},
        "'linear/param/embedding.weight' is missing.",
    ),
    "odd weight": (
        {"linear/param/operator.wieght": np.zeros((8, 4))},
        "'linear/param/operator.wieght' is no weight of operator linear. Did you mean "
        "'operator.weight'?",
    ),
    "transposed weight": (
        {"linear/param/operator.weight": np.zeros((4, 8))},
        "'linear/param/operator.weight': shape [4, 8], but with V = 3, E = 4, C = 3 it has [8, 4].",
    ),
    "no labels": ({"linear/L3/labels": None}, "'linear/L3/labels' is missing. Add it."),
    "another length": (
        {"linear/L3/tokens": np.zeros((4, 4), int)},
        "'linear/L3/tokens': shape [4, 4], wanted [4, 3] with at least one string.",
    ),
    "token out of range": (
        {"linear/L3/tokens": np.full((4, 3), 3)},
        "'linear/L3/tokens': from 3 to 3, wanted 0 to 2.",
    ),
    "tokens as numbers": (
        {"linear/L3/tokens": np.zeros((4, 3))},
        "'linear/L3/tokens': wants integers, found float64.",
    ),
    "logits of other strings": (
        {"linear/L3/logits": np.zeros((5, 3))},
        "'linear/L3/logits': shape [5, 3], wanted [4, 3] with at least one string.",
    ),
    "logits that are not finite": (
        {"linear/L3/logits": np.full((4, 3), np.nan)},
        "'linear/L3/logits' is not finite. Nothing can be compared with it.",
    ),
    "gradient of nothing": (
        {"linear/L3/grad/operator.b": np.zeros(4)},
        "'linear/L3/grad/operator.b': the model has no such weight. Did you mean",
    ),
}


@pytest.mark.parametrize(("changes", "message"), CASES.values(), ids=CASES)
def test_files_that_are_refused(reference, tmp_path, changes, message):
    arrays = {
        name: value
        for name, value in (reference | changes).items()
        if value is not None and name.startswith(("linear/param", "linear/L3", "lienar"))
    }
    with pytest.raises(StudyError) as caught:
        verify_ldru(saved(tmp_path, arrays))
    assert message in str(caught.value)
    assert str(tmp_path) in str(caught.value)


def test_the_norm_of_an_operator_may_be_written_as_the_others_are(reference, tmp_path):
    arrays = {
        name.replace("operator.norm_", "operator.norm."): value
        for name, value in reference.items()
        if name.startswith(("grc/param", "grc/L3/"))
    }
    assert "grc/L3/grad/operator.norm.bias" in arrays
    (compared,) = verify_ldru(saved(tmp_path, arrays))
    assert compared.largest_error < 1e-5


def test_weights_alone_compare_nothing(reference, tmp_path):
    arrays = {name: value for name, value in reference.items() if name.startswith("linear/param")}
    with pytest.raises(StudyError, match=r"'linear/param/\.\.\.' alone compares nothing"):
        verify_ldru(saved(tmp_path, arrays))


def test_files_that_are_none(tmp_path):
    with pytest.raises(NotFoundError, match="no such file"):
        verify_ldru(tmp_path / "missing.npz")
    (tmp_path / "text.npz").write_text("no archive")
    with pytest.raises(StudyError, match=r"not read as an .npz"):
        verify_ldru(tmp_path / "text.npz")
    np.savez(tmp_path / "objects.npz", **{"mlp/L1/tokens": np.array([{}], dtype=object)})
    with pytest.raises(StudyError, match=r"not read as an .npz"):
        verify_ldru(tmp_path / "objects.npz")
    np.savez(tmp_path / "empty.npz")
    with pytest.raises(StudyError, match="holds no arrays"):
        verify_ldru(tmp_path / "empty.npz")
    np.save(tmp_path / "single.npy", np.zeros(3))
    with pytest.raises(StudyError, match="one array without a name"):
        verify_ldru(tmp_path / "single.npy")
