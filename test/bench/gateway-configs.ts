// Configs of the gateways, each in its own language: check the client's key, rewrite the URL, set the backend's key,
// keep connections, log a line.
import { API_VERSION, AZURE_KEY, CLIENT_KEY, EMBEDDINGS_MODEL, MODEL } from './payloads.ts'

export interface GatewayOptions {
  readonly port: number
  /** Ports of the backends; the second one may be failing. */
  readonly backends: readonly number[]
  readonly workers: number
  /** The backends speak TLS, signed by this certificate (a PEM file); undefined: plain HTTP. */
  readonly backendCa?: string | undefined
  /** Clients come over TLS, by this certificate and key (PEM files); undefined: plain HTTP. */
  readonly clientTls?: { readonly cert: string; readonly key: string } | undefined
}

/** This proxy, with so many workers. */
export function proxyConfig({ port, backends, workers, backendCa, clientTls }: GatewayOptions): string {
  const tls = clientTls === undefined ? '' : `, tls: {cert: ${clientTls.cert}, key: ${clientTls.key}}`
  const list = (deployment: string): string =>
    backends
      .map(
        (backend, i) =>
          `      - {name: ${deployment}-${i + 1}, endpoint: "${backendCa === undefined ? 'http' : 'https'}://127.0.0.1:${backend}", api_key: ${AZURE_KEY}, api_version: "${API_VERSION}"}`,
      )
      .join('\n')
  return `auth: {keys: [{name: bench, key: ${CLIENT_KEY}}]}
models:
  ${MODEL}:
    backends:
${list(MODEL)}
  ${EMBEDDINGS_MODEL}:
    backends:
${list(EMBEDDINGS_MODEL)}
server: {port: ${port}, host: 127.0.0.1, workers: ${workers}${tls}}
logging: {level: info, format: json}
metrics: {enabled: true}
`
}

/** @param folder its own, for its pid and its temporary files */
export function nginxConfig(folder: string, { port, backends, workers, backendCa, clientTls }: GatewayOptions): string {
  const forward = (deployment: string, operation: string): string => `
      if ($http_authorization != "Bearer ${CLIENT_KEY}") { return 401; }
      proxy_pass ${backendCa === undefined ? 'http' : 'https'}://azure/openai/deployments/${deployment}/${operation}?api-version=${API_VERSION};
      proxy_set_header api-key ${AZURE_KEY};
      proxy_set_header Authorization "";
      proxy_set_header Accept-Encoding "";
      proxy_set_header Connection "";`
  return `daemon off;
pid ${folder}/nginx.pid;
error_log ${folder}/error.log;
worker_processes ${workers};
worker_rlimit_nofile 16384;
events { worker_connections 8192; }
http {
  # A log line a request, gathered and written in one go, as the proxy does it.
  access_log /dev/null combined buffer=64k flush=1s;
  client_max_body_size 64m;
  # A body is held in memory, so that it can be sent to another backend.
  client_body_buffer_size 16m;
  client_body_temp_path ${folder}/body;
  proxy_temp_path ${folder}/proxy;
  fastcgi_temp_path ${folder}/fastcgi;
  uwsgi_temp_path ${folder}/uwsgi;
  scgi_temp_path ${folder}/scgi;
  proxy_http_version 1.1;
${
  backendCa === undefined
    ? ''
    : `  proxy_ssl_trusted_certificate ${backendCa};
  proxy_ssl_verify on;
  proxy_ssl_name 127.0.0.1;
  proxy_ssl_protocols TLSv1.3;
`
}  proxy_read_timeout 300s;
  keepalive_requests 1000000000;
  tcp_nodelay on;
  proxy_next_upstream error timeout http_500 http_502 http_503 http_504 http_429 non_idempotent;
  upstream azure {
${backends.map(backend => `    server 127.0.0.1:${backend} max_fails=1 fail_timeout=30s;`).join('\n')}
    keepalive 1024;
    keepalive_requests 1000000000;
  }
  server {
    # Several workers: the kernel spreads connections over them; otherwise the first one awake takes nearly all.
    listen 127.0.0.1:${port} backlog=4096${workers > 1 ? ' reuseport' : ''}${clientTls === undefined ? '' : ' ssl'};
${
  clientTls === undefined
    ? ''
    : `    ssl_certificate ${clientTls.cert};
    ssl_certificate_key ${clientTls.key};
    ssl_protocols TLSv1.3;
`
}    location = /v1/chat/completions {${forward(MODEL, 'chat/completions')}
      # Events must pass as they come.
      proxy_buffering off;
    }
    location = /v1/embeddings {${forward(EMBEDDINGS_MODEL, 'embeddings')}
      proxy_buffers 8 16k;
    }
  }
}
`
}

/**
 * HAProxy, in one thread. It holds no body, but passes on what comes through its usual buffer of 16 KB. The others keep
 * a body in order to send it to another backend.
 */
export function haproxyConfig({ port, backends }: GatewayOptions): string {
  const forward = (operation: string, deployment: string): string =>
    `  http-request set-path /openai/deployments/${deployment}/${operation} if { path /v1/${operation} }`
  return `global
  nbthread 1
  maxconn 500
  # A log line a request, in memory, as nobody reads it.
  log ring@requests format raw local0
ring requests
  format raw
  size 65536
defaults
  mode http
  log global
  option httplog
  # Events must pass as they come.
  option http-no-delay
  timeout connect 10s
  timeout client 300s
  timeout server 300s
frontend openai
  bind 127.0.0.1:${port} backlog 4096
  http-request return status 401 unless { req.hdr(authorization) -m str "Bearer ${CLIENT_KEY}" }
${forward('chat/completions', MODEL)}
${forward('embeddings', EMBEDDINGS_MODEL)}
  http-request set-query api-version=${API_VERSION}
  http-request set-header api-key ${AZURE_KEY}
  http-request del-header authorization
  http-request del-header accept-encoding
  default_backend azure
backend azure
  http-reuse always
${backends.map((backend, i) => `  server azure-${i + 1} 127.0.0.1:${backend}`).join('\n')}
`
}

/** Envoy: one route for each operation, the client's key compared in the route's match. */
export function envoyConfig({ port, backends, backendCa, clientTls }: GatewayOptions): string {
  const route = (operation: string, deployment: string): string => `
                        - match: {path: /v1/${operation}, headers: [{name: authorization, string_match: {exact: "Bearer ${CLIENT_KEY}"}}]}
                          route: {cluster: azure, timeout: 0s, prefix_rewrite: "/openai/deployments/${deployment}/${operation}?api-version=${API_VERSION}"}`
  const tls =
    backendCa === undefined
      ? ''
      : `
      transport_socket:
        name: envoy.transport_sockets.tls
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext
          common_tls_context:
            tls_params: {tls_maximum_protocol_version: TLSv1_3}
            validation_context: {trusted_ca: {filename: ${backendCa}}}`
  const listenerTls =
    clientTls === undefined
      ? ''
      : `transport_socket:
            name: envoy.transport_sockets.tls
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext
              common_tls_context:
                tls_params: {tls_minimum_protocol_version: TLSv1_3, tls_maximum_protocol_version: TLSv1_3}
                tls_certificates:
                  - certificate_chain: {filename: ${clientTls.cert}}
                    private_key: {filename: ${clientTls.key}}
          `
  return `static_resources:
  listeners:
    - name: openai
      address: {socket_address: {address: 127.0.0.1, port_value: ${port}}}
      tcp_backlog_size: 4096
      filter_chains:
        - ${listenerTls}filters:
            - name: envoy.filters.network.http_connection_manager
              typed_config:
                "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
                stat_prefix: openai
                codec_type: HTTP1
                stream_idle_timeout: 600s
                http_filters:
                  - name: envoy.filters.http.router
                    typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}
                route_config:
                  virtual_hosts:
                    - name: all
                      domains: ["*"]
                      request_headers_to_add:
                        - {header: {key: api-key, value: "${AZURE_KEY}"}, append_action: OVERWRITE_IF_EXISTS_OR_ADD}
                      request_headers_to_remove: [authorization, accept-encoding]
                      routes:${route('chat/completions', MODEL)}${route('embeddings', EMBEDDINGS_MODEL)}
                        - match: {prefix: /}
                          direct_response: {status: 401}
  clusters:
    - name: azure
      type: STATIC
      connect_timeout: 5s
      circuit_breakers: {thresholds: [{max_connections: 8192, max_pending_requests: 8192, max_requests: 8192}]}${tls}
      load_assignment:
        cluster_name: azure
        endpoints:
          - lb_endpoints:
${backends.map(backend => `              - endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: ${backend}}}}`).join('\n')}
`
}

/** Caddy, in one core. */
export function caddyConfig({ port, backends, backendCa, clientTls }: GatewayOptions): string {
  const rewrite = (operation: string, deployment: string): string =>
    `    rewrite /v1/${operation} /openai/deployments/${deployment}/${operation}?api-version=${API_VERSION}`
  return `{
  admin off
  auto_https off
  persist_config off
  log {
    level ERROR
  }
}
${clientTls === undefined ? 'http' : 'https'}://127.0.0.1:${port} {
  bind 127.0.0.1
${clientTls === undefined ? '' : `  tls ${clientTls.cert} ${clientTls.key}\n`}  @known header Authorization "Bearer ${CLIENT_KEY}"
  handle @known {
${rewrite('chat/completions', MODEL)}
${rewrite('embeddings', EMBEDDINGS_MODEL)}
    reverse_proxy ${backends.map(backend => `127.0.0.1:${backend}`).join(' ')} {
      flush_interval -1
      header_up api-key "${AZURE_KEY}"
      header_up -Authorization
      transport http {
        compression off
        keepalive 300s
        keepalive_idle_conns_per_host 2048
${backendCa === undefined ? '' : `        tls_trust_pool file ${backendCa}\n        tls_server_name 127.0.0.1\n`}      }
    }
  }
  respond 401
}
`
}

/** The Go proxy with the original's features; the CA comes by SSL_CERT_FILE. */
export function goOriginalConfig({ port, backends, backendCa }: GatewayOptions): string {
  const scheme = backendCa === undefined ? 'http' : 'https'
  const model = (name: string): string => `  ${name}:
    backends:
${backends
  .map(
    backend =>
      `      - {endpoint: "${scheme}://127.0.0.1:${backend}", api_key: "${AZURE_KEY}", deployment: ${name}, api_version: "${API_VERSION}"}`,
  )
  .join('\n')}`
  return `server: {host: 127.0.0.1, port: ${port}}
auth:
  enabled: true
  keys: [{name: bench, key: "${CLIENT_KEY}"}]
models:
${model(MODEL)}
${model(EMBEDDINGS_MODEL)}
retry: {max_attempts: 3, timeout: 30s}
`
}
