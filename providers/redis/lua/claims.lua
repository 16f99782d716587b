-- What scripts share that touch claims: envelopes, claims, and where jobs go from there.

-- Over its memory limit Redis refuses whatever may enlarge it, unless a script has written already: what settles and
-- claims gives memory back, so it begins with a write that frees nothing.
local function despite_oom()
  call('DEL', K .. 'oom')
end

local function parse(item)
  local stop = find(item, '\n\n', 1, true)
  local line = stop and find(item, '\n', 1, true)
  local f, n = {}, 0
  if stop then
    for field in string.gmatch(sub(item, 1, line - 1) .. '\t', '([^\t]*)\t') do
      n = n + 1
      f[n] = field
    end
  end
  if n < 11 then
    return nil
  end
  return {
    mark = f[1], kind = f[2], spent = tonumber(f[3]), crashes = tonumber(f[4]), suspect = f[5] == '1',
    type = f[6], queue = f[7], id = f[8], first = f[9], keep = tonumber(f[10]) or 0, extra = f[11],
    runs = sub(item, line + 1, stop - 1), body = sub(item, stop + 2),
  }
end

local function build(e)
  local head = table.concat({
    e.mark, e.kind, e.spent, e.crashes, e.suspect and 1 or 0, e.type, e.queue, e.id, e.first, text(e.keep), e.extra,
  }, '\t')
  if e.runs ~= '' then
    head = head .. '\n' .. e.runs
  end
  return head .. '\n\n' .. e.body
end

-- The id that a producer's bytes name, where they do.
local function id_in(raw)
  if not find(raw, '"[iI][dD]"') then
    return nil
  end
  local ok, job = pcall(cjson.decode, raw)
  if not ok or type(job) ~= 'table' then
    return nil
  end
  local id = job.id
  for key, value in pairs(job) do
    if not id and type(key) == 'string' and string.lower(key) == 'id' then
      id = value
    end
  end
  if type(id) == 'string' and #id > 0 and #id <= 200 and not find(id, '[%s%c]') then
    return id
  end
end

-- A producer's bytes, from their first claim on.
local function wrap(raw, token, index, at)
  return {
    mark = 'e', kind = 'R', spent = 0, crashes = 0, suspect = false, type = '', queue = '',
    id = id_in(raw) or ('c-' .. token .. '-' .. index), keep = 0,
    first = token ~= '' and (token .. '/' .. index .. '/' .. text(at)) or '',
    extra = '', runs = '', body = raw,
  }
end

-- Claims. The head: how many of its items are envelopes (the first), how many were packed, when it was claimed, and
-- whether one of them is indexed. Bit i % 8 of byte i / 8 is set while item i is open.
local HEAD = '<I4I4dB'
local HEAD_LEN = 17
local claims = {}

local function full(n)
  local rest = n % 8
  return string.rep('\255', floor(n / 8)) .. (rest > 0 and string.char(2 ^ rest - 1) or '')
end

local function read_claim(token, value)
  local envelopes, packed, at, indexed = struct.unpack(HEAD, value)
  return {
    token = token, envelopes = envelopes, packed = packed, at = at, indexed = indexed, bits = sub(value, HEAD_LEN + 1),
  }
end

local function claim_of(token)
  local claim = claims[token]
  if claim == nil then
    local value = call('HGET', K .. 'claims', token)
    claim = value and read_claim(token, value) or false
    claims[token] = claim
  end
  return claim
end

local function bytes_of(claim)
  if not claim.set then
    claim.set = {}
    for i = 1, #claim.bits do
      claim.set[i] = byte(claim.bits, i)
    end
  end
  return claim.set
end

local function is_open(claim, index)
  local at = floor(index / 8) + 1
  local value = claim.set and claim.set[at] or byte(claim.bits, at)
  return value and floor(value / 2 ^ (index % 8)) % 2 == 1
end

local function shut(claim, index)
  local set, at = bytes_of(claim), floor(index / 8) + 1
  set[at] = set[at] - 2 ^ (index % 8)
  claim.dirty = true
end

local function items_of(claim)
  if not claim.items then
    local value = call('HGET', K .. 'claims', claim.token .. 'i')
    claim.items = value and cmsgpack.unpack(value) or {}
  end
  return claim.items
end

-- An item as an envelope.
local function envelope_of(claim, index)
  local item = items_of(claim)[index + 1]
  local e = index < claim.envelopes and parse(item) or nil
  return e or wrap(item or '', claim.token, index, claim.at)
end

local function free(token)
  call('HDEL', K .. 'claims', token, token .. 'i')
  call('ZREM', K .. 'leases', token)
end

-- Writes a claim's head, and its items where they are given.
local function write_claim(claim, items)
  local head = struct.pack(HEAD, claim.envelopes, claim.packed, claim.at, claim.indexed) .. claim.bits
  if items then
    call('HSET', K .. 'claims', claim.token, head, claim.token .. 'i', items)
  else
    call('HSET', K .. 'claims', claim.token, head)
  end
end

-- What is open in a claim of which half is settled, packed anew, so that a long job pins only itself.
local function repacked(claim, count)
  if count * 2 > claim.packed then
    return nil
  end
  local open, items = {}, items_of(claim)
  for i = 0, #claim.bits * 8 - 1 do
    if is_open(claim, i) then
      open[i + 1] = items[i + 1]
    end
  end
  claim.packed = count
  return cmsgpack.pack(open)
end

local function popcount(bits)
  local count = 0
  for i = 1, #bits do
    local value = byte(bits, i)
    while value > 0 do
      count = count + value % 2
      value = floor(value / 2)
    end
  end
  return count
end

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

-- Writes what has changed of the claims.
local function flush()
  for token, claim in pairs(claims) do
    if claim and claim.dirty then
      local chars, any = {}, false
      for i, value in ipairs(claim.set) do
        chars[i] = string.char(value)
        any = any or value > 0
      end
      if any then
        claim.bits = table.concat(chars)
        write_claim(claim, repacked(claim, popcount(claim.bits)))
      else
        free(token)
        claims[token] = false
      end
      claim.dirty = false
    end
  end
end

local function set_state(e, state)
  if e.mark == 'E' then
    call('HSET', K .. 'state', e.id, state)
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
  if keep > 0 then
    local record = { state, text(now), reason, output, unrecorded and '1' or '0', e.body and build(e) or '' }
    call('HSET', K .. 'ends', e.id, cmsgpack.pack(record))
    call('ZADD', K .. 'forget', state == 'dead' and '+inf' or text(now + keep), e.id)
  end
end

local function finish(e, state, now, reason, output, unrecorded)
  if e.mark == 'E' then
    call('HDEL', K .. 'ids', e.id)
    call('HDEL', K .. 'state', e.id)
  end
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
