// One course of the matrix: real requests over two backends, one of which meets its faults, and what clients saw.
import { randomInt } from 'node:crypto'
import { createLog } from '../../lib/log.ts'
import { createProxy, type ProxyServer } from '../../lib/server/proxy.ts'
import { readConfig } from '../fixtures/run-proxy.ts'
import { createSteadyClock } from '../fixtures/steady-clock.ts'
import { MODEL, OPERATIONS, type Operation, REASONING } from './answers.ts'
import { type AskedRequest, type MatrixBackend, POISON_HEADER, startMatrixBackend, TURN_HEADER } from './backend.ts'
import { type Answer, createMatrixClient } from './client.ts'
import { type ConnectFault, type MatrixFault, POISONS } from './faults.ts'
import {
  CERTIFICATE,
  type EgressProxy,
  FIRST_HOST,
  openEgress,
  openWay,
  SECOND_HOST,
  TRUSTED,
  type Way,
} from './way.ts'

/** So many of the proxy's milliseconds pass in one of ours: holds and limits are as in real life, waiting is short. */
const PACE = 50
/** The shared clock: it stands still while this process does. */
export const matrixClock = createSteadyClock({ pace: PACE, tickMs: 1 })
const CLIENTS = 16
/** Requests of each of the three times that take turns: now and then, always, never. */
const PHASE_REQUESTS = 250
/** A short course has each time this often all the same. */
const LEAST_TURNS = 2
/** Of the log, kept to explain why /health went away. */
const LAST_LINES = 12
/** In the proxy's milliseconds. */
const POISON_EVERY_MS = 200
const HEALTH_EVERY_MS = 500
/** In ours: nothing is heard of any client for so long, so that something hangs. */
const HANGS_AFTER_MS = 120_000

export type Where =
  /** At the first tier's only backend; the second tier's is sound. */
  | 'first'
  /** At whichever of two equal backends is asked first; the next one spares the request. */
  | 'anywhere'

export interface Course {
  readonly faults: readonly MatrixFault[]
  readonly where: Where
  readonly requests: number
  readonly poison: boolean
}

export interface CourseResult {
  readonly requests: number
  /** How often a fault struck. */
  readonly struck: number
  /** Clients that saw what they must not see. */
  readonly errors: number
  /** The first of these. */
  readonly problem: string | undefined
  /** Answers of /health other than 200. */
  readonly healthAway: number
  /** The log before the first of these. */
  readonly away: string | undefined
  readonly poisoned: number
  /** Requests that the first backend served, of those that were served. */
  readonly firstShare: number
}

function configText(course: Course, urls: readonly string[], egress: EgressProxy | undefined): string {
  const proxy = egress === undefined ? '' : `, proxy: "http://127.0.0.1:${egress.port}"`
  const [first = '', second = ''] = urls
  const waits = course.where === 'anywhere' && course.faults.some(({ throttles }) => throttles) ? ', max_wait: 5m' : ''
  return `auth: {keys: [{name: matrix, key: matrix-key}, {name: poison, key: poison-key}]}
models:
  ${MODEL}:
    backends:
      - {name: first, endpoint: "${first}", api_key: azure-key, tls: {ca: /ca.pem}${proxy}}
      - {name: second, endpoint: "${second}", api_key: azure-key, tls: {ca: /ca.pem}, priority: ${course.where === 'first' ? 2 : 1}}
server: {port: 0, host: 127.0.0.1, shutdown_grace: 1s, stream_keepalive: 0s}
retry: {timeout: 10s, connect_timeout: 5s, first_output_timeout: 10s, stream_hold: 2s, idle_timeout: 10s, budget: 100%${waits}}
health_check: {interval: 1s, timeout: 900ms, recovery: 50ms}
`
}

/** Decides which requests and connections meet which fault. */
class Striker {
  struck = 0
  begun = 0
  readonly #course: Course
  readonly #met = new Set<number>()
  readonly #phaseRequests: number
  #requests = 0
  #connections = 0

  constructor(course: Course) {
    this.#course = course
    this.#phaseRequests = Math.max(1, Math.min(PHASE_REQUESTS, Math.floor(course.requests / 3 / LEAST_TURNS)))
  }

  /** Now and then, always, never: in turns. */
  #fault(count: number, fits: (fault: MatrixFault) => boolean): MatrixFault | undefined {
    const { faults, where } = this.#course
    const phase = Math.floor(this.begun / this.#phaseRequests) % 3
    if (phase === 2) return undefined
    const fault = faults[count % Math.max(faults.length, 1)]
    if (fault === undefined || !fits(fault)) return undefined
    const turn = Math.floor(count / faults.length)
    // Where every request is struck once, one that takes a time limit would fill the day.
    const always = phase === 1 && (where === 'first' || fault.every <= 2)
    return always || turn % fault.every === 0 ? fault : undefined
  }

  forRequest(asked: AskedRequest): MatrixFault['strike'] {
    if (asked.poison !== undefined) return POISONS[asked.poison % POISONS.length]
    const anywhere = this.#course.where === 'anywhere'
    if (anywhere && this.#met.delete(asked.turn)) return undefined
    const fits = ({ strike, fits = () => true }: MatrixFault): boolean => strike !== undefined && fits(asked)
    const fault = this.#fault(this.#requests++, fits)
    if (fault === undefined) return undefined
    if (anywhere) this.#met.add(asked.turn)
    this.struck++
    return fault.strike
  }

  forConnection(places: readonly ConnectFault['at'][]): ConnectFault | undefined {
    const { faults } = this.#course
    // A connection passes several places; it is counted where one of the faults would strike.
    const fits = ({ connect }: MatrixFault): boolean => connect !== undefined && places.includes(connect.at)
    if (!faults.some(fits)) return undefined
    const fault = this.#fault(this.#connections++, fits)
    if (fault !== undefined) this.struck++
    return fault?.connect
  }
}

/** A proxy in front of two backends, and the way between them. */
class Stage {
  readonly proxy: ProxyServer
  readonly port: number
  readonly #backends: readonly MatrixBackend[]
  readonly #egress: EgressProxy | undefined
  readonly #way: Way

  private constructor(
    proxy: ProxyServer,
    port: number,
    parts: { readonly backends: readonly MatrixBackend[]; readonly egress: EgressProxy | undefined; readonly way: Way },
  ) {
    this.proxy = proxy
    this.port = port
    this.#backends = parts.backends
    this.#egress = parts.egress
    this.#way = parts.way
  }

  /** @param write takes the log's lines of what becomes of backends */
  static async open(course: Course, striker: Striker, write: (line: string) => void): Promise<Stage> {
    const { faults, where } = course
    const connects = faults.flatMap(({ connect }) => (connect === undefined ? [] : [connect]))
    const throughEgress = connects.some(({ at }) => at === 'egress' || at === 'egress_port')
    const overTls = throughEgress || connects.some(one => one.at === 'port' && one.port !== 'closed')
    const certificate = overTls ? CERTIFICATE : undefined
    const closes = connects.length > 0
    const first = await startMatrixBackend({ certificate, closes, strikeFor: asked => striker.forRequest(asked) })
    const second = await startMatrixBackend({
      certificate,
      closes: false,
      strikeFor: asked => (asked.poison !== undefined || where === 'anywhere' ? striker.forRequest(asked) : undefined),
    })
    const egress = throughEgress
      ? await openEgress(first.port, () => {
          const fault = striker.forConnection(['egress'])
          return fault?.at === 'egress' ? fault : undefined
        })
      : undefined
    const entrance = egress?.port ?? first.port
    const way = await openWay(
      matrixClock,
      () => 300_000,
      port => port === entrance,
      (...places) => striker.forConnection(places),
    )
    const protocol = overTls ? 'https' : 'http'
    const urls = [`${protocol}://${FIRST_HOST}:${first.port}`, `${protocol}://${SECOND_HOST}:${second.port}`]
    const text = configText(course, urls, egress)
    const proxy = createProxy({
      config: readConfig(overTls ? text : text.replaceAll(', tls: {ca: /ca.pem}', ''), () => TRUSTED),
      version: 'matrix',
      clock: matrixClock,
      random: () => randomInt(2 ** 30) / 2 ** 30,
      log: createLog({ clock: matrixClock, level: () => 'info', format: () => 'json', write }),
      tokenAuthorizer: () => ({
        authorize: () => ({ kind: 'unavailable', reason: 'none here', waitMs: 60_000, permanent: true }),
      }),
      transport: way.transport,
    })
    const { port } = await proxy.listen()
    proxy.startProbes()
    return new Stage(proxy, port, { backends: [first, second], egress, way })
  }

  async close(): Promise<void> {
    await this.proxy.shutdown(1_000)
    await this.#way.close()
    await this.#egress?.close()
    await Promise.all(this.#backends.map(backend => backend.close()))
  }
}

function requestText({ path, request }: Operation, key: string, turn: number, header = ''): string {
  const body = JSON.stringify(request(turn))
  const head = [
    `POST ${path} HTTP/1.1`,
    'Host: proxy',
    `Authorization: Bearer ${key}`,
    'Content-Type: application/json',
    `${TURN_HEADER}: ${turn}`,
    `Content-Length: ${body.length}`,
  ]
  return `${head.join('\r\n')}\r\n${header}\r\n${body}`
}

/** A stream that has begun soundly and says that it is not whole. */
function endsHonestly({ streams, startUp, output, whole }: Operation, { status, body, cut }: Answer): boolean {
  const begun = [...startUp, ...output.slice(0, 2)].join('')
  if (!streams || status !== 200 || !body.startsWith(begun) || body.includes('[DONE]') || body === whole) return false
  const rest = body.slice(begun.length)
  return cut || rest.includes('error')
}

/** What is wrong with an answer; undefined: nothing. */
function problemOf(course: Course, operation: Operation, answer: Answer): string | undefined {
  const { status, head, body, cut } = answer
  const isSound = status === 200 && !cut && body === operation.whole
  if (isSound) return undefined
  const may = course.faults.map(({ expected }) => expected)
  if (may.includes('honest_end') && endsHonestly(operation, answer)) return undefined
  if (
    may.includes('passed_on') &&
    status >= 400 &&
    status < 500 &&
    !cut &&
    /x-proxy-attempts: 1\r\n/.test(`${head}\r\n`)
  ) {
    return undefined
  }
  // While one backend is throttled and poison has put the other out, a client is told when to come back.
  const throttled = course.poison && course.faults.some(({ throttles }) => throttles)
  if (throttled && status === 429 && /\r\nretry-after: /i.test(head) && !cut) return undefined
  return `${operation.name}: ${status}${cut ? ', cut' : ''}, ${/x-proxy-attempts: \d+/.exec(head)?.[0] ?? 'no attempts'}, ${body.slice(0, 160)}`
}

async function healthOf(port: number): Promise<number> {
  const client = createMatrixClient(port)
  const { status } = await client.ask('GET /health HTTP/1.1\r\nHost: proxy\r\n\r\n')
  client.close()
  return status
}

/** Runs one course to its end. */
export async function runCourse(course: Course): Promise<CourseResult> {
  const striker = new Striker(course)
  const lines: string[] = []
  const stage = await Stage.open(course, striker, line => {
    if (line.includes('"msg":"request"')) return
    lines.push(line)
    if (lines.length > LAST_LINES) lines.shift()
  })
  const operations = course.faults.some(({ reasoning }) => reasoning) ? [REASONING] : OPERATIONS
  let errors = 0
  let problem: string | undefined
  let served = 0
  let servedFirst = 0
  let healthAway = 0
  let away: string | undefined
  let poisoned = 0
  let heardMs = performance.now()

  const client = async (): Promise<void> => {
    const connection = createMatrixClient(stage.port)
    while (striker.begun < course.requests) {
      const turn = ++striker.begun
      const operation = operations[turn % operations.length]
      if (operation === undefined) break
      const answer = await connection.ask(requestText(operation, 'matrix-key', turn))
      heardMs = performance.now()
      const wrong = problemOf(course, operation, answer)
      if (wrong !== undefined) {
        errors++
        problem ??= wrong
      }
      const by = /\r\nx-proxy-backend: (\w+)/i.exec(answer.head)?.[1]
      if (by !== undefined) served++
      if (by === 'first') servedFirst++
    }
    connection.close()
  }
  const poison = (): void => {
    const connection = createMatrixClient(stage.port)
    const operation = OPERATIONS[poisoned % OPERATIONS.length] ?? REASONING
    const header = `${POISON_HEADER}: ${poisoned++}\r\n`
    connection.ask(requestText(operation, 'poison-key', 0, header)).then(() => connection.close())
  }
  const watch = (): void => {
    healthOf(stage.port).then(status => {
      if (status === 200 || over) return
      healthAway++
      away ??= lines.join('')
    })
  }
  let over = false
  const timers = course.poison
    ? [matrixClock.every(POISON_EVERY_MS, poison), matrixClock.every(HEALTH_EVERY_MS, watch)]
    : []
  const hanging = setInterval(() => {
    if (performance.now() - heardMs < HANGS_AFTER_MS) return
    const names = course.faults.map(({ name }) => name).join(' + ')
    throw new Error(`${names}: a client waits for ever (${striker.begun} begun, ${striker.struck} struck)`)
  }, 5_000)
  await Promise.all(Array.from({ length: CLIENTS }, client))
  over = true
  clearInterval(hanging)
  for (const timer of timers) timer.cancel()
  await stage.close()
  return {
    requests: striker.begun,
    struck: striker.struck,
    errors,
    problem,
    healthAway,
    away,
    poisoned,
    firstShare: servedFirst / Math.max(served, 1),
  }
}
