"""String tasks of the Chomsky hierarchy, word by word: schoolbook arithmetic, a stack machine, brute force."""

import math
import re

import numpy as np
import pytest
import torch

from corollary.automata import (
    DFA,
    RationalTransductor,
    TransductorConfig,
    base_head,
    baseline,
    certify,
    digit_values,
    from_automaton,
    learn,
    length_accuracy,
    string_task,
    string_tasks,
    task,
    universal,
)
from corollary.automata._expressions import codes
from corollary.automata._numbers import digits, integers
from corollary.errors import InvalidInputError

LENGTHS = (1, 2, 3, 4, 5, 6, 7, 9, 16, 25, 40)


def number(bits):
    return int("0" + "".join(map(str, bits)), 2)


def summed(word):
    """Both numbers by schoolbook addition, digit by digit, low digits first."""
    a, b = parts(word)
    out, carry = [], 0
    for i in range(max(len(a), len(b)) + 1):
        carry += (a[i] if i < len(a) else 0) + (b[i] if i < len(b) else 0)
        out.append(carry % 2)
        carry //= 2
    return closed(out)


def multiplied(word):
    """By schoolbook multiplication."""
    a, b = parts(word)
    out = [0] * (len(a) + len(b))
    for i, x in enumerate(a):
        carry = 0
        for j, y in enumerate(b):
            carry += out[i + j] + x * y
            out[i + j] = carry % 2
            carry //= 2
        out[i + len(b)] += carry
    return closed(out)


def parts(word):
    assert word.count(2) == 1
    at = word.index(2)
    assert 0 < at < len(word) - 1
    return word[:at], word[at + 1 :]


def closed(out):
    while len(out) > 1 and not out[-1]:
        out.pop()
    return [*out, 2]


def rooted(word):
    """The largest number whose square is no larger, found by bisection."""
    x, low, high = number(word), 0, 1 << len(word)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if middle * middle <= x else (low, middle)
    assert low == math.isqrt(x)
    return [int(c) for c in f"{low:0{(len(word) + 1) // 2}b}"]


def popped(word):
    """A stack machine."""
    stack = []
    for i, x in enumerate(word):
        if x < 2:
            assert i == 0 or word[i - 1] < 2  # the stack comes first
            stack.append(x)
        elif x > 2:
            stack.append(x - 3)
        elif stack:
            stack.pop()
    return [*reversed(stack), 2]


def text(word, k):
    names = {i: s for s, i in codes(k).items()}
    return "".join(names[x] for x in word)


def evaluated(word, k=5):
    told = text(word, k)
    assert "z" not in told
    return [eval(told) % k]


def solved(word, k=5):
    """All digits are tried: exactly one solves the equation."""
    left, right = text(word, k).split("=")
    assert left.count("z") == 1
    found = [z for z in range(k) if eval(left.replace("z", str(z))) % k == int(right)]
    assert len(found) == 1
    return found


def missing(word):
    half, at = len(word) // 2, word.index(2)
    twin = word[(at + half) % (2 * half)]
    whole = [twin if i == at else x for i, x in enumerate(word[: 2 * half])]
    assert whole[:half] == whole[half:]
    assert word[2 * half :] == [3] * (len(word) % 2)
    return [twin]


SLOW = {
    "reverse": lambda w: w[::-1],
    "stack-manipulation": popped,
    "arithmetic-brackets": evaluated,
    "solve-equation": solved,
    "duplicate": lambda w: w + w,
    "missing-duplicate": missing,
    "odds-first": lambda w: w[1::2] + w[0::2],
    "bucket-sort": sorted,
    "binary-addition": summed,
    "binary-multiplication": multiplied,
    "square-root": rooted,
}
ANSWERS = {  # places to answer in, for an input of n symbols
    "stack-manipulation": lambda n: n + 1,
    "arithmetic-brackets": lambda n: 1,
    "solve-equation": lambda n: 1,
    "duplicate": lambda n: 2 * n,
    "missing-duplicate": lambda n: 1,
    "square-root": lambda n: (n + 1) // 2,
}


def test_every_string_task_has_a_reference():
    assert set(SLOW) == set(string_tasks())


@pytest.mark.parametrize("name", string_tasks())
def test_string_tasks_word_by_word(name):
    """Thousands of words of many lengths: shapes, marks, symbols in range, answers those of the slow reference."""
    problem, rng, checked = string_task(name), np.random.default_rng(0), 0
    for n in [n for n in LENGTHS if n >= problem.shortest]:
        x, y = problem.sample(250, n, rng)
        places = ANSWERS.get(name, lambda n: n)(n)
        assert x.shape == y.shape == (250, n + places)
        assert x.dtype == y.dtype == np.int64
        assert (x[:, n:] == problem.vocab_size - 1).all()
        assert (y[:, :n] == -1).all()
        assert x.min() >= 0
        assert x[:, :n].max() < problem.symbols
        assert y.max() < problem.classes
        for row, answers in zip(x.tolist(), y[:, n:].tolist(), strict=True):
            asked = [a for a in answers if a >= 0]
            assert answers == asked + [-1] * (len(answers) - len(asked))  # nothing is asked for behind the end
            assert asked == SLOW[name](row[:n])
            checked += 1
    assert checked >= 2000


@pytest.mark.parametrize("name", string_tasks())
def test_long_words_and_seeds(name):
    problem = string_task(name)
    x, y = problem.sample(3, 1000, np.random.default_rng(7))
    again = problem.sample(3, 1000, np.random.default_rng(7))
    assert np.array_equal(x, again[0])
    assert np.array_equal(y, again[1])
    assert not np.array_equal(x, problem.sample(3, 1000, np.random.default_rng(8))[0])
    if name not in ("arithmetic-brackets", "solve-equation"):  # too deep for Python's own parser
        assert [a for a in y[0].tolist() if a >= 0] == SLOW[name](x[0, :1000].tolist())


@pytest.mark.parametrize("k", [2, 3, 4, 5, 6, 10])
@pytest.mark.parametrize("operators", ["+-*", "+-", "*"])
def test_expressions_and_equations_mod_k(k, operators):
    """Also where k is no prime and a product of units only keeps the equation solvable."""
    for name, slow in (("arithmetic-brackets", evaluated), ("solve-equation", solved)):
        problem = string_task(name, k=k, operators=operators)
        used = set()
        for n in (3, 7, 12, 21, 33):
            x, y = problem.sample(60, n, np.random.default_rng(n))
            for row, answers in zip(x.tolist(), y.tolist(), strict=True):
                assert answers[n:] == slow(row[:n], k)
                used |= set(re.findall(r"(?<=[\d)z])[-+*]", text(row[:n], k)))
        if name == "arithmetic-brackets":
            assert used == set(operators)


def test_the_distribution_of_trees():
    """Of 9 symbols: left sides of 1 to 5 symbols equally often, all digits and operators equally often."""
    x, _ = string_task("arithmetic-brackets").sample(20_000, 9, np.random.default_rng(0))
    lengths = np.zeros(5)
    for row in x[:4000, :9].tolist():
        depth = 0
        for i, s in enumerate(text(row, 5)):
            depth += {"(": 1, ")": -1}.get(s, 0)
            if depth == 1 and s in "+-*" and i > 1:
                lengths[i - 2] += 1
                break
    assert np.abs(lengths / 4000 - 0.2).max() < 0.03  # 4.7 standard deviations
    shares = np.bincount(x[x < 5]) / (x < 5).sum()
    assert np.abs(shares - 0.2).max() < 0.01


def test_numbers_and_their_bits():
    rng = np.random.default_rng(0)
    for n in (1, 7, 8, 9, 64, 65, 300):
        bits = rng.integers(0, 2, (20, n))
        found = integers(bits)
        assert found.tolist() == [number(row[::-1]) for row in bits.tolist()]
        assert np.array_equal(digits(found, n), bits)


@pytest.mark.usefixtures("as_shipped")
@pytest.mark.parametrize("name", string_tasks())
def test_too_short_words_are_refused(name):
    problem = string_task(name)
    for n in (-1, 0, problem.shortest - 1):
        with pytest.raises(
            InvalidInputError, match=f"of {n} symbols were asked for.* at least {problem.shortest} symbols"
        ):
            problem.sample(2, n, np.random.default_rng(0))
        with pytest.raises(InvalidInputError, match="at least"):
            length_accuracy(torch.nn.Identity(), problem, [n])
    with pytest.raises(InvalidInputError, match="0 words"):
        problem.sample(0, 9, np.random.default_rng(0))
    assert problem.sample(2, problem.shortest, np.random.default_rng(0))[0].shape[0] == 2
    with pytest.raises(InvalidInputError, match="options"):
        string_task(name, nonsense=1)


@pytest.mark.usefixtures("as_shipped")
def test_bad_options_and_lengths():
    with pytest.raises(InvalidInputError, match="words of 0 symbols were asked for"):
        task("parity").sample(2, 0, np.random.default_rng(0))
    for bad in (
        lambda: string_task("unknown"),
        lambda: task("reverse"),
        lambda: string_task("reverse", k=3),
        lambda: string_task("solve-equation", k=1),
        lambda: string_task("solve-equation", k=11),
        lambda: string_task("arithmetic-brackets", operators=""),
        lambda: string_task("arithmetic-brackets", operators="+/"),
        lambda: digit_values(2, 0, np.random.default_rng(0)),
        lambda: digit_values(2, 3, np.random.default_rng(0), base=1),
        lambda: learn(torch.nn.Linear(1, 1), string_task("binary-addition"), lengths=(1, 2)),
    ):
        with pytest.raises(InvalidInputError):
            bad()


@pytest.mark.parametrize("name", string_tasks())
def test_there_is_no_automaton_to_certify(name):
    problem = string_task(name)
    with pytest.raises(InvalidInputError, match="no finite automaton answers it"):
        _ = problem.automaton
    with pytest.raises(InvalidInputError, match="no finite automaton answers it"):
        certify(from_automaton(DFA.from_regex("(ab)*", "ab")), problem)


def test_regular_tasks_are_certified_by_themselves():
    problem = task("flip-flop")
    certificate, evidence = certify(from_automaton(problem.automaton), problem)
    assert certificate.rule == "automata.all_lengths"
    assert certificate.check(**evidence)


@pytest.mark.parametrize("name", string_tasks())
def test_models_train_on_every_string_task(name):
    problem = string_task(name)
    assert problem.chance == 1 / problem.classes
    config = TransductorConfig(vocab_size=problem.vocab_size, classes=problem.classes, width=16, layers=1, heads=2)
    ours = RationalTransductor(config, universal(problem.vocab_size, orthogonal=4, stochastic=2))
    peer = baseline("gru", vocab_size=problem.vocab_size, classes=problem.classes, width=16, layers=1)
    for model in (ours, peer):
        assert learn(model, problem, steps=2, lengths=(1, 5), curriculum=True) > 0
        found = length_accuracy(model, problem, [5, 12], count=4)
        assert all(0 <= share <= 1 for row in found.values() for share in row.values())


def test_the_measure_of_the_protocol_counts_tokens_of_the_output():
    """A model that knows the product but not where it ends: one token in each word is wrong, none behind it counts."""
    problem = string_task("binary-multiplication")

    def nearly(x):
        n = x.shape[1] // 2
        guess = torch.zeros_like(x)
        for i, row in enumerate(x.tolist()):
            answer = multiplied(row[:n])
            guess[i, n : n + len(answer)] = torch.tensor([*answer[:-1], 0])
        return torch.nn.functional.one_hot(guess, 3).float()

    _, y = problem.sample(32, 21, np.random.default_rng(5))
    found = length_accuracy(nearly, problem, [21], count=32, seed=5)[21]
    asked = (y >= 0).sum()
    assert found == {"last": 0.0, "all": pytest.approx(1 - 32 / asked), "words": 0.0}


def test_something_is_learned():
    """A recurrent network sorts three letters better than chance: the marks are enough to count the answers by."""
    problem = string_task("bucket-sort")
    model = baseline("gru", vocab_size=problem.vocab_size, classes=problem.classes, width=32, layers=1)
    learn(model, problem, steps=60, lengths=(1, 5), lr=1e-2)
    assert length_accuracy(model, problem, [3], count=200)[3]["all"] > 2 * problem.chance


def test_values_of_digits():
    rng = np.random.default_rng(0)
    x, y = digit_values(2000, 64, rng)
    exact = [number(row) / 2**64 for row in x.tolist()]
    assert np.abs(y - exact).max() < 1e-15
    assert abs(y.var() - 1 / 12) < 0.01
    x, y = digit_values(50, 12, rng, base=10)
    assert np.abs(y - [int("".join(map(str, row))) / 10**12 for row in x.tolist()]).max() < 1e-15
    head = base_head(10, order="high")
    assert np.abs(head(torch.from_numpy(x))[:, -1, 0].numpy() - y).max() < 1e-14
