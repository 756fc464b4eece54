// The JSON scanner: members it finds in a request body without parsing it, and bodies it refuses.
import t from 'tap'
import { byteLengthOf, replaceBytes, sliceBytes, viewBytes } from '../../lib/body/chunk-list.ts'
import { lastMember, setMember, setModel } from '../../lib/body/edit.ts'
import { findStringsOfKey } from '../../lib/body/json-key-search.ts'
import {
  jsonScannerFor,
  MAX_CAPTURE_BYTES,
  MAX_DEPTH,
  MAX_MEMBERS,
  type ScannedObject,
  scanJson,
} from '../../lib/body/json-scan.ts'

const wanted = new Set(['model', 'stream', 'stream_options', 'messages', 'größe'])

/** The text whole, cut in two at every byte, and byte by byte: whatever is claimed must hold for all of them. */
function* cuts(text: string | Buffer): Generator<readonly Buffer[]> {
  const bytes = Buffer.from(text as string)
  yield [bytes]
  for (let at = 0; at <= bytes.length; at++) yield [bytes.subarray(0, at), bytes.subarray(at)]
  yield Array.from(bytes, byte => Buffer.from([byte]))
}

function scanned(chunks: readonly Buffer[]): ScannedObject {
  const scan = scanJson(chunks, wanted)
  if (scan.kind !== 'ok') throw new Error(`${scan.reason} at ${scan.offset}`)
  return scan
}

t.test('wanted members are found at the top level, wherever the chunks end', async t => {
  // Text, then name, kind, raw value and decoded text of each member expected.
  const table: readonly (readonly [string, ...(readonly [string, string, string, string?])[]])[] = [
    ['{"model":"gpt-4o"}', ['model', 'string', '"gpt-4o"', 'gpt-4o']],
    ['{"model" : "gpt-4o" , "x":1}', ['model', 'string', '"gpt-4o"', 'gpt-4o']],
    ['\r\n\t {\n  "x": [],\n  "model"\n:\t"a"\n}\n \t', ['model', 'string', '"a"', 'a']],
    ['\ufeff{"model":"a"}', ['model', 'string', '"a"', 'a']],
    ['\ufeff \n{"model":"a"}', ['model', 'string', '"a"', 'a']],
    ['{"\\u006dodel":"g\\u0070t"}', ['model', 'string', '"g\\u0070t"', 'gpt']],
    ['{"\\u006D\\u006f\\u0064\\u0065\\u006c":"a"}', ['model', 'string', '"a"', 'a']],
    [
      '{"gr\\u00f6\\u00dfe":"ä€😀","größe":"\\ud83d\\ude00"}',
      ['größe', 'string', '"ä€😀"', 'ä€😀'],
      ['größe', 'string', '"\\ud83d\\ude00"', '😀'],
    ],
    ['{"model":"a\\\\","stream":"\\""}', ['model', 'string', '"a\\\\"', 'a\\'], ['stream', 'string', '"\\""', '"']],
    ['{"a":"\\\\\\"model\\":","model":"x"}', ['model', 'string', '"x"', 'x']],
    [
      '{"messages":[{"model":"no"},["model"]],"model":"x","tools":{"model":{"model":1}}}',
      ['messages', 'array', '[{"model":"no"},["model"]]'],
      ['model', 'string', '"x"', 'x'],
    ],
    [
      '{"model":"a","model":null,"model":"b"}',
      ['model', 'string', '"a"', 'a'],
      ['model', 'null', 'null'],
      ['model', 'string', '"b"', 'b'],
    ],
    ['{"stream":true,"model":false}', ['stream', 'true', 'true'], ['model', 'false', 'false']],
    ['{"model":-0.5e+10}', ['model', 'number', '-0.5e+10']],
    ['{"model":12 ,"stream":0}', ['model', 'number', '12'], ['stream', 'number', '0']],
    ['{"model":{"a":[{}]},"stream_options":{}}', ['model', 'object', '{"a":[{}]}'], ['stream_options', 'object', '{}']],
    ['{"Model":"a","mode":"a","models":"a","":"a"}'],
    ['{"a":"model","b":{"model":"x"}}'],
    ['{}'],
  ]
  for (const [text, ...expected] of table) {
    for (const chunks of cuts(text)) {
      const members = scanned(chunks).members.map(({ name, kind, text, start, end }) => {
        const raw = sliceBytes(chunks, start, end, 1000).toString()
        return text === undefined ? [name, kind, raw] : [name, kind, raw, text]
      })
      if (!t.strictSame(members, expected, text)) break
    }
  }
})

t.test('a text that is not one JSON object is invalid, and the place is told', async t => {
  const table: readonly (readonly [string, number])[] = [
    ['', 0],
    [' ', 1],
    ['[]', 0],
    ['"model"', 0],
    ['null', 0],
    ['1', 0],
    ['x{}', 0],
    [' \ufeff{}', 1],
    ['\ufeff\ufeff{}', 3],
    ['{', 1],
    ['{"model"', 8],
    ['{"model":', 9],
    ['{"model":"a', 11],
    ['{"model":"a"', 12],
    ['{"model":"a\\"}', 14],
    ['{"a":[1,2}', 9],
    ['{"a":{"b":1]}', 11],
    ['{]', 1],
    ['{"a":[}', 6],
    ['{"a":1}}', 7],
    ['{} {}', 3],
    ['{}x', 2],
    ['{,}', 1],
    ['{"a":1,}', 7],
    ['{"a":1,,"b":2}', 7],
    ['{"a":[1,]}', 8],
    ['{"a":[,1]}', 6],
    ['{"a" "b"}', 5],
    ['{"a"::1}', 5],
    ['{"a":}', 5],
    ['{a:1}', 1],
    ["{'a':1}", 1],
    ['{1:1}', 1],
    ['{"a":1 "b":2}', 7],
    ['{"a":01}', 6],
    ['{"a":+1}', 5],
    ['{"a":-}', 6],
    ['{"a":1.}', 7],
    ['{"a":.5}', 5],
    ['{"a":1e}', 7],
    ['{"a":1e+}', 8],
    ['{"a":1.2.3}', 8],
    ['{"a":--1}', 6],
    ['{"a":0x1}', 6],
    ['{"a":NaN}', 5],
    ['{"a":Infinity}', 5],
    ['{"a":tru}', 8],
    ['{"a":True}', 5],
    ['{"a":truer}', 9],
    ['{"a":nul', 8],
    ['{"a":fals,"b":1}', 9],
    ['{"a":/*x*/1}', 5],
    ['{"a":\u00a01}', 5],
    ['{"a":1}\u0000', 7],
    ['{"a":1}\f', 7],
    ['{"mo\\del":1}', 8],
    ['{"mo\ndel":1}', 8],
    ['{"model":"a\nb"}', 13],
    ['{"model":"\\x41"}', 14],
    ['{"model":"\\u12"}', 14],
  ]
  for (const [text, offset] of table) {
    for (const chunks of cuts(text)) {
      const scan = scanJson(chunks, wanted)
      if (scan.kind === 'invalid' && scan.offset === offset) continue
      t.fail(`${JSON.stringify(text)} in ${chunks.length} chunks: ${JSON.stringify(scan)}`)
      break
    }
  }
})

t.test('no reason quotes the body', async t => {
  const scan = scanJson([Buffer.from('{"a":secret}')], wanted)
  t.notMatch(JSON.stringify(scan), /secret/)
})

t.test('strings that nobody wants are skipped without a look at their characters', async t => {
  for (const text of ['{"a":"line\nbreak","model":"m"}', '{"a":"\\x","model":"m"}', '{"a":["\t"],"model":"m"}']) {
    for (const chunks of cuts(text)) t.equal(lastMember(scanned(chunks).members, 'model')?.text, 'm')
  }
  const notUtf8 = Buffer.concat([Buffer.from('{"a":"'), Buffer.from([0xff, 0xc3]), Buffer.from('","model":"m"}')])
  t.equal(lastMember(scanned([notUtf8]).members, 'model')?.text, 'm')
})

t.test('long strings are skipped whatever escapes they hold', async t => {
  for (const unit of ['x', '\\"', '\\\\', '\\\\\\"', `${'y'.repeat(40)}\\"`, `${'y'.repeat(15)}\\\\`, '€\\n']) {
    for (const repeats of [1, 7, 8, 15, 16, 17, 31, 33, 64, 500]) {
      const body = Buffer.from(`{"a":"${unit.repeat(repeats)}","model":"m"}`)
      for (const size of [1, 3, 16, 17, 47, 1000, body.length]) {
        const chunks = []
        for (let at = 0; at < body.length; at += size) chunks.push(body.subarray(at, at + size))
        const member = lastMember(scanned(chunks).members, 'model')
        if (member?.text !== 'm' || member.end !== body.length - 1) t.fail(`${unit} × ${repeats}, chunks of ${size}`)
      }
    }
  }
})

t.test('every limit is held', async t => {
  const nested = (depth: number) => Buffer.from(`{"a":${'['.repeat(depth - 1)}${']'.repeat(depth - 1)},"model":"m"}`)
  t.equal(scanJson([nested(MAX_DEPTH)], wanted).kind, 'ok')
  t.match(scanJson([nested(MAX_DEPTH + 1)], wanted), { kind: 'invalid', offset: 5 + MAX_DEPTH - 1 })
  t.equal(scanJson([Buffer.from('{"a":'.repeat(100_000))], wanted).kind, 'invalid')

  const long = (bytes: number) => [Buffer.from('{"model":"'), Buffer.alloc(bytes, 'x'), Buffer.from('"}')]
  for (const split of [(c: readonly Buffer[]) => c, (c: readonly Buffer[]) => [Buffer.concat(c)]]) {
    t.equal(scanned(split(long(MAX_CAPTURE_BYTES))).members[0]?.text?.length, MAX_CAPTURE_BYTES)
    const [member] = scanned(split(long(MAX_CAPTURE_BYTES + 1))).members
    t.same(member, { name: 'model', kind: 'string', start: 9, end: MAX_CAPTURE_BYTES + 12, text: undefined })
  }
  const longName = [Buffer.from('{"'), Buffer.alloc(100_000, 'model'), Buffer.from('":1,"model":"m"}')]
  t.equal(scanned(longName).members.length, 1)
  t.equal(scanned([Buffer.concat(longName)]).members.length, 1)

  const many = (count: number) => Buffer.from(`{${Array(count).fill('"model":1').join()}}`)
  t.equal(scanned([many(MAX_MEMBERS)]).members.length, MAX_MEMBERS)
  t.equal(scanJson([many(MAX_MEMBERS + 1)], wanted).kind, 'invalid')
})

t.test('the model is known before the body has ended, and nothing counts after a fault', async t => {
  const scanner = jsonScannerFor(wanted)()
  scanner.push(Buffer.from('{"model":"gp'))
  t.same(scanner.members, [])
  scanner.push(Buffer.from('t","messages":['))
  t.same(scanner.members, [{ name: 'model', kind: 'string', start: 9, end: 14, text: 'gpt' }])
  t.match(scanner.end(), { kind: 'invalid', offset: 27 })
  scanner.push(Buffer.from('}'))
  scanner.push(Buffer.from(']}'))
  t.match(scanner.end(), { kind: 'invalid', offset: 27 })
})

t.test('of duplicates the last one counts', async t => {
  const { members } = scanned([Buffer.from('{"model":"a","model":"b"}')])
  t.equal(lastMember(members, 'model')?.text, 'b')
  t.equal(lastMember(members, 'stream'), undefined)
})

t.test('the deployment is put where the model stands, and no other byte changes', async t => {
  const table: readonly (readonly [string, string, string])[] = [
    ['{"model":"gpt-4o"}', 'dep', '{"model":"dep"}'],
    [
      '{ "messages":[{"model":"x"}] , "model" : "gpt-4o" }\n',
      'd"1',
      '{ "messages":[{"model":"x"}] , "model" : "d\\"1" }\n',
    ],
    ['{"model":"a","x":1,"model":7}', 'dep', '{"model":"dep","x":1,"model":"dep"}'],
    ['{"model":"dep","x":1,"model":"b"}', 'dep', '{"model":"dep","x":1,"model":"dep"}'],
    ['{"mod\\u0065l":null,"x":1.0}', 'dep', '{"mod\\u0065l":"dep","x":1.0}'],
    ['{"model":{"a":[]}}', 'dep', '{"model":"dep"}'],
    ['{"model":12}', 'dep', '{"model":"dep"}'],
    ['{"messages":[]}', 'dep', '{"model":"dep","messages":[]}'],
    ['\ufeff {\n  "messages": []\n}', 'dep', '\ufeff {"model":"dep",\n  "messages": []\n}'],
    ['{}', 'dep', '{"model":"dep"}'],
    ['{ \n }', 'dep', '{"model":"dep" \n }'],
  ]
  for (const [before, deployment, after] of table) {
    for (const chunks of cuts(before)) {
      const edited = setModel(chunks, scanned(chunks), deployment)
      if (Buffer.concat(edited.chunks).toString() === after && edited.byteLength === Buffer.byteLength(after)) continue
      t.fail(`${before} in ${chunks.length} chunks became ${Buffer.concat(edited.chunks)}`)
      break
    }
  }
})

t.test('a body that names the deployment already is handed on as the same list', async t => {
  for (const chunks of cuts('{"messages":[],"model":"dep","model":"dep"}')) {
    const edited = setModel(chunks, scanned(chunks), 'dep')
    t.equal(edited.chunks, chunks)
    t.equal(edited.byteLength, 43)
  }
})

t.test('chunks without an edit are the same buffers, cut ones share their memory', async t => {
  const chunks = ['{"messages":', '["long"],', '"model":"a"', ',"b":1', '}'].map(text => Buffer.from(text))
  const edited = setModel(chunks, scanned(chunks), 'dep').chunks
  t.equal(edited[0], chunks[0])
  t.equal(edited[1], chunks[1])
  t.equal(edited.at(-1), chunks[4])
  t.equal(edited[2]?.buffer, chunks[2]?.buffer)
})

t.test('any other member can be set as well', async t => {
  const json = '{"include_usage":true}'
  for (const [before, after] of [
    ['{"stream":true}', `{"stream_options":${json},"stream":true}`],
    ['{"stream_options":null,"stream":true}', `{"stream_options":${json},"stream":true}`],
    ['{"stream_options":{"include_usage":false}}', `{"stream_options":${json}}`],
  ] as const) {
    const chunks = [Buffer.from(before)]
    t.equal(Buffer.concat(setMember(chunks, scanned(chunks), 'stream_options', json).chunks).toString(), after)
  }
})

t.test('bytes are copied out of a chunk list up to a limit', async t => {
  const chunks = ['abc', '', 'de', 'fghij'].map(text => Buffer.from(text))
  t.equal(sliceBytes(chunks, 0, 10, 100).toString(), 'abcdefghij')
  t.equal(sliceBytes(chunks, 2, 6, 100).toString(), 'cdef')
  t.equal(sliceBytes(chunks, 2, 9, 3).toString(), 'cde')
  t.equal(sliceBytes(chunks, 8, 99, 100).toString(), 'ij')
  t.equal(sliceBytes(chunks, 4, 4, 100).length, 0)
  t.equal(byteLengthOf(chunks), 10)
  t.equal(viewBytes(chunks, 0, 4)[0], chunks[0])
})

t.test('replacements may touch each other, the ends and the borders of chunks', async t => {
  const edits = [
    { start: 0, end: 0, bytes: Buffer.from('<') },
    { start: 2, end: 5, bytes: Buffer.from('23') },
    { start: 5, end: 6, bytes: Buffer.alloc(0) },
    { start: 10, end: 10, bytes: Buffer.from('>') },
  ]
  for (const chunks of cuts('abcdefghij')) {
    const { chunks: out, byteLength } = replaceBytes(chunks, edits)
    t.equal(Buffer.concat(out).toString(), '<ab23ghij>')
    t.equal(byteLength, 10)
  }
})

t.test('the string values of a nested key are found by their bytes', async t => {
  const text = JSON.stringify({
    include: ['encrypted_content', 'reasoning.encrypted_content'],
    fake: 'see \\"encrypted_content":"no"',
    tail: 'ends with "encrypted_content',
    nested: JSON.stringify({ encrypted_content: 'inside a string' }),
    deeper: JSON.stringify(JSON.stringify({ encrypted_content: 'inside a string in a string' })),
    slash: '\\',
    input: [
      { type: 'reasoning', encrypted_content: 'first==' },
      { encrypted_content: null, x: { encrypted_content: 'se"co\\nd' } },
      { encrypted_content: '' },
      { encrypted_contents: 'no', not_encrypted_content: 'no', 'x"encrypted_content': 'no' },
    ],
  })
  for (const json of [text, JSON.stringify(JSON.parse(text), null, '\t ').replaceAll('":', '" \r\n:')]) {
    for (const chunks of cuts(json)) {
      const found = findStringsOfKey(chunks, 'encrypted_content', 10, json.length)
      const values = found.map(({ start, end }) => JSON.parse(`"${sliceBytes(chunks, start, end, 100)}"`))
      if (t.strictSame(values, ['first==', 'se"co\\nd', ''])) continue
      break
    }
  }
})

t.test('the search for a key stays within its limits', async t => {
  const text = '{"a":[{"k":"one"},{"k":"two"},{"k":"three"}]}'
  for (const chunks of cuts(text)) {
    const values = (...limits: [number, number, number?]) =>
      findStringsOfKey(chunks, 'k', ...limits)
        .map(({ start, end }) => text.slice(start, end))
        .join()
    t.equal(values(2, 1000), 'one,two')
    t.equal(values(0, 1000), '')
    t.equal(values(9, text.indexOf('two') + 4), 'one,two')
    t.equal(values(9, text.indexOf('two') + 3), 'one')
    t.equal(values(9, 1000, text.indexOf('two') - 6), 'two,three')
    t.equal(values(9, 20, text.indexOf('two') - 6), 'two')
  }
})
