// The live status page's skeleton. `data-t` names the text that the script puts there in the reader's language; the English
// here is what is read until then.

export const DASHBOARD_MARKUP = `
<a class="skip" href="#main" data-t="skip">Skip to the backends</a>
<header class="top">
  <div class="brand">
    <svg viewBox="0 0 20 20" aria-hidden="true"><path fill="none" stroke="currentColor" stroke-width="1.8" stroke-linecap="round" d="M2 10h5m0 0 8-6m-8 6h9m-9 0 8 6"/><circle cx="6.5" cy="10" r="2.6" fill="currentColor"/><circle cx="16.4" cy="3.4" r="1.9" fill="currentColor"/><circle cx="17" cy="10" r="1.9" fill="currentColor"/><circle cx="16.4" cy="16.6" r="1.9" fill="currentColor"/></svg>
    <span data-t="brand">Azure OpenAI Proxy</span>
  </div>
  <p class="link" id="link" data-link="none"><i></i><span id="link-text"></span></p>
  <button type="button" id="forget" data-t="forget" hidden>Forget key</button>
</header>
<main id="main" tabindex="-1">
  <noscript><p class="problem">This page needs JavaScript: it reads the live status from the proxy.</p></noscript>
  <form id="login" class="card" method="post" hidden>
    <h1 data-t="key_title">Live status</h1>
    <p class="problem" id="login-problem" role="alert" hidden></p>
    <label for="login-key" data-t="key_label">Admin key</label>
    <input id="login-key" type="password" autocomplete="off" spellcheck="false" autocapitalize="off" required aria-describedby="login-help">
    <p class="help" id="login-help" data-t="key_help"></p>
    <button class="main" type="submit" data-t="key_show">Show the live status</button>
  </form>
  <div id="board" hidden>
    <section class="card" id="summary" aria-labelledby="summary-title">
      <h1><svg viewBox="0 0 20 20" aria-hidden="true" id="summary-icon"></svg><span id="summary-title"></span></h1>
      <ul id="outs"></ul>
    </section>
    <section aria-labelledby="totals-title">
      <h2 class="unseen" id="totals-title" data-t="totals">The whole proxy</h2>
      <dl class="card totals" id="totals"></dl>
    </section>
    <section class="card" id="backends-card" aria-labelledby="backends-title">
      <div class="head"><h2 id="backends-title" data-t="backends">Backends</h2></div>
      <div class="scroll" tabindex="0" role="region" aria-labelledby="backends-title">
        <table id="backends" aria-labelledby="backends-title">
          <thead><tr>
            <th scope="col" data-t="backend">Backend</th>
            <th scope="col" data-t="state">State</th>
            <th scope="col" class="n"><b data-t="in_flight"></b><span data-t="now"></span></th>
            <th scope="col" class="n"><b data-t="rate"></b><span data-t="over_1_short"></span></th>
            <th scope="col" class="n"><b data-t="errors"></b><span data-t="over_5_short"></span></th>
            <th scope="col" class="n"><b data-t="first_byte"></b><span data-t="over_5_short"></span></th>
            <th scope="col" class="n"><b data-t="tokens"></b><span data-t="over_1_short"></span></th>
            <th scope="col" class="n" data-title="cached_help"><b data-t="cached"></b><span data-t="over_5_short"></span></th>
            <th scope="col" data-title="headroom_help"><b data-t="headroom"></b><span data-t="now"></span></th>
            <th scope="col" class="n" data-t="action">By hand</th>
          </tr></thead>
        </table>
      </div>
    </section>
    <div class="split">
      <section class="card" aria-labelledby="changes-title">
        <div class="head"><h2 id="changes-title" data-t="changes">State changes</h2></div>
        <div class="scroll" id="changes-scroll" tabindex="0" role="region" aria-labelledby="changes-title">
          <p class="empty" id="changes-empty" data-t="changes_none"></p>
          <ol id="changes"></ol>
        </div>
      </section>
      <section class="card" aria-labelledby="requests-title">
        <div class="head">
          <h2 id="requests-title"></h2>
          <span class="pick"><label for="filter-model" data-t="filter_model">Model</label><select id="filter-model"></select></span>
          <span class="pick"><label for="filter-key" data-t="filter_key">Key</label><select id="filter-key"></select></span>
          <span class="pick"><label for="filter-status" data-t="filter_status">Status</label><select id="filter-status"></select></span>
          <span class="end"><span class="note" id="requests-note"></span><button type="button" id="pause" aria-pressed="false"></button></span>
        </div>
        <div class="scroll" id="requests-scroll" tabindex="0" role="region" aria-labelledby="requests-title">
          <table id="requests" aria-labelledby="requests-title">
            <thead><tr>
              <th scope="col" data-t="time">Time</th>
              <th scope="col" data-t="status">Status</th>
              <th scope="col" data-t="model">Model</th>
              <th scope="col" data-t="backend">Backend</th>
              <th scope="col" data-t="key">Key</th>
              <th scope="col" data-t="request">Request</th>
              <th scope="col" class="n" data-t="ttfb_duration">First byte / all</th>
              <th scope="col" class="n" data-t="tokens_io">Tokens in / out</th>
              <th scope="col" class="n" data-t="cached" data-title="cached_help">Cached</th>
              <th scope="col" data-t="error">Error</th>
            </tr></thead>
            <tbody id="requests-rows"></tbody>
          </table>
          <p class="empty" id="requests-empty" hidden></p>
        </div>
      </section>
    </div>
  </div>
</main>
<dialog id="confirm" aria-labelledby="confirm-title" aria-describedby="confirm-text">
  <h2 id="confirm-title"></h2>
  <p id="confirm-text"></p>
  <p class="problem" id="confirm-problem" role="alert" hidden></p>
  <div class="acts">
    <button type="button" id="confirm-no" data-t="cancel">Cancel</button>
    <button type="button" id="confirm-yes" data-t="eject">Eject</button>
  </div>
</dialog>
<p class="unseen" role="status" id="said"></p>
`
