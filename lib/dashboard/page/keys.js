// Fifth part: what each key has used since the start, and what is left of its limits.

/** A limit as "80 of 100 requests a minute", the more used the louder. @param {View['keys'][number]['limits'][number]} entry */
function limitText({ limit, used, max }) {
  const name = sayIfKnown(`limit_${limit}`) ?? limit
  const node = make('span', 'limit', say('limit_used', { used: count(used), max: count(max), limit: name }))
  node.dataset.level = used >= max ? 'none' : used >= 0.8 * max ? 'low' : 'good'
  return node
}

/** @param {View['keys'][number]} entry */
function keyRow(entry) {
  const row = make('tr')
  const name = make('th', '', cutMiddle(entry.key))
  name.scope = 'row'
  name.title = entry.key
  const errors = make('td', 'n', count(entry.errors))
  errors.classList.toggle('hot', entry.requests > 0 && entry.errors / entry.requests >= 0.05)
  const limits = make('td', 'limits')
  limits.append(...(entry.limits.length === 0 ? [NOTHING] : entry.limits.map(limitText)))
  row.append(
    name,
    make('td', 'n', count(entry.requests)),
    errors,
    make('td', 'n', `${count(entry.prompt_tokens)} / ${count(entry.completion_tokens)}`),
    make('td', 'n', count(entry.cached_tokens)),
    make('td', 'n', entry.cost === null ? NOTHING : money.format(entry.cost)),
    limits,
  )
  return row
}

let drawnKeys = ''
/** @param {View} view */
function drawKeys({ keys }) {
  const wanted = JSON.stringify(keys)
  byId('keys-card').hidden = keys.length === 0
  if (wanted === drawnKeys) return
  drawnKeys = wanted
  byId('keys-rows').replaceChildren(...keys.map(keyRow))
}
