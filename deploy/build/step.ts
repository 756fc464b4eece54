// One step of a platform's build as a program: `node dist/deploy/build/step.js STEP`, where STEP is a Step of steps.ts
// in JSON. Prints what was made as JSON.
import process from 'node:process'
import { explain } from './errors.ts'
import { doStep, type Step } from './steps.ts'

/** It comes from runStep alone. */
const step = JSON.parse(process.argv[2] ?? '{}') as Step

doStep(step).then(
  made => {
    process.stdout.write(JSON.stringify(made))
  },
  (error: unknown) => {
    const { message, exitCode } = explain(error)
    process.stderr.write(`build: ${message}\n`)
    process.exitCode = exitCode
  },
)
