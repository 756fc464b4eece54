// One simulated Azure OpenAI resource: a region's front end with its keys, deployments, limits and stored responses. It
// is strict: what Azure would refuse, it refuses; what only a careless proxy would send, it notes in `violations`.
//   const resource = createSimulatedResource({ name: 'eu', keys: ['k'], deployments: [{ name: 'gpt-4o', kind: 'chat' }], clock })
//   const { url } = await resource.listen()
//   resource.next(throttle(7))           // the next request is throttled; then all is well again
//   resource.requests                    // what it was sent
import http, { type IncomingMessage } from 'node:http'
import type { AddressInfo, Socket } from 'node:net'
import type { Duplex } from 'node:stream'
import { createDeployments, type SimulatedDeployment } from './deployments.ts'
import { FAULT_HEADER, type Fault, parseFault, type TurnFault } from './faults.ts'
import type { RateLimitOptions } from './rate-limit.ts'
import type { ServiceOptions } from './resource-state.ts'
import { createService, type Service } from './serve.ts'

export type { SimulatedDeployment } from './deployments.ts'

export interface SimulatedResourceOptions extends ServiceOptions {
  readonly deployments: readonly SimulatedDeployment[]
  /** Models Azure's prompt cache, so that `cached_tokens` mean something. */
  readonly promptCache?: boolean
  /** Obeys the header `x-ms-simulate`. */
  readonly faultHeader?: boolean
  /** Every so many requests that create something, this fault: for demonstrations. */
  readonly plan?: readonly { readonly every: number; readonly fault: Fault }[]
}

/** A request as it arrived. */
export interface ReceivedRequest {
  readonly method: string
  readonly url: string
  readonly rawHeaders: readonly string[]
  readonly headers: IncomingMessage['headers']
  readonly body: Buffer
  /** The client left before its answer was whole. */
  aborted: boolean
  /** It came on a connection that had served a request before. */
  readonly reused: boolean
}

export interface SimulatedResource {
  readonly name: string
  listen(port?: number, host?: string): Promise<{ readonly url: string; readonly port: number }>
  /** Closes the listener and every connection: from now on connects are refused. */
  close(): Promise<void>
  /** For the next request that is not token-free, or that matches; several wait in line. */
  next(...faults: readonly Fault[]): void
  /** For the next turns of Responses over WebSocket, in line. */
  nextTurn(...faults: readonly TurnFault[]): void
  /** For every such request until `clear()`. */
  always(fault: Fault): void
  clear(): void
  /** The last thousand. */
  readonly requests: readonly ReceivedRequest[]
  readonly violations: readonly string[]
  /** Where it listens: `127.0.0.1:PORT`. */
  host(): string
  /** Connections that are open now. */
  connections(): number
  resize(deployment: string, limits: Partial<RateLimitOptions>): void
  storedResponses(): number
}

/** Requests that are kept for a look; the oldest is forgotten. */
const MAX_REQUESTS = 1_000
/** Bytes of a body that are kept. */
const MAX_BODY_BYTES = 128 * 1024 * 1024

async function readBody(request: IncomingMessage): Promise<Buffer> {
  const chunks: Buffer[] = []
  let bytes = 0
  for await (const chunk of request) {
    if (!Buffer.isBuffer(chunk)) continue
    bytes += chunk.length
    if (bytes <= MAX_BODY_BYTES) chunks.push(chunk)
  }
  return Buffer.concat(chunks)
}

/** The faults that wait for requests, in line, and the one that all others meet. */
function createFaultQueue({ faultHeader, plan }: SimulatedResourceOptions) {
  let waiting: Fault[] = []
  let turns: TurnFault[] = []
  let standing: Fault | undefined
  let created = 0
  const planned = (): Fault | undefined => plan?.find(({ every }) => created % every === 0)?.fault
  return {
    next: (faults: readonly Fault[]) => waiting.push(...faults),
    nextTurn: (faults: readonly TurnFault[]) => turns.push(...faults),
    always(fault: Fault) {
      standing = fault
    },
    clear() {
      waiting = []
      turns = []
      standing = undefined
    },
    turnFault: () => turns.shift(),
    faultFor(request: IncomingMessage, creates: boolean, reused: boolean): Fault | undefined {
      if (faultHeader === true) {
        const asked = request.headers[FAULT_HEADER]
        const fault = typeof asked === 'string' ? parseFault(asked) : undefined
        if (fault !== undefined) return fault
      }
      if (!creates) return undefined
      created++
      // Only a connection that was used before can be found closed.
      if (waiting[0]?.kind === 'stale_socket' && !reused) return standing ?? planned()
      return waiting.shift() ?? standing ?? planned()
    },
  }
}

/** The requests of a resource that are kept for a look. */
function createRecords() {
  const requests: ReceivedRequest[] = []
  return {
    requests,
    record(request: IncomingMessage, body: Buffer, reused: boolean): ReceivedRequest {
      const { method = '', url = '', rawHeaders, headers } = request
      const received = { method, url, rawHeaders, headers, body, aborted: false, reused }
      requests.push(received)
      if (requests.length > MAX_REQUESTS) requests.shift()
      return received
    },
  }
}

type RecordRequest = ReturnType<typeof createRecords>['record']

/** The server of a resource, and its open connections with the requests that each has brought. */
function createResourceServer(service: Service, record: RecordRequest) {
  const sockets = new Map<Socket, number>()
  const server = http.createServer(
    { keepAliveTimeout: 120_000, requestTimeout: 0, maxHeaderSize: 64 * 1024 },
    (request, response) => {
      response.on('error', () => undefined)
      const before = sockets.get(request.socket) ?? 0
      sockets.set(request.socket, before + 1)
      readBody(request)
        .then(body => {
          const received = record(request, body, before > 0)
          response.on('close', () => {
            if (!response.writableFinished) received.aborted = true
          })
          return service.serve(request, response, body, before > 0)
        })
        .catch(() => response.destroy())
    },
  )
  server.on('upgrade', (request: IncomingMessage, socket: Duplex, head: Buffer) => {
    record(request, Buffer.alloc(0), false)
    service.upgrade(request, socket, head).catch(() => socket.destroy())
  })
  server.on('connection', socket => {
    sockets.set(socket, 0)
    socket.on('error', () => undefined)
    socket.on('close', () => sockets.delete(socket))
  })
  return { server, sockets }
}

/** A resource that listens at a given address, and keeps what it was sent. */
export function createSimulatedResource(options: SimulatedResourceOptions): SimulatedResource {
  const { clock, name } = options
  const deployments = createDeployments(options.deployments, clock, options.promptCache === true)
  const faults = createFaultQueue(options)
  const { requests, record } = createRecords()
  const violations: string[] = []
  let host = ''
  const service = createService({
    options,
    deployments,
    host: () => host,
    onViolation: what => violations.push(what),
    faultFor: faults.faultFor,
    turnFault: faults.turnFault,
  })

  const { server, sockets } = createResourceServer(service, record)

  return {
    name,
    requests,
    violations,
    listen(port = 0, address = '127.0.0.1') {
      return new Promise((resolve, reject) => {
        server.once('error', reject)
        server.listen(port, address, () => {
          const bound = server.address() as AddressInfo
          host = `${address}:${bound.port}`
          resolve({ url: `http://${host}`, port: bound.port })
        })
      })
    },
    close() {
      return new Promise(resolve => {
        server.close(() => resolve())
        for (const socket of sockets.keys()) socket.destroy()
      })
    },
    next: (...given) => void faults.next(given),
    nextTurn: (...given) => void faults.nextTurn(given),
    always: faults.always,
    clear: faults.clear,
    host: () => host,
    connections: () => sockets.size,
    resize(deployment, limits) {
      deployments.find(candidate => candidate.name === deployment)?.limit.resize(limits)
    },
    storedResponses: service.storedResponses,
  }
}
