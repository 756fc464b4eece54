// Completions, images and audio through the proxy: on every kind of backend, as JSON and as forms, streamed and not,
// byte for byte.
import { randomFillSync } from 'node:crypto'
import type { Test } from 'tap'
import t from 'tap'
import { transcriptOf } from '../../lib/simulator/audio.ts'
import { cutAfter, fail, throttle } from '../../lib/simulator/faults.ts'
import type { SimulatedDeployment } from '../../lib/simulator/resource.ts'
import { BEARER } from '../fixtures/backends-and-proxy.ts'
import { CLIENT_KEY, configFor, type RunningProxy, runProxy } from '../fixtures/run-proxy.ts'
import { type StartedResource, startResource } from '../fixtures/start-simulator.ts'

type Kind = SimulatedDeployment['kind']

async function start(
  t: Test,
  kind: Kind,
  { count = 1, more = 'deployment: deployed', rest = '' } = {},
): Promise<{ readonly backends: readonly StartedResource[]; readonly proxy: RunningProxy }> {
  const backends = await Promise.all(
    Array.from({ length: count }, () =>
      startResource(t, { deployments: [{ name: 'deployed', kind }], forbidden: [CLIENT_KEY] }),
    ),
  )
  const proxy = await runProxy(
    t,
    configFor(
      backends.map(({ url }) => ({ url, more })),
      { rest },
    ),
  )
  return { backends, proxy }
}

/** A transcription's form, with the model where the test wants it. */
function form(file: Buffer, { modelFirst = true, fields = {} as Record<string, string> } = {}): FormData {
  const data = new FormData()
  if (modelFirst) data.append('model', 'gpt-4o')
  for (const [name, value] of Object.entries(fields)) data.append(name, value)
  data.append('file', new Blob([file]), 'speech.wav')
  if (!modelFirst) data.append('model', 'gpt-4o')
  return data
}

function upload({ url }: RunningProxy, path: string, body: FormData): Promise<Response> {
  return fetch(`${url}${path}`, { method: 'POST', headers: BEARER, body })
}

t.test('completions, whole and streamed, on both surfaces', async t => {
  for (const more of ['deployment: deployed', 'deployment: deployed, api_version: "2024-10-21"']) {
    const { proxy, backends } = await start(t, 'completion', { more })
    const whole = await proxy.post('/v1/completions', { model: 'gpt-4o', prompt: 'Once' })
    t.equal(whole.status, 200)
    t.match(await whole.json(), { object: 'text_completion', choices: [{ finish_reason: 'stop' }] })
    const streamed = await proxy.post('/v1/completions', { model: 'gpt-4o', prompt: 'Once', stream: true })
    const text = await streamed.text()
    t.match(text, /data: \[DONE\]\n\n$/)
    t.same(backends[0]?.resource.violations, [])
  }
})

t.test('a stream of completions that breaks off is not taken for a whole one', async t => {
  const { proxy, backends } = await start(t, 'completion')
  backends[0]?.resource.next(cutAfter(3))
  const text = await (await proxy.post('/v1/completions', { model: 'gpt-4o', prompt: 'Once', stream: true })).text()
  t.notMatch(text, /\[DONE\]/)
  t.match(text, /"error"/)
})

t.test('images are generated, whole and with partial images first', async t => {
  const { proxy } = await start(t, 'image')
  const whole = await proxy.post('/v1/images/generations', { model: 'gpt-4o', prompt: 'a lighthouse', n: 2 })
  t.equal(whole.status, 200)
  const { data } = (await whole.json()) as { readonly data: readonly { readonly b64_json: string }[] }
  t.equal(data.length, 2)
  t.equal(Buffer.from(data[0]?.b64_json ?? '', 'base64').toString('latin1', 1, 4), 'PNG')
  const done = proxy.line('request')
  const streamed = await proxy.post('/v1/images/generations', {
    model: 'gpt-4o',
    prompt: 'a lighthouse',
    stream: true,
    partial_images: 2,
  })
  t.match(streamed.headers.get('content-type'), /^text\/event-stream/)
  const types = [...(await streamed.text()).matchAll(/^event: (.+)$/gm)].map(([, type]) => type)
  t.same(types, ['image_generation.partial_image', 'image_generation.partial_image', 'image_generation.completed'])
  t.match(await done, { stream: true, prompt_tokens: 3, completion_tokens: 272 })
})

t.test('image edits: a form whose model is anywhere, or none because the path names it; or JSON', async t => {
  const { proxy, backends } = await start(t, 'image')
  const picture = Buffer.alloc(200_000, 7)
  const edit = (order: readonly string[]): FormData => {
    const data = new FormData()
    for (const name of order) {
      if (name === 'image') data.append('image[]', new Blob([picture]), 'a.png')
      else data.append(name, name === 'model' ? 'gpt-4o' : 'paint it red')
    }
    return data
  }
  for (const order of [
    ['model', 'prompt', 'image'],
    ['prompt', 'model', 'image'],
    ['image', 'prompt', 'model'],
  ]) {
    const answer = await upload(proxy, '/v1/images/edits', edit(order))
    t.equal(answer.status, 200, order.join(' '))
    await answer.arrayBuffer()
    t.match(backends[0]?.resource.requests.at(-1)?.body.toString('latin1'), /name="model"\r\n\r\ndeployed\r\n/)
  }
  const byPath = await upload(
    proxy,
    '/openai/deployments/gpt-4o/images/edits?api-version=2025-04-01-preview',
    edit(['prompt', 'image']),
  )
  t.equal(byPath.status, 200)
  await byPath.arrayBuffer()
  const asJson = await proxy.post('/v1/images/edits', {
    model: 'gpt-4o',
    prompt: 'paint it red',
    images: [{ image_url: 'https://example.test/a.png' }],
  })
  t.equal(asJson.status, 200)
  await asJson.arrayBuffer()
})

t.test('speech streams through as the bytes it is', async t => {
  const { proxy } = await start(t, 'speech')
  const answer = await proxy.post('/v1/audio/speech', {
    model: 'gpt-4o',
    voice: 'alloy',
    input: 'Hello, world.',
    response_format: 'wav',
  })
  t.equal(answer.status, 200)
  t.equal(answer.headers.get('content-type'), 'audio/wav')
  const sound = Buffer.from(await answer.arrayBuffer())
  t.equal(sound.toString('latin1', 0, 4), 'RIFF')
  t.equal(sound.length, 44 + 13 * 1_200 * 2)
})

t.test('speech that breaks off is cut, so that no client takes a part for the whole', async t => {
  const { proxy, backends } = await start(t, 'speech')
  backends[0]?.resource.next({ kind: 'cut_bytes', bytes: 70_000 })
  const answer = await proxy.post('/v1/audio/speech', { model: 'gpt-4o', voice: 'alloy', input: 'x'.repeat(100) })
  await t.rejects(answer.arrayBuffer())
})

t.test('a transcription in every form of answer', async t => {
  const { proxy } = await start(t, 'transcription')
  const file = Buffer.from('RIFF....')
  for (const format of ['json', 'text', 'srt', 'verbose_json']) {
    const answer = await upload(proxy, '/v1/audio/transcriptions', form(file, { fields: { response_format: format } }))
    t.equal(answer.status, 200, format)
    t.ok((await answer.text()).includes(transcriptOf(file)), format)
  }
  const done = proxy.line('request')
  const streamed = await upload(proxy, '/v1/audio/transcriptions', form(file, { fields: { stream: 'true' } }))
  const text = await streamed.text()
  t.match(text, /transcript\.text\.delta/)
  t.match(text, /"type":"transcript\.text\.done"/)
  t.match(await done, { stream: true, path: '/v1/audio/transcriptions' })
  const translated = await upload(proxy, '/v1/audio/translations', form(file))
  t.equal(translated.status, 200)
  await translated.arrayBuffer()
})

t.test('25 MB of audio fail over byte for byte, whichever way the backend refuses', async t => {
  const file = randomFillSync(Buffer.alloc(25 * 1024 * 1024 - 1_000))
  for (const more of ['deployment: deployed', 'deployment: deployed, api_version: "2024-10-21"']) {
    for (const modelFirst of [true, false]) {
      const { proxy, backends } = await start(t, 'transcription', { count: 2, more })
      backends[0]?.resource.always(modelFirst ? fail(503) : throttle(9))
      const answer = await upload(proxy, '/v1/audio/transcriptions', form(file, { modelFirst }))
      t.equal(answer.status, 200)
      t.match(await answer.json(), { text: transcriptOf(file) })
      t.equal(answer.headers.get('x-proxy-attempts'), '2')
      for (const { resource } of backends) t.same(resource.violations, [])
      t.equal(proxy.proxy.shared.bodyBudget.heldBytes(), 0)
    }
  }
})

t.test('on a dated backend a form goes on untouched, its model too', async t => {
  const { proxy, backends } = await start(t, 'transcription', {
    more: 'deployment: deployed, api_version: "2024-10-21"',
  })
  const answer = await upload(proxy, '/v1/audio/transcriptions', form(Buffer.from('x')))
  t.equal(answer.status, 200)
  await answer.arrayBuffer()
  const seen = backends[0]?.resource.requests[0]
  t.equal(seen?.url, '/openai/deployments/deployed/audio/transcriptions?api-version=2024-10-21')
  t.match(seen?.body.toString('latin1'), /name="model"\r\n\r\ngpt-4o\r\n/)
})

t.test('forms that are none are refused with what is wrong', async t => {
  const { proxy, backends } = await start(t, 'transcription', { rest: '' })
  const send = async (contentType: string, body: string): Promise<{ status: number; body: unknown }> => {
    const answer = await fetch(`${proxy.url}/v1/audio/transcriptions`, {
      method: 'POST',
      headers: { ...BEARER, 'content-type': contentType },
      body,
    })
    return { status: answer.status, body: await answer.json() }
  }
  const part = '--b\r\nContent-Disposition: form-data; name="model"\r\n\r\ngpt-4o\r\n'
  for (const [contentType, body, code] of [
    ['multipart/form-data', `${part}--b--\r\n`, 'invalid_multipart'],
    ['multipart/form-data; boundary=b', part, 'invalid_multipart'],
    ['multipart/form-data; boundary=b', 'no form at all', 'invalid_multipart'],
    [
      'multipart/form-data; boundary=b',
      '--b\r\nContent-Disposition: form-data; name="file"\r\n\r\nx\r\n--b--\r\n',
      'missing_model',
    ],
    ['text/plain', 'hello', 'invalid_multipart'],
  ] as const) {
    t.match(await send(contentType, body), { status: 400, body: { error: { code } } }, code)
  }
  const long = `--b\r\nContent-Disposition: form-data; name="model"\r\n\r\n${'x'.repeat(5000)}\r\n--b--\r\n`
  t.match(await send('multipart/form-data; boundary=b', long), {
    status: 404,
    body: { error: { code: 'model_not_found', message: /a name of 5000 bytes/ } },
  })
  t.equal(backends[0]?.resource.requests.length, 0)
})

t.test('an upload over server.max_body is refused early', async t => {
  const { url } = await startResource(t, { deployments: [{ name: 'gpt-4o', kind: 'transcription' }] })
  const proxy = await runProxy(t, configFor([{ url }]).replace('port: 0,', 'port: 0, max_body: 1MB,'))
  const answer = await upload(proxy, '/v1/audio/transcriptions', form(Buffer.alloc(2 * 1024 * 1024)))
  t.equal(answer.status, 413)
  t.match(await answer.json(), { error: { code: 'request_too_large' } })
})

t.test('an OpenAI-compatible server is asked for all of it under /v1', async t => {
  const { backends, proxy } = await start(t, 'speech', { more: 'deployment: deployed, type: openai' })
  backends[0]?.resource.always(fail(500))
  await (await proxy.post('/v1/audio/speech', { model: 'gpt-4o', voice: 'alloy', input: 'Hi' })).arrayBuffer()
  t.equal(backends[0]?.resource.requests[0]?.url, '/v1/audio/speech')
  t.match(JSON.parse(backends[0]?.resource.requests[0]?.body.toString() ?? ''), { model: 'deployed' })
})

t.test('sub-routes of responses are asked of the model', async t => {
  const { proxy, backends } = await start(t, 'chat')
  const counted = await proxy.post('/v1/responses/input_tokens', { model: 'gpt-4o', input: 'Hello there' })
  t.match(await counted.json(), { object: 'response.input_tokens' })
  const compacted = await proxy.post('/v1/responses/compact', { model: 'gpt-4o', input: 'Hello there' })
  t.match(await compacted.json(), { object: 'response.compaction' })
  t.same(
    backends[0]?.resource.requests.map(({ url }) => url),
    ['/openai/v1/responses/input_tokens', '/openai/v1/responses/compact'],
  )
})

t.test('what lives in one resource is not routed, and says so', async t => {
  const { proxy } = await start(t, 'chat')
  for (const path of ['/v1/files', '/v1/batches', '/v1/fine_tuning/jobs', '/v1/vector_stores', '/openai/files']) {
    const answer = await fetch(`${proxy.url}${path}`, { headers: BEARER })
    t.equal(answer.status, 404, path)
    t.match(await answer.json(), { error: { code: 'unknown_url', message: /one Azure OpenAI resource/ } })
  }
})
