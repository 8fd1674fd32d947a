"""What a request may say: strict models of the bodies, from which the OpenAPI document is made too.

Fields that are not named here are passed on as they came: an upstream may know more than we do.
"""

import json
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

LARGEST_ANSWER = 1_000_000
Name = Annotated[str, Field(min_length=1, max_length=128)]


def _whole(value: Any) -> Any:
    """JSON knows no integers: 3.0 is one."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


Tokens = Annotated[int, Field(ge=1, le=LARGEST_ANSWER), BeforeValidator(_whole)]
Few = Annotated[int, Field(ge=1, le=16), BeforeValidator(_whole)]


class Problem(Exception):
    """A request that cannot be served, as the client will read it."""

    def __init__(
        self, status: int, message: str, *, kind: str = "invalid_request_error", code: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:  # fmt: skip
        super().__init__(message)
        self.status, self.message, self.kind, self.code, self.headers = status, message, kind, code, headers or {}

    def document(self) -> dict[str, Any]:
        """The body, in the form that OpenAI's clients read."""
        return {"error": {"message": self.message, "type": self.kind, "param": None, "code": self.code}}


class _Body(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow", protected_namespaces=())


class Options(BaseModel):
    """What the client says to the gateway and not to the model: in the field `corollary`, or in headers."""

    model_config = ConfigDict(strict=True, extra="forbid")
    price: float | None = Field(default=None, ge=0, le=1e12, description="Quality per unit of cost.")
    quality: float | None = Field(default=None, ge=0, le=1, description="Take the cheapest model worth this.")
    heads: list[Name] | None = Field(default=None, max_length=16, description="Heads to switch on.")


class Part(_Body):
    """A piece of a message; audio and files have no bounded price and are refused."""

    type: Literal["text", "refusal", "image_url"]
    text: str | None = None


class Message(_Body):
    """A message of a conversation."""

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | list[Part] | None = None


class StreamOptions(_Body):
    """Options of a stream."""

    include_usage: bool | None = None


class _Completion(_Body):
    model: Name
    max_tokens: Tokens | None = None
    n: Few | None = None
    best_of: Few | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    corollary: Options | None = None


class ChatRequest(_Completion):
    """Body of `POST /v1/chat/completions`."""

    messages: list[Message] = Field(min_length=1)
    max_completion_tokens: Tokens | None = None


class CompletionRequest(_Completion):
    """Body of `POST /v1/completions`."""

    prompt: str | Annotated[list[str], Field(min_length=1, max_length=64)]


class EmbeddingRequest(_Body):
    """Body of `POST /v1/embeddings`."""

    model: Name
    input: str | Annotated[list[str], Field(min_length=1)]
    corollary: Options | None = None


class RouteRequest(_Body):
    """Body of `POST /v1/route`: a conversation or a prompt; no model is asked."""

    messages: list[Message] | None = Field(default=None, min_length=1)
    prompt: str | None = None
    corollary: Options | None = None


class FeedbackRequest(BaseModel):
    """Body of `POST /v1/feedback`."""

    model_config = ConfigDict(strict=True, extra="forbid")
    id: Annotated[str, Field(min_length=1, max_length=64)] = Field(description="The header x-corollary-id.")
    score: Annotated[float, Field(ge=0, le=1)]


B = TypeVar("B", bound=BaseModel)


def parse(model: type[B], raw: bytes) -> tuple[B, dict[str, Any]]:
    """A body, checked, and as it came.

    Raises:
        Problem: 400, with a sentence that holds nothing of the body but the name of a field.
    """
    try:
        plain = json.loads(raw, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        raise Problem(400, "The body is not JSON.") from None
    if not isinstance(plain, dict):
        raise Problem(400, "The body must be a JSON object.")
    try:
        return model.model_validate(plain), plain
    except ValidationError as problem:
        first = problem.errors(include_url=False, include_input=False, include_context=False)[0]
        where = ".".join(str(p)[:40] for p in first["loc"] if isinstance(p, int) or str(p).isidentifier())
        raise Problem(400, f"{where or 'body'}: {first['msg'][:200]}.", code="invalid_value") from None
    except RecursionError:
        raise Problem(400, "The body is nested too deeply.") from None


def _no_constant(text: str) -> None:
    raise ValueError(text)


def texts(body: ChatRequest | CompletionRequest | EmbeddingRequest | RouteRequest, *, which: str) -> str:
    """The prompt that the router reads: the last user message, or all of them."""
    if isinstance(body, CompletionRequest | EmbeddingRequest):
        given = body.prompt if isinstance(body, CompletionRequest) else body.input
        found = [given] if isinstance(given, str) else given
    elif isinstance(body, RouteRequest) and body.messages is None:
        found = [body.prompt or ""]
    else:
        users = [m for m in body.messages or [] if m.role == "user"] or list(body.messages or [])
        found = [_text(m) for m in (users[-1:] if which == "last" else users)]
    return "\n".join(found).encode("utf-8", "replace").decode()  # half a surrogate pair is JSON, but no text


def _text(message: Message) -> str:
    if isinstance(message.content, list):
        return "\n".join(p.text for p in message.content if p.text)
    return message.content or ""


def images(body: ChatRequest | CompletionRequest | EmbeddingRequest) -> int:
    """How many images a conversation holds."""
    if not isinstance(body, ChatRequest):
        return 0
    lists = (m.content for m in body.messages if isinstance(m.content, list))
    return sum(part.type == "image_url" for parts in lists for part in parts)
