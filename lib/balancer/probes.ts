// Asks every resource now and then, token-free, whether it lives and takes its credential; the response moves the
// health of all its deployments. How a resource is asked is handed in.
import type { Clock, Random, Timer } from '../clock.ts'
import type { EjectReason, HealthRegistry } from './health.ts'
import type { Member } from './pool.ts'

export type ProbeVerdict =
  | { readonly kind: 'alive' }
  /** Something answers, but says nothing of the resource: a gateway that does not expose the model list. */
  | { readonly kind: 'unknown' }
  | { readonly kind: 'out'; readonly reason: EjectReason; readonly detail: string; readonly timeout: boolean }
  /**
   * It could not be asked, for a reason of ours that ends by itself after so many milliseconds: no token at the moment.
   */
  | { readonly kind: 'withheld'; readonly reason: EjectReason; readonly detail: string; readonly holdMs: number }
  /**
   * It could not be asked, and that says nothing of it: no file descriptor is left, say. @property shortage the code of
   * what this machine is short of (errno(3)); undefined: the proxy stops
   */
  | { readonly kind: 'not_asked'; readonly shortage: string | undefined }

export interface ProbesOptions {
  readonly clock: Clock
  readonly random: Random
  readonly health: HealthRegistry
  /** Asked for every round, so that a reload is followed. */
  readonly members: () => readonly Member[]
  readonly settings: () => { readonly enabled: boolean; readonly intervalMs: number }
  readonly ask: (member: Member) => Promise<ProbeVerdict>
  /** What is asked once for all members for which this is equal. Default: the resource. */
  readonly groupOf?: (member: Member) => string
}

export interface Probes {
  /** One round now; resolves when every resource has answered or failed to. */
  round(): Promise<void>
  start(): void
  stop(): void
}

/** Rounds are spread by this share of the interval, so that many proxies do not ask in step. */
const JITTER = 0.1
/** The resources of one round are asked over this time at most, not all in one moment. */
const SPREAD_MS = 1_000
/** The spread's share of a short interval. */
const SPREAD_SHARE = 0.1

/**
 * How long a failing probe's result stands without another probe, in milliseconds. Two rounds: a hold outlasts the
 * pause between two probes, and ends when the probing process is gone. 0 where probes are off.
 */
export function probeTrustMs({
  enabled,
  intervalMs,
  timeoutMs,
}: {
  readonly enabled: boolean
  readonly intervalMs: number
  readonly timeoutMs: number
}): number {
  return enabled ? 2 * (intervalMs * (1 + JITTER) + timeoutMs) : 0
}

export function createProbes({
  clock,
  random,
  health: healthRegistry,
  members,
  settings,
  ask,
  groupOf = member => member.resourceId,
}: ProbesOptions): Probes {
  let timer: Timer | undefined
  let stopped = true

  const judge = ({ health }: Member, verdict: ProbeVerdict, askedAtMs: number): void => {
    if (verdict.kind === 'alive') healthRegistry.probePassed(health, askedAtMs)
    else if (verdict.kind === 'unknown') healthRegistry.probeUnknown(health, askedAtMs)
    else if (verdict.kind === 'withheld') {
      healthRegistry.withhold(health, verdict.reason, verdict.detail, verdict.holdMs)
    } else if (verdict.kind === 'out') {
      const { reason, detail, timeout } = verdict
      // Busy is not dead: a backend that answered requests meanwhile was only too slow for a probe.
      if (timeout && health.lastAnsweredMs >= askedAtMs) healthRegistry.probeUnknown(health, askedAtMs)
      else healthRegistry.probeFailed(health, reason, detail, timeout ? askedAtMs : Number.POSITIVE_INFINITY)
    }
  }

  const pause = (ms: number): Promise<void> =>
    ms === 0 ? Promise.resolve() : new Promise(resolve => clock.after(ms, resolve))

  const probe = async (group: string, first: Member, afterMs: number): Promise<void> => {
    await pause(afterMs)
    if (afterMs > 0 && stopped) return
    const askedAtMs = clock.nowMs()
    const verdict = await ask(first)
    // As they are now: a reload may have come between.
    for (const member of members()) if (groupOf(member) === group) judge(member, verdict, askedAtMs)
  }

  const askAll = async (spreadMs: number): Promise<void> => {
    const groups = new Map<string, Member>()
    for (const member of members()) {
      const group = groupOf(member)
      if (!groups.has(group)) groups.set(group, member)
    }
    await Promise.all([...groups].map(([group, first]) => probe(group, first, Math.floor(spreadMs * random()))))
  }

  const run = (): void => {
    if (stopped) return
    const { enabled, intervalMs } = settings()
    const beganMs = clock.nowMs()
    const next = (): void => {
      if (stopped) return
      const dueMs = settings().intervalMs * (1 + JITTER * (random() - 0.5))
      timer = clock.after(Math.max(dueMs - (clock.nowMs() - beganMs), 0), run)
    }
    const round = enabled ? askAll(Math.min(SPREAD_MS, intervalMs * SPREAD_SHARE)) : Promise.resolve()
    round.then(next, next)
  }

  return {
    round: () => askAll(0),
    start() {
      if (!stopped) return
      stopped = false
      // Right away, not an interval later: the first request need not be the one that finds out.
      timer = clock.after(0, run)
    },
    stop() {
      stopped = true
      timer?.cancel()
    },
  }
}
