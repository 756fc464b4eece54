// Clients that people use, unchanged, against the built proxy, on each of the stages; prints a table.
//   node main.mjs [word …]     only the suites whose name has one of these words
// SDK_LOGS=FOLDER keeps the proxy's log of each stage.
import { spawn } from 'node:child_process'
import { existsSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { onStage } from './stages.mjs'

const here = import.meta.dirname
const STAGES = ['tokens', 'demo', 'one faulty', 'both faulty']
const WITH_KEYS = STAGES.slice(1)
const node = file => [process.execPath, '--test', '--test-reporter=tap', join(here, file)]
const python = (venv, file) => [join(here, venv, '.venv/bin/python'), join(here, file)]
const versionsOf = (folder, ...names) =>
  names.map(name => {
    const file = join(here, folder, 'node_modules', name, 'package.json')
    return existsSync(file) ? `${name} ${JSON.parse(readFileSync(file, 'utf8')).version}` : `${name} –`
  })
const pinned = file =>
  readFileSync(join(here, file), 'utf8')
    .trim()
    .split('\n')
    .map(line => line.replace('==', ' '))

const SUITES = [
  { name: 'JavaScript, tokens', versions: versionsOf('', 'openai'), run: node('tokens.test.mjs'), stages: ['tokens'] },
  {
    name: 'Python, tokens',
    versions: pinned('requirements.txt').slice(0, 1),
    run: python('', 'tokens_test.py'),
    stages: ['tokens'],
  },
  {
    name: 'JavaScript',
    versions: versionsOf('', 'openai', '@anthropic-ai/sdk', 'ai', '@ai-sdk/openai'),
    run: node('suites.test.mjs'),
    stages: WITH_KEYS,
  },
  { name: 'Python', versions: pinned('requirements.txt'), run: python('', 'suites_test.py'), stages: WITH_KEYS },
  {
    name: 'instructor',
    versions: pinned('instructor/requirements.txt'),
    run: python('instructor', 'instructor/instructor_test.py'),
    stages: WITH_KEYS,
  },
  {
    name: 'frameworks',
    versions: pinned('frameworks/requirements.txt'),
    run: python('frameworks', 'frameworks/frameworks_test.py'),
    stages: WITH_KEYS,
  },
  {
    name: 'coding agents',
    versions: versionsOf('agents', '@openai/codex', 'opencode-ai', '@anthropic-ai/claude-code'),
    run: node('agents.test.mjs'),
    needs: join(here, 'agents/node_modules/.bin/codex'),
    isWanted: process.env.AGENTS !== '0',
    stages: WITH_KEYS,
  },
]

/** node:test's and unittest's closing lines. */
function countOf(text, code) {
  const tests = Number(/^# tests (\d+)$/m.exec(text)?.[1] ?? /^Ran (\d+) tests?/m.exec(text)?.[1] ?? 0)
  const failed = Number(/^# fail (\d+)$/m.exec(text)?.[1] ?? 0)
  const trouble = [...text.matchAll(/(?:failures|errors)=(\d+)/g)].reduce((sum, [, count]) => sum + Number(count), 0)
  const passed = tests - failed - trouble
  return { tests, passed: code === 0 ? tests : Math.min(passed, Math.max(tests - 1, 0)) }
}

function runSuite([command, ...args], env) {
  return new Promise(resolve => {
    let text = ''
    const child = spawn(command, args, { stdio: ['ignore', 'pipe', 'pipe'], env: { ...process.env, ...env } })
    for (const stream of [child.stdout, child.stderr]) {
      stream.setEncoding('utf8').on('data', chunk => {
        text += chunk
      })
    }
    child.on('error', error => resolve({ code: 1, text: String(error) })).on('close', code => resolve({ code, text }))
  })
}

const words = process.argv.slice(2)
const rows = []
let failed = false
for (const { name, versions, run, stages, needs = run[0], isWanted = true } of SUITES) {
  if (words.length > 0 && !words.some(word => name.includes(word))) continue
  if (!isWanted || !existsSync(needs)) {
    rows.push({ name, versions, cells: STAGES.map(() => (isWanted ? 'not installed' : 'left out')) })
    continue
  }
  const cells = []
  for (const stage of STAGES) {
    if (!stages.includes(stage)) {
      cells.push('')
      continue
    }
    const { result, saved, log } = await onStage(stage, env => runSuite(run, env))
    const { tests, passed } = countOf(result.text, result.code)
    const isSound = result.code === 0 && tests > 0
    if (!isSound) {
      failed = true
      process.stdout.write(`\n--- ${name}, ${stage} ---\n${result.text}\n`)
    }
    if (process.env.SDK_LOGS)
      writeFileSync(join(process.env.SDK_LOGS, `${name}-${stage}.log`.replaceAll(' ', '-')), log)
    const failovers = stage.endsWith('faulty') ? `, ${saved} failovers` : ''
    cells.push(`${isSound ? '' : 'FAILED '}${passed}/${tests}${failovers}`)
    process.stdout.write(`${name}, ${stage}: ${cells.at(-1)}\n`)
  }
  rows.push({ name, versions, cells })
}

process.stdout.write('\n')
const head = ['suite', ...STAGES, 'versions']
const table = [head, ...rows.map(({ name, versions, cells }) => [name, ...cells, versions.join(', ')])]
const widths = head.map((_, i) => Math.max(...table.map(row => row[i].length)))
for (const row of table)
  process.stdout.write(
    `${row
      .map((cell, i) => cell.padEnd(widths[i]))
      .join('  ')
      .trimEnd()}\n`,
  )
process.exitCode = failed ? 1 : 0
