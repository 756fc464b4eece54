// Node's ServerResponse, which takes most of its head as text that is known to be sound.
import { type IncomingMessage, ServerResponse } from 'node:http'
import type { JoinedHead } from '../forward/client-head.ts'

/**
 * The class for a listener's responses; undefined where Node has no `_storeHeader`, which writes the head of every
 * response: then its own class does.
 */
export function createResponseClass(): typeof ServerResponse | undefined {
  const storeHeader: unknown = Reflect.get(ServerResponse.prototype, '_storeHeader')
  if (typeof storeHeader !== 'function') return undefined
  return class ClientResponse<R extends IncomingMessage = IncomingMessage>
    extends ServerResponse<R>
    implements JoinedHead
  {
    private lines = ''

    writeJoinedHead(status: number, lines: string, headers: string[]): void {
      this.lines = lines
      this.writeHead(status, headers)
    }

    /** Called by `writeHead`, whatever calls that. @param firstLine the status line, with its end */
    _storeHeader(firstLine: string, headers: unknown): void {
      storeHeader.call(this, firstLine + this.lines, headers)
    }
  }
}
