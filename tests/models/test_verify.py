"""`models verify` against an implementation of its own: numpy, float64, one node at a time."""

from __future__ import annotations

import json
from math import erf

import numpy as np
import pytest
from click.testing import CliRunner

from ldru_study.cli import main
from ldru_study.errors import InputError, NotFoundError, StudyError
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


def tanh_gelu(x):
    return x * (1 + np.tanh((2 / np.pi) ** 0.5 * (x + 0.044715 * x**3))) / 2


def norm(x, weight, bias):
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt(x.var(-1, keepdims=True) + 1e-5) * weight + bias


def merge(operator, w, left, right, gelu):
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


def logits_of(operator, w, tokens, gelu=gelu):
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
        merged = [merge(operator, own, left, right, gelu) for left, right in pairs]
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
    compared, problems = verify_ldru(saved(tmp_path, reference))
    assert problems == ()
    assert {(one.operator, one.length) for one in compared} == {
        (operator, length) for operator in OPERATORS for length in LENGTHS
    }
    for one in compared:
        assert one.num_strings == B
        assert one.largest_error < 1e-5, one
        has_gradients = one.length in (1, 3)
        assert bool(one.gradient_error) == has_gradients
        # the file does not say which form of gelu it has
        assert one.gelu == ("exact" if one.operator == "grc" else None)
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
        "'linear/param/...': missing are operator.bias. Add them. Operator linear has "
        "operator.weight [8, 4], operator.bias [4].",
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
    "no strings": (
        {
            "linear/L3/tokens": np.zeros((0, 3), int),
            "linear/L3/labels": np.zeros(0, int),
            "linear/L3/logits": np.zeros((0, 3)),
        },
        "'linear/L3/tokens': shape [0, 3], wanted [0, 3] with at least one string.",
    ),
    "one-hot tokens": (
        {"linear/L3/tokens": np.zeros((4, 3, 3), int)},
        "'linear/L3/tokens': shape [4, 3, 3], wanted [4, 3] with at least one string.",
    ),
    "whole weights": (
        {"linear/param/operator.bias": np.zeros(4, int)},
        "'linear/param/operator.bias': wants floating point, found int64.",
    ),
    "complex weights": (
        {"linear/param/operator.bias": np.zeros(4, complex)},
        "'linear/param/operator.bias': wants floating point, found complex128.",
    ),
    "a scalar for the embedding": (
        {"linear/param/embedding.weight": np.float32(1)},
        "'linear/param/embedding.weight': wants shape [V, E], found [].",
    ),
    "a vocabulary as wide as a book": (
        {"linear/param/embedding.weight": np.zeros((4, 70_000), np.float16)},
        "wants shape [V, E], found [4, 70000]; E is at most 65536. Is it transposed?",
    ),
    "weights beyond float32": (
        {"linear/param/operator.bias": np.full(4, 1e300)},
        "'linear/param/operator.bias': 1e+300 is beyond float32.",
    ),
    "form of another operator": (
        {"linear/gelu": np.array("tanh")},
        "key 'linear/gelu' is none of ours.",
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
def test_what_is_refused_is_named_beside_what_is_compared(reference, tmp_path, changes, message):
    def changed(*prefixes):
        return {
            name: value
            for name, value in (reference | changes).items()
            if value is not None and name.startswith((*prefixes, *changes))
        }

    done = verify(saved(tmp_path, changed("linear/param", "linear/L3/", "gated_sum/")), "--json")
    assert done.exit_code == 2, done.output
    assert f"Error: {tmp_path}" in done.stderr
    assert message in done.stderr
    told = json.loads(done.stdout)
    assert any(message in problem for problem in told["problems"])
    lengths = [one["length"] for one in told["comparisons"] if one["operator"] == "gated_sum"]
    assert lengths == list(LENGTHS)
    assert all(one["is_within"] for one in told["comparisons"])
    if {key.split("/")[1] for key in changes} & {"L3", "param"} and "lienar" not in str(changes):
        is_compared = any(one["operator"] == "linear" for one in told["comparisons"])
        # a key that is none of ours hides nothing else
        assert is_compared == ("none of ours" in message)


def test_a_file_of_nothing_that_can_be_compared(reference, tmp_path):
    arrays = part_of(reference, "linear/param") | {"linear/L3/token": np.zeros(1)}
    done = verify(saved(tmp_path, arrays), "--json")
    assert (done.exit_code, done.stdout) == (2, "")
    with pytest.raises(InputError) as caught:
        verify_ldru(saved(tmp_path, arrays))
    assert len(caught.value.problems) == 2


def test_a_difference_counts_more_than_what_could_not_be_compared(reference, tmp_path):
    arrays = part_of(reference, "linear/") | {"notes": np.array("ours")}
    arrays["linear/L5/logits"] = arrays["linear/L5/logits"] + 1
    done = verify(saved(tmp_path, arrays))
    assert done.exit_code == 4
    assert "key 'notes' is none of ours." in done.stderr


def part_of(reference, *prefixes):
    return {name: value for name, value in reference.items() if name.startswith(prefixes)}


@pytest.mark.parametrize("kind", ["int8", "uint8", "uint16", "int32", ">i8", "uint64"])
def test_tokens_and_labels_of_any_integer_type(reference, tmp_path, kind):
    arrays = part_of(reference, "mlp/param", "mlp/L3/")
    for part in ("tokens", "labels"):
        arrays[f"mlp/L3/{part}"] = arrays[f"mlp/L3/{part}"].astype(kind)
    (compared,), problems = verify_ldru(saved(tmp_path, arrays))
    assert (compared.largest_error < 1e-5, problems) == (True, ())


def test_labels_may_be_truth_values(reference, tmp_path):
    arrays = part_of(reference, "mlp/param", "mlp/L3/")
    arrays = {name: value for name, value in arrays.items() if "/grad/" not in name}
    arrays["mlp/L3/labels"] = arrays["mlp/L3/labels"] > 0
    (compared,), problems = verify_ldru(saved(tmp_path, arrays))
    assert (compared.gradient_error, problems) == ({}, ())


@pytest.mark.parametrize(("kind", "is_near"), [("float16", False), ("<f8", True), (">f4", True)])
def test_numbers_of_any_width(reference, tmp_path, kind, is_near):
    arrays = {
        name: value.astype(kind) if value.dtype.kind == "f" else value
        for name, value in part_of(reference, "mlp/param", "mlp/L33/").items()
    }
    (compared,), problems = verify_ldru(saved(tmp_path, arrays))
    # half precision is read, and off by its rounding
    assert (compared.largest_error < 1e-4) == is_near
    assert compared.largest_error < 0.1
    assert problems == ()


def test_gradients_or_logits_alone(reference, tmp_path):
    arrays = part_of(reference, "mlp/param", "mlp/L3/")
    gradients = {name: value for name, value in arrays.items() if name != "mlp/L3/logits"}
    (compared,), _ = verify_ldru(saved(tmp_path, gradients))
    assert compared.logits_error is None
    assert len(compared.gradient_error) == len(part_of(reference, "mlp/param"))
    done = verify(saved(tmp_path, gradients), "--json")
    assert done.exit_code == 0
    assert json.loads(done.stdout)["comparisons"][0]["logits_error"] is None
    assert verify(saved(tmp_path, gradients)).exit_code == 0
    logits = {name: value for name, value in arrays.items() if "/grad/" not in name}
    del logits["mlp/L3/labels"]
    (compared,), _ = verify_ldru(saved(tmp_path, logits))
    assert compared.logits_error < 1e-5


@pytest.mark.parametrize("form", ["exact", "tanh"])
def test_the_form_of_gelu_is_found_or_taken_from_the_file(reference, tmp_path, form):
    arrays = part_of(reference, "grc/param", "grc/L1/", "grc/L33/", "grc/L127/")
    weights = {
        name.removeprefix("grc/param/"): value.astype(np.float64)
        for name, value in part_of(reference, "grc/param/").items()
    }
    for length in (33, 127):
        tokens = arrays[f"grc/L{length}/tokens"]
        function = {"exact": gelu, "tanh": tanh_gelu}[form]
        arrays[f"grc/L{length}/logits"] = logits_of("grc", weights, tokens, function)
    done = verify(saved(tmp_path, arrays), "--json")
    assert done.exit_code == 0, done.output
    assert {one["gelu"] for one in json.loads(done.stdout)["comparisons"]} == {form}
    assert form in verify(saved(tmp_path, arrays)).stdout.split()
    (one, *_), _ = verify_ldru(saved(tmp_path, arrays | {"grc/gelu": np.array(form)}))
    assert one.gelu == form
    other = {"exact": "tanh", "tanh": "exact"}[form]
    compared, _ = verify_ldru(saved(tmp_path, arrays | {"grc/gelu": np.array(other)}))
    assert {one.gelu for one in compared} == {other}
    # how sure that is: weights as small as these make the forms nearly one
    for one in json.loads(done.stdout)["comparisons"]:
        if one["length"] > 1:
            assert one["gelu_errors"][other] > 5 * one["gelu_errors"][form]
    # a single leaf tells nothing
    (one,), _ = verify_ldru(saved(tmp_path, part_of(arrays, "grc/param", "grc/L1/")))
    assert one.gelu == "either"
    with pytest.raises(InputError, match=r"'grc/gelu': no form of gelu is called 'tahn'. Did you"):
        verify_ldru(saved(tmp_path, arrays | {"grc/gelu": np.array("tahn")}))


def test_the_weights_of_grc_are_listed_where_one_is_odd(reference, tmp_path):
    arrays = part_of(reference, "grc/param", "grc/L3/")
    arrays["grc/param/operator.gain"] = arrays.pop("grc/param/operator.norm_weight")
    wanted = (
        "Operator grc has operator.w1 [8, 16], operator.b1 [16], operator.w2 [16, 16], operator.b2 "
        "[16], operator.norm_weight [4], operator.norm_bias [4] (or operator.norm.scale and "
        "operator.norm.offset)."
    )
    with pytest.raises(InputError) as caught:
        verify_ldru(saved(tmp_path, arrays))
    assert "'grc/param/operator.gain' is no weight of operator grc." in str(caught.value)
    assert wanted in str(caught.value)
    arrays["grc/param/operator.norm.scale"] = arrays.pop("grc/param/operator.gain")
    arrays["grc/param/operator.norm_weight"] = arrays["grc/param/operator.norm.scale"]
    with pytest.raises(InputError, match=r"'operator.norm_weight' is given twice, by two names"):
        verify_ldru(saved(tmp_path, arrays))


def test_an_entry_that_cannot_be_read_hides_no_other(reference, tmp_path):
    arrays = part_of(reference, "linear/")
    arrays["linear/L5/tokens"] = np.array([{}], dtype=object)
    arrays["mlp/param/embedding.weight"] = np.array([{}], dtype=object)
    compared, problems = verify_ldru(saved(tmp_path, arrays))
    assert [one.length for one in compared] == [length for length in LENGTHS if length != 5]
    assert [problem[: problem.index(": ")] for problem in problems] == [
        "'linear/L5/tokens'",
        "'mlp/param/embedding.weight'",
    ]


@pytest.mark.parametrize(
    "names",
    [
        ("norm.weight", "norm.bias"),
        ("norm.scale", "norm.offset"),
        ("layer_norm.gamma", "layer_norm.beta"),
        ("ln_scale", "ln_bias"),
    ],
)
def test_the_norm_of_an_operator_has_many_names(reference, tmp_path, names):
    arrays = part_of(reference, "grc/param", "grc/L3/")
    for ours, theirs in zip(("norm_weight", "norm_bias"), names, strict=True):
        arrays = {
            name.replace(f"operator.{ours}", f"operator.{theirs}"): value
            for name, value in arrays.items()
        }
    assert f"grc/L3/grad/operator.{names[1]}" in arrays
    (compared,), problems = verify_ldru(saved(tmp_path, arrays))
    assert compared.largest_error < 1e-5
    assert problems == ()


def test_weights_alone_compare_nothing(reference, tmp_path):
    arrays = {name: value for name, value in reference.items() if name.startswith("linear/param")}
    with pytest.raises(InputError, match=r"'linear/param/\.\.\.' alone compares nothing"):
        verify_ldru(saved(tmp_path, arrays))


def test_files_that_are_none(tmp_path):
    with pytest.raises(NotFoundError, match="no such file"):
        verify_ldru(tmp_path / "missing.npz")
    (tmp_path / "text.npz").write_text("no archive")
    with pytest.raises(StudyError, match=r"not read as an .npz"):
        verify_ldru(tmp_path / "text.npz")
    np.savez(tmp_path / "objects.npz", **{"mlp/L1/tokens": np.array([{}], dtype=object)})
    with pytest.raises(InputError, match="'mlp/L1/tokens': not read as a plain array: Object"):
        verify_ldru(tmp_path / "objects.npz")
    np.savez(tmp_path / "empty.npz")
    with pytest.raises(StudyError, match="holds no arrays"):
        verify_ldru(tmp_path / "empty.npz")
    np.save(tmp_path / "single.npy", np.zeros(3))
    with pytest.raises(StudyError, match="one array without a name"):
        verify_ldru(tmp_path / "single.npy")
