// The simulated resources: they take connections, read what the proxy sends, and answer by the plan. What they were
// asked, and what they meant to answer, is kept: it is what the checks compare with.
import type net from 'node:net'
import type { Transport, WireRequest } from '../../lib/http1/send.ts'
import { type Answer, type Asked, errorAnswer, foreignState, soundAnswer, troubledAnswer } from './answers.ts'
import type { Engine, Host } from './engine.ts'
import { createMessageReader, type ReadMessage } from './http-text.ts'
import { type Dialled, dial, type Peer, type PeerEvents } from './network.ts'
import type { BackendPlan, RequestEvent, Trouble, TroubleEvent, WorldPlan } from './plan.ts'

/** One thing that the proxy sent to a backend. */
export interface Attempt {
  readonly number: number
  readonly kind: 'request' | 'probe' | 'lookup'
  /** The client's request; empty for probes and lookups. */
  readonly requestId: string
  readonly host: string
  /** The backend's index; of a probe or lookup the first one of its resource. */
  readonly backend: number
  readonly process: number
  /** The process itself: another may have its place by now. */
  readonly madeBy: Host
  /** When the proxy decided for it; the request goes out when the connection stands. */
  readonly sentMs: number
  /** The connection had brought an answer before. */
  reused: boolean
  arrivedMs: number | undefined
  answer: Answer | undefined
  /** When its last piece is to reach the proxy. */
  dueMs: number
  /** The last piece has reached the proxy. */
  answeredMs: number | undefined
  /** The first piece has. */
  begunMs: number | undefined
  /** The proxy gave it up, or its connection. */
  droppedMs: number | undefined
  /** The proxy has learnt that no answer comes. */
  failedMs: number | undefined
  /** The connection's end or reset has reached the proxy while this was its business. */
  lostMs: number | undefined
  /** Which of its resource's backends was meant is not known: it reads a stored object. */
  readonly ambiguous: boolean
  /** The bucket was empty. */
  refusedByBucket: boolean
}

export interface Backends {
  connect(host: Host, target: string, options: { readonly onread?: net.OnReadOpts | undefined }): net.Socket
  /** A transport whose requests are known from the moment when the proxy decides for them. */
  watch(process: number, madeBy: Host, transport: Transport): Transport
  /** Every attempt so far. */
  readonly attempts: readonly Attempt[]
  of(requestId: string): readonly Attempt[]
  /** Whether something is wrong with a backend at some time in a span, for requests; slow answers are not wrong. */
  troubled(backend: number, fromMs: number, toMs: number): boolean
  /** Whether the proxy has a reason to blame a backend: as `troubled` for requests or probes, less our own faults. */
  blamable(backend: number, fromMs: number, toMs: number): boolean
  /** As `troubled`, for probes. */
  probeTroubled(backend: number, fromMs: number, toMs: number): boolean
  begin(event: TroubleEvent): void
  /** Connections that are open at this side. */
  open(): number
}

export interface BackendsDeps {
  readonly engine: Engine
  readonly plan: WorldPlan
  readonly latencyMs: number
  request(id: string): RequestEvent | undefined
  /** The proxy has just written an attempt. */
  onSent(attempt: Attempt): void
  /** All of an answer, or what there is of it, has reached the proxy. */
  onAnswered(attempt: Attempt): void
  /** Whether a token is worth anything. */
  isValidToken(authorization: string | undefined): boolean
  /** Who holds a stored response. */
  readonly stored: Map<string, string>
  trace(text: () => string): void
}

interface Connection {
  readonly host: string
  peer: Peer | undefined
  attempt: Attempt | undefined
  used: boolean
  /** It leads to an address that the name no longer has. */
  moved: boolean
  /** It ends after the response in progress. */
  ending: boolean
  /** Its end is on the way to the proxy. */
  ended: boolean
  open: boolean
}

const PROBE_SERVICE_MS = 5
/** After a failure the issuer is left alone for so long at first; each further one doubles it. */
const ISSUER_BACK_OFF_MS = 3_000
/** Longer than what may go on for a client that has left. */
const LONG_GAP_MS = 250

function overlaps(event: TroubleEvent, fromMs: number, toMs: number): boolean {
  return event.atMs <= toMs && event.atMs + event.forMs >= fromMs
}

/** Whether a backend with this trouble serves all the same. */
function isHarmless({ kind }: Trouble): boolean {
  return kind === 'slow' || kind === 'halting' || kind === 'bare_end' || kind === 'misdirected'
}

function isOfConnection({ kind }: Trouble): boolean {
  return kind === 'unconnectable' || kind === 'black_hole' || kind === 'own_shortage' || kind === 'restart'
}

export function createBackends(deps: BackendsDeps): Backends {
  const { engine, plan, latencyMs } = deps
  const attempts: Attempt[] = []
  const byRequest = new Map<string, Attempt[]>()
  const connections = new Set<Connection>()
  const buckets = plan.backends.map(({ bucket }) => ({ tokens: bucket?.burst ?? 0, atMs: 0 }))
  const troubles = plan.events.filter((event): event is TroubleEvent => event.kind === 'trouble')
  let answers = 0

  const active = (backend: number, toProbe: boolean): readonly Trouble[] => {
    const nowMs = engine.nowMs()
    return troubles
      .filter(
        event =>
          event.backend === backend &&
          event.atMs <= nowMs &&
          nowMs < event.atMs + event.forMs &&
          (event.scope === 'all' || event.scope === (toProbe ? 'probes' : 'requests')),
      )
      .map(event => event.trouble)
  }
  const byHost = new Map<string, number[]>()
  plan.backends.forEach(({ host }, i) => {
    byHost.set(host, [...(byHost.get(host) ?? []), i])
  })
  const indicesOf = (host: string): readonly number[] => byHost.get(host) ?? []

  /** Takes one from a bucket; how long until there is one, where it is empty. */
  const take = (index: number, { bucket }: BackendPlan): number => {
    const state = buckets[index]
    if (bucket === undefined || state === undefined) return 0
    const nowMs = engine.nowMs()
    state.tokens = Math.min(state.tokens + ((nowMs - state.atMs) / 1000) * bucket.perSecond, bucket.burst)
    state.atMs = nowMs
    if (state.tokens >= 1) {
      state.tokens--
      return 0
    }
    return Math.ceil(((1 - state.tokens) / bucket.perSecond) * 1000)
  }

  const identify = (
    host: string,
    { method, path, headers }: WireRequest,
    body: readonly Buffer[],
  ): Pick<Attempt, 'kind' | 'requestId' | 'backend'> => {
    const [first = 0] = indicesOf(host)
    const at = headers.findIndex((name, i) => i % 2 === 0 && name.toLowerCase() === 'x-client-request-id')
    const requestId = at === -1 ? '' : (headers[at + 1] ?? '')
    if (requestId === '')
      return { kind: method === 'GET' && /\/models/.test(path) ? 'probe' : 'lookup', requestId, backend: first }
    const deployment =
      /\/deployments\/(\w+)\//.exec(path)?.[1] ??
      /"model":"(\w+)"/.exec(Buffer.concat([...body]).toString('latin1'))?.[1]
    const backend = plan.backends.findIndex(candidate => candidate.host === host && candidate.deployment === deployment)
    return { kind: 'request', requestId, backend: backend === -1 ? first : backend }
  }

  const begin = (process: number, madeBy: Host, wire: WireRequest, body: readonly Buffer[]): Attempt => {
    const host = wire.endpoint.hostname
    const attempt: Attempt = {
      number: attempts.length,
      ...identify(host, wire, body),
      host,
      process,
      madeBy,
      sentMs: engine.nowMs(),
      reused: false,
      arrivedMs: undefined,
      answer: undefined,
      dueMs: Number.POSITIVE_INFINITY,
      answeredMs: undefined,
      begunMs: undefined,
      droppedMs: undefined,
      failedMs: undefined,
      lostMs: undefined,
      ambiguous: wire.method !== 'POST' && indicesOf(host).length > 1,
      refusedByBucket: false,
    }
    attempts.push(attempt)
    if (attempt.kind === 'request') {
      const known = byRequest.get(attempt.requestId)
      if (known === undefined) byRequest.set(attempt.requestId, [attempt])
      else known.push(attempt)
    }
    return attempt
  }

  /** A request head goes out on a connection. */
  const sent = (connection: Connection, text: string): void => {
    const at = text.indexOf('\r\nx-attempt: ')
    if (at === -1) return
    const attempt = attempts[Number.parseInt(text.slice(at + 13, at + 20), 10)]
    connection.attempt = attempt
    // It had ended already, and the process, which stood still, has not heard of it.
    if (attempt !== undefined && connection.ended) attempt.lostMs = engine.nowMs()
  }

  const askedOf = (attempt: Attempt, { line, body }: ReadMessage): Asked & { readonly names: string | undefined } => {
    const [method = '', path = ''] = line.split(' ')
    const event = deps.request(attempt.requestId)
    const backend = plan.backends[attempt.backend]
    const marker = `${backend?.name ?? '?'}#${++answers}`
    const present = active(attempt.backend, false)
    const slow = present.find(trouble => trouble.kind === 'slow')
    const halting = present.find(trouble => trouble.kind === 'halting')
    const drawnGapMs = answers % 6 === 5 ? LONG_GAP_MS : undefined
    const { timeoutMs, firstOutputTimeoutMs } = plan.settings
    const wishedMs = (backend?.serviceMs ?? 0) * (event?.effort ?? 1) + (slow?.kind === 'slow' ? slow.moreMs : 0)
    // Slow, but in time.
    const serviceMs = Math.min(wishedMs, 0.7 * Math.min(timeoutMs, firstOutputTimeoutMs))
    const stored = /\/responses\/(\w+)/.exec(path)?.[1]
    const form = /\/models/.test(path)
      ? 'models'
      : stored !== undefined
        ? 'stored'
        : /\/responses/.test(path)
          ? 'responses'
          : /\/embeddings/.test(path)
            ? 'embeddings'
            : 'chat'
    return {
      marker,
      form,
      stream: method === 'POST' && /"stream":true/.test(body),
      wantsUsage: /"include_usage":true/.test(body),
      responseId: stored ?? `resp_${attempt.host.replace('.test', '')}_${answers}`,
      serviceMs: attempt.kind === 'request' ? serviceMs : PROBE_SERVICE_MS,
      pieces: event?.pieces ?? 1,
      epochMs: engine.epochMs(),
      together: answers % 4 !== 0,
      gapMs: attempt.kind !== 'request' ? undefined : halting?.kind === 'halting' ? halting.gapMs : drawnGapMs,
      bareEnd: present.some(({ kind }) => kind === 'bare_end'),
      reused: attempt.reused,
      names: stored ?? /"previous_response_id":"(\w+)"/.exec(body)?.[1],
    }
  }

  const decide = (attempt: Attempt, message: ReadMessage): Answer => {
    const { names, ...asked } = askedOf(attempt, message)
    const isProbe = attempt.kind === 'probe'
    const takesTokens = plan.backends[attempt.backend]?.takesTokens === true
    if (takesTokens && !deps.isValidToken(message.headers.get('authorization'))) {
      return errorAnswer({ ...asked, serviceMs: 2 }, 401, 'azure', undefined)
    }
    const concerned = isProbe ? indicesOf(attempt.host) : [attempt.backend]
    const poison = deps.request(attempt.requestId)?.poison
    const present = concerned.flatMap(index => active(index, isProbe))
    for (const trouble of poison === undefined ? present : [...present, poison]) {
      const answer = troubledAnswer(asked, trouble)
      if (answer !== undefined) return answer
    }
    if (asked.form === 'models') return soundAnswer(asked)
    if (names !== undefined && deps.stored.get(names) !== attempt.host) {
      return foreignState(asked, names, asked.form === 'stored')
    }
    const backend = plan.backends[attempt.backend]
    const emptyMs =
      attempt.kind === 'request' && asked.form !== 'stored' && backend !== undefined
        ? take(attempt.backend, backend)
        : 0
    if (emptyMs > 0) {
      attempt.refusedByBucket = true
      const wait = { form: backend?.bucket?.form ?? 'retry-after', ms: emptyMs }
      return errorAnswer({ ...asked, serviceMs: 2 }, 429, 'azure', wait)
    }
    if (asked.form === 'responses') deps.stored.set(asked.responseId, attempt.host)
    return soundAnswer(asked)
  }

  const answered = (connection: Connection, attempt: Attempt): void => {
    attempt.answeredMs = engine.nowMs()
    deps.onAnswered(attempt)
    if (connection.attempt !== attempt) return
    connection.attempt = undefined
    connection.used = true
  }

  /** Ends a connection. What it was busy with is noted a moment before the proxy can notice. */
  const end = (connection: Connection, how: 'reset' | 'end'): void => {
    connection.ended = true
    engine.outside(engine.nowMs() + latencyMs, () => {
      const { attempt } = connection
      if (attempt !== undefined) attempt.lostMs = engine.nowMs()
    })
    connection.peer?.[how]()
  }

  const finish = (connection: Connection, attempt: Attempt, then: Answer['after']): void => {
    if (then === 'silence') return
    if (then === 'reset') end(connection, 'reset')
    else if (then === 'close' || connection.ending) end(connection, 'end')
    // When its last byte has arrived; a moment earlier than the proxy hears of what follows.
    engine.outside(engine.nowMs() + latencyMs, () => answered(connection, attempt))
  }

  const arrived = (connection: Connection, message: ReadMessage): void => {
    const { attempt, peer } = connection
    if (attempt === undefined || peer === undefined) return
    attempt.arrivedMs = engine.nowMs()
    if (connection.moved || connection.ended) {
      end(connection, 'reset')
      return
    }
    const answer = decide(attempt, message)
    attempt.answer = answer
    let atMs = engine.nowMs()
    attempt.dueMs = answer.pieces.reduce((sum, { afterMs }) => sum + afterMs, atMs + latencyMs)
    answer.pieces.forEach(({ afterMs, text }, i) => {
      atMs += afterMs
      engine.outside(atMs, () => {
        if (!connection.open || connection.attempt !== attempt) return
        if (connection.moved) {
          end(connection, 'reset')
          return
        }
        if (text !== '') {
          attempt.begunMs ??= engine.nowMs() + latencyMs
          peer.write(text)
        }
        if (i === answer.pieces.length - 1) finish(connection, attempt, answer.after)
      })
    })
  }

  const accept =
    (connection: Connection) =>
    (peer: Peer): PeerEvents => {
      connection.peer = peer
      const reader = createMessageReader(message => arrived(connection, message))
      return { data: text => reader.push(text), gone: () => peer.end() }
    }

  const answerDial = (connection: Connection): Dialled => {
    for (const index of indicesOf(connection.host)) {
      for (const event of troubles) {
        const nowMs = engine.nowMs()
        const { trouble } = event
        if (event.backend !== index || nowMs < event.atMs || nowMs >= event.atMs + event.forMs) continue
        if (trouble.kind === 'unconnectable' || trouble.kind === 'own_shortage') {
          return { kind: 'failed', code: trouble.code, afterMs: latencyMs }
        }
        if (trouble.kind === 'black_hole') return { kind: 'silent' }
        if (trouble.kind === 'restart') return { kind: 'failed', code: 'ECONNREFUSED', afterMs: latencyMs }
      }
    }
    return { kind: 'accepted', events: accept(connection) }
  }

  /** Whether tokens are in a backend's way: revoked and not yet known as such, or not to be had. */
  const meetsTokens = (backend: number, fromMs: number, toMs: number): boolean => {
    if (plan.backends[backend]?.takesTokens !== true) return false
    return plan.events.some(event => {
      if (event.atMs > toMs) return false
      if (event.kind === 'issuer_fails') return event.atMs + 2 * event.forMs + ISSUER_BACK_OFF_MS >= fromMs
      if (event.kind !== 'revoke') return false
      const isServed = ({ backend: at, sentMs, answeredMs, answer }: Attempt): boolean =>
        at === backend && sentMs > event.atMs && answer?.status === 200 && (answeredMs ?? toMs) <= fromMs
      return !attempts.some(isServed)
    })
  }

  /** Troubles that end at the very moment of a request are in its way too. */
  const meets = (
    backend: number,
    fromMs: number,
    toMs: number,
    scope: 'requests' | 'probes',
    isNone: (trouble: Trouble) => boolean = isHarmless,
  ): boolean => {
    const host = plan.backends[backend]?.host
    if (meetsTokens(backend, fromMs, toMs)) return true
    return troubles.some(event => {
      const { trouble } = event
      if (isNone(trouble) || !overlaps(event, fromMs, toMs)) return false
      if (isOfConnection(trouble) || trouble.kind === 'moved') return plan.backends[event.backend]?.host === host
      if (event.scope !== 'all' && event.scope !== scope) return false
      return event.backend === backend || (scope === 'probes' && plan.backends[event.backend]?.host === host)
    })
  }

  return {
    attempts,
    of: requestId => byRequest.get(requestId) ?? [],
    open: () => connections.size,
    troubled: (backend, fromMs, toMs) => meets(backend, fromMs, toMs, 'requests'),
    blamable: (backend, fromMs, toMs) =>
      (['requests', 'probes'] as const).some(scope =>
        meets(backend, fromMs, toMs, scope, trouble => isHarmless(trouble) || trouble.kind === 'own_shortage'),
      ),
    probeTroubled: (backend, fromMs, toMs) => meets(backend, fromMs, toMs, 'probes'),
    begin({ backend, trouble }) {
      if (trouble.kind !== 'moved' && trouble.kind !== 'restart') return
      const host = plan.backends[backend]?.host
      for (const connection of connections) {
        if (connection.host !== host) continue
        if (trouble.kind === 'moved') connection.moved = true
        else {
          connection.ending = true
          if (connection.attempt === undefined) end(connection, 'end')
        }
      }
    },
    watch: (process, madeBy, transport) => ({
      ...transport,
      send(wire, body, options, handler) {
        const attempt = begin(process, madeBy, wire, body)
        deps.onSent(attempt)
        const headers = [...wire.headers, 'x-attempt', String(attempt.number)]
        const under = transport.send({ ...wire, headers }, body, options, {
          connecting: () => handler.connecting?.(),
          connected: () => handler.connected(),
          head: (head, response) => handler.head(head, response),
          switched: (head, socket, rest) => handler.switched(head, socket, rest),
          failed(error, stale) {
            attempt.failedMs = engine.nowMs()
            handler.failed(error, stale)
          },
        })
        attempt.reused = !under.connecting
        const where = `${attempt.reused ? 'a kept' : 'a new'} connection`
        deps.trace(
          () =>
            `p${process} → ${plan.backends[attempt.backend]?.name} ${attempt.kind} ${attempt.requestId} on ${where}`,
        )
        return {
          get connecting() {
            return under.connecting
          },
          destroy() {
            if (attempt.begunMs === undefined) attempt.droppedMs ??= engine.nowMs()
            under.destroy()
          },
        }
      },
    }),
    connect(host, target, options) {
      const connection: Connection = {
        host: target,
        peer: undefined,
        attempt: undefined,
        used: false,
        moved: false,
        ending: false,
        ended: false,
        open: true,
      }
      connections.add(connection)
      const watch = {
        wrote: (text: string) => sent(connection, text),
        destroyed() {
          connection.open = false
          connections.delete(connection)
          const { attempt } = connection
          if (attempt !== undefined && attempt.droppedMs === undefined) attempt.droppedMs = engine.nowMs()
        },
      }
      return dial(engine, { host, watch, latencyMs }, options, () => answerDial(connection))
    },
  }
}
