// One small HTTP exchange with a token endpoint: bounded in time and size, on a connection of its own, no redirect followed.
import http from 'node:http'
import https from 'node:https'
import type { Clock } from '../clock.ts'
import type { HttpAnswer, TokenRequest } from './entra-requests.ts'

export type Exchanged =
  | { readonly kind: 'answer'; readonly answer: HttpAnswer }
  /** @property code the system's error code, or a few plain words; holds nothing of what was sent */
  | { readonly kind: 'lost'; readonly code: string }

/** Token answers have 2 to 8 KB; more is no token answer. */
const MAX_ANSWER_BYTES = 64 * 1024

function codeOf(error: unknown): string {
  const code: unknown = typeof error === 'object' && error !== null && 'code' in error ? error.code : undefined
  return typeof code === 'string' && /^\w{1,64}$/.test(code) ? code : 'connection lost'
}

/**
 * Sends a request and reads its answer whole. Never throws: what goes wrong is said as `lost`.
 * @param signal ends it at once; the caller bounds the whole exchange in time with it
 * @param maxAnswerBytes a longer answer counts as lost
 */
export function exchange(
  request: TokenRequest,
  clock: Clock,
  signal: AbortSignal,
  maxAnswerBytes = MAX_ANSWER_BYTES,
): Promise<Exchanged> {
  const { url, method, headers, body, connectMs } = request
  const secure = url.protocol === 'https:'
  return new Promise(resolve => {
    const lost = (code: string): void => {
      finish({ kind: 'lost', code })
      asked.destroy()
    }
    const onAbort = (): void => lost('gave up')
    const finish = (exchanged: Exchanged): void => {
      connecting.cancel()
      signal.removeEventListener('abort', onAbort)
      resolve(exchanged)
    }
    const bytes = Buffer.from(body)
    const asked = (secure ? https : http).request(url, {
      method,
      // One exchange an hour: no connection is worth keeping.
      agent: false,
      headers: {
        ...headers,
        accept: 'application/json',
        ...(method === 'POST' ? { 'content-length': String(bytes.length) } : {}),
      },
    })
    const connecting = clock.after(connectMs, () => lost(`no connection within ${connectMs / 1000} s`))
    asked.on('socket', socket => socket.once(secure ? 'secureConnect' : 'connect', () => connecting.cancel()))
    asked.on('error', error => lost(codeOf(error)))
    asked.on('response', response => {
      const chunks: Buffer[] = []
      let size = 0
      response.on('data', (chunk: Buffer) => {
        size += chunk.length
        if (size > maxAnswerBytes) lost('oversized answer')
        else chunks.push(chunk)
      })
      response.on('end', () => {
        const { statusCode: status = 0, headers } = response
        finish({ kind: 'answer', answer: { status, headers, body: Buffer.concat(chunks).toString('utf8') } })
      })
      response.on('error', error => lost(codeOf(error)))
      response.on('close', () => lost('answer cut off'))
    })
    if (signal.aborted) onAbort()
    else {
      signal.addEventListener('abort', onAbort)
      asked.end(bytes)
    }
  })
}
