-- What scripts share that move jobs: to where they wait, and to their ends.

-- An entry that was cancelled or removed while it waited has ended already: it is dropped where a claim meets it, and
-- the record of its end has its bytes from then on.
local function dropped(e, raw)
  local id = e and e.id or id_in(raw)
  local mark = id and call('HGET', K .. 'marks', id)
  if not mark then
    return false
  end
  call('HDEL', K .. 'marks', id)
  local value = call('HGET', K .. 'ends', id)
  local record = value and cmsgpack.unpack(value)
  if record and record[6] == '' then
    record[6] = build(e or wrap(raw, '', 0, 0))
    call('HSET', K .. 'ends', id, cmsgpack.pack(record))
  end
  return true
end

local function set_state(e, state)
  if e.mark == 'E' then
    call('HSET', K .. 'state', own_name(e), state)
  end
end

local rings = false

-- Where ready jobs wait; a suspect waits for a claim of its own, as a lease that nobody holds.
local function ready(e, in_front)
  rings = true
  set_state(e, 'r')
  if e.suspect then
    local n = call('HINCRBY', K .. 'meta', 'n', 1)
    local claim = {
      token = 's' .. n, envelopes = 1, packed = 1, at = 0, indexed = e.mark == 'E' and 1 or 0, bits = '\1',
    }
    write_claim(claim, cmsgpack.pack({ build(e) }))
    call('ZADD', K .. 'leases', n, claim.token)
    return
  end
  call('SADD', K .. 'types', e.type)
  call(in_front and 'LPUSH' or 'RPUSH', K .. 'lane:' .. e.type, build(e))
end

local function schedule(e, at)
  rings = true
  set_state(e, 's')
  call('ZADD', K .. 'due', at, build(e))
end

-- How long ends stay on record that nobody asked to keep, in milliseconds; and how many ends, dead ones aside.
local KEEP, KEEP_MAX = 3600000, 100000

local function remember_end(e, state, now, reason, output, unrecorded)
  local keep = e.keep
  if state ~= 'done' and keep < KEEP then
    keep = KEEP
  end
  local key, states
  if e.mark == 'E' then
    key, states = leave_key(own_name(e), keep > 0 and e.id, state)
  end
  if keep > 0 then
    local record = { state, text(now), reason, output, unrecorded and '1' or '0', e.body and build(e) or '' }
    if key then
      record[7], record[8] = key, text(states)
    end
    call('HSET', K .. 'ends', e.id, cmsgpack.pack(record))
    call('ZADD', K .. 'forget', state == 'dead' and '+inf' or text(now + keep), e.id)
  end
end

local function unindex(e)
  if e.mark == 'E' then
    -- The id that a producer's bytes name is indexed only where it is another job's.
    if e.kind ~= 'R' then
      call('HDEL', K .. 'ids', e.id)
    end
    call('HDEL', K .. 'state', own_name(e))
  end
end

local function finish(e, state, now, reason, output, unrecorded)
  unindex(e)
  remember_end(e, state, now, reason, output, unrecorded)
  call('PUBLISH', K .. 'ended', e.id)
end

-- Sets free what was leased, in its old place and with nothing spent; in the order last to first.
local function release_all(list)
  table.sort(list, function(a, b)
    if a.seq ~= b.seq then
      return a.seq > b.seq
    end
    return a.index > b.index
  end)
  for _, one in ipairs(list) do
    ready(one.e, true)
  end
end

local function seq_of(token)
  return tonumber(string.match(token, '-(%d+)$')) or 0
end

-- A manager is here. Where none was for two thirds of a lease, no lease is taken over for a third: those who were cut
-- off renew first. Answers the time until which none is. Not again within a lease: who comes seldom gets on, too.
local function seen_at(now, lease, seen, hold)
  hold = tonumber(hold) or 0
  if seen and now - tonumber(seen) > lease * 2 / 3 and now - hold > lease then
    hold = now + floor(lease / 3)
    call('HSET', K .. 'meta', 'hold', hold)
  end
  return hold
end

-- What overflow.lua took from a list's tail; see there.
local function push_tail(list, items)
  for from = 1, #items, 1000 do
    call('RPUSH', list, unpack(items, from, math.min(from + 999, #items)))
  end
  rings = true
end

local function drop_overflow(token)
  call('ZREM', K .. 'leases', token)
  return call('HDEL', K .. 'overflow', token, token .. 'l') > 0
end

local function put_back(token)
  local kept = call('HMGET', K .. 'overflow', token, token .. 'l')
  drop_overflow(token)
  if not kept[1] then
    return 0
  end
  push_tail(kept[2], cmsgpack.unpack(kept[1]))
  return 1
end

-- The first run-out lease that has an item which fits: the claim, the item's index, and its envelope as it goes out.
-- Looks at a few claims only, at other ones each time. Cancelled items that it meets are given to `ended`.
local LOOK = 4
local function find_suspect(now, room, crashed, turn, ended)
  local tokens = call('ZRANGEBYSCORE', K .. 'leases', '-inf', now, 'LIMIT', 0, LOOK)
  if #tokens == LOOK then
    local count = call('ZCOUNT', K .. 'leases', '-inf', now)
    if count > LOOK and turn % 2 == 1 then
      tokens = call('ZRANGEBYSCORE', K .. 'leases', '-inf', now, 'LIMIT', turn % count, LOOK)
    end
  end
  local cancels = #tokens > 0 and call('HLEN', K .. 'cancel') > 0
  local marks = #tokens > 0 and call('HLEN', K .. 'marks') > 0
  for _, token in ipairs(tokens) do
    local moving = sub(token, 1, 1) == 'o'
    local claim = not moving and claim_of(token)
    if moving and ended then
      put_back(token)
    elseif moving then
      return true
    elseif not claim and ended then
      call('ZREM', K .. 'leases', token)
    end
    local waited = sub(token, 1, 1) == 's'
    for index = 0, claim and #claim.bits * 8 - 1 or -1 do
      if is_open(claim, index) then
        local e = envelope_of(claim, index)
        if waited and marks and ended and dropped(e) then
          shut(claim, index)
        elseif cancels and call('HEXISTS', K .. 'cancel', token .. '/' .. index) == 1 then
          if ended then
            ended(claim, index, e)
          end
        else
          if not waited then
            e.crashes = e.crashes + (e.suspect and 1 or 0)
            e.suspect = true
          end
          if (e.type == '' or (room[e.type] or 0) > 0) and (e.crashes == 0 or crashed) then
            return claim, index, e
          end
        end
      end
    end
  end
end
