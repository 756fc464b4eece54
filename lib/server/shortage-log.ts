// One line of the log for what this machine ran out of, however many requests met it.
import type { Clock } from '../clock.ts'
import type { AttemptReport } from '../forward/attempt-record.ts'
import type { Log } from '../log.ts'

/** A shortage is logged this often, for each limit: a full machine meets it with every request. */
export const SHORTAGE_LOG_MS = 60_000

interface Advice {
  /** The limit as operators know it. */
  readonly limit: string
  readonly todo: string
}

/** Codes of errno(3) and getaddrinfo(3). */
const SHORTAGES: ReadonlyMap<string, Advice> = new Map([
  [
    'EMFILE',
    {
      limit: 'open files of this process (ulimit -n)',
      todo: 'Raise it (LimitNOFILE, --ulimit nofile), or lower server.max_connections.',
    },
  ],
  [
    'ENFILE',
    {
      limit: 'open files of this machine (fs.file-max)',
      todo: 'Raise fs.file-max, or look for what else opens files.',
    },
  ],
  [
    'ENOBUFS',
    {
      limit: 'socket buffers of this machine',
      todo: "Raise net.core and net.ipv4.tcp_mem limits, or the machine's memory.",
    },
  ],
  ['ENOMEM', { limit: 'memory of this machine', todo: 'Raise the memory limit, or lower server.max_buffered.' }],
  [
    'EADDRNOTAVAIL',
    {
      limit: 'local ports towards one address (net.ipv4.ip_local_port_range)',
      todo: 'Widen net.ipv4.ip_local_port_range, or add outbound addresses (SNAT ports of the NAT gateway).',
    },
  ],
  [
    'EAI_AGAIN',
    {
      limit: 'the resolver of this machine (DNS)',
      todo: 'Check the name servers in /etc/resolv.conf; raise UV_THREADPOOL_SIZE where lookups queue up.',
    },
  ],
])

/**
 * Takes the reports of all attempts and probes, and writes an `error` line for a shortage of this machine. The first
 * comes at once, then one a minute at most for each limit. `attempts` counts those since the line before.
 */
export function createShortageLog(
  clock: Pick<Clock, 'nowMs'>,
  log: Pick<Log, 'error'>,
): (report: Pick<AttemptReport, 'label' | 'detail'>) => void {
  const said = new Map<string, { atMs: number; attempts: number }>()
  return ({ label, detail: code }) => {
    const advice = label === 'shortage' ? SHORTAGES.get(code) : undefined
    if (advice === undefined) return
    const last = said.get(code) ?? { atMs: Number.NEGATIVE_INFINITY, attempts: 0 }
    said.set(code, last)
    last.attempts++
    const nowMs = clock.nowMs()
    if (nowMs - last.atMs < SHORTAGE_LOG_MS) return
    log.error('this machine is short of what connections to backends need', {
      code,
      ...advice,
      attempts: last.attempts,
    })
    last.atMs = nowMs
    last.attempts = 0
  }
}
