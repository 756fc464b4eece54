// The load generator, a process of its own: takes one job after the other and tells what came of each. Closed loop:
// each connection asks again when it is answered. Fixed rate: requests begin when they are due, and latency counts from
// there. So a slow response cannot hide those that had to wait for it. Slow: many open streams at once.
import { type Client, createClient, type Handshake, sameBytes, stampedEvents } from './client.ts'
import { createHistogram, type Histogram } from './histogram.ts'
import { expectedBody, nowUs, type Route, requestBytes, SLOW_EVENTS_PER_S, type Work } from './payloads.ts'

/** Where a job goes. */
export interface Aim {
  readonly port: number
  readonly route: Route
  /** The target speaks TLS. */
  readonly secure: boolean
}

export type Job = Aim &
  (
    | {
        readonly kind: 'closed'
        readonly work: Exclude<Work, 'slow'>
        readonly connections: number
        /** It ends with whichever comes first: so many seconds, so many requests, or both figures of `enough`. */
        readonly seconds: number
        readonly requests?: number
        readonly enough?: { readonly seconds: number; readonly requests: number }
        readonly handshakes?: Handshake
      }
    | {
        readonly kind: 'fixed'
        readonly work: Exclude<Work, 'slow'>
        readonly connections: number
        readonly seconds: number
        readonly perSecond: number
      }
    | {
        readonly kind: 'slow'
        readonly streams: number
        readonly seconds: number
        /** They begin one after the other, evenly over so many milliseconds; left out: as fast as a backlog allows. */
        readonly beginOverMs?: number
      }
  )

export interface Result {
  readonly kind: 'result'
  readonly requests: number
  readonly errors: number
  /** What was wrong first. */
  readonly problem: string | undefined
  readonly elapsedS: number
  /** Of requests; for slow streams of events, from sending to arrival. In µs. */
  readonly p50Us: number
  readonly p99Us: number
  /** Of slow streams: the time of each one's first event on its way, median, in µs. */
  readonly firstEventP50Us: number
  readonly sentBodyBytes: number
  readonly events: number
}

/** `opened`: all slow streams are open. */
export type FromLoad = { readonly kind: 'ready' } | { readonly kind: 'opened' } | Result

/** After so many the job is given up: something is wrong that no further request tells more of. */
const MAX_ERRORS = 1_000
/** Slow streams are opened in steps, below any listen backlog. */
const OPENED_AT_ONCE = 50
const OPENING_EVERY_MS = 20

interface Tally {
  readonly latencies: Histogram
  readonly firstEvents: Histogram
  requests: number
  errors: number
  problem: string | undefined
  events: number
}

function createTally(): Tally {
  return {
    latencies: createHistogram(),
    firstEvents: createHistogram(),
    requests: 0,
    errors: 0,
    problem: undefined,
    events: 0,
  }
}

function note(tally: Tally, problem: string | undefined, sinceUs: number): void {
  tally.requests++
  if (problem === undefined) tally.latencies.add(nowUs() - sinceUs)
  else {
    tally.errors++
    tally.problem ??= problem
  }
}

function closedLoop(job: Job & { kind: 'closed' }, request: Buffer, tally: Tally): Promise<void> {
  const expected = expectedBody(job.work)
  const { enough } = job
  const sinceStartS = (): number => (nowUs() - startUs) / 1e6
  const startUs = nowUs()
  let begun = 0
  let open = job.connections
  const isEnough = (): boolean => enough !== undefined && begun >= enough.requests && sinceStartS() >= enough.seconds
  const more = (): boolean =>
    begun < (job.requests ?? Number.POSITIVE_INFINITY) &&
    sinceStartS() < job.seconds &&
    tally.errors < MAX_ERRORS &&
    !isEnough()

  return new Promise(resolve => {
    for (let i = 0; i < job.connections; i++) {
      let sinceUs = 0
      const next = (): void => {
        if (more()) {
          begun++
          sinceUs = nowUs()
          client.send()
          return
        }
        client.close()
        if (--open === 0) resolve()
      }
      const client = createClient({
        port: job.port,
        secure: job.secure,
        handshakes: job.handshakes,
        request,
        check: sameBytes(expected),
        onDone(problem) {
          note(tally, problem, sinceUs)
          next()
        },
      })
      next()
    }
  })
}

function fixedRate(job: Job & { kind: 'fixed' }, request: Buffer, tally: Tally): Promise<void> {
  const expected = expectedBody(job.work)
  const total = Math.round(job.seconds * job.perSecond)
  const everyUs = 1e6 / job.perSecond
  const startUs = nowUs()
  const idle: ((dueUs: number) => void)[] = []
  const clients: Client[] = []
  let due = 0
  let sent = 0

  return new Promise(resolve => {
    const sendDue = (): void => {
      for (
        let send = sent < due ? idle.pop() : undefined;
        send !== undefined;
        send = sent < due ? idle.pop() : undefined
      ) {
        send(startUs + sent++ * everyUs)
      }
    }
    for (let i = 0; i < job.connections; i++) {
      let sinceUs = 0
      const send = (dueUs: number): void => {
        sinceUs = dueUs
        client.send()
      }
      const client = createClient({
        port: job.port,
        secure: job.secure,
        request,
        check: sameBytes(expected),
        onDone(problem) {
          note(tally, problem, sinceUs)
          idle.push(send)
          sendDue()
        },
      })
      clients.push(client)
      idle.push(send)
    }
    // Timers of a millisecond would blur what takes a tenth of one: the loop looks at the clock each turn instead.
    const turn = (): void => {
      due = Math.min(total, Math.floor((nowUs() - startUs) / everyUs) + 1)
      sendDue()
      if (tally.requests < total && tally.errors < MAX_ERRORS) {
        setImmediate(turn)
        return
      }
      for (const client of clients) client.close()
      resolve()
    }
    turn()
  })
}

function slowStreams(job: Job & { kind: 'slow' }, request: Buffer, tally: Tally, onOpened: () => void): Promise<void> {
  let begun = 0
  let heads = 0
  return new Promise(resolve => {
    const open = (): void => {
      let isFirst = true
      const client = createClient({
        port: job.port,
        secure: job.secure,
        request,
        check: stampedEvents(job.seconds * SLOW_EVENTS_PER_S, delayUs => {
          tally.events++
          if (isFirst) tally.firstEvents.add(delayUs)
          isFirst = false
          tally.latencies.add(delayUs)
        }),
        onHead() {
          if (++heads === job.streams) onOpened()
        },
        onDone(problem) {
          tally.requests++
          if (problem !== undefined) {
            tally.errors++
            tally.problem ??= problem
          }
          client.close()
          if (tally.requests === job.streams) resolve()
        },
      })
      client.send()
    }
    const { beginOverMs } = job
    const beganUs = nowUs()
    const dueNow = (): number =>
      beginOverMs === undefined
        ? Math.min(begun + OPENED_AT_ONCE, job.streams)
        : Math.min(job.streams, Math.ceil(((nowUs() - beganUs) / 1_000 / beginOverMs) * job.streams))
    const opening = setInterval(
      () => {
        for (const due = dueNow(); begun < due; begun++) open()
        if (begun === job.streams) clearInterval(opening)
      },
      beginOverMs === undefined ? OPENING_EVERY_MS : 1,
    )
  })
}

async function perform(job: Job, tell: (message: FromLoad) => void): Promise<void> {
  const work = job.kind === 'slow' ? 'slow' : job.work
  const { all, bodyBytes } = requestBytes(work, job.route, work === 'slow' ? `slow=${job.seconds}` : work)
  const tally = createTally()
  const beganUs = nowUs()
  if (job.kind === 'closed') await closedLoop(job, all, tally)
  else if (job.kind === 'fixed') await fixedRate(job, all, tally)
  else await slowStreams(job, all, tally, () => tell({ kind: 'opened' }))
  tell({
    kind: 'result',
    requests: tally.requests,
    errors: tally.errors,
    problem: tally.problem,
    elapsedS: (nowUs() - beganUs) / 1e6,
    p50Us: tally.latencies.quantile(0.5),
    p99Us: tally.latencies.quantile(0.99),
    firstEventP50Us: tally.firstEvents.quantile(0.5),
    sentBodyBytes: tally.requests * bodyBytes,
    events: tally.events,
  })
}

const tell = (message: FromLoad): void => {
  process.send?.(message)
}
process.on('disconnect', () => process.exit())
process.on('message', (job: Job) => {
  perform(job, tell).catch(error => {
    console.error(error)
    process.exit(1)
  })
})
tell({ kind: 'ready' })
