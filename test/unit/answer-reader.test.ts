// The meaning of a backend's bytes: heads, where a body ends, what may follow, and what is no answer at all (RFC 9112,
// RFC 9110).
import v8 from 'node:v8'
import vm from 'node:vm'
import t, { type Test } from 'tap'
import { createLowerCaseNames, NameMemory } from '../../lib/http1/header-names.ts'
import { parseHead, type ResponseHead } from '../../lib/http1/response-head.ts'
import { ResponseParser } from '../../lib/http1/response-parser.ts'
import { bytesOf, type Circumstances, type ReadAnswer, readAnswer } from '../fixtures/read-answer.ts'

const read = (text: string, circumstances?: Circumstances): ReadAnswer => readAnswer([bytesOf(text)], circumstances)
const OK = 'HTTP/1.1 200 OK\r\n'
const CHUNKED = `${OK}Transfer-Encoding: chunked\r\n\r\n`
const cutAt = (text: string, at: number): readonly Buffer[] => [bytesOf(text.slice(0, at)), bytesOf(text.slice(at))]
const singly = (text: string): readonly Buffer[] => [...bytesOf(text)].map(byte => Buffer.from([byte]))

function headOf(t: Test, lines: string, circumstances?: Circumstances): ResponseHead {
  const { head, end } = read(`${lines}\r\n\r\n`, circumstances)
  if (head === undefined) t.fail(`no head: ${end} of ${JSON.stringify(lines)}`)
  return (
    head ?? { kind: 'head', status: 0, rawHeaders: [], names: [], framing: { kind: 'none' }, keptForMs: Number.NaN }
  )
}

t.test('a status line is a version of HTTP/1, three digits, and a reason that may be empty or left away', t => {
  for (const [line, status] of [
    ['HTTP/1.1 200 OK', 200],
    ['HTTP/1.0 200 OK', 200],
    ['HTTP/1.1 200 ', 200],
    ['HTTP/1.1 200', 200],
    ['HTTP/1.1 404 Not Found: a reason of many words', 404],
    ['HTTP/1.1 500 Erreur \xe9trange', 500],
    ['HTTP/1.1 299 \x80', 299],
    ['HTTP/1.1 999 Odd', 999],
  ] as const) {
    t.equal(headOf(t, `${line}\r\nContent-Length: 0`).status, status, line)
    t.equal(headOf(t, line).status, status, `${line}, without any header`)
  }
  for (const line of [
    '',
    'HTTP/1.1',
    'HTTP/1.1 ',
    'HTTP/1.1  200 OK',
    'HTTP/1.1\t200 OK',
    'HTTP/1.1 20 OK',
    'HTTP/1.1 099 OK',
    'HTTP/1.1 2000 OK',
    'HTTP/1.1 200OK',
    'HTTP/1.1 200\tOK',
    'HTTP/1.1 2O0 OK',
    'HTTP/1.1 -20 OK',
    'HTTP/2 200',
    'HTTP/2.0 200 OK',
    'HTTP/1.2 200 OK',
    'HTTP/11 200 OK',
    'HTTP/0.9 200 OK',
    'http/1.1 200 OK',
    ' HTTP/1.1 200 OK',
    '\r\nHTTP/1.1 200 OK',
    'ICY 200 OK',
    'GET / HTTP/1.1',
    '{"id":1}',
  ]) {
    t.equal(read(`${line}\r\nContent-Length: 0\r\n\r\n`).end, 'bad_status_line', JSON.stringify(line))
  }
  t.equal(read('HTTP/1.1 200 O\0K\r\n\r\n').end, 'bad_header')
  t.equal(read('HTTP/1.1 200 O\rK\r\n\r\n').end, 'bad_header')
  t.end()
})

t.test('headers come as they were sent, in their order, with their names in lower case beside them', t => {
  const head = headOf(
    t,
    `${OK}Content-Length: 0\r\nX-A:1\r\nx-a: \t 2 \t \r\nX-Empty:\r\nX-Blank:   \r\nX-Colon: a:b: c\r\nX-High: \x80\xe9\xff\r\nX-Tab: a\tb\r\n!#$%&'*+-.^_\`|~09aZ: token`,
  )
  t.strictSame(head.rawHeaders, [
    ...['Content-Length', '0', 'X-A', '1', 'x-a', '2', 'X-Empty', '', 'X-Blank', '', 'X-Colon', 'a:b: c'],
    ...['X-High', '\x80\xe9\xff', 'X-Tab', 'a\tb', "!#$%&'*+-.^_`|~09aZ", 'token'],
  ])
  t.strictSame(head.names, [
    ...['content-length', 'x-a', 'x-a', 'x-empty', 'x-blank', 'x-colon', 'x-high', 'x-tab', "!#$%&'*+-.^_`|~09az"],
  ])
  t.strictSame(headOf(t, 'HTTP/1.1 204 No Content').rawHeaders, [])
  t.end()
})

t.test('what two readers could take for different headers is none', t => {
  for (const [what, line] of [
    ['a folded line', 'X-A: a\r\n b: c'],
    ['a line folded with a tab', 'X-A: a\r\n\tb'],
    ['a folded first line', ' X-A: a'],
    ['a blank before the colon', 'X-A : a'],
    ['a tab before the colon', 'X-A\t: a'],
    ['no colon', 'X-A'],
    ['no colon, and one in the next line', 'X-A\r\nX-B: b'],
    ['no name', ': a'],
    ['a name of two words', 'X A: a'],
    ['a name with a slash', 'X/A: a'],
    ['a name in brackets', '(X): a'],
    ['a name beyond ASCII', 'X-\xe9: a'],
    ['a NUL in a value', 'X-A: a\0b'],
    ['a NUL in a name', 'X\0A: a'],
    ['a bell', 'X-A: a\x07b'],
    ['an escape', 'X-A: a\x1b[31m'],
    ['a vertical tab', 'X-A: a\x0bb'],
    ['a form feed', 'X-A: a\x0cb'],
    ['a DEL', 'X-A: a\x7fb'],
    ['a CR alone', 'X-A: a\rX-B: b'],
    ['a CR alone at the end', 'X-A: a\r'],
    ['an LF alone', 'X-A: a\nX-B: b'],
    ['an LF alone at the end', 'X-A: a\n'],
    ['a CR too many', 'X-A: a\r\r\nX-B: b'],
  ] as const) {
    t.equal(read(`${OK}${line}\r\n\r\n`).end, 'bad_header', what)
  }
  t.end()
})

t.test('lines that end in LF alone, and bytes that cannot become an answer, are told at once', t => {
  const unixLines = 'HTTP/1.1 200 OK\nContent-Length: 0\n\n'
  t.equal(read(unixLines).end, 'bad_header')
  t.equal(readAnswer(singly(unixLines)).end, 'bad_header')
  for (const text of [
    'SSH-2.0-OpenSSH_9.2\r\n',
    '\x15\x03\x01\x00\x02\x02\x16',
    'HTTP/2.0 200',
    'hello',
    'x',
    'HTTP/1.1 2x',
  ]) {
    const whole = read(text)
    t.equal(whole.end, 'bad_status_line', JSON.stringify(text))
    t.equal(readAnswer(singly(text)).end, 'bad_status_line', 'and so byte by byte')
  }
  for (const text of ['', 'H', 'HTTP/1.', 'HTTP/1.0', 'HTTP/1.1 ', 'HTTP/1.1 20', 'HTTP/1.1 200', 'HTTP/1.1 200 O', OK])
    t.equal(read(text).end, 'open', JSON.stringify(text))
  t.equal(readAnswer([...singly('HTTP/1.1 103 Early Hints\r\n\r\n'), bytesOf('garbage')]).end, 'bad_status_line')
  t.end()
})

t.test('a length is a whole number in digits, said once, and not beside a transfer coding', t => {
  for (const [value, bytes] of [
    ['0', 0],
    ['5', 5],
    ['007', 7],
    ['999999999999999', 999_999_999_999_999],
  ] as const) {
    t.same(headOf(t, `${OK}Content-Length: ${value}`).framing, { kind: 'length', bytes }, value)
  }
  for (const value of ['', '+5', '-5', '-0', '5.0', '5e1', '0x5', '5 5', '5,5', '5, 5', '5;', 'five', '\xb2']) {
    t.equal(read(`${OK}Content-Length: ${value}\r\n\r\nhello`).end, 'bad_length', JSON.stringify(value))
  }
  for (const value of ['1000000000000000', '18446744073709551616', '9'.repeat(100)])
    t.equal(read(`${OK}Content-Length: ${value}\r\n\r\n`).end, 'bad_length', value)
  const twice = (a: string, b: string): unknown => read(`${OK}Content-Length: ${a}\r\nContent-length: ${b}\r\n\r\n`).end
  t.equal(twice('5', '6'), 'bad_length')
  t.equal(twice('5', '5'), 'bad_length')
  t.equal(twice('', '5'), 'bad_length')
  for (const lines of [
    'Content-Length: 5\r\nTransfer-Encoding: chunked',
    'Transfer-Encoding: chunked\r\nContent-Length: 5',
  ])
    t.equal(read(`${OK}${lines}\r\n\r\n5\r\nhello\r\n0\r\n\r\n`).end, 'bad_length')
  t.end()
})

t.test('of the transfer codings only chunked is understood, alone and said once', t => {
  for (const value of ['chunked', 'Chunked', 'CHUNKED', '\t chunked '])
    t.same(headOf(t, `${OK}Transfer-Encoding: ${value}`).framing, { kind: 'chunked' }, value)
  for (const value of [
    '',
    'gzip',
    'identity',
    'gzip, chunked',
    'chunked, gzip',
    'chunked, chunked',
    'xchunked',
    'chunked;q=1',
  ])
    t.equal(read(`${OK}Transfer-Encoding: ${value}\r\n\r\n0\r\n\r\n`).end, 'bad_transfer_coding', JSON.stringify(value))
  const line = 'Transfer-Encoding: chunked\r\n'
  t.equal(read(`${OK}${line}${line}\r\n0\r\n\r\n`).end, 'bad_transfer_coding')
  t.end()
})

t.test('a body of a length ends with it; what comes behind it uses the connection up', t => {
  const text = `${OK}Content-Length: 5\r\n\r\nhello`
  t.match(read(text), { body: 'hello', pieces: 1, end: 'reusable' })
  t.match(read(`${text}H`), { body: 'hello', end: 'spent' })
  t.match(read(`${text}${text}`), { body: 'hello', end: 'spent' })
  t.match(read(text.slice(0, -1)), { body: 'hell', end: 'open' })
  t.match(read(text.slice(0, -1), { closes: true }), { body: 'hell', end: 'cut' })
  t.match(read(`${OK}Content-Length: 0\r\n\r\n`), { body: '', pieces: 0, end: 'reusable' })
  t.match(read(`${OK}Content-Length: 0\r\n\r\n\r\n`), { body: '', end: 'spent' })
  t.end()
})

t.test('chunks become one body, and what one read brought comes as one piece', t => {
  const cases: readonly (readonly [string, string])[] = [
    ['0\r\n\r\n', ''],
    ['5\r\nhello\r\n0\r\n\r\n', 'hello'],
    ['5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n', 'hello world'],
    ['00005\r\nhello\r\n000\r\n\r\n', 'hello'],
    ['a\r\n0123456789\r\nA\r\nabcdefghij\r\n0\r\n\r\n', '0123456789abcdefghij'],
    [`1F\r\n${'x'.repeat(31)}\r\n1f\r\n${'y'.repeat(31)}\r\n0\r\n\r\n`, 'x'.repeat(31) + 'y'.repeat(31)],
    ['5;a\r\nhello\r\n0;b="c"\r\n\r\n', 'hello'],
    ['5 ;a=b\r\nhello\r\n0\r\n\r\n', 'hello'],
    ['5\t\r\nhello\r\n0 \r\n\r\n', 'hello'],
    ['4\r\n\r\n\r\n\r\n2\r\n\r\n\r\n0\r\n\r\n', '\r\n\r\n\r\n'],
    ['1\r\n0\r\n5\r\n\r\n0\r\n\r\n0\r\n\r\n', '0\r\n0\r\n'],
    ['0000000000005\r\nhello\r\n0\r\n\r\n', 'hello'],
    ['5\r\nhello\r\n0\r\nX-Trailer: a\r\nX-Other:b\r\n\r\n', 'hello'],
    ['3\r\n\x00\x80\xff\r\n0\r\n\r\n', '\x00\x80\xff'],
  ]
  for (const [text, body] of cases) {
    t.match(read(CHUNKED + text), { body, pieces: body === '' ? 0 : 1, end: 'reusable' }, JSON.stringify(text))
    t.match(read(`${CHUNKED}${text}H`), { body, end: 'spent' }, 'a byte behind it')
    t.match(read((CHUNKED + text).slice(0, -1), { closes: true }), { body, end: 'cut' }, 'without its last byte')
  }
  t.end()
})

t.test('chunks that are no chunks are a fault, and what came before the fault is still told', t => {
  for (const [what, text] of [
    ['no size', '\r\nhello\r\n0\r\n\r\n'],
    ['no size but an extension', ';a=b\r\nhello\r\n0\r\n\r\n'],
    ['a blank before the size', ' 5\r\nhello\r\n0\r\n\r\n'],
    ['a sign', '+5\r\nhello\r\n0\r\n\r\n'],
    ['a minus', '-5\r\nhello\r\n0\r\n\r\n'],
    ['a prefix', '0x5\r\nhello\r\n0\r\n\r\n'],
    ['no digit', 'g\r\nhello\r\n0\r\n\r\n'],
    ['a digit too many', '00000000000005\r\nhello\r\n0\r\n\r\n'],
    ['a size beyond all numbers', 'ffffffffffffffffff\r\nhello\r\n0\r\n\r\n'],
    ['a size that ends in LF', '5\nhello\r\n0\r\n\r\n'],
    ['a size that ends in CR', '5\rhello\r\n0\r\n\r\n'],
    ['a quoted size', '"5"\r\nhello\r\n0\r\n\r\n'],
    ['an extension that ends in LF', '5;a\nhello\r\n0\r\n\r\n'],
    ['an extension that ends in CR', '5;a\rhello\r\n0\r\n\r\n'],
    ['a chunk longer than it says', '4\r\nhello\r\n0\r\n\r\n'],
    ['a chunk shorter than it says', '6\r\nhello\r\n0\r\n\r\n'],
    ['data that ends in LF', '5\r\nhello\n0\r\n\r\n'],
    ['data that ends in CR', '5\r\nhello\r0\r\n\r\n'],
    ['a trailer that ends in LF', '0\r\nX-A: a\n\r\n'],
    ['a trailer with a CR inside', '0\r\nX-A: a\rb\r\n\r\n'],
    ['an end of LF alone', '0\r\n\n'],
    ['an end of CR alone', '0\r\n\rX'],
  ] as const) {
    const before = `3\r\nabc\r\n`
    const whole = read(CHUNKED + before + text)
    t.equal(whole.end, 'bad_chunk', what)
    t.ok(whole.body.startsWith('abc'), `${what}: what came before it is told`)
    const bytewise = readAnswer(singly(CHUNKED + before + text))
    t.strictSame([bytewise.end, bytewise.body], [whole.end, whole.body], `${what}: the same byte by byte`)
  }
  t.end()
})

t.test('heads, interim answers, extensions and trailers have limits', t => {
  const MAX = 64 * 1024
  const headOfBytes = (bytes: number): string => `${OK}X: ${'x'.repeat(bytes - OK.length - 3)}`
  const whole = `${headOfBytes(MAX)}\r\nContent-Length: 0`.length - MAX
  const fits = `${headOfBytes(MAX - whole)}\r\nContent-Length: 0\r\n\r\n`
  t.equal(read(fits).end, 'reusable')
  for (let cut = fits.length - 6; cut <= fits.length; cut++)
    t.equal(readAnswer(cutAt(fits, cut)).end, 'reusable', `cut ${fits.length - cut} bytes before its end`)
  t.equal(read(`${headOfBytes(MAX - whole + 1)}\r\nContent-Length: 0\r\n\r\n`).end, 'head_too_large')
  t.equal(read(headOfBytes(MAX + 4)).end, 'head_too_large', 'it is not waited for')

  const interim = 'HTTP/1.1 102 Processing\r\n\r\n'
  t.equal(read(`${interim.repeat(9)}${OK}Content-Length: 0\r\n\r\n`).end, 'reusable')
  t.equal(read(`${interim.repeat(20_000)}${OK}Content-Length: 0\r\n\r\n`).end, 'reusable')
  t.equal(read(interim.repeat(50_000)).end, 'too_many_interim_answers')

  const extended = (chars: number): unknown => read(`${CHUNKED}1;${'x'.repeat(chars)}\r\na\r\n0\r\n\r\n`).end
  t.equal(extended(4096), 'reusable')
  t.equal(extended(4097), 'bad_chunk')
  t.equal(
    read(`${CHUNKED}${`1;${'x'.repeat(4000)}\r\na\r\n`.repeat(3)}0\r\n\r\n`).end,
    'reusable',
    'each chunk has its own',
  )
  const trailed = (lines: number): unknown => read(`${CHUNKED}0\r\n${`X: ${'x'.repeat(96)}\r\n`.repeat(lines)}\r\n`).end
  t.equal(trailed(40), 'reusable')
  t.equal(trailed(42), 'bad_chunk')
  t.equal(read(`${CHUNKED}0\r\n${'X: y\r\n'.repeat(2_000)}`).end, 'bad_chunk', 'short trailers count as well')
  t.end()
})

t.test('answers to HEAD, 204 and 304 have no body, whatever they say of its length', t => {
  const lines = ['Content-Length: 5', 'Transfer-Encoding: chunked', 'X: y']
  for (const line of lines) {
    t.match(read(`${OK}${line}\r\n\r\n`, { bodiless: true }), { body: '', end: 'reusable' }, `HEAD, ${line}`)
    t.match(read(`HTTP/1.1 404 No\r\n${line}\r\n\r\n`, { bodiless: true }), { body: '', end: 'reusable' })
    for (const status of [204, 304]) {
      t.match(read(`HTTP/1.1 ${status} X\r\n${line}\r\n\r\n`), { body: '', end: 'reusable' }, `${status}, ${line}`)
      t.match(read(`HTTP/1.1 ${status} X\r\n${line}\r\n\r\nhello`), { body: '', end: 'spent' }, 'a body all the same')
    }
  }
  t.match(read('HTTP/1.1 205 Reset\r\nContent-Length: 0\r\n\r\n'), { end: 'reusable' })
  t.end()
})

t.test('100, 102 and 103 may come before the answer and are passed over', t => {
  const early = 'HTTP/1.1 103 Early Hints\r\nLink: </a>; rel=preload\r\n\r\n'
  const text = `HTTP/1.1 100 Continue\r\n\r\n${early}${OK}Content-Length: 2\r\n\r\nhi`
  t.match(read(text), { body: 'hi', end: 'reusable', head: { status: 200, rawHeaders: ['Content-Length', '2'] } })
  t.match(read(early), { head: undefined, end: 'open' })
  t.equal(read(early, { closes: true }).end, 'cut')
  t.equal(read(`HTTP/1.1 103 Early Hints\r\nLink : x\r\n\r\n${OK}\r\n`).end, 'bad_header', 'they must be sound too')
  t.end()
})

t.test('101 hands the rest over where it was asked for, and is a fault where it was not', t => {
  const text = 'HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n'
  const early = 'HTTP/1.1 103 Early Hints\r\n\r\n'
  t.match(read(`${text}\x81\x00`, { maySwitch: true }), { end: 'switched', rest: '\x81\x00', head: { status: 101 } })
  t.match(read(`${early}${text}`, { maySwitch: true }), { end: 'switched', rest: '' })
  t.equal(read(text).end, 'unasked_upgrade')
  t.match(read(`${OK}Content-Length: 2\r\n\r\nno`, { maySwitch: true }), { body: 'no', end: 'reusable' })
  t.end()
})

t.test('how long the far side keeps the connection is read from its version and its headers', t => {
  const EVER = Number.POSITIVE_INFINITY
  for (const [version, lines, keptForMs] of [
    ['1.1', '', EVER],
    ['1.1', 'Connection: close', 0],
    ['1.1', 'Connection: Close', 0],
    ['1.1', 'Connection: CLOSE', 0],
    ['1.1', 'Connection: keep-alive', EVER],
    ['1.1', 'Connection: x-hop, close', 0],
    ['1.1', 'Connection: x-hop ,\tClose , y', 0],
    ['1.1', 'Connection: x-hop\r\nConnection: close', 0],
    ['1.1', 'Connection: close\r\nConnection: keep-alive', 0],
    ['1.1', 'Connection: closed', EVER],
    ['1.1', 'Connection: x-close, y', EVER],
    ['1.1', 'Connection:', EVER],
    ['1.1', 'Keep-Alive: timeout=5', 5_000],
    ['1.1', 'Keep-Alive: timeout=5, max=100', 5_000],
    ['1.1', 'Keep-Alive: max=100, Timeout=120', 120_000],
    ['1.1', 'Keep-Alive: timeout=0', 0],
    ['1.1', 'Keep-Alive: max=100', EVER],
    ['1.1', 'Keep-Alive: timeout=soon', EVER],
    ['1.1', 'Keep-Alive: timeout=5\r\nConnection: close', 0],
    ['1.0', '', 0],
    ['1.0', 'Keep-Alive: timeout=5', 0],
    ['1.0', 'Connection: keep-alive', EVER],
    ['1.0', 'Connection: Keep-Alive, x-hop\r\nKeep-Alive: timeout=7', 7_000],
    ['1.0', 'Connection: keep-alive, close', 0],
  ] as const) {
    const head = headOf(t, `HTTP/${version} 200 OK\r\nContent-Length: 0${lines === '' ? '' : `\r\n${lines}`}`)
    t.equal(head.keptForMs, keptForMs, `HTTP/${version} ${JSON.stringify(lines)}`)
  }
  t.equal(headOf(t, `${OK}Connection: keep-alive`).keptForMs, 0, 'a body until the close')
  const chunks = 'Transfer-Encoding: chunked\r\nConnection: keep-alive'
  t.equal(headOf(t, `HTTP/1.0 200 OK\r\n${chunks}`).keptForMs, 0, 'chunks are not of HTTP/1.0')
  t.equal(headOf(t, `${OK}${chunks}`).keptForMs, EVER)
  t.end()
})

t.test('a body without a length lasts until the connection closes, and never shares it', t => {
  const text = `${OK}Content-Type: text/plain\r\n\r\nhello`
  t.match(read(text), { body: 'hello', end: 'open', head: { framing: { kind: 'until_close' }, keptForMs: 0 } })
  t.match(read(text, { closes: true }), { body: 'hello', end: 'spent' })
  t.match(read(`${OK}\r\n`, { closes: true }), { body: '', end: 'spent' })
  t.match(readAnswer([bytesOf(text), bytesOf(' and more')], { closes: true }), { body: 'hello and more', end: 'spent' })
  t.match(read('HTTP/1.0 500 Oops\r\n\r\nHTTP/1.1 200 OK\r\n\r\n', { closes: true }), {
    body: 'HTTP/1.1 200 OK\r\n\r\n',
  })
  for (const part of ['', 'HTTP/1.1 200', OK, `${OK}X: y\r\n`]) t.equal(read(part, { closes: true }).end, 'cut')
  t.end()
})

const WHOLE: readonly (readonly [string, string, Circumstances?])[] = [
  ['a length', `${OK}Content-Type: application/json\r\nContent-Length: 12\r\n\r\n{"a":"\r\n\r\n"}`],
  ['chunks', `${CHUNKED}5\r\nhello\r\n1;x="y"\r\n\n\r\n00c\r\n HTTP/1.1 2 \r\n0;z\r\nX-T: a\r\nY: b\r\n\r\n`],
  ['no body', 'HTTP/1.1 204 No Content\r\nX: \xff\r\n\r\n'],
  ['HEAD', `${OK}Content-Length: 9\r\n\r\n`, { bodiless: true }],
  ['interim answers', `HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 E\r\nLink: a\r\n\r\n${CHUNKED}1\r\na\r\n0\r\n\r\n`],
  ['until the close', `HTTP/1.0 200 OK\r\nX-A: a\r\n\r\nsome\r\n\r\nbody`, { closes: true }],
  ['no reason', 'HTTP/1.1 200\r\nContent-Length: 1\r\n\r\nx'],
]

for (const [what, text, circumstances] of WHOLE) {
  t.test(`an answer (${what}) is the same in one piece, cut at any byte, and in single bytes`, t => {
    const { pieces, ...whole } = read(text, circumstances)
    t.ok(whole.end === 'reusable' || whole.end === 'spent')
    t.ok(pieces <= 1)
    for (let at = 1; at < text.length; at++) {
      const { pieces, ...cut } = readAnswer(cutAt(text, at), circumstances)
      t.same(cut, whole, `cut at ${at}`)
      t.ok(pieces <= 2)
      const [first, last] = [text.slice(0, at), text.slice(at)]
      const { pieces: _, ...thrice } = readAnswer([...cutAt(first, at >> 1), ...cutAt(last, 1)], circumstances)
      t.same(thrice, whole, `cut around ${at}`)
    }
    const { pieces: _, ...bytewise } = readAnswer(singly(text), circumstances)
    t.same(bytewise, whole)
    t.end()
  })
}

t.test('one reader reads one answer after the other, and nothing of one gets into the next', t => {
  const told: string[] = []
  const reader = new ResponseParser(
    {
      head: ({ status }) => void told.push(`${status}`),
      body: bytes => void told.push(bytes.toString('latin1')),
      end: reusable => void told.push(reusable ? 'reusable' : 'spent'),
      switched: () => void told.push('switched'),
    },
    createLowerCaseNames(),
  )
  for (const text of [
    `${CHUNKED}3;x\r\nabc\r\n0\r\nT: t\r\n\r\n`,
    `${OK}Content-Length: 2\r\n\r\nde`,
    'HTTP/1.1 204 X\r\n\r\n',
    `${CHUNKED}1\r\nf\r\n0\r\n\r\n`,
  ]) {
    reader.expect({ bodiless: false, maySwitch: false })
    t.notOk(reader.begun())
    t.equal(reader.push(bytesOf(text)), undefined)
    t.ok(reader.begun())
  }
  t.strictSame(told, ['200', 'abc', 'reusable', '200', 'de', 'reusable', '204', 'reusable', '200', 'f', 'reusable'])
  reader.expect({ bodiless: false, maySwitch: false })
  reader.push(bytesOf('HTTP/1.1 200 OK\r\nConte'))
  reader.stop()
  reader.push(bytesOf('nt-Length: 1\r\n\r\nx'))
  t.ok(reader.close(), 'once stopped nothing is missed')
  reader.expect({ bodiless: true, maySwitch: false })
  t.equal(reader.push(bytesOf(`${OK}Content-Length: 1\r\n\r\n`)), undefined)
  t.equal(told.length, 13, 'a head begun before the stop is forgotten')
  t.end()
})

t.test('a listener that has had enough in the middle hears no end', t => {
  for (const text of [
    `${OK}Content-Length: 3\r\n\r\nabc`,
    `${CHUNKED}3\r\nabc\r\n0\r\n\r\n`,
    `${CHUNKED}3\r\nabc\r\nX`,
  ]) {
    for (const when of ['head', 'body'] as const) {
      const told: string[] = []
      const reader: ResponseParser = new ResponseParser(
        {
          head() {
            told.push('head')
            if (when === 'head') reader.stop()
          },
          body() {
            told.push('body')
            reader.stop()
          },
          end: () => void told.push('end'),
          switched: () => void told.push('switched'),
        },
        createLowerCaseNames(),
      )
      reader.expect({ bodiless: false, maySwitch: false })
      reader.push(bytesOf(text))
      t.strictSame(told, when === 'head' ? ['head'] : ['head', 'body'])
    }
  }
  t.end()
})

t.test('a name is remembered in lower case, looked at once, and no name at all is not remembered', t => {
  const looked: string[] = []
  const names = new NameMemory(lowerCase => {
    looked.push(lowerCase)
    return lowerCase.length
  })
  for (const name of ['X-A', 'X-A', 'x-a', 'X-A']) t.equal(names.of(name), 3)
  t.strictSame(looked, ['x-a', 'x-a'], 'once for each way of writing it')
  for (const name of ['', ' ', 'x a', 'x:', 'x\n', 'x\0', '\xe9', 'x\r\ny']) t.equal(names.of(name), undefined)
  t.equal(looked.length, 2)
  const long = 'x'.repeat(65)
  names.of(long)
  names.of(long)
  t.equal(looked.length, 4, 'a long name is looked at each time')
  for (let i = 0; i < 5_000; i++) names.of(`x-${i}`)
  looked.length = 0
  for (let i = 0; i < 5_000; i++) names.of(`x-${i}`)
  t.ok(looked.length >= 4_000, 'at most a thousand are remembered')
  t.end()
})

t.test('names are told apart, whatever the order in which they come', t => {
  const names = createLowerCaseNames()
  const inOrder = ['A', 'Bb', 'bB', 'B', 'Bbb', 'A-', 'a']
  for (const order of [inOrder, inOrder, [...inOrder].reverse(), inOrder.filter(name => name !== 'B'), inOrder]) {
    for (const name of order) t.equal(names.of(name), name.toLowerCase())
    t.equal(names.of('x y'), undefined)
  }
  t.end()
})

t.test('a remembered name does not keep the head that it came in', t => {
  v8.setFlagsFromString('--expose_gc')
  const collect: unknown = vm.runInNewContext('gc')
  if (typeof collect !== 'function') throw new Error('no collector')
  const heapBytes = (): number => {
    collect()
    return process.memoryUsage().heapUsed
  }
  const names = createLowerCaseNames()
  const before = heapBytes()
  for (let i = 0; i < 500; i++) {
    const head = Buffer.from(`${OK}x-invented-name-${i}: ${'x'.repeat(15_000)}`)
    if (typeof parseHead(head, { start: 0, stop: head.length }, false, names) === 'string') t.fail('no head')
  }
  t.ok(heapBytes() - before < 2_000_000, '500 heads of 15 KB are gone')
  t.equal(names.of('x-invented-name-0'), 'x-invented-name-0')
  t.end()
})
