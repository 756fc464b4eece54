// Sends a short response of the proxy's own.
import type { Exchange } from '../request-context.ts'

/** Sends text with its type; HEAD gets the head alone. */
export function sendText(exchange: Exchange, status: number, contentType: string, text: string): void {
  const { request, response, record, id } = exchange
  record.status = status
  const bytes = Buffer.byteLength(text)
  response.writeHead(status, [
    'content-type',
    contentType,
    'content-length',
    String(bytes),
    'cache-control',
    'no-store',
    'x-request-id',
    id,
  ])
  if (request.method === 'HEAD') {
    response.end()
    return
  }
  record.bytesOut += bytes
  response.end(text)
}

/** Answers with a value as JSON, and its length. */
export function sendJson(exchange: Exchange, status: number, value: unknown): void {
  sendText(exchange, status, 'application/json', JSON.stringify(value))
}
