// A brief matrix: each fault strikes one of two backends on real sockets, and clients check every byte of what they
// get. `make fault-matrix` runs ten thousand requests of each, pairs, and poison beside them.
import { execFile } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import t from 'tap'

const MATRIX = fileURLToPath(new URL('main.js', import.meta.url))
/** MATRIX_REQUESTS=1000 makes a longer one of it. */
const requests = process.env.MATRIX_REQUESTS ?? '48'

t.test('no client notices a fault of one backend while the other is sound', async t => {
  const env = { ...process.env, REQUESTS: requests, PAIR_REQUESTS: '0', COURSES: 'first' }
  const { code, text } = await new Promise<{ code: unknown; text: string }>(resolve => {
    execFile(process.execPath, ['--enable-source-maps', MATRIX], { env, maxBuffer: 2 ** 24 }, (error, stdout, stderr) =>
      resolve({ code: error === null ? 0 : error.code, text: stdout + stderr }),
    )
  })
  const lines = text.split('\n').filter(line => /^(ok|WRONG) /.test(line))
  for (const line of lines) t.match(line, /^ok /, line.slice(0, 300))
  t.equal(code, 0, text.slice(-500))
  t.ok(lines.length > 150, `${lines.length} courses`)
})
