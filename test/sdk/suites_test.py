# Official SDKs of Python, with their own retries off so that a single lost call shows: openai and anthropic.
import asyncio
import json
import os
import time
import unittest

import anthropic
import openai
from pydantic import BaseModel

URL = os.environ["PROXY_URL"]
KEY = os.environ["PROXY_KEY"]
DEMO = os.environ["PROXY_MODE"] == "demo"
MESSAGES = [{"role": "user", "content": "Hello"}]
SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}
FUNCTION = {"name": "weather", "description": "Weather of a city", "parameters": SCHEMA}
AZURE = {"azure_endpoint": URL, "api_key": KEY, "api_version": "2025-04-01-preview", "max_retries": 0}
CLAUDE = {"model": "claude-sonnet-5", "max_tokens": 100, "messages": MESSAGES}


class Place(BaseModel):
    city: str


def rounds():
    """The demo's backends take their time; where faults come and go, through several of their rounds."""
    until = time.monotonic() + (0 if DEMO else 5)
    done = 0
    while done < (2 if DEMO else 12) or time.monotonic() < until:
        yield done
        done += 1


class OpenAISuite(unittest.TestCase):
    def chat(self, client: openai.OpenAI) -> None:
        for _ in rounds():
            chat = client.chat.completions.create(model="gpt-4o", messages=MESSAGES)
            self.assertTrue(chat.choices[0].message.content)
            with client.chat.completions.create(model="gpt-4o", messages=MESSAGES, stream=True) as stream:
                text = "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices)
            self.assertTrue(text)
            with client.chat.completions.stream(model="gpt-4o", messages=MESSAGES) as events:
                self.assertTrue(events.get_final_completion().choices[0].message.content)
            tools = [{"type": "function", "function": FUNCTION}]
            called = client.chat.completions.create(
                model="gpt-4o", messages=MESSAGES, tools=tools, tool_choice="required"
            )
            self.assertEqual(called.choices[0].message.tool_calls[0].function.name, "weather")
            parsed = client.chat.completions.parse(model="gpt-4o", messages=MESSAGES, response_format=Place)
            self.assertEqual(parsed.choices[0].message.parsed, Place(city="x"))
            embedded = client.embeddings.create(model="text-embedding-3-small", input="Hello")
            self.assertTrue(embedded.data[0].embedding)
        self.assertIn("gpt-4o", [model.id for model in client.models.list()])

    def responses(self, client: openai.OpenAI) -> None:
        previous = None
        # The owner of a chain may fail; a client's own retries are what it would need in front of Azure too.
        patient = client.with_options(max_retries=2)
        for _ in rounds():
            response = patient.responses.create(
                model="gpt-4o", input="Hello", previous_response_id=previous or openai.omit
            )
            previous = response.id
            self.assertEqual(patient.responses.retrieve(previous).id, previous)
            self.assertTrue(patient.responses.input_items.list(previous).data)
            with client.responses.stream(model="gpt-4o", input="Hi") as events:
                self.assertTrue(events.get_final_response().output_text)
            parsed = client.responses.parse(model="gpt-4o", input="Hi", text_format=Place)
            self.assertEqual(parsed.output_parsed, Place(city="x"))

    def both(self, client: openai.OpenAI) -> None:
        self.chat(client)
        self.responses(client)

    def test_openai_on_v1(self) -> None:
        self.both(openai.OpenAI(base_url=f"{URL}/v1", api_key=KEY, max_retries=0))

    def test_openai_on_openai_v1(self) -> None:
        self.both(openai.OpenAI(base_url=f"{URL}/openai/v1", api_key=KEY, max_retries=0))

    def test_azure(self) -> None:
        self.both(openai.AzureOpenAI(**AZURE))

    def test_thirty_at_once(self) -> None:
        # Of two that fail in turns one proves by a single request that it is back; a burst meanwhile may have to come again.
        retries = 2 if os.environ["PROXY_MODE"] == "both faulty" else 0

        async def run() -> None:
            async with openai.AsyncAzureOpenAI(**{**AZURE, "max_retries": retries}) as client:

                async def one() -> str:
                    text = ""
                    async for chunk in await client.chat.completions.create(
                        model="gpt-4o", messages=MESSAGES, stream=True
                    ):
                        text += (chunk.choices[0].delta.content or "") if chunk.choices else ""
                    return text

                for _ in rounds():
                    self.assertTrue(all(await asyncio.gather(*(one() for _ in range(30)))))

        asyncio.run(run())

    def test_decisions(self) -> None:
        client = openai.OpenAI(base_url=f"{URL}/v1", api_key=KEY, max_retries=0)
        questions = [{"type": "predicate", "name": "refund", "instructions": "Is a refund asked for?"}]
        for _ in rounds():
            decided = client.decisions.create(model="gpt-6-luna", input="Money back!", questions=questions)
            self.assertEqual(decided.answers[0].name, "refund")

    def test_responses_over_websocket(self) -> None:
        client = openai.OpenAI(base_url=f"{URL}/v1", api_key=KEY, max_retries=0)
        # What only the socket's resource holds nobody else can go on with: where resources fail, a session has one turn.
        turns = 3 if DEMO else 1
        for _ in rounds():
            ids = []
            with client.responses.connect() as socket:
                for _ in range(turns):
                    more = {"previous_response_id": ids[-1]} if ids else {}
                    socket.response.create(model="gpt-4o", input="Hi", store=False, **more)
                    for event in socket:
                        self.assertNotEqual(event.type, "error", event)
                        if event.type == "response.completed":
                            ids.append(event.response.id)
                            break
            self.assertEqual(len(set(ids)), turns)

    def test_errors(self) -> None:
        client = openai.OpenAI(base_url=f"{URL}/v1", api_key=KEY, max_retries=0)
        with self.assertRaises(openai.NotFoundError):
            client.chat.completions.create(model="nope", messages=MESSAGES)
        with self.assertRaises(openai.AuthenticationError):
            client.with_options(api_key="nobody").chat.completions.create(model="gpt-4o", messages=MESSAGES)


class AnthropicSuite(unittest.TestCase):
    def use(self, client: anthropic.Anthropic) -> None:
        for _ in rounds():
            self.assertEqual(client.messages.create(**CLAUDE).stop_reason, "end_turn")
            with client.messages.stream(**CLAUDE) as stream:
                self.assertTrue(stream.get_final_text())
                self.assertGreater(stream.get_final_message().usage.input_tokens, 0)
            tools = [{"name": "weather", "input_schema": SCHEMA}]
            called = client.messages.create(**CLAUDE, tools=tools, tool_choice={"type": "any"})
            self.assertEqual(called.content[-1].type, "tool_use")
            json.dumps(called.content[-1].input)
        with self.assertRaises(anthropic.NotFoundError):
            client.messages.create(**{**CLAUDE, "model": "nope"})

    def test_anthropic(self) -> None:
        for base_url in (URL, f"{URL}/anthropic"):
            client = anthropic.Anthropic(base_url=base_url, api_key=KEY, max_retries=0)
            self.use(client)
            counted = client.messages.count_tokens(model="claude-sonnet-5", messages=MESSAGES)
            self.assertGreater(counted.input_tokens, 0)

    def test_foundry(self) -> None:
        self.use(anthropic.AnthropicFoundry(base_url=f"{URL}/anthropic", api_key=KEY, max_retries=0))


if __name__ == "__main__":
    unittest.main()
