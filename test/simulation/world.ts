// Runs one world from its plan: wires processes, backends, clients and checks to one engine, lets everything happen,
// then lets it come to rest.
import { createHash } from 'node:crypto'
import process from 'node:process'
import { createBackends } from './backends.ts'
import { createCalm } from './calm.ts'
import { createChecks, type Violation } from './checks.ts'
import { createClients } from './clients.ts'
import { createEngine } from './engine.ts'
import { createIssuer } from './issuer.ts'
import type { PlanEvent, WorldPlan } from './plan.ts'
import { type ConfigMaker, createProcesses, MODEL } from './processes.ts'

export interface WorldResult {
  readonly violations: readonly Violation[]
  /** Everything that happened, a line each; empty unless it was asked for. */
  readonly trace: readonly string[]
  /** SHA-256 of the trace; empty unless it was asked for. */
  readonly hash: string
  readonly steps: number
  readonly requests: number
}

export interface WorldOptions {
  readonly configOf: ConfigMaker
  readonly traced: boolean
}

/** One way, between any two ends. */
const LATENCY_MS = 1
const SHUTDOWN_MS = 8_000

export async function runWorld(plan: WorldPlan, { configOf, traced }: WorldOptions): Promise<WorldResult> {
  const engine = createEngine()
  const lines: string[] = []
  const violations: Violation[] = []
  const stored = new Map<string, string>()
  const trace = (text: () => string): void => {
    if (traced) lines.push(`${engine.nowMs().toFixed(1).padStart(9)} ${text()}`)
  }
  const report = (violation: Violation): void => {
    violations.push(violation)
    trace(() => `!! invariant ${violation.invariant} (${violation.check}): ${violation.text}`)
  }
  const checks = createChecks({
    engine,
    plan,
    latencyMs: LATENCY_MS,
    stored,
    backends: () => backends,
    clients: () => clients,
    processes: () => processes,
    report,
  })
  const issuer = createIssuer(engine, plan)
  const backends = createBackends({
    engine,
    plan,
    isValidToken: issuer.isValid,
    latencyMs: LATENCY_MS,
    stored,
    request: id => clients.all.get(id)?.event,
    onSent: checks.sent,
    onAnswered(attempt) {
      trace(
        () =>
          `p${attempt.process} ← ${plan.backends[attempt.backend]?.name} ${attempt.kind} ${attempt.requestId} ${attempt.answer?.status} ${attempt.answer?.after}`,
      )
      checks.answered(attempt)
    },
    trace,
  })
  const processes = createProcesses({
    engine,
    plan,
    configOf,
    backends: () => backends,
    issuer,
    onLine: checks.line,
    trace,
  })
  const clients = createClients({
    engine,
    plan,
    latencyMs: LATENCY_MS,
    processes: () => processes,
    onHead: checks.head,
    onResult(asking) {
      const { result } = asking
      trace(
        () =>
          `${asking.id} ${result?.end} ${result?.status} from ${result?.headers.get('x-proxy-backend') ?? 'the proxy'} ${createHash(
            'sha256',
          )
            .update(result?.body ?? '')
            .digest('hex')
            .slice(0, 8)}`,
      )
      checks.result(asking)
      calm.result(asking)
    },
    trace,
  })

  const happen = (event: PlanEvent): void => {
    trace(() => `-- ${JSON.stringify(event)}`)
    switch (event.kind) {
      case 'request':
        clients.send(event)
        return
      case 'trouble':
        backends.begin(event)
        return
      case 'freeze':
        processes.freeze(event.process, event.forMs)
        return
      case 'issuer_fails':
      case 'revoke':
        return
      case 'eject':
      case 'restore':
        clients.steer(
          event.process,
          `/dashboard/backends/${event.kind}`,
          `{"model":"${MODEL}","backend":"b${event.backend}"}`,
        )
        return
      case 'reload':
        checks.reloaded(event.without)
        processes.reload(event.without)
        return
      case 'kill':
        checks.killed(event.process)
        processes.kill(event.process, event.isPortTaken === true)
    }
  }

  for (const event of plan.events) {
    // A new config and a death happen to processes; the rest happens around them.
    if (event.kind === 'reload' || event.kind === 'kill') engine.at(event.atMs, () => happen(event))
    else engine.outside(event.atMs, () => happen(event))
  }
  const calm = createCalm({ engine, plan, clients, checks })

  // What nobody catches would end the process; here it is one more fault.
  const crashed = (error: unknown): void => {
    const text = error instanceof Error ? (error.stack ?? error.message) : String(error)
    report({ invariant: 9, check: 'crash', text, atMs: engine.nowMs() })
  }
  process.on('uncaughtException', crashed)
  try {
    await engine.run(calm.untilMs, checks)
    checks.atRest()
    const closed = processes.shutdown()
    clients.closeAll()
    const endMs = engine.nowMs() + SHUTDOWN_MS
    await engine.run(() => endMs, checks)
    let isClosed = false
    closed.then(() => {
      isClosed = true
    }, crashed)
    await Promise.resolve()
    await Promise.resolve()
    if (!isClosed) report({ invariant: 9, check: 'shutdown', text: 'the shutdown never ends', atMs: engine.nowMs() })
    checks.atEnd()
  } finally {
    process.off('uncaughtException', crashed)
  }
  return {
    violations,
    trace: lines,
    hash: traced ? createHash('sha256').update(lines.join('\n')).digest('hex') : '',
    steps: engine.steps(),
    requests: clients.all.size,
  }
}
