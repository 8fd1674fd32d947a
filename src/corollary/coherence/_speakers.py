r"""Language models as callables from a prompt to answers, for `CoherentAnswers`: scored, sampled, or behind a URL.

.. math:: P(a \mid \text{prompt}) \propto \Big(\prod_{t=1}^{|a|} q(a_t \mid \text{prompt}, a_{<t})\Big)^{1/|a|^{\ell}}

Symbols: q the model, a an answer with its end, l = 1 where answers of different lengths are compared by the mean over
tokens, 0 for their probabilities as they are.
"""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from corollary.documents import Documents
from corollary.endpoints import Endpoint, Refused
from corollary.errors import InvalidInputError

Candidates = Sequence[str] | Callable[[str], Sequence[str]]
_LONGEST_PAUSE = 30.0


def scored_answers(
    model: Any,
    candidates: Candidates,
    *,
    encode: Callable[[str], Any] | None = None,
    end: bool = True,
    per_token: bool = True,
) -> Callable[[str], dict[str, float]]:
    """A model that says how likely each of some candidate answers is.

    Args:
        model: a `corollary.models.LanguageModel`, among them `corollary.integrations.HFExpert` for Hugging Face models.
        candidates: the answers, or a function from the prompt to them.
        encode: from text to token ids; the model's own `encode` by default, UTF-8 bytes where it has none.
        end: whether the end of the answer is scored, too: "Paris" is then not the start of "Paris, Texas".
        per_token: compare by the mean log-probability of a token; else longer answers are less likely.

    Returns:
        prompt -> {answer: probability}, normalised over the candidates.

    Raises:
        InvalidInputError: for fewer than two different candidates, or one without a token.

    Guarantee: with `per_token=False`, the model's distribution given that the answer is one of the candidates, exactly.

    Example:
        >>> from corollary.models import NgramModel
        >>> model = NgramModel.fit(Documents.from_texts(["the sea is blue", "the sea is deep"] * 3))
        >>> found = scored_answers(model, ["blue", "red"])("the sea is ")
        >>> max(found, key=found.get), round(sum(found.values()), 9)
        ('blue', 1.0)

    Reference: textbook.
    """
    turn = encode or getattr(model, "encode", None) or _to_bytes

    def ask(prompt: str) -> dict[str, float]:
        answers = list(dict.fromkeys(candidates(prompt) if callable(candidates) else candidates))
        if len(answers) < 2:
            raise InvalidInputError(f"two different candidates are needed to compare, got {answers!r:.80}")
        before = np.asarray(turn(prompt), dtype=np.int64)
        after = [np.asarray(turn(answer), dtype=np.int64) for answer in answers]
        if empty := [a for a, ids in zip(answers, after, strict=True) if not len(ids)]:
            raise InvalidInputError(f"the candidate {empty[0]!r} has no token; give text")
        last = np.zeros(1 if end else 0, dtype=np.int64)  # token 0 ends a document
        wide = np.uint8 if model.vocab_size <= 256 else np.int32
        whole = [np.concatenate([before, ids, last]) for ids in after]
        documents = Documents.from_sequences(whole, dtype=wide)
        log_probs = np.asarray(model.log_probs(documents), dtype=np.float64)
        log_probs[documents.position < len(before)] = 0.0
        score = documents.sums(log_probs[:, None])[:, 0]
        if per_token:
            score = score / (documents.lengths - len(before))
        p = np.exp(score - score.max())
        return dict(zip(answers, (p / p.sum()).tolist(), strict=True))

    return ask


def sampled_answers(
    model: Any,
    *,
    samples: int = 8,
    max_tokens: int = 64,
    temperature: float = 1.0,
    top_p: float = 1.0,
    stop: str | None = "\n",
    encode: Callable[[str], Any] | None = None,
    decode: Callable[[Any], str] | None = None,
    seed: int = 0,
) -> Callable[[str], list[str]]:
    """A model that answers several times at random: the votes of self-consistency.

    Args:
        model: as in `scored_answers`.
        samples: answers drawn a prompt.
        max_tokens, temperature, top_p: as in `corollary.models.sample`.
        stop: text at which an answer is cut; None to keep all of it.
        encode, decode: between text and token ids; the model's own, or UTF-8.
        seed: of the draws; each call goes on where the last one stopped.

    Guarantee: none; shares of draws estimate the model's distribution over final answers.

    Example:
        >>> from corollary.models import NgramModel
        >>> model = NgramModel.fit(Documents.from_texts(["tick tock " * 9]))
        >>> sampled_answers(model, samples=2, max_tokens=4, temperature=0.0)("tick ")
        ['tock', 'tock']

    Reference: textbook.
    """
    from corollary.models import sample

    if samples < 1:
        raise InvalidInputError(f"`samples` must be at least 1, got {samples}")
    turn = encode or getattr(model, "encode", None) or _to_bytes
    back = decode or getattr(model, "decode", None) or _from_bytes
    rng = np.random.default_rng(seed)

    def ask(prompt: str) -> list[str]:
        drawn = sample(
            model, samples,
            prompt=turn(prompt), max_tokens=max_tokens, seed=rng, temperature=temperature, top_p=top_p,
        )  # fmt: skip
        texts = [back(ids) for ids in np.split(drawn.tokens, drawn.offsets[1:-1])]
        return [text.partition(stop)[0] if stop else text for text in texts]

    return ask


def endpoint_answers(
    url: str,
    model: str,
    *,
    key_env: str | None = None,
    options: Sequence[str] | None = None,
    samples: int = 5,
    max_tokens: int = 64,
    temperature: float = 1.0,
    system: str | None = None,
    timeout: float = 60.0,
    retries: int = 3,
) -> Callable[[str], Any]:
    """A model behind an OpenAI-compatible URL (a provider, vLLM, Ollama, `corollary serve`).

    Args:
        url: base of the API, e.g. `http://127.0.0.1:8000/v1`.
        model: its name there.
        key_env: environment variable that holds the key; None: no key is sent.
        options: answers of one token ("A", "B", ...): their probabilities are read from the log-probabilities of the
            first token. None: `samples` answers are drawn.
        samples: draws a prompt, asked for at once with `n` and, where a server gives fewer, one by one.
        max_tokens, temperature: of the draws.
        system: text put before every prompt.
        timeout: seconds for one request.
        retries: further tries after the server turned a request away (429) or could not be reached.

    Returns:
        prompt -> {option: probability}, or prompt -> [answers].

    Raises:
        InvalidInputError: for a URL that is not http(s), a key that is not set, or an answer without what was asked.
        Refused: where the server turned every try away.

    Guarantee: none; options that are not among the likeliest tokens that the server lists have probability 0.

    Example:
        >>> ask = endpoint_answers("http://127.0.0.1:8000/v1", "small", options=["A", "B"])
        >>> callable(ask)
        True

    Reference: the public interface of chat completions.
    """
    server = Endpoint(url, key_env=key_env)
    if samples < 1:
        raise InvalidInputError(f"`samples` must be at least 1, got {samples}")

    def ask(prompt: str) -> Any:
        messages = [{"role": "system", "content": system}] if system else []
        body: dict[str, Any] = {"model": model, "messages": [*messages, {"role": "user", "content": prompt}]}
        if options is not None:
            # Temperature 1: the model's own probabilities, not those after sharpening.
            body |= {"max_tokens": 1, "temperature": 1.0, "logprobs": True, "top_logprobs": 20}
            return _read_options(_patiently(server, body, timeout, retries), options, server.name)
        found: list[str] = []
        while len(found) < samples:
            body |= {"max_tokens": max_tokens, "temperature": temperature, "n": samples - len(found)}
            texts = list(_read_texts(_patiently(server, body, timeout, retries), server.name))
            if not texts:
                raise InvalidInputError(f"{server.name}: the reply holds no choice; is it a chat model?")
            found += texts
        return found[:samples]

    return ask


def _patiently(server: Endpoint, body: Any, timeout: float, retries: int) -> Any:
    pause = 0.5
    for left in range(retries, -1, -1):
        try:
            return server.post("chat/completions", body, timeout=timeout)
        except Refused as problem:
            if not (problem.again and left):
                raise
            time.sleep(min(problem.pause if problem.pause is not None else pause, _LONGEST_PAUSE))
            pause *= 2
    raise AssertionError


def _read_texts(reply: Any, name: str) -> Iterator[str]:
    try:
        for choice in reply["choices"]:
            yield choice["message"]["content"] or ""
    except (KeyError, TypeError) as problem:
        raise InvalidInputError(f"{name}: not a chat completion ({problem!r}); check the URL") from None


def _read_options(reply: Any, options: Sequence[str], name: str) -> dict[str, float]:
    try:
        listed = reply["choices"][0]["logprobs"]["content"][0]["top_logprobs"]
        told = [(str(one["token"]).strip(), float(one["logprob"])) for one in listed]
    except (KeyError, IndexError, TypeError, ValueError):
        raise InvalidInputError(
            f"{name}: the server gave no log-probabilities; leave `options` out and answers are drawn"
        ) from None
    found = dict.fromkeys(options, 0.0)
    for token, log_prob in told:
        if token in found:
            found[token] += math.exp(min(log_prob, 0.0))
    if not sum(found.values()) > 0:
        raise InvalidInputError(
            f"{name}: none of {list(options)} is among the likeliest tokens ({[t for t, _ in told[:5]]}...);"
            " tell the model in the prompt to answer with one of them"
        )
    return found


def _to_bytes(text: str) -> np.ndarray:
    return np.frombuffer(text.encode(), dtype=np.uint8)


def _from_bytes(tokens: Any) -> str:
    return bytes(tokens).decode(errors="replace")
