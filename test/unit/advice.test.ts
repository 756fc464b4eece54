// Advice for each reason: one sentence, made more exact by the codes of a failed connection; and the lines of the log.
import t from 'tap'
import { ADVICE, adviceCode, adviceFor } from '../../lib/balancer/advice.ts'

t.test('each is one sentence that an operator can act on', async t => {
  for (const [code, sentence] of Object.entries(ADVICE)) {
    t.match(sentence, /^[A-Z][^\n]*\.$/, code)
    t.ok(sentence.length <= 140, `${code}: ${sentence.length} characters`)
  }
})

t.test('a failed connection is told more closely by its code', async t => {
  for (const [detail, code] of [
    ['ENOTFOUND', 'name_unknown'],
    ['getaddrinfo EAI_AGAIN', 'name_unknown'],
    ['ECONNREFUSED', 'connect_failed'],
    ['UNABLE_TO_VERIFY_LEAF_SIGNATURE', 'ca_unknown'],
    ['DEPTH_ZERO_SELF_SIGNED_CERT', 'ca_unknown'],
    ['SELF_SIGNED_CERT_IN_CHAIN', 'ca_unknown'],
    ['CERT_HAS_EXPIRED', 'certificate_ended'],
    ['ERR_TLS_CERT_ALTNAME_INVALID', 'certificate_name'],
    ['ERR_SSL_WRONG_VERSION_NUMBER', 'plain_port'],
    ['', 'connect_failed'],
  ] as const) {
    t.equal(adviceCode('connect_failed', detail), code, detail)
  }
  for (const [reason, detail, code] of [
    ['probe_failed', 'connect_failed: ENOTFOUND: nowhere is not known', 'name_unknown'],
    ['probe_failed', 'connect_timeout: no connection', 'connect_timeout'],
    ['probe_failed', 'server_error: 503', 'server_error'],
    ['probe_failed', 'something else: 1', 'probe_failed'],
    ['not_an_api', '200 HTML', 'not_an_api'],
    ['not_an_api', '404 page', 'wrong_path'],
    ['not_an_api', '403 page', 'not_an_api'],
  ] as const) {
    t.equal(adviceCode(reason, detail), code, detail)
  }
  t.equal(adviceCode('server_error', 'ENOTFOUND'), 'server_error', 'a backend may say such words too')
  t.equal(adviceFor('network_refused', '403'), ADVICE.network_refused)
})
