// `make fault-matrix`: real requests over two backends on real sockets. One of them meets each fault that a client must
// not notice, alone and two at a time, in turns now and then, always and never. Then again with poison requests in
// between, which must not move /health.
//   REQUESTS=10000          of each course; beside poison a tenth of them
//   PAIR_REQUESTS=10000     of each pair; 0: no pairs
//   FAULTS='refused;reset'  only these, and all their pairs
//   PART=2/3                every third course, from the second on: for several processes
//   COURSES=first           only at the first backend; `poison`, `pairs`: only these; left out: all, and anywhere
import { type Course, type CourseResult, matrixClock, runCourse } from './course.ts'
import { type MatrixFault, matrixFaults } from './faults.ts'

/** A fault that struck less often than this in so many requests has shown nothing. */
const LEAST_STRUCK = 3
const STRIKES_IN = 1_000
/** Beside poison a tenth of the requests is enough: the question is /health. */
const BESIDE_POISON = 0.1
/** With fewer of them all may hang at once: then poison comes five times in a row, which rightly puts a backend out. */
const LEAST_BESIDE_POISON = 300
/** Beside poison the first tier is away for moments at most. */
const LEAST_FIRST_SHARE = 0.5

interface Row {
  readonly name: string
  readonly result: CourseResult
  readonly wrong: string | undefined
}

function wrongOf(course: Course, result: CourseResult): string | undefined {
  if (result.errors > 0) return `${result.errors} client errors: ${result.problem}`
  if (result.healthAway > 0) return `/health was away ${result.healthAway} times:\n${result.away ?? ''}`
  const short = course.requests < STRIKES_IN || course.faults.some(({ holdsLong }) => holdsLong)
  if (course.faults.length > 0 && result.struck < (short ? 1 : LEAST_STRUCK))
    return `it struck ${result.struck} times only`
  if (course.faults.length === 0 && result.firstShare < LEAST_FIRST_SHARE) return 'the first tier was left alone'
  return undefined
}

const nameOf = ({ faults, where, poison }: Course): string => {
  const names = faults.length === 0 ? 'sound backends' : faults.map(({ name }) => name).join(' + ')
  return `${names}${where === 'anywhere' ? ', anywhere' : ''}${poison ? ', beside poison' : ''}`
}

/** The courses of one fault: at the first backend, anywhere, beside poison. */
function coursesOf(fault: MatrixFault, requests: number, only: string | undefined): readonly Course[] {
  const faults = [fault]
  if (only === 'first' || only === 'poison') return [{ faults, where: 'first', requests, poison: only === 'poison' }]
  const beside = Math.max(LEAST_BESIDE_POISON, Math.ceil(requests * BESIDE_POISON))
  return [
    { faults, where: 'first', requests, poison: false },
    ...(roams(fault) ? [{ faults, where: 'anywhere' as const, requests, poison: false }] : []),
    { faults, where: 'first', requests: beside, poison: true },
  ]
}

const roams = ({ roams, holdsLong, expected }: MatrixFault): boolean => roams && !holdsLong && expected === 'unseen'

function pairsOf(faults: readonly MatrixFault[], requests: number): readonly Course[] {
  if (requests === 0) return []
  return faults.flatMap((one, i) =>
    faults.slice(i + 1).map((other): Course => ({ faults: [one, other], where: 'first', requests, poison: false })),
  )
}

async function main(env: NodeJS.ProcessEnv): Promise<number> {
  const requests = Number(env.REQUESTS ?? 10_000)
  const ofPairs = Number(env.PAIR_REQUESTS ?? requests)
  const wanted = env.FAULTS?.split(';')
  const faults = matrixFaults(matrixClock.epochMs).filter(({ name }) => wanted?.includes(name) ?? true)
  const paired = wanted === undefined ? faults.filter(({ inPairs }) => inPairs) : faults
  const alone: readonly Course[] = [
    { faults: [], where: 'first', requests, poison: true },
    ...faults.flatMap(fault => coursesOf(fault, requests, env.COURSES)),
  ]
  const all = [...(env.COURSES === 'pairs' ? [] : alone), ...pairsOf(paired, ofPairs)]
  const [part = 1, of = 1] = (env.PART ?? '1/1').split('/').map(Number)
  const courses = all.filter((_, i) => i % of === part - 1)
  const rows: Row[] = []
  for (const course of courses) {
    const result = await runCourse(course)
    const wrong = wrongOf(course, result)
    rows.push({ name: nameOf(course), result, wrong })
    const share = course.faults.length === 0 ? `, first tier ${(result.firstShare * 100).toFixed(1)} %` : ''
    const figures = `${result.requests} requests, ${result.struck} struck${course.poison ? `, ${result.poisoned} poisoned` : ''}${share}`
    process.stdout.write(
      `${wrong === undefined ? 'ok' : 'WRONG'} ${nameOf(course)}: ${figures}${wrong === undefined ? '' : `; ${wrong}`}\n`,
    )
  }
  const sum = (of: (result: CourseResult) => number): number => rows.reduce((all, { result }) => all + of(result), 0)
  const failed = rows.filter(({ wrong }) => wrong !== undefined).length
  process.stdout.write(
    `${env.COURSES === 'pairs' ? 0 : faults.length} faults alone, ${pairsOf(paired, ofPairs).length} pairs of ${paired.length} kinds, of these ${rows.length} courses, ` +
      `${sum(({ requests }) => requests)} requests, ${sum(({ struck }) => struck)} struck, ` +
      `${sum(({ errors }) => errors)} client errors, /health away ${sum(({ healthAway }) => healthAway)} times; ${failed} courses wrong\n`,
  )
  return failed === 0 ? 0 : 1
}

process.exitCode = await main(process.env)
