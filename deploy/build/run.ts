// Runs a built executable of another platform by an emulator: `node dist/deploy/build/run.js linux-arm64 | win-x64`,
// through make run-linux-arm64 and make run-win-x64. Says what ran and what did not; without the emulator nothing runs,
// and that is said.
import { existsSync } from 'node:fs'
import { delimiter, join } from 'node:path'
import process from 'node:process'
import { BuildError, explain } from './errors.ts'
import { hostName, type PlatformName, platformOf } from './platforms.ts'
import { type CommandLine, smoke } from './smoke.ts'
import { readSource } from './source.ts'

interface Emulator {
  /** Any of these. */
  readonly programs: readonly string[]
  readonly env: Readonly<Record<string, string>>
  readonly install: string
  readonly signals: boolean
  /** Present when the kernel starts such executables by itself: only then can the program start workers. */
  readonly registration: string | undefined
}

const EMULATORS: Partial<Readonly<Record<PlatformName, Emulator>>> = {
  'linux-arm64': {
    programs: ['qemu-aarch64-static', 'qemu-aarch64'],
    env: { QEMU_LD_PREFIX: '/usr/aarch64-linux-gnu' },
    install: 'apt-get install qemu-user libc6-arm64-cross libstdc++6-arm64-cross',
    signals: true,
    registration: '/proc/sys/fs/binfmt_misc/qemu-aarch64',
  },
  'win-x64': {
    programs: ['wine64', 'wine'],
    env: { WINEDEBUG: '-all' },
    install: 'apt-get install wine64',
    signals: false,
    registration: undefined,
  },
}

function findProgram(names: readonly string[]): string | undefined {
  const folders = (process.env.PATH ?? '').split(delimiter)
  return names.flatMap(name => folders.map(folder => join(folder, name))).find(path => existsSync(path))
}

async function main(name: string): Promise<void> {
  const say = (line: string): void => void process.stdout.write(`${name}: ${line}\n`)
  const platform = platformOf(name)
  const native = name === hostName(process.platform, process.arch)
  const emulator = platform === undefined ? undefined : EMULATORS[platform.name]
  if (platform === undefined || (emulator === undefined && !native)) {
    throw new BuildError(
      `this runs ${Object.keys(EMULATORS).join(', ')} and the machine's own platform, not ${name}`,
      2,
    )
  }
  const { version } = readSource(process.cwd(), process.env)
  const file = join('build', `azure-openai-proxy-${version}-${name}${platform.suffix}`)
  if (!existsSync(file)) throw new BuildError(`${file} is not built: make build-all first (with the same VERSION)`)
  if (native || emulator === undefined) {
    await smoke({ command: [file], version, signals: true, workers: true, say })
    return
  }
  const program = findProgram(emulator.programs)
  if (program === undefined) {
    say(`NOT RUN: no ${emulator.programs.join(' and no ')} on this machine (${emulator.install}).`)
    say('Only built and inspected: format, fuse, program found.')
    return
  }
  for (const [key, value] of Object.entries(emulator.env)) process.env[key] ??= value
  const command: CommandLine = [program, file]
  const workers = emulator.registration !== undefined && existsSync(emulator.registration)
  say(`running by ${program}`)
  await smoke({ command, version, signals: emulator.signals, workers, say })
}

main(process.argv[2] ?? '').catch((error: unknown) => {
  const { message, exitCode } = explain(error)
  process.stderr.write(`run: ${message}\n`)
  process.exitCode = exitCode
})
