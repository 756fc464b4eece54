// The form scanner: fields it finds in a multipart body without copying its files, and forms it refuses.
import t from 'tap'
import { parseBoundary } from '../../lib/body/multipart-headers.ts'
import {
  createMultipartScanner,
  MAX_FIELD_BYTES,
  MAX_PART_HEADER_BYTES,
  MAX_PARTS,
  type MultipartResult,
  type ScannedForm,
  scanMultipart,
  setField,
} from '../../lib/body/multipart-scan.ts'

const wanted = new Set(['model', 'stream'])
const type = 'multipart/form-data; boundary=XyZ'

const field = (name: string, value: string) =>
  `--XyZ\r\nContent-Disposition: form-data; name="${name}"\r\n\r\n${value}\r\n`
const file = (name: string, content: string) =>
  `--XyZ\r\nContent-Disposition: form-data; name="${name}"; filename="a.png"\r\nContent-Type: image/png\r\n\r\n${content}\r\n`
const part = (headers: string) => `--XyZ\r\n${headers}\r\n\r\nm\r\n`
const end = '--XyZ--\r\n'

/** The text whole, cut in two at every byte, and byte by byte: whatever is claimed must hold for all of them. */
function* cuts(text: string): Generator<readonly Buffer[]> {
  const bytes = Buffer.from(text, 'latin1')
  yield [bytes]
  for (let at = 0; at <= bytes.length; at++) yield [bytes.subarray(0, at), bytes.subarray(at)]
  yield Array.from(bytes, byte => Buffer.from([byte]))
}

function ok(scan: MultipartResult): ScannedForm {
  if (scan.kind !== 'ok') throw new Error(`${scan.reason} at ${scan.offset}`)
  return scan
}

t.test('the boundary is read from the content type', async t => {
  const table: readonly (readonly [string, string])[] = [
    ['multipart/form-data; boundary=abc', 'abc'],
    ['Multipart/Form-Data;BOUNDARY="a b:c;d"; charset=utf-8', 'a b:c;d'],
    ['multipart/form-data; charset=utf-8; boundary=----WebKitFormBoundaryAbC;', '----WebKitFormBoundaryAbC'],
    ['multipart/form-data; boundary="a\\"b\\c"', 'a"bc'],
    [`multipart/form-data; boundary=${'x'.repeat(70)}`, 'x'.repeat(70)],
  ]
  for (const [contentType, boundary] of table) t.same(parseBoundary(contentType), { kind: 'ok', boundary }, contentType)
  for (const contentType of [
    '',
    'application/json; boundary=abc',
    'multipart/mixed; boundary=abc',
    'multipart/form-data',
    'multipart/form-data; charset=utf-8',
    'multipart/form-data; boundary=',
    'multipart/form-data; boundary=""',
    'multipart/form-data; boundary="abc',
    'multipart/form-data; boundary="abc"d',
    'multipart/form-data; boundary="abc "',
    'multipart/form-data; boundary="\u00e4"',
    'multipart/form-data; boundary=a; boundary=b',
    `multipart/form-data; boundary=${'x'.repeat(71)}`,
  ]) {
    t.equal(parseBoundary(contentType).kind, 'invalid', contentType)
    t.match(scanMultipart([Buffer.from(end)], contentType, wanted), { kind: 'invalid', offset: 0 })
  }
})

t.test('wanted text fields are found before and after files, wherever the chunks end', async t => {
  const nasty = 'x\r\n--Xy\r\n--XyQ\r\r\n-\r\n\r\n--Xy\xff\x00--XyZ--\r--XyZ\n--XyZ\r\n-'
  const table: readonly (readonly [string, ...(readonly [string, string])[]])[] = [
    [field('model', 'gpt-image-1') + file('image', 'PNG') + end, ['model', 'gpt-image-1']],
    [file('image', nasty) + field('prompt', 'a cat') + field('model', 'm') + end, ['model', 'm']],
    [file('image', nasty) + field('stream', 'true') + field('model', 'm') + end, ['stream', 'true'], ['model', 'm']],
    [file('image', '') + field('model', '') + end, ['model', '']],
    [field('model', 'a') + field('model', 'b\r\n') + end, ['model', 'a'], ['model', 'b\r\n']],
    [field('model', '\xc3\xa4\r\n--Xy') + end, ['model', 'ä\r\n--Xy']],
    [`${field('model', 'm')}${end}\r\n`, ['model', 'm']],
    [`${field('model', 'm')}--XyZ--`, ['model', 'm']],
    [`${field('model', 'm')}--XyZ-- \t\r\nepilogue ${field('model', 'no')}`, ['model', 'm']],
    [`preamble --XyZ\r\n${field('model', 'm')}${end}`, ['model', 'm']],
    [`\r\n${field('model', 'm')}${end}`, ['model', 'm']],
    [`--XyZ \t \r\nContent-Disposition: form-data; name="model"\r\n\r\nm\r\n${end}`, ['model', 'm']],
    [part('content-disposition:form-data;NAME=model') + end, ['model', 'm']],
    [part('Content-Type: text/plain\r\nCONTENT-DISPOSITION: Form-Data ; name = "model" ;') + end, ['model', 'm']],
    [part('Content-Disposition: form-data;\r\n\t name="mo\\del"') + end, ['model', 'm']],
    [part('Content-Disposition: form-data; x="a;name=\\"no\\""; name="model"') + end, ['model', 'm']],
    [part('Content-Disposition: form-data; name="model"\r\nContent-Transfer-Encoding: 8BIT') + end, ['model', 'm']],
    [file('model', 'FILE') + end],
    [part('Content-Disposition: form-data; name="model"; filename=""') + end],
    [part("Content-Disposition: form-data; name=model; FileName*=utf-8''a") + end],
    [part('Content-Disposition: form-data; name="Model"') + end],
    [part('Content-Disposition: form-data; name="model[]"') + end],
    [part('Content-Disposition: form-data; name="a"\r\nContent-Transfer-Encoding: base64') + end],
    [end],
  ]
  for (const [text, ...expected] of table) {
    for (const chunks of cuts(text)) {
      const fields = ok(scanMultipart(chunks, type, wanted)).fields.map(({ name, text: value, start, end }) => {
        const raw = Buffer.concat(chunks).subarray(start, end).toString()
        return value === raw ? [name, raw] : [name, raw, value]
      })
      if (!t.strictSame(fields, expected, JSON.stringify(text))) break
    }
  }
})

t.test('a form that is malformed, or that two parsers could read differently, is invalid', async t => {
  for (const text of [
    '',
    'nothing',
    `${field('model', 'm')}`,
    `${field('model', 'm')}--XyZ`,
    `${field('model', 'm')}--XyZ-`,
    `${field('model', 'm')}--XyZ-x`,
    '--XyZ\r\nContent-Disposition: form-data; name="model"',
    `--XyZ\nContent-Disposition: form-data; name="model"\n\nm\n--XyZ--\n`,
    `--XyZQ\r\nContent-Disposition: form-data; name="model"\r\n\r\nm\r\n${end}`,
    `--XyZ -\r\nContent-Disposition: form-data; name="model"\r\n\r\nm\r\n${end}`,
    `--XyZ\r\r\nContent-Disposition: form-data; name="model"\r\n\r\nm\r\n${end}`,
    `--XyZ\r\n\r\nm\r\n${end}`,
    `--XyZ\r\nContent-Disposition: form-data; name="model"\r\n\r\n${end}`,
    part('Content-Type: text/plain') + end,
    part('Content-Disposition: form-data') + end,
    part('Content-Disposition: form-data; filename="a"') + end,
    part("Content-Disposition: form-data; name*=utf-8''model") + end,
    part("Content-Disposition: form-data; name=a; name*=utf-8''model") + end,
    part('Content-Disposition: form-data; name="a"; name="model"') + end,
    part('Content-Disposition: form-data; name="model') + end,
    part('Content-Disposition: form-data; name="a"model') + end,
    part('Content-Disposition: form-data; name') + end,
    part('Content-Disposition: form-data; name="a"\r\nContent-Disposition: form-data; name="model"') + end,
    part('X: y\nContent-Disposition: form-data; name="model"') + end,
    part('Content-Disposition: form-data; name="model"\r\nContent-Transfer-Encoding: base64') + end,
  ]) {
    const kinds = new Set<string>()
    for (const chunks of cuts(text)) {
      const scan = scanMultipart(chunks, type, wanted)
      kinds.add(scan.kind === 'ok' ? 'ok' : `${scan.reason} at ${scan.offset}`)
    }
    t.equal(kinds.size, 1, `however ${JSON.stringify(text)} is cut, the verdict is the same`)
    t.notOk(kinds.has('ok'), JSON.stringify([...kinds]))
  }
})

t.test('every limit is held', async t => {
  const headers = (bytes: number) => {
    const known = 'Content-Disposition: form-data; name="model"\r\nX: '
    return [Buffer.from(part(known + 'x'.repeat(bytes - known.length - 4)) + end)]
  }
  t.equal(ok(scanMultipart(headers(MAX_PART_HEADER_BYTES), type, wanted)).fields.length, 1)
  t.match(scanMultipart(headers(MAX_PART_HEADER_BYTES + 1), type, wanted), { kind: 'invalid', reason: /longer/ })
  const endless = createMultipartScanner('XyZ', wanted)
  endless.push(Buffer.from('--XyZ\r\nX: '))
  for (let n = 0; n <= MAX_PART_HEADER_BYTES; n += 1024) endless.push(Buffer.alloc(1024, 'x'))
  t.match(endless.end(), { kind: 'invalid', reason: /longer/ })

  for (const [bytes, known] of [
    [MAX_FIELD_BYTES, true],
    [MAX_FIELD_BYTES + 1, false],
  ] as const) {
    const body = Buffer.from(field('model', 'x'.repeat(bytes)) + end)
    for (const size of [body.length, 1000, 7]) {
      const chunks = []
      for (let at = 0; at < body.length; at += size) chunks.push(body.subarray(at, at + size))
      const [found] = ok(scanMultipart(chunks, type, wanted)).fields
      t.equal(found?.text?.length, known ? bytes : undefined)
      t.equal((found?.end ?? 0) - (found?.start ?? 0), bytes)
    }
  }
  t.equal(ok(scanMultipart([Buffer.from(field('a', '').repeat(MAX_PARTS) + end)], type, wanted)).fields.length, 0)
  t.match(scanMultipart([Buffer.from(field('a', '').repeat(MAX_PARTS + 1) + end)], type, wanted), { reason: /parts/ })
})

t.test('the model is known before the file has come, and nothing counts after a fault', async t => {
  const scanner = createMultipartScanner('XyZ', wanted)
  scanner.push(Buffer.from(field('model', 'm')))
  t.match(scanner.fields, [])
  scanner.push(Buffer.from('--XyZ'))
  t.match(scanner.fields, [{ name: 'model', text: 'm' }])
  scanner.push(Buffer.from('?'))
  const verdict = scanner.end()
  t.match(verdict, { kind: 'invalid' })
  scanner.push(Buffer.from(field('stream', 'true') + end))
  t.same(scanner.end(), verdict)
  t.equal(scanner.fields.length, 1)
})

t.test('the deployment is put into the model field, or in a part of its own, and no other byte changes', async t => {
  const image = file('image', 'P\r\n--Xy\xff')
  const table: readonly (readonly [string, string])[] = [
    [field('model', 'gpt') + image + end, field('model', 'dep') + image + end],
    [`${image + field('model', '') + end}\r\n`, `${image + field('model', 'dep') + end}\r\n`],
    [
      field('model', 'a') + image + field('model', 'b') + end,
      field('model', 'dep') + image + field('model', 'dep') + end,
    ],
    [image + end, field('model', 'dep') + image + end],
    [`hello\r\n${image}${end}`, `hello\r\n${field('model', 'dep')}${image}${end}`],
    [file('model', 'x') + end, field('model', 'dep') + file('model', 'x') + end],
    [end, field('model', 'dep') + end],
  ]
  for (const [before, after] of table) {
    for (const chunks of cuts(before)) {
      const edited = setField(chunks, ok(scanMultipart(chunks, type, wanted)), 'model', 'dep')
      if (Buffer.concat(edited.chunks).toString('latin1') === after && edited.byteLength === after.length) continue
      t.fail(`${JSON.stringify(before)} in ${chunks.length} chunks`)
      break
    }
  }
  const same = [Buffer.from(field('model', 'dep') + end)]
  t.equal(setField(same, ok(scanMultipart(same, type, wanted)), 'model', 'dep').chunks, same)
  t.throws(() => setField(same, ok(scanMultipart(same, type, wanted)), 'model', 'a\r\nb'))
})
