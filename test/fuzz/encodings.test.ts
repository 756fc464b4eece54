// Packed bodies by chance, sound and spoilt, in pieces of any size. What comes out is what went in, or the body is
// broken; never more, never twice, and nothing is thrown. FUZZ_SEED repeats a run, FUZZ_RUNS sets its length.
import zlib from 'node:zlib'
import t from 'tap'
import { CODINGS, type Coding, createBodyDecoder } from '../../lib/body/decode.ts'
import { chanceFor } from '../fixtures/chance.ts'

const { runs, below, happens, pick, pieces } = chanceFor(t, 300)

function plain(): Buffer {
  const length = below(pick([1, 20, 1_000, 1_000, 60_000]))
  const bytes = Buffer.alloc(length, pick(['a', '{"model":"m"}', ' ']))
  for (let i = below(pick([1, 200])); i > 0 && length > 0; i--) bytes[below(length)] = below(256)
  return bytes
}

function zstdOf(bytes: Buffer): Buffer {
  const compress: unknown = Reflect.get(zlib, 'zstdCompressSync')
  return typeof compress === 'function' ? Buffer.from(Reflect.apply(compress, zlib, [bytes])) : Buffer.alloc(0)
}

const PACK: Readonly<Record<Coding, (bytes: Buffer) => Buffer>> = {
  gzip: bytes => zlib.gzipSync(bytes, { level: below(10) }),
  deflate: bytes => (happens(0.5) ? zlib.deflateSync(bytes, { level: below(10) }) : zlib.deflateRawSync(bytes)),
  br: bytes => zlib.brotliCompressSync(bytes, { params: { [zlib.constants.BROTLI_PARAM_QUALITY]: below(6) } }),
  zstd: zstdOf,
}

type Spoilt = 'sound' | 'cut' | 'changed' | 'longer' | 'noise'

function spoil(bytes: Buffer, how: Spoilt): Buffer {
  const copy = Buffer.from(bytes)
  if (how === 'cut') return copy.subarray(0, below(copy.length))
  if (how === 'longer')
    return Buffer.concat([copy, Buffer.from(Array.from({ length: 1 + below(20) }, () => 1 + below(255)))])
  if (how === 'noise') return Buffer.from(Array.from({ length: below(200) }, () => below(256)))
  if (how === 'changed') for (let i = 1 + below(3); i > 0; i--) copy[below(copy.length)] = below(256)
  return copy
}

interface Unpacked {
  readonly end: 'whole' | 'broken'
  readonly bytes: Buffer
}

function unpack(coding: Coding, packed: readonly Buffer[]): Promise<Unpacked> {
  return new Promise((resolve, reject) => {
    const out: Buffer[] = []
    let over = false
    const settle = (end: Unpacked['end']): void => {
      if (over) reject(new Error('told twice'))
      over = true
      resolve({ end, bytes: Buffer.concat(out) })
    }
    let at = 0
    const go = (): void => {
      while (at < packed.length) if (!decoder.write(packed[at++] ?? Buffer.alloc(0))) return
      decoder.end()
    }
    const decoder = createBodyDecoder(coding, {
      data(bytes) {
        if (over) reject(new Error('data behind the end'))
        out.push(bytes)
      },
      end: () => settle('whole'),
      broken: () => settle('broken'),
      drain: go,
    })
    go()
  })
}

/** Inputs made of one packed body, unpacked at the same time: packing costs more than all else. */
const INPUTS_A_BODY = 16

t.test('a body comes out as it went in, or is broken', async t => {
  const ends = new Map<string, number>()
  const run = async (coding: Coding, body: Buffer, sound: Buffer): Promise<void> => {
    const how = pick<Spoilt>(['sound', 'sound', 'cut', 'changed', 'longer', 'noise'])
    const packed = spoil(sound, how)
    const { end, bytes } = await unpack(coding, pieces(packed))
    const shown = (): string => JSON.stringify({ coding, how, end, packed: packed.toString('base64') })
    if (how === 'sound' && (end !== 'whole' || !bytes.equals(body))) t.fail(shown())
    if (how === 'cut' && end !== 'broken') t.fail(shown())
    // Bare deflate has neither a checksum nor a magic number: garbage behind it shows, garbage in it need not.
    if (how === 'longer' && end !== 'broken') t.fail(shown())
    if (how === 'changed' && coding === 'gzip' && end === 'whole' && !bytes.equals(body)) t.fail(shown())
    ends.set(`${how} ${end}`, (ends.get(`${how} ${end}`) ?? 0) + 1)
  }
  for (let done = 0; done < runs; done += INPUTS_A_BODY) {
    const coding = pick<Coding>(['gzip', ...CODINGS])
    const body = plain()
    const sound = PACK[coding](body)
    await Promise.all(Array.from({ length: Math.min(INPUTS_A_BODY, runs - done) }, () => run(coding, body, sound)))
  }
  t.comment([...ends].map(([what, count]) => `${what}: ${count}`).join(', '))
  t.ok((ends.get('sound whole') ?? 0) > 0 && (ends.get('cut broken') ?? 0) > 0)
})
