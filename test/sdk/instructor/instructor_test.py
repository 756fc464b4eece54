# instructor over openai-python, in each of its modes, with every retry off so that a single lost call shows.
import os
import time
import unittest
from typing import Literal

import instructor
import openai
from pydantic import BaseModel

URL = os.environ["PROXY_URL"]
KEY = os.environ["PROXY_KEY"]
DEMO = os.environ["PROXY_MODE"] == "demo"
MESSAGES = [{"role": "user", "content": "Extract: Jason is 25 years old."}]


class Address(BaseModel):
    street: str
    kind: Literal["home", "work"]


class Person(BaseModel):
    name: str
    age: int
    addresses: list[Address]


def rounds():
    until = time.monotonic() + (0 if DEMO else 4)
    done = 0
    while done < (1 if DEMO else 8) or time.monotonic() < until:
        yield done
        done += 1


class Instructor(unittest.TestCase):
    def clients(self):
        yield openai.OpenAI(base_url=f"{URL}/v1", api_key=KEY, max_retries=0)
        yield openai.AzureOpenAI(
            azure_endpoint=URL, api_key=KEY, api_version="2025-04-01-preview", max_retries=0
        )

    def extract(self, mode: instructor.Mode) -> None:
        for client in self.clients():
            patched = instructor.from_openai(client, mode=mode)
            for _ in rounds():
                person = patched.chat.completions.create(
                    model="gpt-4o", messages=MESSAGES, response_model=Person, max_retries=1
                )
                self.assertIsInstance(person, Person)

    def test_tools(self) -> None:
        self.extract(instructor.Mode.TOOLS)

    def test_tools_strict(self) -> None:
        self.extract(instructor.Mode.TOOLS_STRICT)

    def test_json_schema(self) -> None:
        self.extract(instructor.Mode.JSON_SCHEMA)

    def test_json(self) -> None:
        self.extract(instructor.Mode.JSON)

    def test_markdown(self) -> None:
        self.extract(instructor.Mode.MD_JSON)

    def test_responses(self) -> None:
        client = openai.OpenAI(base_url=f"{URL}/v1", api_key=KEY, max_retries=0)
        patched = instructor.from_openai(client, mode=instructor.Mode.RESPONSES_TOOLS)
        for _ in rounds():
            person = patched.responses.create(
                model="gpt-4o", input=MESSAGES, response_model=Person, max_retries=1
            )
            self.assertIsInstance(person, Person)

    def test_partial(self) -> None:
        for client in self.clients():
            patched = instructor.from_openai(client, mode=instructor.Mode.TOOLS)
            for _ in rounds():
                parts = list(
                    patched.chat.completions.create_partial(
                        model="gpt-4o", messages=MESSAGES, response_model=Person, max_retries=1
                    )
                )
                self.assertTrue(parts[-1].name)

    def test_several_at_once(self) -> None:
        for client in self.clients():
            patched = instructor.from_openai(client, mode=instructor.Mode.TOOLS)
            for _ in rounds():
                people = list(
                    patched.chat.completions.create_iterable(
                        model="gpt-4o", messages=MESSAGES, response_model=Person, max_retries=1
                    )
                )
                self.assertTrue(people)


if __name__ == "__main__":
    unittest.main()
