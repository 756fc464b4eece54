# Frameworks over the OpenAI API: OpenAI's Agents SDK, LangChain, LiteLLM. Their own retries are off where they have a switch.
import asyncio
import os
import time
import unittest

import litellm
from agents import Agent, OpenAIChatCompletionsModel, OpenAIResponsesModel, Runner, SQLiteSession, set_tracing_disabled
from langchain_core.tools import tool
from langchain_openai import AzureChatOpenAI, ChatOpenAI, OpenAIEmbeddings
from openai import AsyncAzureOpenAI, AsyncOpenAI
from pydantic import BaseModel

URL = os.environ["PROXY_URL"]
KEY = os.environ["PROXY_KEY"]
DEMO = os.environ["PROXY_MODE"] == "demo"
VERSION = "2025-04-01-preview"
MESSAGES = [{"role": "user", "content": "Hello"}]


class Place(BaseModel):
    city: str


def rounds():
    """The demo's backends take their time; where faults come and go, through several of their rounds."""
    until = time.monotonic() + (0 if DEMO else 4)
    done = 0
    while done < (1 if DEMO else 8) or time.monotonic() < until:
        yield done
        done += 1


class LiteLLM(unittest.TestCase):
    def use(self, **settings) -> None:
        for _ in rounds():
            answer = litellm.completion(messages=MESSAGES, max_retries=0, **settings)
            self.assertTrue(answer.choices[0].message.content)
            stream = litellm.completion(messages=MESSAGES, stream=True, max_retries=0, **settings)
            self.assertTrue("".join(chunk.choices[0].delta.content or "" for chunk in stream))

    def test_openai(self) -> None:
        self.use(model="openai/gpt-4o", api_base=f"{URL}/v1", api_key=KEY)

    def test_azure(self) -> None:
        self.use(model="azure/gpt-4o", api_base=URL, api_key=KEY, api_version=VERSION)

    def test_responses(self) -> None:
        for _ in rounds():
            answer = litellm.responses(
                model="openai/gpt-4o", input="Hello", api_base=f"{URL}/v1", api_key=KEY, max_retries=0
            )
            self.assertTrue(answer.output)

    def test_anthropic(self) -> None:
        self.use(model="anthropic/claude-sonnet-5", api_base=URL, api_key=KEY)


class LangChain(unittest.TestCase):
    def use(self, model) -> None:
        @tool
        def weather(city: str) -> str:
            """Weather of a city."""
            return "sun"

        for _ in rounds():
            self.assertTrue(model.invoke("Hello").content)
            self.assertTrue("".join(str(chunk.content) for chunk in model.stream("Hello")))
            self.assertEqual(model.with_structured_output(Place).invoke("Where?"), Place(city="x"))
            called = model.bind_tools([weather], tool_choice="weather").invoke("Weather?")
            self.assertEqual(called.tool_calls[0]["name"], "weather")

    def test_openai(self) -> None:
        self.use(ChatOpenAI(model="gpt-4o", base_url=f"{URL}/v1", api_key=KEY, max_retries=0))

    def test_responses(self) -> None:
        model = ChatOpenAI(model="gpt-4o", base_url=f"{URL}/v1", api_key=KEY, max_retries=0, use_responses_api=True)
        self.use(model)

    def test_azure(self) -> None:
        self.use(
            AzureChatOpenAI(
                azure_deployment="gpt-4o", azure_endpoint=URL, api_key=KEY, api_version=VERSION, max_retries=0
            )
        )

    def test_embeddings(self) -> None:
        model = OpenAIEmbeddings(
            model="text-embedding-3-small",
            base_url=f"{URL}/v1",
            api_key=KEY,
            max_retries=0,
            check_embedding_ctx_length=False,
        )
        for _ in rounds():
            self.assertTrue(model.embed_query("Hello"))


class Agents(unittest.TestCase):
    def clients(self):
        yield AsyncOpenAI(base_url=f"{URL}/v1", api_key=KEY)
        yield AsyncAzureOpenAI(azure_endpoint=URL, api_key=KEY, api_version=VERSION)

    def run_with(self, model_class) -> None:
        set_tracing_disabled(True)

        async def run(client) -> None:
            agent = Agent(name="a", instructions="Help.", model=model_class(model="gpt-4o", openai_client=client))
            placed = Agent(name="b", model=agent.model, output_type=Place)
            session = SQLiteSession("s")
            for _ in rounds():
                self.assertTrue((await Runner.run(agent, "Hello", session=session)).final_output)
                self.assertEqual((await Runner.run(placed, "Where?")).final_output, Place(city="x"))
                streamed = Runner.run_streamed(agent, "Hello")
                async for _ in streamed.stream_events():
                    pass
                self.assertTrue(streamed.final_output)

        for client in self.clients():
            asyncio.run(run(client))

    def test_chat(self) -> None:
        self.run_with(OpenAIChatCompletionsModel)

    def test_responses(self) -> None:
        self.run_with(OpenAIResponsesModel)


if __name__ == "__main__":
    unittest.main()
