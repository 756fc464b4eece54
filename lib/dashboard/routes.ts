// The live status page's routes: the page, its event stream, an operator's eject and restore. Who may is decided before
// (server/auth).
import type { IncomingMessage, ServerResponse } from 'node:http'
import type { Clock } from '../clock.ts'
import { errorJson, type Refusal, waitHeaders } from '../errors.ts'
import type { StatusSnapshot } from './status.ts'
import { createViewers, FULL_WAIT_MS, MAX_VIEWERS } from './viewers.ts'

/** Of an order to eject or restore, in bytes: two names. */
const MAX_ORDER_BYTES = 4_096
export type SteerAction = 'eject' | 'restore'

/** Who gave an order, and from where, for the audit line. */
export interface Operator {
  /** Name of the key; undefined where authentication is off. */
  readonly key: string | undefined
  readonly client: string | undefined
  /** Of the request. */
  readonly id: string
}

/** An operator's order. */
export interface SteerOrder {
  readonly model: string
  readonly backend: string
  readonly by: Operator
}

export type DashboardRoute =
  | { readonly kind: 'page' | 'events' | SteerAction }
  | { readonly kind: 'method_not_allowed'; readonly allow: string }
  | { readonly kind: 'unknown_url' }

/**
 * What a path below `/dashboard` means. All but the page need an admin key.
 * @param path without `dashboard/`: `''`, `events`, `backends/eject`, `backends/restore`
 */
export function dashboardRoute(method: string, path: string): DashboardRoute {
  switch (path) {
    case '':
      return method === 'GET' || method === 'HEAD'
        ? { kind: 'page' }
        : { kind: 'method_not_allowed', allow: 'GET, HEAD' }
    case 'events':
      return method === 'GET' ? { kind: 'events' } : { kind: 'method_not_allowed', allow: 'GET' }
    case 'backends/eject':
    case 'backends/restore':
      if (method !== 'POST') return { kind: 'method_not_allowed', allow: 'POST' }
      return { kind: path === 'backends/eject' ? 'eject' : 'restore' }
    default:
      return { kind: 'unknown_url' }
  }
}

export interface DashboardRoutesDeps {
  readonly clock: Clock
  /**
   * Everything seen, of all processes. Asked once a tick while somebody watches; when it fails, viewers see that data
   * are late.
   */
  collect(): StatusSnapshot | Promise<StatusSnapshot>
  /** Takes a backend out until it is restored; false when there is none of that name. */
  eject(order: SteerOrder): boolean | Promise<boolean>
  restore(order: SteerOrder): boolean | Promise<boolean>
}

export interface DashboardRoutes {
  page(request: IncomingMessage, response: ServerResponse): Promise<void>
  /**
   * Streams until the viewer goes, is too slow, or may no longer see it. @param mayStay asked every tick: a reload may
   * take the right away
   */
  events(response: ServerResponse, mayStay: () => boolean): Promise<void>
  steer(request: IncomingMessage, response: ServerResponse, action: SteerAction, by: Operator): Promise<void>
  viewers(): number
  /** Ends every stream: the process is about to stop. */
  close(): void
}

function sendJson(response: ServerResponse, status: number, text: string, more: readonly string[] = []): void {
  response.writeHead(status, [
    'content-type',
    'application/json',
    'content-length',
    String(Buffer.byteLength(text)),
    'cache-control',
    'no-store',
    ...more,
  ])
  response.end(text)
}

function refuseSteer(response: ServerResponse, refusal: Pick<Refusal, 'status' | 'code' | 'message' | 'param'>): void {
  sendJson(response, refusal.status, errorJson(refusal), refusal.status === 413 ? ['connection', 'close'] : [])
}

/** The body up to the limit; undefined when there is more. */
async function readOrder(request: IncomingMessage): Promise<string | undefined> {
  const chunks: Buffer[] = []
  let bytes = 0
  for await (const chunk of request) {
    if (!(chunk instanceof Buffer)) throw new TypeError('a request gives buffers')
    bytes += chunk.length
    if (bytes > MAX_ORDER_BYTES) return undefined
    chunks.push(chunk)
  }
  return Buffer.concat(chunks).toString('utf8')
}

function parseOrder(text: string): { readonly model: string; readonly backend: string } | undefined {
  let value: unknown
  try {
    value = JSON.parse(text)
  } catch {
    return undefined
  }
  if (typeof value !== 'object' || value === null || !('model' in value) || !('backend' in value)) return undefined
  const { model, backend } = value
  return typeof model === 'string' && typeof backend === 'string' ? { model, backend } : undefined
}

const EVENT_HEADERS = [
  'content-type',
  'text/event-stream',
  'cache-control',
  'no-store',
  'x-content-type-options',
  'nosniff',
  // nginx would hold the events back.
  'x-accel-buffering',
  'no',
]

const PAGE_HEADERS = [
  'content-type',
  'text/html; charset=utf-8',
  'cache-control',
  'no-store',
  'x-content-type-options',
  'nosniff',
  'x-frame-options',
  'DENY',
  'referrer-policy',
  'no-referrer',
  'cross-origin-opener-policy',
  'same-origin',
  'cross-origin-resource-policy',
  'same-origin',
] as const

export function createDashboardRoutes({ clock, collect, eject, restore }: DashboardRoutesDeps): DashboardRoutes {
  let made: Promise<{ readonly pageBytes: Buffer; readonly csp: string }> | undefined
  // Loaded and made for the first who asks: at every start it would cost 0.01 of the way to the first response, and 0.7
  // MB.
  const page = async () => {
    const { html, csp } = await import('./page.js')
    return { pageBytes: Buffer.from(html), csp }
  }
  const viewers = createViewers({ clock, collect })

  return {
    async page(request, response) {
      made ??= page()
      const { pageBytes, csp } = await made
      response.writeHead(200, [
        ...PAGE_HEADERS,
        'content-security-policy',
        csp,
        'content-length',
        String(pageBytes.length),
      ])
      response.end(request.method === 'HEAD' ? undefined : pageBytes)
    },
    async events(response, mayStay) {
      if (!viewers.hasPlace()) {
        const message = `The live status page has ${MAX_VIEWERS} viewers already. Close one, or try again later.`
        const text = errorJson({ status: 503, code: 'overloaded', message })
        return sendJson(response, 503, text, waitHeaders(FULL_WAIT_MS))
      }
      response.writeHead(200, EVENT_HEADERS)
      response.flushHeaders()
      await viewers.add(response, mayStay)
    },
    async steer(request, response, action, by) {
      const text = await readOrder(request)
      if (text === undefined) {
        const message = `The order is larger than ${MAX_ORDER_BYTES} bytes.`
        return refuseSteer(response, { status: 413, code: 'request_too_large', message })
      }
      const order = parseOrder(text)
      if (order === undefined) {
        const message = 'Send a JSON object with the strings "model" and "backend".'
        return refuseSteer(response, { status: 400, code: 'invalid_json', message })
      }
      const done = await (action === 'eject' ? eject : restore)({ ...order, by })
      if (!done) {
        const message = 'There is no backend of this name in a model of this name; a reload may have removed it.'
        return refuseSteer(response, { status: 404, code: 'invalid_request', message, param: 'backend' })
      }
      sendJson(response, 200, JSON.stringify({ action, ...order }))
      // Those who watch see it now, not in a second.
      await viewers.sendNow()
    },
    viewers: viewers.count,
    close: viewers.close,
  }
}
