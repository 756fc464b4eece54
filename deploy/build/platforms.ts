// The six platforms an executable is built for, and what is particular to each.

export const PLATFORM_NAMES = [
  'linux-x64',
  'linux-arm64',
  'darwin-x64',
  'darwin-arm64',
  'win-x64',
  'win-arm64',
] as const

export type PlatformName = (typeof PLATFORM_NAMES)[number]
export type Format = 'elf' | 'macho' | 'pe'

export interface Platform {
  readonly name: PlatformName
  readonly format: Format
  readonly arch: 'x64' | 'arm64'
  /** Where the runtime's package holds the executable. */
  readonly runtimePath: string
  readonly suffix: '' | '.exe'
  readonly archive: '.tar.gz' | '.zip'
  /** Files of deploy/ that run the executable as a service: path in the repository → path in the archive. */
  readonly serviceFiles: Readonly<Record<string, string>>
}

const SERVICE_FILES: Readonly<Record<'linux' | 'darwin' | 'win', Readonly<Record<string, string>>>> = {
  linux: {
    'deploy/systemd/azure-openai-proxy.service': 'azure-openai-proxy.service',
    'deploy/logrotate': 'logrotate',
  },
  darwin: { 'deploy/launchd/com.azure-openai-proxy.plist': 'com.azure-openai-proxy.plist' },
  win: {
    'deploy/windows/README.md': 'WINDOWS-SERVICE.md',
    'deploy/windows/azure-openai-proxy-service.xml': 'azure-openai-proxy-service.xml',
  },
}

function isPlatformName(name: string): name is PlatformName {
  return (PLATFORM_NAMES as readonly string[]).includes(name)
}

/** @returns the platform of a name such as linux-x64, or undefined */
export function platformOf(name: string): Platform | undefined {
  if (!isPlatformName(name)) return undefined
  const system = name.startsWith('linux') ? 'linux' : name.startsWith('darwin') ? 'darwin' : 'win'
  const windows = system === 'win'
  return {
    name,
    format: windows ? 'pe' : system === 'darwin' ? 'macho' : 'elf',
    arch: name.endsWith('-x64') ? 'x64' : 'arm64',
    runtimePath: windows ? 'package/bin/node.exe' : 'package/bin/node',
    suffix: windows ? '.exe' : '',
    archive: windows ? '.zip' : '.tar.gz',
    serviceFiles: SERVICE_FILES[system],
  }
}

/**
 * @param platform process.platform
 * @param arch process.arch
 * @returns the name an executable for this machine has, whether it is one of the six or not
 */
export function hostName(platform: string, arch: string): string {
  return `${platform === 'win32' ? 'win' : platform}-${arch}`
}
