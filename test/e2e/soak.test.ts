// A short soak: mixed load while backends fail in every way the simulator knows. `make soak` runs a long one.
import { execFile } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import t from 'tap'

const SOAK = fileURLToPath(new URL('../bench/soak.js', import.meta.url))
const STRANGERS = fileURLToPath(new URL('../bench/strangers.js', import.meta.url))
/** SOAK_SECONDS=60 makes a longer one of it. */
const seconds = process.env.SOAK_SECONDS ?? '5'

function soak(): Promise<{ readonly code: number | string | null | undefined; readonly text: string }> {
  return new Promise(resolve => {
    const env = { ...process.env, SECONDS: seconds, CLIENTS: '16' }
    execFile(process.execPath, ['--expose-gc', SOAK], { env }, (error, stdout, stderr) =>
      resolve({ code: error === null ? 0 : error.code, text: stdout + stderr }),
    )
  })
}

t.test(
  'what strangers cost is measured, with others served beside them',
  { skip: process.platform !== 'linux' },
  async t => {
    const env = { ...process.env, SILENT: '20', SLOW: '20', SECONDS: '0.2' }
    const text = await new Promise<string>(resolve => {
      execFile(process.execPath, [STRANGERS], { env }, (_error, stdout, stderr) => resolve(stdout + stderr))
    })
    for (const row of ['20 clients that read nothing', '20 slow senders', 'a flood of /metrics', 'a flood of paths']) {
      t.match(text, new RegExp(`\\| ${row}.* MB +\\| [\\d.]+ ms`), row)
    }
  },
)

t.test('under load and faults each answer is right or an honest error, and all that was taken comes back', async t => {
  const { code, text } = await soak()

  if (code !== 0) t.comment(text)
  t.equal(code, 0, 'nothing was wrong and nothing is left')
  t.match(text, /Everything came back/, 'it says so')
  // It has really run: every kind of client, and backends that failed.
  for (const kind of ['chat: 200', 'chat stream: 200', 'embeddings: 200', 'response: 200', 'leaves a stream: left']) {
    t.match(text, `| ${kind} `, kind)
  }
  t.match(text, /requests, [1-9]\d* faults/, 'backends failed meanwhile')
})
