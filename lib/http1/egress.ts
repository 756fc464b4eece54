// The way out through a proxy: the request for a tunnel (CONNECT, RFC 9110 section 9.3.6), the meaning of its response,
// the proxy's health. A proxy that is dead is one fact, however many backends lie behind it.
import type { Socket } from 'node:net'
import type { Clock } from '../clock.ts'
import type { EgressProxy, Endpoint } from '../config/types.ts'
import { ConnectError, codeOf } from './connect-error.ts'
import type { LowerCaseNames } from './header-names.ts'
import { parseHead, type ResponseHead } from './response-head.ts'

/** A proxy stops working, or works again: said once for all that lies behind it. */
export interface EgressChange {
  readonly kind: 'failing' | 'working'
  /** Its URL without credentials. */
  readonly proxy: string
  /** What is wrong and what to do; empty when it works. */
  readonly words: string
}

export interface EgressWatch {
  /** A proxy answered a request of its own kind: it is there. */
  answered(proxy: EgressProxy): void
  /** What failed on the way through a proxy since `beganMs`, with its scope settled. */
  failed(proxy: EgressProxy, error: ConnectError, beganMs: number): ConnectError
  /**
   * Whether it failed for all, has not worked since, and is avoided: for so long after each failure. Then a request
   * tries it again, or nobody would find out that it works, where another way serves meanwhile.
   */
  isFailing(proxy: EgressProxy): boolean
  /** The error of a silent proxy that is left alone at the moment. */
  resting(proxy: EgressProxy): ConnectError | undefined
}

/**
 * A silent proxy is asked again by one connection this often; others fail at once meanwhile, instead of waiting in
 * vain.
 */
const REST_MS = 2_000
/** Proxies remembered: one or two a config. */
const MAX_PROXIES = 100

interface ProxyState {
  answeredMs: number
  failedMs: number
  failing: ConnectError | undefined
  restsUntilMs: number
}

/** @param avoidMs how long a failing proxy is avoided after a failure; asked each time */
export function createEgressWatch(
  clock: Clock,
  onChange: (change: EgressChange) => void,
  avoidMs: () => number,
): EgressWatch {
  const states = new Map<string, ProxyState>()
  const stateOf = ({ url }: EgressProxy): ProxyState => {
    const found = states.get(url)
    if (found !== undefined) return found
    const oldest = states.keys().next()
    if (states.size >= MAX_PROXIES && oldest.done !== true) states.delete(oldest.value)
    const made: ProxyState = {
      answeredMs: Number.NEGATIVE_INFINITY,
      failedMs: Number.NEGATIVE_INFINITY,
      failing: undefined,
      restsUntilMs: 0,
    }
    states.set(url, made)
    return made
  }
  return {
    answered(proxy) {
      const state = stateOf(proxy)
      state.answeredMs = clock.nowMs()
      if (state.failing === undefined) return
      state.failing = undefined
      state.restsUntilMs = 0
      onChange({ kind: 'working', proxy: proxy.url, words: '' })
    },
    failed(proxy, error, beganMs) {
      if (error.phase !== 'proxy' || error.scope !== 'proxy') return error
      const state = stateOf(proxy)
      if (error.timeout) {
        // It answered others meanwhile: then it waits for this host, and is not silent itself.
        if (state.answeredMs >= beganMs) return new ConnectError({ ...error, words: error.message, scope: 'host' })
        state.restsUntilMs = clock.nowMs() + REST_MS
      }
      const isNew = state.failing === undefined
      state.failing = error
      state.failedMs = clock.nowMs()
      if (isNew) onChange({ kind: 'failing', proxy: proxy.url, words: error.message })
      return error
    },
    isFailing(proxy) {
      const state = states.get(proxy.url)
      return state?.failing !== undefined && clock.nowMs() - state.failedMs < avoidMs()
    },
    resting(proxy) {
      const state = states.get(proxy.url)
      if (state?.failing === undefined || state.restsUntilMs <= clock.nowMs()) return undefined
      return state.failing
    },
  }
}

function fault(
  proxy: EgressProxy,
  code: string,
  words: string,
  scope: 'host' | 'proxy',
  timeout = false,
): ConnectError {
  return new ConnectError({ phase: 'proxy', code, words: `the egress proxy ${proxy.url} ${words}`, scope, timeout })
}

/** A connection to the proxy itself that failed. @param code the system's, or the resolver's */
export function unreachableProxy(proxy: EgressProxy, code: string): ConnectError {
  const silent = code === 'ETIMEDOUT'
  const words: Readonly<Record<string, string>> = {
    ECONNREFUSED: 'refuses connections: is it running, and is this its port?',
    ENOTFOUND: 'has a name that is not known here',
    EAI_AGAIN: 'has a name that the resolver does not answer for',
    ETIMEDOUT: 'does not answer',
  }
  return fault(proxy, code, words[code] ?? `cannot be reached (${code})`, 'proxy', silent)
}

/** A handshake with an `https://` proxy that failed. @param words what tlsWords says */
export function unreachableSecureProxy(proxy: EgressProxy, code: string, words: string): ConnectError {
  return fault(proxy, code, `cannot be spoken to over TLS: ${words}`, 'proxy')
}

/** The proxy said nothing to a request for a tunnel. */
export function silentProxy(proxy: EgressProxy, host: string): ConnectError {
  return fault(proxy, 'ETIMEDOUT', `says nothing to CONNECT ${host}`, 'proxy', true)
}

/** The proxy hung up instead of answering. */
export function brokenProxy(proxy: EgressProxy, host: string, code: string): ConnectError {
  return fault(proxy, code, `hung up on CONNECT ${host} (${code})`, 'proxy')
}

function isPage({ names, rawHeaders }: ResponseHead): boolean {
  return names.some((name, i) => name === 'content-type' && /^text\/html/i.test(rawHeaders[2 * i + 1] ?? ''))
}

/**
 * What a proxy's refusal means.
 * @param asked `CONNECT host:443`, or the host of a plain request
 */
export function refusalOf(proxy: EgressProxy, status: number, asked: string): ConnectError {
  const code = `EGRESS_${status}`
  if (status === 407) {
    const cure =
      proxy.authorization === undefined
        ? 'wants a user name and password (407): put them into its URL, as in http://user:password@host:port'
        : 'does not accept the user name and password of its URL (407)'
    return fault(proxy, code, cure, 'proxy')
  }
  if (status === 511 || (status >= 300 && status < 400)) {
    return fault(proxy, code, `answers ${asked} with a login page (${status}): someone has to sign in there`, 'proxy')
  }
  if (status === 403 || status === 405 || status === 400 || status === 401) {
    return fault(proxy, code, `refuses ${asked} (${status}): its rules must allow this host and port`, 'host')
  }
  return fault(proxy, code, `answers ${status} to ${asked}: it cannot reach that host itself`, 'host')
}

/**
 * Whether a plain request's response is the proxy's own refusal instead of the backend's response. Only what a backend
 * of this API never says: 407 and 511, a redirect to a login, or an error page of squid's.
 */
export function refusesPlainly(head: ResponseHead): boolean {
  if (head.status === 407 || head.status === 511) return true
  if (head.names.includes('x-squid-error')) return true
  return isPage(head) && [302, 303, 307, 403, 502, 503, 504].includes(head.status)
}

/** A proxy's response to CONNECT beyond this is no response to it. */
const MAX_ANSWER_BYTES = 16 * 1024

/** The request for a tunnel, as latin1. */
export function connectRequest({ authorization }: EgressProxy, { hostname, port }: Endpoint): string {
  const authority = `${hostname.includes(':') ? `[${hostname}]` : hostname}:${port}`
  const proof = authorization === undefined ? '' : `proxy-authorization: ${authorization.reveal()}\r\n`
  return `CONNECT ${authority} HTTP/1.1\r\nhost: ${authority}\r\n${proof}proxy-connection: keep-alive\r\n\r\n`
}

/**
 * Asks for a tunnel on a connection to the proxy and reads the response.
 * @param done the tunnel is there, or why not; called once
 * @returns gives it up; nothing is called then
 */
export function openTunnel(
  socket: Socket,
  proxy: EgressProxy,
  endpoint: Endpoint,
  names: LowerCaseNames,
  done: (error: ConnectError | undefined) => void,
): () => void {
  const host = `${endpoint.hostname}:${endpoint.port}`
  const asked = `CONNECT ${host}`
  let read: Buffer = Buffer.alloc(0)
  const stop = (): void => {
    socket.off('data', onData).off('error', onError).off('close', onClose)
    socket.pause()
  }
  const finish = (error: ConnectError | undefined): void => {
    stop()
    done(error)
  }
  const onData = (bytes: Buffer): void => {
    read = Buffer.concat([read, bytes])
    const end = read.indexOf('\r\n\r\n')
    if (end === -1 && read.length <= MAX_ANSWER_BYTES) return
    // No body is expected: a 2xx has none (RFC 9110 section 9.3.6), and of anything else the head says enough.
    const head = end === -1 ? 'head_too_large' : parseHead(read, { start: 0, stop: end }, true, names)
    if (typeof head === 'string') {
      finish(fault(proxy, 'EGRESS_NO_HTTP', `does not answer ${asked} in HTTP: is this the port of a proxy?`, 'proxy'))
    } else if (head.status < 200) {
      // 100 and its kin: the response is still to come.
      read = read.subarray(end + 4)
    } else if (head.status >= 300) finish(refusalOf(proxy, head.status, asked))
    else if (isPage(head)) {
      finish(fault(proxy, 'EGRESS_PAGE', `answers ${asked} with a web page: someone has to sign in there`, 'proxy'))
    } else {
      const rest = read.subarray(end + 4)
      if (rest.length > 0) socket.unshift(rest)
      finish(undefined)
    }
  }
  const onError = (error: Error): void => finish(brokenProxy(proxy, host, codeOf(error)))
  const onClose = (): void => finish(brokenProxy(proxy, host, 'ECONNRESET'))
  socket.on('data', onData).on('error', onError).on('close', onClose)
  socket.write(connectRequest(proxy, endpoint), 'latin1')
  return stop
}
