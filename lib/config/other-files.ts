// Files of other programs, and words of theirs for one of a choice. Pure tables.
import { plain } from './nearest.ts'

/** Files of other programs, by what they begin with. A sentence for the file as a whole. */
const FOREIGN: readonly { readonly names: readonly string[]; readonly what: string }[] = [
  {
    names: ['model_list', 'litellm_settings', 'router_settings', 'general_settings'],
    what: 'this is a LiteLLM config: deploy/migrate.md says what each of its options is here',
  },
  {
    names: ['channels'],
    what: 'this looks like channels of one-api: deploy/migrate.md says what each of them is here',
  },
  {
    names: ['apiVersion', 'kind'],
    what: 'this is a Kubernetes manifest: the config itself stands inside its ConfigMap',
  },
  {
    names: ['services'],
    what: 'this is no config of the proxy (a compose or Kong file?): begin with a copy of config.template.yaml',
  },
  {
    names: ['targets', 'strategy'],
    what: 'this is a config of Portkey: begin with a copy of config.template.yaml; targets are backends here',
  },
  {
    names: ['providers'],
    what: 'this is a config of another gateway: begin with a copy of config.template.yaml; providers are backends here',
  },
  { names: ['_format_version'], what: 'this is a Kong config: begin with a copy of config.template.yaml' },
]

/** The sentence for a section of another program's file, beside sections of our own. */
export function foreignSection(name: string): string | undefined {
  const [litellm] = FOREIGN
  return litellm?.names.includes(name) === true ? litellm.what : undefined
}

/** The sentence for a file of another program; undefined for one that may be a config. */
export function foreignFile(names: readonly string[], options: readonly string[]): string | undefined {
  // One section of our own, and its writer knows whose config this is.
  if (names.some(name => options.includes(name) && name !== 'server')) return undefined
  return FOREIGN.find(file => file.names.some(name => names.includes(name)))?.what
}

/** Words that people write for one of a choice. */
const VALUES: Readonly<Record<string, string>> = {
  warning: 'warn',
  fatal: 'error',
  critical: 'error',
  verbose: 'debug',
  trace: 'debug',
  silly: 'debug',
  pretty: 'text',
  plain: 'text',
  console: 'text',
  human: 'text',
  roundrobin: 'round_robin',
  rr: 'round_robin',
  weighted: 'round_robin',
  weightedroundrobin: 'round_robin',
  simpleshuffle: 'round_robin',
  random: 'round_robin',
  leastconn: 'least_busy',
  leastconnections: 'least_busy',
  leastrequests: 'least_busy',
  leastrequest: 'least_busy',
  p2c: 'least_busy',
  latency: 'least_busy',
  latencybasedrouting: 'least_busy',
  usagebasedrouting: 'least_busy',
  sticky: 'prompt_cache',
  session: 'prompt_cache',
  hash: 'prompt_cache',
  system: 'managed_identity',
  systemassigned: 'managed_identity',
  msi: 'managed_identity',
  default: 'managed_identity',
  azureopenai: 'azure',
  openaicompatible: 'openai',
}

/** The word that another tool's means, where it is one of these. */
export function meantValue(value: string, words: readonly string[]): string | undefined {
  const word = plain(value)
  const meant = Object.hasOwn(VALUES, word) ? VALUES[word] : undefined
  return meant !== undefined && words.includes(meant) ? meant : undefined
}
