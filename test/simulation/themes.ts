// Worlds about one thing: what is rare among worlds that chance alone draws, and has gone wrong before. Every fourth
// seed has a theme, each in its turn.
import type {
  BackendPlan,
  Dice,
  PlanEvent,
  RequestEvent,
  Settings,
  Trouble,
  TroubleEvent,
  Wait,
  WorldPlan,
} from './plan.ts'

/** What a theme makes of a drawn world; what is left out stays as it was drawn. */
interface Themed {
  readonly events: readonly PlanEvent[]
  readonly settings?: Partial<Settings>
  readonly backends?: readonly BackendPlan[]
  readonly processes?: number
}

interface Stage {
  readonly dice: Dice
  readonly plan: WorldPlan
  /** When it begins. */
  readonly startMs: number
  /** At least so many backends of one tier, each sound and quick. */
  backends(least: number, more?: Partial<BackendPlan>): readonly BackendPlan[]
  /** So many requests at a time, or so far apart. */
  requests(count: number, atMs: number, more?: Partial<RequestEvent>, apartMs?: number): readonly RequestEvent[]
  trouble(backend: number, atMs: number, forMs: number, trouble: Trouble): TroubleEvent
}

type Theme = (stage: Stage) => Themed

const DAY_MS = 86_400_000

function stageOf(plan: WorldPlan, dice: Dice): Stage {
  let asked = 0
  return {
    dice,
    plan,
    startMs: dice.between(1_500, 3_000),
    backends(least, more = {}) {
      const serviceMs = dice.between(20, 90)
      const count = Math.max(least, plan.backends.length)
      return Array.from({ length: count }, (_, i) => ({
        name: `b${i}`,
        host: `r${i}.test`,
        deployment: `d${i}`,
        apiVersion: plan.backends[i]?.apiVersion ?? 'v1',
        weight: plan.backends[i]?.weight ?? 1,
        priority: 1,
        serviceMs,
        maxInFlight: undefined,
        bucket: undefined,
        ...more,
      }))
    },
    requests: (count, atMs, more = {}, apartMs = 0) =>
      Array.from({ length: count }, (_, i) => {
        const index = asked++
        return {
          kind: 'request',
          atMs: atMs + i * apartMs,
          id: `t${index}`,
          key: 'good',
          form: 'chat',
          connection: 2_000 + index,
          process: 0,
          poison: undefined,
          about: undefined,
          leavesAfterMs: undefined,
          stallMs: undefined,
          effort: 1,
          pieces: 1,
          ...more,
        }
      }),
    trouble: (backend, atMs, forMs, trouble) => ({ kind: 'trouble', atMs, forMs, backend, scope: 'requests', trouble }),
  }
}

const failing = (status: number): Trouble => ({ kind: 'status', status, form: 'azure', wait: undefined })
const throttling = (ms: number, form: 'retry-after-ms' | 'date' = 'retry-after-ms'): Trouble => ({
  kind: 'status',
  status: 429,
  form: 'azure',
  wait: { form, ms },
})

/** A 429 with a long wait, and one with a shorter wait that was under way already. */
const twoThrottles: Theme = ({ dice, startMs, backends, requests, trouble }) => {
  const pool = backends(1)
  const all = pool.map((_, i) => i)
  const shortMs = dice.between(5, 10) * 100
  return {
    backends: pool,
    events: [
      ...all.map(i => trouble(i, startMs, 15, throttling(dice.between(6, 8) * 1000))),
      ...all.map(i => trouble(i, startMs + 16, 200, throttling(shortMs))),
      ...requests(2 * pool.length, startMs),
      ...requests(2 * pool.length, startMs + 16),
      ...requests(4, startMs + 400 + shortMs, {}, 800),
    ],
  }
}

/** The process that tries a backend again dies of it; the others have heard that somebody does. */
const trialThatDies: Theme = ({ dice, plan, startMs, backends, requests, trouble }) => {
  const pool = backends(2)
  const againMs = startMs + plan.settings.recoveryMs + 400
  return {
    processes: dice.between(2, 3),
    settings: { balance: 'round_robin', probes: false, maxAttempts: 3 },
    backends: pool,
    events: [
      trouble(0, startMs, 200, failing(500)),
      ...requests(2 * pool.length, startMs + 5),
      trouble(0, startMs + 300, plan.settings.recoveryMs + 3_000, { kind: 'slow', moreMs: 1_200 }),
      ...requests(2 * pool.length, againMs),
      { kind: 'kill', atMs: againMs + 150 + 2 * plan.messageMs, process: 0 },
    ],
  }
}

/** An operator takes a backend out for good, and a process is replaced after that. */
const handAndNewWorker: Theme = ({ dice, plan, startMs, backends, requests }) => {
  const processes = dice.between(2, 3)
  const pool = backends(2)
  return {
    processes,
    backends: pool,
    events: [
      ...requests(4, startMs, {}, 100),
      { kind: 'eject', atMs: startMs + 50, backend: dice.between(0, pool.length - 1), process: dice.between(0, 1) },
      { kind: 'kill', atMs: startMs + 300 + 2 * plan.messageMs, process: dice.between(0, processes - 1) },
      ...requests(4, startMs + 1_500, {}, 200),
    ],
  }
}

/** Clients leave in the middle of answers that come slowly. */
const leavers: Theme = ({ dice, startMs, backends, requests, trouble }) => {
  const pool = backends(1)
  const serviceMs = pool[0]?.serviceMs ?? 0
  const leavesAfterMs = (): number => serviceMs + dice.between(30, 400)
  return {
    settings: { keepaliveMs: 0 },
    backends: pool,
    events: [
      ...pool.map((_, i) => trouble(i, startMs - 100, 5_000, { kind: 'halting', gapMs: 400 })),
      ...[0, 1, 2].flatMap(i => [
        ...requests(1, startMs + 700 * i, { leavesAfterMs: leavesAfterMs() }),
        ...requests(1, startMs + 700 * i, { form: 'create', leavesAfterMs: leavesAfterMs() }),
        ...requests(1, startMs + 700 * i, { form: 'stream', pieces: 5, leavesAfterMs: 400 + leavesAfterMs() }),
      ]),
    ],
  }
}

/** Streams whose last event lacks the blank line at its end. */
const bareEnds: Theme = ({ startMs, backends, requests, trouble }) => {
  const pool = backends(1)
  return {
    backends: pool,
    events: [
      ...pool.map((_, i) => trouble(i, startMs - 100, 5_000, { kind: 'bare_end' })),
      ...requests(3, startMs, { form: 'stream', pieces: 2 }, 300),
      ...requests(2, startMs + 1_000, { form: 'create_stream', pieces: 2 }, 300),
    ],
  }
}

/** A throttle that names a time of day ends within the millisecond in which others arrive. */
const atTheStroke: Theme = ({ dice, backends, requests, trouble }) => {
  const pool = backends(1)
  const fullMs = 1_000 * dice.between(2, 4)
  return {
    settings: { maxWaitMs: 8_000 },
    backends: pool,
    events: [
      ...pool.map((_, i) => trouble(i, fullMs + 290, 400, throttling(1_500, 'date'))),
      ...requests(3, fullMs + 300.6, {}, 10),
      ...requests(2, fullMs + 1_999.2, {}, 0.1),
      ...requests(2, fullMs + 2_999.2, {}, 0.1),
    ],
  }
}

/** All but one restart at the same time: a request may find several that take no connection. */
const manyRestarts: Theme = ({ dice, startMs, backends, requests, trouble }) => {
  const pool = backends(3)
  const sound = dice.between(0, pool.length - 1)
  return {
    settings: { maxAttempts: 2, probes: false },
    backends: pool,
    events: [
      ...pool.flatMap((_, i) =>
        i === sound ? [] : [{ ...trouble(i, startMs, 1_500, { kind: 'restart' }), scope: 'all' as const }],
      ),
      ...requests(pool.length, startMs + 20),
    ],
  }
}

/** The process stands still for longer than any of its time-outs while requests are under way. */
const longPause: Theme = ({ dice, startMs, backends, requests }) => {
  const pool = backends(1, { serviceMs: dice.between(80, 200) })
  const stallMs = 1_500
  return {
    backends: pool,
    events: [
      ...requests(3, startMs),
      ...requests(2, startMs - 20, { form: 'stream', pieces: 5 }),
      ...requests(1, startMs - 300, { form: 'stream', pieces: 8, stallMs }),
      { kind: 'freeze', atMs: startMs + dice.between(10, 60), forMs: dice.between(4_200, 6_000), process: 0 },
      ...requests(3, startMs + 7_000, {}, 100),
    ],
  }
}

/** A client's prompt makes every backend hang, which goes on serving the others. */
const hangingPrompt: Theme = ({ dice, plan, startMs, backends, requests }) => {
  const pool = backends(2)
  return {
    backends: pool,
    events: [
      ...requests(dice.between(1, 3), startMs, { key: 'hostile', poison: { kind: 'hang' } }, 200),
      ...requests(4 * pool.length, startMs + 300, {}, plan.settings.timeoutMs / (3 * pool.length)),
    ],
  }
}

/** A backend that fails names a time that is longer than what it would be left alone for. */
const namedHold: Theme = ({ dice, startMs, backends, requests, trouble }) => {
  const pool = backends(2)
  const wait = { form: dice.one(['retry-after', 'retry-after-ms', 'date'] as const), ms: dice.between(8, 12) * 1000 }
  return {
    backends: pool,
    events: [
      trouble(0, startMs, 100, { kind: 'status', status: dice.one([500, 503]), form: 'azure', wait }),
      ...requests(2 * pool.length, startMs + 5),
      ...requests(6, startMs + 2_000, {}, 1_200),
    ],
  }
}

/** Waits of days, and waits that nobody can read. */
const wrongWait: Theme = ({ dice, startMs, backends, requests, trouble }) => {
  const pool = backends(2)
  const wait = dice.one<Wait>([
    { form: 'retry-after', ms: 2 * DAY_MS },
    { form: 'retry-after-ms', ms: DAY_MS },
    { form: 'words', ms: 0 },
    { form: 'negative', ms: 0 },
  ])
  const status = dice.one([429, 503])
  return {
    backends: pool,
    events: [
      trouble(0, startMs, 100, { kind: 'status', status, form: 'azure', wait }),
      ...requests(2 * pool.length, startMs + 5),
      ...requests(6, startMs + 1_000, {}, 1_200),
    ],
  }
}

/** A prompt that fails everywhere comes again and again; others are served between. */
const steadyPoison: Theme = ({ dice, startMs, backends, requests }) => {
  const pool = backends(1).slice(0, dice.between(1, 2))
  const poison = failing(dice.one([500, 503]))
  return {
    settings: { balance: 'round_robin' },
    backends: pool,
    events: Array.from({ length: 8 }, (_, i) => [
      ...requests(1, startMs + 400 * i, { key: 'hostile', poison }),
      ...requests(2 * pool.length, startMs + 400 * i + 200),
    ]).flat(),
  }
}

/** A slow answer to what was asked before the trouble comes after it. */
const straggler: Theme = ({ startMs, backends, requests, trouble }) => {
  const pool = backends(2, { serviceMs: 40 })
  return {
    processes: 1,
    settings: { balance: 'round_robin' },
    backends: pool,
    events: [
      ...requests(2 * pool.length, startMs, { effort: 8 }),
      trouble(0, startMs + 20, 100, failing(500)),
      ...requests(2 * pool.length, startMs + 25),
      ...requests(4, startMs + 1_000, {}, 300),
    ],
  }
}

/** A process dies with requests of a limited key under way. */
const deathUnderLoad: Theme = ({ dice, startMs, backends, requests, trouble }) => {
  const pool = backends(1)
  return {
    processes: dice.between(2, 3),
    backends: pool,
    events: [
      ...requests(6, 600, { process: dice.between(0, 1) }, 50),
      ...pool.map((_, i) => trouble(i, startMs - 100, 2_000, { kind: 'slow', moreMs: 1_000 })),
      ...requests(2, startMs, { key: 'limited' }, 5),
      { kind: 'kill', atMs: startMs + 300, process: 0, isPortTaken: dice.chance(0.5) },
      ...requests(4, startMs + 3_000, {}, 200),
    ],
  }
}

/** All processes die at once. */
const deathOfAll: Theme = ({ dice, startMs, backends, requests }) => {
  const processes = dice.between(2, 3)
  return {
    processes,
    backends: backends(1),
    events: [
      ...requests(6, startMs - 500, {}, 50),
      ...Array.from({ length: processes }, (_, process): PlanEvent => ({ kind: 'kill', atMs: startMs, process })),
      ...requests(4, startMs + 3_000, {}, 200),
    ],
  }
}

/** Backends refuse, each for a reason of its own; one does not. */
const refusal: Theme = ({ dice, plan, startMs, backends, requests, trouble }) => {
  const pool = backends(4)
  const kinds: readonly [Trouble, ...Trouble[]] = [
    failing(401),
    failing(402),
    failing(403),
    { kind: 'status', status: 403, form: 'firewall', wait: undefined },
    { kind: 'status', status: 403, form: 'azure', wait: { form: 'retry-after', ms: dice.between(2, 8) * 1000 } },
    failing(407),
    failing(408),
    failing(421),
    { kind: 'misdirected' },
  ]
  const turn = Math.floor(plan.seed / (EVERY * THEMES.length))
  const drawn = [0, 1, 2].map(i => kinds[(3 * turn + i) % kinds.length] ?? kinds[0])
  const last = pool.length - 1
  return {
    backends: pool,
    events: [
      ...requests(2 * pool.length, startMs - 500),
      ...drawn.map((kind, i) => trouble(i, startMs, 3_000, kind)),
      ...(drawn.some(({ kind }) => kind === 'misdirected')
        ? [trouble(last, startMs, 3_000, { kind: 'misdirected' })]
        : []),
      ...requests(3 * pool.length, startMs + 5, { connection: 0 }, 400),
    ],
  }
}

/** A wait ends while its backend is neither throttled nor full: it is asked no faster than it has shown to admit. */
const heldBack: Theme = ({ dice, requests, trouble, backends }) => {
  const bucket = { perSecond: 1, burst: 1, form: 'retry-after' } as const
  const pool = backends(1, { serviceMs: dice.between(250, 290), bucket }).slice(0, 1)
  return {
    settings: { maxWaitMs: 2_000, maxAttempts: 2, probes: false },
    backends: pool,
    events: [
      trouble(0, 6_000, 2_000, { kind: 'slow', moreMs: 600 }),
      ...requests(1, 349, { form: 'stream', pieces: 3 }),
      ...requests(1, 836, { form: 'stream' }),
      ...requests(1, 1_479),
      ...requests(1, 3_169, { form: 'create' }),
      ...requests(1, 3_591),
      ...requests(2, 4_523, { form: 'stream', pieces: 5 }, 2),
    ],
  }
}

/** Tokens are revoked: each process has to fetch another one. */
const revokedTokens: Theme = ({ dice, startMs, backends, requests }) => {
  const pool = backends(1, { takesTokens: true })
  return {
    processes: dice.one([1, 1, 2]),
    backends: pool,
    events: [
      ...requests(3, startMs - 900, {}, 200),
      { kind: 'revoke', atMs: startMs },
      ...requests(8, startMs + 300, {}, 700),
    ],
  }
}

/** No token can be had at first. */
const issuerThatFails: Theme = ({ dice, backends, requests }) => ({
  backends: backends(1, { takesTokens: true }),
  events: [
    { kind: 'issuer_fails', atMs: 0, forMs: dice.between(1_000, 4_000) },
    ...requests(4, 400, {}, 250),
    ...requests(4, 3_000, {}, 900),
  ],
})

const THEMES: readonly Theme[] = [
  twoThrottles,
  trialThatDies,
  handAndNewWorker,
  leavers,
  bareEnds,
  atTheStroke,
  manyRestarts,
  longPause,
  hangingPrompt,
  namedHold,
  wrongWait,
  steadyPoison,
  straggler,
  deathUnderLoad,
  deathOfAll,
  refusal,
  heldBack,
  revokedTokens,
  issuerThatFails,
]

/** Every fourth world has a theme: 1, 5, 9 … */
const EVERY = 4

/** The drawn world with the theme of its seed, where it has one. Its ordinary requests may stay; its troubles go. */
export function withTheme(plan: WorldPlan, dice: Dice): WorldPlan {
  if (plan.seed % EVERY !== 1) return plan
  const theme = THEMES[Math.floor(plan.seed / EVERY) % THEMES.length]
  if (theme === undefined) return plan
  const { events, settings, backends = plan.backends, processes = 1 } = theme(stageOf(plan, dice))
  const isCrowded = dice.chance(0.3)
  const others = plan.events.flatMap(event =>
    isCrowded && event.kind === 'request' ? [{ ...event, poison: undefined, process: event.process % processes }] : [],
  )
  const all = [...events, ...others].sort((a, b) => a.atMs - b.atMs)
  return {
    ...plan,
    processes,
    settings: { ...plan.settings, ...settings },
    backends,
    events: all,
    calmMs: Math.max(...all.map(event => event.atMs + ('forMs' in event ? event.forMs : 0))) + 1,
  }
}
