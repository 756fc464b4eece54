#!/usr/bin/env node
// Starts the compiled program: dist/proxy.cjs, the one file that `make build` makes of lib and yaml. Start to first answer, beside
// a bare node:http server, on Node 20: 3.0 times as long from the modules of dist/lib, 1.7 as one file, 1.3 with V8's code cache.
// CommonJS (package.json in this folder), because the loader of ES modules would cost 0.06 of that.
const { readFileSync } = require('node:fs')
const { join, resolve } = require('node:path')
const { Script } = require('node:vm')

const DIST = join(__dirname, '..', 'dist')
const BUNDLE = join(DIST, 'proxy.cjs')
// In traces; no path, because the code cache brings the name that it was made with.
const NAME = 'dist/proxy.cjs'
const IDENTITY_CHARS = 64

function readIfThere(file, encoding) {
  try {
    return readFileSync(file, encoding)
  } catch {
    return undefined
  }
}

// What V8 compiled when this very source was built. V8 itself refuses, silently, what another version of it made or one with
// other options, but of the source it compares the length alone; hence the identity at the end of the one and the beginning of
// the other.
function codeCacheOf(source) {
  const bytes = readIfThere(join(DIST, 'proxy.cache'))
  const identity = source.slice(-IDENTITY_CHARS - 1, -1)
  return bytes?.toString('latin1', 0, IDENTITY_CHARS) === identity ? bytes.subarray(IDENTITY_CHARS) : undefined
}

// Traces name lines of lib/*.ts. Not by process.setSourceMapsEnabled, which reads the map at every start (5 MB more at rest):
// here only when a trace is looked at.
let map
function placeInLib(site) {
  const line = site.getLineNumber()
  const column = site.getColumnNumber()
  const { SourceMap } = require('node:module')
  map ??= new SourceMap(JSON.parse(readFileSync(`${BUNDLE}.map`, 'utf8')))
  const { originalSource, originalLine, originalColumn } = map.findEntry(line - 1, column - 1)
  if (originalSource === undefined) return String(site)
  const place = `${resolve(DIST, originalSource)}:${originalLine + 1}:${originalColumn + 1}`
  return String(site).replace(`${NAME}:${line}:${column}`, () => place)
}

function describe(site) {
  try {
    return site.getFileName() === NAME ? placeInLib(site) : String(site)
  } catch {
    // Without the map a trace still names places of the bundle.
    return String(site)
  }
}

Error.prepareStackTrace = (error, sites) => [String(error), ...sites.map(describe)].join('\n    at ')

// ASCII, as the build has made sure.
const source = readIfThere(BUNDLE, 'latin1')
if (source === undefined) {
  process.stderr.write('azure-openai-proxy: not built yet: run "make build" first\n')
  process.exitCode = 1
} else {
  const { version } = JSON.parse(readFileSync(join(__dirname, '..', 'package.json'), 'utf8'))
  const script = new Script(source, { filename: NAME, cachedData: codeCacheOf(source) })
  const { main } = script.runInThisContext()(require, {})
  main(process.argv.slice(2), { version }).then(code => {
    process.exitCode = code
  })
}
