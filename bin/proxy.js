#!/usr/bin/env node
// Starts what `make build` made of lib and yaml; written so that an old Node can read it before it is refused.
const { existsSync } = require('node:fs')
const { enableCompileCache } = require('node:module')
const { engines, version } = require('../package.json')

const dist = `${__dirname}/../dist`
const node = { is: process.versions.node, must: engines.node.slice('>='.length) }
const isOld = node.is.localeCompare(node.must, 'en', { numeric: true }) < 0
if (isOld || !existsSync(`${dist}/proxy.cjs`)) {
  const why = isOld
    ? `needs Node.js ${node.must} or newer, this is ${node.is}`
    : 'not built yet: run "make build" first'
  process.stderr.write(`azure-openai-proxy: ${why}\n`)
  process.exit(1)
}
// Traces name lines of dist/proxy.cjs, which says above each part where it comes from. Its source map takes 7 MB and a
// tenth of the start, so it is asked for: node --enable-source-maps bin/proxy.js names lines of lib/*.ts.
// Node 22 and newer start sooner from compiled code. Not kept in the shared temporary folder, where others could plant theirs.
if (enableCompileCache) enableCompileCache(`${dist}/compile-cache`)
require(`${dist}/proxy.cjs`)
  .main(process.argv.slice(2), { version })
  .then(code => {
    process.exitCode = code
  })
