-- Settles, then claims: one atomic step.
--
-- KEYS[1]    see head.lua
-- KEYS[2..]  the producers' lists, in the order in which they are read now
-- ARGV       1 format, 2 manager, 3 token, 4 the token's number, 5 lease in ms, 6 room in jobs, 7 room in bytes,
--            8 1 if a suspect may be leased, 9 1 if one that has crashed may,
--            10 1 if it stands behind a wait, and settles nothing, 11 how many types have room: type, jobs for each;
--            how many claims have items that are simply done: token, bits for each;
--            how many other settlements: token, index, verdict, time, reason, what is spent (r, c or nothing), run,
--            type, output, keep in ms, the dead job that was handled, how, how many follow: type, time due or 0,
--            envelope, states and unique key (or '' twice) for each
-- Answers    { the stale ones as token/index, 1 if there may be more, how many envelopes come first, when it was
--            claimed, bits of the open ones, the items packed }
despite_oom()
local waits = ARGV[10] == '1'
local manager, token, seq, lease = ARGV[2], ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[5])
local meta = call('HMGET', K .. 'meta', 'oldest', 'seen', 'hold', 'last:' .. manager)
local refused = refusal(meta[1])
if refused then
  return refused
end
founded(meta[1])
local now = now_ms()

-- What a claim holds that was answered before.
local function answer(stale, more)
  local claim = claim_of(token)
  if not claim then
    return { stale, more, 0, text(now), '', '' }
  end
  return { stale, more, claim.envelopes, text(claim.at), claim.bits, call('HGET', K .. 'claims', token .. 'i') or '' }
end

-- What a wait has claimed under this token.
local claimed
if meta[4] then
  local newest, more, by_wait, stale = string.match(meta[4], '^(%d+) (%d)(w?)(.*)$')
  newest = tonumber(newest)
  if seq == newest and by_wait == 'w' and not waits then
    claimed = tonumber(more)
  elseif seq == newest then
    local list = {}
    for one in string.gmatch(stale, '%S+') do
      list[#list + 1] = one
    end
    return answer(list, tonumber(more))
  elseif seq < newest then
    -- Overtaken by one that its manager sent when it had given this one up: nobody waits for it.
    return { {}, 0, 0, text(now), '', '' }
  end
end
if waits then
  local any = false
  for i = 2, #KEYS do
    any = any or call('LLEN', KEYS[i]) > 0
  end
  if not any then
    -- The read has run out. It leaves no trace, so that it may be begun again.
    return { {}, 0, 0, text(now), '', '' }
  end
end

local arg = 11
local function next_arg()
  arg = arg + 1
  return ARGV[arg]
end

local room = {}
local types = {}
for i = 1, tonumber(ARGV[11]) do
  types[i] = next_arg()
  room[types[i]] = tonumber(next_arg())
end

local hold = seen_at(now, lease, meta[2], meta[3])
-- Mostly none of these is there: one look instead of three.
local rare = call('EXISTS', K .. 'cancel', K .. 'marks', K .. 'due') > 0
local cancels = rare and call('HLEN', K .. 'cancel') > 0
local stale, releases = {}, {}

local function settle(token, index, s)
  local claim = claim_of(token)
  if not claim or not is_open(claim, index) then
    stale[#stale + 1] = token .. '/' .. index
    return false
  end
  local e = envelope_of(claim, index)
  shut(claim, index)
  if s.run ~= '' then
    e.runs = e.runs == '' and s.run or (e.runs .. '\n' .. s.run)
    local _, count = string.gsub(e.runs, '\n', '\n')
    while count >= 10 do
      e.runs = sub(e.runs, find(e.runs, '\n', 1, true) + 1)
      count = count - 1
    end
  end
  if s.spend == 'r' then
    e.spent = e.spent + 1
  elseif s.spend == 'c' then
    e.crashes = e.crashes + 1
  end
  if e.type == '' and s.type ~= '' then
    e.type = s.type
  end
  if s.keep > e.keep then
    e.keep = s.keep
  end
  local cancelled = cancels and call('HDEL', K .. 'cancel', token .. '/' .. index) == 1
  local verdict = s.verdict
  if cancelled and verdict ~= 'done' then
    finish(e, 'cancelled', now, '', s.output, false)
    return false
  elseif verdict == 'release' then
    releases[#releases + 1] = { e = e, seq = seq_of(token), index = index }
  elseif verdict == 'park' then
    ready(e, false)
  elseif verdict == 'at' then
    schedule(e, s.at)
  else
    finish(e, verdict, now, s.reason, s.output, verdict == 'done' and s.run == '')
  end
  return true
end

local DONE = { verdict = 'done', run = '', spend = '', type = '', keep = 0, reason = '', output = '' }

-- Items that are done and leave nothing. A whole claim of them needs no look at its items.
local function settle_done(token, bits)
  local claim = claim_of(token)
  if claim and claim.indexed == 0 and not cancels and not claim.dirty and claim.bits == bits then
    free(token)
    claims[token] = false
    return
  end
  local plain = claim and claim.indexed % 2 == 0 and not cancels
  local set = plain and bytes_of(claim)
  local keys = plain and keyed(claim)
  for i = 1, #bits do
    local done = byte(bits, i)
    local open = plain and set[i] or 0
    if done == 0 then
      -- Nothing of these eight.
    elseif plain and bit.band(done, open, 255 - (byte(keys, i) or 0)) == done then
      set[i] = open - done
      claim.dirty = true
    else
      for k = 0, 7 do
        if floor(done / 2 ^ k) % 2 == 1 then
          settle(token, (i - 1) * 8 + k, DONE)
        end
      end
    end
  end
end

for _ = 1, tonumber(next_arg()) do
  local token = next_arg()
  settle_done(token, next_arg())
end
-- A job that follows from another. Nobody can be told that its unique key is held: it ends as a duplicate.
local function follow(kind, due, item, states, key)
  local later = due > now
  if key ~= '' then
    local e = parse(item)
    local holder = take_key(key, tonumber(states), e.id, e.id)
    if holder then
      remember_end(e, 'cancelled', now, duplicate_of(holder), '', false)
      call('PUBLISH', K .. 'ended', e.id)
      return
    end
    set_state(e, later and 's' or 'r')
  end
  rings = true
  if later then
    call('ZADD', K .. 'due', due, item)
  else
    call('SADD', K .. 'types', kind)
    call('RPUSH', K .. 'lane:' .. kind, item)
  end
end

for _ = 1, tonumber(next_arg()) do
  local token, index = next_arg(), tonumber(next_arg())
  local s = {
    verdict = next_arg(), at = next_arg(), reason = next_arg(), spend = next_arg(), run = next_arg(),
    type = next_arg(), output = next_arg(), keep = tonumber(next_arg()),
  }
  local handled, how = next_arg(), next_arg()
  local applied = settle(token, index, s)
  if applied and handled ~= '' and call('HEXISTS', K .. 'ends', handled) == 1 then
    call('HSET', K .. 'handled', handled, (call('HGET', K .. 'handled', handled) or '') .. how .. '\n')
  end
  for _ = 1, tonumber(next_arg()) do
    local kind, due, item, states, key = next_arg(), tonumber(next_arg()), next_arg(), next_arg(), next_arg()
    if applied then
      follow(kind, due, item, states, key)
    end
  end
end
release_all(releases)
flush()

-- What is due becomes ready.
local due = (rare or rings) and call('ZRANGEBYSCORE', K .. 'due', '-inf', now, 'LIMIT', 0, 500) or {}
for _, item in ipairs(due) do
  call('ZREM', K .. 'due', item)
  local e = parse(item)
  if e then
    ready(e, false)
  end
end

-- Ends that are old, or too many, are forgotten.
local function forget(ids)
  for _, id in ipairs(ids) do
    call('HDEL', K .. 'ends', id)
    call('HDEL', K .. 'handled', id)
    call('ZREM', K .. 'forget', id)
    leave_key(id)
  end
end
if seq % 16 == 0 then
  forget(call('ZRANGEBYSCORE', K .. 'forget', '-inf', now, 'LIMIT', 0, 1000))
  if call('ZCARD', K .. 'forget') > KEEP_MAX and call('ZCOUNT', K .. 'forget', '-inf', '(+inf') > KEEP_MAX then
    forget(call('ZRANGEBYSCORE', K .. 'forget', '-inf', '(+inf', 'LIMIT', 0, 1000))
  end
end

-- The claim: envelopes from the lanes, then bytes from the producers' lists.
local jobs, bytes = tonumber(ARGV[6]), tonumber(ARGV[7])
local lanes, lists, n, used, indexed = {}, {}, 0, 0, 0
local full_up, more = false, 0
local marks = rare and call('HLEN', K .. 'marks') > 0

-- Pops from the head of a list, a part at a time, at most `most`; what is too much for the bytes goes back. Answers how
-- many it took.
local n_of = { [lanes] = 0, [lists] = 0 }
local function pop(key, most, into)
  local before, step, at = n, 8, n_of[into]
  local enveloped = into == lanes
  while most > 0 and not full_up do
    local wanted = math.min(step, most)
    local got = call('LPOP', key, wanted)
    local count = got and #got or 0
    for i = 1, count do
      local item = got[i]
      if not (marks and dropped(enveloped and parse(item) or nil, item)) then
        local size = used + #item
        if size > bytes and n > 0 then
          for k = count, i, -1 do
            call('LPUSH', key, got[k])
          end
          full_up = true
          break
        end
        if enveloped and byte(item) == 69 then
          indexed = 1
          call('HSET', K .. 'state', own_name(parse(item)), 'R ' .. token .. '/' .. at)
        end
        used, n, most, at = size, n + 1, most - 1, at + 1
        into[at] = item
      end
    end
    if count < wanted then
      n_of[into] = at
      return n - before
    end
    step = math.max(1, math.min(256, floor((bytes - used) * n / math.max(used, 1)), step * 16))
  end
  -- It may have more.
  n_of[into], more = at, 1
  return n - before
end

local function pop_lanes()
  local count = #types
  for i = 0, count - 1 do
    local kind = types[(seq + i) % count + 1]
    pop(K .. 'lane:' .. kind, math.min(jobs - n, room[kind]), lanes)
  end
end

local function pop_lists()
  for i = 2, #KEYS do
    pop(KEYS[i], jobs - n, lists)
  end
end

local function cancelled(claim, index, e)
  call('HDEL', K .. 'cancel', claim.token .. '/' .. index)
  shut(claim, index)
  finish(e, 'cancelled', now, '', '', false)
end

if jobs > 0 and #types > 0 and not claimed then
  local claim, index, e
  if ARGV[8] == '1' and now >= hold then
    claim, index, e = find_suspect(now, room, ARGV[9] == '1', seq, cancelled)
  end
  if claim then
    shut(claim, index)
    n, n_of[lanes], lanes[1], more = 1, 1, build(e), 1
    indexed = e.mark == 'E' and 1 or 0
    set_state(e, 'R ' .. token .. '/0')
  else
    -- Lanes and lists take turns at being first; what came back comes before both.
    pop(K .. 'lane:', jobs, lanes)
    if seq % 2 == 0 then
      pop_lists()
      pop_lanes()
    else
      pop_lanes()
      pop_lists()
    end
    if #due == 500 then
      more = 1
    end
  end
  flush()
end

local bits, packed = '', ''
local envelopes = n_of[lanes]
if n > 0 then
  local items = envelopes == 0 and lists or lanes
  if envelopes > 0 then
    for i = 1, n_of[lists] do
      items[envelopes + i] = lists[i]
    end
  end
  bits, packed = full(n), cmsgpack.pack(items)
  write_claim({ token = token, envelopes = envelopes, packed = n, at = now, indexed = indexed, bits = bits }, packed)
  call('ZADD', K .. 'leases', now + lease, token)
end
more = claimed or more
local last = text(seq) .. ' ' .. more .. (waits and 'w' or '') .. table.concat(stale, ' ')
call('HSET', K .. 'meta', 'seen', now, 'last:' .. manager, last)
if rings then
  call('PUBLISH', K .. 'bell', '')
end
if claimed then
  return answer(stale, claimed)
end
return { stale, more, envelopes, text(now), bits, packed }
