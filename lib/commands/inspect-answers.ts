// The meaning of the answers to --probe's questions, in words: pages in place of an API, refused keys, network rules.
// Decides nothing about connections.
import { type AdviceCode, adviceCode } from '../balancer/advice.ts'
import type { EjectReason } from '../balancer/health.ts'
import type { Clock } from '../clock.ts'
import type { AttemptResult, UpstreamResponse } from '../forward/upstream.ts'

/** A model list is some 100 KB at most; what is longer is none. */
const LIST_MAX_BYTES = 4 * 1024 * 1024

/** What is wrong with a backend. Its cure is the table's (balancer/advice.ts), as in log, status page and alerts. */
export interface Problem {
  /** A stable code, as in the log. */
  readonly reason: string
  readonly advice: AdviceCode
  readonly problem: string
  /** What the backend itself said, or the code of the system; empty where there is nothing to add. */
  readonly detail: string
}

/** A problem whose reason ejects backends too. */
function ejecting(reason: EjectReason, problem: string, detail: string): Problem {
  return { reason, advice: adviceCode(reason, detail), problem, detail }
}

/** A problem of the probe's own, which has a cure but ejects nothing. */
export function finding(advice: AdviceCode, problem: string, detail = ''): Problem {
  return { reason: advice, advice, problem, detail }
}

/** A body whole, or as much of it as came within bounds. */
export function textOf(
  { body, source }: UpstreamResponse,
  { clock, timeoutMs }: { readonly clock: Clock; readonly timeoutMs: number },
): Promise<string> {
  const chunks: Buffer[] = body.kind === 'events' ? [] : [...(body.kind === 'whole' ? body.chunks : body.held)]
  const text = (): string => Buffer.concat(chunks).toString('utf8')
  if (body.kind === 'whole') return Promise.resolve(text())
  return new Promise(resolve => {
    let size = 0
    const late = clock.after(timeoutMs, () => {
      source.destroy()
      resolve(text())
    })
    const over = (): void => {
      late.cancel()
      resolve(text())
    }
    source.attach({
      data(bytes) {
        chunks.push(bytes)
        size += bytes.length
        if (size <= LIST_MAX_BYTES) return
        source.destroy()
        over()
      },
      end: over,
      lost: over,
    })
    source.resume()
  })
}

/** The value of a JSON text; undefined for what is none. */
export function parseJson(text: string): unknown {
  try {
    return JSON.parse(text)
  } catch {
    return undefined
  }
}

/** Whether a JSON value is an object or a list. */
export function isObject(value: unknown): value is object {
  return typeof value === 'object' && value !== null
}

/** What answers in place of an API; undefined: it may be one. */
export function pageProblem(status: number, headers: UpstreamResponse['headers'], text: string): Problem | undefined {
  if (status >= 300 && status < 400) {
    const at = headers.headers.findIndex((name, i) => i % 2 === 0 && name.toLowerCase() === 'location')
    const location = at === -1 ? undefined : headers.headers[at + 1]
    const host = location !== undefined && URL.canParse(location) ? ` to ${new URL(location).host}` : ''
    return notAnApi(`it redirects${host}`, `${status} redirect`)
  }
  const type = headers.values['content-type'] ?? ''
  const isPage = /^text\/html/i.test(type) || /^\s*<(?:!doctype|html)/i.test(text)
  return isPage ? notAnApi('a web page answers', `${status} HTML`) : undefined
}

/** Something else answers, not this API. */
export function notAnApi(problem: string, detail: string): Problem {
  return ejecting('not_an_api', problem, detail)
}

/** A server that fails, or one that says it is overloaded. */
export function serverProblem(status: number, detail: string): Problem {
  return ejecting('server_error', `it answers ${status}`, detail)
}

/** Reasons in the words of the probe's table. */
const WORDS: Partial<Record<EjectReason, string>> = {
  network_refused: "the resource's network rules refuse this machine's address",
  credentials_refused: 'the credential is refused',
  account_refused: 'the account or subscription is refused',
  operation_not_supported: 'the deployment is of another kind',
  credential_unavailable: 'no token could be had',
  connection_lost: 'the connection breaks',
  protocol_error: 'what answers is no HTTP',
  header_timeout: 'it does not answer in time',
}

/** What it means that no answer came, or one that says whose trouble it is. */
export function refusalProblem({ kind, outcome }: AttemptResult): Problem | undefined {
  switch (outcome.kind) {
    case 'misconfigured':
      // Its own column and words; and a list that says so says nothing of the deployment.
      if (outcome.reason === 'deployment_missing') return undefined
      return ejecting(outcome.reason, WORDS[outcome.reason] ?? 'it refuses', outcome.detail)
    case 'no_token':
      return ejecting('credential_unavailable', 'no token could be had', outcome.detail)
    case 'shortage':
      if (outcome.detail === 'EAI_AGAIN')
        return ejecting('connect_failed', 'the resolver does not answer', outcome.detail)
      return finding('probe_failed', 'this machine has nothing left to connect with', outcome.detail)
    case 'failed': {
      const { reason, detail } = outcome
      if (reason === 'not_an_api') {
        if (/ redirect$/.test(detail)) return notAnApi('it redirects', detail)
        if (/^(404|410) /.test(detail)) return ejecting(reason, 'nothing is served at this path', detail)
        return notAnApi('a web page answers', detail)
      }
      return kind === 'no_response' ? ejecting(reason, WORDS[reason] ?? reason, detail) : undefined
    }
    default:
      return kind === 'no_response' ? ejecting('connection_lost', 'no answer', outcome.kind) : undefined
  }
}
