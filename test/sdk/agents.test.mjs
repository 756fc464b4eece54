// Coding agents as people start them, without a terminal: Codex, opencode, Claude Code. Each must end well and say nothing of trouble.
import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import test from 'node:test'

const { PROXY_URL = '', PROXY_KEY = '', PROXY_MODE = '' } = process.env
const packages = join(import.meta.dirname, 'agents/node_modules')
/** As the packages of their programs are named, on Linux and macOS. */
const PLATFORM = `${process.platform}-${process.arch}`
const TURNS = PROXY_MODE === 'demo' ? 2 : 6
const AGENT_MS = 180_000
/** What an agent prints when it met an error or had to try again. */
const TROUBLE = /\bERROR\b|Reconnecting|Falling back|APIError|API Error|UnknownError|rate.?limit|retrying/i

/**
 * What a session on a WebSocket may print besides, where resources fail: its turns build on what the connection's resource
 * alone remembers, so a turn that fails needs a new connection, in front of Azure itself too.
 */
const SOCKET_TROUBLE = /Falling back|APIError|API Error|UnknownError|rate.?limit/i

/** A home of its own for each agent: no settings, no sign-in of this machine. */
function createHome(t) {
  const home = mkdtempSync(join(tmpdir(), 'agent-'))
  t.after(() => rmSync(home, { recursive: true, force: true, maxRetries: 5 }))
  return home
}

function run(home, command, args, env = {}) {
  return new Promise((resolve, reject) => {
    const child = spawn(command, args, {
      cwd: home,
      stdio: ['ignore', 'pipe', 'pipe'],
      timeout: AGENT_MS,
      env: { PATH: process.env.PATH, HOME: home, ...env },
    })
    let stdout = ''
    let stderr = ''
    child.stdout.on('data', chunk => {
      stdout += chunk
    })
    child.stderr.on('data', chunk => {
      stderr += chunk
    })
    child.on('error', reject).on('close', code => resolve({ code, stdout, stderr }))
  })
}

function isSound({ code, stdout, stderr }, trouble = TROUBLE) {
  assert.equal(code, 0, `${stdout}\n${stderr}`)
  assert.ok(stdout.trim().length > 0, stderr)
  assert.doesNotMatch(stderr, trouble)
}

const CODEX = {
  'its own provider, over a WebSocket': ['-c', `openai_base_url="${PROXY_URL}/v1"`],
  'a provider of ours, over HTTP': [
    '-c',
    `model_providers.proxy={name="proxy", base_url="${PROXY_URL}/v1", env_key="CODEX_API_KEY", wire_api="responses"}`,
    '-c',
    'model_provider="proxy"',
  ],
}

for (const [name, settings] of Object.entries(CODEX)) {
  test(`Codex: ${name}; the session is taken up again`, async t => {
    const home = createHome(t)
    const all = [...settings, '-c', 'model="gpt-4o"', '-c', 'analytics.enabled=false', '--skip-git-repo-check']
    const codex = args =>
      run(home, join(packages, '.bin/codex'), ['exec', ...args], { CODEX_HOME: home, CODEX_API_KEY: PROXY_KEY })
    const trouble = PROXY_MODE !== 'demo' && name.includes('WebSocket') ? SOCKET_TROUBLE : TROUBLE
    isSound(await codex([...all, 'say hi']), trouble)
    for (let turn = 1; turn < TURNS; turn++) isSound(await codex(['resume', '--last', ...all, 'and again']), trouble)
  })
}

test('opencode: a provider of ours; the session is taken up again', async t => {
  const home = createHome(t)
  const config = join(home, 'opencode.json')
  const provider = {
    npm: '@ai-sdk/openai',
    name: 'proxy',
    options: { baseURL: `${PROXY_URL}/v1`, apiKey: PROXY_KEY },
    models: { 'gpt-4o': { name: 'gpt-4o' } },
  }
  const settings = { provider: { proxy: provider }, model: 'proxy/gpt-4o', autoupdate: false, share: 'disabled' }
  writeFileSync(config, JSON.stringify(settings))
  const env = { OPENCODE_CONFIG: config, OPENCODE_DISABLE_AUTOUPDATE: '1', OPENCODE_DISABLE_MODELS_FETCH: '1' }
  const opencode = args => run(home, join(packages, `opencode-${PLATFORM}/bin/opencode`), ['run', ...args], env)
  isSound(await opencode(['say hi']))
  for (let turn = 1; turn < TURNS; turn++) isSound(await opencode(['--continue', 'and again']))
})

const CLAUDE = {
  'as for Anthropic': { ANTHROPIC_BASE_URL: PROXY_URL, ANTHROPIC_API_KEY: PROXY_KEY },
  'as for Foundry': {
    CLAUDE_CODE_USE_FOUNDRY: '1',
    ANTHROPIC_FOUNDRY_BASE_URL: `${PROXY_URL}/anthropic`,
    ANTHROPIC_FOUNDRY_API_KEY: PROXY_KEY,
  },
}

for (const [name, settings] of Object.entries(CLAUDE)) {
  test(`Claude Code: ${name}; the session is taken up again`, async t => {
    const home = createHome(t)
    const env = { ...settings, CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC: '1', DISABLE_AUTOUPDATER: '1' }
    const claude = args =>
      run(
        home,
        join(packages, `@anthropic-ai/claude-code-${PLATFORM}/claude`),
        ['-p', '--model', 'claude-sonnet-5', ...args],
        env,
      )
    isSound(await claude(['say hi']))
    for (let turn = 1; turn < TURNS; turn++) isSound(await claude(['--continue', 'and again']))
  })
}
