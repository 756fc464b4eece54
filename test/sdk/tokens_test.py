# openai-python with a token provider, as its documentation says: nothing but the endpoint is the proxy's.
import asyncio
import json
import os
import unittest
import urllib.request

from openai import AsyncAzureOpenAI, AuthenticationError, AzureOpenAI, OpenAI

URL = os.environ["PROXY_URL"]
VERSION = "2025-04-01-preview"
MESSAGES = [{"role": "user", "content": "Hello"}]


def token_provider() -> str:
    """As azure.identity.get_bearer_token_provider does: a fresh token each time it is asked."""
    request = urllib.request.Request(os.environ["TOKEN_URL"], data=b"grant_type=client_credentials")
    with urllib.request.urlopen(request) as answer:
        return json.load(answer)["access_token"]


class TokenProvider(unittest.TestCase):
    def use(self, client: OpenAI) -> None:
        chat = client.chat.completions.create(model="gpt-4o", messages=MESSAGES)
        self.assertTrue(chat.choices[0].message.content)
        with client.chat.completions.create(model="gpt-4o", messages=MESSAGES, stream=True) as stream:
            text = "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices)
        self.assertTrue(text)
        embeddings = client.embeddings.create(model="text-embedding-3-small", input="Hello")
        self.assertTrue(embeddings.data[0].embedding)
        first = client.responses.create(model="gpt-4o", input="Hello")
        second = client.responses.create(model="gpt-4o", input="On", previous_response_id=first.id)
        self.assertEqual(client.responses.retrieve(second.id).id, second.id)
        self.assertTrue(client.responses.input_items.list(second.id).data)
        client.responses.delete(second.id)
        self.assertIn("gpt-4o", [model.id for model in client.models.list()])

    def test_azure_client(self) -> None:
        self.use(AzureOpenAI(azure_endpoint=URL, azure_ad_token_provider=token_provider, api_version=VERSION))

    def test_v1_client(self) -> None:
        self.use(OpenAI(base_url=f"{URL}/openai/v1", api_key=token_provider))

    def test_async_client(self) -> None:
        async def run() -> None:
            async def provider() -> str:
                return token_provider()

            client = AsyncAzureOpenAI(azure_endpoint=URL, azure_ad_token_provider=provider, api_version=VERSION)
            chat = await client.chat.completions.create(model="gpt-4o", messages=MESSAGES)
            self.assertTrue(chat.choices[0].message.content)
            await client.close()

        asyncio.run(run())

    def test_wrong_audience(self) -> None:
        client = AzureOpenAI(
            azure_endpoint=URL,
            azure_ad_token_provider=lambda: os.environ["WRONG_TOKEN"],
            api_version=VERSION,
            max_retries=0,
        )
        with self.assertRaisesRegex(AuthenticationError, "another audience"):
            client.chat.completions.create(model="gpt-4o", messages=MESSAGES)


if __name__ == "__main__":
    unittest.main()
