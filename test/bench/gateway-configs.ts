// Configs of the gateways, each in its own language: check the client's key, rewrite the URL, set the backend's key,
// keep connections alive, write a log line.
import { API_VERSION, AZURE_KEY, CLIENT_KEY, EMBEDDINGS_MODEL, MODEL } from './payloads.ts'

export interface GatewayOptions {
  readonly port: number
  /** Ports of the backends; the second one may be failing. */
  readonly backends: readonly number[]
  readonly workers: number
}

/** This proxy, with so many workers. */
export function proxyConfig({ port, backends, workers }: GatewayOptions): string {
  const list = (deployment: string): string =>
    backends
      .map(
        (backend, i) =>
          `      - {name: ${deployment}-${i + 1}, endpoint: "http://127.0.0.1:${backend}", api_key: ${AZURE_KEY}, api_version: "${API_VERSION}"}`,
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
server: {port: ${port}, host: 127.0.0.1, workers: ${workers}}
logging: {level: info, format: json}
metrics: {enabled: true}
`
}

/** @param folder its own, for its pid and its temporary files */
export function nginxConfig(folder: string, { port, backends, workers }: GatewayOptions): string {
  const forward = (deployment: string, operation: string): string => `
      if ($http_authorization != "Bearer ${CLIENT_KEY}") { return 401; }
      proxy_pass http://azure/openai/deployments/${deployment}/${operation}?api-version=${API_VERSION};
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
  proxy_read_timeout 300s;
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
    listen 127.0.0.1:${port} backlog=4096${workers > 1 ? ' reuseport' : ''};
    location = /v1/chat/completions {${forward(MODEL, 'chat/completions')}
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
 * HAProxy, in one thread. It holds no body, but passes on what comes through its usual buffer of 16 KB: the others keep
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
