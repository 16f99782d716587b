-- Stores a batch of jobs, once.
--
-- KEYS[1]  see head.lua
-- ARGV     1 format, 2 the batch's token; then runs, each one of
--          `p`, type, how many, an envelope for each         ready jobs of one type
--          `d`, time due, envelope                           a job for later
--          `x`, type, id, digest, time due or 0, envelope    a job whose id is indexed
--          `u`, the same, states, unique key                 such a job with a unique key
-- Answers  for each `x` and `u`: '' if it is stored now, or what is known under its id: digest, space, state; or its
--          end; or `dup`, space, the id of the job that holds its key
local meta = call('HGET', K .. 'meta', 'oldest')
local refused = refusal(meta)
if refused then
  return refused
end
local batch = K .. 'batch:' .. ARGV[2]
local before = call('GET', batch)
if before then
  -- A write, so that who waits for replicas or a disk now waits for the batch, on a new connection too.
  call('PEXPIRE', batch, 120000)
  return cmsgpack.unpack(before)
end
founded(meta)
local now, answers, i = now_ms(), {}, 3

local function store_indexed(kind, id, digest, due, item, states, key)
  local known = call('HGET', K .. 'ids', id)
  if known then
    return known .. ' ' .. (call('HGET', K .. 'state', id) or 'r')
  end
  local ended = call('HGET', K .. 'ends', id)
  if ended then
    return ended
  end
  local holder = key and take_key(key, tonumber(states), id, id)
  if holder then
    return 'dup ' .. holder
  end
  call('HSET', K .. 'ids', id, digest)
  if due > now then
    call('HSET', K .. 'state', id, 's')
    call('ZADD', K .. 'due', due, item)
  else
    call('HSET', K .. 'state', id, 'r')
    call('SADD', K .. 'types', kind)
    call('RPUSH', K .. 'lane:' .. kind, item)
  end
  return ''
end

while i <= #ARGV do
  local what = ARGV[i]
  if what == 'p' then
    local kind, count = ARGV[i + 1], tonumber(ARGV[i + 2])
    local from, last = i + 3, i + 2 + count
    call('SADD', K .. 'types', kind)
    while from <= last do
      local to = math.min(from + 999, last)
      call('RPUSH', K .. 'lane:' .. kind, unpack(ARGV, from, to))
      from = to + 1
    end
    i = last + 1
  elseif what == 'd' then
    call('ZADD', K .. 'due', ARGV[i + 1], ARGV[i + 2])
    i = i + 3
  else
    local states, key
    if what == 'u' then
      states, key = ARGV[i + 6], ARGV[i + 7]
    end
    answers[#answers + 1] =
      store_indexed(ARGV[i + 1], ARGV[i + 2], ARGV[i + 3], tonumber(ARGV[i + 4]), ARGV[i + 5], states, key)
    i = i + (key and 8 or 6)
  end
end
call('SET', batch, cmsgpack.pack(answers), 'PX', 120000)
call('PUBLISH', K .. 'bell', '')
return answers
