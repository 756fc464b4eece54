// The soak's clients, a process of its own: chat, streams, embeddings, stored responses, clients that leave at any
// moment, and requests that are wrong. Each answer must be whole and right, one of the errors that README lists,
// or visibly cut.
import http from 'node:http'
import { seededRandom } from '../fixtures/seeded-random.ts'

export const SOAK_KEY = 'soak-client-key'

export interface ToClients {
  readonly kind: 'work'
  readonly port: number
  readonly seconds: number
  readonly clients: number
  readonly seed: number
}

export type FromClients =
  | { readonly kind: 'ready' }
  | {
      readonly kind: 'worked'
      /** How often each kind of request ended how. */
      readonly outcomes: Readonly<Record<string, number>>
      /** What must not be: an answer that is none of the allowed, or none at all. */
      readonly wrong: readonly string[]
    }

/** No answer, however bad the backends are, takes as long: the config's timeouts are a few hundred ms. */
const HUNG_MS = 20_000
const MAX_WRONG = 20
const LONG_BYTES = 300_000

type Leave = 'never' | 'half_sent' | 'sent' | 'first_bytes'

interface Ask {
  readonly method?: string
  readonly path: string
  readonly body?: unknown
  readonly headers?: Readonly<Record<string, string>>
  readonly leave?: Leave
}

interface Answer {
  readonly status: number
  readonly text: string
  readonly ended: 'whole' | 'cut' | 'left' | 'hung'
}

const AUTHORIZED = { authorization: `Bearer ${SOAK_KEY}`, 'content-type': 'application/json' }

function ask(
  agent: http.Agent,
  port: number,
  { method = 'POST', path, body, headers, leave = 'never' }: Ask,
): Promise<Answer> {
  const bytes = typeof body === 'string' ? body : body === undefined ? '' : JSON.stringify(body)
  return new Promise(resolve => {
    let status = 0
    let text = ''
    const request = http.request({
      agent,
      port,
      host: '127.0.0.1',
      method,
      path,
      headers: { ...AUTHORIZED, 'content-length': Buffer.byteLength(bytes), ...headers },
    })
    const end = (ended: Answer['ended']): void => {
      clearTimeout(timer)
      resolve({ status, text, ended })
      if (ended !== 'whole') request.destroy()
    }
    const timer = setTimeout(() => end('hung'), HUNG_MS)
    request.on('error', () => end('cut'))
    request.on('response', response => {
      status = response.statusCode ?? 0
      response.setEncoding('utf8')
      response.on('data', (piece: string) => {
        text += piece
        if (leave === 'first_bytes') end('left')
      })
      response.on('error', () => end('cut'))
      response.on('close', () => end(response.complete ? 'whole' : 'cut'))
    })
    if (leave === 'half_sent') {
      request.write(bytes.slice(0, bytes.length >> 1), () => end('left'))
    } else request.end(bytes, () => (leave === 'sent' ? setTimeout(() => end('left'), 1) : undefined))
  })
}

/** What a request for a model may be answered with while backends fail: done, or one of these. */
const MODEL_STATUSES = new Set([200, 429, 500, 502, 503, 504])

function isJson(text: string): boolean {
  try {
    JSON.parse(text)
    return true
  } catch {
    return false
  }
}

/** What is wrong with an answer to a sound request. */
function fault(answer: Answer, streamEnd: RegExp | undefined): string | undefined {
  const { status, text, ended } = answer
  if (ended === 'hung') return 'no end of it'
  if (ended !== 'whole') return undefined
  if (!MODEL_STATUSES.has(status)) return `status ${status}: ${text.slice(0, 200)}`
  if (status !== 200) return undefined
  if (streamEnd === undefined) return isJson(text) ? undefined : `a part as a whole: ${text.slice(0, 200)}`
  // A stream may end with an error, but never as if it were complete when it is not.
  return streamEnd.test(text) ? undefined : `a stream without end: ${text.slice(-200)}`
}

const CHAT_END = /data: \[DONE\]\n\n$|"error"/
const RESPONSES_END = /response\.(completed|incomplete|failed)"|"error"/

interface Doing {
  readonly name: string
  /** Of how many. */
  readonly share: number
  run(
    port: number,
    agent: http.Agent,
    random: () => number,
  ): Promise<{ readonly outcome: string; readonly wrong?: string }>
}

const messages = [{ role: 'user', content: 'Say something about the sea.' }]
const CHAT = '/v1/chat/completions'

function judged(answer: Answer, wrong: string | undefined) {
  const outcome = answer.ended === 'whole' ? String(answer.status) : answer.ended
  return wrong === undefined ? { outcome } : { outcome, wrong }
}

function sound(name: string, share: number, what: Ask, streamEnd?: RegExp): Doing {
  return {
    name,
    share,
    async run(port, agent) {
      const answer = await ask(agent, port, what)
      return judged(answer, fault(answer, streamEnd))
    },
  }
}

function mistaken(name: string, status: number, what: Ask): Doing {
  return {
    name,
    share: 1,
    async run(port, agent) {
      const answer = await ask(agent, port, what)
      const asItMustBe = answer.ended === 'whole' && answer.status === status
      return judged(answer, asItMustBe ? undefined : `${answer.status} (${answer.ended}) instead of ${status}`)
    },
  }
}

/** A response that is made, read, continued and removed; whatever fails on the way, no one is left waiting. */
const storedResponse: Doing = {
  name: 'response',
  share: 4,
  async run(port, agent, random) {
    const stream = random() < 0.5
    const input = 'Remember the number 7.'
    const made = await ask(agent, port, { path: '/v1/responses', body: { model: 'gpt-4o', input, stream } })
    const id = /"id":"(resp_[\w-]+)"/.exec(made.text)?.[1]
    const first = judged(made, fault(made, stream ? RESPONSES_END : undefined))
    if (made.status !== 200 || id === undefined || first.wrong !== undefined) return first
    const next = { model: 'gpt-4o', input: 'Which number?', previous_response_id: id }
    const followed = await ask(agent, port, { path: '/v1/responses', body: next })
    const nextId = /"id":"(resp_[\w-]+)"/.exec(followed.text)?.[1]
    await ask(agent, port, { method: 'GET', path: `/v1/responses/${id}` })
    for (const each of [id, nextId]) {
      if (each !== undefined) await ask(agent, port, { method: 'DELETE', path: `/v1/responses/${each}` })
    }
    return first
  },
}

const long = 'a long story '.repeat(LONG_BYTES / 13)
const chat = { model: 'gpt-4o', messages }
const stream = { ...chat, stream: true }

const DOINGS: readonly Doing[] = [
  sound('chat', 8, { path: CHAT, body: chat }),
  sound('chat stream', 8, { path: CHAT, body: stream }, CHAT_END),
  sound(
    'chat stream with usage',
    2,
    { path: CHAT, body: { ...stream, stream_options: { include_usage: true } } },
    CHAT_END,
  ),
  sound('long chat', 2, { path: CHAT, body: { messages: [{ role: 'user', content: long }], model: 'gpt-4o' } }),
  sound('embeddings', 4, { path: '/v1/embeddings', body: { model: 'embed', input: ['one', 'two'] } }),
  storedResponse,
  sound('leaves a stream', 4, { path: CHAT, body: stream, leave: 'first_bytes' }, CHAT_END),
  sound('leaves before the answer', 2, { path: CHAT, body: chat, leave: 'sent' }),
  sound('leaves in its own request', 2, { path: CHAT, body: { ...chat, user: long }, leave: 'half_sent' }),
  mistaken('no key', 401, { path: CHAT, body: chat, headers: { authorization: 'Bearer wrong' } }),
  mistaken('no JSON', 400, { path: CHAT, body: '{"model": "gpt-4o", ' }),
  mistaken('unknown model', 404, { path: CHAT, body: { ...chat, model: 'gpt-9' } }),
  mistaken('unknown URL', 404, { path: '/v1/nothing', body: chat }),
  mistaken('list of models', 200, { method: 'GET', path: '/v1/models' }),
  mistaken('health', 200, { method: 'GET', path: '/livez' }),
]

async function work({ port, seconds, clients, seed }: ToClients): Promise<FromClients> {
  const agent = new http.Agent({ keepAlive: true })
  const outcomes: Record<string, number> = {}
  const wrong: string[] = []
  const untilMs = performance.now() + seconds * 1000
  const all = DOINGS.flatMap(doing => Array.from({ length: doing.share }, () => doing))

  const client = async (random: () => number): Promise<void> => {
    while (performance.now() < untilMs) {
      const doing = all[Math.floor(random() * all.length)]
      if (doing === undefined) return
      const result = await doing.run(port, agent, random)
      const key = `${doing.name}: ${result.outcome}`
      outcomes[key] = (outcomes[key] ?? 0) + 1
      if (result.wrong !== undefined && wrong.length < MAX_WRONG) wrong.push(`${doing.name}: ${result.wrong}`)
    }
  }
  await Promise.all(Array.from({ length: clients }, (_, i) => client(seededRandom(seed * 1_000 + i))))
  agent.destroy()
  return { kind: 'worked', outcomes, wrong }
}

if (process.send !== undefined) {
  const tell = (message: FromClients): void => {
    process.send?.(message)
  }
  process.on('disconnect', () => process.exit())
  process.on('message', (message: ToClients) => {
    work(message).then(tell, error => {
      console.error(error)
      process.exit(1)
    })
  })
  tell({ kind: 'ready' })
}
