// A simulation in virtual time: what each balancing policy leaves of Azure's prompt cache, and how evenly it spreads
// the load. The policies are the real ones; the backends are models of Azure's cache as azure/README.md 7.4 describes
// it.

import type { IncomingHttpHeaders } from 'node:http'
import { createHealthRegistry } from '../../lib/balancer/health.ts'
import { createPool, hashText, type Member } from '../../lib/balancer/pool.ts'
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
  const lastUsedMs = new Map<string, number>()
  return {
    /** @returns the tokens of the prompt that were cached */
    ask(prefixes: readonly string[], nowMs: number): number {
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
  readonly prefixes: readonly string[]
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
  const prefixes: string[] = []
  for (let length = MIN_TOKENS; length <= tokens; length += STEP_TOKENS) {
    // The last part that reaches into a prefix tells it apart, since parts are added at the end only.
    let left = length
    let last = ''
    for (const part of shared) {
      if (left <= 0) break
      last = part.id
      left -= part.tokens
    }
    prefixes.push(`${last}@${length}`)
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
   * The most that any backend ever had in flight beyond 1.25 × its share at that moment; one is what the bound allows.
   */
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

/** Runs a workload over `backends` equal backends in virtual time. */
export function simulate(requests: readonly Request[], balance: Balance, backends: number, seed: number): Measured {
  let nowMs = 0
  const clock: Clock = {
    nowMs: () => nowMs,
    epochMs: () => nowMs,
    after: () => ({ cancel: () => undefined }),
    every: () => ({ cancel: () => undefined }),
  }
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
      credit: 0,
      get inFlight() {
        return health.inFlight
      },
    }
  })
  const pool = createPool({
    model,
    members,
    health: healthRegistry,
    clock,
    random: seededRandom(seed),
    retryBudget: 0.2,
  })
  const caches = new Map(members.map(member => [member, createCache()]))
  const served = new Map<Member, number>()
  const ends: { atMs: number; end: () => void }[] = []
  let tokens = 0
  let cachedTokens = 0
  let overBound = 0

  for (const request of requests) {
    nowMs = request.atMs
    ends.sort((a, b) => a.atMs - b.atMs)
    while (ends[0] !== undefined && ends[0].atMs <= nowMs) ends.shift()?.end()
    const picker = pool.picker(request.hash === undefined ? {} : { promptHash: request.hash })
    const pick = picker.pick()
    if (pick.kind !== 'lease') throw new Error(`nobody took a request: ${pick.kind}`)
    const { member, lease } = pick
    ends.push({
      atMs: nowMs + request.durationMs,
      end() {
        lease.release({ kind: 'healthy' })
        picker.end()
      },
    })
    tokens += request.tokens
    cachedTokens += caches.get(member)?.ask(request.prefixes, nowMs) ?? 0
    served.set(member, (served.get(member) ?? 0) + 1)
    const inFlight = members.reduce((sum, { health }) => sum + health.inFlight, 0)
    overBound = Math.max(overBound, member.health.inFlight - (1.25 * inFlight) / backends)
  }
  const most = Math.max(...served.values())
  return {
    cachedShare: cachedTokens / tokens,
    cachedTokens,
    unevenness: most / (requests.length / backends),
    overBound,
  }
}

const POLICIES: readonly Balance[] = ['round_robin', 'least_busy', 'prompt_cache']
const SIZES = [2, 4, 8] as const

/** The table that `make simulate` prints. */
export function table(seed: number): string {
  const percent = (share: number): string => `${(share * 100).toFixed(1)} %`.padStart(8)
  const lines = ['workload       policy         backends  cached    of one    busiest ÷ share']
  for (const kind of ['conversations', 'quiet', 'agents', 'sessions', 'mix'] as const) {
    const requests = workload(kind, seed)
    const alone = simulate(requests, 'round_robin', 1, seed)
    for (const policy of POLICIES) {
      for (const size of SIZES) {
        const { cachedShare, cachedTokens, unevenness } = simulate(requests, policy, size, seed)
        lines.push(
          `${kind.padEnd(14)} ${policy.padEnd(14)} ${String(size).padStart(8)}  ${percent(cachedShare)}  ${percent(cachedTokens / alone.cachedTokens)}  ${unevenness.toFixed(2)}`,
        )
      }
    }
  }
  return lines.join('\n')
}
