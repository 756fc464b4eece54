// The way to the backends of the matrix, with what can fail on it: names, addresses, sockets, TLS, the egress proxy.
import net, { type Socket } from 'node:net'
import tls from 'node:tls'
import type { Clock } from '../../lib/clock.ts'
import { createTransport, type SocketFactory, type Transport } from '../../lib/http1/send.ts'
import { type Certificate, makeCertificate } from '../fixtures/certificate.ts'
import { closeServer, listen } from './backend.ts'
import type { ConnectFault, OtherPort } from './faults.ts'

export const FIRST_HOST = 'first.test'
export const SECOND_HOST = 'second.test'
/** Nobody listens there. */
const OLD_ADDRESS = '127.0.0.77'

/** Made once: keys cost more than handshakes. */
export const CERTIFICATE: Certificate = makeCertificate('matrix', { names: [FIRST_HOST, SECOND_HOST] })
const OTHERS: Readonly<Record<'untrusted' | 'wrong_name' | 'expired', Certificate>> = {
  untrusted: makeCertificate('nobody', { names: [FIRST_HOST] }),
  wrong_name: makeCertificate('other', { names: ['other.test'] }),
  expired: makeCertificate('ended', { names: [FIRST_HOST], from: '200101000000Z', until: '210101000000Z' }),
}
/** What the proxy trusts: all but one. */
export const TRUSTED = [CERTIFICATE, OTHERS.wrong_name, OTHERS.expired].map(({ cert }) => cert).join('')

/** Ports where something else answers than a backend. */
interface OtherPorts {
  portOf(which: OtherPort): number
  close(): Promise<void>
}

async function openOtherPorts(): Promise<OtherPorts> {
  const sockets = new Set<Socket>()
  const keep = (socket: Socket): void => {
    sockets.add(socket)
    socket.on('error', () => undefined).on('close', () => sockets.delete(socket))
  }
  const servers: Readonly<Record<Exclude<OtherPort, 'closed'>, net.Server>> = {
    plain: net.createServer(socket => socket.once('data', () => socket.end('HTTP/1.1 400 Bad Request\r\n\r\n'))),
    hangs_up: net.createServer(socket => socket.once('data', () => socket.destroy())),
    silent: net.createServer(socket => socket.resume()),
    untrusted: tls.createServer(OTHERS.untrusted),
    wrong_name: tls.createServer(OTHERS.wrong_name),
    expired: tls.createServer(OTHERS.expired),
  }
  const ports = new Map<OtherPort, number>()
  for (const [which, server] of Object.entries(servers)) {
    server.on('connection', keep).on('tlsClientError', () => undefined)
    ports.set(which as OtherPort, await listen(server))
  }
  // A port that was free a moment ago.
  const gone = net.createServer()
  ports.set('closed', await listen(gone))
  await closeServer(gone, new Set())
  return {
    portOf: which => ports.get(which) ?? 0,
    close: async () => {
      await Promise.all(Object.values(servers).map(server => closeServer(server, sockets)))
    },
  }
}

export interface EgressProxy {
  readonly port: number
  close(): Promise<void>
}

/** A proxy that knows CONNECT alone. @param strike says something in the place of the tunnel, or nothing of interest */
export async function openEgress(
  backendPort: number,
  strike: () => Extract<ConnectFault, { at: 'egress' }> | undefined,
): Promise<EgressProxy> {
  const sockets = new Set<Socket>()
  const server = net.createServer({ noDelay: true }, client => {
    sockets.add(client)
    client.on('error', () => client.destroy()).on('close', () => sockets.delete(client))
    client.once('data', () => {
      const fault = strike()
      if (fault !== undefined) {
        if (fault.says !== undefined) client.end(fault.says, 'latin1')
        return
      }
      const upstream = net.connect({ port: backendPort, host: '127.0.0.1', noDelay: true })
      sockets.add(upstream)
      upstream.on('error', () => client.destroy())
      upstream.on('close', () => {
        sockets.delete(upstream)
        client.destroy()
      })
      client.on('close', () => upstream.destroy())
      upstream.on('connect', () => {
        client.write('HTTP/1.1 200 Connection established\r\n\r\n')
        client.on('data', chunk => upstream.write(chunk))
        upstream.on('data', chunk => client.write(chunk))
      })
    })
  })
  return { port: await listen(server), close: () => closeServer(server, sockets) }
}

function failing(code: string): Socket {
  const socket = new net.Socket()
  setImmediate(() => socket.destroy(Object.assign(new Error(`connect ${code}`), { code })))
  return socket
}

export interface Way {
  readonly transport: Transport
  close(): Promise<void>
}

/**
 * A transport whose connections to the first backend may fail.
 * @param strike the fault that the next connection meets at this place
 */
export async function openWay(
  clock: Clock,
  maxAgeMs: () => number,
  isFirst: (port: number) => boolean,
  strike: (...places: readonly ConnectFault['at'][]) => ConnectFault | undefined,
): Promise<Way> {
  const others = await openOtherPorts()
  const sockets = new Set<Socket>()
  const connect: SocketFactory = (protocol, options) => {
    if ('socket' in options && options.socket !== undefined) return tls.connect(options)
    const to = { ...options, port: 'port' in options ? (options.port ?? 0) : 0 }
    const fault = isFirst(Number(to.port)) ? strike('socket', 'port', 'egress_port') : undefined
    if (fault?.at === 'socket') return fault.code === undefined ? new net.Socket() : failing(fault.code)
    if (fault?.at === 'port') to.port = others.portOf(fault.port)
    if (fault?.at === 'egress_port') to.port = others.portOf('closed')
    return protocol === 'https:' ? tls.connect(to) : net.connect(to)
  }
  const transport = createTransport(clock, {
    maxAgeMs,
    makeSocket(protocol, options) {
      const socket = connect(protocol, options)
      sockets.add(socket)
      socket.on('close', () => sockets.delete(socket))
      return socket
    },
    lookup(hostname, done) {
      const fault = hostname === FIRST_HOST ? strike('resolver', 'address') : undefined
      if (fault?.at === 'address') setImmediate(() => done(null, [OLD_ADDRESS]))
      else if (fault?.at !== 'resolver') setImmediate(() => done(null, ['127.0.0.1']))
      else if (fault.code !== undefined) {
        setImmediate(() => done(Object.assign(new Error(`getaddrinfo ${fault.code}`), { code: fault.code }), []))
      } else clock.after(LATE_ANSWER_MS, () => done(null, ['127.0.0.1']))
    },
  })
  return {
    transport,
    async close() {
      for (const socket of sockets) socket.destroy()
      await others.close()
    },
  }
}

/** Later than any request waits for the resolver. */
const LATE_ANSWER_MS = 30_000
