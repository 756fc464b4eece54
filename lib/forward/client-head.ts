// The head of an upstream response on its way to the client. node:http looks at each header's name and value anew
// (two regular expressions, one lower case, four strings to join); those of an upstream were looked at when they came.
import type { ServerResponse } from 'node:http'

/** A response that takes most of its head as text. */
export interface JoinedHead {
  /**
   * @param lines `Name: value\r\n`, any number; sound names and values, none of which node:http has to know
   * @param headers a flat list of the others
   */
  writeJoinedHead(status: number, lines: string, headers: string[]): void
}

function isJoined(response: ServerResponse): response is ServerResponse & JoinedHead {
  return 'writeJoinedHead' in response
}

/** Headers by which node:http decides on framing, keep-alive, `Date` and `Expect`. */
const READ_BY_NODE: ReadonlySet<string> = new Set([
  'connection',
  'content-length',
  'date',
  'expect',
  'keep-alive',
  'trailer',
  'transfer-encoding',
])
const LENGTHS: ReadonlySet<number> = new Set([...READ_BY_NODE].map(name => name.length))

/**
 * Writes the head of a response to which nothing else has given headers.
 * @param headers a flat list as it came off a parser (http1/response-head.ts), with what the proxy adds
 */
export function writeUpstreamHead(response: ServerResponse, status: number, headers: string[]): void {
  if (!isJoined(response)) {
    response.writeHead(status, headers)
    return
  }
  let lines = ''
  const rest: string[] = []
  for (let i = 0; i < headers.length; i += 2) {
    const name = headers[i] ?? ''
    const value = headers[i + 1] ?? ''
    if (LENGTHS.has(name.length) && READ_BY_NODE.has(name.toLowerCase())) rest.push(name, value)
    else lines += `${name}: ${value}\r\n`
  }
  response.writeJoinedHead(status, lines, rest)
}
