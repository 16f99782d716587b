-- What every script begins with: the store's keys.
--
-- KEYS[1]  what the names of all keys of this store begin with: `ganger:{LIST}:`
-- ARGV[1]  the newest format that the caller can read
--
-- Keys (K = KEYS[1]):
--   K meta     hash    format, oldest: the store's format, and the oldest reader it can have; seen: when a manager
--                      was last here; hold: until then no lease is taken over; n: counts suspects; last:M: the
--                      newest exchange of manager M and what it was answered, while M is alive
--   K claims   hash    token -> head and bits of a claim: which of its items are not settled; token with an `i`
--                      behind it -> the items, packed; with a `u`, bits of those that got a unique key in it
--   K leases   zset    token -> deadline; suspects that wait for a claim of their own are here too, as `s<n>`
--   K lane:T   list    ready jobs of type T, in envelopes; `K lane:` is of bytes whose type nobody has told
--   K types    set     the types that have, or had, a lane
--   K due      zset    envelope -> when it is due
--   K ids      hash    id -> digest of the content, for ids that a caller gave and for jobs with a `keep`
--   K state    hash    id -> `r`eady, `s`cheduled or `R token/index` (running), for the same ids and for all jobs with a
--                      unique key
--   K unique   hash    who holds which unique key; see unique.lua
--   K marks    hash    id -> 1: the next entry of this id that a claim meets is dropped; it has ended already
--   K cancel   hash    token/index -> 1: someone asked for this running job to be cancelled
--   K ends     hash    id -> how it ended, packed
--   K forget   zset    id -> when its end is forgotten (dead ones: never)
--   K handled  hash    id -> how its failure handlers ended, a line each
--   K beats, K beats:at   hash and zset: the managers, and until when they count as alive
--   K batch:B  string  what an enqueued batch was answered, for two minutes
--   K overflow hash    token -> entries of a list's tail, packed, that a manager is moving to its disk; token with an
--                      `l` behind it -> the list. Their deadline is in leases; their tokens begin with an `o`
--   K receipts hash    token -> `out WHERE` (they are kept there now) or `back` (they are in the list again), until
--                      the manager has that on its disk
-- Channels: `K bell` when something may have become ready, `K ended` with the id of a job that ended.
--
-- An envelope is one line of fields parted by tabs, then a line for each run on record, an empty line, and the
-- job's own bytes. The fields: e or E (E: its id is indexed), J (a job) or R (a producer's bytes), retries spent,
-- crashes spent, whether it is a suspect, type, queue, id, first claim (token/index/time; of a job, when it was created),
-- keep in milliseconds, and what of the job is not on the wire.
local K = KEYS[1]
local call = redis.call
local floor, sub, byte, find = math.floor, string.sub, string.byte, string.find

local function now_ms()
  local t = call('TIME')
  return t[1] * 1000 + floor(t[2] / 1000)
end

local function text(n)
  return string.format('%.0f', n)
end

-- The store's format; an error reply where it is newer than the caller can read.
local function refusal(oldest)
  if oldest and tonumber(oldest) > tonumber(ARGV[1]) then
    return redis.error_reply('GANGERFORMAT ' .. oldest)
  end
end

local function founded(oldest)
  if not oldest then
    call('HSET', K .. 'meta', 'format', 1, 'oldest', 1)
  end
end
