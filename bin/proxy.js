#!/usr/bin/env node
// Starts the compiled program. Static imports would be loaded before source maps are switched on, hence the dynamic one.
import { existsSync, readFileSync } from 'node:fs'

process.setSourceMapsEnabled(true)

const entry = new URL('../dist/lib/main.js', import.meta.url)
if (existsSync(entry)) {
  const { version } = JSON.parse(readFileSync(new URL('../package.json', import.meta.url), 'utf8'))
  const { main } = await import(entry.href)
  process.exitCode = await main(process.argv.slice(2), { version })
} else {
  process.stderr.write('azure-openai-proxy: not built yet: run "make build" first\n')
  process.exitCode = 1
}
