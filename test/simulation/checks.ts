// The ten invariants, looked at while a world runs and at its end. The checks compare what the backends did and the
// clients saw. The proxy's own beliefs count only where the map speaks of them: which backend is available, which is
// out.
import { isAvailable, isEjected, isEjectedOrOnTrial, takesWaiting, throttledForMs } from '../../lib/balancer/health.ts'
import type { Member } from '../../lib/balancer/pool.ts'
import type { Attempt, Backends } from './backends.ts'
import type { Asking, Clients } from './clients.ts'
import { type Engine, type Host, pausedMs } from './engine.ts'
import { eventsOf } from './http-text.ts'
import type { WorldPlan } from './plan.ts'
import { type LogLine, memberOf, type Process, type Processes } from './processes.ts'

export type Invariant = 1 | 2 | 3 | 4 | 5 | 6 | 7 | 8 | 9 | 10

export interface Violation {
  readonly invariant: Invariant
  /** Which check of the invariant: the same fault gives the same name. */
  readonly check: string
  readonly text: string
  readonly atMs: number
}

export interface ChecksDeps {
  readonly engine: Engine
  readonly plan: WorldPlan
  readonly latencyMs: number
  readonly stored: ReadonlyMap<string, string>
  backends(): Backends
  clients(): Clients
  processes(): Processes
  report(violation: Violation): void
}

export interface Checks {
  /** Before an event: what the proxy believed until now. */
  before(host: Host | undefined): void
  settled(): void
  sent(attempt: Attempt): void
  answered(attempt: Attempt): void
  head(asking: Asking, text: string): void
  result(asking: Asking): void
  line(process: Process, line: LogLine): void
  /** Backends may have been forgotten. */
  reloaded(without: number | undefined): void
  /** A process is gone, and what it knew. */
  killed(process: number): void
  /** What /metrics says; undefined: it did not answer. */
  metrics(text: string | undefined, isAtRest: boolean): void
  /** Nothing is in progress, and all believe of every backend that it is sound and free. */
  isQuiet(): boolean
  /** From now on the weights must hold over whole rounds, and every backend must be asked. */
  beginRounds(): void
  /** The rounds are over, nothing is in progress and all news has spread. */
  atRest(): void
  /** The processes have been shut down. */
  atEnd(): void
}

/** How soon an aborted client's upstream is gone (invariant 4), and the deadlines' own grain on top. */
const ABORT_MS = 200
const SWEEP_MS = 20
/** So long after sending, a dead kept connection is nobody's fault. */
const STALE_MS = 1_000
/** News is gathered for a moment before it is sent. */
const SPREAD_MS = 50
/** Between what a 429 said and what is passed on: the time of one packet, and whole milliseconds. */
const WAIT_GRAIN_MS = 3
/** The wait that a refusal names where the soonest is back already. */
const MOMENT_MS = 1_000
/** Longer than any wait, time-out and stall of a world together. */
const STUCK_MS = 35_000
/** So long after its last byte an answer may still be on its way to a slow client. */
const LONGEST_RELAY_MS = 6_000
/** So many requests in a row put even the last one out. */
const SUSPECT_ROW = 5
/** Answers that no sound backend gives, and that no client has caused here. */
const NEVER_THE_CLIENTS: ReadonlySet<number> = new Set([401, 402, 403, 407, 408, 421])
/** A stall shorter than this is no reason to give a client up, whatever else delays its bytes. */
const SHORT_STALL_MS = 1_500
/** No server is believed for longer. */
const LONGEST_HOLD_MS = 86_400_000
/** A refusal names no longer wait. */
const LONGEST_NAMED_MS = 60_000
/** Reasons that no answer gives, but the way there, or silence. */
const BY_CONNECTION = /^(?:connect_|connection_lost|protocol_error|header_timeout|first_output_|idle_|egress_)/
/** Reasons that no probe gives. */
const SEEN_BY_REQUESTS =
  /^(server_error|stream_error|connection_lost|protocol_error|header_timeout|first_output_timeout)$/
/** Capacity that nobody is woken for is a fault when it lasts; a wake may be a turn away. */
const WAKE_MS = 30

/** Nothing of it is in progress any more. */
/** When an attempt was over for the process that made it; Infinity: it is not. */
function endedMs({ answeredMs, droppedMs, failedMs }: Attempt): number {
  return answeredMs ?? droppedMs ?? failedMs ?? Number.POSITIVE_INFINITY
}

function isOver({ answeredMs, droppedMs, failedMs }: Attempt): boolean {
  return answeredMs !== undefined || droppedMs !== undefined || failedMs !== undefined
}

/** The samples of a page of metrics, by name and labels. */
function readFigures(text: string): ReadonlyMap<string, number> {
  const figures = new Map<string, number>()
  for (const line of text.split('\n')) {
    const at = line.lastIndexOf(' ')
    if (at > 0 && !line.startsWith('#')) figures.set(line.slice(0, at), Number(line.slice(at + 1)))
  }
  return figures
}

function sumOf(figures: ReadonlyMap<string, number>, prefix: string): number {
  return [...figures].reduce((sum, [name, value]) => sum + (name.startsWith(prefix) ? value : 0), 0)
}

export function createChecks(deps: ChecksDeps): Checks {
  const { engine, plan, latencyMs } = deps
  const { backends: specs, settings } = plan
  const hasIssuerTrouble = plan.events.some(({ kind }) => kind === 'issuer_fails')
  const handEjected = new Set<number>()
  /** When an operator took a backend out. */
  const handEjectedMs = new Map<number, number>()
  /** By process and backend: what a 429 that it has read said. */
  const announced = new Map<string, { readonly sentMs: number; readonly untilMs: number }>()
  /** Backends that said that they do not offer what was asked: passed over for a while. */
  const avoided = new Set<number>()
  /**
   * At the beginning of this step, and after its last attempt: picks of one step may come before all of its attempts.
   */
  const available = new Map<Process, { first: readonly boolean[]; last: readonly boolean[] }>()
  /** The backends' places in a process's pool, in the plan's order, as long as its config is the same. */
  const places = new Map<Process, { readonly runtime: unknown; readonly members: readonly (Member | undefined)[] }>()
  const lastProbe = new Map<string, 'passed' | 'failed'>()
  /** Resources that answered a request while their probes failed: these count again once one has passed. */
  const overruled = new Set<string>()
  /** `outMs`: since when it is out, whatever reasons were said meanwhile. */
  const ejectedLine = new Map<string, { readonly reason: unknown; readonly untilMs: number; readonly outMs: number }>()
  const overtaken: { readonly asking: Asking; readonly earlier: Asking; readonly attempts: number }[] = []
  /** By backend: since when it does nothing while somebody waits who may use it. */
  const idleSinceMs = new Map<number, { readonly sinceMs: number; readonly pauses: boolean }>()
  /** By backend: the longest wait that a 429 has named. */
  const longestWaitMs = new Map<number, number>()
  /** As /metrics last showed them. */
  const counters = new Map<string, number>()
  let rounds: { readonly counts: number[]; areWhole: boolean } | undefined

  const violate = (invariant: Invariant, check: string, text: string): void =>
    deps.report({ invariant, check, text, atMs: engine.nowMs() })

  const isHosting = (asking: Asking, backend: number): boolean => {
    const { form, about } = asking.event
    if (form !== 'follow_up' && form !== 'read') return true
    const made = about === undefined ? undefined : deps.clients().all.get(about)?.result
    const id = made === undefined ? undefined : /"id":"(resp_\w+)"/.exec(made.body)?.[1]
    return id === undefined || deps.stored.get(id) === specs[backend]?.host
  }

  const membersOf = (process: Process): readonly (Member | undefined)[] => {
    const runtime = process.proxy.runtime()
    const known = places.get(process)
    if (known !== undefined && known.runtime === runtime) return known.members
    const members = specs.map(({ name }) => memberOf(process, name))
    places.set(process, { runtime, members })
    return members
  }

  /** Whether the config that a request began with has a backend, as it is now. */
  const has = ({ backends, runtime, process }: Asking, backend: number): boolean => {
    if (!backends.has(specs[backend]?.name ?? '')) return false
    const wasAway = plan.events.some(event => event.kind === 'reload' && event.without === backend)
    return !wasAway || runtime === process.proxy.runtime()
  }

  /** With a backend that leaves the config goes what was known of it: what comes back under its name is another. */
  const wasRemovedSince = (backend: number, sinceMs: number): boolean =>
    plan.events.some(
      event =>
        event.kind === 'reload' &&
        event.without === backend &&
        event.atMs <= engine.nowMs() &&
        event.atMs + 2 * plan.messageMs + SPREAD_MS >= sinceMs,
    )

  const availability = (process: Process): readonly boolean[] => {
    const nowMs = engine.nowMs()
    // After a throttle it is let through slowly.
    return membersOf(process).map(
      (member, i) =>
        member !== undefined &&
        isAvailable(member.health, nowMs) &&
        takesWaiting(member.health, nowMs) &&
        member.health.inFlight < (specs[i]?.maxInFlight ?? Number.POSITIVE_INFINITY),
    )
  }

  const isBelievedOut = (process: Process, name: string): boolean => {
    const member = memberOf(process, name)
    // On trial it was due, if only a moment ago.
    return (
      member !== undefined &&
      member.health.state.phase.kind === 'held' &&
      isEjectedOrOnTrial(member.health, engine.nowMs())
    )
  }

  /** A process that has stood still hears of what has happened meanwhile. */
  const frozenLongAgo = ({ host }: Process): boolean =>
    host.frozenUntilMs + 2 * plan.messageMs + SPREAD_MS < engine.nowMs()

  const triedBy = (attempt: Attempt): ReadonlySet<number> =>
    new Set(
      deps
        .backends()
        .of(attempt.requestId)
        .filter(other => other !== attempt)
        .map(({ backend }) => backend),
    )

  /** A kept connection that turned out dead soon after the request was written: the request may go out once more. */
  const isStale = ({ reused, begunMs, lostMs, sentMs, madeBy }: Attempt): boolean =>
    reused &&
    begunMs === undefined &&
    lostMs !== undefined &&
    lostMs - sentMs - pausedMs(madeBy, sentMs, lostMs) <= STALE_MS

  const checkAbort = (asking: Asking): void => {
    if (asking.process.host.gone || asking.process.host.frozenUntilMs + ABORT_MS > engine.nowMs()) return
    for (const attempt of deps.backends().of(asking.id)) {
      if (!isOver(attempt)) {
        violate(
          4,
          'abort',
          `${asking.id} left ${ABORT_MS} ms ago and ${specs[attempt.backend]?.name} still works for it`,
        )
      }
    }
  }

  /** Invariant 4, for one more attempt. */
  const checkAttempts = (attempt: Attempt, asking: Asking): void => {
    const nowMs = engine.nowMs()
    const { leftMs, process } = asking
    if (leftMs !== undefined && nowMs > Math.max(leftMs + latencyMs, process.host.frozenUntilMs) + 1) {
      violate(4, 'after_leaving', `${asking.id} left at ${leftMs} and ${specs[attempt.backend]?.name} is asked`)
    }
    const earlier = deps
      .backends()
      .of(asking.id)
      .filter(other => other !== attempt)
    for (const other of earlier) {
      const again = isStale(other) || other.answer?.status === 421
      const afterWait = settings.maxWaitMs > 0 && other.answer?.throttleMs !== undefined
      const isOther = wasRemovedSince(attempt.backend, other.sentMs)
      if (other.backend === attempt.backend && !attempt.ambiguous && !again && !afterWait && !isOther) {
        violate(4, 'twice', `${asking.id} asks ${specs[attempt.backend]?.name} twice`)
      }
    }
    const counted = earlier.filter(
      other => other.begunMs !== undefined && other.answer?.throttleMs === undefined && !isStale(other),
    )
    if (counted.length >= settings.maxAttempts) {
      violate(4, 'max_attempts', `${asking.id} makes attempt ${counted.length + 1} of ${settings.maxAttempts}`)
    }
  }

  const isSince = (attempt: Attempt, fromMs: number): boolean => endedMs(attempt) >= fromMs

  /** Requests that a process had at a backend at some time in a span. */
  const inFlight = (process: Process, backend: number, fromMs: number): readonly Attempt[] =>
    deps
      .backends()
      .attempts.filter(
        attempt =>
          attempt.kind === 'request' &&
          attempt.backend === backend &&
          attempt.madeBy === process.host &&
          !attempt.ambiguous &&
          isSince(attempt, fromMs),
      )

  /** As `inFlight`, with the reads of stored objects that may have taken a place at any backend of the resource. */
  const mostInFlight = (process: Process, backend: number, fromMs: number): number =>
    inFlight(process, backend, fromMs).length +
    deps
      .backends()
      .attempts.filter(
        attempt =>
          attempt.ambiguous &&
          attempt.host === specs[backend]?.host &&
          attempt.madeBy === process.host &&
          isSince(attempt, fromMs),
      ).length

  /** Invariant 3: no more at once than a backend may have. */
  const checkFull = (attempt: Attempt, asking: Asking): void => {
    const spec = specs[attempt.backend]
    if (spec?.maxInFlight === undefined || attempt.ambiguous) return
    const nowMs = engine.nowMs()
    const others = inFlight(asking.process, attempt.backend, nowMs).filter(
      other => other !== attempt && !isOver(other) && other.dueMs > nowMs,
    )
    if (others.length < spec.maxInFlight) return
    violate(3, 'full', `${asking.id} is request ${others.length + 1} at ${spec.name}, which takes ${spec.maxInFlight}`)
  }

  /** The last probe of a resource that is over. */
  const lastProbeOf = (host: string): Attempt | undefined =>
    deps.backends().attempts.findLast(attempt => attempt.kind === 'probe' && attempt.host === host && isOver(attempt))

  /** Invariant 3, for one attempt. */
  const checkChoice = (attempt: Attempt, asking: Asking): void => {
    const nowMs = engine.nowMs()
    const { backend } = attempt
    const spec = specs[backend]
    // Once more where it has just been: no choice was made.
    const last = deps.backends().of(asking.id).at(-2)
    const again = (last?.reused === true && last.begunMs === undefined) || last?.answer?.status === 421
    if (again && last?.backend === backend) return
    const throttle = announced.get(`${attempt.process} ${backend}`)
    const isKnown = throttle !== undefined && !wasRemovedSince(backend, throttle.sentMs)
    if (isKnown && throttle.untilMs > nowMs + 1 && !attempt.ambiguous) {
      violate(3, 'throttled', `${asking.id} goes to ${spec?.name}, throttled for ${throttle.untilMs - nowMs} ms more`)
    }
    const known = available.get(asking.process)
    const is = availability(asking.process)
    available.set(asking.process, { first: known?.first ?? is, last: is })
    const was = known?.first
    if (was === undefined || spec === undefined || attempt.ambiguous) return
    if (rounds !== undefined && asking.id.startsWith('round')) countTurn(rounds, attempt, asking, was)
    // Between the choice and this it may have waited for a token.
    if (spec.takesTokens === true) return
    // A reload has taken it away meanwhile: the request goes on with the config it began with.
    if (asking.runtime !== asking.process.proxy.runtime()) return
    const tried = triedBy(attempt)
    const others = specs.flatMap((other, i) => {
      const free = was[i] === true && known?.last[i] === true && is[i] === true && asking.backends.has(other.name)
      return i !== backend && free && !tried.has(i) && !avoided.has(i) && isHosting(asking, i) ? [{ ...other, i }] : []
    })
    const [other] = others
    // Restored a moment ago it is in; on trial it was due before.
    const out = was[backend] === false && known?.last[backend] === false && is[backend] === false
    if (out && isBelievedOut(asking.process, spec.name) && other !== undefined) {
      violate(3, 'unavailable', `${asking.id} goes to ${spec.name}, which is out, though ${other.name} is available`)
    }
    const since = handEjectedMs.get(backend) ?? Number.POSITIVE_INFINITY
    if (since + 2 * plan.messageMs + SPREAD_MS < nowMs && frozenLongAgo(asking.process) && other !== undefined) {
      violate(8, 'hand', `${asking.id} goes to ${spec.name}, which an operator took out ${nowMs - since} ms ago`)
    }
    const busy = specs.find(({ name }, i) => {
      const member = memberOf(asking.process, name)
      const isBusy =
        member !== undefined && !isEjectedOrOnTrial(member.health, nowMs) && throttledForMs(member.health, nowMs) > 0
      return isBusy && i !== backend && !tried.has(i) && asking.backends.has(name) && isHosting(asking, i)
    })
    if (out && isBelievedOut(asking.process, spec.name) && busy !== undefined) {
      violate(3, 'instead', `${asking.id} goes to ${spec.name}, which is out, though ${busy.name} is merely throttled`)
    }
    const upper = others.find(({ priority }) => priority < spec.priority)
    if (upper !== undefined && !avoided.has(backend)) {
      violate(
        3,
        'tier',
        `${asking.id} goes to ${spec.name} of tier ${spec.priority}, though ${upper.name} is available`,
      )
    }
    const sound = others.find(({ host }) => lastProbe.get(host) !== 'failed')
    const isFailing = plan.processes === 1 && settings.probes && lastProbe.get(spec.host) === 'failed'
    if (isFailing && sound !== undefined && lastProbeOf(spec.host)?.answeredMs !== undefined) {
      violate(3, 'probe', `${asking.id} goes to ${spec.name}, whose probe fails, though ${sound.name} is available`)
    }
  }

  /** A turn of the last rounds; they are whole as long as every backend of the first tier could have had each turn. */
  const countTurn = (
    to: { readonly counts: number[]; areWhole: boolean },
    { backend }: Attempt,
    { id, process }: Asking,
    was: readonly boolean[],
  ): void => {
    to.counts[backend] = (to.counts[backend] ?? 0) + 1
    if (deps.backends().of(id).length > 1) to.areWhole = false
    specs.forEach(({ priority }, i) => {
      const others = (membersOf(process)[i]?.health.inFlight ?? 0) - (i === backend ? 1 : 0)
      if (priority === 1 && (was[i] !== true || others > 0)) to.areWhole = false
    })
  }

  /** Requests that have come, and have neither an attempt in progress nor a response. */
  const waiting = (): readonly Asking[] =>
    [...deps.clients().underWay].filter(
      ({ id, event, sentMs, wroteMs, result, leftMs, process }) =>
        // Where another process counts, the limits of a key are asked for first.
        (plan.processes === 1 || event.key !== 'limited') &&
        // … and the resources are asked which of them holds a response that another process has made.
        (plan.processes === 1 || event.about === undefined || deps.backends().of(id).length > 0) &&
        wroteMs === undefined &&
        result === undefined &&
        leftMs === undefined &&
        !process.host.gone &&
        process.host.frozenUntilMs < engine.nowMs() &&
        engine.nowMs() > sentMs + latencyMs &&
        deps.backends().of(id).every(isOver),
    )

  /** Invariant 7: nobody waits while what it could use is idle. */
  const checkIdle = (): void => {
    if (settings.maxWaitMs === 0) return
    if (deps.clients().underWay.size === 0) return
    const nowMs = engine.nowMs()
    const all = waiting()
    specs.forEach(({ name }, i) => {
      const asking = all.find(candidate => {
        const { id, process } = candidate
        const member = memberOf(process, name)
        const idle = member !== undefined && isAvailable(member.health, nowMs) && member.health.inFlight === 0
        const tried = deps
          .backends()
          .of(id)
          .some(({ backend, answer }) => backend === i && answer?.throttleMs === undefined)
        return idle && !tried && has(candidate, i) && isHosting(candidate, i)
      })
      if (asking === undefined) {
        idleSinceMs.delete(i)
        return
      }
      const member = memberOf(asking.process, name)
      // One that has had what it admits in a while is left alone for so long, twice what a throttle said at most.
      const pauses = member !== undefined && !takesWaiting(member.health, nowMs)
      const known = idleSinceMs.get(i)
      const sinceMs = known?.pauses === pauses ? known.sinceMs : nowMs
      idleSinceMs.set(i, { sinceMs, pauses })
      if (nowMs - sinceMs <= WAKE_MS + (pauses ? 2 * (longestWaitMs.get(i) ?? 0) : 0)) return
      idleSinceMs.delete(i)
      violate(7, 'idle', `${asking.id} waits though ${name}, which it may use, is idle`)
    })
  }

  /** Invariant 7: first come, first served among those that could use this backend. */
  const checkOrder = (attempt: Attempt, asking: Asking): void => {
    const was = available.get(asking.process)?.first
    // One that is out is asked for those that nobody else can serve: the others do not wait for it.
    if (settings.maxWaitMs === 0 || was?.[attempt.backend] !== true || triedBy(attempt).size > 0) return
    if (plan.processes > 1 && asking.event.key === 'limited') return
    const earlier = waiting().find(
      other =>
        other !== asking &&
        other.process === asking.process &&
        other.sentMs < asking.sentMs &&
        has(other, attempt.backend) &&
        isHosting(other, attempt.backend) &&
        // Who holds what it names may have to be asked first.
        ((other.event.form !== 'follow_up' && other.event.form !== 'read') ||
          deps.backends().of(other.id).length > 0) &&
        deps
          .backends()
          .of(other.id)
          .every(({ backend, answer }) => backend !== attempt.backend || answer?.throttleMs !== undefined),
    )
    if (earlier !== undefined) overtaken.push({ asking, earlier, attempts: deps.backends().of(earlier.id).length })
  }

  /** In one step several may be served; which of their attempts goes out first is of no matter. */
  const checkOvertaken = (): void => {
    for (const { asking, earlier, attempts } of overtaken.splice(0)) {
      if (deps.backends().of(earlier.id).length > attempts || earlier.wroteMs !== undefined) continue
      violate(7, 'order', `${asking.id} is served before ${earlier.id}, which came first and waits`)
    }
  }

  /** Whether probes may have shown the proxy anything bad of a backend that still counts at a time. */
  const probedBad = (backend: number, fromMs: number, toMs: number): boolean => {
    if (!settings.probes) return false
    const memoryMs = settings.intervalMs * 1.1 + settings.probeTimeoutMs + settings.recoveryMs
    return deps.backends().probeTroubled(backend, fromMs - memoryMs, toMs)
  }

  /** Invariant 1: why a request that got an error could have been served all the same; undefined: it could not. */
  const soundAllAlong = (asking: Asking): string | undefined => {
    const nowMs = engine.nowMs()
    const made = deps.backends().of(asking.id)
    if (made.some(({ ambiguous }) => ambiguous)) return undefined
    // Whatever became of a request that has arrived, it was an attempt.
    const reached = made.filter(attempt => attempt.arrivedMs !== undefined && !isStale(attempt)).length
    for (const [i, spec] of specs.entries()) {
      const member = memberOf(asking.process, spec.name)
      if (member === undefined || !asking.backends.has(spec.name)) continue
      if (!isHosting(asking, i) || handEjected.has(i)) continue
      if (deps.backends().troubled(i, asking.sentMs, nowMs) || probedBad(i, asking.sentMs, nowMs)) continue
      const throttle = announced.get(`${asking.process.index} ${i}`)
      if (throttle !== undefined && throttle.untilMs >= asking.sentMs) continue
      const max = spec.maxInFlight ?? Number.POSITIVE_INFINITY
      if (mostInFlight(asking.process, i, asking.sentMs - LONGEST_RELAY_MS) >= max) continue
      const own = made.filter(({ backend }) => backend === i)
      if (own.some(({ refusedByBucket }) => refusedByBucket)) continue
      const answered = own.filter(attempt => !isStale(attempt))
      if (answered.some(({ answer }) => answer?.status !== 421)) return `${spec.name} was sound and was asked`
      if (reached >= settings.maxAttempts) continue
      if (answered.length > 0) return `${spec.name} was sound, and was not asked over a fresh connection`
      // After a throttle it is asked no faster than it has shown to admit.
      if (!takesWaiting(member.health, nowMs)) continue
      if (isAvailable(member.health, nowMs)) return `${spec.name} was sound, available, and never asked`
      const throttled = specs.some(({ name }) => {
        const other = memberOf(asking.process, name)
        const most = other?.backend.maxInFlight ?? Number.POSITIVE_INFINITY
        return other !== undefined && (throttledForMs(other.health, nowMs) > 0 || other.health.inFlight >= most)
      })
      // What refused it for a moment was sound: the others are not tried in its place.
      const refused = made.some(({ answer }) => answer?.throttleMs !== undefined)
      if (throttled || refused || asking.process.proxy.app.inFlight() > 3) continue
      return `${spec.name} was sound, and never asked though all were out`
    }
    return undefined
  }

  /** Invariant 10: a refusal of ours says how long to wait, and that is when the soonest is back. */
  const checkWait = (asking: Asking, status: number, text: string): void => {
    if (status !== 429 && status !== 503) return
    const seconds = Number(/\r\nretry-after: (\d+)\r\n/i.exec(text)?.[1])
    const ms = Number(/\r\nretry-after-ms: (\d+)\r\n/i.exec(text)?.[1])
    if (!(seconds >= 1 && seconds <= 60 && ms >= 1 && Math.ceil(ms / 1000) === seconds)) {
      violate(10, 'wait', `${asking.id} gets ${status} with a wait of ${seconds} s, ${ms} ms`)
      return
    }
    const nowMs = engine.nowMs()
    const own = membersOf(asking.process).filter((_, i) => has(asking, i) && isHosting(asking, i))
    if (
      text.includes('"no_backend"') &&
      own.length > 0 &&
      own.every(member => member?.health.state.phase.kind === 'in')
    )
      violate(10, 'no_backend', `${asking.id} is told that all backends are out, and none is`)
    if (status !== 429 || text.includes('The key ') || plan.processes > 1) return
    if (specs.some(({ maxInFlight }) => maxInFlight !== undefined) || asking.process.host.pauses.length > 0) return
    // Of a read, the deployment is not to be told where a resource has two.
    if (new Set(specs.map(({ host }) => host)).size < specs.length) return
    // A wait that passed while others were tried is named as a moment.
    const hasPassed = deps
      .backends()
      .of(asking.id)
      .some(
        ({ answeredMs, answer }) =>
          answeredMs !== undefined && answeredMs + (answer?.throttleMs ?? Number.POSITIVE_INFINITY) <= nowMs,
      )
    if (hasPassed) return
    const waits = specs.flatMap(({ name }, i) => {
      const member = memberOf(asking.process, name)
      // What has just arrived is noted a moment later.
      const arriving = inFlight(asking.process, i, nowMs).flatMap(({ dueMs, answer }) =>
        dueMs <= nowMs && answer?.throttleMs !== undefined ? [dueMs + answer.throttleMs] : [],
      )
      const knownMs = announced.get(`${asking.process.index} ${i}`)?.untilMs ?? 0
      if (member === undefined || !asking.backends.has(name) || !isHosting(asking, i)) return []
      if (isEjectedOrOnTrial(member.health, nowMs)) return []
      const last = deps
        .backends()
        .of(asking.id)
        .findLast(({ backend }) => backend === i)
      if (last !== undefined && last.answer?.throttleMs === undefined) return []
      // Held back by its former throttles: when it has room again nobody knows.
      const isHeldBack = isAvailable(member.health, nowMs) && !takesWaiting(member.health, nowMs)
      const usedUp = deps.backends().of(asking.id).length >= settings.maxAttempts
      if (last === undefined && isHeldBack && !usedUp) return [{ beforeMs: MOMENT_MS, afterMs: MOMENT_MS }]
      // With its attempts used up, one that seems free and was never asked is not named.
      if (last === undefined && usedUp && knownMs <= nowMs) {
        return [
          { beforeMs: Number.POSITIVE_INFINITY, afterMs: Math.max(...arriving, Number.NEGATIVE_INFINITY) - nowMs },
        ].map(({ beforeMs, afterMs }) => ({ beforeMs, afterMs: afterMs > 0 ? afterMs : beforeMs }))
      }
      const wait = { beforeMs: knownMs - nowMs, afterMs: Math.max(knownMs, ...arriving) - nowMs }
      if (last !== undefined) return [wait]
      return wait.afterMs <= 0 ? [] : [wait]
    })
    if (waits.length === 0) return
    // A wait that passed while others were asked is named as a moment.
    const named = (ms: number): number => Math.min(ms > 0 ? ms : MOMENT_MS, LONGEST_NAMED_MS)
    const soonest = [
      named(Math.min(...waits.map(({ beforeMs }) => beforeMs))),
      named(Math.min(...waits.map(({ afterMs }) => afterMs))),
    ]
    if (soonest.every(soonestMs => Math.abs(ms - soonestMs) > WAIT_GRAIN_MS)) {
      violate(10, 'wait', `${asking.id} is to wait ${ms} ms; the soonest is back in ${soonest.join(' or ')}`)
    }
  }

  /** Invariant 10: a token that cannot be had at the moment is no mistake in the config. */
  const checkToken = (asking: Asking): void => {
    const isForTokens = specs.every(({ takesTokens }) => takesTokens === true)
    if (!isForTokens || !hasIssuerTrouble || deps.backends().of(asking.id).length > 0) return
    violate(10, 'token', `${asking.id} gets a 502 though it only lacks a token for the moment`)
  }

  const checkBody = (asking: Asking): void => {
    const { result, id } = asking
    if (result === undefined || asking.orphaned) return
    const name = result.headers.get('x-proxy-backend')
    if (name === undefined) return
    const made = deps
      .backends()
      .of(id)
      .filter(({ backend, ambiguous }) => ambiguous || specs[backend]?.name === name)
    const candidates = made.flatMap(({ answer }) => (answer === undefined ? [] : [answer]))
    const isStream = result.headers.get('content-type') === 'text/event-stream'
    const fits = candidates.some(({ payload, whole, isStream: streamed }) => {
      if (!isStream || !streamed)
        return result.end === 'whole' ? result.body === payload : payload.startsWith(result.body)
      const got = eventsOf(result.body)
      const meant = eventsOf(payload)
      const isPrefix = (events: readonly string[]): boolean =>
        events.every((event, i) =>
          i === events.length - 1 && result.end !== 'whole' ? meant[i]?.startsWith(event) === true : event === meant[i],
        )
      if (result.end !== 'whole') return isPrefix(got) || isPrefix(got.slice(0, -1))
      if (whole && got.length === meant.length && isPrefix(got)) return true
      const last = got.at(-1) ?? ''
      return isPrefix(got.slice(0, -1)) && /"error"/.test(last) && !result.body.includes('[DONE]')
    })
    if (!fits)
      violate(5, 'bytes', `${id} got bytes that ${name} never meant: ${JSON.stringify(result.body.slice(0, 300))}`)
    const last = made.at(-1)
    const meant = last?.answeredMs === undefined || last.lostMs !== undefined ? undefined : last.answer
    const patient = result.end !== 'left' && asking.event.stallMs === undefined
    const isPart = (payload: string): boolean =>
      result.end === 'cut' || (isStream && eventsOf(result.body).join() !== eventsOf(payload).join())
    if (fits && patient && meant?.whole === true && meant.after === 'keep' && isPart(meant.payload)) {
      violate(5, 'broken', `${id} got a part of an answer that ${name} sent whole`)
    }
  }

  /** Requests in a row that a backend has answered with trouble, or not at all, with no success between. */
  const rowOf = (index: number): number => {
    // In the order in which they were judged: a success by its first bytes and once more by its last, a failure by
    // its last.
    const judged = deps.backends().attempts.flatMap(attempt => {
      if (attempt.kind !== 'request' || attempt.backend !== index) return []
      const { answer, begunMs, answeredMs, requestId } = attempt
      const status = answeredMs === undefined ? 0 : (answer?.status ?? 0)
      const isSound =
        status >= 200 && status < 300 && answer?.whole === true && !/^(?:\{"error"|<)/.test(answer.payload)
      const judged = { requestId, isSound, atMs: endedMs(attempt) }
      return isSound && begunMs !== undefined ? [{ ...judged, atMs: begunMs }, judged] : [judged]
    })
    const row = new Set<string>()
    for (const { requestId, isSound } of judged.sort((a, b) => a.atMs - b.atMs)) {
      if (isSound) row.clear()
      else row.add(requestId)
    }
    return row.size
  }

  /** Invariant 6: one suspect failure does not put the last backend out that is in. */
  const checkLast = (process: Process, backend: string, reason: unknown): void => {
    const wasIn = !ejectedLine.has(`${process.index} ${backend}`)
    const index = specs.findIndex(({ name }) => name === backend)
    if (plan.processes > 1 || !wasIn || typeof reason !== 'string' || !SEEN_BY_REQUESTS.test(reason)) return
    const others = specs.flatMap(({ name }) => {
      const member = name === backend ? undefined : memberOf(process, name)
      return member === undefined ? [] : [member]
    })
    if (others.some(({ health }) => health.state.phase.kind === 'in') || rowOf(index) >= SUSPECT_ROW) return
    violate(6, 'last', `${backend} is put out for one failure (${reason}), and nobody else is in`)
  }

  /** Attempts whose answer, or whose failure, may have just been judged: what a log line of now speaks of. */
  const judgedNow = (process: Process, backend: number): readonly Attempt[] => {
    const nowMs = engine.nowMs()
    return deps.backends().attempts.filter(attempt => {
      const isHere = attempt.backend === backend || (attempt.ambiguous && attempt.host === specs[backend]?.host)
      if (!isHere || attempt.kind !== 'request' || attempt.madeBy !== process.host) return false
      const { begunMs, answeredMs, droppedMs, failedMs, lostMs } = attempt
      const isEnding = droppedMs === nowMs || failedMs === nowMs || lostMs === nowMs
      const isGoingOn = (answeredMs ?? nowMs) >= nowMs && (droppedMs ?? failedMs ?? lostMs ?? nowMs) >= nowMs
      return isEnding || (begunMs !== undefined && begunMs <= nowMs && isGoingOn)
    })
  }

  /** Whether a backend has begun to serve a request of a process since a time, and served it whole before now. */
  const hasServedSince = (process: Process, backend: number, fromMs: number): boolean =>
    deps.backends().attempts.some(({ backend: at, kind, madeBy, answer, begunMs, answeredMs, ambiguous }) => {
      const isHere = at === backend && kind === 'request' && madeBy === process.host && !ambiguous
      if (!isHere || begunMs === undefined || begunMs < fromMs) return false
      if (answeredMs === undefined || answeredMs >= engine.nowMs()) return false
      return answer?.status === 200 && answer.whole && !/^(?:\{"error"|<)/.test(answer.payload)
    })

  /** Invariants 3 and 6: what puts a backend out is what the answer means, for as long as that says. */
  const checkMeaning = (process: Process, { backend, reason, for_ms: forMs }: LogLine): void => {
    const index = specs.findIndex(({ name }) => name === backend)
    if (index === -1 || reason === 'by_hand' || reason === 'probe_failed' || reason === 'credential_unavailable') return
    const judged = judgedNow(process, index)
    if (judged.length === 0) return
    const name = String(backend)
    const all = (is: (attempt: Attempt) => boolean): boolean => judged.every(is)
    const isByAnswer = !BY_CONNECTION.test(String(reason))
    if (isByAnswer && all(({ answer }) => answer?.throttleMs !== undefined)) {
      violate(6, 'throttled_out', `${name} is put out (${String(reason)}) by an answer that only asks to wait`)
    }
    if (isByAnswer && all(({ answer }) => answer?.status === 408 || answer?.status === 421)) {
      violate(6, 'stays', `${name} is put out (${String(reason)}) by a ${judged[0]?.answer?.status}`)
    }
    const isPage = ({ answer }: Attempt): boolean => answer?.status === 403 && answer.payload.startsWith('<')
    // A success that another process has seen clears its marks here only when that news has come.
    if (plan.processes === 1 && isByAnswer && all(isPage) && rowOf(index) < SUSPECT_ROW) {
      violate(6, 'mark', `${name} is put out (${String(reason)}) by one page of a firewall`)
    }
    const named = judged.map(({ answer }) => ((answer?.status ?? 0) >= 500 ? answer?.namedMs : undefined))
    const leastMs = Math.min(...named.map(ms => ms ?? 0))
    if (typeof forMs === 'number' && forMs > LONGEST_HOLD_MS + WAIT_GRAIN_MS) {
      violate(3, 'hold', `${name} is put out for ${forMs} ms: nobody is believed for longer than a day`)
    }
    if (typeof forMs === 'number' && forMs < leastMs - WAIT_GRAIN_MS) {
      violate(3, 'hold', `${name} is put out for ${forMs} ms; it has named ${leastMs} ms`)
    }
    const isTimeout = /^(?:header|first_output)_timeout$/.test(String(reason))
    if (isTimeout && all(({ sentMs }) => hasServedSince(process, index, sentMs))) {
      violate(6, 'timeout', `${name} is put out (${String(reason)}), though it has answered others meanwhile`)
    }
  }

  /** Invariant 2: an answer to what was sent before the trouble says nothing of the time after it. */
  const checkReturn = (process: Process, { backend, by }: LogLine): void => {
    const ejected = ejectedLine.get(`${process.index} ${String(backend)}`)
    const index = specs.findIndex(({ name }) => name === backend)
    if (plan.processes > 1 || by !== 'request' || ejected === undefined || index === -1) return
    const judged = judgedNow(process, index)
    if (judged.length === 0 || judged.some(({ sentMs }) => sentMs >= ejected.outMs)) return
    violate(2, 'by_older', `${String(backend)} is back by an answer to what was sent before it went out`)
  }

  /** Invariant 6: nobody is put out without a reason of its own: our shortages and pauses, and others, are none. */
  const checkSound = (process: Process, backend: string, reason: unknown): void => {
    const index = specs.findIndex(({ name }) => name === backend)
    if (index === -1 || reason === 'by_hand' || handEjected.has(index)) return
    const nowMs = engine.nowMs()
    const memoryMs = 2 * (settings.timeoutMs + settings.idleTimeoutMs + settings.probeTimeoutMs)
    const fromMs = nowMs - memoryMs - pausedMs(process.host, nowMs - 2 * memoryMs, nowMs)
    const host = specs[index]?.host
    const { attempts } = deps.backends()
    const isReadHere = (attempt: Attempt): boolean =>
      attempt.ambiguous && attempt.host === host && attempt.sentMs >= fromMs
    // A read of a stored object may have been asked in the name of any backend of its resource.
    const readAs = attempts.filter(isReadHere).map(({ backend }) => backend)
    if ([index, ...readAs].some(asked => deps.backends().blamable(asked, fromMs, nowMs))) return
    const met = attempts.some(
      attempt =>
        attempt.host === host &&
        attempt.sentMs >= fromMs &&
        deps.clients().all.get(attempt.requestId)?.event.poison !== undefined,
    )
    if (!met) violate(6, 'sound', `p${process.index} puts ${backend} out (${String(reason)}), which was sound`)
  }

  /** Invariant 6: two backends have met the same request with its own trouble; it takes neither of them out. */
  const checkBlame = (asking: Asking): void => {
    const { event, sentMs, process, leftMs } = asking
    const nowMs = engine.nowMs()
    if (event.poison === undefined || leftMs !== undefined || plan.processes > 1) return
    const met = deps
      .backends()
      .of(asking.id)
      .filter(
        attempt =>
          attempt.answer !== undefined &&
          attempt.answer.throttleMs === undefined &&
          attempt.answer.status !== 421 &&
          !isStale(attempt) &&
          !deps.backends().troubled(attempt.backend, attempt.sentMs, nowMs),
      )
    if (new Set(met.map(({ backend }) => backend)).size < 2) return
    // Long enough that nothing else can still hold it.
    const fromMs = sentMs - 2 * (settings.recoveryMs + settings.intervalMs) - settings.timeoutMs
    for (const { backend } of met) {
      const spec = specs[backend]
      const member = spec === undefined ? undefined : memberOf(process, spec.name)
      if (spec === undefined || member === undefined || handEjected.has(backend)) continue
      if (deps.backends().troubled(backend, fromMs, nowMs) || probedBad(backend, fromMs, nowMs)) continue
      const others = deps
        .backends()
        .attempts.some(
          other =>
            other.backend === backend &&
            other.kind === 'request' &&
            other.requestId !== asking.id &&
            other.sentMs > fromMs &&
            deps.clients().all.get(other.requestId)?.event.poison !== undefined,
        )
      if (!others && isEjected(member.health, nowMs)) {
        violate(6, 'blame', `${asking.id} alone keeps ${spec.name} out, though another met the same trouble with it`)
      }
    }
  }

  const hasFailedProbe = (host: string): boolean =>
    lastProbe.get(host) === 'failed' || lastProbeOf(host)?.failedMs !== undefined

  /** An operator's word counts from the moment at which a process has taken it: one that stood still takes it late. */
  const steered = (word: 'ejected' | 'restored', backend: number): void => {
    if (word === 'ejected') {
      handEjected.add(backend)
      handEjectedMs.set(backend, engine.nowMs())
    } else {
      handEjected.delete(backend)
      handEjectedMs.delete(backend)
    }
    const lift = (): void => {
      for (let i = 0; i < plan.processes; i++) announced.delete(`${i} ${backend}`)
      lastProbe.delete(specs[backend]?.host ?? '')
    }
    lift()
    // What another process learns before it hears of the operator's word is lifted by it as well.
    if (plan.processes > 1) engine.outside(engine.nowMs() + 2 * plan.messageMs + SPREAD_MS, lift)
  }

  return {
    before(host) {
      for (const process of deps.processes().all) {
        if (process === undefined || (host !== undefined && host !== process.host)) continue
        const first = availability(process)
        available.set(process, { first, last: first })
      }
    },
    settled() {
      checkOvertaken()
      checkIdle()
    },
    sent(attempt) {
      const asking = deps.clients().all.get(attempt.requestId)
      if (asking === undefined || attempt.kind !== 'request') return
      checkAttempts(attempt, asking)
      checkFull(attempt, asking)
      checkOrder(attempt, asking)
      checkChoice(attempt, asking)
    },
    answered(attempt) {
      const { answer } = attempt
      if (answer === undefined) return
      if (attempt.kind === 'probe') {
        // On a kept connection that turned out dead the probe is made once more.
        if (answer.status === 0 && attempt.reused) return
        // A page of a box says nothing of the backend behind it, nor does a wait.
        const isPage = answer.payload.startsWith('<')
        const isForbidden = answer.status === 403 && answer.throttleMs === undefined && !isPage
        const isRefusal = answer.status === 401 || isForbidden
        const failed = answer.status >= 500 || isRefusal || answer.status === 0
        if (!failed) overruled.delete(attempt.host)
        if (!overruled.has(attempt.host)) lastProbe.set(attempt.host, failed ? 'failed' : 'passed')
        return
      }
      if (answer.status === 404 || answer.status === 400) avoided.add(attempt.backend)
      if (attempt.droppedMs !== undefined) return
      // A real answer outweighs a probe, also one that found no connection.
      if (answer.status > 0 && answer.status < 500 && hasFailedProbe(attempt.host)) {
        overruled.add(attempt.host)
        lastProbe.delete(attempt.host)
      }
      if (answer.throttleMs === undefined || attempt.kind !== 'request' || attempt.ambiguous) return
      const nowMs = engine.nowMs()
      const key = `${attempt.process} ${attempt.backend}`
      const known = announced.get(key)
      const longestMs = longestWaitMs.get(attempt.backend) ?? 0
      longestWaitMs.set(attempt.backend, Math.max(longestMs, answer.throttleMs))
      const untilMs = nowMs + answer.throttleMs
      announced.set(key, known !== undefined && known.untilMs >= untilMs ? known : { sentMs: attempt.sentMs, untilMs })
    },
    head(asking, text) {
      const status = Number(text.slice(9, 12))
      const ours = !/\r\nx-proxy-backend: /i.test(text)
      if (ours) checkWait(asking, status, text)
      if (ours && status === 502) checkToken(asking)
      if (asking.event.poison !== undefined || text.includes('The key ')) return
      // The limits of keys are counted where somebody stood still.
      const { primary } = deps.processes()
      const isLate = primary !== undefined && pausedMs(primary, asking.sentMs, engine.nowMs()) > 0
      if (isLate && text.includes('"overloaded"')) return
      if (!ours && status < 429 && !NEVER_THE_CLIENTS.has(status)) return
      if (ours && status < 400) return
      // Whether a key has reached its limits only the primary knows.
      const unknown = asking.event.key === 'limited' && text.includes('"overloaded"')
      if (unknown && deps.processes().primaryPausedMs(asking.sentMs, engine.nowMs()) > 0) return
      const why = soundAllAlong(asking)
      if (why !== undefined) violate(1, 'error', `${asking.id} gets ${status} though ${why}`)
    },
    result(asking) {
      checkBody(asking)
      checkBlame(asking)
      if (asking.id.startsWith('place') && asking.result?.body.includes('at once') === true) {
        violate(9, 'places', `nothing of its key is under way, and ${asking.id} is refused: ${asking.result.body}`)
      }
      if (asking.result?.end === 'left') {
        engine.outside(engine.nowMs() + latencyMs + ABORT_MS + SWEEP_MS, () => checkAbort(asking))
      }
    },
    line(process, line) {
      const { msg, backend, reason, for_ms: forMs } = line
      if (typeof msg !== 'string' || typeof backend !== 'string') return
      const key = `${process.index} ${backend}`
      const word = /^backend (ejected|restored) by hand$/.exec(msg)?.[1]
      const index = specs.findIndex(({ name }) => name === backend)
      if (word !== undefined) steered(word === 'ejected' ? word : 'restored', index)
      if (msg === 'backend restored') {
        const reason = ejectedLine.get(key)?.reason
        if (line.by === 'probe' && typeof reason === 'string' && SEEN_BY_REQUESTS.test(reason)) {
          violate(2, 'by_probe', `a probe alone brought ${backend} back, which a request saw fail: ${reason}`)
        }
        checkReturn(process, line)
        ejectedLine.delete(key)
      }
      if (!/^backend ejected(?! by hand)/.test(msg)) return
      checkLast(process, backend, reason)
      checkSound(process, backend, reason)
      checkMeaning(process, line)
      const untilMs = typeof forMs === 'number' ? engine.nowMs() + forMs : Number.POSITIVE_INFINITY
      const before = ejectedLine.get(key)
      // A trial that fails begins a new hold, which is a change; a probe that goes on failing changes nothing.
      const goesOn = before !== undefined && (reason === 'probe_failed' || before.untilMs > engine.nowMs())
      // Among several, another's news may have let it in between; that is not reported again.
      if (goesOn && before.reason === reason && plan.processes === 1) {
        violate(10, 'said_twice', `p${process.index} says twice that ${backend} is out: ${String(reason)}`)
      }
      ejectedLine.set(key, { reason, untilMs, outMs: before?.outMs ?? engine.nowMs() })
    },
    reloaded(without) {
      if (without === undefined) return
      for (let i = 0; i < plan.processes; i++) ejectedLine.delete(`${i} ${specs[without]?.name}`)
      // With the backend goes what an operator has said of it.
      handEjected.delete(without)
      handEjectedMs.delete(without)
    },
    killed(process) {
      specs.forEach((_, i) => {
        announced.delete(`${process} ${i}`)
      })
    },
    metrics(text, isAtRest) {
      if (text !== undefined) checkMetrics(text, isAtRest)
    },
    isQuiet() {
      const nowMs = engine.nowMs()
      if (deps.clients().underWay.size > 0) return false
      // A probe that began before the calm may fail yet.
      const fromMs = nowMs - settings.connectTimeoutMs - settings.probeTimeoutMs
      const { attempts } = deps.backends()
      if (attempts.some(attempt => attempt.kind === 'probe' && attempt.sentMs > fromMs && !isOver(attempt)))
        return false
      for (let slot = 0; slot < plan.processes; slot++) {
        const process = deps.processes().all[slot]
        if (process === undefined) return false
        for (const [i, member] of membersOf(process).entries()) {
          if (member === undefined || handEjected.has(i)) continue
          const { state } = member.health
          if (state.phase.kind !== 'in' || state.throttle.dueAtMs > nowMs) return false
          if (!takesWaiting(member.health, nowMs)) return false
        }
      }
      return true
    },
    beginRounds() {
      rounds = { counts: specs.map(() => 0), areWhole: true }
    },
    atRest() {
      checkRest()
    },
    atEnd() {
      checkEnd()
    },
  }

  function checkRest(): void {
    const nowMs = engine.nowMs()
    for (const process of deps.processes().all) {
      if (process === undefined) continue
      for (const [i, { name }] of specs.entries()) {
        const member = memberOf(process, name)
        if (member === undefined || handEjected.has(i)) continue
        if (!isAvailable(member.health, nowMs))
          violate(2, 'out', `${name} is sound for long and still out in p${process.index}`)
        // Asked since, it has answered: on trial no more.
        if ((rounds?.counts[i] ?? 0) > 0 && plan.processes === 1 && member.health.state.phase.kind !== 'in') {
          violate(2, 'trial', `${name} answered in the last rounds and is not in`)
        }
        if (isEjected(member.health, nowMs))
          violate(6, 'health', `/health of p${process.index} counts ${name} out, which is sound`)
      }
    }
    for (const [i, { name }] of specs.entries()) {
      const last = deps.backends().attempts.findLast(({ backend, kind }) => backend === i && kind === 'request')
      if (last?.answer?.status !== 401 || !plan.events.some(({ kind }) => kind === 'revoke')) continue
      violate(2, 'token', `${name} is still asked with a token that it has refused long ago`)
    }
    for (let slot = 0; slot < plan.processes; slot++) {
      if (deps.processes().all[slot] === undefined) violate(9, 'workers', `nobody has taken the place of p${slot}`)
    }
    checkStuck()
    checkRounds()
    checkAgreement()
    checkLog()
  }

  /** Invariants 8 and 10: counters never fall, and count what happened; gauges come back. */
  function checkMetrics(text: string, isAtRest: boolean): void {
    const figures = readFigures(text)
    for (const [name, value] of figures) {
      if (!/_(?:total|count|sum|bucket)(?:\{|$)/.test(name)) continue
      const before = counters.get(name) ?? 0
      if (value < before) violate(8, 'counters', `${name} falls from ${before} to ${value}`)
      counters.set(name, value)
    }
    if (!isAtRest || deps.clients().underWay.size > 0) return
    for (const [name, value] of figures) {
      if (/^proxy_(?:open_streams|backend_in_flight)\b/.test(name) && value !== 0) {
        violate(9, 'gauges', `at rest ${name} is ${value}`)
      }
    }
    // What a killed process had not said yet is lost with it.
    const processes = deps.processes().ever
    if (processes.some(({ host }) => host.gone)) return
    const all = processes.flatMap(({ lines }) => lines.filter(({ msg }) => msg === 'request'))
    const own = all.filter(({ model }) => model !== null)
    const requests = sumOf(figures, 'proxy_requests_total{model="m"')
    if (requests !== own.length) violate(10, 'requests', `${requests} are counted, and ${own.length} have a line`)
    const several = all.filter(({ attempts }) => typeof attempts === 'number' && attempts > 1)
    const failovers = sumOf(figures, 'proxy_failovers_total{')
    const sure = several.filter(({ id, status, error }) => {
      const asking = typeof id === 'string' ? deps.clients().all.get(id) : undefined
      if (asking === undefined || asking.event.form === 'follow_up' || asking.event.form === 'read') return false
      const made = deps.backends().of(asking.id)
      const last = made.at(-1)
      const isSound = last?.answer?.whole === true && !/^(?:\{"error"|<)/.test(last.answer.payload)
      return status === 200 && error === null && isSound && made[0]?.backend !== last.backend
    })
    if (failovers > several.length || failovers < sure.length) {
      violate(10, 'failovers', `${failovers} failovers are counted; there were ${sure.length} to ${several.length}`)
    }
  }

  /** Invariant 9: whatever a client does, its request ends. */
  function checkStuck(): void {
    for (const { id, sentMs } of deps.clients().underWay) {
      if (engine.nowMs() - sentMs > STUCK_MS) violate(9, 'stuck', `${id} is under way since ${sentMs}`)
    }
  }

  function checkRounds(): void {
    if (rounds === undefined || !rounds.areWhole || plan.processes > 1) return
    if (handEjected.size > 0 || avoided.size > 0 || settings.balance === 'prompt_cache') return
    const { counts } = rounds
    const total = counts.reduce((sum, count) => sum + count, 0)
    const weights = specs.reduce((sum, { weight, priority }) => sum + (priority === 1 ? weight : 0), 0)
    // The run may end within a round.
    if (total === 0 || total % weights !== 0) return
    specs.forEach(({ name, weight, priority }, i) => {
      const share = priority === 1 ? (total * weight) / weights : 0
      if (counts[i] === share) return
      violate(3, 'weights', `${name} got ${counts[i]} of ${total} requests at rest; its weight says ${share}`)
    })
  }

  function checkAgreement(): void {
    const living = deps.processes().all.flatMap(process => (process === undefined ? [] : [process]))
    for (const [i, { name }] of specs.entries()) {
      const views = living.map(process => {
        const member = memberOf(process, name)
        return member === undefined ? 'none' : isEjected(member.health, engine.nowMs()) ? 'out' : 'in'
      })
      if (new Set(views).size > 1) violate(8, 'disagree', `the processes disagree on ${name}: ${views.join(', ')}`)
      const dead = living.find(
        process =>
          memberOf(process, name) !== undefined && handEjected.has(i) && views[living.indexOf(process)] === 'in',
      )
      if (dead !== undefined) violate(8, 'hand', `${name} was ejected by hand and is in in p${dead.index}`)
    }
  }

  /** Invariant 10: the log lines of the requests, against what was seen. */
  function checkLog(): void {
    const lines = new Map<string, LogLine[]>()
    for (const process of deps.processes().ever) {
      for (const line of process.lines) {
        if (line.msg !== 'request' || typeof line.id !== 'string') continue
        const known = lines.get(line.id)
        if (known === undefined) lines.set(line.id, [line])
        else known.push(line)
      }
    }
    for (const asking of deps.clients().all.values()) {
      if (asking.process.host.gone) continue
      const own = lines.get(asking.id) ?? []
      const [line] = own
      const seen = asking.leftMs !== undefined && deps.backends().of(asking.id).length === 0
      if (own.length !== 1 && !seen) violate(10, 'lines', `${asking.id} has ${own.length} log lines`)
      if (line === undefined) continue
      const attempts = deps
        .backends()
        .of(asking.id)
        .filter(attempt => !isStale(attempt))
      // The grain with which a process notes its pauses decides what it may send again.
      const unsure = attempts.length < deps.backends().of(asking.id).length && asking.process.host.pauses.length > 0
      // A try for which there was no token has sent nothing.
      const isCountable = asking.leftMs === undefined && !unsure && !hasIssuerTrouble
      if (line.attempts !== attempts.length && isCountable) {
        violate(10, 'attempts', `${asking.id} made ${attempts.length} attempts, its line says ${String(line.attempts)}`)
      }
      const { result } = asking
      const { stallMs = 0 } = asking.event
      if (line.error === 'client_stalled' && stallMs <= SHORT_STALL_MS) {
        violate(5, 'stalled', `${asking.id} is given up as stalled; it read no byte for ${stallMs} ms`)
      }
      if (result !== undefined && result.end === 'whole' && line.status !== result.status) {
        violate(10, 'status', `${asking.id} got ${result.status}, its line says ${String(line.status)}`)
      }
    }
  }

  /** Invariant 9. */
  function checkEnd(): void {
    for (const process of deps.processes().all) {
      if (process === undefined) continue
      const { proxy, host } = process
      const { shared, app } = proxy
      const pools = proxy.runtime().pools
      const left = {
        requests: app.inFlight(),
        bytes: shared.bodyBudget.heldBytes(),
        deadlines: shared.deadlines.size(),
        leases: pools.flatMap(pool => pool.members).reduce((sum, { health }) => sum + health.inFlight, 0),
        waiting: pools.reduce((sum, pool) => sum + shared.waitQueue.waiting(pool), 0),
        sockets: shared.transport.sockets().busy + shared.transport.sockets().free,
        timers: host.timers,
      }
      const names = Object.entries(left).filter(([, count]) => count !== 0)
      if (names.length > 0)
        violate(9, names[0]?.[0] ?? '', `p${process.index} has not given back ${JSON.stringify(left)}`)
    }
    if (deps.clients().open() > 0)
      violate(9, 'clients', `${deps.clients().open()} connections of clients are still open`)
    for (const asking of deps.clients().all.values()) {
      if (asking.result === undefined) violate(1, 'no_answer', `${asking.id} never got an answer`)
    }
  }
}
