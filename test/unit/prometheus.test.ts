// The metrics, the alerts and the dashboard's queries, held against a real Prometheus where this machine has one
// (Debian: prometheus).
import { type ChildProcess, spawn, spawnSync } from 'node:child_process'
import fs from 'node:fs'
import net from 'node:net'
import path from 'node:path'
import t, { type Test } from 'tap'
import { at, items, read } from '../fixtures/deploy-files.ts'
import { configFor, runProxy } from '../fixtures/run-proxy.ts'
import { until } from '../fixtures/spawn-proxy.ts'
import { startResource } from '../fixtures/start-simulator.ts'

const hasPrometheus =
  spawnSync('prometheus', ['--version']).status === 0 && spawnSync('promtool', ['--version']).status === 0
const skip = hasPrometheus ? false : 'prometheus is not installed'

/** Runs promtool. @returns what it said, and whether it was content */
function promtool(args: readonly string[], input?: string): { readonly ok: boolean; readonly said: string } {
  const { status, stdout, stderr } = spawnSync('promtool', args, { encoding: 'utf8', input })
  return { ok: status === 0, said: `${stdout}${stderr}` }
}

async function freePort(): Promise<number> {
  const server = net.createServer().listen(0, '127.0.0.1')
  await new Promise(resolve => server.once('listening', resolve))
  const address = server.address()
  await new Promise(resolve => server.close(resolve))
  return typeof address === 'object' && address !== null ? address.port : 0
}

t.test('promtool finds no fault with the rules', { skip }, async t => {
  const { ok, said } = promtool(['check', 'rules', 'deploy/prometheus-rules.yaml'])
  t.ok(ok, said)
})

/** Series of a rule test, one sample a minute. */
const RULE_TESTS = {
  rule_files: [path.resolve('deploy/prometheus-rules.yaml')],
  evaluation_interval: '1m',
  tests: [
    {
      name: 'a backend that comes and goes, and serves, wakes nobody; one that stays out does',
      interval: '1m',
      input_series: [
        {
          series: 'proxy_backend_up{model="m",backend="moody"}',
          values: '1 1 1 0 1 1 1 0 1 1 1 0 1 1 1 0 1 1 1 0 1 1 1 0 1 1',
        },
        { series: 'proxy_backend_up{model="m",backend="dead"}', values: '0x25' },
        {
          series: 'proxy_backend_out{model="m",backend="dead",reason="network_refused",todo="Open the firewall."}',
          values: '1x25',
        },
        { series: 'proxy_model_up{model="m"}', values: '1x25' },
        { series: 'proxy_workers{job="p",instance="i"}', values: '1x25' },
      ],
      alert_rule_test: [
        {
          eval_time: '20m',
          alertname: 'AzureOpenAIProxyBackendOut',
          exp_alerts: [
            {
              exp_labels: { severity: 'warning', model: 'm', backend: 'dead' },
              exp_annotations: {
                summary: 'Backend dead of m is out',
                description:
                  'For most of the last ten minutes backend dead has been out, or somebody took it out by hand. Clients notice nothing while model m has another backend; its load is on those now.',
                runbook:
                  'network_refused: Open the firewall. The last "backend ejected" line of this backend has reason, detail and todo.',
              },
            },
          ],
        },
        { eval_time: '20m', alertname: 'AzureOpenAIProxyModelDown', exp_alerts: [] },
        { eval_time: '20m', alertname: 'AzureOpenAIProxyGone', exp_alerts: [] },
      ],
    },
  ],
}

t.test('a flapping backend that serves wakes nobody, and the alert says what to do', { skip }, async t => {
  const folder = t.testdir({ 'rules.test.yaml': JSON.stringify(RULE_TESTS) })
  const { ok, said } = promtool(['test', 'rules', path.join(folder, 'rules.test.yaml')])
  t.ok(ok, said)
})

async function startPrometheus(t: Test, target: string): Promise<string> {
  const port = await freePort()
  const folder = t.testdir({
    'prometheus.yml': JSON.stringify({
      global: { scrape_interval: '1s' },
      rule_files: [path.resolve('deploy/prometheus-rules.yaml')],
      scrape_configs: [{ job_name: 'azure-openai-proxy', static_configs: [{ targets: [target] }] }],
    }),
  })
  const child: ChildProcess = spawn(
    'prometheus',
    [
      `--config.file=${path.join(folder, 'prometheus.yml')}`,
      `--storage.tsdb.path=${path.join(folder, 'data')}`,
      `--web.listen-address=127.0.0.1:${port}`,
      '--log.level=error',
    ],
    { stdio: 'ignore' },
  )
  t.teardown(async () => {
    const ended = new Promise(resolve => child.once('exit', resolve))
    child.kill('SIGKILL')
    await ended
    fs.rmSync(path.join(folder, 'data'), { recursive: true, force: true })
  })
  return `http://127.0.0.1:${port}`
}

t.test(
  'Prometheus scrapes the proxy, and answers every query of the dashboard',
  { skip, timeout: 120_000 },
  async t => {
    const { url } = await startResource(t)
    const text = configFor([{ url }, { url, name: 'other', key: 'wrong' }], {
      model: 'price: {input: 2, output: 8}',
    })
    const proxy = await runProxy(t, text)
    for (let i = 0; i < 4; i++) await (await proxy.chat()).text()
    const exposed = await (await fetch(`${proxy.url}/metrics`)).text()
    const lint = promtool(['check', 'metrics'], exposed)
    t.ok(lint.ok, lint.said)

    const prometheus = await startPrometheus(t, `127.0.0.1:${proxy.port}`)
    const ask = async (
      query: string,
    ): Promise<{ status: string; data?: { result: readonly unknown[] }; error?: string }> => {
      const answer = await fetch(`${prometheus}/api/v1/query`, { method: 'POST', body: new URLSearchParams({ query }) })
      return JSON.parse(await answer.text())
    }
    await until(async () => {
      const found = await ask('min(proxy_model_up)').catch(() => undefined)
      return (found?.data?.result.length ?? 0) > 0
    })
    const dashboard: unknown = JSON.parse(read('deploy/grafana-dashboard.json'))
    const queries = items(at(dashboard, 'panels')).flatMap(panel =>
      items(at(panel, 'targets')).map(target => String(at(target, 'expr'))),
    )
    t.ok(queries.length > 40)
    for (const query of queries) {
      const filled = query.replaceAll('$__rate_interval', '1m').replaceAll(/\$(?:job|instance|model|backend)\b/g, '.*')
      const { status, error = '' } = await ask(filled)
      t.equal(status, 'success', `${filled}: ${error}`)
    }
    for (const series of [
      'proxy_config_reloads_total',
      'proxy_spilled_total',
      'proxy_cost_total',
      'proxy_requests_total{status="429"}',
    ]) {
      const { data } = await ask(series)
      t.ok((data?.result.length ?? 0) > 0, `${series} is there before its first event`)
    }
  },
)
