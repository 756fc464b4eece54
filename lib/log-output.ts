// The target of log lines: a file or a standard stream that may be slow, full or gone. Lines wait in a bounded queue,
// are written in batches without ever blocking the event loop, and are counted when they have to be dropped. It knows
// nothing of what they say.
import fs from 'node:fs'
import net from 'node:net'
import os from 'node:os'

export interface LogOutput {
  /** Takes a line without its newline. Never throws, never blocks. */
  write(line: string): void
  /** Lines dropped so far: the reader was too slow, or the disk is full. */
  dropped(): number
  /** Closes the file and opens it again under its name, for logrotate. */
  reopen(): void
  /** Resolves when everything queued is written, or cannot be. */
  flush(timeoutMs: number): Promise<void>
}

/** Waiting for a slow reader; about ten thousand request lines. */
const MAX_QUEUED_BYTES = 4 * 1024 * 1024
/** After a failed write (full disk, EAGAIN) the next try. */
const RETRY_MS = 100

/**
 * Lines gather for so long, or up to so much, before they are written together. A write crosses to the thread pool and
 * back: at a line a request that was an eighth of a request's cost. The timer keeps the process alive for its lines.
 */
const GATHER_MS = 20
const GATHER_MAX_BYTES = 64 * 1024

const NEWLINE = 0x0a
const LINE_END = Buffer.from('\n')

/**
 * Lines that will be written together. They wait as bytes. A line that has just been joined is a tree of some fifty
 * strings. A hundred such trees made each short pause of the garbage collector 1.5 ms instead of 0.65.
 */
interface Batch {
  readonly bytes: Buffer
  used: number
  lines: number
}

function hasRoom({ bytes, used }: Batch, line: string): boolean {
  const room = bytes.length - used - 1
  // No character takes more than three bytes; near the end it is worth counting them.
  return line.length * 3 <= room || Buffer.byteLength(line) <= room
}

/** Writes bytes somewhere; calls back when they are there and no longer needed, or with the error. */
type Writer = (bytes: Buffer, done: (error: NodeJS.ErrnoException | null, written: number) => void) => void

/** The system's call, as an argument: a disk that is full half-way is not to be had in a test. */
export type WriteToFile = (
  fd: number,
  bytes: Buffer,
  offset: number,
  length: number,
  position: null,
  done: (error: NodeJS.ErrnoException | null, written: number) => void,
) => void

function fileWriter(fd: number, write: WriteToFile): Writer {
  return (bytes, done) => {
    const writeFrom = (offset: number): void => {
      write(fd, bytes, offset, bytes.length - offset, null, (error, written) => {
        if (error !== null) done(error, offset)
        else if (offset + written < bytes.length) writeFrom(offset + written)
        else done(null, bytes.length)
      })
    }
    writeFrom(0)
  }
}

function streamWriter(fd: number): Writer {
  // process.stdout would write to a pipe synchronously and stop the event loop with its reader; a socket does not.
  const socket = new net.Socket({ fd, readable: false, writable: true })
  socket.on('error', () => undefined)
  socket.unref()
  return (bytes, done) => {
    if (socket.destroyed) done(Object.assign(new Error('closed'), { code: 'EPIPE' }), 0)
    else socket.write(bytes, error => done(error ?? null, 0))
  }
}

function writerFor(fd: number, write: WriteToFile): Writer {
  try {
    const stat = fs.fstatSync(fd)
    if (os.platform() !== 'win32' && (stat.isFIFO() || stat.isSocket())) return streamWriter(fd)
  } catch {
    return (_bytes, done) => done(Object.assign(new Error('closed'), { code: 'EBADF' }), 0)
  }
  return fileWriter(fd, write)
}

/** How a target is opened; a path is appended to. */
export type LogTarget = { readonly kind: 'fd'; readonly fd: number } | { readonly kind: 'file'; readonly path: string }

/**
 * Writes to a pipe up to this size are not mixed with another process's (POSIX: PIPE_BUF is 4,096 on Linux, 512 at
 * least).
 */
export const ATOMIC_WRITE_BYTES = 4_000

/** Lines that wait, in batches: the oldest first, the last one still takes lines. */
function createBatches(maxBatchBytes: number) {
  let waiting: Batch[] = []
  let spare: Buffer | undefined
  let queuedBytes = 0

  const batchFor = (line: string): Batch => {
    const last = waiting.at(-1)
    if (last !== undefined && hasRoom(last, line)) return last
    const length = Buffer.byteLength(line) + 1
    const bytes =
      spare !== undefined && spare.length >= length ? spare : Buffer.allocUnsafeSlow(Math.max(length, maxBatchBytes))
    if (bytes === spare) spare = undefined
    const batch: Batch = { bytes, used: 0, lines: 0 }
    waiting.push(batch)
    return batch
  }

  return {
    add(line: string): void {
      const batch = batchFor(line)
      const end = batch.used + batch.bytes.write(line, batch.used)
      batch.bytes[end] = NEWLINE
      queuedBytes += end + 1 - batch.used
      batch.used = end + 1
      batch.lines++
    },
    take(): Batch | undefined {
      const batch = waiting.shift()
      queuedBytes -= batch?.used ?? 0
      return batch
    },
    /** A batch has been written: its bytes take further lines. */
    recycle({ bytes }: Batch): void {
      if (bytes.length === maxBatchBytes) spare = bytes
    },
    /** Forgets all. @returns how many lines they were */
    clear(): number {
      const lines = waiting.reduce((sum, batch) => sum + batch.lines, 0)
      waiting = []
      queuedBytes = 0
      return lines
    },
    count: () => waiting.length,
    bytes: () => queuedBytes,
  }
}

/**
 * An open target. What is written after a write that failed half-way begins on a line of its own.
 * @param isShared another process may have ended half-way through a write to the same file, on the same full disk
 * @throws when a file cannot be opened for appending
 */
function openTarget(target: LogTarget, isShared: boolean, write: WriteToFile) {
  let fd = target.kind === 'fd' ? target.fd : fs.openSync(target.path, 'a', 0o640)
  let writer = writerFor(fd, write)
  /** The file may end in a part of a line. */
  let torn = false
  return {
    put(bytes: Buffer, done: (error: NodeJS.ErrnoException | null) => void): void {
      writer(torn ? Buffer.concat([LINE_END, bytes]) : bytes, (error, written) => {
        if (error === null) torn = false
        else torn = written > (torn ? 1 : 0) || isShared || (torn && written === 0)
        done(error)
      })
    },
    reopen(): void {
      if (target.kind !== 'file') return
      try {
        const next = fs.openSync(target.path, 'a', 0o640)
        const old = fd
        fd = next
        writer = writerFor(next, write)
        torn = false
        // A write in progress may still need the old one.
        setTimeout(() => fs.close(old, () => undefined), 1_000).unref()
      } catch {
        // The old file goes on being written: better under a rotated name than nowhere.
      }
    },
  }
}

/** Flushes that wait until everything queued is written, or cannot be. */
function createFlushes() {
  const waiting: (() => void)[] = []
  return {
    isAny: () => waiting.length > 0,
    /** Resolves at the next `resolveAll`, or after `timeoutMs`. */
    wait(timeoutMs: number): Promise<void> {
      return new Promise(resolve => {
        const timer = setTimeout(resolve, timeoutMs)
        waiting.push(() => {
          clearTimeout(timer)
          resolve()
        })
      })
    },
    resolveAll(): void {
      for (const resolve of waiting.splice(0)) resolve()
    },
  }
}

/**
 * @param maxBatchBytes lines written at once, in bytes; ATOMIC_WRITE_BYTES where several processes share the target
 * @throws only here, at the start, when a file cannot be opened for appending
 */
export function createLogOutput(
  target: LogTarget,
  maxBatchBytes: number = GATHER_MAX_BYTES,
  write: WriteToFile = fs.write,
): LogOutput {
  const opened = openTarget(target, maxBatchBytes <= ATOMIC_WRITE_BYTES, write)
  const batches = createBatches(maxBatchBytes)
  const flushes = createFlushes()
  let writing = false
  let dropped = 0
  let broken = false
  let scheduled = false
  let urgent = false

  const schedule = (): void => {
    if (scheduled) return
    scheduled = true
    setTimeout(pump, GATHER_MS)
  }
  /**
   * Behind a write: what has gathered meanwhile is seldom worth another one yet. At once, it was one for every eight
   * requests.
   */
  const goOn = (): void => {
    if (flushes.isAny() || batches.count() > 1 || batches.bytes() >= GATHER_MAX_BYTES) pump()
    else if (batches.count() > 0) schedule()
  }
  const failed = (batch: Batch, { code }: NodeJS.ErrnoException): void => {
    dropped += batch.lines
    // A reader that is gone does not come back; a full disk may be emptied.
    if (target.kind === 'fd' && (code === 'EPIPE' || code === 'EBADF')) {
      broken = true
      dropped += batches.clear()
    }
    flushes.resolveAll()
    if (!broken) setTimeout(pump, RETRY_MS).unref()
  }
  const pump = (): void => {
    scheduled = false
    urgent = false
    if (writing) return
    const batch = broken ? undefined : batches.take()
    if (batch === undefined) {
      flushes.resolveAll()
      return
    }
    writing = true
    opened.put(batch.bytes.subarray(0, batch.used), error => {
      writing = false
      if (error !== null) return failed(batch, error)
      batches.recycle(batch)
      goOn()
    })
  }

  return {
    write(line) {
      if (broken || batches.bytes() + line.length > MAX_QUEUED_BYTES) {
        dropped++
        return
      }
      batches.add(line)
      if (writing) return
      if (batches.bytes() >= GATHER_MAX_BYTES && !urgent) {
        urgent = true
        setImmediate(pump)
      }
      schedule()
    },
    dropped: () => dropped,
    reopen: opened.reopen,
    flush(timeoutMs) {
      if (!writing && batches.count() === 0) return Promise.resolve()
      const flushed = flushes.wait(timeoutMs)
      if (!writing) pump()
      return flushed
    },
  }
}
