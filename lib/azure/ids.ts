// Ids of stored objects (responses, conversations, items), as Azure and OpenAI give them out.

/**
 * Nothing that a gateway could decode, or a path could climb out with, is part of one; the longest known have some 70
 * characters.
 */
const OBJECT_ID = /^[A-Za-z0-9_-]{1,256}$/

/** Whether a text can be such an id. Anything else names nothing, and goes to no backend. */
export function isObjectId(text: string): boolean {
  return OBJECT_ID.test(text)
}
