// systemd unit, Debian package, launchd job and Windows service agree with the program: its flags, drain and config.
import t from 'tap'
import { at, CONFIG_PATH, drainSeconds, flags, items, load, read } from '../fixtures/deploy-files.ts'

/** Chosen by measurement (test/bench/README.md): the same wherever the program is started for long. */
const YOUNG_HEAP = '--max-semi-space-size=8'
const CREDENTIALS = '/run/credentials/azure-openai-proxy.service'
const CREDENTIAL_LINE = 'LoadCredential=azure-key:/etc/azure-openai-proxy/secrets/azure-key'

function unit(): ReadonlyMap<string, string> {
  const lines = read('deploy/systemd/azure-openai-proxy.service').split('\n')
  return new Map(
    lines.flatMap(line => {
      const match = /^([A-Za-z]+)=(.*)$/.exec(line)
      return match === null ? [] : [[match[1] ?? '', match[2] ?? ''] as const]
    }),
  )
}

// A property list with the few types ours has, as JSON has them.
function plist(text: string): unknown {
  const tokens = [...text.replaceAll(/<!--[\s\S]*?-->/g, '').matchAll(/<(\/?)(\w+)([^>]*?)(\/?)>([^<]*)/g)]
  let next = tokens.findIndex(token => token[2] === 'plist') + 1
  const value = (): unknown => {
    const token = tokens[next++]
    const text = token?.[5] ?? ''
    switch (token?.[2]) {
      case 'true':
      case 'false':
        return token[2] === 'true'
      case 'string':
      case 'integer':
        next++
        return token[2] === 'integer' ? Number(text) : text
      case 'array': {
        const list: unknown[] = []
        while (tokens[next]?.[1] !== '/') list.push(value())
        next++
        return list
      }
      case 'dict': {
        const entries: [string, unknown][] = []
        while (tokens[next]?.[1] !== '/') {
          const key = tokens[next]?.[5] ?? ''
          next += 2
          entries.push([key, value()])
        }
        next++
        return Object.fromEntries(entries)
      }
      default:
        throw new Error(`the plist has an unexpected <${token?.[2] ?? ''}>`)
    }
  }
  const root = value()
  if (tokens[next]?.[2] !== 'plist') throw new Error('the plist does not end where it should')
  return root
}

t.test('the systemd unit starts the program with flags it has, reloads by SIGHUP and waits for the drain', async t => {
  const settings = unit()
  const [path, ...args] = (settings.get('ExecStart') ?? '').split(' ')
  t.equal(path, '/usr/bin/azure-openai-proxy')
  t.same(args, ['--config', CONFIG_PATH])
  t.ok(flags().includes('--config'))
  t.match(settings.get('ExecReload'), /-HUP \$MAINPID$/)
  t.match(
    read('deploy/systemd/azure-openai-proxy.service'),
    /^ExecReload=\/usr\/bin\/azure-openai-proxy --check .*\nExecReload=\/bin\/kill/m,
  )
  t.equal(settings.get('KillMode'), 'mixed')
  t.ok(Number(settings.get('TimeoutStopSec')) > drainSeconds())
  t.equal(settings.get('RestartPreventExitStatus'), '2', 'the exit code of a wrong config')
  t.notOk(settings.has('MemoryDenyWriteExecute'), 'V8 compiles to memory')
  t.equal(settings.get('Environment'), `NODE_OPTIONS=${YOUNG_HEAP}`)
})

t.test("the package's config is valid, lets nobody in, and holds no secret", async t => {
  const text = read('deploy/debian/config.yaml')
  const result = load(text)
  t.equal(result.kind, 'ok')
  if (result.kind !== 'ok') return
  t.same(
    result.config.auth.keys.map(key => key.digest.toString('hex')),
    ['0'.repeat(64)],
  )
  t.notMatch(text, /^ *(- )?key:/m)
  t.equal(text.match(/<== EDIT$/gm)?.length, 3)
})

t.test(
  "the package's config with everything switched on is valid, and names its credential as the unit would load it",
  async t => {
    const text = read('deploy/debian/config.yaml').replace(/^ +api_key: .*$/m, '')
    const everythingOn = text.replaceAll(/^( *)#(?=[a-z_]+:)/gm, '$1')
    const result = load(everythingOn, { [`${CREDENTIALS}/azure-key`]: 'a-key' })
    t.equal(result.kind, 'ok')
    t.match(read('deploy/systemd/azure-openai-proxy.service'), `\n#${CREDENTIAL_LINE}\n`)
    t.match(text, `\n#   ${CREDENTIAL_LINE}\n`)
    if (result.kind !== 'ok') return
    t.equal(result.config.logging.file, '/var/log/azure-openai-proxy/proxy.log')
    t.match(read('deploy/logrotate'), /^\/var\/log\/azure-openai-proxy\/\*\.log \{$/m)
    t.equal(unit().get('LogsDirectory'), 'azure-openai-proxy')
  },
)

t.test('launchd starts the program with flags it has, again after a crash, and waits for the drain', async t => {
  const job = plist(read('deploy/launchd/com.azure-openai-proxy.plist'))
  t.equal(at(job, 'Label'), 'com.azure-openai-proxy')
  const args = items(at(job, 'ProgramArguments')).map(String)
  t.same(args[0], '/usr/local/bin/azure-openai-proxy')
  for (const arg of args.filter(arg => arg.startsWith('-'))) t.ok(flags().includes(arg), arg)
  t.same(at(job, 'KeepAlive'), { SuccessfulExit: false })
  t.ok(Number(at(job, 'ExitTimeOut')) > drainSeconds())
  t.equal(Number(at(job, 'Umask')).toString(8), '27')
  t.same(at(job, 'EnvironmentVariables'), { NODE_OPTIONS: YOUNG_HEAP })
})

t.test('the Windows service starts the program with flags it has, and waits for the drain', async t => {
  const xml = read('deploy/windows/azure-openai-proxy-service.xml')
  const one = (name: string) => new RegExp(`<${name}>([^<]*)</${name}>`).exec(xml)?.[1] ?? ''
  t.match(one('id'), /^[A-Za-z0-9]+$/)
  for (const flag of one('arguments').matchAll(/--[a-z]+/g)) t.ok(flags().includes(flag[0]), flag[0])
  t.ok(Number.parseInt(one('stoptimeout'), 10) > drainSeconds())
  t.ok(one('executable').endsWith('azure-openai-proxy.exe'))
  t.ok(xml.includes(`<env name="NODE_OPTIONS" value="${YOUNG_HEAP}"/>`))
})
