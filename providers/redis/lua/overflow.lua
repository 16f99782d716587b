-- Moves the tail of a producers' list out of Redis, and back.
--
-- KEYS[1]  see head.lua
-- KEYS[2]  the list (claim, back)
-- ARGV     1 format, 2 what to do, 3 the parcel's token; then for
--          claim    4 lease in ms, 5 at most so many entries, 6 so many bytes (one entry is always allowed), 7 how many
--                   stay in the list
--                   Answers how many were taken, and these, packed; the same again for the same token
--          release  what was claimed goes back to the tail. Answers 1 if it was there
--          settle   4 where it is kept now. Answers 1 if it was claimed until now, or is settled; 0 if the claim is
--                   lost: then it is in the list again
--          back     4 the packed entries: they go to the tail. Answers 1, and 0 if they did before
--          clear    forgets the receipt
despite_oom()
local refused = refusal(call('HGET', K .. 'meta', 'oldest'))
if refused then
  return refused
end
local what, token, list = ARGV[2], ARGV[3], KEYS[2]

-- At most `most` entries of the tail, in their order in the list; what is too much for the bytes goes back.
local function tail(most, bytes)
  local taken, n, used, step = {}, 0, 0, 8
  while n < most do
    local got = call('RPOP', list, math.min(step, most - n)) or {}
    for i = 1, #got do
      used = used + #got[i]
      if used > bytes and n > 0 then
        for k = #got, i, -1 do
          call('RPUSH', list, got[k])
        end
        got = {}
        break
      end
      n = n + 1
      taken[n] = got[i]
    end
    if #got == 0 then
      break
    end
    step = math.max(1, math.min(256, floor((bytes - used) * n / math.max(used, 1)), step * 16))
  end
  local items = {}
  for i = 1, n do
    items[i] = taken[n + 1 - i]
  end
  return items
end

if what == 'claim' then
  local known = call('HGET', K .. 'overflow', token)
  if known then
    return { #cmsgpack.unpack(known), known }
  end
  local most = math.min(tonumber(ARGV[5]), call('LLEN', list) - tonumber(ARGV[7]))
  local items = tail(most, tonumber(ARGV[6]))
  if #items == 0 then
    return { 0, '' }
  end
  founded(call('HGET', K .. 'meta', 'oldest'))
  local packed = cmsgpack.pack(items)
  call('HSET', K .. 'overflow', token, packed, token .. 'l', list)
  call('ZADD', K .. 'leases', now_ms() + tonumber(ARGV[4]), token)
  return { #items, packed }
elseif what == 'release' then
  return put_back(token)
elseif what == 'settle' then
  if drop_overflow(token) then
    call('HSET', K .. 'receipts', token, 'out ' .. ARGV[4])
    return 1
  end
  return call('HEXISTS', K .. 'receipts', token)
elseif what == 'back' then
  if call('HGET', K .. 'receipts', token) == 'back' then
    return 0
  end
  -- A claim is here still where Redis has forgotten that it was settled.
  drop_overflow(token)
  push_tail(list, cmsgpack.unpack(ARGV[4]))
  call('HSET', K .. 'receipts', token, 'back')
  return 1
end
return call('HDEL', K .. 'receipts', token)
