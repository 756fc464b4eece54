// `--health [URL]`: asks a running proxy how it is, for container health checks. Exit 0 healthy, 1 not.

import { existsSync } from 'node:fs'
import http from 'node:http'
import https from 'node:https'
import { loadConfig } from '../config/load.ts'
import type { ExitCode } from './exit-code.ts'

/** A proxy that takes longer to say how it is, is not well. */
const TIMEOUT_MS = 3_000
/** Bytes of a response that are looked at. */
const MAX_ANSWER_BYTES = 64 * 1024

/** Where the proxy of this machine listens, by its config if it can be read, else by the defaults. */
function ownUrl(file: string, port: number | undefined): string {
  const loaded = existsSync(file) ? loadConfig({ file, env: process.env }) : undefined
  const server = loaded?.kind === 'ok' ? loaded.config.server : undefined
  const host =
    server?.host === undefined || server.host === '0.0.0.0' || server.host === '::' ? '127.0.0.1' : server.host
  const shown = host.includes(':') ? `[${host}]` : host
  return `${server?.tls === undefined ? 'http' : 'https'}://${shown}:${port ?? server?.port ?? 3000}/health`
}

function isLoopback(hostname: string): boolean {
  return hostname === 'localhost' || hostname === '[::1]' || hostname.startsWith('127.')
}

function ask(url: URL): Promise<{ status: number; text: string }> {
  return new Promise((resolve, reject) => {
    const module = url.protocol === 'https:' ? https : http
    // A certificate names the proxy's public host; from the same machine it is asked as localhost.
    const options = { timeout: TIMEOUT_MS, rejectUnauthorized: !isLoopback(url.hostname) }
    const request = module.get(url, options, response => {
      const chunks: Buffer[] = []
      let bytes = 0
      response.on('data', (chunk: Buffer) => {
        bytes += chunk.length
        if (bytes <= MAX_ANSWER_BYTES) chunks.push(chunk)
        else response.destroy()
      })
      response.on('end', () =>
        resolve({ status: response.statusCode ?? 0, text: Buffer.concat(chunks).toString('utf8') }),
      )
      response.on('error', reject)
    })
    request.on('timeout', () => request.destroy(new Error('no answer in time')))
    request.on('error', reject)
  })
}

/**
 * @param url the proxy's address, with or without `/health`; left out: this machine's, by `config` or the default port
 */
export async function health(
  url: string | undefined,
  { file, port }: { readonly file: string | undefined; readonly port: number | undefined },
): Promise<ExitCode> {
  let target: URL
  try {
    target = new URL(url ?? ownUrl(file ?? 'config.yaml', port))
  } catch {
    process.stderr.write(`azure-openai-proxy: ${JSON.stringify(url)} is no URL\n`)
    return 2
  }
  if (target.protocol !== 'http:' && target.protocol !== 'https:') {
    process.stderr.write('azure-openai-proxy: --health takes an http or https URL\n')
    return 2
  }
  if (target.pathname === '/') target.pathname = '/health'
  try {
    const { status, text } = await ask(target)
    process.stdout.write(`${text.trim() || `status ${status}`}\n`)
    return status === 200 ? 0 : 1
  } catch (error) {
    process.stderr.write(
      `azure-openai-proxy: ${target.href} does not answer: ${error instanceof Error ? error.message : 'unknown'}\n`,
    )
    return 1
  }
}
