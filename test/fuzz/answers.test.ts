// A backend's bytes by chance. Sound responses are read byte for byte however they are cut. Spoilt ones never throw and
// never bring more than was sent; where Node's own client accepts them too, both mean the same. FUZZ_SEED repeats a
// run, FUZZ_RUNS sets its length.
import http from 'node:http'
import net from 'node:net'
import t from 'tap'
import { bytesOf, type Circumstances, type ReadAnswer, readAnswer } from '../fixtures/read-answer.ts'
import { seededRandom } from '../fixtures/seeded-random.ts'

const seed = Number(process.env.FUZZ_SEED ?? Date.now() % 1_000_000_000)
const runs = Number(process.env.FUZZ_RUNS ?? 400)
t.comment(`FUZZ_SEED=${seed} FUZZ_RUNS=${runs}`)

const random = seededRandom(seed)
const below = (limit: number): number => Math.floor(random() * limit)
const chance = (share: number): boolean => random() < share
const pick = <T>(from: readonly [T, ...T[]]): T => from[below(from.length)] ?? from[0]
const text = (length: number, from: number, to: number): string =>
  Buffer.from(Array.from({ length }, () => from + below(to - from + 1))).toString('latin1')

/** Any bytes, CR and LF more often than not. */
const noise = (): string =>
  Array.from({ length: below(40) }, () =>
    chance(0.2) ? pick(['\r\n', '\r', '\n', '0\r\n\r\n']) : text(1, 0, 255),
  ).join('')

interface Made {
  readonly bytes: string
  readonly status: number
  readonly rawHeaders: readonly string[]
  readonly body: string
  readonly framing: 'none' | 'length' | 'chunked' | 'until_close'
  readonly circumstances: Circumstances
}

function chunksOf(body: string): string {
  let chunks = ''
  for (let at = 0; at < body.length; ) {
    const size = 1 + below(pick([1, 10, 1_000]))
    const data = body.slice(at, at + size)
    const digits = '0'.repeat(below(3)) + data.length.toString(16)
    const extension = chance(0.2) ? `${pick(['', ' '])};${text(below(20), 0x20, 0x7e)}` : ''
    chunks += `${chance(0.5) ? digits : digits.toUpperCase()}${extension}\r\n${data}\r\n`
    at += size
  }
  const trailers = chance(0.2)
    ? Array.from({ length: below(4) }, () => `X-T: ${text(below(20), 0x21, 0x7e)}\r\n`).join('')
    : ''
  return `${chunks}${'0'.repeat(1 + below(3))}${chance(0.1) ? ';end' : ''}\r\n${trailers}\r\n`
}

/** A sound answer, and what it says. */
function make(): Made {
  const bodiless = chance(0.05)
  const status = pick([200, 200, 200, 200, 201, 204, 304, 400, 404, 429, 500, 503, 599])
  const framing =
    bodiless || status === 204 || status === 304 ? 'none' : pick(['length', 'chunked', 'until_close'] as const)
  const body = framing === 'none' ? '' : chance(0.5) ? noise() : text(below(pick([10, 300, 5_000])), 0, 255)
  const rawHeaders: string[] = []
  for (let i = below(6); i > 0; i--) {
    const value = chance(0.3) ? text(below(10), 0x80, 0xff) : text(below(30), 0x20, 0x7e)
    rawHeaders.push(`X-${pick(['A', 'b', 'Ratelimit-Remaining-Tokens'])}${below(50)}`, value.trim())
  }
  if (framing === 'length') rawHeaders.push('Content-Length', String(body.length))
  if (framing === 'chunked') rawHeaders.push('Transfer-Encoding', pick(['chunked', 'Chunked']))
  if (chance(0.3)) rawHeaders.push('Connection', pick(['close', 'keep-alive', 'x-hop, close']))
  const lines = rawHeaders.flatMap((name, i) => {
    if (i % 2 === 1) return []
    const [before, after] = [pick(['', ' ', '\t ']), pick(['', '', ' ', '\t'])]
    return [`${name}:${before}${rawHeaders[i + 1]}${after}`]
  })
  const interim = chance(0.1)
    ? pick(['HTTP/1.1 100 Continue\r\n\r\n', 'HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n'])
    : ''
  const version = framing === 'chunked' ? '1.1' : pick(['1.1', '1.1', '1.0'])
  const head = [`HTTP/${version} ${status} ${pick(['OK', '', 'A long Reason'])}`, ...lines].join('\r\n')
  return {
    bytes: `${interim}${head}\r\n\r\n${framing === 'chunked' ? chunksOf(body) : body}`,
    status,
    rawHeaders,
    body,
    framing,
    circumstances: { bodiless, closes: framing === 'until_close' },
  }
}

function cutUp(all: string): readonly Buffer[] {
  const bytes = bytesOf(all)
  const cuts = Array.from({ length: below(pick([1, 4, 40])) }, () => below(bytes.length + 1)).sort((a, b) => a - b)
  return [0, ...cuts].map((from, i) => bytes.subarray(from, cuts[i] ?? bytes.length))
}

t.test('a sound answer is read byte for byte, however its bytes come', t => {
  for (let run = 0; run < runs * 5; run++) {
    const { bytes, status, rawHeaders, body, framing, circumstances } = make()
    const pieces = cutUp(bytes)
    const got = readAnswer(pieces, circumstances)
    const right =
      got.head?.status === status &&
      got.body === body &&
      got.head.framing.kind === framing &&
      got.end === (framing === 'until_close' ? 'spent' : 'reusable') &&
      JSON.stringify(got.head.rawHeaders) === JSON.stringify(rawHeaders) &&
      got.pieces <= pieces.length
    if (!right) t.same(got, { status, rawHeaders, body, framing }, JSON.stringify(bytes))
  }
  t.end()
})

/** Spoils a few bytes: changed, left away, put twice, or put in. */
function spoil(all: string): string {
  let spoilt = all
  for (let i = 1 + below(3); i > 0; i--) {
    // Heads and the framing of chunks are short: most of the places should be there.
    const at = chance(0.7) ? below(Math.min(spoilt.length, 200)) : below(spoilt.length + 1)
    const rest = spoilt.slice(at + pick([0, 1, 1, 2]))
    const put = pick([
      ...([
        text(1, 0, 255),
        '',
        '\r',
        '\n',
        '\r\n',
        '\r\n\r\n',
        ' ',
        '\t',
        '0',
        'f',
        ';',
        ':',
        ',',
        '\0',
        '-',
      ] as const),
      spoilt.slice(at, at + below(10)),
      '\r\nContent-Length: 3',
      '\r\nTransfer-Encoding: chunked',
      '\r\nTransfer-Encoding: gzip, chunked',
      'HTTP/1.1 200 OK\r\n\r\n',
    ])
    spoilt = spoilt.slice(0, at) + put + rest
  }
  return spoilt
}

const ENDS: ReadonlySet<string> = new Set([
  ...['reusable', 'spent', 'cut', 'bad_status_line', 'bad_header', 'bad_length', 'bad_transfer_coding', 'bad_chunk'],
  ...['head_too_large', 'too_many_interim_answers', 'unasked_upgrade'],
])

/** A tab behind a transfer coding is a blank (RFC 9110, section 5.5); Node takes it for a part of the coding's name. */
const NODES_OWN = /chunked[ \t]*\t[ \t]*\r\n/i

interface NodesView {
  readonly status: number
  readonly rawHeaders: readonly string[]
  readonly body: string
}

/**
 * What Node's client makes of these bytes, sent at once by a server that then closes; undefined where it refuses them.
 */
function askNode(port: number, method: string): Promise<NodesView | undefined> {
  return new Promise(resolve => {
    const request = http.request({ port, host: '127.0.0.1', method, agent: false })
    request.on('error', () => resolve(undefined))
    request.on('upgrade', (_response, socket) => {
      socket.destroy()
      resolve(undefined)
    })
    request.on('response', response => {
      const chunks: Buffer[] = []
      response.on('error', () => resolve(undefined))
      response.on('data', (chunk: Buffer) => chunks.push(chunk))
      response.on('end', () => {
        const { statusCode = 0, rawHeaders, complete } = response
        const body = Buffer.concat(chunks).toString('latin1')
        resolve(complete ? { status: statusCode, rawHeaders, body } : undefined)
      })
      response.on('close', () => resolve(undefined))
    })
    request.end()
  })
}

t.test(
  'spoilt bytes end in a listed fault or in what Node takes them for as well, and bring no more than was sent',
  async t => {
    let answer = ''
    const server = net.createServer(socket => {
      socket.on('error', () => undefined)
      socket.once('data', () => socket.end(answer, 'latin1'))
    })
    await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))
    t.teardown(() => server.close())
    const address = server.address()
    if (address === null || typeof address === 'string') throw new Error('no port')

    const ends = new Map<string, number>()
    let both = 0
    for (let run = 0; run < runs; run++) {
      const { bytes, circumstances } = make()
      answer = chance(0.05) ? bytes : spoil(bytes)
      const facing = { ...circumstances, closes: true }
      const got: ReadAnswer = readAnswer(cutUp(answer), facing)
      const again = readAnswer([bytesOf(answer)], facing)
      ends.set(got.end, (ends.get(got.end) ?? 0) + 1)
      const what = `FUZZ_SEED=${seed}, run ${run}: ${JSON.stringify(answer)}`
      if (!ENDS.has(got.end)) t.fail(`${got.end} is not listed: ${what}`)
      if (got.body.length > answer.length) t.fail(`more than was sent: ${what}`)
      // Only bytes behind the response may come at another time, and a fault in a head be reported before all of it has
      // come.
      const whole = got.end === 'reusable' || got.end === 'spent'
      if (got.body !== again.body || whole !== (again.end === 'reusable' || again.end === 'spent')) {
        t.same(got, again, `cut otherwise: ${what}`)
      }
      const seen = await askNode(address.port, facing.bodiless === true ? 'HEAD' : 'GET')
      if (!whole || seen === undefined || got.head === undefined || NODES_OWN.test(answer)) continue
      both++
      const ours = { status: got.head.status, rawHeaders: got.head.rawHeaders, body: got.body }
      if (JSON.stringify(ours) !== JSON.stringify(seen)) t.same(ours, seen, `Node reads it otherwise: ${what}`)
    }
    t.comment([...ends].map(([end, count]) => `${end}: ${count}`).join(', '), `both accept ${both}`)
    if (runs >= 400)
      t.ok(both > runs / 20 && (ends.get('bad_header') ?? 0) > 0, 'the bytes were sound and spoilt enough')
  },
)
