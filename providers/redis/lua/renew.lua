-- Extends exactly the items named; the others of a named claim are ready again.
--
-- KEYS[1]  see head.lua
-- ARGV     1 format, 2 manager, 3 its beat, 4 lease in ms, 5 how many claims; their tokens; for each bits of the items
--          named, or nothing where each is known to have had one item only
-- Answers  nothing if all are held and none cancelled; else for each claim `=` (so of this one), or bits of those held
--          and then as many bytes of bits of those that shall be cancelled
despite_oom()
local meta = call('HMGET', K .. 'meta', 'oldest', 'seen', 'hold')
local refused = refusal(meta[1])
if refused then
  return refused
end
founded(meta[1])
local now, lease = now_ms(), tonumber(ARGV[4])
seen_at(now, lease, meta[2], meta[3])
call('HSET', K .. 'meta', 'seen', now)
call('HSET', K .. 'beats', ARGV[2], ARGV[3])
call('ZADD', K .. 'beats:at', now + lease, ARGV[2])
for _, gone in ipairs(call('ZRANGEBYSCORE', K .. 'beats:at', '-inf', now, 'LIMIT', 0, 100)) do
  call('HDEL', K .. 'beats', gone)
  call('ZREM', K .. 'beats:at', gone)
  call('HDEL', K .. 'meta', 'last:' .. gone)
end

local count = tonumber(ARGV[5])
if count == 0 then
  return {}
end
local cancels = call('HLEN', K .. 'cancel') > 0
local deadline = text(now + lease)
local lone = #ARGV == 5 + count
if lone and not cancels then
  -- A claim of one item is held if it has a lease: its bits need no look.
  local extend = {}
  for i = 1, count do
    extend[2 * i - 1], extend[2 * i] = deadline, ARGV[5 + i]
  end
  if call('ZADD', K .. 'leases', 'XX', 'CH', unpack(extend)) == count then
    return {}
  end
end
local values = call('HMGET', K .. 'claims', unpack(ARGV, 6, 5 + count))
local answers, extend, releases = {}, {}, {}

local function cancel_bits(token, open)
  local bits = {}
  for i = 1, #open do
    local value = 0
    for k = 0, 7 do
      local index = (i - 1) * 8 + k
      if floor(byte(open, i) / 2 ^ k) % 2 == 1 and call('HEXISTS', K .. 'cancel', token .. '/' .. index) == 1 then
        value = value + 2 ^ k
      end
    end
    bits[i] = string.char(value)
  end
  return table.concat(bits)
end

-- What is to be done for a claim of which not simply all is held, or that may be packed anew; the answer for it.
local function look(token, value, named)
  local open = sub(value, HEAD_LEN + 1)
  local same = open == named or open == named .. string.rep('\0', #open - #named)
  local answer = '='
  if not same or cancels then
    local held = {}
    for k = 1, #named do
      held[k] = string.char(bit.band(byte(open, k) or 0, byte(named, k)))
    end
    held = table.concat(held)
    answer = held .. (cancels and cancel_bits(token, held) or string.rep('\0', #held))
  end
  local claim = read_claim(token, value)
  claims[token] = claim
  if not same then
    for index = 0, #open * 8 - 1 do
      local at = floor(index / 8) + 1
      local is_named = floor((byte(named, at) or 0) / 2 ^ (index % 8)) % 2 == 1
      if not is_named and is_open(claim, index) then
        local e = envelope_of(claim, index)
        shut(claim, index)
        if cancels and call('HDEL', K .. 'cancel', token .. '/' .. index) == 1 then
          finish(e, 'cancelled', now, '', '', false)
        else
          releases[#releases + 1] = { e = e, seq = seq_of(token), index = index }
        end
      end
    end
  end
  if not claim.dirty and claim.packed > 8 and popcount(open) * 2 <= claim.packed then
    items_of(claim)
    bytes_of(claim)
    claim.dirty = true
  end
  return answer
end

local extended, all = 0, true
for i = 1, count do
  local token, value, named = ARGV[5 + i], values[i], lone and '\1' or ARGV[5 + count + i]
  if value then
    extend[extended + 1], extend[extended + 2] = deadline, token
    extended = extended + 2
    -- Of a claim of a few jobs there is nothing to be packed anew, and no text need be made to compare it.
    if cancels or #value ~= HEAD_LEN + 1 or #named ~= 1 or byte(value, HEAD_LEN + 1) ~= byte(named) then
      answers[i] = look(token, value, named)
      all = all and answers[i] == '='
    end
  else
    answers[i] = string.rep('\0', 2 * #named)
    all = false
  end
end
if #extend > 0 then
  call('ZADD', K .. 'leases', unpack(extend))
end
release_all(releases)
flush()
if rings then
  call('PUBLISH', K .. 'bell', '')
end
if all then
  return {}
end
for i = 1, count do
  answers[i] = answers[i] or '='
end
return answers
