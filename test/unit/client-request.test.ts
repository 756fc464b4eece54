// The headers of a request are those that node:http would have made, for every name and however often it stands.
import { IncomingMessage } from 'node:http'
import { Socket } from 'node:net'
import t from 'tap'
import { createRequestClass } from '../../lib/server/client-request.ts'
import { seededRandom } from '../fixtures/seeded-random.ts'

/** A message as Node's parser fills it: whatever the class, the raw headers are handed to it in one go. */
function headersOf(Message: typeof IncomingMessage, rawHeaders: readonly string[]) {
  const message = new Message(new Socket())
  const fill: unknown = Reflect.get(message, '_addHeaderLines')
  if (typeof fill === 'function') fill.call(message, [...rawHeaders], rawHeaders.length)
  return message.headers
}

const NAMES =
  'age authorization content-length content-type etag expires from host if-modified-since if-unmodified-since last-modified location max-forwards proxy-authorization referer retry-after server user-agent set-cookie cookie date vary origin expect accept upgrade if-match connection cache-control if-none-match accept-encoding accept-language x-forwarded-for x-forwarded-host x-forwarded-proto content-encoding transfer-encoding x-request-id api-key constructor __proto__ toString hasOwnProperty x'.split(
    ' ',
  )

t.test('headers are what node:http makes of them', async t => {
  const Message = createRequestClass()
  const seed = Number(process.env.FUZZ_SEED ?? Date.now() % 2 ** 31)
  const random = seededRandom(seed)
  const recased = (name: string): string =>
    random() < 0.5 ? name : name.replace(/[a-z]/g, letter => (random() < 0.3 ? letter.toUpperCase() : letter))
  for (const name of NAMES) {
    for (const raw of [
      [name, 'a'],
      [name, 'a', name.toUpperCase(), 'b'],
      [name, '', name, 'b', name, ''],
    ]) {
      t.same(headersOf(Message, raw), headersOf(IncomingMessage, raw), name)
    }
  }
  for (let run = 0; run < 500; run++) {
    const raw = Array.from({ length: Math.floor(random() * 20) }, () => [
      recased(NAMES[Math.floor(random() * NAMES.length)] ?? 'x'),
      random() < 0.1 ? '' : String(run),
    ]).flat()
    const [ours, nodes] = [headersOf(Message, raw), headersOf(IncomingMessage, raw)]
    if (JSON.stringify(ours) !== JSON.stringify(nodes)) t.same(ours, nodes, `FUZZ_SEED=${seed}`)
  }
})

t.test('they are made once, and a request is still an IncomingMessage', async t => {
  const message = new (createRequestClass())(new Socket())
  message.rawHeaders = ['Host', 'a']
  t.equal(message.headers, message.headers)
  t.ok(message instanceof IncomingMessage)
})
