"""An expert behind an OpenAI-compatible URL; imports neither torch nor numpy. What a failure costs: `endpoints`."""

from corollary.deferral._expert_pool import Expert, Reply
from corollary.endpoints import Endpoint

ENVELOPE = 64  # tokens that a chat template may add to a prompt, with room


def chat_expert(
    name: str,
    *,
    url: str,
    model: str,
    key_env: str | None = None,
    price: float | None = None,
    input_price: float = 0.0,
    output_price: float = 0.0,
    max_tokens: int = 512,
    system: str | None = None,
    timeout: float = 60.0,
    retries: int = 2,
    concurrency: int = 4,
    idempotent: bool = False,
) -> Expert:
    """An `Expert` that asks an OpenAI-compatible server.

    Args:
        name: in the pool.
        url: base of the API, e.g. `http://127.0.0.1:8000/v1`.
        model: name of the model at that server.
        key_env: environment variable that holds the key; None: no key is sent.
        price: of a call, whatever its length; None: by tokens.
        input_price, output_price: for a million tokens. The most that a call can cost counts a token for every byte of
            the prompt; what it did cost is read from the reply's `usage`.
        max_tokens: of the answer.
        system: text put before every prompt.
        timeout, retries, concurrency, idempotent: as in `Expert`; keys go out as the header `Idempotency-Key`.

    Raises:
        InvalidInputError: for a URL that is not http(s), or an environment variable that is not set.

    Guarantee: none; that 4xx is never charged, and that `usage` is what is billed, are the server's word.

    Example:
        >>> expert = chat_expert("small", url="http://127.0.0.1:9/v1", model="m", output_price=2.0, max_tokens=500)
        >>> round(expert.most("hello"), 6)
        0.001

    Reference: the public interface of chat completions.
    """
    server = Endpoint(url, key_env=key_env, name=name)

    def most(prompt: str) -> float:
        read = len(prompt.encode()) + len((system or "").encode()) + ENVELOPE
        return (input_price * read + output_price * max_tokens) / 1e6

    def call(prompt: str, *, key: str | None = None) -> Reply:
        messages = [{"role": "system", "content": system}] if system else []
        messages.append({"role": "user", "content": prompt})
        body = {"model": model, "messages": messages, "max_tokens": max_tokens, "temperature": 0}
        headers = {"Idempotency-Key": key} if key else {}
        answer = server.post("chat/completions", body, headers=headers, timeout=timeout)
        text = answer["choices"][0]["message"]["content"]
        usage = answer.get("usage") or {}
        if price is not None or not {"prompt_tokens", "completion_tokens"} <= usage.keys():
            return Reply(text)
        paid = input_price * usage["prompt_tokens"] + output_price * usage["completion_tokens"]
        return Reply(text, paid / 1e6)

    return Expert(
        name, call,
        price=most if price is None else price,
        timeout=timeout, retries=retries, concurrency=concurrency, idempotent=idempotent,
    )  # fmt: skip
