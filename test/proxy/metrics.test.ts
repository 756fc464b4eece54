// GET /metrics: what is counted, that the text is what Prometheus reads, and that nobody outside can make it grow.
import t from 'tap'
import { OUTCOME_LABELS } from '../../lib/forward/outcome-label.ts'
import { cutAfter, fail } from '../../lib/simulator/faults.ts'
import { twoBackends } from '../fixtures/backends-and-proxy.ts'
import { CLIENT_KEY, configFor, runProxy } from '../fixtures/run-proxy.ts'
import { startResource } from '../fixtures/start-simulator.ts'

interface Sample {
  readonly name: string
  readonly labels: Readonly<Record<string, string>>
  readonly value: number
}

/** The exposition format 0.0.4, read strictly: anything that is no comment and no sample is an error. */
function parseText(text: string): { readonly samples: readonly Sample[]; readonly types: ReadonlyMap<string, string> } {
  const samples: Sample[] = []
  const types = new Map<string, string>()
  const helped = new Set<string>()
  if (!text.endsWith('\n')) throw new Error('the last line has no end')
  for (const line of text.slice(0, -1).split('\n')) {
    const help = /^# HELP ([a-zA-Z_:][\w:]*) .+$/.exec(line)
    const type = /^# TYPE ([a-zA-Z_:][\w:]*) (counter|gauge|histogram)$/.exec(line)
    const sample = /^([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (-?[\d.]+(?:e[+-]?\d+)?|[+-]Inf|NaN)$/.exec(line)
    if (help?.[1] !== undefined) helped.add(help[1])
    else if (type?.[1] !== undefined && type[2] !== undefined) {
      if (!helped.has(type[1]) || types.has(type[1])) throw new Error(`TYPE out of place: ${line}`)
      types.set(type[1], type[2])
    } else if (sample?.[1] !== undefined) {
      const family = sample[1].replace(/_(bucket|sum|count)$/, '')
      if (!types.has(sample[1]) && types.get(family) !== 'histogram') throw new Error(`sample without TYPE: ${line}`)
      const labels: Record<string, string> = {}
      let rest = sample[2] ?? ''
      while (rest !== '') {
        const label = /^([a-zA-Z_]\w*)="((?:[^"\\]|\\["\\n])*)"(?:,|$)/.exec(rest)
        if (label?.[1] === undefined) throw new Error(`labels: ${line}`)
        labels[label[1]] = label[2] ?? ''
        rest = rest.slice(label[0].length)
      }
      samples.push({ name: sample[1], labels, value: Number(sample[3]?.replace('Inf', 'Infinity')) })
    } else throw new Error(`no line of the format: ${line}`)
  }
  return { samples, types }
}

async function metricsOf(url: string): Promise<ReturnType<typeof parseText>> {
  const response = await fetch(`${url}/metrics`)
  if (response.status !== 200) throw new Error(`status ${response.status}`)
  return parseText(await response.text())
}

function figure(
  { samples }: { readonly samples: readonly Sample[] },
  name: string,
  labels: Readonly<Record<string, string>> = {},
): number | undefined {
  return samples.find(
    sample => sample.name === name && Object.entries(labels).every(([label, value]) => sample.labels[label] === value),
  )?.value
}

t.test('requests, attempts, failovers and tokens are counted under the names of the config', async t => {
  const { first, running } = await twoBackends(t, { rest: '', backends: [{ name: 'bad' }, { name: 'good' }] })
  first.resource.always(fail(503))
  const { url, chat, line } = running
  const done = line('request')
  await (await chat()).text()
  await done

  const figures = await metricsOf(url)
  const who = { model: 'gpt-4o', key: 'tester' }
  t.equal(figure(figures, 'proxy_requests_total', { ...who, status: '200' }), 1)
  t.equal(figure(figures, 'proxy_attempts_total', { backend: 'bad', outcome: 'failed' }), 1)
  t.equal(figure(figures, 'proxy_attempts_total', { backend: 'good', outcome: 'served' }), 1)
  t.equal(figure(figures, 'proxy_failovers_total', { model: 'gpt-4o' }), 1)
  t.equal(figure(figures, 'proxy_backend_up', { model: 'gpt-4o', backend: 'bad' }), 0)
  t.equal(figure(figures, 'proxy_backend_up', { model: 'gpt-4o', backend: 'good' }), 1)
  t.equal(figure(figures, 'proxy_backend_in_flight', { backend: 'good' }), 0)
  t.ok((figure(figures, 'proxy_tokens_total', { ...who, kind: 'prompt' }) ?? 0) > 0)
  t.ok((figure(figures, 'proxy_tokens_total', { ...who, kind: 'completion' }) ?? 0) > 0)
})

t.test('every outcome of an attempt has its series before anything was asked', async t => {
  const backend = await startResource(t)
  const running = await runProxy(t, configFor([backend], { rest: 'health_check: {enabled: false}' }))
  const text = await (await fetch(`${running.url}/metrics`)).text()
  const seeded = parseText(text).samples.filter(({ name }) => name === 'proxy_attempts_total')
  t.same(
    seeded.map(({ labels, value }) => [labels.outcome, value]),
    OUTCOME_LABELS.map(label => [label, 0]),
  )
})

t.test('histograms have the buckets of LLM calls, cumulative, with their sum and count', async t => {
  const { url: backend } = await startResource(t)
  const { url, chat, line } = await runProxy(t, configFor([{ url: backend }]))
  for (let i = 0; i < 3; i++) {
    const done = line('request')
    await (await chat({ stream: i === 0 })).text()
    await done
  }
  const { samples, types } = await metricsOf(url)
  for (const [name, first, last] of [
    ['proxy_request_duration_seconds', '0.1', '600'],
    ['proxy_time_to_first_byte_seconds', '0.05', '120'],
  ] as const) {
    t.equal(types.get(name), 'histogram')
    const buckets = samples.filter(sample => sample.name === `${name}_bucket`)
    const bounds = buckets.map(({ labels }) => labels.le)
    t.equal(bounds[0], first)
    t.same(bounds.slice(-2), [last, '+Inf'])
    const counts = buckets.map(({ value }) => value)
    t.same(
      counts,
      [...counts].sort((a, b) => a - b),
    )
    t.equal(counts.at(-1), 3)
    t.equal(figure({ samples }, `${name}_count`, { model: 'gpt-4o' }), 3)
    t.ok((figure({ samples }, `${name}_sum`, { model: 'gpt-4o' }) ?? -1) > 0)
  }
})

t.test('a stream that is cut and a client that leaves are counted as what they were', async t => {
  const { resource, url: backend } = await startResource(t, { eventDelayMs: 20, deltas: 50 })
  const { url, chat, line } = await runProxy(t, configFor([{ url: backend }]))
  resource.next(cutAfter(5))
  let done = line('request')
  await (await chat({ stream: true })).text()
  await done

  const controller = new AbortController()
  done = line('request')
  const response = await chat({ stream: true, signal: controller.signal })
  await response.body?.getReader().read()
  controller.abort()
  await done

  const figures = await metricsOf(url)
  t.equal(figure(figures, 'proxy_attempts_total', { outcome: 'cut' }), 1)
  t.equal(figure(figures, 'proxy_requests_total', { model: 'gpt-4o', status: '499' }), 1)
  t.equal(figure(figures, 'proxy_open_streams'), 0)
})

t.test('ten thousand random models, keys and paths make no new series', async t => {
  const { url: backend } = await startResource(t)
  const { url, chat, post } = await runProxy(t, configFor([{ url: backend }]))
  const hostile = async (i: number): Promise<void> => {
    const name = `x${i}"\n{}`
    const answers = await Promise.all([
      chat({ model: name }),
      post(`/v1/${encodeURIComponent(name)}`, {}),
      post('/v1/chat/completions', {}, { headers: { authorization: `Bearer ${i}-wrong` } }),
      fetch(`${url}/v1/models/${encodeURIComponent(name)}`, { headers: { 'api-key': CLIENT_KEY } }),
    ])
    for (const answer of answers) await answer.arrayBuffer()
  }
  await (await chat()).text()
  await hostile(0)
  const before = (await metricsOf(url)).samples.length
  // Four hostile requests a round.
  for (let i = 1; i <= 2_500; i += 10) await Promise.all(Array.from({ length: 10 }, (_, j) => hostile(i + j)))
  t.equal((await metricsOf(url)).samples.length, before)
})

t.test('metrics.enabled: false answers as if there were nothing', async t => {
  const { url: backend } = await startResource(t)
  const { url } = await runProxy(t, configFor([{ url: backend }], { rest: 'metrics: {enabled: false}' }))
  const response = await fetch(`${url}/metrics`)
  t.equal(response.status, 404)
  t.match(await response.json(), { error: { code: 'unknown_url' } })
})
