// A stage for the live status page: two models, a quarter of an hour of traffic behind them, and faults that a test asks for.
// The server, the healthRegistry and the windows are the proxy's own; only the traffic is told, as its clock can be moved.
import { startDashboard } from '../../dist/test/fixtures/dashboard-server.js'

const QUARTER_MS = 15 * 60_000

/** The system's clock, moved by `skewMs`. */
function movableClock() {
  const clock = {
    skewMs: 0,
    stalled: false,
    nowMs: () => performance.now() + clock.skewMs,
    epochMs: () => Date.now() + clock.skewMs,
    after(ms, run) {
      const handle = setTimeout(run, ms).unref()
      return { cancel: () => clearTimeout(handle) }
    },
    every(ms, run) {
      const handle = setInterval(() => {
        if (!clock.stalled) run()
      }, ms).unref()
      return { cancel: () => clearInterval(handle) }
    },
  }
  return clock
}

/** Chance that is the same on each run (mulberry32). */
function seeded(seed) {
  let state = seed
  return () => {
    state = (state + 0x6d2b79f5) | 0
    let t = Math.imul(state ^ (state >>> 15), 1 | state)
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32
  }
}

export const PLACES = [
  { model: 'gpt-4o', backend: 'eastus2-ptu', tier: 1, weight: 4, base: 210, perSecond: 5.2, cached: 0.62 },
  { model: 'gpt-4o', backend: 'swedencentral', tier: 2, weight: 2, base: 420, perSecond: 1.6, cached: 0.31 },
  { model: 'gpt-4o', backend: 'westeurope', tier: 2, weight: 1, base: 530, perSecond: 0.8, cached: 0.28 },
  { model: 'text-embedding-3-small', backend: 'eastus2', tier: 1, weight: 1, base: 48, perSecond: 3.1, cached: 0 },
  { model: 'text-embedding-3-small', backend: 'northeurope', tier: 1, weight: 1, base: 75, perSecond: 2.7, cached: 0 },
]
const KEYS = ['webshop', 'support-bot', 'data-team']

function requestOf(place, random, n, over = {}) {
  const chat = place.model === 'gpt-4o'
  const prompt = Math.round(chat ? 300 + 2400 * random() : 40 + 300 * random())
  const ttfb = Math.round(place.base * (0.7 + 0.8 * random() ** 3))
  return {
    time_ms: 0,
    id: `req-${n}`,
    key: KEYS[Math.floor(random() * KEYS.length)],
    method: 'POST',
    path: chat ? '/v1/chat/completions' : '/v1/embeddings',
    model: place.model,
    backend: place.backend,
    status: 200,
    attempts: 1,
    duration_ms: chat ? ttfb + Math.round(600 + 5200 * random()) : ttfb,
    ttfb_ms: ttfb,
    prompt_tokens: prompt,
    completion_tokens: chat ? Math.round(40 + 500 * random()) : null,
    cached_tokens: place.cached === 0 ? null : Math.round(prompt * place.cached * (0.6 + 0.6 * random())),
    stream: chat && random() < 0.7,
    error: null,
    ...over,
  }
}

/**
 * Starts the stage.
 * @param places left out: two models with five backends
 * @param quiet without traffic in the past
 * @param unasked no probe has met a backend
 * @param history what happened how many seconds ago: lists of functions of the stage
 */
export async function openStage({ places = PLACES, quiet = false, unasked = false, port = 0, history = {} } = {}) {
  const clock = movableClock()
  const random = seeded(7)
  clock.skewMs = -QUARTER_MS
  const server = await startDashboard({ clock, places, port })
  if (!unasked) server.probeAll()
  let requests = 0

  const serve = (place, over = {}, outcome = 'served') => {
    const entry = { ...requestOf(place, random, ++requests, over), time_ms: clock.epochMs() }
    server.status.attemptDone({ ...place, outcome, ttfbMs: outcome === 'served' ? entry.ttfb_ms : undefined })
    server.status.requestDone(entry)
  }
  const available = place => {
    const health = server.health(place.model, place.backend)
    return health.state.phase.kind === 'in' && health.state.throttle.untilMs <= clock.nowMs()
  }
  const second = wave => {
    for (const place of places) {
      if (!available(place)) continue
      const wanted = (place.perSecond ?? 1) * wave
      const count = Math.floor(wanted) + (random() < wanted % 1 ? 1 : 0)
      for (let i = 0; i < count; i++)
        serve(place, random() < 0.004 ? { status: 400, error: 'invalid_request', completion_tokens: null } : {})
    }
  }
  let traffic
  const lease = (model, backend) => server.healthRegistry.lease(server.health(model, backend))
  const place = (model, backend) => places.find(known => known.model === model && known.backend === backend)
  const stage = {
    ...server,
    clock,
    serve: (model, backend, over, outcome) => serve(place(model, backend), over, outcome),
    /** A backend answers 503 and is out for a while. */
    fail(model, backend, { reason = 'server_error', detail = '503', holdMs } = {}) {
      server.status.attemptDone({ model, backend, outcome: 'failed', ttfbMs: undefined })
      const hold = holdMs === undefined ? {} : { holdMs }
      lease(model, backend).release({ kind: 'failed', reason, detail, suspect: 'no', timeout: false, ...hold })
    },
    throttle(model, backend, waitMs) {
      server.status.attemptDone({ model, backend, outcome: 'throttled', ttfbMs: undefined })
      lease(model, backend).release({ kind: 'throttled', waitMs })
    },
    /** The backend answers: its trial has passed. */
    answer(model, backend) {
      lease(model, backend).release({ kind: 'healthy' })
    },
    /** In flight until the test ends. */
    hold(model, backend, count) {
      for (let i = 0; i < count; i++) lease(model, backend)
    },
    /** The proxy says nothing more, though its sockets stay open: as when its process hangs. */
    stall() {
      clock.stalled = true
    },
    startTraffic() {
      traffic = setInterval(() => second(1), 1_000)
    },
    async close() {
      clearInterval(traffic)
      await server.close()
    },
  }

  if (!quiet) {
    for (let s = 0; s < QUARTER_MS / 1_000; s++) {
      clock.skewMs = -QUARTER_MS + s * 1_000
      for (const act of history[QUARTER_MS / 1_000 - s] ?? []) act(stage)
      second(0.75 + 0.35 * Math.sin(s / 95) + 0.2 * random())
    }
  }
  clock.skewMs = 0
  if (!quiet) {
    for (const { model, backend } of places) {
      const chat = model === 'gpt-4o'
      const left = 0.35 + 0.6 * random()
      server.healthRegistry.noteHeadroom(
        server.health(model, backend),
        {
          limitRequests: chat ? 3_000 : 6_000,
          remainingRequests: Math.round((chat ? 3_000 : 6_000) * left),
          limitTokens: chat ? 600_000 : 1_000_000,
          remainingTokens: Math.round((chat ? 600_000 : 1_000_000) * left * 0.8),
        },
        0,
      )
    }
  }
  return stage
}
