// The scenarios: what is done to each target, and which figures come of it.
import { setTimeout as sleep } from 'node:timers/promises'
import type { Handshake } from './client.ts'
import { aimAt, idleMb, measure, measureOpenStreams } from './measure.ts'
import { EVENTS_PER_BURST } from './payloads.ts'
import type { Scenario } from './rounds.ts'
import type { TargetName } from './targets.ts'
import { closed, type PlainWork, steady, warming } from './tasks.ts'
import { twoWorkers } from './two-workers.ts'

const ALL: readonly TargetName[] = ['direct', 'nginx', 'haproxy', 'envoy', 'caddy', 'go-original', 'proxy']
/** HAProxy is left out: its limit on connections is set for short requests. */
const STREAMING: readonly TargetName[] = ['direct', 'nginx', 'envoy', 'caddy', 'go-original', 'proxy']
/** Over TLS there is no going direct, whose client speaks plain HTTP. */
const OVER_TLS: readonly TargetName[] = ['nginx', 'envoy', 'caddy', 'go-original', 'proxy']
/** HAProxy and the Go original are left out: the one takes its certificate in another form, the other has no TLS. */
const CLIENTS_OVER_TLS: readonly TargetName[] = ['nginx', 'envoy', 'caddy', 'proxy']
/** The twin takes node:http's client over the same agents in place of our own, and is otherwise the same proxy. */
const BESIDE_THE_TWIN: readonly TargetName[] = ['nginx', 'twin', 'proxy']
/** Long bodies: enough to keep a core busy. */
const LONG_CONNECTIONS = 4
/** Of a fresh process: enough for its code to be compiled, not enough to make its heap large. */
const FRESH_CONNECTIONS = 8
/** A wave's streams last so long: most of it is their beginning. */
const WAVE_SECONDS = 5
/** After a start or a load, until memory has settled. */
const SETTLE_MS = 500

interface Busy {
  readonly work: PlainWork
  readonly warmUpRequests: number
  readonly connections?: number
  readonly targets?: readonly TargetName[]
  readonly tlsBackends?: true
  readonly tlsClients?: true
  /** A connection for each request; left out: kept connections. */
  readonly handshakes?: Handshake
}

/** As fast as it goes, over so many connections. */
function busy(id: string, title: string, options: Busy): Scenario {
  const { work, warmUpRequests, connections, targets = ALL, tlsBackends, tlsClients, handshakes } = options
  const how = handshakes === undefined ? {} : { handshakes }
  return {
    id,
    title,
    targets,
    ...(tlsBackends ? { tlsBackends } : {}),
    ...(tlsClients ? { tlsClients } : {}),
    process: 'kept',
    warmUp: (bench, target) =>
      measure(bench, target, id, {
        ...warming(bench, work, connections ?? bench.scale.connections, warmUpRequests),
        ...how,
      }),
    async run(bench, [target]) {
      const { scale } = bench
      const task = { ...closed(bench, work, connections ?? scale.connections, scale.seconds), ...how }
      const { cpuUs, requests, elapsedS } = await measure(bench, target, id, task)
      return work === 'burst'
        ? {
            cpu_us_per_event: cpuUs / (requests * EVENTS_PER_BURST),
            events_per_s: (requests * EVENTS_PER_BURST) / elapsedS,
          }
        : { cpu_us_per_request: cpuUs / requests, requests_per_s: requests / elapsedS }
    },
  }
}

/** Enough requests, one after the other, to meet each of two backends. */
const FIND_OUT = { kind: 'closed', work: 'chat', connections: 1, seconds: 5, requests: 10 } as const

const chat = busy('A', '1 KB chat', { work: 'chat', warmUpRequests: 20_000 })

const shortChat: Scenario = {
  ...chat,
  async run(bench, [target]) {
    const asFastAsItGoes = await chat.run(bench, [target])
    const { p50Us, p99Us, cpuUs, requests } = await measure(bench, target, 'A at a fixed rate', steady(bench))
    return { ...asFastAsItGoes, p50_us: p50Us, p99_us: p99Us, cpu_us_per_request_at_rate: cpuUs / requests }
  },
}

const openStreams: Scenario = {
  id: 'F',
  title: 'open slow streams',
  targets: STREAMING,
  process: 'fresh',
  async warmUp(bench, target) {
    await measure(bench, target, 'F', closed(bench, 'chat', FRESH_CONNECTIONS, 1))
    await sleep(SETTLE_MS)
  },
  run: (bench, [target]) => measureOpenStreams(bench, target),
}

/** A thousand streams that begin within a second: the delays meanwhile and afterwards. @param warm streams before it */
function wave(id: string, title: string, warm: number): Scenario {
  return {
    id,
    title,
    targets: STREAMING,
    process: 'fresh',
    async warmUp(bench, target) {
      await measure(bench, target, id, closed(bench, 'chat', FRESH_CONNECTIONS, 1))
      if (warm > 0)
        await measure(bench, target, id, { kind: 'slow', streams: Math.min(warm, bench.scale.streams), seconds: 1 })
      await sleep(SETTLE_MS)
    },
    async run(bench, [target]) {
      const { streams } = bench.scale
      const task = { kind: 'slow', streams, seconds: WAVE_SECONDS, beginOverMs: 1_000 } as const
      const { cpuUs, events, p50Us, p99Us, firstEventP50Us, errors } = await measure(bench, target, id, task)
      return {
        cpu_us_per_event: cpuUs / events,
        first_event_p50_us: firstEventP50Us,
        delay_p50_us: p50Us,
        delay_p99_us: p99Us,
        errors,
      }
    },
  }
}

const startUp: Scenario = {
  id: 'G',
  title: 'start and rest',
  targets: ['bare', 'nginx', 'proxy'],
  process: 'fresh',
  async run(_bench, [target]) {
    await sleep(SETTLE_MS)
    return { first_answer_ms: target.firstAnswerMs, idle_mb: idleMb(target) }
  },
}

const oneBad: Scenario = {
  id: 'H',
  title: 'one of two backends answers 500',
  targets: ['nginx', 'proxy'],
  process: 'fresh',
  secondBackend: true,
  warmUp: (bench, target) =>
    measure(bench, target, 'H', closed(bench, 'chat', FRESH_CONNECTIONS, bench.scale.warm.seconds)),
  async run(bench, [target]) {
    const { upstream } = bench
    const healthy = await measure(bench, target, 'H, both healthy', steady(bench))
    upstream.fail(true)
    try {
      await upstream.count()
      // Errors are this scenario's figure, hence not counted as wrong answers. One client finds out: what is already on
      // its way to a backend when it fails cannot be held back by anybody.
      const first = await bench.load.run(aimAt(FIND_OUT, target))
      const running = await bench.load.run(aimAt(steady(bench), target))
      const { askedSecond } = await upstream.count()
      return {
        client_errors: first.errors + running.errors,
        asked_the_bad_one: askedSecond,
        p50_us: running.p50Us,
        p50_healthy_us: healthy.p50Us,
        p50_against_healthy: running.p50Us / healthy.p50Us,
      }
    } finally {
      upstream.fail(false)
    }
  },
}

export const SCENARIOS: readonly Scenario[] = [
  shortChat,
  busy('B', '100 KB history', { work: 'history', warmUpRequests: 10_000 }),
  busy('C', '8 MB of images', { work: 'images', warmUpRequests: 200, connections: LONG_CONNECTIONS }),
  busy('D', '33 KB embeddings', { work: 'embeddings', warmUpRequests: 20_000 }),
  busy('E', '200-event streams', { work: 'burst', warmUpRequests: 4_000 }),
  openStreams,
  wave('V', '1,000 streams begin within a second, fresh process', 0),
  wave('VW', 'the same, after 200 streams', 200),
  busy('T', '1 KB chat, TLS to the backend, kept connections', {
    work: 'chat',
    warmUpRequests: 20_000,
    targets: OVER_TLS,
    tlsBackends: true,
  }),
  busy('TE', '200-event streams, TLS to the backend, records of 512 bytes', {
    work: 'burst',
    warmUpRequests: 4_000,
    targets: OVER_TLS,
    tlsBackends: true,
  }),
  busy('S', '1 KB chat, TLS to the client, kept connections', {
    work: 'chat',
    warmUpRequests: 20_000,
    targets: CLIENTS_OVER_TLS,
    tlsClients: true,
  }),
  busy('SE', '200-event streams, TLS to the client', {
    work: 'burst',
    warmUpRequests: 4_000,
    targets: CLIENTS_OVER_TLS,
    tlsClients: true,
  }),
  busy('SN', '1 KB chat, TLS to the client, a connection each', {
    work: 'chat',
    warmUpRequests: 4_000,
    targets: CLIENTS_OVER_TLS,
    tlsClients: true,
    handshakes: 'full',
  }),
  busy('SR', 'the same, resumed', {
    work: 'chat',
    warmUpRequests: 4_000,
    targets: CLIENTS_OVER_TLS,
    tlsClients: true,
    handshakes: 'resumed',
  }),
  busy('N', "1 KB chat with node:http's client", {
    work: 'chat',
    warmUpRequests: 20_000,
    targets: BESIDE_THE_TWIN,
  }),
  busy('NE', "200-event streams with node:http's client", {
    work: 'burst',
    warmUpRequests: 4_000,
    targets: BESIDE_THE_TWIN,
  }),
  busy('NT', "1 KB chat with node:http's client, TLS to the backend", {
    work: 'chat',
    warmUpRequests: 20_000,
    targets: BESIDE_THE_TWIN,
    tlsBackends: true,
  }),
  startUp,
  oneBad,
  twoWorkers,
]
