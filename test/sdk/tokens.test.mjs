// openai-node with a token provider, as its documentation says: nothing but the endpoint is the proxy's.
import assert from 'node:assert/strict'
import test from 'node:test'
import OpenAI, { AzureOpenAI } from 'openai'

const { PROXY_URL = '', TOKEN_URL = '', WRONG_TOKEN = '' } = process.env
const messages = [{ role: 'user', content: 'Hello' }]

/** As getBearerTokenProvider of @azure/identity does: a fresh token each time it is asked. */
async function tokenProvider() {
  const answer = await fetch(TOKEN_URL, {
    method: 'POST',
    body: new URLSearchParams({ grant_type: 'client_credentials' }),
  })
  return (await answer.json()).access_token
}

const clients = {
  'AzureOpenAI, azureADTokenProvider': new AzureOpenAI({
    endpoint: PROXY_URL,
    azureADTokenProvider: tokenProvider,
    apiVersion: '2025-04-01-preview',
  }),
  'OpenAI, v1, apiKey as a function': new OpenAI({ baseURL: `${PROXY_URL}/openai/v1`, apiKey: tokenProvider }),
}

for (const [name, client] of Object.entries(clients)) {
  test(`${name}: chat, stream, embeddings, stored responses`, async () => {
    const chat = await client.chat.completions.create({ model: 'gpt-4o', messages })
    assert.ok(chat.choices[0]?.message.content)
    let text = ''
    for await (const chunk of await client.chat.completions.create({ model: 'gpt-4o', messages, stream: true })) {
      text += chunk.choices[0]?.delta?.content ?? ''
    }
    assert.ok(text)
    const { data } = await client.embeddings.create({ model: 'text-embedding-3-small', input: 'Hello' })
    assert.ok(data[0]?.embedding.length)
    const first = await client.responses.create({ model: 'gpt-4o', input: 'Hello' })
    const second = await client.responses.create({ model: 'gpt-4o', input: 'On', previous_response_id: first.id })
    assert.equal((await client.responses.retrieve(second.id)).id, second.id)
    assert.ok((await client.responses.inputItems.list(second.id)).data.length)
    await client.responses.delete(second.id)
    assert.ok((await client.models.list()).data.some(({ id }) => id === 'gpt-4o'))
  })
}

test('a token for another audience: an AuthenticationError that says so', async () => {
  const client = new AzureOpenAI({
    endpoint: PROXY_URL,
    azureADTokenProvider: async () => WRONG_TOKEN,
    apiVersion: '2025-04-01-preview',
    maxRetries: 0,
  })
  await assert.rejects(client.chat.completions.create({ model: 'gpt-4o', messages }), error => {
    assert.ok(error instanceof OpenAI.AuthenticationError)
    assert.match(error.message, /another audience/)
    return true
  })
})
