// A world as data: what there is, and everything that will happen to it, drawn from one seed. Nothing is drawn later,
// so that an event can be taken out without changing the others; that is how a failing world is shrunk.
import type { Random } from '../../lib/clock.ts'
import type { Balance } from '../../lib/config/types.ts'
import { seededRandom } from '../fixtures/seeded-random.ts'
import { withTheme } from './themes.ts'

/** How a backend says how long to wait; `words` and `negative` say nothing that can be read. */
export type WaitForm = 'retry-after-ms' | 'retry-after' | 'date' | 'reset' | 'none' | 'words' | 'negative'

/** Where a stream breaks off, and how. */
export type StreamBreak =
  | 'before_output'
  | 'error_event'
  | 'after_output'
  | 'no_end'
  | 'silent_before_output'
  | 'silent_after_output'

/** What is wrong with a backend, or with the way to it. */
export type Trouble =
  /** The connection cannot be made: node's error code. */
  | { readonly kind: 'unconnectable'; readonly code: string }
  /** No packet comes back. */
  | { readonly kind: 'black_hole' }
  /** Not the backend: this process has no descriptor, port or resolver left. */
  | { readonly kind: 'own_shortage'; readonly code: string }
  | { readonly kind: 'hang' }
  | { readonly kind: 'reset' }
  | { readonly kind: 'close' }
  | { readonly kind: 'garbage' }
  | { readonly kind: 'status'; readonly status: number; readonly form: ErrorForm; readonly wait: Wait | undefined }
  | { readonly kind: 'web_page'; readonly status: number }
  | { readonly kind: 'error_object' }
  | { readonly kind: 'oversized_error' }
  | { readonly kind: 'stream'; readonly break: StreamBreak }
  /** Long answers, but in time. */
  | { readonly kind: 'slow'; readonly moreMs: number }
  /** Answers come in pieces with pauses between; nothing is wrong with them. */
  | { readonly kind: 'halting'; readonly gapMs: number }
  /** The last event of a stream lacks the blank line at its end. */
  | { readonly kind: 'bare_end' }
  /** 421 on a connection that was used before, as where a certificate serves several hosts; fresh ones serve. */
  | { readonly kind: 'misdirected' }
  /** A deploy: open connections end, new ones are refused meanwhile. */
  | { readonly kind: 'restart' }
  /** The name leads to another address from now on; the old one resets what still comes. Lasts for a moment only. */
  | { readonly kind: 'moved' }

export interface Wait {
  readonly form: WaitForm
  readonly ms: number
}

/** Whose error it looks like. */
export type ErrorForm = 'azure' | 'apim' | 'openai' | 'gateway' | 'deployment_missing' | 'not_supported' | 'firewall'

/** Which requests a trouble is about. */
export type Scope = 'all' | 'requests' | 'probes'

export interface BackendPlan {
  readonly name: string
  /** Its resource: two deployments may share one. */
  readonly host: string
  readonly deployment: string
  readonly apiVersion: string
  readonly weight: number
  readonly priority: number
  readonly serviceMs: number
  /** The most requests in flight that each process of the proxy may have there. */
  readonly maxInFlight: number | undefined
  /** Admits so many requests a second, with this burst; refuses the others with a 429. */
  readonly bucket: { readonly perSecond: number; readonly burst: number; readonly form: WaitForm } | undefined
  /** It takes tokens of an issuer in place of a key. */
  readonly takesTokens?: boolean
}

export interface Settings {
  readonly balance: Balance
  readonly maxAttempts: number
  readonly timeoutMs: number
  readonly connectTimeoutMs: number
  readonly firstOutputTimeoutMs: number
  readonly streamHoldMs: number
  readonly idleTimeoutMs: number
  readonly maxWaitMs: number
  readonly keepaliveMs: number
  readonly recoveryMs: number
  readonly probes: boolean
  readonly intervalMs: number
  readonly probeTimeoutMs: number
  readonly streamUsage: boolean
}

export type RequestForm = 'chat' | 'stream' | 'embeddings' | 'create' | 'create_stream' | 'follow_up' | 'read'
export type KeyName = 'good' | 'hostile' | 'limited'

export interface RequestEvent {
  readonly kind: 'request'
  readonly atMs: number
  readonly id: string
  readonly key: KeyName
  readonly form: RequestForm
  /** Its connection: one at a time, kept for the next request of that number. */
  readonly connection: number
  /** The process its connection goes to, where it has to be made. */
  readonly process: number
  /** What it does to the backend that gets it. */
  readonly poison: Trouble | undefined
  /** The request that made the response which it continues or reads. */
  readonly about: string | undefined
  readonly leavesAfterMs: number | undefined
  /** Stops reading for so long after the first byte. */
  readonly stallMs: number | undefined
  /** Factor on the backend's service time. */
  readonly effort: number
  /** Events with output, or sentences. */
  readonly pieces: number
}

export interface TroubleEvent {
  readonly kind: 'trouble'
  readonly atMs: number
  readonly forMs: number
  readonly backend: number
  readonly scope: Scope
  readonly trouble: Trouble
}

export type PlanEvent =
  | RequestEvent
  | TroubleEvent
  /** The issuer of tokens answers with errors that pass. */
  | { readonly kind: 'issuer_fails'; readonly atMs: number; readonly forMs: number }
  /** All tokens that were given out until now are refused from now on. */
  | { readonly kind: 'revoke'; readonly atMs: number }
  | { readonly kind: 'freeze'; readonly atMs: number; readonly forMs: number; readonly process: number }
  | { readonly kind: 'eject' | 'restore'; readonly atMs: number; readonly backend: number; readonly process: number }
  /** `without`: a backend that the new config does not have; undefined: all of them, one weight changed. */
  | { readonly kind: 'reload'; readonly atMs: number; readonly without: number | undefined }
  /** `isPortTaken`: the process that takes its place cannot listen at first. */
  | { readonly kind: 'kill'; readonly atMs: number; readonly process: number; readonly isPortTaken?: boolean }

export interface WorldPlan {
  readonly seed: number
  readonly processes: number
  /** Of a message between two processes, in milliseconds. */
  readonly messageMs: number
  readonly settings: Settings
  readonly backends: readonly BackendPlan[]
  readonly events: readonly PlanEvent[]
  /** From here on nothing goes wrong any more. */
  readonly calmMs: number
}

/** Draws from a seed. */
export interface Dice {
  readonly random: Random
  chance(share: number): boolean
  between(min: number, max: number): number
  one<T>(items: readonly [T, ...T[]]): T
}

function diceFor(seed: number): Dice {
  const random = seededRandom(seed * 2_654_435_761)
  return {
    random,
    chance: share => random() < share,
    between: (min, max) => Math.floor(min + random() * (max - min + 1)),
    one: items => items[Math.floor(random() * items.length)] ?? items[0],
  }
}

const UNCONNECTABLE = [
  'ECONNREFUSED',
  'EHOSTUNREACH',
  'ENETUNREACH',
  'ENOTFOUND',
  'CERT_HAS_EXPIRED',
  'EPROTO',
] as const
const SHORTAGES = ['EMFILE', 'EADDRNOTAVAIL', 'EAI_AGAIN', 'ENOBUFS'] as const
const SERVER_ERRORS = [500, 500, 502, 503, 504, 520, 529] as const

function drawWait({ chance, one, between }: Dice): Wait | undefined {
  if (!chance(0.5)) return undefined
  return { form: one(['retry-after-ms', 'retry-after', 'date']), ms: between(1, 6) * 1000 }
}

/** Credentials, account, network rules; and what a 403 can mean besides: a quota, a firewall's page. */
export function drawRefusal({ one, between, chance }: Dice): Trouble {
  const status = one([401, 402, 403, 403, 407])
  if (status !== 403 || chance(0.4)) return { kind: 'status', status, form: one(['azure', 'apim']), wait: undefined }
  if (chance(0.5)) return { kind: 'status', status, form: 'firewall', wait: undefined }
  return { kind: 'status', status, form: 'azure', wait: { form: 'retry-after', ms: between(1, 8) * 1000 } }
}

/** A trouble of a backend, which any request meets there. */
function drawTrouble(dice: Dice): Trouble {
  const { one, between, chance } = dice
  switch (between(0, 15)) {
    case 0:
      return { kind: 'unconnectable', code: one(UNCONNECTABLE) }
    case 1:
      return { kind: 'black_hole' }
    case 2:
      return { kind: 'own_shortage', code: one(SHORTAGES) }
    case 3:
      return { kind: 'hang' }
    case 4:
      return chance(0.5) ? { kind: 'reset' } : { kind: 'close' }
    case 5:
      return { kind: 'garbage' }
    case 6:
    case 7:
      return {
        kind: 'status',
        status: one(SERVER_ERRORS),
        form: one(['azure', 'apim', 'gateway']),
        wait: drawWait(dice),
      }
    case 8:
      return {
        kind: 'status',
        status: 429,
        form: one(['azure', 'openai', 'apim']),
        wait: { form: one(['retry-after-ms', 'retry-after', 'date', 'reset', 'none']), ms: between(1, 8) * 500 },
      }
    case 9:
      return drawRefusal(dice)
    case 10:
      return chance(0.5)
        ? { kind: 'status', status: 404, form: 'deployment_missing', wait: undefined }
        : { kind: 'status', status: 400, form: 'not_supported', wait: undefined }
    case 11:
      return chance(0.5) ? { kind: 'web_page', status: one([200, 302, 404]) } : { kind: 'error_object' }
    case 12:
      return chance(0.3)
        ? { kind: 'misdirected' }
        : { kind: 'status', status: one([408, 421]), form: 'azure', wait: undefined }
    case 13:
      return {
        kind: 'stream',
        break: one([
          'before_output',
          'error_event',
          'after_output',
          'no_end',
          'silent_before_output',
          'silent_after_output',
        ]),
      }
    case 14:
      return { kind: 'slow', moreMs: between(100, 1200) }
    default:
      return chance(0.5) ? { kind: 'restart' } : { kind: 'moved' }
  }
}

/** A trouble that a request takes with it wherever it goes. */
function drawPoison({ between, one, chance }: Dice): Trouble {
  switch (between(0, 7)) {
    case 0:
      return { kind: 'status', status: one([500, 503, 502]), form: 'azure', wait: undefined }
    case 1:
      return { kind: 'reset' }
    case 2:
      return { kind: 'close' }
    case 3:
      return { kind: 'status', status: 403, form: 'firewall', wait: undefined }
    case 4:
      return { kind: 'oversized_error' }
    case 5:
      return { kind: 'stream', break: one(['error_event', 'before_output']) }
    case 6:
      return { kind: 'hang' }
    default:
      return chance(0.5)
        ? { kind: 'status', status: 401, form: 'azure', wait: undefined }
        : { kind: 'status', status: 404, form: 'deployment_missing', wait: undefined }
  }
}

function drawSettings({ one, between, chance }: Dice): Settings {
  return {
    balance: one(['round_robin', 'round_robin', 'round_robin', 'least_busy', 'prompt_cache']),
    maxAttempts: one([2, 3, 3, 3, 4]),
    timeoutMs: between(2, 4) * 1000,
    connectTimeoutMs: between(5, 10) * 100,
    firstOutputTimeoutMs: between(2, 3) * 1000,
    streamHoldMs: 500,
    idleTimeoutMs: 3_000,
    maxWaitMs: chance(0.4) ? between(2, 12) * 1000 : 0,
    keepaliveMs: one([0, 500, 2_000]),
    recoveryMs: between(2, 6) * 1000,
    probes: chance(0.8),
    intervalMs: between(2, 6) * 1000,
    probeTimeoutMs: between(5, 10) * 100,
    streamUsage: chance(0.3),
  }
}

function drawBackends({ one, between, chance }: Dice): readonly BackendPlan[] {
  const count = one([1, 2, 2, 3, 3, 4])
  const tiers = chance(0.35) ? 2 : 1
  const weighted = chance(0.4)
  const throttling = chance(0.35)
  const shared = count > 2 && chance(0.2)
  const service = between(5, 120)
  return Array.from({ length: count }, (_, i): BackendPlan => {
    const host = shared && i === 1 ? 'r0.test' : `r${i}.test`
    return {
      name: `b${i}`,
      host,
      deployment: `d${i}`,
      apiVersion: one(['v1', '2024-10-21']),
      weight: weighted ? between(1, 3) : 1,
      priority: tiers === 2 && i > 0 ? between(1, 2) : 1,
      serviceMs: chance(0.7) ? service : between(5, 600),
      maxInFlight: undefined,
      bucket:
        throttling && chance(0.7)
          ? { perSecond: between(1, 5), burst: between(1, 4), form: one(['retry-after-ms', 'retry-after', 'reset']) }
          : undefined,
    }
  })
}

function drawRequest(
  dice: Dice,
  index: number,
  atMs: number,
  processes: number,
  created: readonly RequestEvent[],
): RequestEvent {
  const { one, between, chance, random } = dice
  const hostile = chance(0.12)
  const about = created.length > 0 ? created[Math.floor(random() * created.length)] : undefined
  const forms: readonly [RequestForm, ...RequestForm[]] =
    about === undefined
      ? ['chat', 'chat', 'stream', 'stream', 'create', 'create_stream', 'embeddings']
      : ['chat', 'chat', 'stream', 'stream', 'create', 'follow_up', 'follow_up', 'read']
  const form: RequestForm = hostile ? one<RequestForm>(['chat', 'stream']) : one(forms)
  const isAbout = about !== undefined && (form === 'follow_up' || form === 'read')
  return {
    kind: 'request',
    atMs,
    id: `q${index}`,
    // Only the key that made a response may go on from it.
    key: isAbout ? about.key : hostile ? 'hostile' : chance(0.1) ? 'limited' : 'good',
    form,
    connection: chance(0.6) ? between(0, 3) : 1000 + index,
    process: between(0, processes - 1),
    poison: hostile ? drawPoison(dice) : undefined,
    about: isAbout ? about.id : undefined,
    leavesAfterMs: chance(0.08) ? between(0, 800) : undefined,
    stallMs: chance(0.05) ? one([300, 1_500, 5_000]) : undefined,
    effort: chance(0.1) ? between(2, 8) : 1,
    pieces: between(1, 5),
  }
}

/** The troubles of a world: none, one backend's, or anybody's. */
function drawTroubles(dice: Dice, backends: number, spanMs: number): readonly TroubleEvent[] {
  const { one, between, chance } = dice
  const count = one([0, 1, 1, 2, 3, 4])
  const only = chance(0.4) ? between(0, backends - 1) : undefined
  return Array.from({ length: count }, (): TroubleEvent => {
    const trouble = drawTrouble(dice)
    const brief = trouble.kind === 'moved'
    const connects = trouble.kind === 'unconnectable' || trouble.kind === 'black_hole' || trouble.kind === 'restart'
    return {
      kind: 'trouble',
      atMs: STARTED_MS + between(0, spanMs),
      forMs: brief ? 0 : one([50, 300, 1_000, 3_000, 8_000]),
      backend: only ?? between(0, backends - 1),
      scope: connects || brief ? 'all' : one(['all', 'requests', 'requests', 'probes']),
      trouble,
    }
  })
}

/** What operators and the machine do. */
function drawOthers(dice: Dice, backends: number, processes: number, spanMs: number): readonly PlanEvent[] {
  const { between, chance } = dice
  const events: PlanEvent[] = []
  const process = (): number => between(0, processes - 1)
  if (chance(0.15)) {
    const backend = between(0, backends - 1)
    const atMs = STARTED_MS + between(0, spanMs)
    events.push({ kind: 'eject', atMs, backend, process: process() })
    // The second word may be said before the process that it is said to has heard of the first.
    events.push({ kind: 'restore', atMs: atMs + between(1, chance(0.5) ? 100 : 4_000), backend, process: process() })
  } else if (chance(0.1)) {
    events.push({
      kind: 'restore',
      atMs: STARTED_MS + between(0, spanMs),
      backend: between(0, backends - 1),
      process: process(),
    })
  }
  if (chance(0.1)) {
    const without = backends > 1 && chance(0.4) ? between(0, backends - 1) : undefined
    const atMs = STARTED_MS + between(0, spanMs)
    events.push({ kind: 'reload', atMs, without })
    if (without !== undefined) events.push({ kind: 'reload', atMs: atMs + between(1, 3_000), without: undefined })
  }
  if (chance(0.1))
    events.push({
      kind: 'freeze',
      atMs: STARTED_MS + between(0, spanMs),
      forMs: between(100, 4_000),
      process: process(),
    })
  if (processes > 1 && chance(0.4)) {
    events.push({ kind: 'kill', atMs: STARTED_MS + between(0, spanMs), process: process() })
  }
  return events
}

/** By then the workers of a proxy with several serve. */
const STARTED_MS = 250

/** All of a world, from its seed. */
export function drawPlan(seed: number): WorldPlan {
  const dice = diceFor(seed)
  const { one, between, chance } = dice
  const settings = drawSettings(dice)
  const backends = drawBackends(dice)
  const processes = one([1, 1, 1, 1, 2, 3])
  const spanMs = between(4, 14) * 1000
  const events: PlanEvent[] = [
    ...drawTroubles(dice, backends.length, spanMs),
    ...drawOthers(dice, backends.length, processes, spanMs),
  ]
  const created: RequestEvent[] = []
  const requests = between(8, 26)
  let atMs = STARTED_MS + between(1, 200)
  for (let i = 0; i < requests; i++) {
    const request = drawRequest(dice, i, atMs, processes, created)
    if (request.form === 'create' || request.form === 'create_stream') created.push(request)
    events.push(request)
    // Bursts and pauses.
    atMs += chance(0.35) ? between(0, 5) : between(10, (2 * spanMs) / requests)
  }
  const narrow = chance(0.2)
  const lastMs = Math.max(spanMs, ...events.map(event => event.atMs + ('forMs' in event ? event.forMs : 0)))
  const plan: WorldPlan = {
    seed,
    processes,
    messageMs: between(1, 40),
    settings,
    backends: backends.map(backend => ({ ...backend, maxInFlight: narrow && chance(0.7) ? between(1, 3) : undefined })),
    events: events.sort((a, b) => a.atMs - b.atMs),
    calmMs: lastMs + 1,
  }
  return withTheme(plan, dice)
}
