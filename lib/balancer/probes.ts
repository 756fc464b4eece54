// Asks every resource now and then, token-free, whether it lives and takes its credential; what they answer moves the standings
// of all its deployments. How a resource is asked is handed in.
import type { Clock, Random, Timer } from '../clock.ts'
import type { EjectReason, HealthRegistry } from './health.ts'
import type { Member } from './pool.ts'

export type ProbeVerdict =
  | { readonly kind: 'alive' }
  /** Something answers, but says nothing of the resource: a gateway that does not expose the model list. */
  | { readonly kind: 'unknown' }
  | { readonly kind: 'out'; readonly reason: EjectReason; readonly detail: string; readonly timeout: boolean }

export interface ProbesOptions {
  readonly clock: Clock
  readonly random: Random
  readonly health: HealthRegistry
  /** Asked for every round, so that a reload is followed. */
  readonly members: () => readonly Member[]
  readonly settings: () => { readonly enabled: boolean; readonly intervalMs: number }
  readonly ask: (member: Member) => Promise<ProbeVerdict>
  /** Sees every verdict, to share it with other processes. */
  readonly onVerdict?: (resourceId: string, verdict: ProbeVerdict, askedAtMs: number) => void
}

export interface Probes {
  /** One round now; resolves when every resource has answered or failed to. */
  round(): Promise<void>
  start(): void
  stop(): void
  /** Applies a verdict that another process obtained. */
  apply(resourceId: string, verdict: ProbeVerdict, askedAtMs: number): void
}

/** Rounds are spread by this share of the interval, so that many proxies do not ask in step. */
const JITTER = 0.1

export function createProbes({
  clock,
  random,
  health: healthRegistry,
  members,
  settings,
  ask,
  onVerdict,
}: ProbesOptions): Probes {
  let timer: Timer | undefined
  let stopped = true

  const judge = ({ health }: Member, verdict: ProbeVerdict, askedAtMs: number): void => {
    if (verdict.kind === 'alive') healthRegistry.probePassed(health, askedAtMs)
    // Busy is not dead: who answered others meanwhile was only too slow for a probe.
    else if (verdict.kind === 'out' && !(verdict.timeout && health.lastAnsweredMs >= askedAtMs)) {
      healthRegistry.probeFailed(health, verdict.reason, verdict.detail)
    }
  }

  const apply = (resourceId: string, verdict: ProbeVerdict, askedAtMs: number): void => {
    for (const member of members()) if (member.resourceId === resourceId) judge(member, verdict, askedAtMs)
  }

  const probe = async (group: readonly Member[], first: Member): Promise<void> => {
    const askedAtMs = clock.nowMs()
    const verdict = await ask(first)
    onVerdict?.(first.resourceId, verdict, askedAtMs)
    for (const member of group) judge(member, verdict, askedAtMs)
  }

  const round = async (): Promise<void> => {
    const groups = new Map<string, Member[]>()
    for (const member of members()) {
      const group = groups.get(member.resourceId)
      if (group === undefined) groups.set(member.resourceId, [member])
      else group.push(member)
    }
    await Promise.all([...groups.values()].map(group => (group[0] === undefined ? undefined : probe(group, group[0]))))
  }

  // The first round comes one interval after the start: the first requests find out sooner anyway.
  const schedule = (): void => {
    if (stopped) return
    const { intervalMs } = settings()
    timer = clock.after(intervalMs * (1 + JITTER * (random() - 0.5)), () => {
      const next = settings().enabled ? round() : Promise.resolve()
      next.then(schedule, schedule)
    })
  }

  return {
    round,
    apply,
    start() {
      if (!stopped) return
      stopped = false
      schedule()
    },
    stop() {
      stopped = true
      timer?.cancel()
    },
  }
}
