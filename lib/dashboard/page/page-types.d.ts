// Names that the page's scripts share beside their own: the words, the elements of page.html, the shapes of the event
// stream. The build refuses a page whose ids or tags are not these (deploy/build/page.ts).

type Word = keyof typeof import('./words.en.json')
declare const WORDS: { readonly en: Readonly<Record<Word, string>>; readonly zh: Readonly<Record<Word, string>> }

/** Every element with an id, and what it is. */
interface PageElements {
  link: HTMLParagraphElement
  'link-text': HTMLSpanElement
  forget: HTMLButtonElement
  main: HTMLElement
  login: HTMLFormElement
  'login-problem': HTMLParagraphElement
  'login-key': HTMLInputElement
  'login-help': HTMLParagraphElement
  board: HTMLDivElement
  summary: HTMLElement
  'summary-icon': SVGSVGElement
  'summary-title': HTMLSpanElement
  outs: HTMLUListElement
  'outs-more': HTMLButtonElement
  about: HTMLParagraphElement
  'totals-title': HTMLHeadingElement
  totals: HTMLDListElement
  'backends-card': HTMLElement
  'backends-title': HTMLHeadingElement
  backends: HTMLTableElement
  'backends-filter': HTMLSpanElement
  'filter-backends': HTMLInputElement
  'filter-trouble': HTMLInputElement
  'keys-card': HTMLElement
  'keys-title': HTMLHeadingElement
  keys: HTMLTableElement
  'keys-rows': HTMLTableSectionElement
  'changes-title': HTMLHeadingElement
  'changes-scroll': HTMLDivElement
  'changes-empty': HTMLParagraphElement
  changes: HTMLOListElement
  'requests-title': HTMLHeadingElement
  'filter-model': HTMLSelectElement
  'filter-key': HTMLSelectElement
  'filter-status': HTMLSelectElement
  'requests-note': HTMLSpanElement
  pause: HTMLButtonElement
  'requests-scroll': HTMLDivElement
  requests: HTMLTableElement
  'requests-rows': HTMLTableSectionElement
  'requests-empty': HTMLParagraphElement
  confirm: HTMLDialogElement
  'confirm-title': HTMLHeadingElement
  'confirm-text': HTMLParagraphElement
  'confirm-problem': HTMLParagraphElement
  'confirm-no': HTMLButtonElement
  'confirm-yes': HTMLButtonElement
  said: HTMLParagraphElement
}

type StepHistory = import('../entries.ts').StepHistory
type Row = import('../entries.ts').BackendRow
type View = import('../entries.ts').StatusView
type RequestRow = import('../entries.ts').RequestEntry & import('../entries.ts').Sequenced
type ChangeRow = import('../entries.ts').ChangeEntry & import('../entries.ts').Sequenced
type ShownState = Row['state'] | 'hand'
/** What a small chart takes: values, errors, and its label for the highest value. */
type Series = [series: readonly (number | null)[], errors: readonly number[], label: (max: number) => string]
