// GET /: browsers are sent to the status page, programs get the routes in one line.
import type { Exchange } from '../request-context.ts'
import { sendJson } from './send.ts'

/** What a newcomer looks for; the rest stands in the README. */
const ROUTES = [
  '/v1/chat/completions',
  '/v1/responses',
  '/v1/embeddings',
  '/v1/models',
  '/health',
  '/metrics',
  '/dashboard',
]

/** Whether HTML is named in Accept: browsers name it, API clients do not. */
function isBrowser({ request }: Exchange): boolean {
  return /\btext\/html\b/i.test(request.headers.accept ?? '')
}

/** Answers GET /. */
export function handleRoot(exchange: Exchange, version: string): void {
  if (!isBrowser(exchange)) {
    sendJson(exchange, 200, { name: 'azure-openai-proxy', version, routes: ROUTES })
    return
  }
  const { response, record } = exchange
  record.status = 302
  response.writeHead(302, [
    'location',
    '/dashboard',
    'content-length',
    '0',
    'cache-control',
    'no-store',
    'x-request-id',
    exchange.id,
  ])
  response.end()
}
