"""Every way of drawing every task's strings: the contract, and exact distributions."""

from __future__ import annotations

import functools
import itertools
from collections import Counter, defaultdict
from functools import cache

import numpy as np
import pytest
from scipy.stats import chi2_contingency, chisquare

from ldru_study.errors import StudyError
from ldru_study.tasks.products import ProductLabels
from ldru_study.tasks.registry import find_task, task_names
from ldru_study.tasks.samplers import SAMPLINGS, is_chance_exact, sampler_of, samplings_of
from ldru_study.tasks.streams import random_stream
from ldru_study.tasks.tree_sizes import TreeSizes
from ldru_study.tasks.trees import LONGEST, TreeSampler

OWN = "contains_010=regex:(0|1)*010(0|1)*"
EVERY = [(name, one) for name in (*task_names(), OWN) for one in samplings_of(name)]
FALSE_ALARM = 1e-4


def all_strings(num_symbols, length):
    return np.array(list(itertools.product(range(num_symbols), repeat=length)), dtype=np.uint8)


@pytest.mark.parametrize(("name", "sampling"), EVERY)
def test_contract(name, sampling):
    task, sampler = find_task(name), sampler_of(name, sampling)
    usable = sampler.covered_lengths(1, 50)
    assert usable.tolist() == [length for length in range(1, 51) if sampler.covers(length)]
    assert sampler.covers(sampler.nearest_covered(41))
    lengths = random_stream(0, "lengths").choice(usable, 120)
    tokens, labels = sampler.sample(lengths, random_stream(0, "strings"))
    assert tokens.dtype == np.uint8
    assert labels.dtype == np.int64
    assert tokens.shape == (120, lengths.max())
    assert (task.language.label(tokens, lengths) == labels).all()
    assert (labels >= 0).all()
    assert not tokens[np.arange(tokens.shape[1]) >= lengths[:, None]].any()
    # a pure function of the generator, whatever was drawn before
    again = sampler.sample(lengths, random_stream(0, "strings"))
    assert (again[0] == tokens).all()
    assert not (sampler.sample(lengths, random_stream(1, "strings"))[0] == tokens).all()
    # the same piece by piece
    longest = int(usable[-1])
    tokens, labels = sampler.sample(np.full(3, longest), random_stream(2, "strings"))
    of_stream, pieces = sampler.stream(longest, 3, random_stream(2, "strings"), 16)
    assert (np.concatenate(list(pieces), axis=1) == tokens).all()
    assert (of_stream == labels).all()
    # the same beside others
    parts = [lengths[:40], np.full(3, longest), lengths[:1], lengths]
    together = sampler.sample_each(parts, [random_stream(n, "together") for n in range(4)])
    for number, (part, found) in enumerate(zip(parts, together, strict=True)):
        tokens, labels = sampler.sample(part, random_stream(number, "together"))
        assert np.array_equal(found[0], tokens)
        assert np.array_equal(found[1], labels)


@pytest.mark.parametrize(("name", "sampling"), [pair for pair in EVERY if is_chance_exact(*pair)])
def test_labels_come_as_often_as_their_shares_say(name, sampling):
    sampler = sampler_of(name, sampling)
    length = sampler.nearest_covered(13)
    shares = sampler.label_shares(length)
    assert shares.sum() == pytest.approx(1)
    assert sampler.chance(length) == shares.max()
    lengths = np.full(1500, length)
    _, labels = sampler.sample(lengths, random_stream(0, f"labels/{sampling}"))
    seen = np.bincount(labels, minlength=len(shares))
    assert not seen[shares == 0].any()
    # labels that hardly ever come are counted together
    rare = shares * len(labels) < 5
    counts = np.append(seen[~rare], seen[rare].sum())
    wanted = np.append(shares[~rare], shares[rare].sum()) * len(labels)
    there = wanted > 0
    if (there.sum() > 1 and wanted[-1] > 1) or not rare.any():
        found = chisquare(counts[there], wanted[there] * len(labels) / wanted[there].sum())
        assert not found.pvalue < FALSE_ALARM


def uniform(task, shares):
    """Return the probability of every string: its label's share by their number."""

    def probability(strings, labels):
        counts = np.bincount(labels[labels >= 0], minlength=task.num_classes)
        return np.where(labels >= 0, shares[labels] / np.maximum(counts[labels], 1), 0)

    return probability


class Reference:
    """The definitions of walks and of hard sampling, string by string."""

    def __init__(self, task, length):
        self.task, self.length = task, length
        self.automaton = task.automaton
        self.strings = [tuple(map(int, one)) for one in all_strings(task.num_symbols, length)]
        labels = self.automaton.label(
            np.array(self.strings, dtype=np.uint8), np.full(len(self.strings), length)
        )
        self.labels = dict(zip(self.strings, labels.tolist(), strict=True))
        self.classes = sorted(set(self.labels.values()) - {-1})

    def with_label(self, label):
        return [string for string in self.strings if self.labels[string] == label]

    @cache  # noqa: B019 - one object per test
    def possible(self, start, label):
        """The symbols after which a string that begins so can still have the label."""
        return [
            symbol
            for symbol in range(self.task.num_symbols)
            if any(
                string[: len(start) + 1] == (*start, symbol) for string in self.with_label(label)
            )
        ]

    def walk(self, string, label, begin=0):
        """Probability of a string's symbols from place ``begin`` on, evenly among the possible."""
        probability = 1.0
        for place in range(begin, self.length):
            symbols = self.possible(string[:place], label)
            probability *= (string[place] in symbols) / len(symbols)
        return probability

    def late(self, sources, label):
        """Follow one of ``sources`` to a uniform place, or as far as possible, then walk."""
        found = Counter()
        for source, place in itertools.product(sources, range(self.length)):
            kept = 0
            while kept < place and source[kept] in self.possible(source[:kept], label):
                kept += 1
            share = 1 / len(sources) / self.length
            for string in self.with_label(label):
                if string[:kept] == source[:kept]:
                    found[string] += share * self.walk(string, label, kept)
        return found

    def edited(self, sources):
        """Replace one to three symbols until the string is rejected; after 16 tries be late."""
        found = Counter()
        for source in sources:
            once = Counter()
            num_symbols = self.task.num_symbols
            for edits in (1, 2, 3):
                options = list(itertools.product(range(self.length), range(1, num_symbols)))
                for chosen in itertools.product(options, repeat=edits):
                    string = list(source)
                    for place, step in chosen:
                        string[place] = (string[place] + step) % num_symbols
                    once[tuple(string)] += 1 / 3 / len(options) ** edits
            hits = {string: p for string, p in once.items() if self.labels[string] == 0}
            found_at_all = sum(hits.values())
            missed = (1 - found_at_all) ** 16
            for string, p in hits.items():
                found[string] += p / found_at_all * (1 - missed) / len(sources)
            if missed > 1e-12:
                for string, p in self.late([source], 0).items():
                    found[string] += p * missed / len(sources)
        return found

    def hard(self):
        if self.task.num_classes > 2:
            found = Counter()
            for label, other in itertools.permutations(self.classes, 2):
                pairs = len(self.classes) * (len(self.classes) - 1)
                for string, p in self.late(self.with_label(other), label).items():
                    found[string] += p / pairs
            return found
        accepted = self.with_label(1)
        kinds = [self.edited(accepted), self.late(accepted, 0)]
        if self.task.near_misses is not None:
            near = [
                string
                for string in self.strings
                if self.task.near_misses.label(
                    np.array([string], dtype=np.uint8), np.array([self.length])
                )[0]
            ]
            if near:
                kinds.append({string: 1 / len(near) for string in near})
        found = Counter({string: 0.5 / len(accepted) for string in accepted})
        for kind in kinds:
            for string, p in kind.items():
                found[string] += 0.5 * p / len(kinds)
        return found

    def walks(self):
        return {
            string: self.walk(string, label) / len(self.classes)
            for string, label in self.labels.items()
        }


@pytest.mark.parametrize(
    ("name", "sampling", "length"),
    [
        ("parity_check", "paper", 5),
        ("modular_arithmetic", "paper", 3),
        ("modular_arithmetic", "balanced", 3),
        ("group_s3", "balanced", 4),
        ("d_2", "paper", 6),
        ("d_2", "paper", 5),
        ("tomita_4", "paper", 6),
        ("tomita_5", "paper", 5),
        ("tomita_7", "paper", 6),
        (OWN, "paper", 6),
        ("parity_check", "hard", 5),
        ("tomita_3", "hard", 6),
        ("tomita_7", "hard", 5),
        ("d_1", "hard", 4),
        ("d_2", "hard", 6),
        ("cycle_navigation", "hard", 4),
        ("prefix_2_2", "hard", 4),
        (OWN, "hard", 5),
    ],
)
def test_every_string_comes_as_often_as_its_probability_says(name, sampling, length):
    task, sampler = find_task(name), sampler_of(name, sampling)
    reference = Reference(task, length)
    if sampling == "hard":
        exact = reference.hard()
    elif task.paper == "half_walks":
        exact = reference.walks()
    else:
        exact = uniform(task, sampler.label_shares(length))
        labels = np.array(list(reference.labels.values()))
        exact = dict(zip(reference.strings, exact(None, labels).tolist(), strict=True))
    probability = np.array([exact.get(string, 0.0) for string in reference.strings])
    assert probability.sum() == pytest.approx(1)
    num_draws = 12_000
    tokens, _ = sampler.sample(
        np.full(num_draws, length), random_stream(0, f"draws/{name}/{sampling}")
    )
    codes = tokens.astype(np.int64) @ task.num_symbols ** np.arange(length)[::-1]
    seen = np.bincount(codes, minlength=len(probability))
    assert not seen[probability == 0].any()
    there = probability > 0
    order = np.argsort(probability[there])
    # neighbours in probability are counted together until enough are expected
    bins = np.floor(np.cumsum(probability[there][order]) * num_draws / 12 - 1e-9).astype(int)
    counts = np.bincount(bins, weights=seen[there][order])
    wanted = np.bincount(bins, weights=probability[there][order] * num_draws)
    kept = wanted > 0
    assert chisquare(counts[kept], wanted[kept]).pvalue > FALSE_ALARM


def test_accepted_strings_of_the_paper_need_no_luck():
    # at this length one uniform string in 10^150 is accepted
    _, labels = sampler_of("d_2", "paper").sample(np.full(400, 1000), np.random.default_rng(1))
    assert 150 < labels.sum() < 250
    _, labels = sampler_of("d_2", "paper").sample(np.full(400, 1001), np.random.default_rng(1))
    assert not labels.any()


def test_chance_of_the_published_protocol():
    lengths = range(42, 501)
    for name in ("d_2", "d_12", "tomita_5"):
        sampler = sampler_of(name, "paper")
        constant = np.mean([sampler.label_shares(length)[0] for length in lengths])
        assert constant == pytest.approx(0.749, abs=6e-4), name
    assert sampler_of("modular_arithmetic", "paper").chance(101) == pytest.approx(0.273, abs=5e-4)
    contains = sampler_of(OWN, "paper")
    for length, chance in ((10, 0.657), (40, 0.993), (160, 1.000)):
        assert contains.chance(length) == pytest.approx(chance, abs=5e-4)


def test_hard_brackets_go_wrong_late_and_one_too_deep():
    sampler, task = sampler_of("d_3", "hard"), find_task("d_3")
    tokens, labels = sampler.sample(np.full(4000, 100), np.random.default_rng(0))
    wrong = tokens[labels == 0]
    heights = np.cumsum(1 - 2 * wrong.astype(int), axis=1)
    is_dead = (heights < 0) | (heights > 3)
    # a third is one too deep and otherwise right, a sixth at least goes wrong in the second half
    one_deeper = (heights.min(axis=1) >= 0) & (heights.max(axis=1) == 4) & (heights[:, -1] == 0)
    assert one_deeper.mean() > 0.3
    goes_wrong_late = is_dead.any(axis=1) & (is_dead.argmax(axis=1) > 50)
    assert goes_wrong_late.mean() > 1 / 6
    assert task.automaton.label(wrong, np.full(len(wrong), 100)).max() == 0


def shapes(max_args, depth, length):
    """Return the nested lists of a length, digits as "d", with their probabilities unscaled."""
    if length == 1:
        # at the deepest level there is nothing but digits
        return {"d": 0.75 if depth > 1 else 1.0}
    if depth == 1 or length < 4:
        return {}
    found = Counter()
    for number in range(2, max_args + 1):
        for sizes in itertools.product(range(1, length - 2), repeat=number):
            if sum(sizes) != length - 2:
                continue
            children = [shapes(max_args, depth - 1, size).items() for size in sizes]
            for chosen in itertools.product(*children):
                shape = "[" + "".join(text for text, _ in chosen) + "]"
                weight = np.prod([p for _, p in chosen])
                found[shape] += 0.25 / (max_args - 1) * weight
    return found


@pytest.mark.parametrize("sampling", ["paper", "balanced"])
@pytest.mark.parametrize(("name", "length"), [("listops_3_9", 10), ("listops_5_3", 12)])
def test_trees_of_a_length_have_their_shapes_in_proportion(name, length, sampling):
    task, num_draws = find_task(name), 3000
    language = task.language
    exact = shapes(language.max_args, language.max_depth, length)
    tokens, labels = sampler_of(name, sampling).sample(
        np.full(num_draws, length), random_stream(0, f"trees/{sampling}")
    )
    if sampling == "balanced":
        assert chisquare(np.bincount(labels, minlength=10)).pvalue > FALSE_ALARM
        return
    written = np.array(["d"] * 10 + ["["] * 4 + ["]"])
    seen = Counter("".join(row) for row in written[tokens])
    assert set(seen) <= set(exact)
    total = sum(exact.values())
    common = [shape for shape in exact if exact[shape] / total * num_draws > 5]
    counts = [seen[shape] for shape in common]
    wanted = [exact[shape] / total * num_draws for shape in common]
    counts.append(num_draws - sum(counts))
    wanted.append(num_draws - sum(wanted))
    kept = [place for place, one in enumerate(wanted) if one > 1e-6]
    found = chisquare([counts[n] for n in kept], [wanted[n] for n in kept])
    assert found.pvalue > FALSE_ALARM
    # digits and operators are uniform whatever the shape
    assert chisquare(np.bincount(tokens[tokens < 10])).pvalue > FALSE_ALARM
    assert chisquare(np.bincount(tokens[(tokens >= 10) & (tokens < 14)] - 10)).pvalue > FALSE_ALARM


@pytest.mark.parametrize("sampling", ["paper", "balanced"])
def test_every_list_of_two_digits_comes_as_often_as_its_probability_says(sampling):
    task, num_draws = find_task("listops_2_2"), 12_000
    pairs = itertools.product(range(10, 14), range(10), range(10), [14])
    strings = np.array(list(pairs), dtype=np.uint8)
    labels = task.language.label(strings, np.full(400, 4))
    drawn, found = sampler_of("listops_2_2", sampling).sample(
        np.full(num_draws, 4), random_stream(0, f"pairs/{sampling}")
    )
    assert (found == task.language.label(drawn, np.full(num_draws, 4))).all()
    codes = drawn[:, :3].astype(int) @ [100, 10, 1] - 1000
    share = 1 / 400 if sampling == "paper" else 0.1 / np.bincount(labels)[labels]
    seen = np.bincount(codes, minlength=400)
    assert chisquare(seen, np.full(400, share) * num_draws).pvalue > FALSE_ALARM


@pytest.mark.parametrize("name", ["listops_2_20", "listops_5_9", "listops_10_4"])
def test_lists_are_drawn_with_their_values(name):
    sampler, language = sampler_of(name, "paper"), find_task(name).language
    rng = np.random.default_rng(0)
    for longest in (1, 60, 300):
        lengths = rng.choice(sampler.covered_lengths(1, longest), 300)
        tokens, labels = sampler.sample(lengths, rng)
        assert np.array_equal(language.label(tokens, lengths), labels)
        assert not tokens[np.arange(tokens.shape[1]) >= lengths[:, None]].any()


def test_lists_are_no_longer_than_can_be_drawn():
    sampler = sampler_of("listops_3_9", "balanced")
    assert [length for length in range(1, 12) if not sampler.covers(length)] == [2, 3, 6]
    assert sampler.nearest_covered(2) == 1
    assert not sampler.covers(LONGEST + 1)
    tokens, _ = sampler.sample(np.full(2, LONGEST), np.random.default_rng(0))
    assert tokens.shape == (2, LONGEST)
    with pytest.raises(ValueError, match=f"have at most {LONGEST} tokens, found {LONGEST + 1}"):
        sampler.nearest_covered(LONGEST + 1)


def values(max_args, depth):
    """Return the probability of each value of each length, from all choices of children."""
    found = {1: np.full(10, 0.1)}
    for _ in range(depth - 1):
        lists = defaultdict(lambda: np.zeros(10))
        for number in range(2, max_args + 1):
            for sizes in itertools.product(found, repeat=number):
                chances = functools.reduce(np.multiply.outer, [found[size] for size in sizes])
                for digits, chance in np.ndenumerate(chances):
                    ordered = sorted(digits)
                    median = (ordered[(number - 1) // 2] + ordered[number // 2]) // 2
                    for value in (ordered[0], ordered[-1], median, sum(digits) % 10):
                        lists[sum(sizes) + 2][value] += chance / 16 / (max_args - 1)
        found = {1: np.full(10, 0.075), **lists}
    return found


@pytest.mark.parametrize(("max_args", "depth"), [(2, 2), (4, 2), (2, 4), (3, 3)])
def test_shares_of_lists_are_those_of_all_lists(max_args, depth):
    exact = values(max_args, depth)
    sampler = sampler_of(f"listops_{max_args}_{depth}", "paper")
    for length, weights in exact.items():
        assert sampler.has_exact_shares(length)
        shares = weights / weights.sum()
        assert sampler.label_shares(length) == pytest.approx(shares, abs=1e-12)
        assert sampler.chance(length) == sampler.label_shares(length).max()


@pytest.mark.parametrize(("name", "length"), [("listops_5_14", 40), ("listops_3_9", 129)])
def test_shares_of_lists_are_those_of_drawn_ones(name, length):
    sampler, num_draws = sampler_of(name, "paper"), 20_000
    assert sampler.has_exact_shares(length) == (length < 129)
    shares = sampler.label_shares(length)
    _, labels = sampler.sample(np.full(num_draws, length), np.random.default_rng(7))
    seen = np.bincount(labels, minlength=10)
    if length < 129:
        assert chisquare(seen, shares * num_draws).pvalue > FALSE_ALARM
    else:
        assert np.abs(shares - seen / num_draws).max() < 0.03


def test_shares_that_rounding_would_spoil_are_not_reckoned():
    # full trees alone have 61 tokens
    sampler = sampler_of("listops_2_5", "paper")
    assert sampler.covers(46)
    assert sampler.has_exact_shares(40)
    assert not sampler.has_exact_shares(46)
    assert not sampler_of("listops_5_14", "paper").has_exact_shares(130)


@pytest.mark.parametrize("name", ["listops_2_5", "listops_5_9"])
def test_balanced_lists_are_alike_however_they_are_drawn(name, monkeypatch):
    """Dropping trees of frequent labels, and waiting for one of a label that was drawn."""
    num_draws, lengths = 6000, np.array([16, 22, 28])
    counts = []
    for longest in (128, 0):
        monkeypatch.setattr("ldru_study.tasks.trees.LONGEST_EXACT", longest)
        sampler = TreeSampler(find_task(name).language, is_balanced=True)
        asked = np.tile(lengths, num_draws // 3)
        tokens, labels = sampler.sample(asked, np.random.default_rng(longest))
        assert np.array_equal(find_task(name).language.label(tokens, asked), labels)
        for length in lengths:
            seen = np.bincount(labels[asked == length], minlength=10)
            assert chisquare(seen).pvalue > FALSE_ALARM
        # operator outside, and how many symbols open a list, given the label
        opened = ((tokens >= 10) & (tokens < 14)).sum(axis=1)
        kinds = ((tokens[:, 0] - 10) * 10 + labels) * 4 + np.minimum(opened // 2, 3)
        counts.append(np.bincount(kinds.astype(int), minlength=160))
    common = np.sum(counts, axis=0) > 10
    assert chi2_contingency(np.array(counts)[:, common]).pvalue > FALSE_ALARM


def test_a_batch_of_short_and_long_lists_is_drawn_by_length():
    sampler = sampler_of("listops_5_9", "balanced")
    language = find_task("listops_5_9").language
    lengths = np.array([200, 7, 150, 40] * 8)
    tokens, labels = sampler.sample(lengths, np.random.default_rng(5))
    assert np.array_equal(language.label(tokens, lengths), labels)
    # neither what is beside them nor who draws them together changes a batch
    halves = sampler.sample_each(
        [lengths, lengths[1::2]], [np.random.default_rng(5), np.random.default_rng(6)]
    )
    assert np.array_equal(halves[0][0], tokens)
    assert np.array_equal(halves[1][0], sampler.sample(lengths[1::2], np.random.default_rng(6))[0])


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_long_strings_of_every_sampling(sampling):
    task, sampler = find_task("d_4"), sampler_of("d_4", sampling)
    lengths = np.array([4000, 2, 100])
    tokens, labels = sampler.sample(lengths, np.random.default_rng(0))
    assert (task.automaton.label(tokens, lengths) == labels).all()
    assert 0 < sampler.chance(4000) <= 1


def test_what_a_task_does_not_have_is_explained():
    with pytest.raises(StudyError) as caught:
        sampler_of("listops_3_9", "hard")
    assert str(caught.value) == (
        "listops_3_9 has no sampling 'hard': its strings are drawn by the states of a task's "
        "automaton, and nested lists have none. Use balanced or paper."
    )
    with pytest.raises(StudyError) as caught:
        sampler_of("d_2", "uniform")
    assert str(caught.value).startswith("no sampling is called 'uniform'.")


def test_splits_from_tables_are_those_reckoned_one_by_one(monkeypatch):
    language = find_task("listops_5_9").language
    lengths = np.array([60, 1, 4, 57, 25, 12] * 5)

    def draw():
        return TreeSampler(language, is_balanced=True).sample(lengths, np.random.default_rng(3))[0]

    from_tables = draw()
    monkeypatch.setattr("ldru_study.tasks.tree_sizes._LONGEST_TABLE", 0)
    monkeypatch.setattr("ldru_study.tasks.tree_sizes._PART", 100)
    assert (draw() == from_tables).all()


def test_weights_of_lengths_do_not_depend_on_the_longest():
    language = find_task("listops_5_9").language
    short, long = TreeSizes(language, 64), TreeSizes(language, 300)
    for one, other in zip(short.together, long.together, strict=True):
        for number, weights in one.items():
            assert np.array_equal(weights, other[number][: len(weights)])
            if number > 1:
                wanted = np.convolve(one[1], one[number - 1])[: len(weights)]
                assert np.allclose(weights, wanted, rtol=1e-12)


@pytest.mark.parametrize("longest", [1, 3, 8, 14, 60])
def test_lists_have_the_same_values_counted_in_one_number(longest, monkeypatch):
    monkeypatch.setattr("ldru_study.tasks.listops._FEWEST_PACKED", 1)
    language, rng = find_task("listops_3_9").language, np.random.default_rng(longest)
    # half of them anything, short ones often a list; half of them trees
    lengths = rng.integers(0, longest + 1, 2000)
    share = np.array([0.03] * 10 + [0.08] * 4 + [0.38])
    tokens = rng.choice(15, size=(2000, longest), p=share).astype(np.uint8)
    sampler = sampler_of("listops_10_4", "paper")
    covered = rng.choice(sampler.covered_lengths(1, longest), 2000)
    trees, _ = sampler.sample(covered, rng)
    for strings, sizes in ((tokens, lengths), (trees, covered)):
        found = language.label(strings, sizes)
        assert np.array_equal(found, language._label_any(strings, sizes))
    assert (found >= 0).all()


def test_lists_with_more_arguments_than_one_number_counts_have_values():
    language, rng = find_task("listops_3_9").language, np.random.default_rng(0)
    for number in (15, 16, 17, 32, 64, 70):
        arguments = rng.integers(8, 10, size=(600, number))
        outside = np.full((600, 1), 10), rng.integers(10, 14, size=(600, 1)), np.full((600, 1), 14)
        # the only argument of a minimum
        whole = np.hstack([outside[0], outside[1], arguments, outside[2], outside[2]])
        tokens, lengths = whole.astype(np.uint8), np.full(600, number + 4)
        wanted = np.choose(
            outside[1][:, 0] - 10,
            [
                arguments.min(axis=1),
                arguments.max(axis=1),
                np.median(arguments, axis=1).astype(int),
                arguments.sum(axis=1) % 10,
            ],
        )
        assert np.array_equal(language.label(tokens, lengths), wanted)


@pytest.mark.parametrize("name", [name for name in task_names() if find_task(name).is_regular])
@pytest.mark.parametrize(("chunk", "largest"), [(4096, 1024), (5, 1024), (4096, 1)])
def test_products_label_as_walks_do(name, chunk, largest, monkeypatch):
    monkeypatch.setattr("ldru_study.tasks.products._CHUNK", chunk)
    monkeypatch.setattr("ldru_study.tasks.products._LARGEST", largest)
    automaton, rng = find_task(name).automaton, np.random.default_rng(0)
    products = ProductLabels(automaton)
    for lengths in (np.arange(14), np.full(8, 13), np.zeros(2, dtype=np.int64)):
        tokens = rng.integers(automaton.num_symbols, size=(len(lengths), 14), dtype=np.uint8)
        wanted = automaton.label(tokens, lengths)
        assert (products.label(tokens, lengths) == wanted).all()
