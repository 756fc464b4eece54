// The meaning of the answers to --probe's questions, in words: pages in place of an API, refused keys, network rules.
// Decides nothing about connections.
import type { Clock } from '../clock.ts'
import type { AttemptResult, UpstreamResponse } from '../forward/upstream.ts'

/** A model list is some 100 KB at most; what is longer is none. */
const LIST_MAX_BYTES = 4 * 1024 * 1024

export interface Problem {
  /** A stable code, as in the log. */
  readonly reason: string
  readonly problem: string
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

/** What may answer in place of an API, and what to do. */
export const PAGE = 'a proxy, a firewall or a login page in between, or the URL of a web site? Check the endpoint'

/** What answers in place of an API; undefined: it may be one. */
export function pageProblem(status: number, headers: UpstreamResponse['headers'], text: string): Problem | undefined {
  const found = (problem: string): Problem => ({ reason: 'not_an_api', problem })
  if (status >= 300 && status < 400) {
    const at = headers.headers.findIndex((name, i) => i % 2 === 0 && name.toLowerCase() === 'location')
    const location = at === -1 ? undefined : headers.headers[at + 1]
    const host = location !== undefined && URL.canParse(location) ? ` to ${new URL(location).host}` : ''
    return found(`redirects${host} (${status}): ${PAGE}`)
  }
  const type = headers.values['content-type'] ?? ''
  if (/^text\/html/i.test(type) || /^\s*<(?:!doctype|html)/i.test(text)) return found(`a web page answers: ${PAGE}`)
  return undefined
}

/** Azure's 403 of a resource that this address may not reach, or no public one (azure/README.md 6.2). */
function speaksOfNetwork(result: AttemptResult): boolean {
  if (result.kind !== 'response' || result.response.status !== 403 || result.response.body.kind !== 'whole')
    return false
  const text = Buffer.concat(result.response.body.chunks).toString('utf8')
  return /virtual network|firewall rules|public access is disabled|private endpoint/i.test(text)
}

/** What it means that no answer came, or one that says whose trouble it is. */
export function refusalProblem(result: AttemptResult): (Problem & { readonly keyRefused?: boolean }) | undefined {
  const { outcome } = result
  const status = result.kind === 'response' ? ` (${result.response.status})` : ''
  if (outcome.kind === 'misconfigured') {
    const { reason, detail } = outcome
    if (reason === 'network_refused' || speaksOfNetwork(result)) {
      const problem = `the resource's network rules refuse this machine's address${status}: allow it under Networking, or use its private endpoint`
      return { reason: 'network_refused', problem }
    }
    if (reason === 'credentials_refused') {
      const problem = `the credential is refused${status}: check api_key, or the role of the identity`
      return { reason, problem, keyRefused: true }
    }
    if (reason === 'deployment_missing') return undefined
    if (result.kind === 'no_response') return { reason, problem: detail }
    return { reason, problem: `refuses${status}: ${detail}` }
  }
  if (outcome.kind === 'failed' && outcome.reason === 'not_an_api') {
    const redirects = /^3\d\d/.test(outcome.detail)
    return {
      reason: 'not_an_api',
      problem: `${redirects ? 'redirects' : 'a web page answers'} (${outcome.detail}): ${PAGE}`,
    }
  }
  if (outcome.kind === 'failed' && result.kind === 'no_response') {
    return { reason: outcome.reason, problem: `${outcome.reason}: ${outcome.detail}` }
  }
  if (result.kind === 'no_response') return { reason: 'connection_lost', problem: 'no answer' }
  return undefined
}
