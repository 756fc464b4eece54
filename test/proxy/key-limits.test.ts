// Limits of a client key, as its clients see them.
import t from 'tap'
import { configFor, runProxy } from '../fixtures/run-proxy.ts'
import { startResource } from '../fixtures/start-simulator.ts'

function configWith(url: string, limits: string): string {
  return configFor([{ url }]).replace(
    /auth: .*/,
    `auth: {keys: [{name: tester, key: client-key-1, limits: {${limits}}}]}`,
  )
}

t.test('of a hundred requests at once exactly the limit is served, the others are told when to come back', async t => {
  const { resource, url } = await startResource(t)
  const { chat } = await runProxy(t, configWith(url, 'requests_per_minute: 20'))
  const answers = await Promise.all(Array.from({ length: 100 }, () => chat()))
  const bodies = await Promise.all(answers.map(answer => answer.json()))

  t.equal(answers.filter(({ status }) => status === 200).length, 20)
  t.equal(resource.requests.length, 20)
  const at = answers.findIndex(({ status }) => status === 429)
  t.match(bodies[at], { error: { code: 'rate_limit_exceeded', type: 'rate_limit_error' } })
  const headers = answers[at]?.headers
  t.equal(headers?.get('x-ratelimit-limit-requests'), '20')
  t.equal(headers?.get('x-ratelimit-remaining-requests'), '0')
  t.match(headers?.get('x-ratelimit-reset-requests'), /^(\d+(\.\d)?s|1m0s)$/)
  const wait = Number(headers?.get('retry-after'))
  t.ok(wait >= 1 && wait <= 60, `retry-after ${wait}`)
})

t.test('requests at once are limited until one of them ends', async t => {
  const { url } = await startResource(t, { eventDelayMs: 30, deltas: 200 })
  const { chat, line } = await runProxy(t, configWith(url, 'concurrent: 1'))
  const controller = new AbortController()
  const streaming = await chat({ stream: true, signal: controller.signal })
  await streaming.body?.getReader().read()
  const refused = await chat()
  t.equal(refused.status, 429)
  t.match(await refused.json(), { error: { code: 'rate_limit_exceeded' } })
  const left = line('request')
  controller.abort()
  await left
  const served = await chat()
  t.equal(served.status, 200)
  await served.text()
})

t.test('tokens a minute are those that the backend counted', async t => {
  const { url } = await startResource(t)
  const { chat, post } = await runProxy(t, configWith(url, 'tokens_per_minute: 10000'))
  const big = { model: 'gpt-4o', max_tokens: 9_000, messages: [{ role: 'user', content: 'Hello' }] }
  for (let i = 0; i < 5; i++) {
    const answer = await post('/v1/chat/completions', big)
    t.equal(answer.status, 200, 'an estimate that was too high is given back')
    await answer.text()
  }
  const two = await Promise.all([post('/v1/chat/completions', big), post('/v1/chat/completions', big)])
  t.same(two.map(({ status }) => status).sort(), [200, 429], 'while it is reserved nobody else has it')
  const refused = two.find(({ status }) => status === 429)
  t.equal(refused?.headers.get('x-ratelimit-limit-tokens'), '10000')
  for (const answer of two) await answer.text()
  const after = await chat()
  t.equal(after.status, 200)
  await after.text()
})
