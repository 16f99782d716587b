-- What scripts share that touch claims: envelopes, and claims.

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
-- 1 if one of them is indexed, and 2 more if one has got a unique key in this claim (which ones: the field with a `u`
-- behind the token, in bits). Bit i % 8 of byte i / 8 is set while item i is open.
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

-- A claim's bits as numbers, and numbers as bits; a part at a time, since a call has so many arguments at most.
local PART = 4000
local function bytes_of(claim)
  if not claim.set then
    claim.set = { byte(claim.bits, 1, PART) }
    for i = PART + 1, #claim.bits do
      claim.set[i] = byte(claim.bits, i)
    end
  end
  return claim.set
end

local function bits_of(set)
  local parts = {}
  for from = 1, #set, PART do
    parts[#parts + 1] = string.char(unpack(set, from, math.min(from + PART - 1, #set)))
  end
  return table.concat(parts)
end

local function is_set(value, index)
  return value and floor(value / 2 ^ (index % 8)) % 2 == 1
end

local function is_open(claim, index)
  local at = floor(index / 8) + 1
  return is_set(claim.set and claim.set[at] or byte(claim.bits, at), index)
end

-- Which of a claim's items got a unique key in it, as bits.
local function keyed(claim)
  if claim.indexed < 2 then
    return ''
  end
  claim.keyed = claim.keyed or call('HGET', K .. 'claims', claim.token .. 'u') or ''
  return claim.keyed
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
  local e = index < claim.envelopes and parse(item) or wrap(item or '', claim.token, index, claim.at)
  if is_set(byte(keyed(claim), floor(index / 8) + 1), index) then
    e.mark = 'E'
  end
  return e
end

local function free(token)
  call('HDEL', K .. 'claims', token, token .. 'i', token .. 'u')
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

-- What is open in a claim of which half is settled, packed anew, so that a long job pins only itself; where its items were
-- read anyway. Most claims are settled whole before a renewal would read them for this.
local function repacked(claim)
  local count = claim.items and popcount(claim.bits)
  if not count or count * 2 > claim.packed then
    return nil
  end
  local open, items = {}, claim.items
  for i = 0, #claim.bits * 8 - 1 do
    if is_open(claim, i) then
      open[i + 1] = items[i + 1]
    end
  end
  claim.packed = count
  return cmsgpack.pack(open)
end

-- Writes what has changed of the claims.
local function flush()
  for token, claim in pairs(claims) do
    if claim and claim.dirty then
      local bits = bits_of(claim.set)
      if find(bits, '[^%z]') then
        claim.bits = bits
        write_claim(claim, repacked(claim))
      else
        free(token)
        claims[token] = false
      end
      claim.dirty = false
    end
  end
end
