// The bill of materials: CycloneDX 1.5 in JSON, the same bytes for the same build.
import { createHash } from 'node:crypto'
import type { PlatformName } from './platforms.ts'
import type { Runtimes } from './runtimes.ts'

export interface SbomInput {
  readonly version: string
  /** Seconds since 1970: the commit's. */
  readonly timeSeconds: number
  readonly commit: string | undefined
  readonly runtimes: Runtimes
  readonly platforms: readonly PlatformName[]
  /** What Node itself holds, as process.versions of the runtime says. */
  readonly nodeParts: Readonly<Record<string, string | undefined>>
  /** From package-lock.json. */
  readonly yaml: { readonly version: string; readonly integrity: string }
  /** What built it: name and version. */
  readonly tools: Readonly<Record<string, string>>
}

/** package-lock's base64 as the hex CycloneDX wants. */
function hashes(integrity: string): readonly unknown[] {
  return [{ alg: 'SHA-512', content: Buffer.from(integrity.replace(/^sha512-/, ''), 'base64').toString('hex') }]
}

/** A UUID that the content decides (RFC 9562, version 8). */
function serialNumber(seed: string): string {
  const digest = createHash('sha256').update(seed).digest()
  digest[6] = ((digest[6] ?? 0) & 0x0f) | 0x80
  digest[8] = ((digest[8] ?? 0) & 0x3f) | 0x80
  const hex = digest.toString('hex', 0, 16)
  return `urn:uuid:${hex.slice(0, 8)}-${hex.slice(8, 12)}-${hex.slice(12, 16)}-${hex.slice(16, 20)}-${hex.slice(20)}`
}

/** @returns the document's text */
export function sbom(input: SbomInput): string {
  const { version, runtimes, yaml } = input
  const app = `pkg:npm/azure-openai-proxy@${encodeURIComponent(version)}`
  const yamlRef = `pkg:npm/yaml@${yaml.version}`
  const node = `pkg:generic/node@${runtimes.node}`
  const parts = Object.entries(input.nodeParts)
    .filter((part): part is [string, string] => part[0] !== 'node' && part[0] !== 'modules' && part[1] !== undefined)
    .sort(([a], [b]) => (a < b ? -1 : 1))
    .map(([name, partVersion]) => ({ type: 'library', 'bom-ref': `${node}#${name}`, name, version: partVersion }))
  const builds = input.platforms.map(platform => {
    const { name, integrity } = runtimes.packages[platform]
    const purl = `pkg:npm/${name.replace('@', '%40')}@${runtimes.node}`
    return {
      type: 'platform',
      'bom-ref': purl,
      name,
      version: runtimes.node,
      description: `Node.js for ${platform}, inside the executable of that platform`,
      hashes: hashes(integrity),
      licenses: [{ license: { id: 'MIT' } }],
      purl,
    }
  })
  const document = {
    $schema: 'http://cyclonedx.org/schema/bom-1.5.schema.json',
    bomFormat: 'CycloneDX',
    specVersion: '1.5',
    serialNumber: serialNumber(JSON.stringify([version, input.commit ?? '', input.platforms, runtimes.packages])),
    version: 1,
    metadata: {
      timestamp: new Date(input.timeSeconds * 1_000).toISOString(),
      tools: {
        components: Object.entries(input.tools).map(([name, toolVersion]) => ({
          type: 'application',
          name,
          version: toolVersion,
        })),
      },
      component: {
        type: 'application',
        'bom-ref': app,
        name: 'azure-openai-proxy',
        version,
        licenses: [{ license: { id: 'MIT' } }],
        purl: app,
        ...(input.commit === undefined ? {} : { properties: [{ name: 'commit', value: input.commit }] }),
      },
    },
    components: [
      {
        type: 'library',
        'bom-ref': yamlRef,
        name: 'yaml',
        version: yaml.version,
        hashes: hashes(yaml.integrity),
        licenses: [{ license: { id: 'ISC' } }],
        purl: yamlRef,
      },
      {
        type: 'platform',
        'bom-ref': node,
        name: 'node',
        version: runtimes.node,
        cpe: `cpe:2.3:a:nodejs:node.js:${runtimes.node}:*:*:*:*:*:*:*`,
        licenses: [{ license: { id: 'MIT' } }],
        components: parts,
      },
      ...builds,
    ],
    dependencies: [
      { ref: app, dependsOn: [yamlRef, node] },
      { ref: node, dependsOn: builds.map(each => each['bom-ref']) },
    ],
  }
  return `${JSON.stringify(document, null, 2)}\n`
}
