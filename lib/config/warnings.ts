// biome-ignore-all lint/suspicious/noTemplateCurlyInString: ${…} is the syntax of the config here
// What is allowed and yet looks like a mistake: each check is a pure function of the options as read and the config
// made of them. Never an error: somebody may mean it.
import { isLoopback } from './endpoint.ts'
import type { Place, Report } from './problems.ts'
import type { ParsedBackend, ParsedConfig } from './schema.ts'
import type { Parsed } from './sections.ts'
import type { BackendConfig, Config, Credential } from './types.ts'

interface Warning {
  readonly place: Place
  readonly message: string
}

export interface WarningSources {
  /** The config's own text. */
  readonly text: string
  /** Whether every user of this machine may read the file; undefined: not known. */
  readonly worldReadable: boolean | undefined
}

type Check = (options: ParsedConfig, config: Config, sources: WarningSources) => readonly Warning[]

/** What stands in config.template.yaml and in examples. */
const PLACEHOLDERS = /^(?:your-(?:azure-|openai-)?(?:api-key|client-secret|key)|change-me|<.*>|xxx+)$/i
const PLACEHOLDER_HOST = /^https?:\/\/your-/i

interface PlacedBackend {
  readonly model: string
  readonly options: ParsedBackend
}

function backendsOf(options: ParsedConfig): readonly PlacedBackend[] {
  return [...(options.models.value ?? [])].flatMap(([model, { value }]) =>
    (value.backends.value ?? []).map(({ value: backend }) => ({ model, options: backend })),
  )
}

/** Every text of the config that other tools write in their own way, with its place. */
function texts(options: ParsedConfig): readonly (readonly [string, Place])[] {
  const given = ({ value, place }: Parsed<string | undefined>) => (value === undefined ? [] : [[value, place] as const])
  return [
    ...[...(options.models.value ?? [])].map(([name, { place }]) => [name, place] as const),
    ...backendsOf(options).flatMap(({ options: backend }) => [
      ...given(backend.api_key),
      ...given(backend.deployment),
      ...given(backend.name),
    ]),
    ...options.auth.value.keys.value.flatMap(({ value: key }) => [...given(key.key), ...given(key.name)]),
  ]
}

const placeholders: Check = options =>
  backendsOf(options).flatMap(({ options: { endpoint, api_key: key } }) => [
    ...(endpoint.value !== undefined && PLACEHOLDER_HOST.test(endpoint.value)
      ? [{ place: endpoint.place, message: 'is the placeholder of the template: write the URL of your own resource' }]
      : []),
    ...(key.value !== undefined && PLACEHOLDERS.test(key.value)
      ? [{ place: key.place, message: 'is the placeholder of the template: write the key of your own resource' }]
      : []),
  ])

const openToAll: Check = (options, config) => {
  const { enabled } = options.auth.value
  const { host } = config.server
  if (config.auth.enabled || (host !== undefined && isLoopback(host))) return []
  const message =
    'false on an interface that other machines reach: anyone who reaches the port uses your models at your expense; set server.host: 127.0.0.1, or add keys'
  return [{ place: enabled.place, message }]
}

/** How other tools and shells write a variable. */
const VARIABLE_FORMS = [
  /^\$([A-Za-z_]\w*)$/,
  /^os\.environ\/(\w+)$/,
  /^\$env:(\w+)$/i,
  /^env[.:]([A-Za-z_]\w*)$/,
  /^%([A-Za-z_]\w*)%$/,
  /^\{\{\s*(?:env\.|\.)?([A-Za-z_]\w*)\s*\}\}$/,
]

const otherTools: Check = options =>
  texts(options).flatMap(([text, place]) => {
    const name = VARIABLE_FORMS.flatMap(form => form.exec(text)?.[1] ?? [])[0]
    if (name !== undefined) {
      return [{ place, message: `is taken as it stands, not from the environment: write \${${name}} for a variable` }]
    }
    if (/[\u201c\u201d\u2018\u2019\u00ab\u00bb]/.test(text)) {
      return [{ place, message: 'holds curly quotes, which YAML takes for a part of the text: write plain ones' }]
    }
    return text === text.trim() ? [] : [{ place, message: 'begins or ends with a blank: remove it' }]
  })

const openaiWithoutType: Check = options =>
  backendsOf(options).flatMap(({ options: { endpoint, type } }) =>
    type.value === 'azure' && /^https?:\/\/api\.openai\.com(?:[:/]|$)/i.test(endpoint.value ?? '')
      ? [{ place: endpoint.place, message: 'is OpenAI itself: write "type: openai" beside it' }]
      : [],
  )

/** Web pages of Azure, whose address people copy instead of the resource's. */
const PORTALS =
  /^https?:\/\/(?:portal\.azure\.(?:com|us|cn)|ai\.azure\.com|oai\.azure\.com|portal\.cognitive\.azure\.com)(?:[:/]|$)/i

const portal: Check = options =>
  backendsOf(options).flatMap(({ options: { endpoint } }) =>
    PORTALS.test(endpoint.value ?? '')
      ? [
          {
            place: endpoint.place,
            message: 'is the address of a portal: write the resource\'s own, shown there under "Keys and Endpoint"',
          },
        ]
      : [],
  )

/** Azure's own rule for names of deployments. */
const DEPLOYMENT_NAME = /^[\w.-]{1,64}$/

const strangeDeployment: Check = options =>
  backendsOf(options).flatMap(({ options: { deployment, type } }) => {
    const { value, place } = deployment
    // Blanks at the ends, curly quotes and variables have words of their own.
    if (value === undefined || type.value !== 'azure' || DEPLOYMENT_NAME.test(value)) return []
    if (value !== value.trim() || /[^\x20-\x7e]|[$%{]/.test(value)) return []
    const cure = /^azure\//i.test(value) ? 'cut "azure/" off, which is LiteLLM\'s' : 'compare it with the portal'
    return [{ place, message: `is no name that Azure gives a deployment (letters, digits, - _ .): ${cure}` }]
  })

const projectWithKey: Check = options =>
  backendsOf(options).flatMap(({ options: { endpoint, api_key: key } }) =>
    key.given && /\.services\.ai\.azure\.com\/api\/projects\//i.test(endpoint.value ?? '')
      ? [
          {
            place: endpoint.place,
            message:
              'is the URL of a Foundry project, which takes no key: use entra with scope https://ai.azure.com/.default, or cut it before /api/projects',
          },
        ]
      : [],
  )

const privateLinkName: Check = options =>
  backendsOf(options).flatMap(({ options: { endpoint } }) =>
    /\.privatelink\./i.test(endpoint.value ?? '')
      ? [
          {
            place: endpoint.place,
            message:
              'holds "privatelink": the certificate is for the public name, which DNS leads to the private address',
          },
        ]
      : [],
  )

function secretOf(credential: Credential): string {
  if (credential.kind === 'api_key') return credential.key.reveal()
  return credential.kind === 'client_secret' ? credential.clientSecret.reveal() : JSON.stringify(credential)
}

function identityOf({ endpoint, deployment, apiVersion, credential }: BackendConfig): string {
  return JSON.stringify([endpoint.url, deployment, apiVersion, credential.kind, secretOf(credential)])
}

const twice: Check = (options, config) =>
  config.models.flatMap(({ name, backends }) => {
    const parsed = options.models.value?.get(name)?.value.backends.value ?? []
    // Where one could not be read the places do not fit; then there are problems, and nobody reads warnings.
    if (parsed.length !== backends.length) return []
    const seen = new Map<string, Place>()
    return backends.flatMap((backend, i) => {
      const place = parsed[i]?.place
      if (place === undefined) return []
      const id = identityOf(backend)
      const first = seen.get(id)
      if (first === undefined) {
        seen.set(id, place)
        return []
      }
      const message = `is the same backend as on line ${first.line}: it fails when that fails; use weight for a larger share`
      return [{ place, message }]
    })
  })

const costWithoutPrice: Check = (options, config) => {
  if (config.models.some(({ price }) => price !== undefined)) return []
  return options.auth.value.keys.value.flatMap(({ value: { limits } }) =>
    limits.value.cost_per_month.given
      ? [
          {
            place: limits.value.cost_per_month.place,
            message: 'counts nothing while no model has a price (models.NAME.price)',
          },
        ]
      : [],
  )
}

const readableByAll: Check = (options, _config, { text, worldReadable }) => {
  if (worldReadable !== true) return []
  const secrets = [
    ...backendsOf(options).map(({ options: { api_key: key } }) => key),
    ...options.auth.value.keys.value.map(({ value: { key } }) => key),
  ]
  // What came from the environment or another file does not stand here.
  const found = secrets.find(({ value }) => value !== undefined && text.includes(value))
  return found === undefined
    ? []
    : [
        {
          place: found.place,
          message: 'is a secret in a file that every user of this machine may read: chmod 600, or ${file:…}',
        },
      ]
}

const CHECKS: readonly Check[] = [
  placeholders,
  openToAll,
  otherTools,
  openaiWithoutType,
  portal,
  strangeDeployment,
  projectWithKey,
  privateLinkName,
  twice,
  costWithoutPrice,
  readableByAll,
]

/** Reports what looks like a mistake; for a config without problems. */
export function reportWarnings(options: ParsedConfig, config: Config, sources: WarningSources, report: Report): void {
  for (const check of CHECKS) {
    for (const { place, message } of check(options, config, sources)) report.warning(place, message)
  }
}
