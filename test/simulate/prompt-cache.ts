// A simulation in virtual time: what each balancing policy leaves of Azure's prompt cache, and how evenly it spreads
// the load. The policies are the real ones; the backends are models of Azure's cache as azure/README.md 7.4 describes
// it.

import type { IncomingHttpHeaders } from 'node:http'
import { createHealthRegistry } from '../../lib/balancer/health.ts'
import { createPool, hashText, type Member } from '../../lib/balancer/pool.ts'
import { createWarmPlaces } from '../../lib/balancer/warm-places.ts'
import { scanJson } from '../../lib/body/json-scan.ts'
import { promptHash } from '../../lib/body/prompt-hash.ts'
import type { Clock } from '../../lib/clock.ts'
import type { BackendConfig, Balance, ModelConfig } from '../../lib/config/types.ts'
import { seededRandom } from '../fixtures/seeded-random.ts'

const MIN_TOKENS = 1024
const STEP_TOKENS = 128
const CHARS_PER_TOKEN = 4
/** Idle life of a cached prefix; Azure says 5 to 10 minutes. */
const IDLE_MS = 5 * 60_000

/** One deployment's cache: which prefixes it has seen, and when last. */
function createCache() {
  const lastUsedMs = new Map<number, number>()
  return {
    /** @returns the tokens of the prompt that were cached */
    ask(prefixes: readonly number[], nowMs: number): number {
      let cached = 0
      prefixes.forEach((prefix, i) => {
        const usedMs = lastUsedMs.get(prefix)
        if (usedMs !== undefined && nowMs - usedMs <= IDLE_MS) cached = MIN_TOKENS + i * STEP_TOKENS
        lastUsedMs.set(prefix, nowMs)
      })
      return cached
    },
  }
}

interface Request {
  readonly atMs: number
  readonly durationMs: number
  readonly tokens: number
  /** Identities of the prompt's beginnings, at 1,024 tokens and every 128 on. */
  readonly prefixes: readonly number[]
  readonly hash: number | undefined
}

/**
 * `conversations` keep about 90 requests in flight, `quiet` ones about 9: the fewer there are, the tighter the bound
 * binds. `agents` share one huge prompt; with `sessions` they name their conversation as opencode, Codex and Claude
 * Code do.
 */
export type Workload = 'conversations' | 'quiet' | 'agents' | 'sessions' | 'mix'

/** The headers by which one conversation is named, by client in turn. */
function sessionHeaders(conversation: number): IncomingHttpHeaders {
  const id = `ses_${conversation}`
  return (
    [
      { 'x-session-affinity': id, 'x-session-id': id },
      { 'session-id': id, 'thread-id': id },
      { 'x-claude-code-session-id': id },
    ][conversation % 3] ?? {}
  )
}

/**
 * A prompt as parts, each an identity and a length; prefixes are named by the parts they hold and where they are cut.
 */
function requestOf(
  shared: readonly { readonly id: string; readonly tokens: number; readonly role?: string }[],
  atMs: number,
  durationMs: number,
  headers: IncomingHttpHeaders = {},
): Request {
  const tokens = shared.reduce((sum, part) => sum + part.tokens, 0)
  const prefixes: number[] = []
  for (let length = MIN_TOKENS; length <= tokens; length += STEP_TOKENS) {
    // The last part that reaches into a prefix tells it apart, since parts are added at the end only.
    let left = length
    let last = ''
    for (const part of shared) {
      if (left <= 0) break
      last = part.id
      left -= part.tokens
    }
    prefixes.push(hashText(last) * 2 ** 20 + length)
  }
  // The proxy reads the first 4 KB and the first user message; bodies that long are enough here.
  const messages = shared.slice(0, 3).map(({ id, tokens: size, role = 'user' }) => {
    const chars = Math.min(size * CHARS_PER_TOKEN, 6_000)
    return { role, content: `${id} `.repeat(Math.ceil(chars / (id.length + 1))).slice(0, chars) }
  })
  const body = Buffer.from(JSON.stringify({ model: 'm', messages }))
  const scan = scanJson([body], new Set(['messages', 'prompt_cache_key', 'tools', 'instructions', 'input', 'prompt']))
  if (scan.kind === 'invalid') throw new Error(scan.reason)
  return { atMs, durationMs, tokens, prefixes, hash: promptHash([body], scan, headers) }
}

function conversations(random: () => number, count: number): Request[] {
  const requests: Request[] = []
  for (let c = 0; c < count; c++) {
    // A system prompt that all share, too short to be cached by itself, then what is each one's own.
    const shared: { id: string; tokens: number; role?: string }[] = [{ id: 'system', tokens: 300, role: 'system' }]
    let atMs = random() * 20 * 60_000
    for (let turn = 0; turn < 15; turn++) {
      shared.push({ id: `c${c}t${turn}`, tokens: 200 + Math.floor(random() * 800) })
      requests.push(requestOf(shared, atMs, 1_000 + random() * 9_000))
      atMs += 10_000 + random() * 80_000
    }
  }
  return requests
}

function agents(random: () => number, count: number, named = false): Request[] {
  const requests: Request[] = []
  for (let a = 0; a < count; a++) {
    const shared: { id: string; tokens: number; role?: string }[] = [
      { id: 'tools-and-instructions', tokens: 12_000, role: 'system' },
      { id: `task${a}`, tokens: 500 },
    ]
    let atMs = random() * 20 * 60_000
    for (let step = 0; step < 20; step++) {
      requests.push(requestOf(shared, atMs, 2_000 + random() * 6_000, named ? sessionHeaders(a) : {}))
      shared.push({ id: `a${a}s${step}`, tokens: 300 + Math.floor(random() * 500) })
      atMs += 8_000 + random() * 10_000
    }
  }
  return requests
}

/** The requests of a workload, in order of time. */
export function workload(kind: Workload, seed: number): Request[] {
  const random = seededRandom(seed)
  const requests =
    kind === 'conversations' || kind === 'quiet'
      ? conversations(random, kind === 'quiet' ? 200 : 2_000)
      : kind === 'agents' || kind === 'sessions'
        ? agents(random, 100, kind === 'sessions')
        : [...conversations(random, 120), ...agents(random, 50)]
  return requests.sort((a, b) => a.atMs - b.atMs)
}

export interface Measured {
  /** Cached tokens as a share of all prompt tokens. */
  readonly cachedShare: number
  readonly cachedTokens: number
  /** The busiest backend's requests as a multiple of its fair share, over the whole run. */
  readonly unevenness: number
  /**
   * The requests in flight at any backend, on average over five minutes, as a multiple of its share. It is the most of
   * all five minutes in which there was anything to spread.
   */
  readonly worstFiveMinutes: number
  /** The most that any backend ever had in flight beyond 1.25 × its share at that moment. */
  readonly overBound: number
}

function backend(index: number): BackendConfig {
  return {
    name: `b${index}`,
    type: 'azure',
    endpoint: {
      protocol: 'https:',
      hostname: `b${index}`,
      port: 443,
      host: `b${index}`,
      basePath: '',
      url: `https://b${index}`,
    },
    credential: { kind: 'none' },
    deployment: 'm',
    apiVersion: 'v1',
    weight: 1,
    priority: 1,
    maxInFlight: undefined,
    headers: [],
  }
}

/** One process's part: its pool over `backends` equal backends, and what it tells the other processes. */
function createWorker(balance: Balance, backends: number, clock: Clock, random: () => number) {
  const healthRegistry = createHealthRegistry({ clock, recoveryMs: () => 30_000 })
  const model: ModelConfig = {
    name: 'm',
    aliases: [],
    balance,
    timeoutMs: 1,
    firstOutputTimeoutMs: 1,
    streamUsage: false,
    stripForeignReasoning: false,
    backends: Array.from({ length: backends }, (_, i) => backend(i)),
  }
  const members = model.backends.map((config): Member => {
    const health = healthRegistry.of(config.endpoint.url)
    return {
      backend: config,
      health,
      resourceId: config.name,
      weight: 1,
      hashSeed: hashText(health.id),
      get inFlight() {
        return health.inFlight
      },
    }
  })
  const warmPlaces = createWarmPlaces(clock)
  const pool = createPool({ model, members, health: healthRegistry, clock, random, retryBudget: 0.2, warmPlaces })
  return { pool, warmPlaces }
}

/** What every backend had in flight, minute by minute. */
function createLoadRecord(backends: number) {
  const minutes: number[][] = []
  let untilMs = 0
  return {
    /** These were in flight from the last call until `nowMs`. */
    note(inFlight: readonly number[], nowMs: number) {
      while (untilMs < nowMs) {
        const minute = Math.floor(untilMs / 60_000)
        const endMs = Math.min(nowMs, (minute + 1) * 60_000)
        minutes[minute] ??= new Array<number>(backends).fill(0)
        const sums = minutes[minute]
        inFlight.forEach((count, i) => {
          sums[i] = (sums[i] ?? 0) + count * (endMs - untilMs)
        })
        untilMs = endMs
      }
    },
    /** Five minutes with less than one request in flight for each backend say nothing. */
    worstFiveMinutes(): number {
      let worst = 0
      for (let start = 0; start + 5 <= minutes.length; start++) {
        const sums = new Array<number>(backends).fill(0)
        for (const minute of minutes.slice(start, start + 5)) {
          minute.forEach((sum, i) => {
            sums[i] = (sums[i] ?? 0) + sum
          })
        }
        const share = sums.reduce((all, sum) => all + sum, 0) / backends
        if (share > 5 * 60_000) worst = Math.max(worst, Math.max(...sums) / share)
      }
      return worst
    },
  }
}

/**
 * Runs a workload over `backends` equal backends in virtual time.
 * @param workers processes among which requests fall by chance; each sees its own in flight and hears of the others'
 * places
 */
export function simulate(
  requests: readonly Request[],
  balance: Balance,
  backends: number,
  seed: number,
  workers = 1,
): Measured {
  let nowMs = 0
  const clock: Clock = {
    nowMs: () => nowMs,
    epochMs: () => nowMs,
    after: () => ({ cancel: () => undefined }),
    every: () => ({ cancel: () => undefined }),
  }
  const random = seededRandom(seed)
  const all = Array.from({ length: workers }, () => createWorker(balance, backends, clock, random))
  for (const worker of all) {
    worker.warmPlaces.onUse((key, place) => {
      for (const other of all) if (other !== worker) other.warmPlaces.adopt(key, place)
    })
  }
  const caches = Array.from({ length: backends }, createCache)
  const served = new Array<number>(backends).fill(0)
  const load = createLoadRecord(backends)
  const ends: { atMs: number; end: () => void }[] = []
  const inFlight = new Array<number>(backends).fill(0)
  let tokens = 0
  let cachedTokens = 0
  let overBound = 0

  for (const request of requests) {
    ends.sort((a, b) => a.atMs - b.atMs)
    while (ends[0] !== undefined && ends[0].atMs <= request.atMs) {
      nowMs = ends[0].atMs
      load.note(inFlight, nowMs)
      ends.shift()?.end()
    }
    nowMs = request.atMs
    load.note(inFlight, nowMs)
    const worker = all[workers === 1 ? 0 : Math.floor(random() * workers)]
    if (worker === undefined) throw new Error('no worker')
    const picker = worker.pool.picker(request.hash === undefined ? {} : { promptHash: request.hash })
    const pick = picker.pick()
    if (pick.kind !== 'lease') throw new Error(`nobody took a request: ${pick.kind}`)
    const { member, lease } = pick
    const at = worker.pool.members.indexOf(member)
    inFlight[at] = (inFlight[at] ?? 0) + 1
    ends.push({
      atMs: nowMs + request.durationMs,
      end() {
        lease.release({ kind: 'healthy' })
        picker.end()
        inFlight[at] = (inFlight[at] ?? 0) - 1
      },
    })
    tokens += request.tokens
    cachedTokens += caches[at]?.ask(request.prefixes, nowMs) ?? 0
    served[at] = (served[at] ?? 0) + 1
    const share = inFlight.reduce((sum, count) => sum + count, 0) / backends
    overBound = Math.max(overBound, (inFlight[at] ?? 0) - 1.25 * share)
  }
  return {
    cachedShare: cachedTokens / tokens,
    cachedTokens,
    unevenness: Math.max(...served) / (requests.length / backends),
    worstFiveMinutes: load.worstFiveMinutes(),
    overBound,
  }
}

/** How each row is run: the policy, and among how many processes. */
const RUNS: readonly { readonly policy: Balance; readonly workers: number }[] = [
  { policy: 'round_robin', workers: 1 },
  { policy: 'least_busy', workers: 1 },
  { policy: 'prompt_cache', workers: 1 },
  { policy: 'prompt_cache', workers: 4 },
]
const SIZES = [2, 4, 8] as const

/** The table that `make simulate` prints. */
export function table(seed: number): string {
  const percent = (share: number): string => `${(share * 100).toFixed(1)} %`.padStart(8)
  const lines = [
    'workload       policy        workers  backends  cached    of one    busiest ÷ share: whole run, worst 5 minutes',
  ]
  for (const kind of ['conversations', 'quiet', 'agents', 'sessions', 'mix'] as const) {
    const requests = workload(kind, seed)
    const alone = simulate(requests, 'round_robin', 1, seed)
    for (const { policy, workers } of RUNS) {
      for (const size of SIZES) {
        const ran = simulate(requests, policy, size, seed, workers)
        const row = `${kind.padEnd(14)} ${policy.padEnd(14)} ${String(workers).padStart(6)} ${String(size).padStart(9)}`
        const cached = `${percent(ran.cachedShare)}  ${percent(ran.cachedTokens / alone.cachedTokens)}`
        lines.push(
          `${row}  ${cached}  ${ran.unevenness.toFixed(2).padStart(20)}${ran.worstFiveMinutes.toFixed(2).padStart(12)}`,
        )
      }
    }
  }
  return lines.join('\n')
}
