"""The official client, unchanged: chat, streams, errors, models, async, timeouts."""

import asyncio

import openai
import pytest
from mock_upstream import SAID, TOKENS_IN, TOKENS_OUT
from running_gateway import cost, running, settled, tables

TEXT = " ".join(SAID)


def client(base, **more):
    return openai.OpenAI(base_url=f"{base}/v1", api_key="none", max_retries=0, **more)


def ask(c, model="corollary/auto", text="easy 3", **more):
    return c.chat.completions.create(model=model, messages=[{"role": "user", "content": text}], **more)


def test_chat_is_routed_priced_and_recorded(served):
    base, gateway, mock = served
    with client(base) as c:
        raw = c.chat.completions.with_raw_response.create(
            model="corollary/auto", messages=[{"role": "user", "content": "easy 3"}]
        )
        found = raw.parse()
        assert found.choices[0].message.content == TEXT
        assert found.usage.prompt_tokens == TOKENS_IN
        assert found.usage.cost == pytest.approx(cost("small"), abs=1e-9)
        assert raw.headers["x-corollary-model"] == "small"
        assert float(raw.headers["x-corollary-cost"]) == pytest.approx(cost("small"), abs=1e-9)
        assert float(raw.headers["x-corollary-price"]) <= float(raw.headers["x-corollary-maximum"])
        assert raw.headers["x-corollary-max-tokens"] == "50"
        assert mock.seen[-1]["max_tokens"] == 50
        assert ask(c, text="hard 3").model == "real-large"
        assert ask(c, model="large").model == "real-large"
    found = settled(gateway, 3)
    assert found["models"]["small"]["requests"] == 1
    assert found["models"]["large"]["requests"] == 2
    assert found["charged"] == pytest.approx(cost("small") + 2 * cost("large"), abs=1e-9)
    assert found["in_flight"] == 0


def test_streams_pass_and_end_with_the_price_where_usage_is_asked_for(served):
    base, gateway, _ = served
    with client(base) as c:
        pieces = list(ask(c, stream=True))
        assert "".join(p.choices[0].delta.content or "" for p in pieces) == TEXT
        assert all(p.usage is None for p in pieces)
        pieces = list(ask(c, stream=True, stream_options={"include_usage": True}))
        assert pieces[-1].usage.completion_tokens == TOKENS_OUT
        assert pieces[-1].usage.cost == pytest.approx(cost("small"), abs=1e-9)
    assert settled(gateway, 2)["charged"] == pytest.approx(2 * cost("small"), abs=1e-9)


def test_a_stream_is_not_buffered(mock, tmp_path):
    mock.mode = "slow stream"
    with running({"upstreams": tables(mock.url)}, path=tmp_path) as (base, _), client(base) as c:
        import time

        times = [time.monotonic() for _ in ask(c, model="small", stream=True)]
    assert times[-1] - times[0] > 0.3  # five pieces at 0.15 s; a buffer would let them come at once


def test_options_ride_in_headers_or_the_extra_body(served):
    base, _, mock = served
    with client(base) as c:
        assert ask(c, text="easy 1", extra_body={"corollary": {"quality": 0.99}}).model == "real-large"
        assert "corollary" not in mock.seen[-1]
        assert ask(c, text="hard 1", extra_body={"corollary": {"price": 1e9}}).model == "real-small"
        assert ask(c, text="hard 1", extra_headers={"x-corollary-price": "1e9"}).model == "real-small"
        with pytest.raises(openai.BadRequestError, match="x-corollary-price"):
            ask(c, extra_headers={"x-corollary-price": "cheap"})
        with pytest.raises(openai.BadRequestError, match=r"corollary\.quality"):
            ask(c, extra_body={"corollary": {"quality": 7}})


def test_models_completions_embeddings_tools_and_several_answers(mock, router_folder, tmp_path):
    config = {"upstreams": tables(mock.url, embeddings=True, images=True)}
    with running(config, router_folder, path=tmp_path) as (base, gateway), client(base) as c:
        assert [m.id for m in c.models.list()] == ["corollary/auto", "small", "large"]
        assert c.models.retrieve("corollary/auto").id == "corollary/auto"
        assert c.completions.create(model="corollary/auto", prompt="easy 1").choices[0].text == TEXT
        assert c.embeddings.create(model="small", input="x", encoding_format="float").data[0].embedding == [0.1, 0.2]
        tool = {"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}
        assert ask(c, tools=[tool]).choices[0].message.tool_calls[0].function.name == "look"
        assert len(ask(c, n=3).choices) == 3
        image = [
            {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
            {"type": "text", "text": "easy"},
        ]
        c.chat.completions.create(model="small", messages=[{"role": "user", "content": image}])
        assert mock.seen[-1]["messages"][0]["content"] == image
        settled(gateway, 5)
        rows = {r["id"]: r for r in gateway.ledger.requests()}
        assert len(rows) == 5


def test_what_a_model_cannot_do_is_a_400_that_says_so(served):
    base, _, _ = served
    with client(base) as c:
        image = [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}]
        with pytest.raises(openai.BadRequestError, match="takes no images"):
            c.chat.completions.create(model="small", messages=[{"role": "user", "content": image}])
        with pytest.raises(openai.BadRequestError, match="gives no embeddings"):
            c.embeddings.create(model="small", input="x")
        with pytest.raises(openai.BadRequestError, match="no heads"):
            ask(c, model="small", extra_body={"corollary": {"heads": ["a"]}})
        with pytest.raises(openai.NotFoundError, match="no such model"):
            ask(c, model="gpt-99")
        with pytest.raises(openai.NotFoundError):
            c.models.retrieve("gpt-99")
        with pytest.raises(openai.BadRequestError, match="messages"):
            c.chat.completions.create(model="small", messages=[])


def test_errors_of_the_upstream_become_the_clients_errors(mock, tmp_path, monkeypatch):
    monkeypatch.setenv("UP_KEY", "sk-up-secret")
    with running({"upstreams": tables(mock.url, key_env="UP_KEY")}, path=tmp_path) as (base, _), client(base) as c:
        mock.mode = "400"
        with pytest.raises(openai.BadRequestError, match="too long") as caught:
            ask(c, model="small")
        assert "sk-up-secret" not in str(caught.value)
        for mode in ("401", "500", "garbage", "wrong", "reset", "redirect"):
            mock.mode = mode
            with pytest.raises(openai.APIStatusError) as caught:
                ask(c, model="small")
            assert caught.value.status_code == 502
            assert "sk-up-secret" not in str(caught.value)
        assert all(h["Authorization"] == "Bearer sk-up-secret" for h in mock.headers)


def test_async_and_timeouts(served):
    base, _, mock = served

    async def several():
        async with openai.AsyncOpenAI(base_url=f"{base}/v1", api_key="none", max_retries=0) as c:
            found = await asyncio.gather(*(ask(c, text=f"easy {i}") for i in range(12)))
            stream = await ask(c, stream=True)
            return [f.choices[0].message.content for f in found], [p async for p in stream]

    answers, pieces = asyncio.run(several())
    assert answers == [TEXT] * 12
    assert len(pieces) == 6
    mock.delay = 1.0
    with client(base, timeout=0.2) as c, pytest.raises(openai.APITimeoutError):
        ask(c)
