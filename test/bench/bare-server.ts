// The least that a Node server can be: the yardstick for start and idle memory. Its port is the first argument.
import http from 'node:http'
import { expectedBody } from './payloads.ts'

const body = expectedBody('chat')
http
  .createServer((request, response) => {
    request.resume()
    response.writeHead(200, { 'content-type': 'application/json', 'content-length': body.length })
    response.end(body)
  })
  .listen(Number(process.argv[2]), '127.0.0.1')
