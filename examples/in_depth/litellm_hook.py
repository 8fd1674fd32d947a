"""A router of Corollary inside LiteLLM: the proxy asks this hook which model a request goes to.

LiteLLM is in no extra of Corollary; with `litellm[proxy]` in the proxy's own environment, put into its config.yaml

    litellm_settings:
      callbacks: litellm_hook.hook

next to this file, with a `model_list` whose `model_name`s are the names in the router, and set COROLLARY_ROUTER to the
folder of `corollary route fit`. Requests for the model "auto" are routed, all others pass.
"""

import asyncio
import os
from typing import Any

import numpy as np

from corollary.deferral.routing import PromptRouter, RoutingLog, load

try:  # the base class brings only empty methods
    from litellm.integrations.custom_logger import CustomLogger
except ImportError:
    CustomLogger = object

AUTO = "auto"


def last_words(messages: list[dict[str, Any]]) -> str:
    """The text of the last message of the user; parts that are no text are left out."""
    for message in reversed(messages):
        if message.get("role") == "user":
            content = message.get("content") or ""
            if isinstance(content, str):
                return content
            return "\n".join(part.get("text", "") for part in content if part.get("type") == "text")
    return ""


class RouterHook(CustomLogger):
    """Sends requests for `AUTO` to the router's choice, and says so in the request's metadata."""

    def __init__(self, router: PromptRouter) -> None:
        super().__init__()
        self.router = router

    async def async_pre_call_hook(self, user_api_key_dict: Any, cache: Any, data: dict, call_type: str) -> dict:
        """LiteLLM's hook before a request leaves the proxy."""
        if data.get("model") == AUTO and "messages" in data:
            decision = self.router.decide(last_words(data["messages"]))  # well under a millisecond
            data["model"] = decision.model
            data.setdefault("metadata", {})["corollary"] = {"model": decision.model, "price": decision.price}
        return data


if folder := os.environ.get("COROLLARY_ROUTER"):
    hook = RouterHook(load(folder))


def main() -> None:
    hard = [f"Prove theorem {i} about primes." for i in range(60)]
    easy = [f"Say hello to guest {i}." for i in range(60)]
    quality = [[0.0, 1.0]] * 60 + [[1.0, 1.0]] * 60  # what small and large got right
    router = PromptRouter(l2=0.1, price=0.5).fit(RoutingLog((*hard, *easy), ("small", "large"), np.array(quality)))
    hook = RouterHook(router)
    for text in ("Prove theorem 99 about primes.", "Say hello to guest 99."):
        request = {"model": AUTO, "messages": [{"role": "user", "content": text}]}
        routed = asyncio.run(hook.async_pre_call_hook(None, None, request, "completion"))
        print(f"{text:<32} -> {routed['model']}")


if __name__ == "__main__":
    main()
